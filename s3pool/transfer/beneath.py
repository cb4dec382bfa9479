"""Files below a directory that nothing in a key can leave, written under a hidden name first."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import re
import secrets
import stat
import threading
from collections.abc import Callable

from s3pool.errors import LocalFileError, LocalNotFoundError, RefusedError

PART_PREFIX = ".s3pool-"
PART_SUFFIX = ".part"
PART_RANDOM_BYTES = 6
PART_NAME = re.compile(rb"\.s3pool-[0-9a-f]{12,24}\.part")  # of every temporary file: random digits, a number
NEW_FILE_MODE = 0o666  # the umask takes its share
PRIVATE_MODE = 0o600
NEW_DIRECTORY_MODE = 0o777
PERMISSION_BITS = 0o777  # set-user-id and its like are never taken over
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
MAX_ENTERED = 10_000  # directories that are known to be swept; memory must not grow with the tree
PLENTY = 8  # times the size: as much as this is free for some files at once
DOT_NAMES = ("", ".", "..")
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EROFS)  # of file systems without fsync for such a thing


def is_part_name(name: bytes) -> bool:
    """Return whether a file name is exactly one of our temporary ones: walks leave them alone."""
    return PART_NAME.fullmatch(name) is not None


def local_error(action: str, path: str, error: OSError) -> LocalFileError:
    """Translate the system's error for a local file."""
    kind = LocalNotFoundError if isinstance(error, FileNotFoundError) else LocalFileError
    return kind(f"cannot {action} {path}: {error.strerror or error}")


@functools.cache
def default_mode() -> int:
    """Return the permission bits of a new file."""
    umask = os.umask(PRIVATE_MODE ^ PERMISSION_BITS)
    os.umask(umask)
    return NEW_FILE_MODE & ~umask


def split_relative(relative: str) -> tuple[list[bytes], bytes]:
    """Cut a key's relative name into directories and a file name, as bytes.

    Empty and ``.`` components are left out, as the file system would. The file name is empty
    for a name that ends in ``/``: a directory.

    Raises:
        RefusedError: the name leads out of its directory, is absolute, or cannot be a file's.
    """
    if "\0" in relative:
        raise RefusedError("a local name cannot hold a NUL")
    if relative.startswith("/"):
        raise RefusedError("the name leads out of its directory: it is absolute")
    *parents, name = relative.encode("utf-8", "surrogateescape").split(b"/")
    if b".." in parents or name == b"..":
        raise RefusedError("the name leads out of its directory: it holds '..'")
    if name == b".":
        raise RefusedError("a file cannot be called '.'")
    return [part for part in parents if part not in (b"", b".")], name


def open_root(root: str, *, create: bool = True) -> int:
    """Open the user's own directory, links followed; make it when it is missing.

    Raises:
        LocalFileError: it cannot be made, or is no directory.
    """
    path = root or "."
    try:
        if create and root:
            os.makedirs(root, exist_ok=True)
        return os.open(path, DIRECTORY_FLAGS)
    except FileExistsError as exc:
        raise LocalFileError(f"cannot write below {path}: it is not a directory") from exc
    except OSError as exc:
        raise local_error("open", path, exc) from exc


def open_below(root_fd: int, parents: list[bytes], *, create: bool = True) -> int:
    """Open a directory below another one, step by step and never through a link.

    Gives a new descriptor, also for no step at all.

    Raises:
        RefusedError: a step is a symbolic link.
        LocalFileError: a step is a file, or cannot be made or opened.
    """
    here = os.dup(root_fd)
    for depth, step in enumerate(parents):
        try:
            below = _open_step(here, step, create)
        except OSError as exc:
            raise _step_error(here, b"/".join(parents[: depth + 1]), exc) from exc
        finally:
            os.close(here)
        here = below
    return here


def _open_step(here: int, step: bytes, create: bool) -> int:
    try:
        return os.open(step, DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=here)
    except FileNotFoundError:
        if not create:
            raise
    with contextlib.suppress(FileExistsError):  # another worker was faster, or a link leads nowhere
        os.mkdir(step, NEW_DIRECTORY_MODE, dir_fd=here)
    return os.open(step, DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=here)


def _step_error(here: int, path: bytes, error: OSError) -> LocalFileError | RefusedError:
    name = os.fsdecode(path)
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EEXIST) and _is_link(here, path.rpartition(b"/")[2]):
        return RefusedError(f"the way leads through the symbolic link {name}, which is not followed")
    if error.errno == errno.ENOTDIR:
        return LocalFileError(f"{name} is a file, not a directory")
    return local_error("open directory", name, error)


def _is_link(here: int, name: bytes) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode)
    except OSError:
        return False


def sync_to_disk(fd: int) -> None:
    """Wait until a file, or the names in a directory, are on the disk; some file systems cannot tell.

    Raises:
        OSError: the disk failed.
    """
    try:
        os.fsync(fd)
    except OSError as exc:
        if exc.errno not in NO_SYNC:
            raise


class PartFile:
    """A hidden temporary file in the target's own directory.

    Nothing is at the target's name before commit(). The creator closes it; closing an
    uncommitted one removes it. ``reuse`` names one that an earlier run has kept: where it is
    still there, and nobody's, ``reused`` is True. It has the mode of the file that it replaces,
    and is for its owner alone where there is none and ``private`` says that its mode is not known.
    """

    __slots__ = ("_directory", "_private", "_registry", "fd", "name", "reused", "target")

    def __init__(
        self, root: str, relative: str, *, registry: PartRegistry, reuse: str = "", private: bool = False
    ) -> None:
        parents, self.target = split_relative(relative)
        root_fd = open_root(root)
        try:
            self._directory = open_below(root_fd, parents)
        finally:
            os.close(root_fd)
        self._registry = registry
        self._private = private
        registry.enter((root, *parents), self._directory)
        self.name = os.fsencode(reuse)
        self.fd = self._open_kept() if reuse else -1
        self.reused = self.fd >= 0
        if self.reused:
            registry.add(self)
            return
        try:
            registry.add(self)
            while not self._create():
                fd, self.fd = self.fd, -1
                os.close(fd)
        except OSError as exc:
            self.close()
            raise local_error("write", os.path.join(root, relative), exc) from exc

    def _create(self) -> bool:
        """Make the file; False when another run has swept it away before it could be claimed."""
        self.name = f"{PART_PREFIX}{secrets.token_hex(PART_RANDOM_BYTES)}{PART_SUFFIX}".encode()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        mode = self.existing_mode()
        if mode is None:
            mode = PRIVATE_MODE if self._private else NEW_FILE_MODE
        self.fd = os.open(self.name, flags, mode | PRIVATE_MODE, dir_fd=self._directory)
        return claim(self.fd) and os.fstat(self.fd).st_nlink > 0

    def _open_kept(self) -> int:
        try:
            fd = os.open(self.name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._directory)
        except OSError:
            return -1
        if is_part_name(self.name) and claim(fd):
            return fd
        os.close(fd)
        return -1

    def preallocate(self, size: int) -> None:
        """Give the file its size; where space is short reserve it, to find that before the bytes are fetched.

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
        """Give the permission bits of the file that commit() will replace, if there is one."""
        try:
            found = os.stat(self.target, dir_fd=self._directory, follow_symlinks=False)
        except OSError:
            return None
        return stat.S_IMODE(found.st_mode) & PERMISSION_BITS if stat.S_ISREG(found.st_mode) else None

    def commit(self, *, replace: bool = True) -> bool:
        """Give the file its name; False when it must not replace one that is there.

        Raises:
            LocalFileError: a directory has that name, or the system refuses.
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
        self._registry.drop(self)
        self.name = b""
        return True

    def keep(self) -> None:
        """Leave the temporary file where it is, for a later run to go on with."""
        self._registry.drop(self)
        self.name = b""

    def close(self) -> None:
        """Close all, and remove the file unless it was committed or kept."""
        self.discard()
        for fd in (self.fd, self._directory):
            if fd >= 0:
                os.close(fd)
        self.fd = self._directory = -1

    def discard(self) -> None:
        """Remove the temporary file, from whatever thread; harmless afterwards."""
        name, self.name = self.name, b""
        if name:
            self._registry.drop(self)
            with contextlib.suppress(OSError):  # never created, or the directory went away
                os.unlink(name, dir_fd=self._directory)


def claim(fd: int) -> bool:
    """Mark a temporary file as somebody's for as long as it is open; False when it is another's."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        return exc.errno not in (errno.EWOULDBLOCK, errno.EAGAIN)
    return True


def remove_orphan(path: bytes, *, dir_fd: int | None = None) -> int | None:
    """Remove a temporary file that a dead run has left; return its size in bytes, None when it stays.

    A locked file belongs to a living run and stays; so does everything on file systems without
    locks. An empty one may be of a living run that has not locked it yet, and makes another.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
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
        # Guards the sets; removing files happens outside of it.
        self._lock = threading.Lock()
        self._open: set[PartFile] = set()
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
        with self._lock:
            self._open.add(part)

    def drop(self, part: PartFile) -> None:
        """Forget a file that has its name or is gone."""
        with self._lock:
            self._open.discard(part)

    def discard_all(self) -> None:
        """Remove what is left."""
        with self._lock:
            left = list(self._open)
        for part in left:
            part.discard()


def make_directory(root: str, relative: str) -> None:
    """Make a directory below root, and those between."""
    parents, name = split_relative(relative)
    root_fd = open_root(root)
    try:
        os.close(open_below(root_fd, [*parents, name] if name else parents))
    finally:
        os.close(root_fd)


def remove_file(root: str, relative: str) -> None:
    """Remove a file below root without following a link; a missing one is fine.

    Raises:
        RefusedError: the way leads through a link.
        LocalFileError: the system refuses, or it is a directory.
    """
    parents, name = split_relative(relative)
    try:
        directory = _open_existing(root, parents)
        try:
            os.unlink(name, dir_fd=directory)
        finally:
            os.close(directory)
    except FileNotFoundError:
        return
    except LocalNotFoundError:
        return
    except OSError as exc:
        raise local_error("remove", os.path.join(root, relative), exc) from exc


def _open_existing(root: str, parents: list[bytes]) -> int:
    root_fd = open_root(root, create=False)
    try:
        return open_below(root_fd, parents, create=False)
    finally:
        os.close(root_fd)


def stat_below(root: str, relative: str) -> os.stat_result | None:
    """Give what is at a name below root, a link itself and not its target; None for nothing.

    Raises:
        RefusedError: the way leads through a link, or out of the root.
    """
    parents, name = split_relative(relative)
    try:
        directory = _open_existing(root, parents)
        try:
            return os.stat(name or b".", dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(directory)
    except (OSError, LocalFileError):
        return None
