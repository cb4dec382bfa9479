"""What is counted of listings."""

from __future__ import annotations

import pytest

from s3pool.model import ListMode
from s3pool.s3.buckets import ListingStats
from s3pool.s3.list_all import list_objects, list_pages
from tests.support.memory_lister import MemoryLister


@pytest.mark.parametrize(("names", "needed"), [(0, 1), (1, 1), (1000, 1), (1001, 2), (2500, 3)])
def test_a_listing_needs_full_pages(names: int, needed: int) -> None:
    """One of nothing needs a request, too."""
    tally = ListingStats()

    tally.add_listing(names)

    assert (names, needed) == (tally.names, tally.needed)


def test_extra_requests_are_those_that_were_not_needed() -> None:
    """Cuts, probes and short pages cost them."""
    tally = ListingStats()
    tally.add(5, 0, 0)

    tally.add_listing(1001)
    tally.add_listing(10)

    assert (5, 2) == (tally.requests, tally.extra)


@pytest.mark.parametrize("mode", [ListMode(1), ListMode(8), ListMode(8, ordered=False)])
def test_names_are_counted_once_in_every_mode(mode: ListMode) -> None:
    """By what the caller gets, not by what servers send."""
    lister = MemoryLister(f"{number:05}" for number in range(12_345))

    found = sum(1 for _ in list_objects(lister, "b", mode=mode))

    assert 12_345 == found == lister.lists.names
    assert 13 == lister.lists.needed


def test_a_listing_that_is_left_counts_what_it_gave() -> None:
    """The rest was never asked for."""
    lister = MemoryLister(f"{number:05}" for number in range(5000))
    pages = list_pages(lister, "b")

    next(pages)
    next(pages)
    del pages

    assert (2000, 2) == (lister.lists.names, lister.lists.needed)
