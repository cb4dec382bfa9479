"""Names below a directory that nothing in a key can leave, and no link leads out of, for reading and writing."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from s3pool.errors import LocalFileError, LocalNotFoundError, RefusedError
from s3pool.location import name_bytes

if TYPE_CHECKING:
    from s3pool.transfer.tasks import UploadTask

NEW_FILE_MODE = 0o666  # the umask takes its share
PRIVATE_MODE = 0o600
NEW_DIRECTORY_MODE = 0o777
PERMISSION_BITS = 0o777  # set-user-id and its like are never taken over
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EROFS)  # of file systems without fsync for such a thing

PART_PREFIX = ".s3pool-"
PART_SUFFIX = ".part"
PART_NAME = re.compile(rb"\.s3pool-[0-9a-f]{12,24}\.part")  # of every temporary file: random digits, a number
# What an unusual component leaves between names that are joined by NULs, and a NUL within one.
UNUSUAL_JOINTS = ("//", "\0/", "/\0", "\0\0", "/./", "/../", "\0./", "\0../", "/.\0", "/..\0", "\0.\0", "\0..\0")
CAREFUL_TEXTS = (*UNUSUAL_JOINTS, PART_PREFIX)
# With no empty component, and none that begins with a dot.
PLAIN_NAME = re.compile(r"(?:[^\0/.][^\0/]*/)*[^\0/.][^\0/]*")


def local_error(action: str, path: str, error: OSError) -> LocalFileError:
    """Translate the system's error for a local file."""
    kind = LocalNotFoundError if isinstance(error, FileNotFoundError) else LocalFileError
    failure = kind(f"cannot {action} {path}: {error.strerror or error}")
    failure.__cause__ = error  # by which its reader is told what to do
    return failure


@functools.cache
def default_mode() -> int:
    """Return the permission bits of a new file."""
    umask = os.umask(PRIVATE_MODE ^ PERMISSION_BITS)
    os.umask(umask)
    return NEW_FILE_MODE & ~umask


def split_relative(relative: str) -> tuple[list[bytes], bytes]:
    """Cut a key's relative name into directories and a file name, as bytes.

    Empty and ``.`` components are left out, as the file system would. The file name is empty for a name that ends in
    ``/``: a directory.

    Raises RefusedError: the name leads out of its directory, is absolute, or cannot be a file's.
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

    Raises LocalFileError: it cannot be made, or is no directory.
    """
    path = root or "."
    try:
        if create and root:
            os.makedirs(root, exist_ok=True)
        return os.open(path, DIRECTORY_FLAGS)
    except FileExistsError as exc:
        raise LocalFileError(f"cannot write below {path}: it is a file, not a directory; name another one") from exc
    except OSError as exc:
        raise local_error("open", path, exc) from exc


def open_below(root_fd: int, parents: list[bytes], *, create: bool = True) -> int:
    """Open a directory below another one, step by step and never through a link.

    Returns a new descriptor, also for no step at all.

    Raises RefusedError: a step is a symbolic link. LocalFileError: a step is a file, or cannot be made or opened.
    """
    here = os.dup(root_fd)
    for depth, step in enumerate(parents):
        try:
            try:
                below = os.open(step, DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=here)
            except FileNotFoundError:
                if not create:
                    raise
                with contextlib.suppress(FileExistsError):  # another worker was faster, or a link leads nowhere
                    os.mkdir(step, NEW_DIRECTORY_MODE, dir_fd=here)
                below = os.open(step, DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=here)
        except OSError as exc:
            raise _step_error(here, b"/".join(parents[: depth + 1]), exc) from exc
        finally:
            os.close(here)
        here = below
    return here


def _open_way(root: str, parents: list[bytes], *, create: bool) -> int:
    root_fd = open_root(root, create=create)
    try:
        return open_below(root_fd, parents, create=create)
    finally:
        os.close(root_fd)


@contextlib.contextmanager
def directory_below(root: str, parents: list[bytes], *, create: bool = False) -> Iterator[int]:
    """Open a directory below root for a block; raises as open_root() and open_below() do."""
    directory = _open_way(root, parents, create=create)
    try:
        yield directory
    finally:
        os.close(directory)


def _step_error(here: int, path: bytes, error: OSError) -> LocalFileError | RefusedError:
    name = os.fsdecode(path)
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EEXIST):
        with contextlib.suppress(OSError):
            found = os.stat(path.rpartition(b"/")[2], dir_fd=here, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                return RefusedError(f"the way leads through the symbolic link {name}, which is not followed")
    if error.errno == errno.ENOTDIR:
        return LocalFileError(f"{name} is a file, not a directory; remove or rename it")
    return local_error("open directory", name, error)


class LastDirectory:
    """The directory of a thread's last file, kept open: files that lie together come together.

    ``create`` makes what is missing on the way. ``was_empty`` tells that it held nothing when
    it was entered: what is in it now, this run has put there. Belongs to one thread.
    """

    __slots__ = ("_create", "_place", "fd", "is_fresh", "was_empty")

    def __init__(self, *, create: bool) -> None:
        self._create = create
        self._place: tuple[str, str] | None = None
        self.fd = -1
        self.is_fresh = self.was_empty = False

    def is_at(self, root: str, parent: str) -> bool:
        """Return whether the directory is the one of this name, and use it once more."""
        self.is_fresh = False
        return self._place == (root, parent)

    def enter(self, root: str, parent: str, steps: list[bytes]) -> int:
        """Open the directory that ``steps`` lead to below root, and remember it by its name.

        Raises RefusedError: a step is a link. LocalFileError: it cannot be made or opened.
        """
        self.leave()
        self.fd = _open_way(root, steps, create=self._create)
        self._place = (root, parent)
        self.is_fresh, self.was_empty = True, False
        if self._create:
            with contextlib.suppress(OSError), os.scandir(self.fd) as entries:  # it may be written to, but not read
                self.was_empty = next(entries, None) is None
        return self.fd

    def leave(self) -> None:
        """Close the directory; the next file opens its own anew."""
        self._place = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.leave()


def sync_to_disk(fd: int) -> None:
    """Wait until a file, or the names in a directory, are on the disk; some file systems cannot tell.

    Raises OSError: the disk failed.
    """
    try:
        os.fsync(fd)
    except OSError as exc:
        if exc.errno not in NO_SYNC:
            raise


def make_directory(root: str, relative: str) -> None:
    """Make a directory below root, and those between."""
    parents, name = split_relative(relative)
    with directory_below(root, [*parents, name] if name else parents, create=True):
        pass


def remove_file(root: str, relative: str) -> None:
    """Remove a file below root without following a link; a missing one is fine.

    Raises RefusedError: the way leads through a link. LocalFileError: the system refuses, or it is a directory.
    """
    parents, name = split_relative(relative)
    try:
        with directory_below(root, parents) as directory:
            os.unlink(name, dir_fd=directory)
    except (FileNotFoundError, LocalNotFoundError):
        return
    except OSError as exc:
        raise local_error("remove", os.path.join(root, relative), exc) from exc


def stat_below(root: str, relative: str) -> os.stat_result | None:
    """Return the facts of what a name below root is, of a link itself; None for nothing.

    Raises RefusedError: the way leads through a link, or out of the root.
    """
    parents, name = split_relative(relative)
    try:
        with directory_below(root, parents) as directory:
            return os.stat(name or b".", dir_fd=directory, follow_symlinks=False)
    except (OSError, LocalFileError):
        return None


T = TypeVar("T")
OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # a pipe must not block the open
FOLLOW = "follow"
SKIP = "skip"


class SourceFiles:
    """Opens files for reading; keeps the directory of the last one open. Belongs to one thread.

    ``links`` is the rule of the run. Links in the root itself are the user's own and followed; on the way below it
    none is, unless the rule is to follow them all, and where links are skipped the file is none, either.
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


def write_special(path: str) -> int:
    """Open a device or a pipe to write to; it is never replaced by a file.

    Raises LocalFileError: the system refuses.
    """
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as exc:
        raise local_error("write", path, exc) from exc


def read_file(path: str, act: Callable[[int], T]) -> T:
    """Return what ``act`` makes of a file's descriptor. Raises LocalFileError: it cannot be read."""
    try:
        fd = os.open(path, OPEN_FLAGS)
        try:
            return act(fd)
        finally:
            os.close(fd)
    except OSError as exc:
        raise local_error("read", path, exc) from exc


def is_part_name(name: bytes) -> bool:
    """Return whether a file name is exactly one of our temporary ones: walks leave them alone."""
    return PART_NAME.fullmatch(name) is not None


class KeyMapper:
    """Finds keys that lead out of the target, and keys that would need the same file.

    Only names with empty or ``.`` components can meet another key's file, so only those are
    remembered, and memory does not grow with the listing. ``bucket.exists(key)`` is asked
    about the plain twin of such a name, which may have come by unnoticed before.
    """

    def __init__(self, exists: Callable[[str, str], bool]) -> None:
        self._exists = exists
        self._unusual: dict[tuple[bytes, ...], str] = {}
        # The keys that are a prefix of the current one, as text: they follow each other in a
        # sorted listing, so the list is never longer than a key.
        self._above: list[str] = []

    def restart(self) -> None:
        """Begin another listing: its order has nothing to do with that of the one before."""
        self._above.clear()

    def check_all(self, names: Sequence[str]) -> bool:
        """Take the next keys of a listing, if none of them is anything to be careful about.

        No means that nothing was taken, and that check() is to be asked about each.
        """
        text = f"\0{chr(0).join(names)}\0"
        if self._unusual or text.count("\0") != len(names) + 1 or any(joint in text for joint in CAREFUL_TEXTS):
            return False
        above = {name[:place] for name in names for place, letter in enumerate(name) if letter == "/"}
        if not (above.isdisjoint(names) and above.isdisjoint(self._above)):
            return False
        last = names[-1]
        self._above = [key for key in (*self._above, *names) if last.startswith(key)]
        return True

    def check(self, bucket: str, base: str, relative: str) -> None:
        """Take the next key of a listing, given by its name below ``base``.

        Raises RefusedError: the name leads out of its directory, or another key has its file.
        """
        if PLAIN_NAME.fullmatch(relative) is None or self._unusual:
            self._check_components(bucket, base, relative)
        above = self._above
        while above and not relative.startswith(above[-1]):
            above.pop()
        for key in above:
            if relative.startswith(f"{key}/") and not key.endswith("/"):
                raise RefusedError(f"the key {key!r} is a file there, so nothing can lie below it")
        above.append(relative)

    def _check_components(self, bucket: str, base: str, relative: str) -> None:
        parents, name = split_relative(relative)
        if is_part_name(name):
            raise RefusedError("a file of that name would be taken for one of s3pool's own temporary files")
        path = (*parents, name) if name else tuple(parents)
        twin = b"/".join(path).decode("utf-8", "surrogateescape")
        other, is_unusual = self._unusual.get(path), relative.rstrip("/") != twin
        if (
            other is None
            and is_unusual
            and name_bytes(twin) < name_bytes(relative)
            and self._exists(bucket, base + twin)
        ):
            other = base + twin
        if other is not None:
            raise RefusedError(f"the keys {other!r} and {base + relative!r} need the same file")
        if is_unusual:
            self._unusual[path] = base + relative
