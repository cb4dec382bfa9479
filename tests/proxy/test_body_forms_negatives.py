"""Every form in which a body can come, with one thing changed at a time: nothing wrong is stored."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.chunk_signing import SignedStream, unsigned_stream
from tests.support.fake_s3 import FakeS3
from tests.support.proxying import (
    POOL_KEY,
    RunningProxy,
    arrived,
    checking_fake,
    parse_answer,
    presigned_v2,
    stored,
)

BODY = b"the content of this object" * 3
STEP = 3  # of the bytes of a head every third is changed: each field and parameter is met many times
UNSIGNED_LINES = (b"content-length", b"connection", b"content-encoding", b"x-plain")

Place = tuple[FakeS3, RunningProxy]
Make = Callable[[RunningProxy], tuple[bytes, bytes]]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """Give a fake that checks every signature and hash, as real nodes do, and a proxy before it."""
    with checking_fake(1) as fake, RunningProxy(fake.endpoints, header_timeout=0.5, sigv2="on") as proxy:
        fake.store.add("b", "k", b"")
        yield fake, proxy


def split(request: bytes) -> tuple[bytes, bytes]:
    """Give head and body."""
    head, mark, body = request.partition(b"\r\n\r\n")
    return head + mark, body


def plain_hash(proxy: RunningProxy) -> tuple[bytes, bytes]:
    """A body whose hash is signed."""
    return split(proxy.signed("PUT", "/b/new?x-id=PutObject", body=BODY, close=True, headers={"x-amz-meta-a": "b"}))


def unsigned(proxy: RunningProxy) -> tuple[bytes, bytes]:
    """A body that is not covered by the signature."""
    headers = {"x-amz-meta-a": "b"}
    return split(proxy.signed("PUT", "/b/new", body=BODY, payload="UNSIGNED-PAYLOAD", close=True, headers=headers))


def signed_chunks(proxy: RunningProxy) -> tuple[bytes, bytes]:
    """Chunks with signatures."""
    return SignedStream(proxy.host, "/b/new", BODY, chunk=40).request()


def signed_chunks_and_trailer(proxy: RunningProxy) -> tuple[bytes, bytes]:
    """Chunks with signatures and a signed trailer."""
    return SignedStream(proxy.host, "/b/new", BODY, chunk=40, has_trailer=True).request()


def checked_chunks(proxy: RunningProxy) -> tuple[bytes, bytes]:
    """Chunks without signatures and a trailer."""
    return unsigned_stream(proxy.host, "/b/new", BODY)


def checked_chunks_in_chunks(proxy: RunningProxy) -> tuple[bytes, bytes]:
    """The same inside HTTP's own chunks, as SDKs send it over HTTPS."""
    head, framed = unsigned_stream(proxy.host, "/b/new", BODY)
    head = head.replace(b"content-length: %d\r\n" % len(framed), b"transfer-encoding: chunked\r\n")
    return head, b"%x\r\n%b\r\n0\r\n\r\n" % (len(framed), framed)


def presigned(proxy: RunningProxy) -> tuple[bytes, bytes]:
    """A URL of Version 4."""
    return unsigned_head(proxy, proxy.presigned("PUT", "/b/new", (("x-id", "PutObject"),))), BODY


def url_v2(proxy: RunningProxy) -> tuple[bytes, bytes]:
    """A URL of Version 2."""
    return unsigned_head(proxy, presigned_v2("/b/new")), BODY


def header_v2(proxy: RunningProxy) -> tuple[bytes, bytes]:
    """An Authorization field of Version 2."""
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    text = f"PUT\n\n\n\nx-amz-date:{date}\nx-amz-meta-a:b\n/b/new"
    signature = base64.b64encode(hmac.new(POOL_KEY.secret_key.encode(), text.encode(), hashlib.sha1).digest()).decode()
    fields = f"x-amz-date: {date}\r\nx-amz-meta-a: b\r\nauthorization: AWS {POOL_KEY.access_key}:{signature}\r\n"
    head = unsigned_head(proxy, "/b/new")
    return head.replace(b"connection", fields.encode() + b"connection"), BODY


def unsigned_head(proxy: RunningProxy, target: str) -> bytes:
    """Give a head without an Authorization field."""
    lines = [f"PUT {target} HTTP/1.1", f"host: {proxy.host}", "connection: close", f"content-length: {len(BODY)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


FORMS: list[Make] = [
    plain_hash,
    unsigned,
    signed_chunks,
    signed_chunks_and_trailer,
    checked_chunks,
    checked_chunks_in_chunks,
    presigned,
    url_v2,
    header_v2,
]
COVERED_BODIES: list[Make] = [
    plain_hash,
    signed_chunks,
    signed_chunks_and_trailer,
    checked_chunks,
    checked_chunks_in_chunks,
]
CHUNKED_BODIES = COVERED_BODIES[1:]
# Version 2 does not sign Host; a changed one still names this proxy, and the same object.
V2_UNSIGNED = (b"host",)


def put(place: Place, request: bytes) -> tuple[int, bytes | None, list[str]]:
    """Send bytes; give the status, what is stored of it, and what reached the node."""
    fake, proxy = place
    fake.forget()
    status = parse_answer(proxy.talk(request)).status
    kept = stored(fake, "b", "new")
    if kept is not None:
        fake.store.bucket("b").versions.pop("new", None)
    return status, kept, arrived(fake)


@pytest.mark.parametrize("make", FORMS)
def test_every_form_is_stored_as_it_was_meant(place: Place, make: Make) -> None:
    """What the other tests change is good before."""
    head, body = make(place[1])

    assert (200, BODY, ["PutObject"]) == put(place, head + body)


@pytest.mark.parametrize("make", FORMS)
def test_changed_heads_reach_no_node(place: Place, make: Make) -> None:
    """Method, path, parameters, every signed field and the signature itself."""
    head, body = make(place[1])
    is_v2 = make in (url_v2, header_v2)
    passed = []

    for at in iter_covered(head, (*UNSIGNED_LINES, *(V2_UNSIGNED if is_v2 else ()))):
        changed = head[:at] + bytes([head[at] ^ 1]) + head[at + 1 :]
        status, kept, ops = put(place, changed + body)
        if (ops or kept is not None or status == 200) and b" HTTP/1.0\r\n" not in changed:
            passed.append((at, changed[max(at - 20, 0) : at + 20]))

    assert [] == passed


def iter_covered(head: bytes, left_out: tuple[bytes, ...]) -> Iterator[int]:
    """Yield positions in lines that a signature covers, their ends left out."""
    at = 0
    for line in head.split(b"\r\n"):
        if not line.lower().startswith(left_out):
            yield from range(at, at + len(line), STEP)
        at += len(line) + 2


@pytest.mark.parametrize("make", COVERED_BODIES)
def test_changed_bodies_are_not_stored(place: Place, make: Make) -> None:
    """Content, sizes, signatures, trailers: each byte of what is sent is changed in turn."""
    head, body = make(place[1])
    passed = []

    for at in range(len(body)):
        _, kept, _ = put(place, head + body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])
        # An extension of HTTP's chunked coding, or the case of a digit, changes nothing; nor may it.
        if kept is not None and kept != BODY:
            passed.append((at, body[max(at - 10, 0) : at + 10]))

    assert [] == passed


@pytest.mark.parametrize("make", FORMS)
@pytest.mark.parametrize("cut", [1, 3, 30])
def test_short_bodies_are_not_stored(place: Place, make: Make, cut: int) -> None:
    """The connection ends, and what came is not the whole."""
    head, body = make(place[1])

    _, kept, _ = put(place, head + body[:-cut])

    assert kept is None


@pytest.mark.parametrize("make", CHUNKED_BODIES)
def test_body_without_its_last_chunk_is_not_stored(place: Place, make: Make) -> None:
    """All the content is there, and the length of what is sent is right; only the end is missing."""
    head, body = make(place[1])
    end = body.index(b"\r\n0") + 2
    shorter = head.replace(b"content-length: %d\r\n" % len(body), b"content-length: %d\r\n" % end)

    _, kept, _ = put(place, shorter + body[:end])

    assert kept is None


@pytest.mark.parametrize("make", CHUNKED_BODIES)
def test_missing_body_is_not_an_empty_one(place: Place, make: Make) -> None:
    """Nobody signed how many bytes are sent; the content's own length was signed."""
    head, body = make(place[1])
    empty = head.replace(b"content-length: %d\r\n" % len(body), b"content-length: 0\r\n")

    status, kept, ops = put(place, empty.replace(b"transfer-encoding: chunked\r\n", b""))

    assert (400, None, []) == (status, kept, ops)


@pytest.mark.parametrize("make", FORMS)
@pytest.mark.parametrize("field", [b"x-amz-copy-source: /b/k", b"x-amz-acl: public-read", b"x-amz-tagging: a=b"])
def test_extra_fields_reach_no_node(place: Place, make: Make, field: bytes) -> None:
    """They would come out signed."""
    head, body = make(place[1])

    status, kept, ops = put(place, head.replace(b"\r\nhost", b"\r\n" + field + b"\r\nhost") + body)

    assert (403, None, []) == (status, kept, ops)


@pytest.mark.parametrize("make", FORMS)
def test_field_that_is_there_twice_reaches_no_node(place: Place, make: Make) -> None:
    """The second one was not signed, or makes another value of both."""
    head, body = make(place[1])
    line = next((line for line in head.split(b"\r\n") if line.startswith(b"x-amz-")), b"x-amz-acl: private")

    _, kept, ops = put(place, head.replace(b"\r\nhost", b"\r\n" + line + b"\r\nhost") + body)

    assert (None, []) == (kept, ops)
