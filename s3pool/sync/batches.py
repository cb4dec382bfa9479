"""Batches of names in columns: merged in name order, and compared where nothing has changed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from s3pool.location import name_bytes
from s3pool.sync.compare import COPY, DOWNLOAD, NANO, TOLERANCE_NS, UPLOAD, Entry, is_time_of_object, time_ns_of
from s3pool.transfer.walk import path_below

if TYPE_CHECKING:
    from s3pool.filters import ObjectFilter

NAMES_AT_ONCE = 250  # of both sides are compared together; one that differs sends so many the long way
NO_ETAG = ""

Row = tuple[bytes, int, str, str, str]  # of the journal: name, size, stamp, etag, modified
Pair = tuple["Batch | None", "Batch | None"]


class Batch(NamedTuple):
    """Names of one side that follow each other, and what the side tells of them, in columns.

    A local side has ``times_ns`` and ``below``, its root and a slash; one in S3 has ``etags``
    and ``modified``. A million names pass as a few thousand of these, where as many objects
    would take most of the time of a sync that has nothing to do.
    """

    names: Sequence[str]
    sizes: Sequence[int]
    times_ns: Sequence[int] = ()
    etags: Sequence[str] = ()
    modified: Sequence[str] = ()
    below: bytes = b""
    versions: Sequence[str] = ()  # of objects as they were at another time

    def entry(self, place: int) -> Entry:
        """Return the entry at a place."""
        name, size = self.names[place], self.sizes[place]
        if self.below:
            return Entry(name, size, self.times_ns[place], path=path_below(self.below, name))
        version_id = self.versions[place] if self.versions else ""
        return Entry(name, size, etag=self.etags[place], last_modified=self.modified[place], version_id=version_id)

    def cut(self, first: int, stop: int) -> Batch:
        """Return the names from ``first`` up to ``stop``, without it."""
        names, sizes, times_ns, etags, modified, below, versions = self
        part = slice(first, stop)
        return Batch(names[part], sizes[part], times_ns[part], etags[part], modified[part], below, versions[part])

    def admitted(self, facts: ObjectFilter) -> list[bool]:
        """Return which names pass tests of size and time."""
        times = self.times_ns if self.below else map(time_ns_of, self.modified)
        return [facts.admits(size, time / NANO) for size, time in zip(self.sizes, times, strict=True)]

    def pick(self, picks: Iterable[bool]) -> Batch:
        """Return the names for which ``picks`` is true."""
        chosen = [place for place, picked in enumerate(picks) if picked]
        names, sizes, times_ns, etags, modified, below, versions = self
        return Batch(
            [names[place] for place in chosen],
            [sizes[place] for place in chosen],
            [times_ns[place] for place in chosen] if times_ns else (),
            [etags[place] for place in chosen] if etags else (),
            [modified[place] for place in chosen] if modified else (),
            below,
            [versions[place] for place in chosen] if versions else (),
        )


# -- both sides together -------------------------------------------------------------------


def merge(source: Iterable[Batch], target: Iterable[Batch]) -> Iterator[Pair]:
    """Bring two sides in name order together: the same names of both, and what one alone has."""
    ours, theirs = _Cursor(source), _Cursor(target)
    while (mine := ours.head()) is not None and (other := theirs.head()) is not None:
        if mine == other:
            count = _count_common(ours, theirs)
            yield ours.take(count), theirs.take(count)
        elif name_bytes(mine) < name_bytes(other):
            yield ours.take(ours.count_before(other)), None
        else:
            yield None, theirs.take(theirs.count_before(mine))
    while ours.head() is not None:
        yield ours.take(ours.left), None
    while theirs.head() is not None:
        yield None, theirs.take(theirs.left)


class _Cursor:
    """Where a merge is on one side; a block is read when the one before is used up."""

    def __init__(self, blocks: Iterable[Batch]) -> None:
        self._blocks = iter(blocks)
        self._block = Batch((), ())
        self._at = 0

    @property
    def left(self) -> int:
        """Count what is left of the block."""
        return len(self._block.names) - self._at

    def head(self) -> str | None:
        """Return the next name; None at the end."""
        while self._at == len(self._block.names):
            block = next(self._blocks, None)
            if block is None:
                return None
            self._block, self._at = block, 0
        return self._block.names[self._at]

    def names(self, count: int) -> Sequence[str]:
        """Return the next names, at most ``count``."""
        return self._block.names[self._at : self._at + count]

    def count_before(self, name: str) -> int:
        """Count those of the block that stand before a name."""
        return bisect_left(self._block.names, name_bytes(name), lo=self._at, key=name_bytes) - self._at

    def take(self, count: int) -> Batch:
        """Return the next ``count`` names as a batch, and move behind them."""
        self._at += count
        return self._block.cut(self._at - count, self._at)


def _count_common(ours: _Cursor, theirs: _Cursor) -> int:
    count = min(ours.left, theirs.left, NAMES_AT_ONCE)
    mine, others = ours.names(count), theirs.names(count)
    if mine == others:
        return count
    return next(place for place, (one, other) in enumerate(zip(mine, others, strict=True)) if one != other)


# -- blocks with the same names ------------------------------------------------------------


def rows_of(ours: Batch, theirs: Batch, direction: str) -> list[Row] | None:
    """Return the journal rows of pairs that are in sync; None when one of them cannot have a row.

    It says for many what ``record_of`` says for one.
    """
    remote = ours if direction == DOWNLOAD else theirs
    if NO_ETAG in remote.etags:
        return None
    if direction == COPY:
        stamps = [f"{etag} {modified}" for etag, modified in zip(ours.etags, ours.modified, strict=True)]
    else:
        stamps = list(map(str, theirs.times_ns if direction == DOWNLOAD else ours.times_ns))
    names = map(name_bytes, ours.names)
    return list(zip(names, ours.sizes, stamps, remote.etags, remote.modified, strict=True))


def rows_to_note(ours: Batch, theirs: Batch, rows: list[Row | None], *, direction: str) -> list[Row] | None:
    """Return the rows missing in the journal if all pairs are in sync; None if one may differ.

    ``rows`` are what the journal has of them. It says yes to what ``decide`` finds in sync by
    records alone, or by times alone; a mixture is left to that.
    """
    now = rows_of(ours, theirs, direction)
    if now is None:
        return None
    if rows == now:
        return []
    if not any(rows):
        return now if have_times_in_sync(ours, theirs, direction) else None
    # The time of a target in S3 does not count, and an upload learns it only later.
    if direction != DOWNLOAD and [row and row[:-1] for row in rows] == [row[:-1] for row in now]:
        return [new for old, new in zip(rows, now, strict=True) if old and not old[-1]]
    return None


def have_times_in_sync(ours: Batch, theirs: Batch, direction: str) -> bool:
    """Return whether all pairs are in sync by their times alone."""
    if direction == DOWNLOAD:
        return all(map(is_time_of_object, theirs.times_ns, map(time_ns_of, ours.modified)))
    if direction == UPLOAD:
        newest = max(ours.times_ns)
        # Times of one form sort as text: one of them is read instead of all.
        return newest < time_ns_of(min(theirs.modified)) - TOLERANCE_NS or all(
            time < time_ns_of(text) - TOLERANCE_NS for time, text in zip(ours.times_ns, theirs.modified, strict=True)
        )
    if NO_ETAG not in ours.etags and ours.etags == theirs.etags:
        slack = TOLERANCE_NS
    else:
        slack = -TOLERANCE_NS - 1
    times = zip(map(time_ns_of, ours.modified), map(time_ns_of, theirs.modified), strict=True)
    return all(time <= other + slack for time, other in times)
