"""What an ETag tells of the content: an MD5, or the MD5 of the parts' MD5s."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

from s3pool.model import ByteRange
from s3pool.s3.part_sizes import MIB, choose_part_size, count_parts

# What other clients cut with, the likely ones first: aws, mc, s3cmd, s5cmd, rclone, boto3.
USUAL_PART_SIZES = tuple(mib * MIB for mib in (16, 8, 5, 15, 50, 64, 10, 32, 25, 100, 128, 20, 256, 512, 1024))

MD5_ETAG = re.compile(r"[0-9a-f]{32}")
COMPOSITE_ETAG = re.compile(r"[0-9a-f]{32}-([1-9][0-9]{0,17})")


def iter_ranges(size: int, part_size: int) -> Iterator[ByteRange]:
    """Cut size bytes into ranges of part_size, the last one possibly shorter."""
    for first in range(0, size, part_size):
        yield ByteRange(first, min(first + part_size, size) - 1)


def is_md5_etag(etag: str) -> bool:
    """Say whether an ETag has the form of an MD5."""
    return MD5_ETAG.fullmatch(etag) is not None


def part_count_of(etag: str) -> int:
    """Give the number of parts a composite ETag tells, 0 for any other ETag."""
    match = COMPOSITE_ETAG.fullmatch(etag)
    return int(match[1]) if match else 0


def composite_etag(part_etags: Iterable[str]) -> str:
    """Give the ETag of an object made of parts; "" when a part's ETag is no MD5."""
    etags = list(part_etags)
    if not all(map(is_md5_etag, etags)):
        return ""
    joined = b"".join(map(bytes.fromhex, etags))
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(etags)}"


def likely_part_sizes(size: int, count: int) -> Iterator[int]:
    """Give the part sizes in use somewhere that cut size bytes into count parts."""
    usual = (*USUAL_PART_SIZES, choose_part_size(size), -(-size // (count * MIB)) * MIB)
    for part_size in dict.fromkeys(usual):
        if count_parts(size, part_size) == count:
            yield part_size
