from __future__ import annotations

import hashlib

import pytest

from s3pool.s3.requests import iter_ranges
from s3pool.transfer.digests import composite_etag, is_md5_etag, likely_part_sizes, part_count_of

MIB = 1 << 20


def test_composite_etag_is_the_md5_of_the_parts_md5s() -> None:
    """S3's way to name an object of parts."""
    parts = [hashlib.md5(text).digest() for text in (b"one", b"two")]

    etag = composite_etag(part.hex() for part in parts)

    assert f"{hashlib.md5(parts[0] + parts[1]).hexdigest()}-2" == etag


def test_composite_etag_of_foreign_parts_is_unknown() -> None:
    """Under customer keys a part's ETag is no MD5, and nothing can be computed."""
    assert "" == composite_etag(["0" * 32, "something"])


@pytest.mark.parametrize(
    ("etag", "is_md5", "count"),
    [
        ("0" * 32, True, 0),
        ("0" * 32 + "-7", False, 7),
        ("0" * 31, False, 0),
        ("", False, 0),
        ("0" * 32 + "-0", False, 0),
    ],
)
def test_etag_tells_what_it_is(etag: str, is_md5: bool, count: int) -> None:
    """Only what has the form is compared."""
    assert (is_md5, count) == (is_md5_etag(etag), part_count_of(etag))


def test_ranges_cover_every_byte_once() -> None:
    """The last one is shorter."""
    ranges = [(place.first, place.last) for place in iter_ranges(25, 10)]

    assert [(0, 9), (10, 19), (20, 24)] == ranges


@pytest.mark.parametrize(("size", "count", "part_size"), [(20 * MIB, 3, 8 * MIB), (100 * MIB, 2, 50 * MIB)])
def test_part_sizes_of_known_clients_are_tried(size: int, count: int, part_size: int) -> None:
    """The number of parts leaves few sizes that are in use somewhere."""
    assert part_size in set(likely_part_sizes(size, count))
