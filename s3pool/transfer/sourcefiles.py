"""Files of a tree that are sent: found below its root by descriptors, so that no link leads out of it meanwhile."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from s3pool.errors import RefusedError
from s3pool.transfer.safe_path import LastDirectory

if TYPE_CHECKING:
    from s3pool.transfer.tasks import UploadTask

OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # a pipe must not block the open
FOLLOW = "follow"
SKIP = "skip"


class SourceFiles:
    """Opens files for reading; keeps the directory of the last one open. Belongs to one thread.

    ``links`` is the rule of the run. Links in the root itself are the user's own and followed;
    on the way below it none is, unless the rule is to follow them all, and where links are
    skipped the file is none, either.
    """

    def __init__(self, links: str) -> None:
        self._follows = links == FOLLOW
        self._flags = OPEN_FLAGS | (os.O_NOFOLLOW if links == SKIP else 0)
        self._directory = LastDirectory(create=False)

    def open(self, task: UploadTask) -> int:
        """Return a descriptor of a task's file.

        Raises:
            RefusedError: a link is in the way, or what was a file is one. OSError, LocalFileError: it cannot be opened.
        """
        if self._follows or not task.root:
            return os.open(task.path, OPEN_FLAGS)
        place, _, name = task.path.rpartition("/")
        directory = self._directory
        while True:
            if not directory.is_at(task.root, place):
                steps = os.fsencode(place[len(task.root) :]).split(b"/")
                directory.enter(task.root, place, [step for step in steps if step])
            try:
                return os.open(name, self._flags, dir_fd=directory.fd)
            except OSError as exc:
                directory.leave()
                if exc.errno == errno.ELOOP:
                    raise RefusedError(f"{task.path} has become a symbolic link: skipped") from exc
                if directory.is_fresh:
                    raise
