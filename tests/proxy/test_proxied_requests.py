"""What goes through the proxy is what was sent, to the byte."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from s3pool.model import Credentials, encode_key
from tests.support.fake_s3 import Answer as Refusal
from tests.support.fake_s3 import CutBody, FakeS3, Rewrite
from tests.support.hostile import HOSTILE_KEYS
from tests.support.proxying import (
    GUEST_KEY,
    RunningProxy,
    arrived,
    checking_fake,
    last,
    parse_answer,
    read_to_end,
    signed_request,
    stored,
)

OBJECT = b"0123456789" * 100


def test_object_comes_back_as_it_was_put(fake: FakeS3, proxy: RunningProxy) -> None:
    """The first thing that a proxy is for."""
    put = proxy.ask("PUT", "/b/k", body=OBJECT)
    got = proxy.ask("GET", "/b/k")

    assert (200, 200, OBJECT) == (put.status, got.status, got.body)
    assert OBJECT == stored(fake, "b", "k")


def test_head_has_the_length_and_no_body(proxy: RunningProxy) -> None:
    """A body behind HEAD would be taken for the next answer."""
    answer = proxy.ask("HEAD", "/b/there", close=True)

    assert (200, "1000", b"") == (answer.status, answer.headers["content-length"], answer.rest)


def test_range_passes(proxy: RunningProxy) -> None:
    """A dropped Range would give everything."""
    answer = proxy.ask("GET", "/b/there", headers={"Range": "bytes=5-8"})

    assert (206, b"5678", "bytes 5-8/1000") == (answer.status, answer.body, answer.headers["content-range"])


def test_condition_passes(proxy: RunningProxy) -> None:
    """304 has no body, and the connection goes on."""
    etag = hashlib.md5(OBJECT).hexdigest()
    first = proxy.signed("GET", "/b/there", headers={"If-None-Match": f'"{etag}"'})

    answer = parse_answer(proxy.talk(first, proxy.signed("GET", "/b/there", close=True)))

    assert 304 == answer.status
    assert OBJECT == parse_answer(answer.rest).body


def test_unknown_and_known_headers_reach_the_node(fake: FakeS3, proxy: RunningProxy) -> None:
    """S3 gets new headers every year; only a list of what is dropped can keep up."""
    sent = {
        "x-amz-meta-a": "one  two",
        "x-amz-new-thing": "yes",
        "X-New-Thing": "7",
        "Content-Disposition": 'attachment; filename="ä.txt"',
        "Cache-Control": "no-cache",
        "Content-Language": "de",
        "x-amz-tagging": "k=v",
        "Content-Encoding": "gzip",
        "User-Agent": "test/1",
    }

    answer = proxy.ask("PUT", "/b/k", body=OBJECT, headers=sent)

    received = last(fake).headers
    assert 200 == answer.status
    assert sent == {name: received.get(name.lower()) for name in sent}


def test_nothing_is_added_that_a_node_could_store(fake: FakeS3, proxy: RunningProxy) -> None:
    """Not even an Accept-Encoding or a User-Agent of our own."""
    proxy.ask("PUT", "/b/k", body=OBJECT)

    own = {"host", "x-amz-content-sha256", "x-amz-date", "authorization", "content-length", "via", "x-forwarded-for"}
    assert own == set(last(fake).headers)


def test_hop_by_hop_headers_end_here(fake: FakeS3, proxy: RunningProxy) -> None:
    """They speak of the client's connection."""
    headers = {"Keep-Alive": "5", "TE": "trailers", "Upgrade": "x", "Connection": "x-private", "X-Private": "1"}

    answer = proxy.ask("GET", "/b/there", headers=headers)

    assert 200 == answer.status
    assert set() == {"keep-alive", "te", "upgrade", "connection", "x-private"} & set(last(fake).headers)


@pytest.mark.parametrize("key", HOSTILE_KEYS, ids=range(len(HOSTILE_KEYS)))
def test_hostile_keys_name_their_objects(fake: FakeS3, proxy: RunningProxy, key: str) -> None:
    """A path that is normalised names another object."""
    content = key.encode("utf-8", "surrogateescape")

    put = proxy.ask("PUT", f"/b/{encode_key(key)}", body=content)
    got = proxy.ask("GET", f"/b/{encode_key(key)}")

    assert (200, 200, content) == (put.status, got.status, got.body)
    assert content == stored(fake, "b", key)


def test_query_passes_in_order_and_in_full(fake: FakeS3, proxy: RunningProxy) -> None:
    """An unknown parameter belongs to the node; response-* overrides and blanks survive."""
    target = "/b/there?response-content-type=text%2Fx%20y&x-id=GetObject&zeta&alpha="

    answer = proxy.ask("GET", target)

    assert 200 == answer.status
    assert target == last(fake).target


def test_many_requests_share_a_connection(proxy: RunningProxy) -> None:
    """Pipelined requests are answered one after the other."""
    requests = [proxy.signed("GET", "/b/there") for _ in range(5)]
    requests.append(proxy.signed("GET", "/b/there", close=True))

    rest, bodies = proxy.talk(b"".join(requests)), []
    while rest:
        answer = parse_answer(rest)
        bodies.append(answer.body)
        rest = answer.rest

    assert [OBJECT] * 6 == bodies


def test_chunked_objects_stay_chunked(fake: FakeS3, proxy: RunningProxy) -> None:
    """They may be of any size; a client of HTTP/1.0 gets the end of the connection instead of a length."""
    fake.fault(Rewrite(lambda reply: replace(reply, chunked=True)), op="GetObject", times=0)

    modern = proxy.ask("GET", "/b/there")
    old = proxy.talk(proxy.signed("GET", "/b/there").replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1))

    assert ("chunked", OBJECT) == (modern.headers["transfer-encoding"], modern.body)
    assert b"-length:" not in old.lower()
    assert b"transfer-encoding" not in old.lower()
    assert parse_answer(old).body == modern.body


def test_chunked_listing_gets_its_length(fake: FakeS3, proxy: RunningProxy) -> None:
    """RGW's have none; by the time that one goes out it is known."""
    fake.quirks.chunked = True

    answer = proxy.ask("GET", "/b?list-type=2")

    assert str(len(answer.body)) == answer.headers["content-length"]
    assert "transfer-encoding" not in answer.headers
    assert b"<Key>there</Key>" in answer.body


def test_continue_comes_after_the_signature_held(proxy: RunningProxy) -> None:
    """A client with a large body holds it back until it may enter."""
    request = proxy.signed("PUT", "/b/k", body=OBJECT, headers={"Expect": "100-continue"}, close=True)
    head, _, body = request.partition(b"\r\n\r\n")

    with socket.create_connection(("127.0.0.1", proxy.port), 20) as sock:
        sock.sendall(head + b"\r\n\r\n")
        interim = sock.recv(1000)
        sock.sendall(body)
        final = parse_answer(read_to_end(sock))

    assert b"HTTP/1.1 100 Continue\r\n\r\n" == interim
    assert 200 == final.status


def test_refused_client_is_never_asked_for_its_body(proxy: RunningProxy) -> None:
    """A stranger must not make us read."""
    request = proxy.signed("PUT", "/b/k", body=OBJECT, headers={"Expect": "100-continue"}, now=1.0)

    received = proxy.talk(request.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")

    assert received.startswith(b"HTTP/1.1 403 ")
    assert b"RequestTimeTooSkewed" in received


def test_node_that_judges_is_asked_before_the_body(fake: FakeS3) -> None:
    """Without signatures checked here the node alone knows who may send; only it says continue."""
    with RunningProxy(fake.endpoints, credentials=None, auth="passthrough") as proxy:
        expecting = {"Expect": "100-continue"}
        good = proxy.signed("PUT", "/b/k", body=OBJECT, headers=expecting, close=True).partition(b"\r\n\r\n")
        fake.fault(Refusal(403, "AccessDenied", early=True), op="PutObject")
        refused = proxy.talk(good[0] + good[1])
        with socket.create_connection(("127.0.0.1", proxy.port), 20) as sock:
            sock.sendall(good[0] + good[1])
            interim = sock.recv(1000)
            sock.sendall(good[2])
            final = parse_answer(read_to_end(sock))

    assert refused.startswith(b"HTTP/1.1 403 ")
    assert b"HTTP/1.1 100 Continue\r\n\r\n" == interim
    assert (200, OBJECT) == (final.status, stored(fake, "b", "k"))


@pytest.mark.parametrize(("anonymous", "reached"), [("pass", 1), ("deny", 0)])
def test_browser_may_ask_about_a_signed_url(anonymous: str, reached: int) -> None:
    """A preflight comes with the signature of the request that is to follow, and goes on without it."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, anonymous=anonymous) as proxy:
        target = "/b/k?x-id=GetObject&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0&X-Amz-Credential=c"
        answer = parse_answer(proxy.talk(f"OPTIONS {target} HTTP/1.1\r\nHost: {proxy.host}\r\n\r\n".encode()))
        asked = [request.target for request in fake.requests if request.method == "OPTIONS"]

    assert ["/b/k?x-id=GetObject"] * reached == asked
    assert bool(reached) == (answer.code != "AccessDenied")


@pytest.mark.parametrize(("auth", "status"), [("verify", 417), ("passthrough", 200)])
def test_odd_expectation_is_refused_or_passed_over(fake: FakeS3, auth: str, status: int) -> None:
    """Where the node is the judge, nothing is refused that it would take (RFC 9110, 10.1.1)."""
    with RunningProxy(fake.endpoints, auth=auth) as proxy:
        answer = proxy.ask("PUT", "/b/k", body=OBJECT, headers={"Expect": "200-ok"})

    assert status == answer.status


@pytest.mark.parametrize("date", ["", "Tue, 07 Jul 1950 21:53:04 GMT", "yesterday"])
def test_old_signature_needs_a_date(fake: FakeS3, date: str) -> None:
    """An x-amz-date counts where it stands; a Date beside it does not stand in for it."""
    with RunningProxy(fake.endpoints, sigv2="on") as proxy:
        fields = f"Host: {proxy.host}\r\nAuthorization: AWS k:c2lnbmF0dXJl\r\nDate: {formatdate(usegmt=True)}\r\n"
        answer = parse_answer(proxy.talk(f"GET /b/k HTTP/1.1\r\n{fields}x-amz-date: {date}\r\n\r\n".encode()))

    assert (403, "AccessDenied") == (answer.status, answer.code)


def test_body_in_chunks_gets_a_length(fake: FakeS3, proxy: RunningProxy) -> None:
    """Nodes want a Content-Length; small bodies are read for it."""
    request = proxy.signed("PUT", "/b/k", payload="UNSIGNED-PAYLOAD", close=True)
    request = request.replace(b"content-length: 0\r\n", b"Transfer-Encoding: chunked\r\n")

    answer = parse_answer(proxy.talk(request, b"5\r\nhello\r\n4;x=y\r\n you\r\n0\r\nTrailer: t\r\n\r\n"))

    assert 200 == answer.status
    assert b"hello you" == stored(fake, "b", "k")


def test_each_client_is_its_own_identity_at_the_nodes(fake: FakeS3) -> None:
    """A client with its own key stays who it is; one of the pool's becomes the pool."""
    entries = [
        {"access_key": GUEST_KEY.access_key, "secret_key": GUEST_KEY.secret_key},
        {"access_key": "MAPPED", "secret_key": "mapped-secret", "backend": "pool"},
    ]
    with RunningProxy(fake.endpoints, clients=entries) as proxy:
        proxy.ask("GET", "/b/there", key=GUEST_KEY)
        guest = last(fake).headers["authorization"]
        mapped_answer = proxy.ask("GET", "/b/there", key=Credentials("MAPPED", "mapped-secret"))
        mapped = last(fake).headers["authorization"]

    assert 200 == mapped_answer.status
    assert f"Credential={GUEST_KEY.access_key}/" in guest
    assert f"Credential={proxy.config.credentials.access_key}/" in mapped  # type: ignore[union-attr]


def test_passthrough_changes_neither_signature_nor_host(fake: FakeS3) -> None:
    """The node judges what the client signed."""
    with RunningProxy(fake.endpoints, credentials=None, auth="passthrough") as proxy:
        good = proxy.ask("PUT", "/b/k", body=OBJECT)
        sent = last(fake).headers
        bad = proxy.ask("GET", "/b/k", key=Credentials(GUEST_KEY.access_key, "wrong"))

    assert (200, OBJECT) == (good.status, stored(fake, "b", "k"))
    assert proxy.host == sent["host"]
    assert (403, "SignatureDoesNotMatch") == (bad.status, bad.code)


def test_open_proxy_signs_for_anybody(fake: FakeS3) -> None:
    """On loopback, for tools that cannot sign."""
    with RunningProxy(fake.endpoints, auth="open") as proxy:
        host = f"Host: {proxy.host}\r\nConnection: close\r\n".encode()
        put = proxy.talk(b"PUT /b/k HTTP/1.1\r\n" + host + b"Content-Length: 5\r\n\r\nhello")
        got = parse_answer(proxy.talk(b"GET /b/k HTTP/1.1\r\n" + host + b"\r\n"))

    assert 200 == parse_answer(put).status
    assert b"hello" == got.body


def test_anonymous_passes_unsigned_where_it_may() -> None:
    """A public bucket stays public, and nothing is signed for strangers."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, anonymous="pass") as proxy:
        fake.store.add("b", "there", OBJECT)

        answer = parse_answer(proxy.talk(f"GET /b/there HTTP/1.1\r\nHost: {proxy.host}\r\n\r\n".encode()))

        assert OBJECT == answer.body
        assert "authorization" not in last(fake).headers


def test_virtual_host_becomes_a_path(fake: FakeS3) -> None:
    """The bucket may stand in the Host, for the domains that are ours."""
    with RunningProxy(fake.endpoints, domains=["s3.example.test"]) as proxy:
        answer = parse_answer(proxy.talk(signed_request("GET", "/there", host="b.s3.example.test:80")))

    assert OBJECT == answer.body
    assert "/b/there" == last(fake).target


def test_dead_node_costs_nothing(fake: FakeS3) -> None:
    """One address of a cluster means that a node may be gone."""
    with RunningProxy(["http://127.0.0.1:9", *fake.endpoints[:2]]) as proxy:
        statuses = {proxy.ask("PUT", f"/b/{number}", body=OBJECT).status for number in range(6)}

    assert {200} == statuses
    assert 6 == arrived(fake).count("PutObject")


def test_checking_fake_checks() -> None:
    """The judge of these tests is judged: a wrong secret does not pass it."""
    with checking_fake(1) as fake, RunningProxy(fake.endpoints, auth="passthrough") as proxy:
        fake.store.add("b", "k", b"")

        assert 403 == proxy.ask("GET", "/b/k", key=Credentials("NOBODY", "x")).status


LARGE = bytes(range(256)) * 4096


@pytest.fixture
def warm(fake: FakeS3, tmp_path: Path) -> Iterator[RunningProxy]:
    """Give a proxy that has let the pool's key in before, and nodes that forgot about it."""
    fake.store.add("b", "large", LARGE)
    with RunningProxy(fake.endpoints, access_log=str(tmp_path / "log")) as proxy:
        assert 200 == proxy.ask("GET", "/b/there").status
        fake.forget()
        yield proxy


def test_small_object_that_breaks_off_everywhere_is_an_error(fake: FakeS3, warm: RunningProxy) -> None:
    """Nothing was sent yet, so that the client can be told, and the connection goes on."""
    fake.fault(CutBody(10), op="GetObject", times=3)

    answer = parse_answer(warm.talk(warm.signed("GET", "/b/there"), warm.signed("GET", "/b/there")))

    assert (502, "BadGateway") == (answer.status, answer.code)
    assert b"0123456789" * 100 == parse_answer(answer.rest).body


def test_no_node_at_all_is_an_s3_error() -> None:
    """The nodes went away since the key was seen; the connection stays good for later."""
    with checking_fake(1) as fake:
        fake.store.add("b", "there", b"x")
        with RunningProxy(fake.endpoints) as proxy:
            assert 200 == proxy.ask("GET", "/b/there").status
            fake.nodes[0].kill()

            answer = parse_answer(proxy.talk(proxy.signed("GET", "/b/there"), proxy.signed("GET", "/b/there")))

    assert (503, "ServiceUnavailable") == (answer.status, answer.code)
    assert 503 == parse_answer(answer.rest).status


def test_answers_of_every_kind_follow_each_other(fake: FakeS3, warm: RunningProxy) -> None:
    """On one connection: whole, head alone, missing, a range, not modified, and large."""
    etag = warm.ask("HEAD", "/b/there").headers["etag"]
    requests = [
        warm.signed("GET", "/b/there"),
        warm.signed("HEAD", "/b/there"),
        warm.signed("GET", "/b/missing"),
        warm.signed("GET", "/b/there", headers={"Range": "bytes=5-9"}),
        warm.signed("GET", "/b/there", headers={"If-None-Match": etag}),
        warm.signed("GET", "/b/large"),
    ]

    rest, seen = warm.talk(*requests), []
    for method in ("GET", "HEAD", "GET", "GET", "GET", "GET"):
        answer = parse_answer(rest, method)
        rest = answer.rest
        seen.append((answer.status, answer.headers.get("content-length"), answer.code or answer.body[:5]))

    assert (200, "1000", b"01234") == seen[0]
    assert (200, "1000", b"") == seen[1]
    assert (404, "NoSuchKey") == (seen[2][0], seen[2][2])
    assert (206, "5", b"56789") == seen[3]
    assert (304, b"") == (seen[4][0], seen[4][2])
    assert (200, str(len(LARGE)), b"") == (*seen[5][:2], rest)


def test_node_sees_who_asked(fake: FakeS3, warm: RunningProxy) -> None:
    """What a client says of itself and of others goes on, or not, as ever."""
    fields = {"User-Agent": "Tool/1 (x)", "X-Forwarded-For": "203.0.113.9", "x-amz-checksum-mode": "ENABLED"}

    warm.ask("GET", "/b/there", headers=fields)

    sent = last(fake).headers
    assert ("Tool/1 (x)", "127.0.0.1", "ENABLED") == tuple(
        sent[name] for name in ("user-agent", "x-forwarded-for", "x-amz-checksum-mode")
    )
    assert sent["via"].startswith("1.1 s3pool-")


def test_log_tells_what_was_asked(warm: RunningProxy, tmp_path: Path) -> None:
    """The same line whether a thread served the request or not, but for the times."""
    warm.ask("GET", "/b/there")
    thread, loop = (json.loads(line) for line in (tmp_path / "log").read_text().splitlines())

    own = {"time", "auth_ms", "first_byte_ms", "total_ms", "request_id", "backend_request_id", "endpoint"}
    assert {name: value for name, value in thread.items() if name not in own} == {
        name: value for name, value in loop.items() if name not in own
    }
