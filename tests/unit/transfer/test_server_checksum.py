from __future__ import annotations

import base64

import pytest

from s3pool.transfer.digests import ServerChecksum, server_checksum, whole_checksum

CRC32 = bytes.fromhex("cbf43926")
SHA1 = bytes.fromhex("f7c3bc1d808e04732adf679965ccc34ca7ae3441")


def told(name: str, value: str, kind: str = "") -> dict[str, str]:
    """Give the headers of an answer that tells a checksum."""
    return {f"x-amz-checksum-{name}": value} | ({"x-amz-checksum-type": kind} if kind else {})


@pytest.mark.parametrize("kind", ["", "FULL_OBJECT"])
def test_checksum_of_the_content_is_found(kind: str) -> None:
    """Servers that are older than the type tell none."""
    headers = told("crc32", "y/Q5Jg==", kind)

    assert ServerChecksum("crc32", CRC32) == server_checksum(headers) == whole_checksum(headers)


@pytest.mark.parametrize("kind", ["", "COMPOSITE"])
def test_checksum_of_parts_is_none_of_the_content(kind: str) -> None:
    """It is told apart by its suffix."""
    headers = told("sha1", f"{base64.b64encode(SHA1).decode()}-17", kind)

    assert ServerChecksum("sha1", SHA1, 17) == server_checksum(headers)
    assert whole_checksum(headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-amz-checksum-type": "FULL_OBJECT"},
        told("crc32", ""),
        told("crc32", "y/Q5"),
        told("crc32", "y/Q5Jg==-0"),
        told("crc32", "y/Q5Jg==-"),
        told("crc32", "y/Q5Jg=="[:-1]),
        told("crc32", "not base64!"),
        told("crc32", "y/Q5Jg==-2", "FULL_OBJECT"),
        told("crc32", "y/Q5Jg==", "COMPOSITE"),
        told("md5", "y/Q5Jg=="),
    ],
)
def test_what_is_no_checksum_is_left_out(headers: dict[str, str]) -> None:
    """An answer with nonsense is checked by the ETag, as one without is."""
    assert server_checksum(headers) is None
