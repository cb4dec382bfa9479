"""Whether a target has what its source has, and why not. Decisions only: nothing is touched."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple

from s3pool.location import name_bytes
from s3pool.model import parse_iso_time
from s3pool.record import dataclass
from s3pool.transfer.walk import path_below
from s3pool.units import NANO

if TYPE_CHECKING:
    from s3pool.filters import ObjectFilter

UPLOAD = "upload"
DOWNLOAD = "download"
COPY = "copy"

TOLERANCE_NS = 2 * NANO  # of two clocks, and of servers that cut Last-Modified to seconds


class Entry(NamedTuple):
    """One file or object, by its name below the tree: all that is compared.

    A local one has ``mtime_ns`` and the ``path`` that opens it; a remote one has ``etag`` and
    ``last_modified`` as the listing told. A tuple: there may be one for every object.
    """

    name: str
    size: int
    mtime_ns: int | None = None
    etag: str = ""
    last_modified: str = ""
    path: str = ""
    version_id: str = ""  # of an object as it was at another time

    @property
    def time_ns(self) -> float:
        """Return the modification time in nanoseconds, the server's where there is no other."""
        return self.mtime_ns if self.mtime_ns is not None else time_ns_of(self.last_modified)

    @property
    def stamp(self) -> str:
        """What changes whenever the content does: the local mtime, or ETag and time."""
        return str(self.mtime_ns) if self.mtime_ns is not None else f"{self.etag} {self.last_modified}"


def may_change_unseen(mtime_ns: int | None, read_ns: int) -> bool:
    """Return whether an edit after a file was read may leave its time as it was: where that has whole seconds."""
    return mtime_ns is not None and mtime_ns % NANO == 0 and abs(read_ns - mtime_ns) <= TOLERANCE_NS


def time_ns_of(last_modified: str) -> float:
    """Return a Last-Modified of a listing in nanoseconds; NaN for one that is no time."""
    nanoseconds = parse_iso_time(last_modified) * NANO
    return nanoseconds if math.isnan(nanoseconds) else round(nanoseconds)


class Record(NamedTuple):
    """A pair as an earlier run left it in sync.

    ``stamp`` is of the local side, or of the source where both are in S3; ``etag`` is of the
    other side, and ``modified`` its Last-Modified, "" when no listing has told it yet.
    """

    size: int
    stamp: str
    etag: str
    modified: str = ""

    def agrees(self, now: Record, direction: str) -> bool:
        """Return whether nothing has changed since the record was made.

        The time of a target in S3 does not count: an upload learns it only later.
        """
        if (self.size, self.stamp, self.etag) != (now.size, now.stamp, now.etag):
            return False
        return direction != DOWNLOAD or self.modified in ("", now.modified)


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts as a difference."""

    direction: str = ""
    size_only: bool = False
    checksum: bool = False
    exact_timestamps: bool = False
    update: bool = False
    no_clobber: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with a pair, and why."""

    act: str
    reason: str = ""


TRANSFER = "transfer"
LEAVE = "leave"  # a rule that the user asked for is in the way
NOTHING = "nothing"  # the target has what the source has
LOOK = "look"  # only a request, or reading the file, can tell

NEW = Decision(TRANSFER, "it is not at the target")
OTHER_SIZE = Decision(TRANSFER, "the size differs")
CHANGED = Decision(TRANSFER, "the content differs")
NEWER = Decision(TRANSFER, "the source is newer")
OTHER_TIME = Decision(TRANSFER, "the local time is not the one of the object")
EXISTS = Decision(LEAVE, "it exists")
OLDER = Decision(LEAVE, "the target is newer")
SAME = Decision(NOTHING)
LOOK_AT_CONTENT = Decision(LOOK, "checksum")
LOOK_CLOSER = Decision(LOOK, "the size is the same and the times are about the same")
LOOK_FOR_IT = Decision(LOOK, "it is not listed at the target so far")
LOOK_AT_TIMES = Decision(LOOK, "exact timestamps")


def decide(
    source: Entry, target: Entry | None, record: Record | None, rules: Rules, *, is_listed: bool = True
) -> Decision:
    """Decide about one name of the source; ``record`` is what an earlier run left.

    ``is_listed`` says that the target's listing cannot show the name any more.
    """
    if target is None:
        return NEW if is_listed else LOOK_FOR_IT
    if rules.no_clobber:
        return EXISTS
    decision = _compare(source, target, record, rules)
    if rules.update and decision.act in (TRANSFER, LOOK) and target.time_ns > source.time_ns:
        return OLDER
    return decision


def _compare(source: Entry, target: Entry, record: Record | None, rules: Rules) -> Decision:
    if source.size != target.size:
        return OTHER_SIZE
    if rules.size_only:
        return SAME
    known = record_of(source, target, rules.direction)
    if rules.checksum:
        if rules.direction != COPY:
            return LOOK_AT_CONTENT
        # A copy made of parts has an ETag of its own: only who made it knows what is in it.
        is_same = source.etag == target.etag or (record is not None and record.agrees(known, COPY))
        return SAME if is_same else CHANGED
    if rules.exact_timestamps:
        return LOOK_AT_TIMES
    if record is not None and known.etag:
        return SAME if record.agrees(known, rules.direction) else CHANGED
    return _compare_times(source, target, rules.direction)


def _compare_times(source: Entry, target: Entry, direction: str) -> Decision:
    """Decide without a record, by what a listing and a walk tell."""
    if direction == DOWNLOAD:
        return SAME if is_time_of_object(target.time_ns, source.time_ns) else OTHER_TIME
    if source.time_ns < target.time_ns - TOLERANCE_NS:
        return SAME
    # Otherwise: so that a time that nobody knows is a newer one.
    if not source.time_ns <= target.time_ns + TOLERANCE_NS:
        return NEWER
    # A change right before or after the transfer has kept the size: times prove nothing here.
    if direction == UPLOAD:
        return LOOK_CLOSER
    return SAME if source.etag and source.etag == target.etag else CHANGED


def is_time_of_object(local_ns: float, modified_ns: float) -> bool:
    """Return whether a local time is that of a download: Last-Modified in whole seconds."""
    return local_ns % NANO == 0 and abs(local_ns - modified_ns) <= NANO


def record_of(source: Entry, target: Entry, direction: str) -> Record:
    """Return the record of a pair that is in sync."""
    if direction == DOWNLOAD:
        return Record(source.size, target.stamp, source.etag, source.last_modified)
    return Record(source.size, source.stamp, target.etag, target.last_modified)


NAMES_AT_ONCE = 250  # of both sides are compared together; one that differs sends so many the long way
COLUMNS = ("names", "sizes", "times_ns", "etags", "modified", "versions")
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
        chosen = list(picks)
        columns: dict[str, Any] = {name: list(compress(getattr(self, name), chosen)) for name in COLUMNS}
        return self._replace(**columns)


# -- both sides together -------------------------------------------------------------------


def merge(source: Iterable[Batch], target: Iterable[Batch]) -> Iterator[Pair]:
    """Bring two sides in name order together: the same names of both, and what one alone has."""
    ours, theirs = _Cursor(source), _Cursor(target)
    while (mine := ours.head()) is not None and (other := theirs.head()) is not None:
        if mine == other:
            count = min(ours.left, theirs.left, NAMES_AT_ONCE)
            names, others = ours.names(count), theirs.names(count)
            if names != others:
                count = next(place for place in range(count) if names[place] != others[place])
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
        return self._block.names[self._at : self._at + count]

    def count_before(self, name: str) -> int:
        return bisect_left(self._block.names, name_bytes(name), lo=self._at, key=name_bytes) - self._at

    def take(self, count: int) -> Batch:
        """Return the next ``count`` names as a batch, and move behind them."""
        self._at += count
        return self._block.cut(self._at - count, self._at)


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
        # Times of one form sort as text: one of them is read instead of all.
        if max(ours.times_ns) < time_ns_of(min(theirs.modified)) - TOLERANCE_NS:
            return True
        return all(t < time_ns_of(text) - TOLERANCE_NS for t, text in zip(ours.times_ns, theirs.modified, strict=True))
    is_alike = NO_ETAG not in ours.etags and ours.etags == theirs.etags
    slack = TOLERANCE_NS if is_alike else -TOLERANCE_NS - 1
    times = zip(map(time_ns_of, ours.modified), map(time_ns_of, theirs.modified), strict=True)
    return all(time <= other + slack for time, other in times)
