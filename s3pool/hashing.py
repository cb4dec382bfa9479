"""S3's checksums by name, and how they are computed."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Protocol

from s3pool.errors import ConfigError

CHECKSUM_PREFIX = "x-amz-checksum-"
CHECKSUMS = ("crc64nvme", "crc32c", "crc32", "sha256", "sha1")  # all that S3 has a header for
CHEAP = "crc64nvme"  # in machine code a twentieth of a SHA-256, and of the whole content whatever the parts
CRC_BYTES = {"crc32": 4, "crc32c": 4, "crc64nvme": 8}  # the length of a value
MODELS = {"crc32": "CRC32", "crc32c": "CRC32C", "crc64nvme": "CRC64-NVME"}  # names in the catalogue of CRCs

CrcFunction = Callable[[memoryview, int], int]


class Hasher(Protocol):
    """The interface that hashlib's objects share with CrcHasher."""

    def update(self, block: memoryview, /) -> object:
        """Add bytes."""

    def digest(self) -> bytes:
        """Return the digest of all bytes so far."""


class CrcHasher:
    """A CRC with the interface of a hash."""

    __slots__ = ("_function", "_size", "_value")

    def __init__(self, name: str) -> None:
        self._function: CrcFunction = zlib.crc32 if name == "crc32" else _model(name).calc
        self._size = CRC_BYTES[name]
        self._value = 0

    def update(self, block: memoryview, /) -> None:
        """Add bytes."""
        self._value = self._function(block, self._value)

    def digest(self) -> bytes:
        """Return the value in network byte order."""
        return self._value.to_bytes(self._size, "big")


def new_hasher(name: str) -> Hasher:
    """Return a hasher for one of S3's checksums, or for md5."""
    return CrcHasher(name) if name in CRC_BYTES else hashlib.new(name, usedforsecurity=False)


def combine(name: str, pieces: Iterable[tuple[bytes, int]]) -> bytes:
    """Return the CRC of a whole from the digests and lengths of its pieces, in order."""
    model = _model(name)
    value = 0  # the CRC of nothing
    for digest, length in pieces:
        value = model.combine(value, int.from_bytes(digest, "big"), length)
    return int(value).to_bytes(CRC_BYTES[name], "big")


def has_machine_code() -> bool:
    """Return whether CRCs cost next to nothing here."""
    try:
        return _model("crc64nvme") is not None
    except ConfigError:
        return False


@cache
def _model(name: str) -> Any:
    # Imported late: loading takes 10 to 20 ms, and most commands need no CRC.
    try:
        import anycrc
    except ImportError as exc:  # the one file that runs with Python alone has no machine code
        raise ConfigError(f"{name} needs the package anycrc, which is not here: pip install anycrc") from exc

    return anycrc.Model(MODELS[name])
