"""Whether a target has what its source has, and why not. Decisions only: nothing is touched."""

from __future__ import annotations

import math
from typing import NamedTuple

from s3pool.model import parse_iso_time
from s3pool.record import dataclass

UPLOAD = "upload"
DOWNLOAD = "download"
COPY = "copy"

NANO = 10**9
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

    direction: str
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
    if rules.checksum:
        return _compare_content(source, target, record, rules)
    if rules.exact_timestamps:
        return LOOK_AT_TIMES
    known = record_of(source, target, rules.direction)
    if record is not None and known.etag:
        return SAME if record.agrees(known, rules.direction) else CHANGED
    return _compare_times(source, target, rules.direction)


def _compare_content(source: Entry, target: Entry, record: Record | None, rules: Rules) -> Decision:
    if rules.direction != COPY:
        return LOOK_AT_CONTENT
    if source.etag == target.etag:
        return SAME
    # A copy made of parts has an ETag of its own: only who made it knows what is in it.
    known = record_of(source, target, COPY)
    return SAME if record is not None and record.agrees(known, COPY) else CHANGED


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
