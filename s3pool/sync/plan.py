"""Merge two sorted streams into tasks, as they are read; nothing is ever there as a whole."""

from __future__ import annotations

import contextlib
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import compress
from typing import TYPE_CHECKING

from s3pool.dialect import NO_ODD_KEYS
from s3pool.errors import JournalError, LocalNotFoundError, RefusedError, S3Error, UnorderedError
from s3pool.location import name_bytes
from s3pool.sync.compare import (
    COPY,
    DOWNLOAD,
    LEAVE,
    LOOK,
    LOOK_AT_CONTENT,
    LOOK_CLOSER,
    NEW,
    NOTHING,
    UPLOAD,
    Batch,
    Decision,
    Entry,
    Record,
    Row,
    decide,
    may_change_unseen,
    merge,
    record_of,
    rows_to_note,
)
from s3pool.sync.content import ContentComparer, Look, identity_of
from s3pool.sync.job import ChangedNames, ListedNames, SyncOptions, Tally
from s3pool.sync.scan import RemoteTree, UnusualKeys, plain_name
from s3pool.transfer.safe_path import KeyMapper
from s3pool.transfer.tasks import Item, Problem
from s3pool.transfer.walk import EVERYTHING

if TYPE_CHECKING:
    from s3pool.filters import Names, Shard
    from s3pool.sync.journal import Journal
    from s3pool.sync.pair import SyncPair
    from s3pool.transfer.context import TransferContext

SOURCE, TARGET = "source", "target"
MARKED_AT_ONCE = 1000  # names that are written to disk together
UNUSUAL = re.compile(r"(?:^|/)\.?/")  # an empty or a dot component: a walk names the file otherwise


class RecordReader:
    """The journal's records, for names that come in order; what no side has is forgotten."""

    def __init__(self, journal: Journal, names: Names, shard: Shard) -> None:
        self._journal, self._names, self._shard = journal, names, shard
        after = None if shard.range is None else shard.range.after
        self._pages = journal.iter_rows(name_bytes(after or ""))
        self._rows: list[Row] = []
        self._at = 0

    def take(self, names: list[bytes]) -> list[Row | None]:
        """Return the rows of names, which must follow those asked for before; None where there is no row."""
        self._forget_before(names[0])
        rows = self._next(len(names))
        if [row[0] for row in rows] == names:
            self._at += len(rows)
            return list(rows)
        if not rows or rows[0][0] > names[-1]:
            return [None] * len(names)
        found: list[Row | None] = []
        for name in names:
            self._forget_before(name)
            rows = self._next(1)
            is_there = bool(rows) and rows[0][0] == name
            found.append(rows[0] if is_there else None)
            self._at += is_there
        return found

    def _next(self, count: int) -> list[Row]:
        while self._at + count > len(self._rows):
            more = next(self._pages, None)
            if more is None:
                break
            self._rows, self._at = self._rows[self._at :] + more, 0
        return self._rows[self._at : self._at + count]

    def _forget_before(self, name: bytes) -> None:
        if isinstance(self._names, ChangedNames) and not (self._rows and name <= self._rows[-1][0]):
            self._pages, self._rows, self._at = self._journal.iter_rows(name), [], 0
        while (rows := self._next(1)) and rows[0][0] < name:
            self._at += 1
            known = rows[0][0].decode("utf-8", "surrogateescape")
            if self._names.admits(known) and self._shard.holds(known):
                self._journal.note(rows[0][0], None)


class Plan:
    """The tasks of one sync, as an iterator to be used once.

    ``problems`` is where the scans put what cannot become a task; each takes its place in the stream, unless ``told``
    has it. ``ended`` is True when both streams were read to their ends; the stream is cut short where a side turns
    out to be listed without order. The names to be deleted are with the journal.
    """

    def __init__(
        self,
        route: SyncPair,
        context: TransferContext,
        options: SyncOptions,
        *,
        source: Iterable[Batch],
        target: Iterable[Batch],
        journal: Journal,
        looker: ContentComparer,
        problems: deque[Problem],
        told: set[tuple[str, str]],
        time_is_up: Callable[[], bool],
    ) -> None:
        self._route, self._options = route, options
        self._source, self._target = source, target
        self._rules, self._facts, self._shard = options.rules(route.direction), options.facts, options.shard
        self._journal, self._looker = journal, looker
        self._client, self._source_client = context.client, context.source.client
        self._problems, self._told = problems, told
        self._time_is_up = time_is_up
        names, shard = options.names, options.shard
        self._wanted = names.wanted if isinstance(names, ListedNames) else set()
        self._records = RecordReader(journal, names, shard)
        self._mapper = KeyMapper(self._exists)
        self._to_delete: list[tuple[bytes, int]] = []
        is_part = shard.range is not None and route.direction == DOWNLOAD
        self._unusual = UnusualKeys(shard.range or EVERYTHING, self._list_keys) if is_part else None
        self._unmarked: list[bytes] = []  # the files of keys with unusual names; there are few
        self.tally = Tally()
        self._is_read = self.ended = self.out_of_time = False
        self.cannot_delete: JournalError | None = None

    def __iter__(self) -> Iterator[Item]:
        with contextlib.suppress(UnorderedError):
            yield from self._merged()

    def _merged(self) -> Iterator[Item]:
        for ours, theirs in merge(self._iter_source(), self._iter_target()):
            if self._is_out_of_time():
                return
            yield from self._drain()
            if ours is not None:
                yield from self._compare(ours, theirs)
            elif theirs is not None:
                self._mark_all(theirs)
            if self.out_of_time:
                return
        yield from self._drain()
        yield from self._missing()
        self._is_read = True
        self._write_to_delete()
        self.ended = True

    @property
    def remote_sides(self) -> dict[str, RemoteTree]:
        """Return the sides that are in S3."""
        sides = {SOURCE: self._source, TARGET: self._target}
        return {side: tree for side, tree in sides.items() if isinstance(tree, RemoteTree)}

    def _is_out_of_time(self) -> bool:
        self.out_of_time = self._time_is_up()
        return self.out_of_time

    def _drain(self) -> Iterator[Problem]:
        while self._problems:
            problem = self._problems.popleft()
            if (name := (problem.source, problem.target)) not in self._told:
                self._told.add(name)
                yield problem

    # -- the two sides ---------------------------------------------------------------------

    def _iter_source(self) -> Iterator[Batch]:
        for block in self._source:
            self._wanted.difference_update(block.names)
            # A key that stands for a directory is nothing that could be lost.
            self.tally.source_names += sum(not name.endswith("/") for name in block.names if name)
            # The keys of all shards are asked about: another one's may need the same file.
            has_places = self._rules.direction != DOWNLOAD or not block.names or self._mapper.check_all(block.names)
            yield self._of_shard(block if has_places else block.pick(map(self._has_place, block.names)))

    def _iter_target(self) -> Iterator[Batch]:
        for block in map(self._of_shard, self._target):
            self.tally.target_names += len(block.names)
            yield block

    def _of_shard(self, block: Batch) -> Batch:
        if self._shard.is_whole or self._shard.range is not None:  # of a range nothing else was read
            return block
        return block.pick(map(self._shard.holds, block.names))

    def _has_place(self, name: str) -> bool:
        """Return whether a key can have a file below the target; report a key that cannot."""
        source = self._route.source
        try:
            self._mapper.check(source.bucket, source.tree_prefix, name)
        except RefusedError as exc:
            if self._shard.holds(name):
                place = self._route.target_of(name.lstrip("/"))
                self._problems.append(Problem(self._route.source_of(name), exc, place, op="download"))
            return False
        if UNUSUAL.search(name):
            self._unmarked.append(plain_name(name))
        return True

    # -- names of the source ---------------------------------------------------------------

    def _compare(self, ours: Batch, theirs: Batch | None) -> Iterator[Item]:
        rows = self._records.take(list(map(name_bytes, ours.names)))
        if self._facts.active:
            ours, theirs, rows = self._with_facts(ours, theirs, rows)
        if theirs is not None and theirs.names and self._are_in_sync(ours, theirs, rows):
            return
        for place, row in enumerate(rows):
            if self._is_out_of_time():
                return
            other = None if theirs is None else theirs.entry(place)
            yield from self._step(ours.entry(place), other, None if row is None else Record._make(row[1:]))

    def _with_facts(
        self, ours: Batch, theirs: Batch | None, rows: list[Row | None]
    ) -> tuple[Batch, Batch | None, list[Row | None]]:
        """Leave out what the source's size or time excludes: it stays untouched, at the target as well."""
        picks = ours.admitted(self._facts)
        if theirs is not None and self._options.delete_excluded:
            self._mark_all(theirs.pick(not pick for pick in picks))
        return ours.pick(picks), None if theirs is None else theirs.pick(picks), list(compress(rows, picks))

    def _are_in_sync(self, ours: Batch, theirs: Batch, rows: list[Row | None]) -> bool:
        """Note pairs that are all in sync and return True; False only means that each must be compared."""
        rules = self._rules
        if rules.no_clobber or rules.checksum or rules.exact_timestamps or ours.sizes != theirs.sizes:
            return False
        if not rules.size_only:
            fresh = rows_to_note(ours, theirs, rows, direction=rules.direction)
            if fresh is None:
                return False
            self._journal.note_rows(fresh)
        self.tally.checked += len(ours.names)
        self.tally.unchanged += len(ours.names)
        return True

    # -- one name --------------------------------------------------------------------------

    def _step(self, ours: Entry, theirs: Entry | None, record: Record | None) -> Iterator[Item]:
        self.tally.checked += 1
        if theirs is None and self._rules.direction == DOWNLOAD:
            if ours.name.endswith("/") or not ours.name:
                yield from self._directory(ours)
                return
            if UNUSUAL.search(ours.name):
                with contextlib.suppress(RefusedError):  # the task will say so
                    theirs = self._route.find_target(ours.name, self._client)
        # While keys may still come out of order a name may be among them, newer, or as an earlier run left it.
        target = self._target
        is_listed = not isinstance(target, RemoteTree) or target.has_ended or not (self._rules.update or record)
        decision = decide(ours, theirs, record, self._rules, is_listed=is_listed)
        if decision.act == LEAVE:
            self.tally.left += 1
        elif decision.act != NOTHING:
            yield self._task(ours, theirs, decision, record)
        else:
            self.tally.unchanged += 1
            # From now on any difference will be noticed, not only a newer source.
            if theirs is not None and not self._rules.size_only and (record is None or not record.modified):
                self.note(ours, theirs)

    def note(self, ours: Entry, theirs: Entry) -> None:
        """Remember a pair that is in sync as it stands."""
        record = record_of(ours, theirs, self._rules.direction)
        if record.etag and not may_change_unseen(ours.mtime_ns, time.time_ns()):
            self._journal.note(name_bytes(ours.name), record)

    def _task(self, ours: Entry, theirs: Entry | None, decision: Decision, record: Record | None) -> Item:
        task = self._route.transfer(ours, decision.reason)
        if decision.act == LOOK:
            self.tally.looked_at += decision is LOOK_CLOSER
            look = Look(ours, theirs, record=record)
            if theirs is not None and decision in (LOOK_AT_CONTENT, LOOK_CLOSER):
                identity = identity_of(theirs.path if self._rules.direction == DOWNLOAD else ours.path)
                hashes = self._journal.hashes_of(identity) if identity is not None else {}
                look = Look(ours, theirs, by_content=True, hashes=hashes)
            self._looker.add(task, look)
        return task

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

    def _missing(self) -> Iterator[Problem]:
        for name in sorted(self._wanted):
            if self._shard.holds(name):
                error = LocalNotFoundError(f"{self._route.source_of(name)} is on the list, and not there")
                yield Problem(self._route.source_of(name), error, self._route.target_of(name), op="sync")

    # -- what the source does not have -----------------------------------------------------

    def _mark_all(self, theirs: Batch) -> None:
        if not theirs.names:
            return
        self._records.take(list(map(name_bytes, theirs.names)))
        if self._facts.active and not self._options.delete_excluded:
            theirs = theirs.pick(theirs.admitted(self._facts))
        for other in map(theirs.entry, range(len(theirs.names)) if self._options.deletes else ()):
            if self._stands_for_directory(other) or (self._unusual is not None and self._unusual.need(other.name)):
                continue
            self.tally.to_delete += 1
            self._to_delete.append((name_bytes(other.name), other.size))
            if len(self._to_delete) >= MARKED_AT_ONCE:
                self._write_to_delete()

    def _exists(self, bucket: str, key: str) -> bool:
        head = self._client.list_objects_page(bucket, prefix=key, max_keys=1)
        return any(info.key == key for info in head.objects)

    def _list_keys(self, start: str) -> Iterator[str]:
        from s3pool.s3.list_all import list_objects

        source = self._route.source
        try:
            for info in list_objects(self._source_client, source.bucket, prefix=source.tree_prefix + start):
                name = info.key[len(source.tree_prefix) :]
                with contextlib.suppress(RefusedError):
                    plain_name(name)
                    yield name
        except S3Error as exc:
            if exc.code not in NO_ODD_KEYS:
                raise

    def _stands_for_directory(self, theirs: Entry) -> bool:
        if self._rules.direction == COPY:
            return not theirs.name
        if self._rules.direction != UPLOAD or theirs.size or (theirs.name and not theirs.name.endswith("/")):
            return False
        try:
            return not theirs.name or self._route.has_local_directory(theirs.name)
        except RefusedError:  # no local file could have that name
            return False

    def _write_to_delete(self) -> None:
        names, self._to_delete = self._to_delete, []
        try:
            self._journal.mark(names)
            for name in self._unmarked if self._is_read else ():
                self.tally.to_delete -= self._journal.unmark(name)
        except JournalError as exc:  # the run goes on without deletes
            self.cannot_delete = exc
