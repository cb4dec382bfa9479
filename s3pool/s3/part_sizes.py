"""S3's limits on requests and on uploads in parts, and part arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

from s3pool.errors import UsageError
from s3pool.model import ByteRange

MAX_KEYS = 1000  # of a page of ListObjectsV2, and of a DeleteObjects
MIB = 1 << 20
MIN_PART_BYTES = 5 * MIB  # smaller parts are refused, but for the last one
MAX_PART_BYTES = 5 << 30
MAX_PARTS = 10_000
MAX_OBJECT_BYTES = 5 << 40
MAX_SINGLE_PUT_BYTES = 5 << 30  # PutObject and CopyObject in one piece
DEFAULT_PART_BYTES = 16 * MIB


def choose_part_size(size: int, wanted: int = 0) -> int:
    """Return the size of the parts for an object of ``size`` bytes.

    It is the wanted size, or the default for 0, as long as 10,000 parts suffice; else the next whole MiB with which
    they do. An object of up to 5 TiB always fits.

    Raises UsageError: the object is larger than 5 TiB, or the wanted size is outside 5 MiB..5 GiB.

    Source: Amazon S3 User Guide, "Multipart upload limits".
    """
    if size > MAX_OBJECT_BYTES:
        raise UsageError(f"an object has at most 5 TiB; this one would have {size} bytes")
    if wanted:
        _check_part_size(wanted)
    part_size = wanted or DEFAULT_PART_BYTES
    if size <= part_size * MAX_PARTS:
        return part_size
    smallest = -(-size // MAX_PARTS)
    return -(-smallest // MIB) * MIB


def iter_part_ranges(size: int, part_size: int) -> Iterator[ByteRange]:
    """Cut an object into consecutive part ranges.

    Sizes are bytes. Yields ceil(size / part_size) ranges in offset order, the last one possibly shorter; nothing at all
    when size is 0.

    Raises UsageError: part_size is outside 5 MiB..5 GiB, or more than 10,000 parts result.

    Source: Amazon S3 User Guide, "Multipart upload limits".
    """
    _check_part_size(part_size)
    if count_parts(size, part_size) > MAX_PARTS:
        raise UsageError(f"{size} bytes in parts of {part_size} are more than {MAX_PARTS:,} parts; take larger parts")
    return iter_ranges(size, part_size)  # a generator itself would raise only at its first use


def iter_ranges(size: int, length: int) -> Iterator[ByteRange]:
    """Cut size bytes into ranges of any length, the last one possibly shorter."""
    return (ByteRange(first, min(first + length, size) - 1) for first in range(0, size, length))


def count_parts(size: int, part_size: int) -> int:
    """Return the number of parts: size divided by part size, rounded up."""
    return -(-size // part_size)


def _check_part_size(part_size: int) -> None:
    if not MIN_PART_BYTES <= part_size <= MAX_PART_BYTES:
        raise UsageError(f"a part has 5 MiB to 5 GiB, not {part_size} bytes")
