"""Merge two sorted streams into tasks, as they are read; nothing is ever there as a whole."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from s3pool.errors import JournalError, LocalNotFoundError, RefusedError
from s3pool.shard import WHOLE, Shard
from s3pool.sync.compare import (
    COPY,
    DOWNLOAD,
    LEAVE,
    LOOK,
    NEW,
    NOTHING,
    UPLOAD,
    Decision,
    Entry,
    Record,
    Rules,
    decide,
    record_of,
)
from s3pool.sync.listed import ListedNames
from s3pool.sync.look import Look, Looker, identity_of
from s3pool.sync.scan import RemoteTree
from s3pool.transfer.beneath import split_relative
from s3pool.transfer.mapping import KeyMapper
from s3pool.transfer.tasks import Item, Problem

if TYPE_CHECKING:
    from s3pool.filters import Names
    from s3pool.s3.client import S3Client
    from s3pool.sync.journal import Journal
    from s3pool.sync.route import Route

DOOMED_AT_ONCE = 1000  # names that are written to disk together
UNUSUAL = re.compile(r"(?:^|/)\.?/")  # an empty or a dot component: a walk names the file otherwise

Pair = tuple["Entry | None", "Entry | None"]


@dataclass(slots=True)
class Tally:
    """What the comparison found; of this shard alone, but for ``source_names``.

    ``left`` is what a rule of the user's kept from being copied.
    """

    checked: int = 0
    unchanged: int = 0
    left: int = 0
    source_names: int = 0
    target_names: int = 0
    doomed: int = 0


def merge(source: Iterable[Entry], target: Iterable[Entry]) -> Iterator[Pair]:
    """Bring two streams in name order together: pairs, and what one side alone has."""
    sources, targets = iter(source), iter(target)
    ours, theirs = next(sources, None), next(targets, None)
    while ours is not None and theirs is not None:
        if ours.name == theirs.name:
            yield ours, theirs
            ours, theirs = next(sources, None), next(targets, None)
        elif order_of(ours.name) < order_of(theirs.name):
            yield ours, None
            ours = next(sources, None)
        else:
            yield None, theirs
            theirs = next(targets, None)
    while ours is not None:
        yield ours, None
        ours = next(sources, None)
    while theirs is not None:
        yield None, theirs
        theirs = next(targets, None)


def order_of(name: str) -> bytes:
    """Give what S3 sorts by, and what the journal keeps a name as."""
    return name.encode("utf-8", "surrogateescape")


class RecordReader:
    """The journal's records, for names that come in order; what no side has is forgotten."""

    def __init__(self, journal: Journal, names: Names) -> None:
        self._journal = journal
        self._names = names
        self._rows = journal.iter_pairs()
        self._row = next(self._rows, None)

    def take(self, name: bytes) -> Record | None:
        """Give the record of a name, which must be greater than the one before."""
        while self._row is not None and self._row[0] < name:
            self._forget(self._row[0])
            self._row = next(self._rows, None)
        if self._row is None or self._row[0] != name:
            return None
        record = self._row[1]
        self._row = next(self._rows, None)
        return record

    def _forget(self, name: bytes) -> None:
        if self._names.admits(name.decode("utf-8", "surrogateescape")):
            self._journal.note(name, None)


class Plan:
    """The tasks of one sync, as an iterator to be used once.

    ``problems`` is where the scans put what cannot become a task; each takes its place in
    the stream. ``ended`` is True when both streams were read to their ends. The names to be
    deleted are with the journal.
    """

    def __init__(
        self,
        route: Route,
        source: Iterable[Entry],
        target: Iterable[Entry],
        *,
        rules: Rules,
        names: Names,
        journal: Journal,
        client: S3Client,
        looker: Looker,
        problems: deque[Problem],
        shard: Shard = WHOLE,
        delete: bool = False,
        time_is_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self._route = route
        self._source = source
        self._target = target
        self._rules = rules
        self._journal = journal
        self._client = client
        self._looker = looker
        self._problems = problems
        self._shard = shard
        self._delete = delete
        self._time_is_up = time_is_up
        self._wanted = names.wanted if isinstance(names, ListedNames) else set()
        self._records = RecordReader(journal, names)
        self._mapper = KeyMapper(self._exists)
        self._doomed: list[tuple[bytes, int]] = []
        self._spared: list[bytes] = []  # the files of keys with unusual names; there are few
        self.tally = Tally()
        self.ended = False
        self.out_of_time = False
        self.cannot_delete: JournalError | None = None

    @property
    def in_order(self) -> bool:
        """Say whether no side has been found to be listed without order."""
        return all(side.is_ordered for side in (self._source, self._target) if isinstance(side, RemoteTree))

    def __iter__(self) -> Iterator[Item]:
        for ours, theirs in merge(self._iter_source(), self._iter_target()):
            if self._time_is_up():
                self.out_of_time = True
                return
            if self._problems:
                yield from self._drain()
            if ours is not None:
                yield from self._step(ours, theirs, self._records.take(order_of(ours.name)))
            elif theirs is not None:
                self._records.take(order_of(theirs.name))
                self._doom(theirs)
        yield from self._drain()
        if isinstance(self._source, RemoteTree):
            yield from self._late(self._source)
        yield from self._missing()
        self._write_doomed()
        self._keep_or_give_up(self._spare)
        self.ended = True

    def _drain(self) -> Iterator[Problem]:
        while self._problems:
            yield self._problems.popleft()

    # -- the two sides ---------------------------------------------------------------------

    def _iter_source(self) -> Iterator[Entry]:
        holds = self._shard.holds
        check = self._rules.direction == DOWNLOAD
        for entry in self._source:
            if self._wanted:
                self._wanted.discard(entry.name)
            # A key that stands for a directory is nothing that could be lost.
            self.tally.source_names += bool(entry.name) and not entry.name.endswith("/")
            if check and not self._has_place(entry):
                continue
            if holds(entry.name):
                yield entry

    def _iter_target(self) -> Iterator[Entry]:
        holds = self._shard.holds
        for entry in self._target:
            if holds(entry.name):
                self.tally.target_names += 1
                yield entry

    def _has_place(self, entry: Entry) -> bool:
        """Say whether a key can have a file below the target; report it when it cannot.

        It is asked about the keys of all shards: another one's may need the same file.
        """
        source = self._route.source
        try:
            self._mapper.check(source.bucket, source.tree_prefix, entry.name)
        except RefusedError as exc:
            if self._shard.holds(entry.name):
                place = self._route.target_of(entry.name.lstrip("/"))
                self._problems.append(Problem(self._route.source_of(entry.name), exc, place, op="download"))
            return False
        if UNUSUAL.search(entry.name):
            self._spared.append(_plain_name(entry.name))
        return True

    def _exists(self, bucket: str, key: str) -> bool:
        head = self._client.list_objects_page(bucket, prefix=key, max_keys=1)
        return any(info.key == key for info in head.objects)

    # -- one name --------------------------------------------------------------------------

    def _step(self, ours: Entry, theirs: Entry | None, record: Record | None) -> Iterator[Item]:
        self.tally.checked += 1
        if theirs is None and self._rules.direction == DOWNLOAD:
            if ours.name.endswith("/") or not ours.name:
                yield from self._directory(ours)
                return
            theirs = self._find(ours.name) if UNUSUAL.search(ours.name) else None
        decision = decide(ours, theirs, record, self._rules)
        if decision.act == NOTHING:
            self._keep(ours, theirs, record)
        elif decision.act == LEAVE:
            self.tally.left += 1
        else:
            yield self._task(ours, theirs, decision)

    def _keep(self, ours: Entry, theirs: Entry | None, record: Record | None) -> None:
        self.tally.unchanged += 1
        # From now on any difference will be noticed, not only a newer source.
        if theirs is not None and not self._rules.size_only and (record is None or not record.modified):
            self.note(ours, theirs)

    def note(self, ours: Entry, theirs: Entry) -> None:
        """Remember a pair that is in sync as it stands."""
        record = record_of(ours, theirs, self._rules.direction)
        if record.etag:
            self._journal.note(order_of(ours.name), record)

    def _task(self, ours: Entry, theirs: Entry | None, decision: Decision) -> Item:
        task = self._route.transfer(ours, decision.reason)
        if decision.act == LOOK and theirs is not None:
            self._looker.add(task, self._look_for(ours, theirs))
        return task

    def _look_for(self, ours: Entry, theirs: Entry) -> Look:
        if not self._rules.checksum:
            return Look(ours, theirs)
        identity = identity_of(theirs.path if self._rules.direction == DOWNLOAD else ours.path)
        hashes = self._journal.hashes_of(identity) if identity is not None else {}
        return Look(ours, theirs, identity, hashes)

    def _directory(self, ours: Entry) -> Iterator[Item]:
        """Take a key that stands for a directory: below the target it is one."""
        try:
            is_there = ours.size == 0 and self._route.has_local_directory(ours.name)
        except RefusedError:  # the task will say so
            is_there = False
        if is_there:
            self.tally.unchanged += 1
        else:
            yield self._route.transfer(ours, NEW.reason)

    def _find(self, name: str) -> Entry | None:
        try:
            return self._route.find_target(name, self._client)
        except RefusedError:  # the task will say so
            return None

    def _late(self, source: RemoteTree) -> Iterator[Item]:
        """Take the keys that a listing without order gave too late to be merged."""
        for ours in source.late:
            if not self._shard.holds(ours.name) or (self._rules.direction == DOWNLOAD and not self._has_place(ours)):
                continue
            yield from self._step(ours, self._find(ours.name), None)
        yield from self._drain()

    def _missing(self) -> Iterator[Problem]:
        """Report the names of a list that the source does not have."""
        for name in sorted(self._wanted):
            if self._shard.holds(name):
                error = LocalNotFoundError(f"{self._route.source_of(name)} is on the list, and not there")
                yield Problem(self._route.source_of(name), error, self._route.target_of(name), op="sync")

    # -- what the source does not have -----------------------------------------------------

    def _doom(self, theirs: Entry) -> None:
        if not self._delete or self._stands_for_directory(theirs):
            return
        self.tally.doomed += 1
        self._doomed.append((order_of(theirs.name), theirs.size))
        if len(self._doomed) >= DOOMED_AT_ONCE:
            self._write_doomed()

    def _stands_for_directory(self, theirs: Entry) -> bool:
        """Say whether it is a key for a directory that the source has, too."""
        if self._rules.direction == COPY:
            return not theirs.name
        if self._rules.direction != UPLOAD or theirs.size or (theirs.name and not theirs.name.endswith("/")):
            return False
        try:
            return not theirs.name or self._route.has_local_directory(theirs.name)
        except RefusedError:  # no local file could have that name
            return False

    def _write_doomed(self) -> None:
        names, self._doomed = self._doomed, []
        self._keep_or_give_up(lambda: self._journal.doom(names))

    def _spare(self) -> None:
        for name in self._spared:
            self.tally.doomed -= self._journal.spare(name)

    def _keep_or_give_up(self, act: Callable[[], None]) -> None:
        """Go on without deletes when the names cannot be kept."""
        try:
            act()
        except JournalError as exc:
            self.cannot_delete = exc


def _plain_name(name: str) -> bytes:
    """Give the name that a walk finds the file of an unusual key by."""
    parents, last = split_relative(name)
    return b"/".join((*parents, last))
