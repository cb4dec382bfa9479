"""What is in the way of a download: a directory that has its name, or a file where a directory has to be.

Where the source has a key ``x`` and the target a directory ``x``, or the other way round, one has to
go before the other can come. Deletes come last, so such a download waits for them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from s3pool.errors import LocalFileError, RefusedError
from s3pool.transfer.safe_path import directory_below, split_relative
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

        Raises LocalFileError: something is, and waiting would not help.
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
        # Where somebody is at work the download will say so; a link ends it, as would a new file.
        with suppress(LocalFileError, RefusedError, OSError):
            parents, name = split_relative(task.relative)
            with directory_below(task.root, parents) as above:
                walk = partial(os.fwalk, name, follow_symlinks=False, dir_fd=above)
                if any(files for _, _, files, _ in walk()):
                    continue
                for _, directories, _, here in walk(topdown=False):
                    for directory in directories:
                        os.rmdir(directory, dir_fd=here)
                os.rmdir(name, dir_fd=above)


def prune_empty_dirs(root: str, directories: Iterable[str]) -> None:
    """Remove directories below root, and those above them, as far as they are empty; never root."""
    for directory in sorted(directories, reverse=True):
        parents, name = split_relative(directory)
        steps = [*parents, name] if name else parents
        with suppress(LocalFileError, RefusedError, OSError):
            while steps:
                with directory_below(root, steps[:-1]) as above:
                    os.rmdir(steps[-1], dir_fd=above)
                steps.pop()
