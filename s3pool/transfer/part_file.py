"""Hidden temporary files: a target's name stands for the old file or for the whole new one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable

from s3pool.errors import LocalFileError
from s3pool.transfer.safe_path import (
    NEW_FILE_MODE,
    PART_PREFIX,
    PART_SUFFIX,
    PERMISSION_BITS,
    PRIVATE_MODE,
    LastDirectory,
    is_part_name,
    local_error,
    split_relative,
)

PART_RANDOM_BYTES = 6
MAX_ENTERED = 10_000  # directories that are known to be swept; memory must not grow with the tree
PLENTY = 8  # times the size: as much as this is free for some files at once
_TOKEN = secrets.token_hex(PART_RANDOM_BYTES)  # of this process
_NUMBERS = itertools.count()  # of its temporary files
SHARDS_APART_S = 10.0  # a file that another shard is at work on is younger, and a small one has no lock
DOT_NAMES = ("", ".", "..")


class PartFile:
    """A hidden temporary file in the target's own directory.

    Nothing is at the target's name before commit(). The creator closes it; closing an
    uncommitted one removes it. ``reuse`` names one that an earlier run has kept: where it is
    still there, and nobody's, ``reused`` is True. It has the mode of the file that it replaces,
    and is for its owner alone where there is none and ``private`` says that its mode is not known.

    ``directory`` is the one that the calling thread keeps open. A file that is ``brief`` is written at once and closed
    before the thread does anything else: it needs no descriptor of the directory for itself, and no lock. Where
    another run sweeps it away meanwhile, commit() finds it missing.
    """

    __slots__ = ("_directory", "_is_brief", "_is_first", "_private", "_registry", "fd", "mode", "name", "reused",
                 "target")  # fmt: skip

    def __init__(
        self,
        root: str,
        relative: str,
        *,
        registry: PartRegistry,
        directory: LastDirectory | None = None,
        reuse: str = "",
        private: bool = False,
        brief: bool = False,
    ) -> None:
        self._registry = registry
        self._private = private
        self._is_brief = brief
        self.fd = self._directory = -1
        self.mode: int | None = None  # of the file that will be replaced, as it was when this one was made
        directory = directory or LastDirectory(create=True)
        while not self._is_made(root, relative, directory, reuse):
            pass

    def _is_made(self, root: str, relative: str, directory: LastDirectory, reuse: str) -> bool:
        """Make the file; False where its directory was kept open and is not what it was, so that it is left."""
        self.target = _enter(directory, root, relative, self._registry)
        self._directory = directory.fd if self._is_brief else os.dup(directory.fd)
        self._is_first = self._is_brief and directory.was_empty
        self.name = os.fsencode(reuse)
        if reuse and is_part_name(self.name):
            with contextlib.suppress(OSError):
                self.fd = os.open(self.name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._directory)
            if self.fd >= 0 and not claim(self.fd):
                fd, self.fd = self.fd, -1
                os.close(fd)
        self.reused = self.fd >= 0
        self._registry.add(self)
        try:
            while self.fd < 0 and not self._create():
                fd, self.fd = self.fd, -1
                os.close(fd)
        except OSError as exc:
            self.close()
            directory.leave()
            if directory.is_fresh:
                raise local_error("write", os.path.join(root, relative), exc) from exc
            return False
        return True

    def _create(self) -> bool:
        """Make the file; False when another run has swept it away before it could be claimed."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        mode = self.mode = self.existing_mode()
        if mode is None:
            mode = PRIVATE_MODE if self._private else NEW_FILE_MODE
        while self.fd < 0:
            self.name = f"{PART_PREFIX}{_TOKEN}{next(_NUMBERS):x}{PART_SUFFIX}".encode()
            with contextlib.suppress(FileExistsError):  # forked processes have one token, and count alike
                self.fd = os.open(self.name, flags, mode | PRIVATE_MODE, dir_fd=self._directory)
        return self._is_brief or (claim(self.fd) and os.fstat(self.fd).st_nlink > 0)

    def preallocate(self, size: int) -> None:
        """Set the file's size; reserve the space where it is short, before any byte is fetched.

        Not everywhere: writing a GiB into reserved space costs ext4 1.2 s of CPU, and into
        space that it chooses when it writes to the disk 0.4 s.
        """
        try:
            disk = os.fstatvfs(self.fd)
            if size * PLENTY > disk.f_bavail * disk.f_frsize:
                os.posix_fallocate(self.fd, 0, size)
            else:
                os.ftruncate(self.fd, size)
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise local_error("reserve space for", os.fsdecode(self.target), exc) from exc
            os.ftruncate(self.fd, size)

    def existing_mode(self) -> int | None:
        """Return the permission bits of the file that commit() will replace; None where there is none."""
        if self._is_first:
            return None
        try:
            found = os.stat(self.target, dir_fd=self._directory, follow_symlinks=False)
        except OSError:
            return None
        return stat.S_IMODE(found.st_mode) & PERMISSION_BITS if stat.S_ISREG(found.st_mode) else None

    def commit(self, *, replace: bool = True) -> bool:
        """Rename the file to its target; False when it must not replace one that is there.

        Raises LocalFileError: a directory has that name, or the system refuses.
        """
        try:
            if replace:
                os.rename(self.name, self.target, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            else:
                os.link(self.name, self.target, src_dir_fd=self._directory, dst_dir_fd=self._directory)
                os.unlink(self.name, dir_fd=self._directory)
        except FileExistsError:
            return False
        except IsADirectoryError as exc:
            name = os.fsdecode(self.target)
            raise LocalFileError(f"cannot write {name}: a directory has that name; remove or rename it") from exc
        except OSError as exc:
            raise local_error("write", os.fsdecode(self.target), exc) from exc
        self.keep()
        return True

    def keep(self) -> None:
        """Leave the file where it is, as one that is committed, or for a later run to go on with."""
        self._registry.drop(self)
        self.name = b""

    def close(self) -> None:
        """Close all, and remove the file unless it was committed or kept."""
        self.discard()
        if self.fd >= 0:
            os.close(self.fd)
        if not self._is_brief and self._directory >= 0:
            os.close(self._directory)
        self.fd = self._directory = -1

    def discard(self) -> None:
        """Remove the temporary file, from whatever thread; harmless afterwards."""
        name, self.name = self.name, b""
        if name:
            self._registry.drop(self)
            with contextlib.suppress(OSError):  # never created, or the directory went away
                os.unlink(name, dir_fd=self._directory)


def _enter(directory: LastDirectory, root: str, relative: str, registry: PartRegistry) -> bytes:
    parent, _, name = relative.rpartition("/")
    if directory.is_at(root, parent) and name not in DOT_NAMES and "\0" not in name:
        return name.encode("utf-8", "surrogateescape")
    steps, raw_name = split_relative(relative)
    registry.enter((root, *steps), directory.enter(root, parent, steps))
    return raw_name


def claim(fd: int) -> bool:
    """Mark a temporary file as somebody's for as long as it is open; False when it is another's."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        return exc.errno not in (errno.EWOULDBLOCK, errno.EAGAIN)
    return True


def remove_orphan(path: bytes, *, dir_fd: int | None = None, min_age_s: float = 0.0) -> int | None:
    """Remove a temporary file that a dead run has left; return its size in bytes, None when it stays.

    A locked file belongs to a living run and stays; so does everything on file systems without
    locks. An empty one may be of a living run that has not locked it yet, and makes another. Beside
    other shards, which write small files without a lock, ``min_age_s`` leaves theirs alone.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or (min_age_s and time.time() - found.st_ctime < min_age_s):
            return None
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path, dir_fd=dir_fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    return found.st_size


class PartRegistry:
    """The temporary files that exist now, for a run that must leave at once.

    ``sweep`` is called with each directory, open, before the first file is made in it.
    """

    def __init__(self) -> None:
        # Guards the directories that were entered.
        self._lock = threading.Lock()
        self._open: dict[PartFile, None] = {}  # one item at a time is added, removed or copied: that is atomic
        self._entered: set[tuple[str | bytes, ...]] = set()
        self.sweep: Callable[[int], None] | None = None

    def enter(self, place: tuple[str | bytes, ...], directory: int) -> None:
        """Have a directory swept, unless a file was made in it before."""
        if self.sweep is None or place in self._entered:
            return
        with self._lock:
            if len(self._entered) >= MAX_ENTERED:
                self._entered.clear()
            self._entered.add(place)
        self.sweep(directory)

    def add(self, part: PartFile) -> None:
        """Remember a file before it is made."""
        self._open[part] = None

    def drop(self, part: PartFile) -> None:
        """Forget a file that has its name or is gone."""
        self._open.pop(part, None)

    def discard_all(self) -> None:
        """Remove what is left."""
        for part in list(self._open):
            part.discard()
