"""Part sizes within S3's limits."""

from __future__ import annotations

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


@pytest.mark.parametrize("part_size", [0, 5 * MIB - 1, (5 << 30) + 1])
def test_part_sizes_outside_the_limits_are_refused(part_size: int) -> None:
    """S3 would refuse them only at the end, at Complete."""
    with pytest.raises(UsageError, match="5 MiB to 5 GiB"):
        iter_part_ranges(1, part_size)


def test_more_than_ten_thousand_parts_are_refused() -> None:
    """S3 would refuse part 10,001 after all others were sent."""
    with pytest.raises(UsageError, match="more than 10,000 parts"):
        iter_part_ranges(10_000 * 5 * MIB + 1, 5 * MIB)


def test_the_default_part_size_holds_while_it_suffices() -> None:
    """Only sizes beyond 10,000 parts need larger ones."""
    limit = requests.DEFAULT_PART_BYTES * 10_000

    assert requests.DEFAULT_PART_BYTES == choose_part_size(limit)
    assert requests.DEFAULT_PART_BYTES + MIB == choose_part_size(limit + 1)


def test_the_wanted_part_size_holds_while_it_suffices() -> None:
    """The user knows the link; the limit still goes first."""
    assert 5 * MIB == choose_part_size(50_000 * MIB, wanted=5 * MIB)
    assert 6 * MIB == choose_part_size(50_000 * MIB + 1, wanted=5 * MIB)


def test_a_wanted_part_size_outside_the_limits_is_refused() -> None:
    """A typing error such as 5K must not be rounded up in silence."""
    with pytest.raises(UsageError):
        choose_part_size(1, wanted=5 << 10)


def test_an_object_over_five_tebibytes_is_refused() -> None:
    """No part size can help it."""
    with pytest.raises(UsageError, match="at most 5 TiB"):
        choose_part_size((5 << 40) + 1)


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
