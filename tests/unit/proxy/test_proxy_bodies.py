"""Bodies: read from their framing, framed anew, kept for a second try, and read whole before they are sent."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from s3pool.body import BytesBody, FileSlice
from s3pool.proxy.auth import Seed
from s3pool.proxy.bodies import MEMORY_BYTES, BodyLoader, RequestBody
from s3pool.proxy.errors import S3ErrorResponse
from s3pool.proxy.framing import (
    OWN_CHUNK_BYTES,
    AwsChunkedReader,
    RechunkedBody,
    checksum_for,
    rechunked_length,
)
from s3pool.proxy.settings import ProxySettings
from s3pool.s3.signing import derive_key
from tests.support.chunk_signing import checksum

# The example of Amazon S3's documentation: 65 KiB and a KiB of "a" in signed chunks of 64 KiB.
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SEED = Seed(
    derive_key(SECRET, "20130524", region="us-east-1", service="s3"),
    "20130524T000000Z",
    "20130524/us-east-1/s3/aws4_request",
    "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
)
FRAMED = (
    b"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n"
    + b"a" * 65536
    + b"\r\n400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n"
    + b"a" * 1024
    + b"\r\n0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n"
)
CONTENT = b"a" * 66560


def read_all(reader: AwsChunkedReader, step: int = 10_000) -> bytes:
    """Read to the end."""
    buffer, content = memoryview(bytearray(step)), b""
    while count := reader.readinto(buffer):
        content += bytes(buffer[:count])
    return content


def drain(reader: AwsChunkedReader, given: list[int]) -> None:
    """Read to the end, and note how much came each time."""
    buffer = memoryview(bytearray(1000))
    while count := reader.readinto(buffer):
        given.append(count)


def source(framed: bytes, step: int = 1000) -> object:
    """Give a readinto that hands out little at a time."""
    stream = io.BytesIO(framed)
    return lambda view: stream.readinto(view[:step])


@pytest.mark.parametrize("step", [1, 7, 1000, 1 << 20])
def test_published_example_is_read(step: int) -> None:
    """Whatever the pieces in which it arrives."""
    reader = AwsChunkedReader(source(FRAMED, step), length=66560, seed=SEED, is_signed=True)  # type: ignore[arg-type]

    assert CONTENT == read_all(reader)
    assert reader.is_done


def test_last_byte_waits_for_the_last_signature() -> None:
    """With it a node would have the whole object, and store it."""
    broken = FRAMED[:-6] + b"00\r\n\r\n"
    reader = AwsChunkedReader(source(broken), length=66560, seed=SEED, is_signed=True)  # type: ignore[arg-type]
    given: list[int] = []

    with pytest.raises(S3ErrorResponse):
        drain(reader, given)

    assert sum(given) < 66560


@pytest.mark.parametrize("length", [66559, 66561, 0])
def test_length_must_be_the_one_that_was_announced(length: int) -> None:
    """The node was told the other one already."""
    reader = AwsChunkedReader(source(FRAMED), length=length, seed=SEED, is_signed=True)  # type: ignore[arg-type]

    with pytest.raises(S3ErrorResponse):
        read_all(reader)


@pytest.mark.parametrize("end", [b"\n\r\n", b"\r\n\r\n", b"\n\n"])
def test_trailers_end_as_clients_end_them(end: bytes) -> None:
    """Some write LF, some CR LF."""
    framed = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==" + end
    reader = AwsChunkedReader(source(framed), length=5, seed=None, trailer="x-amz-checksum-crc32")  # type: ignore[arg-type]

    assert (b"hello", "NhCmhg==") == (read_all(reader), reader.checksum)


@pytest.mark.parametrize(
    "tail",
    [
        b"0\r\n\r\n",
        b"0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n",
        b"0\r\nx-amz-checksum-sha1:NhCmhg==\r\n\r\n",
        b"0\r\nx-amz-checksum-crc32:NhCmhg==\r\nx-amz-meta-a:b\r\n\r\n",
        b"0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\nmore",
        b"0\r\nx-amz-checksum-crc32:NhCmhg==\r\n",
        b"",
    ],
)
def test_trailer_must_be_the_one_that_was_announced(tail: bytes) -> None:
    """Missing, wrong, another, one more, something behind, cut."""
    reader = AwsChunkedReader(
        source(b"5\r\nhello\r\n" + tail),  # type: ignore[arg-type]
        length=5,
        seed=None,
        trailer="x-amz-checksum-crc32",
    )

    with pytest.raises(S3ErrorResponse):
        read_all(reader)


@pytest.mark.parametrize("header", ["x-amz-checksum-crc16", "x-amz-meta-a", "sha256", "x-amz-checksum-crc32,b"])
def test_unknown_checksum_is_refused(header: str) -> None:
    """What cannot be verified must not look verified."""
    with pytest.raises(S3ErrorResponse):
        checksum_for(header)


TRAILERS = ["", "crc32", "crc32c", "crc64nvme", "sha1", "sha256"]


def framed(content: bytes, algorithm: str) -> tuple[bytes, int]:
    """Frame a content that came in one chunk; give the bytes and the announced length."""
    name = f"x-amz-checksum-{algorithm}" if algorithm else ""
    line = f"{name}:{checksum(algorithm, content)}\r\n" if algorithm else ""
    head = b"%x\r\n" % len(content) + content + b"\r\n" if content else b""
    source = io.BytesIO(head + b"0\r\n" + line.encode() + b"\r\n")
    reader = AwsChunkedReader(source.readinto, length=len(content), seed=None, trailer=name)  # type: ignore[arg-type]
    reframed = RechunkedBody(reader, length=len(content), trailer=name)
    buffer, result = memoryview(bytearray(70_000)), b""
    while count := reframed.readinto(buffer):
        result += bytes(buffer[:count])
    return result, reframed.length


@pytest.mark.parametrize("algorithm", TRAILERS)
@pytest.mark.parametrize("size", [0, 1, 1000])
def test_length_is_the_one_that_was_announced(algorithm: str, size: int) -> None:
    """It stands in the request's head, before a byte of the body is known."""
    result, announced = framed(b"a" * size, algorithm)

    assert announced == len(result)


@pytest.mark.parametrize("size", [OWN_CHUNK_BYTES - 1, OWN_CHUNK_BYTES, OWN_CHUNK_BYTES + 1, 2 * OWN_CHUNK_BYTES + 5])
def test_large_content_goes_in_chunks(size: int) -> None:
    """Each with its size, and the trailer behind all."""
    content = bytes(size)

    result, announced = framed(content, "crc32")

    assert announced == len(result) == rechunked_length(size, "x-amz-checksum-crc32")
    assert (size, -(-size // OWN_CHUNK_BYTES)) == (result.count(0), result.count(b"\0\r\n"))
    assert result.endswith(f"0\r\nx-amz-checksum-crc32:{checksum('crc32', content)}\r\n\r\n".encode())


def loader(memory: int = 8 << 20, disk: int = 8 << 20, directory: str = "") -> BodyLoader:
    """Give a loader with so much room."""
    return BodyLoader(ProxySettings(replay_memory=memory, spool_limit=disk, spool_dir=directory))


def collected(bodies: BodyLoader, content: bytes, limit: int | None = None) -> RequestBody:
    """Read a body of unknown length."""
    return bodies.collected(io.BytesIO(content).readinto, None, limit=limit)  # type: ignore[arg-type]


@pytest.mark.parametrize("memory", [0, 8 << 20])
@pytest.mark.parametrize("size", [0, 1, MEMORY_BYTES, MEMORY_BYTES + 1, 3 * MEMORY_BYTES])
def test_body_is_kept_whole_and_leaves_nothing_behind(memory: int, size: int, tmp_path: Path) -> None:
    """In memory while it is small and there is room, else on the disk."""
    content = bytes(range(256)) * (size // 256 + 1)
    bodies = loader(memory, directory=str(tmp_path))

    load = collected(bodies, content[:size])
    body = load.body
    found = body.content if isinstance(body, BytesBody) else read(body)
    load.release()
    load.release()

    assert content[:size] == found
    assert (size <= MEMORY_BYTES and memory > 0) or not size or isinstance(body, FileSlice)
    assert (0, 0, []) == (bodies.budget.used, bodies.disk.used, list(tmp_path.iterdir()))


def read(body: object) -> bytes:
    """Give the bytes of a file's slice."""
    assert isinstance(body, FileSlice)
    pieces: list[bytes] = []
    body.feed(lambda block: pieces.append(bytes(block)))
    return b"".join(pieces)


@pytest.mark.parametrize(
    ("disk", "others", "limit", "status"),
    [(2 << 20, 0, None, 411), (4 << 20, 3 << 20, None, 503), (8 << 20, 0, 1000, 400)],
    ids=["too large", "no room now", "more than is wanted"],
)
def test_body_without_room_is_refused(disk: int, others: int, limit: int | None, status: int) -> None:
    """And what it took is given back."""
    bodies = loader(disk=disk)
    bodies.disk.take(others)

    with pytest.raises(S3ErrorResponse) as caught:
        collected(bodies, bytes(3 << 20), limit)

    assert (status, 0, others) == (caught.value.status, bodies.budget.used, bodies.disk.used)


def test_full_disk_is_said_so(tmp_path: Path) -> None:
    """A directory that cannot be written to stands for it."""
    bodies = loader(directory=str(tmp_path / "absent"))

    with pytest.raises(S3ErrorResponse) as caught:
        collected(bodies, bytes(3 << 20))

    assert (503, 0) == (caught.value.status, bodies.disk.used)
