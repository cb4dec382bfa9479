"""Single transfers, run to their end in the calling thread."""

from __future__ import annotations

from s3pool.s3.operation import block_on
from s3pool.transfer import copy as copying
from s3pool.transfer import download as downloading
from s3pool.transfer import upload as uploading
from s3pool.transfer.context import TransferContext
from s3pool.transfer.tasks import CopyTask, Done, DownloadTask, UploadTask


def upload(task: UploadTask, context: TransferContext) -> Done:
    """Store one file."""
    return block_on(uploading.upload(task, context))


def download(task: DownloadTask, context: TransferContext) -> Done:
    """Bring one object."""
    return block_on(downloading.download(task, context))


def copy(task: CopyTask, context: TransferContext) -> Done:
    """Copy one object."""
    return block_on(copying.copy(task, context))
