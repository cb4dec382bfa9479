"""The checksum that a client sends behind its body reaches the node, however large the body is."""

from __future__ import annotations

import base64
import os
import re
import threading
from collections.abc import Iterator

import pytest

from tests.support.chunk_signing import SignedStream, checksum, unsigned_stream
from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, FakeS3, Quirks
from tests.support.proxying import GUEST_KEY, RunningProxy, arrived, last, parse_answer, stored

CONTENT = os.urandom(2_500_000)  # more than the proxies here keep for a second try
SECRETS = {ACCESS_KEY: SECRET_KEY, GUEST_KEY.access_key: GUEST_KEY.secret_key}
FRAMED = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
ALGORITHMS = ["crc32", "sha256", "sha512", "md5", "xxhash64", "xxhash3", "xxhash128"]


@pytest.fixture(params=["", "MinIO", "VERSITYGW"])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[FakeS3, RunningProxy]]:
    """Give a proxy that keeps little, before nodes that know trailers and say who they are, or neither."""
    quirks = Quirks(server=request.param, trailers=bool(request.param))
    with FakeS3(2, quirks=quirks, secrets=SECRETS) as fake, RunningProxy(fake.endpoints, replay_buffer=1000) as proxy:
        fake.store.add("b", "k", b"")
        yield fake, proxy


def in_chunks(head: bytes, framed: bytes) -> bytes:
    """Put a framed body into HTTP's own chunks, as SDKs do over HTTPS."""
    head = re.sub(rb"\r\ncontent-length: [0-9]+", b"\r\ntransfer-encoding: chunked", head)
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(framed), framed)


@pytest.mark.parametrize("is_known", [False, True])
def test_large_body_arrives_with_its_checksum(place: tuple[FakeS3, RunningProxy], is_known: bool) -> None:
    """As a trailer where the nodes are known to take one, else as a header after all was read."""
    fake, proxy = place
    if is_known:
        proxy.ask("GET", "/b?uploads")  # an answer that tells who the nodes are

    answer = parse_answer(proxy.talk(in_chunks(*unsigned_stream(proxy.host, "/b/new", CONTENT))))

    headers = last(fake).headers
    assert (200, CONTENT) == (answer.status, stored(fake, "b", "new"))
    assert checksum("crc32", CONTENT) == headers["x-amz-checksum-crc32"]  # the fake moves a trailer there
    assert "CRC32" == headers["x-amz-sdk-checksum-algorithm"]
    takes_trailers = is_known and fake.quirks.trailers
    assert (FRAMED if takes_trailers else "UNSIGNED-PAYLOAD") == headers["x-amz-content-sha256"]
    loader = proxy.proxy.opened.gateway.loader
    assert (0, 0) == (loader.budget.used, loader.disk.used)


def test_signed_chunks_arrive_with_their_checksum(place: tuple[FakeS3, RunningProxy]) -> None:
    """The signatures end here; the checksum does not."""
    fake, proxy = place
    proxy.ask("GET", "/b?uploads")

    answer = parse_answer(
        proxy.talk(b"".join(SignedStream(proxy.host, "/b/new", CONTENT, chunk=65536, has_trailer=True).request()))
    )

    assert (200, CONTENT) == (answer.status, stored(fake, "b", "new"))
    assert checksum("crc32", CONTENT) == last(fake).headers["x-amz-checksum-crc32"]


def test_large_body_with_a_wrong_checksum_is_not_stored(place: tuple[FakeS3, RunningProxy]) -> None:
    """It is compared here too: old nodes look at none."""
    fake, proxy = place
    proxy.ask("GET", "/b?uploads")
    head, framed = unsigned_stream(proxy.host, "/b/new", CONTENT)
    at = framed.index(CONTENT) + 7

    answer = parse_answer(proxy.talk(in_chunks(head, framed[:at] + bytes([framed[at] ^ 1]) + framed[at + 1 :])))

    assert stored(fake, "b", "new") is None
    assert (400, "BadDigest") == (answer.status, answer.code)


@pytest.mark.parametrize("memory", [0, 5 << 20])
def test_many_uploads_at_once_all_arrive_with_their_checksums(memory: int) -> None:
    """When the memory for second tries is used up, nothing is left out either."""
    with FakeS3(2, secrets=SECRETS) as fake, RunningProxy(fake.endpoints, replay_memory=memory) as proxy:
        fake.store.add("b", "k", b"")

        def put(number: int) -> None:
            proxy.talk(in_chunks(*unsigned_stream(proxy.host, f"/b/{number}", CONTENT)))

        threads = [threading.Thread(target=put, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        puts = [request for request in fake.requests if request.op == "PutObject"]
        assert [checksum("crc32", CONTENT)] * 6 == [request.headers["x-amz-checksum-crc32"] for request in puts]
        assert {CONTENT} == {stored(fake, "b", str(number)) for number in range(6)}


@pytest.mark.parametrize(("used", "expected"), [(0, (400, "EntityTooLarge")), (3 << 20, (503, "SlowDown"))])
def test_body_without_room_is_refused(used: int, expected: tuple[int, str]) -> None:
    """One that never fits for good, one that does not fit now for a while; neither goes without its checksum."""
    limit = (4 << 20) if used else (1 << 20)
    with (
        FakeS3(1, secrets=SECRETS) as fake,
        RunningProxy(fake.endpoints, replay_buffer=1000, spool_limit=limit) as proxy,
    ):
        fake.store.add("b", "k", b"")
        proxy.proxy.opened.gateway.loader.disk.take(used)
        fake.forget()

        answer = parse_answer(proxy.talk(in_chunks(*unsigned_stream(proxy.host, "/b/new", CONTENT))))

        assert expected == (answer.status, answer.code)
        assert (503 == answer.status) == ("retry-after" in answer.headers)
        assert [] == arrived(fake)


def digest(algorithm: str, content: bytes) -> str:
    """Return S3's text for a checksum; of the newest, which only nodes compare, any value."""
    sizes = {"xxhash64": 8, "xxhash3": 8, "xxhash128": 16}
    if algorithm in sizes:
        return base64.b64encode(content[: sizes[algorithm]]).decode()
    return checksum(algorithm, content)


@pytest.mark.parametrize("size", [900, len(CONTENT)])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_checksum_of_s3_passes(place: tuple[FakeS3, RunningProxy], algorithm: str, size: int) -> None:
    """Which of them a node knows is the node's business."""
    fake, proxy = place
    proxy.ask("GET", "/b?uploads")
    content = CONTENT[:size]
    expected = digest(algorithm, content)

    answer = parse_answer(
        proxy.talk(in_chunks(*unsigned_stream(proxy.host, "/b/new", content, algorithm=algorithm, value=expected)))
    )

    assert (200, content) == (answer.status, stored(fake, "b", "new"))
    assert expected == last(fake).headers[f"x-amz-checksum-{algorithm}"]


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b"x-amz-checksum-crc32:", b"x-amz-checksum-sha1:", "MalformedTrailerError"),
        (b"x-amz-checksum-crc32:", b"x-amz-checksum-crc32 ", "MalformedTrailerError"),
        (b"x-amz-checksum-crc32:", b"x-amz-checksum-crc32:AA", "InvalidRequest"),
    ],
)
@pytest.mark.parametrize("size", [50, len(CONTENT)])
def test_bad_trailers_have_the_codes_of_aws(
    place: tuple[FakeS3, RunningProxy], old: bytes, new: bytes, code: str, size: int
) -> None:
    """Clients tell by them what to mend."""
    fake, proxy = place
    head, framed = unsigned_stream(proxy.host, "/b/new", CONTENT[:size])
    at = framed.rindex(old)

    answer = parse_answer(proxy.talk(in_chunks(head, framed[:at] + framed[at:].replace(old, new))))

    assert (400, code, None) == (answer.status, answer.code, stored(fake, "b", "new"))


def test_unknown_trailer_is_refused(place: tuple[FakeS3, RunningProxy]) -> None:
    """In AWS's words."""
    fake, proxy = place

    answer = parse_answer(
        proxy.talk(in_chunks(*unsigned_stream(proxy.host, "/b/new", b"x", algorithm="crc16", value="AAA=")))
    )

    assert (400, "InvalidRequest", None) == (answer.status, answer.code, stored(fake, "b", "new"))
