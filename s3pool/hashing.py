"""S3's checksums by their names: what computes them here, and how fast."""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import Protocol

from s3pool import crc

logger = logging.getLogger(__name__)

CHECKSUM_PREFIX = "x-amz-checksum-"
CHECKSUMS = ("crc64nvme", "crc32c", "crc32", "sha256", "sha1")  # all that S3 has a header for
EXTRA = "s3pool[checksums]"

CrcFunction = Callable[[memoryview, int], int]


class Hasher(Protocol):
    """What hashlib's objects have in common with ours."""

    def update(self, block: memoryview, /) -> object:
        """Take more bytes."""

    def digest(self) -> bytes:
        """Give the digest of all bytes so far."""


class CrcHasher:
    """A CRC in the shape of a hash."""

    __slots__ = ("_function", "_size", "_value")

    def __init__(self, name: str) -> None:
        self._function = _native(name) or _plain(name)
        self._size = crc.KINDS[name].size
        self._value = 0

    def update(self, block: memoryview, /) -> None:
        """Take more bytes."""
        self._value = self._function(block, self._value)

    def digest(self) -> bytes:
        """Give the value in network order."""
        return self._value.to_bytes(self._size, "big")


def new_hasher(name: str) -> Hasher:
    """Make a hasher for a checksum of S3's, or for md5."""
    return CrcHasher(name) if name in crc.KINDS else hashlib.new(name, usedforsecurity=False)


def is_fast(name: str) -> bool:
    """Say whether a checksum is computed by machine code here."""
    return name not in crc.KINDS or _native(name) is not None


@cache
def warn_if_slow(name: str) -> None:
    """Warn, once in a process, of a checksum that only plain Python can compute here."""
    if not is_fast(name):
        logger.warning("%s is computed in plain Python here, which is slow: pip install '%s' helps", name, EXTRA)


def combine(name: str, pieces: Iterable[tuple[bytes, int]]) -> bytes:
    """Give the CRC of a whole from the digests and lengths of its pieces, in their order."""
    kind = crc.KINDS[name]
    value = 0  # the CRC of nothing
    for digest, length in pieces:
        value = crc.combine(kind, value, int.from_bytes(digest, "big"), second_bytes=length)
    return value.to_bytes(kind.size, "big")


@cache
def _native(name: str) -> CrcFunction | None:
    if name == "crc32":
        return zlib.crc32
    try:
        from awscrt import checksums
    except ImportError:
        return None
    function: CrcFunction | None = getattr(checksums, name, None)  # an old one lacks crc64nvme
    return function


def _plain(name: str) -> CrcFunction:
    kind = crc.KINDS[name]
    return lambda block, value: crc.update(kind, block, value)
