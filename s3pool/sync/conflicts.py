"""What is in the way of a download: a directory that has its name, or a file where a directory has to be.

Where the source has a key ``x`` and the target a directory ``x``, or the other way round, one has to
go before the other can come. Deletes come last, so such a download waits for them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING

from s3pool.errors import LocalFileError, RefusedError
from s3pool.transfer.safe_path import open_below, open_root, split_relative
from s3pool.transfer.tasks import DownloadTask

if TYPE_CHECKING:
    from s3pool.transfer.tasks import Item, Task

WAITS = "what is in its way is to be deleted first"
MAX_WAITING = 10_000  # tasks that are kept; what is beyond them fails


class Conflicts:
    """The downloads of one run that wait for its deletes.

    Without ``deletes`` nothing would come of waiting. Workers ask, the thread of the run keeps.
    """

    def __init__(self, *, deletes: bool) -> None:
        self._deletes = deletes
        self._may_wait = deletes
        self.waiting: list[DownloadTask] = []

    def why_wait(self, task: Task) -> str:
        """Return why a task has to wait; "" when nothing is in its way.

        Raises:
            LocalFileError: something is, and waiting would not help.
        """
        obstacle = conflict_of(task) if isinstance(task, DownloadTask) else None
        if obstacle is None:
            return ""
        if self._may_wait and len(self.waiting) < MAX_WAITING:
            return WAITS
        advice = "" if self._deletes else ", or give --delete, which takes away what the source does not have"
        raise LocalFileError(f"{obstacle.message}{advice}")

    def keep(self, task: Item) -> None:
        """Keep a task for the end."""
        if isinstance(task, DownloadTask):
            self.waiting.append(task)

    def clear(self) -> None:
        """Let the time of waiting be over, and remove the directories in the way that hold no file."""
        self._may_wait = False
        remove_empty_trees(task for task in self.waiting if conflict_of(task) is not None)


def conflict_of(task: DownloadTask) -> LocalFileError | None:
    """Return the error of a download whose place is taken by something else; None if it is free."""
    if not task.relative or task.relative.endswith("/"):
        return None
    path = os.path.join(task.root, task.relative)
    try:
        mode = os.lstat(path).st_mode
    except NotADirectoryError:
        return LocalFileError(f"cannot write {path}: a file is where a directory has to be; remove or rename it")
    except (OSError, ValueError):  # it is not there, or can have no file: the download will say so
        return None
    if not stat.S_ISDIR(mode):
        return None
    return LocalFileError(f"cannot write {path}: a directory has that name; remove or rename it")


def remove_empty_trees(tasks: Iterable[DownloadTask]) -> None:
    """Remove directories at the places of downloads, with what is below them, if that is directories alone."""
    for task in tasks:
        try:
            parents, name = split_relative(task.relative)
            root_fd = open_root(task.root, create=False)
        except (LocalFileError, RefusedError):
            continue
        try:
            _remove_empty_tree(root_fd, parents, name)
        finally:
            os.close(root_fd)


def _remove_empty_tree(root_fd: int, parents: list[bytes], name: bytes) -> None:
    try:
        above = open_below(root_fd, parents, create=False)
    except (LocalFileError, RefusedError):
        return
    try:
        if _is_empty_tree(above, name):
            _remove_tree(above, name)
    except OSError:  # somebody is at work there: the download will say so
        return
    finally:
        os.close(above)


def _is_empty_tree(above: int, name: bytes) -> bool:
    return all(not files for _, _, files, _ in os.fwalk(name, follow_symlinks=False, dir_fd=above))


def _remove_tree(above: int, name: bytes) -> None:
    """Remove empty directories, from below; a link among them ends it, as would a new file."""
    for _, directories, _, here in os.fwalk(name, topdown=False, follow_symlinks=False, dir_fd=above):
        for directory in directories:
            os.rmdir(directory, dir_fd=here)
    os.rmdir(name, dir_fd=above)


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
