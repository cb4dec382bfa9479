"""The checksums that clients send behind a body."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Protocol

from s3pool.proxy.denial import Denial

CRC32C_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected
CRC64NVME_POLYNOMIAL = 0x9A6C9329AC4BC9B5  # reflected
CHECKSUM_PREFIX = "x-amz-checksum-"


class Checksum(Protocol):
    """What hashlib's objects have in common with ours."""

    def update(self, block: memoryview, /) -> object:
        """Take more bytes."""

    def digest(self) -> bytes:
        """Give the digest of all bytes so far."""


class Crc32:
    """zlib's CRC-32 in the shape of a hash."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, block: memoryview, /) -> None:
        """Take more bytes."""
        self._value = zlib.crc32(block, self._value)

    def digest(self) -> bytes:
        """Give the value in network order."""
        return self._value.to_bytes(4, "big")


class TableCrc:
    """A reflected CRC of 32 or 64 bits, byte by byte: right for every polynomial, if slow."""

    def __init__(self, polynomial: int, bits: int) -> None:
        self._table = _table(polynomial)
        self._mask = (1 << bits) - 1
        self._value = self._mask
        self._bytes = bits // 8

    def update(self, block: memoryview, /) -> None:
        """Take more bytes."""
        value, table = self._value, self._table
        for byte in block:
            value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
        self._value = value

    def digest(self) -> bytes:
        """Give the value in network order."""
        return (self._value ^ self._mask).to_bytes(self._bytes, "big")


@cache
def _table(polynomial: int) -> Sequence[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (polynomial if value & 1 else 0)
        table.append(value)
    return tuple(table)


def checksum_for(header: str) -> Checksum:
    """Make what computes the checksum of a header.

    Raises:
        Denial: it is none of S3's.
    """
    name = header.removeprefix(CHECKSUM_PREFIX)
    if name == "crc32":
        return Crc32()
    if name == "crc32c":
        return TableCrc(CRC32C_POLYNOMIAL, 32)
    if name == "crc64nvme":
        return TableCrc(CRC64NVME_POLYNOMIAL, 64)
    if name in ("sha1", "sha256") and header.startswith(CHECKSUM_PREFIX):
        return hashlib.new(name, usedforsecurity=False)
    raise Denial(400, "InvalidRequest", f"the trailer {header} is not supported", closes=True)
