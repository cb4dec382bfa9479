"""Run a stream of tasks on the workers; outcomes come home to the calling thread."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from s3pool.errors import CREDENTIAL_CODES, S3Error, S3PoolError, UnusableAnswerError, is_pool_dead
from s3pool.interrupts import signals_held
from s3pool.transfer.context import TransferContext
from s3pool.transfer.delete import delete_batch, iter_batches
from s3pool.transfer.tasks import (
    ARCHIVED,
    NOT_STARTED,
    SKIPPED,
    CopyTask,
    DeleteTask,
    Done,
    DownloadTask,
    Item,
    Outcome,
    Problem,
    RemoveTask,
    Summary,
    kind_of,
)
from s3pool.transfer.window import TransferWindow, perform
from s3pool.transfer.workers import Flow

logger = logging.getLogger(__name__)

BULKY_BYTES = 16 << 20  # shorter downloads mostly wait for the server, whoever has the processors

STOP_WITHIN_S = 3.5  # what is in flight has this long after an interrupt
ABORT_WITHIN_S = 1.5  # and what hung all that time is aborted from outside: five seconds in all
# Failures that every further task would meet as well.
FATAL_CODES = CREDENTIAL_CODES | {"InvalidBucketName", "NoSuchBucket", "QuotaExceeded"}
ARCHIVED_CODE = "InvalidObjectState"  # what lies in an archive must be restored before it can be read
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")
R = TypeVar("R")
MOST_UNUSABLE = 3  # then it is the store, and not the objects
OnOutcome = Callable[[Outcome], None]


def is_fatal(error: Exception) -> bool:
    """Return whether every further task would fail alike, so that the run had better stop."""
    if is_pool_dead(error):
        return True
    if isinstance(error, S3Error):
        return error.code in FATAL_CODES
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in DISK_FULL


def run(
    tasks: Iterable[Item],
    context: TransferContext,
    *,
    on_outcome: OnOutcome,
    rehearse: bool = False,
    summary: Summary | None = None,
    is_fatal: Callable[[Exception], bool] = is_fatal,
) -> Summary:
    """Do all transfers and single removals of a stream, and count what became of them.

    With ``rehearse`` nothing is changed, and the outcomes are what would become of them. ``summary`` is one to go on
    with; it is of use to who must know it after an interrupt. ``is_fatal`` says which failures end the run.

    The stream is read in the calling thread, no faster than the work is done, and ``on_outcome`` is called there. An
    error of the stream itself (a listing that failed) ends it; what had begun is finished, and the summary tells. An
    interrupt stops the work within five seconds and is raised again.
    """
    return _Run(context, on_outcome, summary, is_fatal).transfers(tasks, rehearse=rehearse)


def run_deletes(
    tasks: Iterable[DeleteTask | RemoveTask | Problem],
    context: TransferContext,
    *,
    on_outcome: OnOutcome,
    summary: Summary | None = None,
    is_fatal: Callable[[Exception], bool] = is_fatal,
) -> Summary:
    """Remove what a stream names, in batches, several of them at a time; as run() otherwise."""
    return _Run(context, on_outcome, summary, is_fatal).deletes(tasks)


class _Run:
    def __init__(
        self,
        context: TransferContext,
        on_outcome: OnOutcome,
        summary: Summary | None,
        is_fatal: Callable[[Exception], bool],
    ) -> None:
        self._context = context
        self._is_fatal = is_fatal
        self._on_outcome = on_outcome
        self._started = time.monotonic()
        self.summary = summary or Summary()
        self._seconds_before = self.summary.seconds
        self._unusable = 0  # objects for which all nodes gave answers of no use, before any success

    def transfers(self, tasks: Iterable[Item], *, rehearse: bool) -> Summary:
        context = self._context
        window = None if rehearse else TransferWindow(context)
        act = partial(perform, context=context, rehearse=rehearse)
        flow = context.executor.flow(act, self._watched(tasks), window=window, is_bulky=self._is_bulky)
        return self._collect(flow, self._take)

    def _is_bulky(self, item: Item) -> bool:
        """Return whether many bytes go through the interpreter: those of uploads leave by the kernel."""
        goes_through = isinstance(item, DownloadTask) or (self._context.is_cross_pool and isinstance(item, CopyTask))
        return goes_through and item.size > BULKY_BYTES

    def deletes(self, tasks: Iterable[DeleteTask | RemoveTask | Problem]) -> Summary:
        def take(outcomes: Iterable[Outcome]) -> None:
            for outcome in outcomes:
                self._take(outcome)

        batches = iter_batches(self._watched(tasks))
        flow = self._context.executor.flow(lambda batch: delete_batch(batch, self._context), batches)
        return self._collect(flow, take)

    def _collect(self, flow: Flow[T, R], take: Callable[[R], None]) -> Summary:
        try:
            for result in flow:
                take(result)
        except BaseException:
            self._stop(flow, take)
            raise
        finally:
            self.summary.seconds = self._seconds_before + time.monotonic() - self._started
        return self.summary

    def _watched(self, tasks: Iterable[T]) -> Iterator[T]:
        """Pass tasks on until the stream fails or the run is told to stop taking them."""
        stream = iter(tasks)
        while self.summary.stopped_by is None and not self._context.stop.is_set():
            try:
                task = next(stream)
            except StopIteration:
                break
            except (S3PoolError, OSError) as exc:
                self.summary.stopped_by = exc
                break
            self._context.progress.found(max(0, getattr(task, "size", 0)))
            yield task
        self._context.progress.all_found()

    def _take(self, outcome: Outcome) -> None:
        error, summary, first = outcome.error, self.summary, self.summary.stopped_by
        if first is not None and error is not None and self._is_fatal(error) and kind_of(error) == kind_of(first):
            outcome = Outcome(outcome.task, NOT_STARTED)  # under way when the run ended, it met what ended the run
        elif self._context.options.ignore_archived and getattr(error, "code", "") == ARCHIVED_CODE:
            outcome = Outcome(outcome.task, SKIPPED, Done(skipped=ARCHIVED))
        with signals_held:  # what is counted is told
            summary.add(outcome)
            if first is None and (error := outcome.error) is not None:
                if isinstance(error, UnusableAnswerError) and not (summary.copied or summary.deleted):
                    self._unusable += 1
                if self._is_fatal(error) or self._unusable >= MOST_UNUSABLE:
                    summary.stopped_by = error
            self._on_outcome(outcome)

    def _stop(self, flow: Flow[T, R], take: Callable[[R], None]) -> None:
        """Let what is in flight end, for a while; then remove what it would leave behind."""
        self._context.stop.set()
        self.summary.interrupted = True
        try:
            for result in flow.drain(STOP_WITHIN_S):
                take(result)
            self._context.uploads.abort_all(ABORT_WITHIN_S)
        finally:
            # A second interrupt leaves at once, but not these.
            self._context.parts.discard_all()
