"""The checksums that clients send behind a body."""

from __future__ import annotations

from s3pool.hashing import CHECKSUM_PREFIX as CHECKSUM_PREFIX
from s3pool.hashing import CHECKSUMS, Hasher, new_hasher
from s3pool.proxy.denial import Denial


def checksum_for(header: str) -> Hasher:
    """Make what computes the checksum of a header.

    Raises:
        Denial: it is none of S3's.
    """
    name = header.removeprefix(CHECKSUM_PREFIX)
    if name not in CHECKSUMS or not header.startswith(CHECKSUM_PREFIX):
        raise Denial(400, "InvalidRequest", f"the trailer {header} is not supported", closes=True)
    return new_hasher(name)
