"""Whoever changes one byte of a signed request is turned away, and no node hears of it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from s3pool.model import Credentials
from tests.support.chunk_signing import SignedStream, unsigned_stream
from tests.support.fake_s3 import FakeS3
from tests.support.proxying import (
    GUEST_KEY,
    POOL_KEY,
    Answer,
    RunningProxy,
    arrived,
    checking_fake,
    parse_answer,
    presigned_v2,
    signed_whole,
    stored,
)

BODY = b"the content of this object" * 3
QUIET_FIELDS = {b"user-agent", b"accept", b"connection", b"content-length", b"x-plain"}


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[FakeS3, RunningProxy]]:
    """Give a fake that checks nothing itself, and a proxy that has to."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, header_timeout=0.3) as proxy:
        fake.store.add("b", "k", BODY)
        yield fake, proxy


def attempt(place: tuple[FakeS3, RunningProxy], request: bytes) -> tuple[Answer, list[str]]:
    """Send bytes; give the answer and what reached a node because of them."""
    fake, proxy = place
    fake.forget()
    answer = parse_answer(proxy.talk(request))
    return answer, arrived(fake)


def test_flipped_head_bytes_are_denied(place: tuple[FakeS3, RunningProxy]) -> None:
    """Every byte of the request line and the signed fields counts: each one is changed in turn."""
    request = place[1].signed("GET", "/b/k?x-id=GetObject&versionId=null", headers={"x-amz-meta-a": "b"}, close=True)
    head = request.removesuffix(b"connection: close\r\n\r\n")
    assert (200, ["GetObject"]) == (attempt(place, request)[0].status, attempt(place, request)[1])
    passed = []

    for at in range(len(head)):
        changed = head[:at] + bytes([head[at] ^ 1]) + head[at + 1 :] + b"connection: close\r\n\r\n"
        answer, ops = attempt(place, changed)
        if ops or answer.status == 200:
            passed.append((at, changed[max(at - 20, 0) : at + 20]))

    # HTTP/1.0 in place of 1.1 is another version, not another request.
    assert [] == [where for _, where in passed if b"HTTP/1.0" not in where]


@pytest.mark.parametrize("at", range(0, len(BODY), 7))
def test_flipped_body_bytes_reach_no_object(at: int) -> None:
    """The signed hash goes on to the node, which compares it with what arrived."""
    with checking_fake(1) as fake, RunningProxy(fake.endpoints) as proxy:
        fake.store.add("b", "other", b"")
        request = proxy.signed("PUT", "/b/new", body=BODY, close=True)
        start = len(request) - len(BODY) + at

        answer = parse_answer(proxy.talk(request[:start] + bytes([request[start] ^ 1]) + request[start + 1 :]))

        assert (400, "XAmzContentSHA256Mismatch") == (answer.status, answer.code)
        assert stored(fake, "b", "new") is None


def test_flipped_presigned_bytes_are_denied(place: tuple[FakeS3, RunningProxy]) -> None:
    """A URL is good for what it was made for."""
    target = place[1].presigned("GET", "/b/k", (("response-content-type", "text/x"),))
    assert 200 == attempt(place, place[1].unsigned("GET", target))[0].status
    passed = []

    for at in range(1, len(target)):
        changed = target[:at] + chr(ord(target[at]) ^ 1) + target[at + 1 :]
        answer, ops = attempt(place, place[1].unsigned("GET", changed))
        if ops or answer.status == 200:
            passed.append((target[at], changed[max(at - 10, 0) : at + 10]))

    assert [] == passed


def test_url_is_good_for_its_method_only(place: tuple[FakeS3, RunningProxy]) -> None:
    """Who may read may not delete."""
    target = place[1].presigned("GET", "/b/k")

    answer, ops = attempt(place, place[1].unsigned("DELETE", target))

    assert (403, "SignatureDoesNotMatch", []) == (answer.status, answer.code, ops)


@pytest.mark.parametrize("field", ["x-amz-copy-source: /b/k", "x-amz-acl: public-read", "x-amz-meta-a: b"])
def test_unsigned_amz_header_is_denied(place: tuple[FakeS3, RunningProxy], field: str) -> None:
    """Nodes take them unsigned: a presigned PUT would become a copy of any object."""
    target = place[1].presigned("PUT", "/b/new")

    answer, ops = attempt(place, place[1].unsigned("PUT", target, field, body=b"x"))

    assert (403, "AccessDenied", []) == (answer.status, answer.code, ops)


def test_signed_header_cannot_be_taken_away_by_connection(place: tuple[FakeS3, RunningProxy]) -> None:
    """What Connection names is not sent on, and whoever signed the header wants it stored."""
    headers = {"cache-control": "no-store", "host": place[1].host}
    head = signed_whole("PUT", "/b/new", headers=headers)

    sound, _ = attempt(place, head + b"\r\n")
    answer, ops = attempt(place, head + b"Connection: cache-control\r\n\r\n")

    assert (200, 400, []) == (sound.status, answer.status, ops)


@pytest.mark.parametrize("name", ["Content-Type", "Content-MD5"])
def test_field_that_version_2_signs_stands_once(place: tuple[FakeS3, RunningProxy], name: str) -> None:
    """The signature covers one of them, and a browser takes a page's type from the last."""
    md5, kind = ("", "text/plain") if name == "Content-Type" else ("1B2M2Y8AsgTpgAmY7PhCfg==", "")
    target = presigned_v2("/b/new", md5=md5, kind=kind)
    fields = ["Content-Length: 0", f"{name}: {md5 or kind}"]
    sound, _ = attempt(place, place[1].unsigned("PUT", target, *fields))
    answer, ops = attempt(place, place[1].unsigned("PUT", target, *fields, f"{name}: text/html"))

    assert (200, 400, []) == (sound.status, answer.status, ops)


@pytest.mark.parametrize(
    ("signed", "sent"),
    [
        ("partNumber=1&uploadId=u", "partNumber=1%26uploadId%3Du"),
        ("acl&versionId=v", "acl=%26versionId%3Dv"),
        ("acl&versionId=v", "acl%26versionId=v"),
    ],
)
def test_parameters_of_version_2_cannot_become_one(place: tuple[FakeS3, RunningProxy], signed: str, sent: str) -> None:
    """It signs them decoded: the URL of a part became one that overwrites the whole object."""
    target = presigned_v2("/b/new", signs=signed, more=sent)

    answer, ops = attempt(place, place[1].unsigned("PUT", target, body=b"x"))

    assert (403, []) == (answer.status, ops)


def test_version_2_url_may_repeat_what_it_signs(place: tuple[FakeS3, RunningProxy]) -> None:
    """As boto3 adds headers to such URLs; with another value, or without the header, nothing vouches for it."""
    target = presigned_v2("/b/new", kind="text/plain", amz="x-amz-meta-a:b c\n")
    fields = ["Content-Length: 0", "Content-Type: text/plain", "x-amz-meta-a: b c"]

    for added in ("&content-type=text%2Fplain&x-amz-meta-a=b%20c", "&x-amz-meta-a=b+c"):
        sound, _ = attempt(place, place[1].unsigned("PUT", target + added, *fields))
        assert (200, {}) == (sound.status, place[0].requests[-1].query)
    for added in ("&content-type=text%2Fhtml", "&x-amz-meta-b=b", "&x-amz-acl=public-read", "&content-md5=", "&acl="):
        answer, ops = attempt(place, place[1].unsigned("PUT", target + added, *fields))
        assert (403, []) == (answer.status, ops)


@pytest.mark.parametrize("value", ["a%0D%0AX:%201", "a%0A", "%00", "a%7Fb"])
def test_header_of_an_answer_cannot_be_broken(place: tuple[FakeS3, RunningProxy], value: str) -> None:
    """RGW writes it as it stands, so that its answer is malformed and the node looks ill."""
    target = f"/b/k?response-content-type={value}"

    answer, ops = attempt(place, place[1].signed("GET", target, close=True))

    assert (400, "InvalidArgument", []) == (answer.status, answer.code, ops)


@pytest.mark.parametrize("age_s", [-1200, 61], ids=["not yet", "expired"])
def test_url_out_of_its_time_is_denied(place: tuple[FakeS3, RunningProxy], age_s: int) -> None:
    """A minute was asked for, and a minute it is."""
    target = place[1].presigned("GET", "/b/k", now=time.time() - age_s)

    answer, ops = attempt(place, place[1].unsigned("GET", target))

    assert (403, "AccessDenied", []) == (answer.status, answer.code, ops)


@pytest.mark.parametrize("off_s", [-1000, 1000])
def test_skewed_request_is_denied(place: tuple[FakeS3, RunningProxy], off_s: int) -> None:
    """A captured request is worthless after a quarter of an hour."""
    answer, ops = attempt(place, place[1].signed("GET", "/b/k", now=time.time() + off_s))

    assert (403, "RequestTimeTooSkewed", []) == (answer.status, answer.code, ops)


def test_unknown_key_is_denied(place: tuple[FakeS3, RunningProxy]) -> None:
    """A key of another pool, for example."""
    answer, ops = attempt(place, place[1].signed("GET", "/b/k", key=GUEST_KEY))

    assert (403, "InvalidAccessKeyId", []) == (answer.status, answer.code, ops)


def test_session_token_is_denied(place: tuple[FakeS3, RunningProxy]) -> None:
    """Its secret is held by an STS that nobody here knows."""
    key = Credentials(POOL_KEY.access_key, POOL_KEY.secret_key, "token")

    answer, ops = attempt(place, place[1].signed("GET", "/b/k", key=key))

    assert (403, "InvalidToken", []) == (answer.status, answer.code, ops)


def test_anonymous_is_denied(place: tuple[FakeS3, RunningProxy]) -> None:
    """Unless it was asked for."""
    answer, ops = attempt(place, place[1].unsigned("GET", "/b/k"))

    assert (403, "AccessDenied", []) == (answer.status, answer.code, ops)


def test_two_signatures_are_denied(place: tuple[FakeS3, RunningProxy]) -> None:
    """Which of the two would count?"""
    target = place[1].presigned("GET", "/b/k")

    answer, ops = attempt(place, place[1].signed("GET", target))

    assert (400, []) == (answer.status, ops)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (rb"SignedHeaders=host;", b"SignedHeaders="),
        (rb"/s3/aws4_request", b"/iam/aws4_request"),
        (rb"SignedHeaders=([^,]*)", rb"SignedHeaders=\1;x-amz-missing"),
        (rb"SignedHeaders=([^,]*)", rb"SignedHeaders=\1;host"),
        (rb"Signature=([0-9a-f]*)", rb"Signature=\1, Signature=\1"),
        (rb"Signature=([0-9a-f]*)", rb"Signature="),
        (rb"AWS4-HMAC-SHA256 ", b"AWS4-ECDSA-P256-SHA256 "),
        (rb"AWS4-HMAC-SHA256 ", b"Bearer "),
        (rb"authorization: ", b"x-amz-extra: 1\r\nauthorization: "),
        (rb"authorization: (.*)\r\n", rb"authorization: \1\r\nauthorization: \1\r\n"),
        (rb"x-amz-content-sha256: (.*)\r\n", rb"x-amz-content-sha256: \1\r\nx-amz-content-sha256: \1\r\n"),
        (rb"x-amz-date: (.*)\r\n", b""),
    ],
)
def test_crooked_authorization_is_denied(place: tuple[FakeS3, RunningProxy], before: bytes, after: bytes) -> None:
    """Neither missing nor doubled nor foreign parts are guessed around."""
    request = place[1].signed("GET", "/b/k", close=True)
    changed = re.sub(before, after, request)
    assert changed != request

    answer, ops = attempt(place, changed)

    assert answer.status in (400, 403, 501)
    assert [] == ops


@pytest.mark.parametrize(
    "target",
    ["/minio/health/live", "/admin/user", "/swift/v1", "/auth/1", "/-/x", "/Admin/x", "/%61dmin/user", "//admin/x"],
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_administration_is_out_of_reach(place: tuple[FakeS3, RunningProxy], method: str, target: str) -> None:
    """The pool's key may be an administrator's."""
    answer, ops = attempt(place, place[1].signed(method, target, close=True))

    assert answer.status in (400, 403)
    assert [] == ops


@pytest.mark.parametrize("target", ["/?Action=ListUsers", "/?usage"])
def test_queries_for_administrators_are_refused(place: tuple[FakeS3, RunningProxy], target: str) -> None:
    """RGW answers IAM and usage at the same address as the list of buckets."""
    answer, ops = attempt(place, place[1].signed("GET", target, close=True))

    assert (405, []) == (answer.status, ops)


def test_hidden_slash_does_not_change_the_bucket() -> None:
    """The bucket that is checked is the one that the node will see."""
    entry = {"access_key": GUEST_KEY.access_key, "secret_key": GUEST_KEY.secret_key, "buckets": ["a*"]}
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, clients=[entry]) as proxy:
        fake.store.add("abc", "k", b"mine")
        fake.store.add("b", "k", b"other")

        assert 200 == proxy.ask("GET", "/abc/k", key=GUEST_KEY).status
        for target in ("/b/k", "/b%2Fk", "/%62/k", "/abc/../b/k/", "/abc%2F..%2Fb/k", "/"):
            answer = proxy.ask("GET", target, key=GUEST_KEY)
            assert answer.status in (400, 403, 404), target
            assert b"other" not in answer.body


def test_client_copies_only_from_its_own_buckets() -> None:
    """The source of a copy is read, too."""
    entry = {"access_key": GUEST_KEY.access_key, "secret_key": GUEST_KEY.secret_key, "buckets": ["a*"]}
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, clients=[entry]) as proxy:
        fake.store.add("abc", "k", b"mine")
        fake.store.add("b", "k", b"other")
        statuses = {
            source: proxy.ask("PUT", "/abc/new", key=GUEST_KEY, headers={"x-amz-copy-source": source}).status
            for source in ("abc/k", "b/k", "/b/k", "%62/k", "//b/k", "b%2Fk")
        }

    assert {"abc/k": 200, "b/k": 403, "/b/k": 403, "%62/k": 403, "//b/k": 400, "b%2Fk": 403} == statuses


def test_reader_writes_nothing() -> None:
    """A key that may only read."""
    entry = {"access_key": GUEST_KEY.access_key, "secret_key": GUEST_KEY.secret_key, "read_only": True}
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, clients=[entry]) as proxy:
        fake.store.add("b", "k", b"x")
        requests = [("PUT", "/b/n"), ("DELETE", "/b/k"), ("POST", "/b/k?uploads"), ("POST", "/b?delete"), ("PUT", "/n")]

        statuses = {proxy.ask(method, target, key=GUEST_KEY).status for method, target in requests}
        read = proxy.ask("GET", "/b/k", key=GUEST_KEY).status

    assert ({403}, 200) == (statuses, read)


@pytest.mark.parametrize("has_trailer", [False, True])
def test_flipped_bytes_of_a_signed_stream_are_denied(has_trailer: bool) -> None:
    """Chunk lines, data, trailer: every byte of the framed body counts."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints) as proxy:
        fake.store.add("b", "k", b"")
        stream = SignedStream(proxy.host, "/b/new", BODY, chunk=40, has_trailer=has_trailer)
        head, framed = stream.request()
        passed = []

        for at in range(len(framed)):
            proxy.talk(head + framed[:at] + bytes([framed[at] ^ 1]) + framed[at + 1 :])
            if stored(fake, "b", "new") is not None:
                passed.append((at, framed[max(at - 10, 0) : at + 10]))
                fake.store.bucket("b").remove("new", "null")
        proxy.talk(head + framed)

        assert [] == passed
        assert BODY == stored(fake, "b", "new")


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (0, 0, 1, 2), (0, 2), (0, 1), (0, 1, 1, 2)])
def test_chunks_out_of_order_are_denied(order: tuple[int, ...]) -> None:
    """Each signature goes on from the one before."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints) as proxy:
        fake.store.add("b", "k", b"")
        stream = SignedStream(proxy.host, "/b/new", BODY, chunk=40)
        chunks = stream.chunks()
        assert 3 == len(chunks)

        proxy.talk(stream.head_for(sum(len(chunks[n]) for n in order)) + b"".join(chunks[n] for n in order))

        assert stored(fake, "b", "new") is None


@pytest.mark.parametrize("cut", [1, 2, 5, 40, 80])
def test_stream_without_its_end_is_not_stored(cut: int) -> None:
    """All data is there, but nothing says that it is all."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints) as proxy:
        fake.store.add("b", "k", b"")
        head, framed = SignedStream(proxy.host, "/b/new", BODY, chunk=40).request()

        proxy.talk(head + framed[:-cut])

        assert stored(fake, "b", "new") is None


@pytest.mark.parametrize("algorithm", ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"])
def test_unsigned_stream_is_held_to_its_checksum(algorithm: str) -> None:
    """It is the only protection that this form has."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints) as proxy:
        fake.store.add("b", "k", b"")
        head, framed = unsigned_stream(proxy.host, "/b/new", BODY, algorithm=algorithm)
        at = framed.index(BODY) + 5

        bad = parse_answer(proxy.talk(head + framed[:at] + bytes([framed[at] ^ 1]) + framed[at + 1 :]))
        after_bad = stored(fake, "b", "new")
        good = parse_answer(proxy.talk(head + framed))

        assert (400, "BadDigest", None) == (bad.status, bad.code, after_bad)
        assert (200, BODY) == (good.status, stored(fake, "b", "new"))
        kept = fake.store.bucket("b").current("new")
        assert kept is not None
        assert f"x-amz-checksum-{algorithm}" in kept.headers
        assert "content-encoding" not in kept.headers
