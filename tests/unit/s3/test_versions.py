from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3pool.model import ListPage, ObjectInfo
from s3pool.s3.key_ranges import Counts
from s3pool.s3.paging import iter_version_pages
from s3pool.s3.parallel import VersionLister, iter_version_pages_parallel
from tests.support.memory_lister import order

TIME = "2026-01-22T20:44:33.219Z"
Row = tuple[str, str]


class MemoryVersions:
    """Lists versions in pages of ``page_size``, wherever these break off; thread-safe."""

    def __init__(self, histories: dict[str, int], *, page_size: int, minio: bool = False) -> None:
        self.rows: list[Row] = [
            (key, f"v{number:04d}") for key in sorted(histories, key=order) for number in range(histories[key])
        ]
        self.asked: list[Row] = []
        self._page_size = page_size
        self._tag = "[minio_cache:v2,id:1]" if minio else ""
        # Guards the record.
        self._lock = threading.Lock()

    def list_versions_page(
        self, bucket: str, *, prefix: str = "", delimiter: str = "", key_marker: str = "", version_id_marker: str = ""
    ) -> ListPage:
        """Give one page; a key alone as marker skips all its versions."""
        with self._lock:
            self.asked.append((key_marker, version_id_marker))
        rows = [row for row in self.rows if row[0].startswith(prefix)]
        marker = (order(key_marker.removesuffix(self._tag)), version_id_marker or "w")
        first = bisect_right(rows, marker, key=lambda row: (order(row[0]), row[1])) if key_marker else 0
        page = rows[first : first + self._page_size]
        truncated = first + self._page_size < len(rows)
        objects = tuple(ObjectInfo(key, 1, TIME, "e", "COLD", version, version == "v0000") for key, version in page)
        last = page[-1] if truncated else ("", "")
        return ListPage(objects, (), truncated, next_token=last[0] + self._tag * truncated, next_version_id=last[1])

    def list_objects_page(self, bucket: str, **_: object) -> ListPage:
        """Nobody asks for objects here."""
        raise AssertionError(bucket)

    list_uploads_page = list_objects_page


def rows_of(pages: Iterator[ListPage]) -> list[Row]:
    """Give keys and versions of all pages."""
    return [(info.key, info.version_id) for page in pages for info in page.objects]


@settings(max_examples=80, deadline=None)
@given(
    histories=st.dictionaries(st.text("ab/é0", min_size=1, max_size=4), st.integers(1, 9), max_size=40),
    page_size=st.integers(1, 7),
    jobs=st.sampled_from([2, 8]),
    ordered=st.booleans(),
)
def test_every_version_is_listed_once(histories: dict[str, int], page_size: int, jobs: int, ordered: bool) -> None:
    """Wherever pages break off a history, and wherever the listing is cut."""
    lister = MemoryVersions(histories, page_size=page_size)

    found = rows_of(iter_version_pages_parallel(lister, "b", jobs=jobs, ordered=ordered))  # type: ignore[arg-type]

    assert lister.rows == (found if ordered else sorted(found, key=lambda row: (order(row[0]), row[1])))


def test_many_jobs_find_the_versions_of_one_in_the_same_order() -> None:
    """With all that a page tells of them."""
    lister = MemoryVersions({f"logs/{number:05d}": 1 + number % 3 for number in range(3000)}, page_size=50)
    counts = Counts()

    one = [info for page in iter_version_pages(lister, "b") for info in page.objects]  # type: ignore[arg-type]
    pages = iter_version_pages_parallel(lister, "b", jobs=8, counts=counts)  # type: ignore[arg-type]
    many = [info for page in pages for info in page.objects]

    assert one == many
    assert counts.cuts > 3


def test_history_longer_than_a_page_stays_in_one_piece() -> None:
    """A cut inside it would need two markers, and cuts know of names alone."""
    lister = MemoryVersions({"a": 1, "hot": 25, "z": 1}, page_size=4)

    page = VersionLister(lister).list_objects_page("b", start_after="a")  # type: ignore[arg-type]

    assert "a" not in {info.key for info in page.objects}
    assert 25 == sum(info.key == "hot" for info in page.objects)


def test_minio_is_followed_by_its_markers() -> None:
    """They hold the walk that a name alone would begin anew."""
    lister = MemoryVersions({f"{number:03d}": 2 for number in range(100)}, page_size=20, minio=True)

    found = rows_of(iter_version_pages_parallel(lister, "b", jobs=8))  # type: ignore[arg-type]

    assert lister.rows == found
    assert all(version for _, version in lister.asked[2:])


@pytest.mark.parametrize("histories", [{}, {"only": 1}, {"only": 30}])
def test_small_listing_of_versions_starts_no_thread(histories: dict[str, int]) -> None:
    """Most prefixes hold one page."""
    lister = MemoryVersions(histories, page_size=100)

    assert lister.rows == rows_of(iter_version_pages_parallel(lister, "b", jobs=8))  # type: ignore[arg-type]
    assert 1 == len(lister.asked)


@pytest.mark.parametrize("page_size", [1, 2, 3, 5])
def test_listing_up_to_a_key_has_all_versions_of_it(page_size: int) -> None:
    """A page that ends with that key may end inside of its history."""
    lister = MemoryVersions({"a": 2, "b": 4, "c": 1}, page_size=page_size)

    found = rows_of(iter_version_pages(lister, "bucket", until="b"))

    assert [row for row in lister.rows if row[0] != "c"] == found
