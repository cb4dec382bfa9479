"""Framing of our own around a content whose length is known."""

from __future__ import annotations

import io

import pytest

from s3pool.proxy.chunked import AwsChunkedReader
from s3pool.proxy.request_body import CHUNK_BYTES, RechunkedBody, rechunked_length
from tests.support.chunk_signing import checksum

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


@pytest.mark.parametrize("size", [CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 5])
def test_large_content_goes_in_chunks(size: int) -> None:
    """Each with its size, and the trailer behind all."""
    content = bytes(size)

    result, announced = framed(content, "crc32")

    assert announced == len(result) == rechunked_length(size, "x-amz-checksum-crc32")
    assert (size, -(-size // CHUNK_BYTES)) == (result.count(0), result.count(b"\0\r\n"))
    assert result.endswith(f"0\r\nx-amz-checksum-crc32:{checksum('crc32', content)}\r\n\r\n".encode())
