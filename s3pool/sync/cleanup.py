"""What is removed beside deletes: transfers that killed runs left unfinished, and emptied directories."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from s3pool.errors import LocalFileError, NotFoundError, RefusedError, S3PoolError
from s3pool.transfer.part_file import is_part_name, remove_orphan
from s3pool.transfer.resume import ANNOUNCED, abort_announced
from s3pool.transfer.safe_path import open_below, open_root, split_relative
from s3pool.transfer.tasks import DONE, CopyTask, DownloadTask, UploadTask

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client
    from s3pool.sync.unfinished import Unfinished
    from s3pool.transfer.tasks import Outcome

logger = logging.getLogger(__name__)


class Leftovers:
    """The uploads and temporary files of runs that are no more, for the thread that takes outcomes.

    What is still of use is taken up by the transfers themselves. The rest belongs to sources that
    have changed: it goes when its target is written anew.
    """

    def __init__(self, unfinished: Unfinished, client: S3Client) -> None:
        self._unfinished = unfinished
        self._client = client
        self._uploads: dict[tuple[str, str], list[str]] = {}
        for upload_id, bucket, key in unfinished.left_uploads():
            self._uploads.setdefault((bucket, key), []).append(upload_id)
        self._downloads: dict[str, list[str]] = {}
        for name, target in unfinished.left_downloads():
            self._downloads.setdefault(target, []).append(name)

    def clear_of(self, outcome: Outcome) -> None:
        """Clean up what was left of a target that is there now."""
        if not (self._uploads or self._downloads) or outcome.state != DONE:
            return
        task = outcome.task
        if isinstance(task, DownloadTask):
            target = os.path.abspath(task.target)
            self._clear([], [(name, target) for name in self._downloads.pop(target, ())])
        elif isinstance(task, (UploadTask, CopyTask)):
            self.clear_upload(task.bucket, task.key)

    def clear_upload(self, bucket: str, key: str) -> None:
        """Abort what was left of an object that is there now."""
        self._clear([(upload_id, bucket, key) for upload_id in self._uploads.pop((bucket, key), ())], [])

    def clear_all(self, is_mine: Callable[[str], bool]) -> None:
        """Clean up after a run that has seen all of its names; ``is_mine`` is asked about keys and paths."""
        uploads = [upload for upload in self._unfinished.left_uploads() if is_mine(upload[2])]
        downloads = [(name, target) for name, target in self._unfinished.left_downloads() if is_mine(target)]
        self._clear(uploads, downloads)

    def _clear(self, uploads: list[tuple[str, str, str]], downloads: list[tuple[str, str]]) -> None:
        unfinished = self._unfinished
        gone = 0
        for upload_id, bucket, key in uploads:
            if unfinished.take_upload(upload_id) and _abort(self._client, upload_id, bucket, key):
                unfinished.end_upload(upload_id)
                gone += not upload_id.startswith(ANNOUNCED)
        for name, target in downloads:
            path = os.path.join(os.path.dirname(target), name)
            if is_part_name(os.fsencode(name)) and os.path.lexists(path):
                if remove_orphan(os.fsencode(path)) is None:
                    continue  # somebody is at work on it
                gone += 1
            unfinished.end_download(name)
        if gone:
            logger.info("cleaned up %d unfinished transfer%s of killed runs", gone, "s" if gone > 1 else "")


def _abort(client: S3Client, upload_id: str, bucket: str, key: str) -> bool:
    """Abort an upload; False when that cannot be done now, so that the next run tries it again."""
    try:
        if upload_id.startswith(ANNOUNCED):
            abort_announced(client, upload_id, bucket, key=key)
        else:
            client.abort_multipart_upload(bucket, key, upload_id=upload_id)
    except NotFoundError:
        return True
    except S3PoolError as exc:
        logger.warning("an unfinished upload of s3/%s/%s stays behind: %s", bucket, key, exc)
        return False
    return True


def prune_empty_dirs(root: str, directories: Iterable[str]) -> None:
    """Remove directories below root, and those above them, as far as they are empty; never root."""
    try:
        root_fd = open_root(root, create=False)
    except LocalFileError:
        return
    try:
        for directory in sorted(directories, reverse=True):
            _remove_upwards(root_fd, directory)
    finally:
        os.close(root_fd)


def _remove_upwards(root_fd: int, directory: str) -> None:
    parents, name = split_relative(directory)
    steps = [*parents, name] if name else parents
    while steps and _remove(root_fd, steps):
        steps.pop()


def _remove(root_fd: int, steps: list[bytes]) -> bool:
    try:
        above = open_below(root_fd, steps[:-1], create=False)
    except (LocalFileError, RefusedError):
        return False
    try:
        os.rmdir(steps[-1], dir_fd=above)
    except OSError:
        return False
    finally:
        os.close(above)
    return True
