"""Ranges of keys, how many requests are under way at once, and what is counted of listings."""

from __future__ import annotations

import random

import pytest

from s3pool.errors import UnorderedError
from s3pool.model import SEQUENTIAL, ListMode
from s3pool.s3.buckets import ListingStats
from s3pool.s3.key_ranges import AUTO_JOBS, CAUTIOUS_JOBS, WINDOW_PAGES, ConcurrencyLimit
from s3pool.s3.list_all import list_objects, list_pages, list_version_pages
from tests.support.memory_lister import MemoryLister, order
from tests.unit.s3.test_versions import MemoryVersions, rows_of

NAMES = sorted(
    {f"p/{top}/{number:04d}" for top in ("a", "b-c", "b", "ü") for number in range(900)} | {"p/", "p/b", "q", "p/!"},
    key=order,
)
BORDERS = ["p/", "p/a/0500", "p/a/0899", "p/b", "p/b/", "p/b/0100x", "p/ü/0003", "p/\U0001f600"]
MODES = [SEQUENTIAL, ListMode(8, True, 8), ListMode(8, False, 8)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("start_after", ["exclusive", "inclusive", "refused", "ignored", "skips"])
def test_ranges_hold_every_key_once(mode: ListMode, start_after: str) -> None:
    """Whatever the server makes of start-after, and however many requests there are at once."""
    empty = 0.0 if start_after == "ignored" else 0.1
    lister = MemoryLister(NAMES, page_size=100, short=0.3, empty=empty, start_after=start_after)
    found: list[str] = []

    for after, until in zip(["", *BORDERS], [*BORDERS, None], strict=True):
        part = list_objects(lister, "bkt", prefix="p/", start_after=after, until=until, mode=mode)
        keys = [info.key for info in part]
        assert all(order(after) < order(key) and (until is None or order(key) <= order(until)) for key in keys)
        found += keys

    assert [name for name in NAMES if name.startswith("p/")] == sorted(found, key=order)


def test_a_range_asks_for_its_own_pages() -> None:
    """One request more than its keys need, at most."""
    lister = MemoryLister([f"{number:05d}" for number in range(10_000)], page_size=100)

    keys = [info.key for info in list_objects(lister, "bkt", start_after="02999", until="04999")]

    assert ("03000", "04999", 2000) == (keys[0], keys[-1], len(keys))
    assert len(lister.asked) <= 21


def test_a_range_that_ends_with_its_page_asks_no_more() -> None:
    """The last key is known to be the last by its name alone."""
    lister = MemoryLister([f"{number:05d}" for number in range(1000)], page_size=100)

    pages = list(list_pages(lister, "bkt", start_after="00099", until="00199"))

    assert ([100], [False]) == ([len(page.objects) for page in pages], [page.truncated for page in pages])
    assert 1 == len(lister.asked)


@pytest.mark.parametrize("mode", MODES)
def test_without_order_there_are_no_ranges(mode: ListMode) -> None:
    """Keys that come in an order of the server's own may be missed, and must not be."""
    lister = MemoryLister([f"{number:05d}" for number in range(1000)], page_size=100)
    random.Random(1).shuffle(lister.keys)

    with pytest.raises(UnorderedError):
        list(list_pages(lister, "bkt", start_after="00099", mode=mode))


@pytest.mark.parametrize("mode", [SEQUENTIAL, ListMode(4, True, 4)])
def test_versions_have_ranges_of_keys(mode: ListMode) -> None:
    """All versions of a key are in the range that holds the key."""
    lister = MemoryVersions({f"k{number:03d}": 3 for number in range(300)}, page_size=100)
    lister.lists = ListingStats()  # type: ignore[attr-defined]

    pages = list_version_pages(lister, "bkt", start_after="k099", until="k199", mode=mode)  # type: ignore[arg-type]

    assert [f"k{number:03d}" for number in range(100, 200) for _ in range(3)] == [key for key, _ in rows_of(pages)]


PLENTY = 10_000.0


def run_window(limit: ConcurrencyLimit, start: float, *, pages_per_s: float, to_come: float = PLENTY) -> float:
    """Let pages of one measurement come at a rate; give the time after them."""
    for _ in range(max(WINDOW_PAGES, 2 * limit.limit) + 1):
        start += 1 / pages_per_s
        limit.note_page(start, to_come=to_come)
    return start


@pytest.mark.parametrize(
    ("rates", "to_come", "cap", "limits"),
    [
        ((10,), 5, 32, [CAUTIOUS_JOBS]),  # a listing that may end soon gains nothing from more
        ((10, 20, 40, 80), PLENTY, 32, [16, 32, 32, 32]),  # up to what was allowed, and not beyond
        ((10, 10, 10, 10), PLENTY, 32, [16, 16, CAUTIOUS_JOBS, CAUTIOUS_JOBS]),  # more would only load the servers
        ((10,), PLENTY, 4, [4]),  # MinIO walks its drives once more for every chain
    ],
)
def test_auto_doubles_while_pages_come_faster(
    rates: tuple[int, ...], to_come: float, cap: int, limits: list[int]
) -> None:
    """It begins with care, and goes back when more jobs bring nothing."""
    limit, now, seen = ConcurrencyLimit(AUTO_JOBS, most=32), 0.0, []
    if cap < CAUTIOUS_JOBS:
        limit.cap(cap)

    for rate in rates:
        now = run_window(limit, now, pages_per_s=rate, to_come=to_come)
        seen.append(limit.limit)

    assert limits == seen


def test_trouble_halves_and_clean_pages_bring_it_back() -> None:
    """A server that throttles is asked less, and more again bit by bit; one request is always allowed."""
    limit, small = ConcurrencyLimit(8), ConcurrencyLimit(2)

    limit.note_trouble()
    after_trouble = limit.limit
    for _ in range(WINDOW_PAGES):
        limit.note_page(0.0, to_come=PLENTY)
        small.note_trouble()

    assert (4, 5, 1, 30) == (after_trouble, limit.limit, small.limit, ConcurrencyLimit(30).limit)


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
