"""Listings of a part of the keys: those behind one name, up to another one and with it."""

from __future__ import annotations

import random

import pytest

from s3pool.errors import UnorderedError
from s3pool.model import SEQUENTIAL, ListMode
from s3pool.s3.buckets import ListingStats
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
