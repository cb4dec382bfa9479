"""Small files below a directory, written with as few calls of the system as is safe.

The rules are those of beneath.py: nothing in a key leads out of the root, no link is
followed, and the target's name stands for the old file or for the whole new one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import stat

from s3pool.errors import S3PoolError
from s3pool.transfer.attributes import set_mtime
from s3pool.transfer.beneath import (
    NEW_FILE_MODE,
    PART_PREFIX,
    PART_RANDOM_BYTES,
    PART_SUFFIX,
    PERMISSION_BITS,
    PartRegistry,
    claim,
    open_below,
    open_root,
    split_relative,
)

CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class SmallFiles:
    """Writes files whole; keeps the directory of the last one open. Belongs to one thread.

    Should another run sweep a temporary file away before it is marked as somebody's, the file is
    written the general way.
    """

    def __init__(self, registry: PartRegistry) -> None:
        self._registry = registry
        self._place: tuple[str, str] | None = None  # root and parent of what is open
        self._directory = -1
        self._was_empty = False  # when it was entered: what is in it now, this run has put there
        self._token = secrets.token_hex(PART_RANDOM_BYTES)
        self._numbers = itertools.count()
        self.mtime_ns: int | None = None  # of the last file, as the file system keeps it

    def write(self, root: str, relative: str, content: bytes, *, mtime_ns: int | None) -> bool:
        """Write one file; False when something is in the way, and nothing was changed.

        ``mtime_ns`` is afterwards the time that the file has.

        Raises:
            RefusedError: the name leads out of the root.
        """
        name = self._enter(root, relative)
        part = f"{PART_PREFIX}{self._token}{next(self._numbers):x}{PART_SUFFIX}".encode()
        if not name:
            return False
        try:
            self._write_part(part, name, content, mtime_ns)
        except BaseException as exc:
            with contextlib.suppress(OSError):
                os.unlink(part, dir_fd=self._directory)
            self.close()
            if isinstance(exc, OSError):
                return False  # the general way meets the same, and has the words for it
            raise
        return True

    def _write_part(self, part: bytes, name: bytes, content: bytes, mtime_ns: int | None) -> None:
        mode = self._mode_of(name)
        # What nobody else may read is read by nobody while it comes.
        fd = os.open(part, CREATE_FLAGS, NEW_FILE_MODE if mode is None else mode, dir_fd=self._directory)
        try:
            claim(fd)
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            if mode is not None:
                os.fchmod(fd, mode)
            self.mtime_ns = set_mtime(fd, mtime_ns)
            os.rename(part, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        finally:
            os.close(fd)

    def _mode_of(self, name: bytes) -> int | None:
        """Give the permission bits of the file that is to be replaced, if there is one."""
        if self._was_empty:
            return None
        try:
            found = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return stat.S_IMODE(found.st_mode) & PERMISSION_BITS if stat.S_ISREG(found.st_mode) else None

    def _enter(self, root: str, relative: str) -> bytes:
        """Open the file's directory, or stay in it; give the name in it, b"" where that failed."""
        parent, _, name = relative.rpartition("/")
        if (root, parent) == self._place and name not in ("", ".", "..") and "\0" not in name:
            return name.encode("utf-8", "surrogateescape")
        steps, raw_name = split_relative(relative)
        self.close()
        try:
            root_fd = open_root(root)
            try:
                self._directory = open_below(root_fd, steps)
            finally:
                os.close(root_fd)
            self._was_empty = _is_empty(self._directory)
        except S3PoolError:
            return b""
        self._registry.enter((root, *steps), self._directory)
        self._place = (root, parent)
        return raw_name

    def close(self) -> None:
        """Close the directory."""
        self._place = None
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1


def _is_empty(directory: int) -> bool:
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is None
    except OSError:  # it may be written to, but not read
        return False
