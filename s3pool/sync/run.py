"""One sync from start to end: lock, compare, transfer, and deletes last."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

from s3pool.errors import LocalFileError
from s3pool.filters import NameFilter, Names
from s3pool.record import dataclass, field
from s3pool.shard import WHOLE, Shard
from s3pool.sync.blocks import Block, order_of
from s3pool.sync.compare import DOWNLOAD, UPLOAD, Entry, Record, Rules
from s3pool.sync.emptied import remove_empty_directories
from s3pool.sync.guard import HALF, MaxDelete, Situation, why_hold_back
from s3pool.sync.journal import Journal
from s3pool.sync.leftovers import clear_leftovers
from s3pool.sync.lock import PairLock
from s3pool.sync.look import IN_SYNC, Looker
from s3pool.sync.obstacles import WAITS, Obstacles
from s3pool.sync.plan import Plan, Tally
from s3pool.sync.scan import Ahead, LocalSource, LocalTarget, RemoteTree
from s3pool.sync.state import NO_STATE, StatePaths
from s3pool.sync.unfinished import Unfinished
from s3pool.transfer.beneath import local_error, remove_orphan
from s3pool.transfer.runner import run as run_tasks
from s3pool.transfer.runner import run_deletes
from s3pool.transfer.tasks import (
    DONE,
    SKIPPED,
    CopyTask,
    DeleteTask,
    DownloadTask,
    Item,
    Outcome,
    Problem,
    RemoveTask,
    Summary,
    Task,
)
from s3pool.transfer.walk import LINKS_FILES

if TYPE_CHECKING:
    from s3pool.location import S3Path
    from s3pool.model import ListPage
    from s3pool.s3.client import S3Client
    from s3pool.sync.route import Route
    from s3pool.transfer.engine import Engine

ALL_NAMES = NameFilter()

T = TypeVar("T")
ListPages = Callable[["S3Client", str, str], Iterable["ListPage"]]
Watch = Callable[[Iterable[T]], Iterable[T]]


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """What the user wants of a sync. ``max_duration_s`` 0 is no limit."""

    size_only: bool = False
    checksum: bool = False
    exact_timestamps: bool = False
    update: bool = False
    no_clobber: bool = False
    names: Names = ALL_NAMES
    links: str = LINKS_FILES
    delete: bool = False
    delete_excluded: bool = False
    max_delete: MaxDelete = HALF
    allow_empty_source: bool = False
    max_duration_s: float = 0.0
    shard: Shard = WHOLE
    dry_run: bool = False
    resume: bool = True
    state: StatePaths = NO_STATE
    lock: str = ""  # the user's own, instead of the pair's

    @property
    def deletes(self) -> bool:
        """Say whether anything is to be deleted at all."""
        return self.delete or self.delete_excluded

    def rules(self, direction: str) -> Rules:
        """Give what counts as a difference."""
        return Rules(
            direction,
            size_only=self.size_only,
            checksum=self.checksum,
            exact_timestamps=self.exact_timestamps,
            update=self.update,
            no_clobber=self.no_clobber,
        )


@dataclass(slots=True)
class Report:
    """What a sync did so far; it is there for who must know it after an interrupt."""

    summary: Summary = field(default_factory=Summary)
    tally: Tally = field(default_factory=Tally)
    in_sync: int = 0  # found equal by the workers
    waited: int = 0  # for the deletes, and then had their turn
    held_back: str = ""  # why nothing was deleted, when something would have been
    out_of_time: bool = False
    in_order: bool = True
    started: float = field(default_factory=time.monotonic)

    @property
    def unchanged(self) -> int:
        """Count what needed nothing."""
        return self.tally.unchanged + self.in_sync

    @property
    def skipped(self) -> int:
        """Count what was left alone though it differs, by a rule or for safety's sake."""
        return self.tally.left + self.summary.refused + self.summary.skipped - self.in_sync - self.waited

    @property
    def seconds(self) -> float:
        """Give the time since the start."""
        return time.monotonic() - self.started


class Sync:
    """One run, for the thread that creates it.

    ``list_pages(client, bucket, prefix)`` gives the pages of a listing, ``on_outcome`` hears of each
    task, ``watch`` may wrap the stream of tasks.
    """

    def __init__(
        self,
        route: Route,
        engine: Engine,
        options: SyncOptions,
        *,
        list_pages: ListPages,
        on_outcome: Callable[[Outcome], None],
        report: Report | None = None,
        watch: Watch[Item] = iter,
    ) -> None:
        self._route = route
        self._engine = engine
        self._options = options
        self._list_pages = list_pages
        self._on_outcome = on_outcome
        self._watch = watch
        self._problems: deque[Problem] = deque()
        self._looker = Looker(engine.client, route, content=options.checksum, source=engine.source.client)
        self._obstacles = Obstacles(deletes=options.deletes)
        self._emptied: set[str] = set()  # local directories from which files were removed
        self._listings: list[Ahead[ListPage]] = []
        self._unfinished = Unfinished("" if options.dry_run else options.state.unfinished)
        self.report = report or Report()

    def run(self) -> Report:
        """Make the target like the source.

        Raises:
            JournalLockedError: another run is at work. LocalFileError: the source is missing.
        """
        if self._route.direction == UPLOAD:
            _check_root(self._route.root)
        with ExitStack() as stack:
            self._lock(stack)
            journal = Journal(self._options.state.journal, read_only=self._options.dry_run)
            stack.callback(journal.close)
            stack.callback(self._close_listings)
            stack.callback(self._unfinished.close)
            self._work(journal)
        return self.report

    def _lock(self, stack: ExitStack) -> None:
        options = self._options
        path = options.lock or options.state.lock
        if path and not options.dry_run:
            stack.enter_context(PairLock(path, optional=not options.lock))

    def _close_listings(self) -> None:
        for listing in self._listings:
            listing.close()

    def _work(self, journal: Journal) -> None:
        plan = self._plan(journal)
        self.report.tally = plan.tally
        self._engine.why_not = self._why_not
        self._engine.in_question = self._looker.holds
        if self._options.resume and self._options.state.unfinished and not self._options.dry_run:
            self._engine.memory = self._unfinished
        try:
            run_tasks(
                self._watch(plan),
                self._engine,
                on_outcome=lambda outcome: self._take(outcome, journal, plan),
                rehearse=self._options.dry_run,
                summary=self.report.summary,
            )
        finally:
            self.report.out_of_time = plan.out_of_time
            self.report.in_order = plan.in_order
        if plan.ended and self.report.summary.stopped_by is None and not self._options.dry_run:
            clear_leftovers(self._route, self._unfinished, self._engine.client)
        if self._options.deletes:
            self._delete(journal, plan)
        if self._obstacles.waiting and self.report.summary.stopped_by is None and not self._time_is_up():
            self._transfer_waiting(journal, plan)

    def _why_not(self, task: Task) -> str:
        """Say why a transfer is not made now; called by the workers."""
        return self._looker.why_not(task) or self._obstacles.why_wait(task)

    def _transfer_waiting(self, journal: Journal, plan: Plan) -> None:
        """Make the transfers that had something in their way, which is deleted now, or never will be."""
        tasks = self._obstacles.waiting
        if not self._options.dry_run:
            self._obstacles.clear()
            self._engine.why_not = self._obstacles.why_wait
        else:
            self._engine.why_not = None
        self.report.waited = len(tasks)
        run_tasks(
            tasks,
            self._engine,
            on_outcome=lambda outcome: self._take(outcome, journal, plan),
            rehearse=self._options.dry_run,
            summary=self.report.summary,
        )

    # -- the streams -----------------------------------------------------------------------

    def _plan(self, journal: Journal) -> Plan:
        options = self._options
        return Plan(
            self._route,
            self._source(),
            self._target(),
            rules=options.rules(self._route.direction),
            names=options.names,
            journal=journal,
            client=self._engine.client,
            looker=self._looker,
            problems=self._problems,
            shard=options.shard,
            delete=options.deletes,
            time_is_up=self._time_is_up,
        )

    def _source(self) -> Iterable[Block]:
        names = self._options.names
        if self._route.direction != UPLOAD:
            return self._remote(self._engine.source.client, self._route.source, names)
        return LocalSource(
            self._route.root,
            names=names,
            links=self._options.links,
            target_of=self._route.target_of,
            on_problem=self._problems.append,
        )

    def _target(self) -> Iterable[Block]:
        names = ALL_NAMES if self._options.delete_excluded else self._options.names
        if self._route.direction != DOWNLOAD:
            return self._remote(self._engine.client, self._route.target, names)
        on_part = None if self._options.dry_run else self._sweep
        return LocalTarget(self._route.root, names=names, on_problem=self._problems.append, on_part=on_part)

    def _sweep(self, path: bytes) -> None:
        """Remove a temporary file of a run that was killed, unless it may still be of use."""
        if not self._unfinished.knows_part(os.fsdecode(os.path.basename(path))):
            remove_orphan(path)

    def _remote(self, client: S3Client, tree: S3Path, names: Names) -> RemoteTree:
        pages = Ahead(self._list_pages(client, tree.bucket, tree.tree_prefix))
        self._listings.append(pages)
        return RemoteTree(pages, tree.tree_prefix, names=names)

    def _time_is_up(self) -> bool:
        limit = self._options.max_duration_s
        return limit > 0 and self.report.seconds >= limit

    # -- outcomes --------------------------------------------------------------------------

    def _take(self, outcome: Outcome, journal: Journal, plan: Plan) -> None:
        """Take one outcome home: into the journal, and to who listens."""
        task = outcome.task
        look = None if isinstance(task, Problem) else self._looker.take(task)
        while self._looker.new_hashes:
            journal.note_hash(*self._looker.new_hashes.popleft())
        name = self._route.name_of(task)
        if outcome.state == DONE and name is not None:
            self._note(name, outcome, journal)
        elif outcome.state == SKIPPED and outcome.done.skipped == IN_SYNC and look is not None:
            self.report.in_sync += 1
            plan.note(look.source, look.target)
        elif outcome.state == SKIPPED and outcome.done.skipped == WAITS:
            self._obstacles.keep(task)
            return
        self._on_outcome(outcome)

    def _note(self, name: str, outcome: Outcome, journal: Journal) -> None:
        if isinstance(outcome.task, (DeleteTask, RemoveTask)):
            journal.note(order_of(name), None)
            if isinstance(outcome.task, RemoveTask):
                self._emptied.add(os.path.dirname(name))
        else:
            journal.note_transfer(order_of(name), self._record(name, outcome))

    def _record(self, name: str, outcome: Outcome) -> Record | None:
        """Give how a transfer left its pair; None where that cannot be told."""
        task, done = outcome.task, outcome.done
        if isinstance(task, CopyTask):
            source = Entry(name, done.size, etag=task.etag, last_modified=task.last_modified)
            return Record(done.size, source.stamp, done.etag) if done.etag else None
        if not done.etag or done.mtime_ns is None:
            return None
        if not isinstance(task, DownloadTask):
            return Record(done.size, str(done.mtime_ns), done.etag)
        return Record(done.size, str(done.mtime_ns), done.etag, task.last_modified)

    # -- deletes ---------------------------------------------------------------------------

    def _delete(self, journal: Journal, plan: Plan) -> None:
        reason = self._why_hold_back(plan)
        if reason and (plan.tally.doomed or not plan.ended):
            self.report.held_back = reason
        if reason or not plan.tally.doomed:
            return
        act = self._rehearse_deletes if self._options.dry_run else run_deletes
        act(
            self._iter_removals(journal),
            self._engine,
            on_outcome=lambda outcome: self._take(outcome, journal, plan),
            summary=self.report.summary,
        )
        if self._emptied and not self._options.dry_run:
            remove_empty_directories(self._route.root, self._emptied)

    def _why_hold_back(self, plan: Plan) -> str:
        if plan.cannot_delete is not None:
            return plan.cannot_delete.message
        summary = self.report.summary
        situation = Situation(
            scans_ended=plan.ended and summary.stopped_by is None,
            in_order=plan.in_order,
            out_of_time=plan.out_of_time,
            failed=summary.failed,
            refused=summary.refused,
            not_started=summary.not_started,
            source_names=plan.tally.source_names,
            target_names=plan.tally.target_names,
            doomed=plan.tally.doomed,
        )
        options = self._options
        return why_hold_back(situation, max_delete=options.max_delete, allow_empty_source=options.allow_empty_source)

    def _iter_removals(self, journal: Journal) -> Iterator[DeleteTask | RemoveTask]:
        for name, size in journal.iter_doomed():
            if self._time_is_up():
                self.report.out_of_time = True
                return
            yield self._route.removal(name.decode("utf-8", "surrogateescape"), size)

    def _rehearse_deletes(
        self,
        tasks: Iterable[DeleteTask | RemoveTask],
        engine: Engine,
        *,
        on_outcome: Callable[[Outcome], None],
        summary: Summary,
    ) -> Summary:
        return run_tasks(tasks, engine, on_outcome=on_outcome, rehearse=True, summary=summary)


def _check_root(root: str) -> None:
    """See to it that the source is there before anything is asked of the target.

    Raises:
        LocalNotFoundError: it is missing. LocalFileError: it cannot be read, or is no directory.
    """
    try:
        with os.scandir(root or "."):
            pass
    except NotADirectoryError as exc:
        raise LocalFileError(f"{root} is no directory: sync takes trees, cp takes files") from exc
    except OSError as exc:
        raise local_error("read", root, exc) from exc
