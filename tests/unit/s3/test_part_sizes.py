"""Part sizes within S3's limits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pool.errors import UsageError
from s3pool.model import ByteRange
from s3pool.s3 import requests
from s3pool.s3.requests import MIB, choose_part_size, iter_part_ranges


def test_the_ranges_are_consecutive_and_the_last_one_is_shorter() -> None:
    """The example of the docstring."""
    ranges = list(iter_part_ranges(11 * MIB, 5 * MIB))

    assert [ByteRange(0, 5 * MIB - 1), ByteRange(5 * MIB, 10 * MIB - 1), ByteRange(10 * MIB, 11 * MIB - 1)] == ranges


def test_an_empty_object_has_no_ranges() -> None:
    """A range of no bytes cannot be written."""
    assert [] == list(iter_part_ranges(0, 5 * MIB))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        # S3 would refuse these only at the end, at Complete.
        *((partial(iter_part_ranges, 1, size), "5 MiB to 5 GiB") for size in (0, 5 * MIB - 1, (5 << 30) + 1)),
        (partial(iter_part_ranges, 10_000 * 5 * MIB + 1, 5 * MIB), "more than 10,000 parts"),  # after all others
        (partial(choose_part_size, 1, wanted=5 << 10), "5 MiB to 5 GiB"),  # such as 5K
        (partial(choose_part_size, (5 << 40) + 1), "at most 5 TiB"),  # no part size can help it
    ],
)
def test_what_is_outside_the_limits_is_refused(act: Callable[[], object], message: str) -> None:
    """It must not be rounded in silence."""
    with pytest.raises(UsageError, match=message):
        act()


def test_part_size_holds_while_it_suffices() -> None:
    """Only sizes beyond 10,000 parts need larger ones, whatever the user wanted."""
    limit = requests.DEFAULT_PART_BYTES * 10_000

    assert requests.DEFAULT_PART_BYTES == choose_part_size(limit)
    assert requests.DEFAULT_PART_BYTES + MIB == choose_part_size(limit + 1)
    assert 5 * MIB == choose_part_size(50_000 * MIB, wanted=5 * MIB)
    assert 6 * MIB == choose_part_size(50_000 * MIB + 1, wanted=5 * MIB)


@given(size=st.integers(0, 5 << 40), wanted=st.sampled_from([0, 5 * MIB, 64 * MIB, 5 << 30]))
def test_a_chosen_part_size_always_works(size: int, wanted: int) -> None:
    """Whatever the size up to 5 TiB, the parts fit S3's limits."""
    part_size = choose_part_size(size, wanted=wanted)

    assert requests.MIN_PART_BYTES <= part_size <= requests.MAX_PART_BYTES
    assert requests.count_parts(size, part_size) <= requests.MAX_PARTS


@given(size=st.integers(1, 200 * MIB), part_size=st.integers(5 * MIB, 70 * MIB))
def test_the_ranges_cover_every_byte_once(size: int, part_size: int) -> None:
    """A gap or an overlap would be a corrupt object."""
    ranges = list(iter_part_ranges(size, part_size))

    assert 0 == ranges[0].first
    assert size - 1 == ranges[-1].last
    assert all(left.last + 1 == right.first for left, right in pairwise(ranges))
    assert {part_size} >= {span.length for span in ranges[:-1]}
