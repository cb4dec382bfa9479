"""Whether a transfer is to be made at all: --no-clobber and --update."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from s3pool.errors import NotFoundError
from s3pool.model import ObjectHead, parse_iso_time
from s3pool.s3.exchange import Steps
from s3pool.transfer import attributes as stored
from s3pool.transfer.safe_path import stat_below
from s3pool.transfer.tasks import CopyTask, DownloadTask, UploadTask

if TYPE_CHECKING:
    from s3pool.transfer.context import TransferContext

EXISTS = "it exists"
NOT_NEWER = "the source is not newer"
MTIME_TOLERANCE_NS = 1000  # a float in somebody's metadata keeps no more than microseconds


def why_skip_upload(task: UploadTask, mtime_ns: int, context: TransferContext) -> Steps[str]:
    """Return why a file need not be sent; "" when it is to be sent."""
    if not (context.options.no_clobber or context.options.update):
        return ""
    head = yield from _head_or_none(context, task.bucket, task.key)
    if head is None:
        return ""
    if context.options.no_clobber:
        return EXISTS
    return "" if mtime_ns > mtime_of(head) + MTIME_TOLERANCE_NS else NOT_NEWER


def why_skip_download(task: DownloadTask, context: TransferContext) -> Steps[str]:
    """Return why an object need not be fetched; "" when it is to be fetched."""
    if not (context.options.no_clobber or context.options.update):
        return ""
    local = stat_below(task.root, task.relative)
    if local is None:
        return ""
    if context.options.no_clobber:
        return EXISTS
    if not stat.S_ISREG(local.st_mode):
        return ""
    # A file that s3pool wrote has the stored time, which only a HEAD tells. Last-Modified is
    # never before it in a sane world, so an older one decides without asking.
    if task.last_modified and _nanoseconds(task.last_modified) <= local.st_mtime_ns:
        return NOT_NEWER
    head = yield from context.client.head_object.steps(task.bucket, task.key, version_id=task.version_id)
    return "" if mtime_of(head) > local.st_mtime_ns + MTIME_TOLERANCE_NS else NOT_NEWER


def why_skip_copy(task: CopyTask, context: TransferContext) -> Steps[str]:
    """Return why an object need not be copied; "" when it is to be copied."""
    if not (context.options.no_clobber or context.options.update):
        return ""
    target = yield from _head_or_none(context, task.bucket, task.key)
    if target is None:
        return ""
    if context.options.no_clobber:
        return EXISTS
    modified = task.last_modified
    if not modified:
        source = context.source.client
        head = yield from source.head_object.steps(task.source_bucket, task.source_key, version_id=task.version_id)
        modified = head.last_modified
    return "" if parse_iso_time(modified) > target.mtime else NOT_NEWER


def mtime_of(head: ObjectHead) -> float:
    """Return the stored modification time in nanoseconds, else Last-Modified; NaN where that is no time."""
    told = stored.parse_mtime(head.metadata.get(stored.MTIME, ""))
    return told if told is not None else _nanoseconds(head.last_modified)


def _nanoseconds(iso_time: str) -> float:
    return parse_iso_time(iso_time) * stored.NANO


def _head_or_none(context: TransferContext, bucket: str, key: str) -> Steps[ObjectHead | None]:
    try:
        return (yield from context.client.head_object.steps(bucket, key))
    except NotFoundError as exc:
        if exc.code == "NoSuchBucket":
            raise
        return None
