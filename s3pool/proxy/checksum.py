"""The checksums that clients send behind a body."""

from __future__ import annotations

from s3pool.hashing import CHECKSUM_PREFIX as CHECKSUM_PREFIX
from s3pool.hashing import Hasher, new_hasher
from s3pool.proxy.denial import Denial

# Characters of each checksum in base64.
CHARACTERS = {
    "crc32": 8,
    "crc32c": 8,
    "crc64nvme": 12,
    "sha1": 28,
    "sha256": 44,
    "sha512": 88,
    "md5": 24,
    "xxhash64": 12,
    "xxhash3": 12,
    "xxhash128": 24,
}
UNKNOWN_HERE = frozenset({"xxhash64", "xxhash3", "xxhash128"})  # which nothing that is installed computes


def checksum_for(header: str) -> Hasher | None:
    """Make what computes the checksum of a header; None when nothing here can: the node compares it.

    Raises:
        Denial: it is none of S3's.
    """
    name = header.removeprefix(CHECKSUM_PREFIX)
    if name not in CHARACTERS or not header.startswith(CHECKSUM_PREFIX):
        detail = "The value specified in the x-amz-trailer header is not supported"
        raise Denial(400, "InvalidRequest", detail, closes=True)
    return None if name in UNKNOWN_HERE else new_hasher(name)
