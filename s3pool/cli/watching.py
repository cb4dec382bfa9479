"""sync and mirror with --watch: a whole pass, and then one over what has changed, until a signal ends it."""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Callable

from s3pool.cli.context import Context
from s3pool.errors import LocalNotFoundError, S3PoolError, UsageError
from s3pool.record import replace
from s3pool.sync.compare import UPLOAD
from s3pool.sync.inotify import TreeWatch
from s3pool.sync.job import ChangedNames, Report, Situation, SyncOptions
from s3pool.sync.pair import SyncPair, lock_pair
from s3pool.transfer.tasks import Outcome
from s3pool.transfer.walk import LocalFiles, Walk

FIRST_RETRY_S, LONGEST_RETRY_S = 2.0, 60.0
GUARDED_S = 600.0  # deletes of so long are judged together, as those of one run
FOREIGN_FLAGS = ("shard", "plan", "files_from", "max_duration", "dry_run")  # they are of runs that end


def check_watchable(args: argparse.Namespace, route: SyncPair) -> None:
    """Refuse --watch for a source in S3, and beside flags of runs that end."""
    if route.direction != UPLOAD:
        raise UsageError(
            f"--watch is for local sources: no server tells of changes in {route.source_text}; start sync by a timer"
        )
    flags = [name for name in FOREIGN_FLAGS if getattr(args, name, None)] + ["processes"] * (args.processes > 1)
    if flags:
        raise UsageError(f"--watch goes on until it is stopped: it does not go with --{flags[0].replace('_', '-')}")


class TreeWatcher:
    """Keeps a target like a local tree.

    ``sync(options, report, changed, self)`` makes one pass, ``tell`` says what stopped it; ``total``
    is the report of all of them. A pass after which something is left to do is repeated, with what
    has changed meanwhile. Its guard judges by the whole tree, and by the deletes of ten minutes.
    """

    def __init__(
        self,
        route: SyncPair,
        options: SyncOptions,
        ctx: Context,
        *,
        sync: Callable[[SyncOptions, Report, ChangedNames | None, TreeWatcher], None],
        tell: Callable[[Report], None],
        total: Report,
    ) -> None:
        self._route, self._options = route, replace(options, takes_lock=False)
        self._sync, self._tell, self._total, self._ctx = sync, tell, total, ctx
        self._lock = lock_pair(options.lock, options.state, dry_run=False)
        self._deleted: deque[tuple[float, int]] = deque()
        self._target_names = 0  # of the whole target
        self._troubles: set[tuple[str, str]] = set()

    def run(self) -> None:
        """Watch until an interrupt; return when the first pass was stopped by an error."""
        options = self._options
        watch = TreeWatch(self._route.root, links=options.links, may_contain=options.names.may_contain)
        changed: set[str] | None = None
        delay_s = 0.0
        try:
            with self._lock:
                is_settled = self._pass(None, self._total)
                while self._total.summary.stopped_by is None:
                    delay_s = 0.0 if is_settled else min(2 * delay_s or FIRST_RETRY_S, LONGEST_RETRY_S)
                    more = watch.wait(delay_s or None)
                    if is_settled or more is None:
                        changed = more
                    elif changed is not None:
                        changed |= more
                    is_settled = self._pass(changed, Report())
        finally:
            watch.close()

    def _pass(self, changed: set[str] | None, report: Report) -> bool:
        """Sync what has changed, or everything; return whether nothing of it is left to do."""
        names = None if changed is None else ChangedNames(changed, self._options.names)
        options = self._options if names is None else replace(self._options, names=names)
        summary, is_first = report.summary, report is self._total
        try:
            self._sync(options, report, names, self)
        except S3PoolError as exc:
            if is_first or isinstance(exc, LocalNotFoundError):
                raise
            summary.stopped_by = exc
        finally:
            if not is_first:
                self._total.add_counts(report.counts)
        self._ctx.out.flush()
        if is_first and summary.stopped_by is not None:
            return False
        # While something is skipped nothing is deleted, as in one run: it is compared again until that is over.
        is_left = summary.stopped_by or report.held_back or summary.failed or summary.not_started
        is_settled = not is_left and not (options.deletes and summary.refused)
        self._count(report, is_settled=is_settled, is_whole=changed is None)
        trouble = (report.held_back, str(summary.stopped_by))
        if is_settled:
            self._troubles.clear()
        elif trouble not in self._troubles:
            self._troubles.add(trouble)
            self._tell(report)
        if is_first:
            self._ctx.out.remark(f"watching {self._route.source_text}")
        return is_settled

    def is_new(self, outcome: Outcome) -> bool:
        """Return whether an outcome is to be told: a failure is, once, until all is well again."""
        trouble = (outcome.task.source, str(outcome.error))
        if outcome.error is None or trouble not in self._troubles:
            self._troubles |= {trouble} if outcome.error else set()
            return True
        return False

    def _count(self, report: Report, *, is_settled: bool, is_whole: bool) -> None:
        """Remember how many names the target has, and how many were deleted of late."""
        deleted, tally, now = report.summary.deleted, report.tally, time.monotonic()
        if is_settled:
            self._target_names = tally.source_names + (0 if is_whole else self._target_names - tally.target_names)
        else:
            self._target_names -= deleted
        self._deleted.append((now, deleted))
        while is_settled and self._deleted[0][0] < now - GUARDED_S:
            self._deleted.popleft()

    def agree(self, situation: Situation) -> Situation:
        """Return the situation of the whole tree, for one of a part of it."""
        before = sum(count for _, count in self._deleted)
        walk = Walk(self._route.root, names=self._options.names, links=self._options.links)
        return replace(
            situation,
            source_names=situation.source_names or int(any(isinstance(found, LocalFiles) for found in walk)),
            target_names=max(situation.target_names, self._target_names) + before,
            to_delete=situation.to_delete + before * bool(situation.to_delete),
        )

    def wait_for_deletes(self) -> None:
        """Go on: there is nobody to wait for."""
