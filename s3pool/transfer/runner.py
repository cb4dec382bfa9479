"""Run a stream of tasks on the workers; outcomes come home to the calling thread."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from s3pool.errors import CREDENTIAL_CODES, NoEndpointError, S3Error, S3PoolError, StoppedError
from s3pool.transfer.conditions import why_skip_copy, why_skip_download, why_skip_upload
from s3pool.transfer.copy import copy
from s3pool.transfer.delete import check_no_tree, delete_batch, iter_batches
from s3pool.transfer.download import download
from s3pool.transfer.engine import Engine
from s3pool.transfer.executor import Flow
from s3pool.transfer.lane import Lane
from s3pool.transfer.lanes import Lanes
from s3pool.transfer.small import is_small
from s3pool.transfer.tasks import (
    ARCHIVED,
    DONE,
    FAILED,
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
    Task,
    UploadTask,
    kind_of,
    state_of,
)
from s3pool.transfer.upload import mtime_of_file, upload

logger = logging.getLogger(__name__)

STOP_WITHIN_S = 3.5  # what is in flight has this long after an interrupt
ABORT_WITHIN_S = 1.5  # and what hung all that time is aborted from outside: five seconds in all
# Failures that every further task would meet as well.
FATAL_CODES = CREDENTIAL_CODES | {"NoSuchBucket", "QuotaExceeded"}
ARCHIVED_CODE = "InvalidObjectState"  # what lies in an archive must be restored before it can be read
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")
R = TypeVar("R")
OnOutcome = Callable[[Outcome], None]


def run(
    tasks: Iterable[Item],
    engine: Engine,
    *,
    on_outcome: OnOutcome,
    rehearse: bool = False,
    summary: Summary | None = None,
) -> Summary:
    """Do all transfers and single removals of a stream, and count what became of them.

    With ``rehearse`` nothing is changed, and the outcomes are what would become of them.
    ``summary`` is one to go on with; it is of use to who must know it after an interrupt.

    The stream is read in the calling thread, no faster than the work is done, and
    ``on_outcome`` is called there. An error of the stream itself (a listing that failed)
    ends it; what had begun is finished, and the summary tells. An interrupt stops the work
    within five seconds and is raised again.
    """
    return _Run(engine, on_outcome, summary).transfers(tasks, rehearse=rehearse)


def run_deletes(
    tasks: Iterable[DeleteTask | RemoveTask | Problem],
    engine: Engine,
    *,
    on_outcome: OnOutcome,
    summary: Summary | None = None,
) -> Summary:
    """Remove what a stream names, in batches, several of them at a time; as run() otherwise."""
    return _Run(engine, on_outcome, summary).deletes(tasks)


class _Run:
    """One stream on its way; lives in the calling thread."""

    def __init__(self, engine: Engine, on_outcome: OnOutcome, summary: Summary | None) -> None:
        self._engine = engine
        self._on_outcome = on_outcome
        self._started = time.monotonic()
        self.summary = summary or Summary()
        self._seconds_before = self.summary.seconds

    def transfers(self, tasks: Iterable[Item], *, rehearse: bool) -> Summary:
        act = rehearsal if rehearse else perform
        engine = self._engine
        flow = engine.executor.flow(
            lambda task: act(task, engine), self._watched(tasks), lanes=None if rehearse else _lanes(engine)
        )
        return self._collect(flow, self._take)

    def deletes(self, tasks: Iterable[DeleteTask | RemoveTask | Problem]) -> Summary:
        batches = iter_batches(self._watched(tasks))
        flow = self._engine.executor.flow(lambda batch: delete_batch(batch, self._engine), batches)
        return self._collect(flow, self._take_all)

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
        while self.summary.stopped_by is None and not self._engine.stop.is_set():
            try:
                task = next(stream)
            except StopIteration:
                break
            except (S3PoolError, OSError) as exc:
                self.summary.stopped_by = exc
                break
            self._engine.progress.found(max(0, getattr(task, "size", 0)))
            yield task
        self._engine.progress.all_found()

    def _take_all(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self._take(outcome)

    def _take(self, outcome: Outcome) -> None:
        if self._fails_like_the_first(outcome):
            outcome = Outcome(outcome.task, NOT_STARTED)
        elif self._engine.options.ignore_archived and getattr(outcome.error, "code", "") == ARCHIVED_CODE:
            outcome = Outcome(outcome.task, SKIPPED, Done(skipped=ARCHIVED))
        self.summary.add(outcome)
        if self.summary.stopped_by is None and outcome.error is not None and is_fatal(outcome.error):
            self.summary.stopped_by = outcome.error
        self._on_outcome(outcome)

    def _fails_like_the_first(self, outcome: Outcome) -> bool:
        """Return whether this was under way when the run ended, and met what ended the run."""
        first, error = self.summary.stopped_by, outcome.error
        if first is None or error is None or not is_fatal(error):
            return False
        return kind_of(error) == kind_of(first)

    def _stop(self, flow: Flow[T, R], take: Callable[[R], None]) -> None:
        """Let what is in flight end, for a while; then remove what it would leave behind."""
        self._engine.stop.set()
        self.summary.interrupted = True
        try:
            for result in flow.drain(STOP_WITHIN_S):
                take(result)
            self._engine.uploads.abort_all(ABORT_WITHIN_S)
        finally:
            # A second interrupt leaves at once, but not these.
            self._engine.parts.discard_all()


def _lanes(engine: Engine) -> Lanes[Item, Outcome]:
    def work(take: Callable[[], Item | None], give: Callable[[list[Outcome]], None]) -> None:
        lane = Lane(
            engine,
            depth=lambda: lanes.share,
            more=lanes.widen,
            take=take,
            give=give,
            perform=lambda task: perform(task, engine),
            fail=_failed,
        )
        lane.run()

    lanes: Lanes[Item, Outcome] = Lanes(
        lambda item: is_small(item, engine),
        work,
        in_flight=engine.executor.small,
    )
    return lanes


def perform(task: Item, engine: Engine) -> Outcome:
    """Do one task and tell what became of it; never raises an Exception."""
    return _told(task, engine, _act)


def rehearsal(task: Item, engine: Engine) -> Outcome:
    """Tell what would become of a task, and change nothing."""
    return _told(task, engine, _rehearse)


def _told(task: Item, engine: Engine, act: Callable[[Task, Engine], Done]) -> Outcome:
    if isinstance(task, Problem):
        return Outcome(task, state_of(task.error), error=task.error)
    if engine.stop.is_set():
        return Outcome(task, NOT_STARTED)
    started = time.monotonic()
    try:
        done = _unneeded(task, engine) or act(task, engine)
    except Exception as exc:  # noqa: BLE001 - the outermost frame of a worker: the others go on
        return _failed(task, exc, started)
    return Outcome(task, SKIPPED if done.skipped else DONE, done, seconds=time.monotonic() - started)


def _failed(task: Item, error: Exception, started: float) -> Outcome:
    """Return the outcome of an error; of one that is none of ours the debug log tells where it came from."""
    if isinstance(error, StoppedError):
        return Outcome(task, NOT_STARTED)
    seconds = time.monotonic() - started if started else 0.0
    if isinstance(error, S3PoolError):
        return Outcome(task, state_of(error), error=error, seconds=seconds)
    logger.debug("%s -> %s: this should not have happened", task.source, task.target, exc_info=error)
    return Outcome(task, FAILED, error=error, seconds=seconds)


def _unneeded(task: Task, engine: Engine) -> Done | None:
    why = engine.why_not(task) if engine.why_not is not None else ""
    return Done(skipped=why) if why else None


def _act(task: Task, engine: Engine) -> Done:
    if isinstance(task, (DeleteTask, RemoveTask)):
        return _raise_or_give(delete_batch((task,) if isinstance(task, DeleteTask) else task, engine)[0])
    done = _transfer(task, engine)
    if engine.options.remove_source and not done.skipped:
        from s3pool.transfer.proof import remove_source

        remove_source(task, done, engine, again=lambda: _copy_again(task, engine, done))
    return done


def _transfer(task: UploadTask | DownloadTask | CopyTask, engine: Engine) -> Done:
    if isinstance(task, UploadTask):
        return upload(task, engine)
    return download(task, engine) if isinstance(task, DownloadTask) else copy(task, engine)


def _copy_again(task: UploadTask | DownloadTask | CopyTask, engine: Engine, done: Done) -> Done:
    return copy(task, engine, is_repeated=True) if isinstance(task, CopyTask) else done


def _rehearse(task: Task, engine: Engine) -> Done:
    skipped = ""
    if isinstance(task, UploadTask):
        skipped = why_skip_upload(task, mtime_of_file(task, engine.options.links), engine)
    elif isinstance(task, DownloadTask):
        skipped = why_skip_download(task, engine)
    elif isinstance(task, CopyTask):
        skipped = why_skip_copy(task, engine)
    elif isinstance(task, DeleteTask):
        check_no_tree(task, engine.client)
    return Done(max(0, task.size), skipped=skipped)


def _raise_or_give(outcome: Outcome) -> Done:
    if outcome.error is not None:
        raise outcome.error
    return outcome.done


def is_fatal(error: Exception) -> bool:
    """Say whether every further task would fail alike, so that the run had better stop."""
    if isinstance(error, NoEndpointError):
        return True
    if isinstance(error, S3Error):
        return error.code in FATAL_CODES
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in DISK_FULL
