"""The files below a local directory, in the byte order of the keys they become."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from s3pool.errors import LocalFileError, RefusedError, S3PoolError
from s3pool.filters import NameFilter, Names
from s3pool.transfer.beneath import is_part_name, local_error

LINKS_FILES = "files"  # links to files are followed, links to directories are reported
LINKS_FOLLOW = "follow"  # both are followed, loops are reported
LINKS_SKIP = "skip"  # neither is, without a word
LINK_RULES = (LINKS_FILES, LINKS_FOLLOW, LINKS_SKIP)

NO_FILTER = NameFilter()


@dataclass(frozen=True, slots=True)
class LocalFile:
    """One regular file; ``relative`` is its key below the root, ``path`` opens it."""

    relative: str
    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Unusable:
    """A name in the tree that cannot be sent: RefusedError for what is skipped, else failed."""

    relative: str
    path: str
    error: S3PoolError


class Walk:
    """One walk over a tree; memory holds the names of the directories on the way only.

    Temporary files of downloads are no part of it; ``on_part`` hears of them.
    """

    def __init__(
        self,
        root: str,
        *,
        names: Names = NO_FILTER,
        links: str = LINKS_FILES,
        on_part: Callable[[bytes], object] | None = None,
    ) -> None:
        self._root = os.fsencode(root)
        self._on_part = on_part
        self._names = names
        self._links = links

    def __iter__(self) -> Iterator[LocalFile | Unusable]:
        """Yield files and problems by relative name, in byte order.

        Raises:
            LocalFileError: the root itself cannot be read.
        """
        try:
            facts = os.stat(self._root)
            names = _sorted_names(self._root)
        except OSError as exc:
            raise local_error("read", os.fsdecode(self._root), exc) from exc
        yield from self._walk(names, b"", ((facts.st_dev, facts.st_ino),))

    def _walk(
        self, names: list[bytes], below: bytes, ancestors: tuple[tuple[int, int], ...]
    ) -> Iterator[LocalFile | Unusable]:
        # From the end, so that names already seen can go while a long directory is walked.
        names.reverse()
        while names:
            name = names.pop()
            if name.endswith(b"/"):
                yield from self._directory(below + name, ancestors)
            elif not is_part_name(name):
                yield from self._file(below + name)
            elif self._on_part is not None:
                self._on_part(os.path.join(self._root, below, name))

    def _directory(self, relative: bytes, ancestors: tuple[tuple[int, int], ...]) -> Iterator[LocalFile | Unusable]:
        if not self._names.may_contain(_decode(relative)):
            return
        path = os.path.join(self._root, relative)
        try:
            if os.path.islink(path[:-1]) and self._links != LINKS_FOLLOW:
                yield from self._linked_directory(relative)
                return
            facts = os.stat(path)
            identity = (facts.st_dev, facts.st_ino)
            if identity in ancestors:
                yield self._unusable(relative, RefusedError(f"{os.fsdecode(path)} leads back to itself: skipped"))
                return
            names = _sorted_names(path)
        except OSError as exc:
            yield self._unusable(relative, local_error("read", os.fsdecode(path), exc))
            return
        yield from self._walk(names, relative, (*ancestors, identity))

    def _linked_directory(self, relative: bytes) -> Iterator[Unusable]:
        if self._links == LINKS_FILES:
            path = os.fsdecode(os.path.join(self._root, relative[:-1]))
            error = RefusedError(
                f"{path} is a link to a directory: skipped; --links follow takes it, --links skip hides this"
            )
            yield self._unusable(relative, error)

    def _file(self, name: bytes) -> Iterator[LocalFile | Unusable]:
        relative = _decode(name)
        if not self._names.admits(relative):
            return
        path = os.path.join(self._root, name)
        if self._links == LINKS_SKIP and os.path.islink(path):
            return
        try:
            facts = os.stat(path)
        except OSError as exc:
            yield self._unusable(name, _unreadable(path, exc))
            return
        if not _is_utf8(name):
            error = LocalFileError(f"the name of {os.fsdecode(path)!a} is not UTF-8: no key can hold it")
            yield self._unusable(name, error)
        elif stat.S_ISREG(facts.st_mode):
            yield LocalFile(relative, os.fsdecode(path), facts.st_size, facts.st_mtime_ns)
        else:
            yield self._unusable(name, RefusedError(f"{os.fsdecode(path)} is {_kind(facts.st_mode)}: skipped"))

    def _unusable(self, relative: bytes, error: S3PoolError) -> Unusable:
        return Unusable(_decode(relative), os.fsdecode(os.path.join(self._root, relative)), error)


def _sorted_names(path: bytes) -> list[bytes]:
    """Give a directory's names; directories end in ``/``, or ``a-b`` and ``a/b`` would swap."""
    names: list[bytes] = []
    with os.scandir(path) as entries:
        names.extend(entry.name + b"/" if _is_directory(entry) else entry.name for entry in entries)
    names.sort()
    return names


def _is_directory(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _unreadable(path: bytes, error: OSError) -> S3PoolError:
    if os.path.islink(path):
        return RefusedError(f"{os.fsdecode(path)} is a broken link: skipped")
    return local_error("read", os.fsdecode(path), error)


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "no regular file"
