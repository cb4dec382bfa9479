"""The checksum that a server tells of an object, beside or instead of an ETag that is a digest."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import NamedTuple

from s3pool.hashing import CHECKSUM_PREFIX, CHECKSUMS, CRC_BYTES

TYPE = "x-amz-checksum-type"
FULL_OBJECT = "FULL_OBJECT"
COMPOSITE = "COMPOSITE"
HEADERS = tuple((name, CHECKSUM_PREFIX + name) for name in (*CHECKSUMS, "sha512", "md5"))
DIGEST_BYTES = CRC_BYTES | {"sha256": 32, "sha1": 20, "sha512": 64, "md5": 16}
VALUE = re.compile(r"([A-Za-z0-9+/]+={0,2})(?:-([1-9][0-9]{0,17}))?")


class ServerChecksum(NamedTuple):
    """A checksum of a whole object, or, with ``parts``, the checksum of its parts' checksums."""

    algorithm: str
    digest: bytes
    parts: int = 0

    @property
    def text(self) -> str:
        """Give the value as S3 writes it."""
        return checksum_text(self.digest)


def server_checksum(headers: Mapping[str, str]) -> ServerChecksum | None:
    """Read the checksum of a whole object out of an answer's headers, the best where there are several.

    None where there is none. What does not look like a checksum is none, and neither are the
    XXH digests of newer servers, which nothing here computes.
    """
    for name, header in HEADERS:
        if header in headers:
            found = _read(name, headers[header], headers.get(TYPE, ""))
            if found is not None:
                return found
    return None


def _read(algorithm: str, value: str, kind: str) -> ServerChecksum | None:
    match = VALUE.fullmatch(value)
    if match is None:
        return None
    parts = int(match[2] or 0)
    if (kind == FULL_OBJECT and parts) or (kind == COMPOSITE and not parts):
        return None
    try:
        digest = base64.b64decode(match[1], validate=True)
    except binascii.Error:
        return None
    return ServerChecksum(algorithm, digest, parts) if len(digest) == DIGEST_BYTES[algorithm] else None


def whole_checksum(headers: Mapping[str, str]) -> ServerChecksum | None:
    """Give the checksum of the content itself; None where only one of the parts' is told, or none."""
    found = server_checksum(headers)
    return None if found is None or found.parts else found


def checksum_text(digest: bytes) -> str:
    """Give a digest as S3 writes it."""
    return base64.b64encode(digest).decode()
