"""Run a stream of tasks on the workers, removals in batches; outcomes come home to the calling thread."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from s3pool.errors import (
    CREDENTIAL_CODES,
    AccessDeniedError,
    NotFoundError,
    S3Error,
    S3PoolError,
    UnusableAnswerError,
    is_pool_dead,
    signals_held,
)
from s3pool.location import S3Path
from s3pool.s3.operation import Steps, block_on, in_worker
from s3pool.s3.requests import MAX_KEYS
from s3pool.s3.responses import error_of_failure
from s3pool.transfer.context import TransferContext, why_skip
from s3pool.transfer.download import download
from s3pool.transfer.flow import Flow, TransferWindow
from s3pool.transfer.safe_path import remove_file
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
    done_outcome,
    failed_outcome,
    kind_of,
)
from s3pool.transfer.upload import mtime_of_file, upload

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client

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
Batch = tuple[DeleteTask, ...] | RemoveTask | Problem


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
        self._context, self._on_outcome, self._is_fatal = context, on_outcome, is_fatal
        self._started = time.monotonic()
        self.summary = summary or Summary()
        self._seconds_before = self.summary.seconds
        self._unusable = 0  # objects for which all nodes gave answers of no use, before any success

    def transfers(self, tasks: Iterable[Item], *, rehearse: bool) -> Summary:
        context = self._context
        window = None if rehearse else TransferWindow(context, transfer)
        act = partial(perform, context=context, rehearse=rehearse)
        flow = Flow(context.executor, act, self._watched(tasks), window=window, is_bulky=self._is_bulky)
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
        flow = Flow(self._context.executor, lambda batch: delete_batch(batch, self._context), batches)
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


# -- one task -------------------------------------------------------------------------------


def perform(task: Item, context: TransferContext, *, rehearse: bool = False) -> Outcome:
    """Do one task in this thread, or only rehearse it, and tell what became of it; never raises an Exception."""
    if context.stop.is_set() and not isinstance(task, Problem):
        return Outcome(task, NOT_STARTED)
    started = time.monotonic()
    try:
        return done_outcome(task, block_on(transfer(task, context, rehearse=rehearse)), started)
    except Exception as exc:  # noqa: BLE001 - the outermost frame of a worker: the others go on
        return failed_outcome(task, exc, started)


def transfer(task: Item, context: TransferContext, *, rehearse: bool = False) -> Steps[Done]:
    """Do one task, or only rehearse it; of a move the source goes when the target was proved.

    Raises S3PoolError: it failed, or is the problem that could not become a task.
    """
    if isinstance(task, Problem):
        raise task.error
    if context.why_not is not None and (why := context.why_not(task)):
        return Done(skipped=why)
    if rehearse:
        return (yield from _rehearse(task, context))
    if isinstance(task, (DeleteTask, RemoveTask)):
        return (yield from delete(task, context))
    if isinstance(task, UploadTask):
        done = yield from upload(task, context)
    elif isinstance(task, DownloadTask):
        done = yield from download(task, context)
    else:
        from s3pool.transfer.copy import copy

        done = yield from copy(task, context)
    if context.options.remove_source and not done.skipped:
        from s3pool.transfer.proofs import remove_source

        yield from remove_source(task, done, context, copy_again=_copy_again)
    return done


def _copy_again(task: CopyTask, context: TransferContext) -> Steps[Done]:
    from s3pool.transfer.copy import copy

    return copy(task, context, is_repeated=True)


def _rehearse(task: Task, context: TransferContext) -> Steps[Done]:
    skipped = ""
    if isinstance(task, UploadTask):
        skipped = yield from why_skip(task, context, mtime_of_file(task, context))
    elif isinstance(task, (DownloadTask, CopyTask)):
        skipped = yield from why_skip(task, context)
    elif isinstance(task, DeleteTask):
        yield from check_no_tree(task, context.client)
    return Done(max(0, task.size), skipped=skipped)


# -- removals -------------------------------------------------------------------------------


def iter_batches(tasks: Iterable[DeleteTask | RemoveTask | Problem]) -> Iterator[Batch]:
    """Gather keys of one bucket into batches, in their order; what needs a look stays alone."""
    batch: list[DeleteTask] = []
    for task in tasks:
        if isinstance(task, DeleteTask) and not (task.upload_id or task.named):
            if batch and (batch[0].bucket != task.bucket or len(batch) == MAX_KEYS):
                yield tuple(batch)
                batch = []
            batch.append(task)
        else:
            yield (task,) if isinstance(task, DeleteTask) else task
    if batch:
        yield tuple(batch)


def delete(task: DeleteTask | RemoveTask, context: TransferContext) -> Steps[Done]:
    """Remove one key, one version of it, one unfinished upload of it, or one local file."""
    if isinstance(task, RemoveTask):
        remove_file(task.root, task.relative)
        return Done(task.size)
    yield from check_no_tree(task, context.client)
    if task.upload_id:
        yield from in_worker()
        context.client.abort_multipart_upload(task.bucket, task.key, upload_id=task.upload_id)
    else:
        yield from context.client.delete_object.steps(
            task.bucket, task.key, version_id=task.version_id, bypass_governance=context.options.bypass_governance
        )
    return Done(task.size)


def check_no_tree(task: DeleteTask, client: S3Client) -> Steps[None]:
    """See to it that a key that was named is not the name of a tree alone, as far as that may be looked at.

    Raises NotFoundError: there is no such key, and keys lie below it.
    """
    if not task.named:
        return
    try:
        yield from client.head_object.steps(task.bucket, task.key)
    except NotFoundError as exc:
        if exc.code != "NoSuchBucket":
            yield from in_worker()
            refuse_tree(S3Path(task.bucket, task.key), client)
    except S3Error:
        return  # who may delete may be forbidden to read, and some objects cannot be read without a key


def refuse_tree(path: S3Path, client: S3Client, *, act: str = "deletes them") -> None:
    """Refuse a key that is not there when it is the name of a tree. Raises NotFoundError: keys lie below it."""
    try:
        is_tree = client.has_keys(path.bucket, path.tree_prefix)
    except AccessDeniedError:
        return
    if is_tree:
        detail = f"there is no such key, but there are keys below it: -r {act}"
        raise NotFoundError(404, "NoSuchKey", detail=detail, resource=path.text, op="DeleteObject")


def delete_batch(batch: Batch, context: TransferContext) -> tuple[Outcome, ...]:
    """Remove one batch and tell of each key; never raises S3PoolError."""
    if isinstance(batch, Problem):
        return (Outcome(batch, FAILED, error=batch.error),)
    tasks = batch if isinstance(batch, tuple) else (batch,)
    if context.stop.is_set():
        return tuple(Outcome(task, NOT_STARTED) for task in tasks)
    try:
        if isinstance(batch, RemoveTask) or len(batch) == 1:
            return (Outcome(tasks[0], DONE, block_on(delete(tasks[0], context))),)
        bucket, keys = batch[0].bucket, [(task.key, task.version_id) for task in batch]
        failures = context.client.delete_objects(bucket, keys, bypass_governance=context.options.bypass_governance)
    except S3PoolError as exc:
        return tuple(Outcome(task, FAILED, error=exc) for task in tasks)
    errors = {(failure.key, failure.version_id): error_of_failure(failure, bucket) for failure in failures}
    found = [(task, errors.get((task.key, task.version_id))) for task in batch]
    return tuple(Outcome(task, FAILED if error else DONE, Done(task.size), error) for task, error in found)
