"""One sync from start to end: lock, compare, transfer, and deletes last."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from s3pool.dialect import HIDES_BELOW
from s3pool.errors import NotFoundError
from s3pool.filters import WHOLE, NameRange, Names
from s3pool.location import name_bytes
from s3pool.sync.compare import DOWNLOAD, UPLOAD, Batch, Entry, Record, may_change_unseen
from s3pool.sync.content import IN_SYNC, ContentComparer, identity_of, is_settled
from s3pool.sync.job import ALL_NAMES, Partners, Report, Situation, SyncOptions, why_hold_back
from s3pool.sync.journal import AS_IT_IS, Journal
from s3pool.sync.pair import WAITS, Conflicts, lock_pair, prune_empty_dirs
from s3pool.sync.plan import SOURCE, TARGET, Plan
from s3pool.sync.scan import Ahead, RemoteTree, check_root, is_hidden, local_source, local_target
from s3pool.transfer.part_file import SHARDS_APART_S, remove_orphan
from s3pool.transfer.resume import Leftovers, Unfinished, tell_swept
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
    UploadTask,
)
from s3pool.transfer.walk import EVERYTHING, LocalFiles, Walk
from s3pool.units import NANO

if TYPE_CHECKING:
    from s3pool.location import S3Path
    from s3pool.model import ListPage
    from s3pool.s3.client import S3Client
    from s3pool.sync.pair import SyncPair
    from s3pool.transfer.context import TransferContext


T = TypeVar("T")
ListPages = Callable[["S3Client", "S3Path", NameRange, bool], Iterable["ListPage"]]
Watch = Callable[[Iterable[T]], Iterable[T]]


class Sync:
    """One run, for the thread that creates it.

    ``list_pages(client, tree, within, in_order)`` gives the pages of a listing, of a server that
    is known to have no order one after another; ``on_outcome`` hears of each task, ``watch`` may
    wrap the stream of tasks. With ``partners`` the guards judge by what all of them have found.
    """

    def __init__(
        self,
        route: SyncPair,
        context: TransferContext,
        options: SyncOptions,
        *,
        list_pages: ListPages,
        on_outcome: Callable[[Outcome], None],
        report: Report | None = None,
        watch: Watch[Item] = iter,
        partners: Partners | None = None,
    ) -> None:
        self._route, self._context, self._options = route, context, options
        self._list_pages, self._on_outcome = list_pages, on_outcome
        self._watch, self._partners = watch, partners
        self._problems: deque[Problem] = deque()
        self._within = options.shard.range or EVERYTHING
        self._looker = ContentComparer(context, route, options.rules(route.direction))
        self._obstacles = Conflicts(deletes=options.deletes)
        self._emptied: set[str] = set()  # local directories from which files were removed
        self._listings: list[Ahead[ListPage]] = []
        self._swept = 0
        self._told: set[tuple[str, str]] = set()  # sources and targets of problems
        self._unfinished = Unfinished(
            "" if options.dry_run else options.state.unfinished,
            pool=lambda: options.state.pool,
            shared=bool(options.lock),
            resumes=options.resume,
        )
        self.report = report or Report()

    def run(self) -> Report:
        """Make the target like the source.

        Raises JournalLockedError: another run is at work. LocalFileError: the source is missing.
        """
        if self._route.direction == UPLOAD:
            check_root(self._route.root)
        options, state = self._options, self._options.state
        with ExitStack() as stack:
            if options.takes_lock:
                stack.enter_context(lock_pair(options.lock, state, dry_run=options.dry_run))
            self._journal = Journal(state.journal, read_only=options.dry_run)
            stack.callback(self._journal.close)
            stack.callback(self._close_listings)
            stack.callback(self._unfinished.close)
            self._work()
        return self.report

    def _close_listings(self) -> None:
        for listing in self._listings:
            listing.close()

    def _work(self) -> None:
        options, summary = self._options, self.report.summary
        self._context.why_not = lambda task: self._looker.why_not(task) or self._obstacles.why_wait(task)
        self._context.in_question = self._looker.holds
        if options.state.unfinished and not options.dry_run:
            self._context.memory = self._unfinished
        try:
            plan = self._compare_and_transfer()
        finally:
            tell_swept(self._swept)
        if plan.ended and not self._is_missing(plan) and summary.stopped_by is None and not options.dry_run:
            Leftovers(self._unfinished, self._context.client).clear_all(self._is_mine)
        if options.deletes and not isinstance(summary.stopped_by, NotFoundError):
            while self._delete(plan) and self._may_have_bared:
                self._start_over()
                plan = self._compare_and_transfer()
            if self._partners is not None:
                self._partners.wait_for_deletes()
        if self._obstacles.waiting and summary.stopped_by is None and not self._time_is_up():
            self._transfer_waiting(plan)

    def _compare_and_transfer(self) -> Plan:
        """Do all that the plan wants; from the start where a side turned out to be listed without order.

        What was transferred until then is in the journal, and needs nothing the second time.
        """
        summary = self.report.summary
        while True:
            plan = self._plan()
            self.report.tally = plan.tally
            try:
                self._run(run_tasks, self._watch(plan), plan, rehearse=self._options.dry_run)
            finally:
                self.report.out_of_time = plan.out_of_time
            if not self._learn_order(plan) or summary.stopped_by is not None or plan.out_of_time:
                return plan
            self._start_over()

    def _start_over(self) -> None:
        """Forget what a comparison has found, but not what was done."""
        self._close_listings()
        self._obstacles.waiting.clear()
        self.report.summary.skipped -= self.report.in_sync
        self.report.in_sync = 0
        self._journal.unmark_all()

    @property
    def _may_have_bared(self) -> bool:
        """Whether deletions may have bared keys of the target that its listing had hidden."""
        is_remote = self._route.direction != DOWNLOAD and self._context.client.dialect.knows(HIDES_BELOW)
        is_whole = self._partners is None and not self.report.held_back and self.report.summary.stopped_by is None
        return is_remote and is_whole and not self._options.dry_run and not self._time_is_up()

    def _run(self, act: Callable[..., object], tasks: Iterable[Item], plan: Plan, **how: bool) -> None:
        take = partial(self._take, plan=plan)
        act(tasks, self._context, on_outcome=take, summary=self.report.summary, **how)

    def _learn_order(self, plan: Plan) -> bool:
        """Remember which sides are listed without order; return whether one is to be sorted now."""
        was_cut = False
        for side, tree in plan.remote_sides.items():
            name = self._side_name(side)
            is_sorted_here = name in self.report.unordered
            if not tree.is_ordered and not is_sorted_here:
                was_cut = True
                self.report.unordered.append(name)
            if not tree.is_ordered or (is_sorted_here and plan.ended):
                self._journal.note_order(f"{side} {name}", is_ordered=tree.is_ordered)
        return was_cut

    def _side_name(self, side: str) -> str:
        return self._route.source_text if side == SOURCE else self._route.target_text

    def _is_missing(self, plan: Plan) -> bool:
        """Find out whether there is no source at all, where that is no empty directory or bucket."""
        tree = self._route.source
        source = plan.remote_sides.get(SOURCE)
        if source is None or source.seen or not tree.tree_prefix or self._options.allow_empty_source:
            return False
        if self._within != EVERYTHING and self._context.source.client.has_keys(tree.bucket, tree.tree_prefix):
            return False
        self.report.summary.stopped_by = NotFoundError(
            404, "NoSuchKey", detail="no key has that prefix", resource=self._route.source_text, op="ListObjects"
        )
        return True

    def _count_source(self, plan: Plan) -> int:
        """Count the names of the source; where a range has none, whether there is one elsewhere."""
        count = plan.tally.source_names
        if count or self._within == EVERYTHING:
            return count
        names = self._options.names
        if self._route.direction == UPLOAD:
            walk = Walk(self._route.root, names=names, links=self._options.links)
            return int(any(isinstance(found, LocalFiles) for found in walk))
        tree = self._route.source
        pages = self._list_pages(self._context.source.client, tree, EVERYTHING, False)
        keys = (info.key[len(tree.tree_prefix) :] for page in pages for info in page.objects)
        return int(any(name and not name.endswith("/") and names.admits(name) for name in keys))

    def _transfer_waiting(self, plan: Plan) -> None:
        """Make the transfers that had something in their way, which is deleted now, or never will be."""
        self._context.why_not = None
        if not self._options.dry_run:
            self._obstacles.clear()
            self._context.why_not = self._obstacles.why_wait
        self.report.waited = len(self._obstacles.waiting)
        self._run(run_tasks, self._obstacles.waiting, plan, rehearse=self._options.dry_run)

    # -- the streams -----------------------------------------------------------------------

    def _plan(self) -> Plan:
        return Plan(
            self._route,
            self._context,
            self._options,
            source=self._source(),
            target=self._target(),
            journal=self._journal,
            looker=self._looker,
            problems=self._problems,
            told=self._told,
            time_is_up=self._time_is_up,
        )

    def _source(self) -> Iterable[Batch]:
        names = self._options.names
        if self._route.direction != UPLOAD:
            return self._remote(SOURCE, self._route.source, names)
        kept, target = self._context.not_kept, self._route.target
        return local_source(
            self._route.root,
            names=names,
            links=self._options.links,
            within=self._within,
            target_of=self._route.target_of,
            on_problem=self._problems.append,
            on_left=kept.teller(self._route.root, target) if kept is not None else None,
        )

    def _target(self) -> Iterable[Batch]:
        names = ALL_NAMES if self._options.delete_excluded else self._options.names
        if self._route.direction != DOWNLOAD:
            return self._remote(TARGET, self._route.target, names)
        on_part = None if self._options.dry_run else self._sweep
        return local_target(
            self._route.root, names=names, within=self._within, on_problem=self._problems.append, on_part=on_part
        )

    def _sweep(self, path: bytes) -> None:
        """Remove a temporary file of a run that was killed, unless it may still be of use."""
        if not self._unfinished.knows_part(os.fsdecode(os.path.basename(path))):
            min_age_s = 0.0 if self._options.shard == WHOLE else SHARDS_APART_S
            self._swept += bool(remove_orphan(path, min_age_s=min_age_s))

    def _remote(self, side: str, tree: S3Path, names: Names) -> RemoteTree:
        name = self._side_name(side)
        unordered = self.report.unordered
        if name not in unordered and self._journal.is_unordered(f"{side} {name}"):
            unordered.append(name)
        sorts = name in unordered
        client = self._context.source.client if side == SOURCE else self._context.client
        pages = Ahead(self._list_pages(client, tree, EVERYTHING if sorts else self._within, not sorts))
        self._listings.append(pages)
        return RemoteTree(pages, tree.tree_prefix, names=names, sorts=sorts, within=self._within)

    def _time_is_up(self) -> bool:
        limit = self._options.max_duration_s
        return limit > 0 and self.report.seconds >= limit

    # -- outcomes --------------------------------------------------------------------------

    def _take(self, outcome: Outcome, plan: Plan) -> None:
        task = outcome.task
        look = None if isinstance(task, Problem) else self._looker.take(task)
        while self._looker.new_hashes:
            self._journal.note_hash(*self._looker.new_hashes.popleft())
        name = self._route.name_of(task)
        if outcome.state == DONE and name is not None:
            self._note(name, outcome)
        elif outcome.state == SKIPPED and outcome.done.skipped == IN_SYNC and look is not None:
            self.report.in_sync += 1
            if look.target is not None:
                plan.note(look.source, look.target)
        elif outcome.state == SKIPPED and outcome.done.skipped == WAITS:
            self._obstacles.keep(task)
            return
        self._on_outcome(outcome)

    def _note(self, name: str, outcome: Outcome) -> None:
        task, done, journal = outcome.task, outcome.done, self._journal
        if isinstance(task, (DeleteTask, RemoveTask)):
            journal.note(name_bytes(name), None)
            if isinstance(task, RemoveTask):
                self._emptied.add(os.path.dirname(name))
            return
        journal.note_transfer(name_bytes(name), self._record(name, outcome))
        if self._options.checksum and isinstance(task, (UploadTask, DownloadTask)) and done.etag:
            # With which ETag it was sent or came, for where that tells nothing of the content.
            # Of a file that was sent the state that was read: it may have been edited since.
            identity = done.sent if isinstance(task, UploadTask) else identity_of(task.target)
            if identity is not None and identity[2:4] == (done.size, done.mtime_ns) and is_settled(identity):
                journal.note_hash(identity, AS_IT_IS, done.etag)

    def _record(self, name: str, outcome: Outcome) -> Record | None:
        """Return the record of a pair after its transfer; None if that is not known."""
        task, done = outcome.task, outcome.done
        if isinstance(task, CopyTask):
            source = Entry(name, done.size, etag=task.etag, last_modified=task.last_modified)
            return Record(done.size, source.stamp, done.etag) if done.etag else None
        if not done.etag or done.mtime_ns is None:
            return None
        if not isinstance(task, DownloadTask):
            if may_change_unseen(done.mtime_ns, time.time_ns() - int(outcome.seconds * NANO)):
                return None  # the next run looks at it
            return Record(done.size, str(done.mtime_ns), done.etag)
        return Record(done.size, str(done.mtime_ns), done.etag, task.last_modified)

    # -- deletes ---------------------------------------------------------------------------

    def _delete(self, plan: Plan) -> bool:
        """Delete what the source has not; return whether something was."""
        reason = self._why_hold_back(plan)
        if reason and (plan.tally.to_delete or not plan.ended):
            self.report.held_back = reason
        if reason or not plan.tally.to_delete:
            return False
        before = self.report.summary.deleted
        act = partial(run_tasks, rehearse=True) if self._options.dry_run else run_deletes
        self._run(act, self._iter_removals(), plan)
        if self._emptied and not self._options.dry_run:
            prune_empty_dirs(self._route.root, self._emptied)
        return self.report.summary.deleted > before

    def _why_hold_back(self, plan: Plan) -> str:
        summary = self.report.summary
        situation = Situation(
            scans_ended=plan.ended and summary.stopped_by is None and plan.cannot_delete is None,
            out_of_time=plan.out_of_time,
            failed=summary.failed,
            refused=summary.refused,
            not_started=summary.not_started,
            source_names=self._count_source(plan),
            target_names=plan.tally.target_names,
            to_delete=plan.tally.to_delete,
        )
        if self._partners is not None:
            situation = self._partners.agree(situation)
        if plan.cannot_delete is not None:
            return plan.cannot_delete.message
        options = self._options
        return why_hold_back(situation, max_delete=options.max_delete, allow_empty_source=options.allow_empty_source)

    def _is_mine(self, target: str) -> bool:
        """Return whether a key, or a file by its absolute path, is of this shard."""
        is_local, root = self._route.direction == DOWNLOAD, os.path.abspath(self._route.root)
        name = os.path.relpath(target, root) if is_local else target[len(self._route.target.tree_prefix) :]
        return self._options.shard.holds(name)

    def _iter_removals(self) -> Iterator[DeleteTask | RemoveTask]:
        client = self._context.source.client
        for name, size in self._journal.iter_to_delete():
            if self._time_is_up():
                self.report.out_of_time = True
                return
            text = name.decode("utf-8", "surrogateescape")
            if self._route.direction == UPLOAD or not is_hidden(client, self._route.source, text):
                yield self._route.removal(text, size)
