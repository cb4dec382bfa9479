"""What one task takes, from its first request to its outcome."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from s3pool.errors import S3PoolError, StoppedError
from s3pool.s3.exchange import block_on
from s3pool.transfer.copy import copy
from s3pool.transfer.delete import check_no_tree, delete
from s3pool.transfer.download import download
from s3pool.transfer.skip_rules import why_skip_copy, why_skip_download, why_skip_upload
from s3pool.transfer.tasks import (
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
    UploadTask,
    state_of,
)
from s3pool.transfer.upload import mtime_of_file, upload

if TYPE_CHECKING:
    from s3pool.s3.exchange import Steps
    from s3pool.transfer.context import TransferContext

logger = logging.getLogger(__name__)


def perform(task: Item, context: TransferContext) -> Outcome:
    """Do one task in this thread and tell what became of it; never raises an Exception."""
    return outcome_of(task, context, lambda: block_on(transfer(task, context)))


def rehearsal(task: Item, context: TransferContext) -> Outcome:
    """Return what would become of a task, and change nothing."""
    return outcome_of(task, context, lambda: block_on(_rehearse(task, context)))


def outcome_of(task: Item, context: TransferContext, act: Callable[[], Done], *, started: float = 0.0) -> Outcome:
    """Do a task, or go on with it, and tell what became of it; never raises an Exception."""
    if context.stop.is_set() and not isinstance(task, Problem):
        return Outcome(task, NOT_STARTED)
    started = started or time.monotonic()
    try:
        return done_outcome(task, act(), started)
    except Exception as exc:  # noqa: BLE001 - the outermost frame of a worker: the others go on
        return failed_outcome(task, exc, started)


def done_outcome(task: Item, done: Done, started: float) -> Outcome:
    """Return the outcome of a task that has come to its end."""
    return Outcome(task, SKIPPED if done.skipped else DONE, done, None, time.monotonic() - started)


def failed_outcome(task: Item, error: Exception, started: float) -> Outcome:
    """Return the outcome of an error; of one that is none of ours the debug log tells where it came from."""
    if isinstance(error, StoppedError):
        return Outcome(task, NOT_STARTED)
    seconds = time.monotonic() - started
    if isinstance(error, S3PoolError):
        return Outcome(task, state_of(error), error=error, seconds=seconds)
    logger.debug("%s -> %s: this should not have happened", task.source, task.target, exc_info=error)
    return Outcome(task, FAILED, error=error, seconds=seconds)


def transfer(task: Item, context: TransferContext) -> Steps[Done]:
    """Do one task; of a move the source goes when the target was proved.

    Raises:
        S3PoolError: it failed, or is the problem that could not become a task.
    """
    if isinstance(task, Problem):
        raise task.error
    if context.why_not is not None and (why := context.why_not(task)):
        return Done(skipped=why)
    if isinstance(task, (DeleteTask, RemoveTask)):
        return (yield from delete(task, context))
    if isinstance(task, UploadTask):
        done = yield from upload(task, context)
    elif isinstance(task, DownloadTask):
        done = yield from download(task, context)
    else:
        done = yield from copy(task, context)
    if context.options.remove_source and not done.skipped:
        from s3pool.transfer.source_removal import remove_source

        yield from remove_source(task, done, context, again=lambda: _copy_again(task, context, done))
    return done


def _copy_again(task: UploadTask | DownloadTask | CopyTask, context: TransferContext, done: Done) -> Steps[Done]:
    if not isinstance(task, CopyTask):
        return done
    return (yield from copy(task, context, is_repeated=True))


def _rehearse(task: Item, context: TransferContext) -> Steps[Done]:
    skipped = ""
    if isinstance(task, Problem):
        raise task.error
    if context.why_not is not None and (why := context.why_not(task)):
        return Done(skipped=why)
    if isinstance(task, UploadTask):
        skipped = yield from why_skip_upload(task, mtime_of_file(task, context), context)
    elif isinstance(task, DownloadTask):
        skipped = yield from why_skip_download(task, context)
    elif isinstance(task, CopyTask):
        skipped = yield from why_skip_copy(task, context)
    elif isinstance(task, DeleteTask):
        yield from check_no_tree(task, context.client)
    return Done(max(0, task.size), skipped=skipped)
