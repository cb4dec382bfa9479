"""The files below a local directory, in the byte order of the keys they become, and what no key can hold of them."""

from __future__ import annotations

import os
import stat
import sys
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import compress
from typing import NamedTuple

from s3pool.errors import LocalFileError, RefusedError, S3PoolError
from s3pool.filters import NameFilter, NameRange, Names, takes_all
from s3pool.location import S3Path, name_bytes
from s3pool.record import dataclass
from s3pool.transfer.metadata import stored_mode
from s3pool.transfer.safe_path import PART_PREFIX, is_part_name, local_error
from s3pool.transfer.tasks import UploadTask

LINKS_FILES = "files"  # links to files are followed, links to directories are reported
LINKS_FOLLOW = "follow"  # both are followed, loops are reported
LINKS_SKIP = "skip"  # neither is, without a word
LINK_RULES = (LINKS_FILES, LINKS_FOLLOW, LINKS_SKIP)

EMPTY = "empty"  # what a walk leaves out: a directory without files, a link that is skipped
LINK = "link"

NO_FILTER = NameFilter()
EVERYTHING = NameRange()
FILES_AT_ONCE = 1000  # looked at together, as many as a page of a listing has
FIRST_PART_NAME = PART_PREFIX.encode()
REGULAR = {stat.S_IFREG}
LINKS = "links"
SKIPPED_LINKS = "skipped_links"
HARD_LINKS = "hard_links"
ATTRIBUTES = "attributes"
DIRECTORIES = "directories"
# In the words of a summary, for one and for many.
WORDS = {
    LINKS: ("symbolic link (stored as the file)", "symbolic links (stored as the files)"),
    SKIPPED_LINKS: ("skipped symbolic link", "skipped symbolic links"),
    HARD_LINKS: ("hard link (stored as a file)", "hard links (stored as files)"),
    ATTRIBUTES: ("file's extended attributes", "files' extended attributes"),
    DIRECTORIES: ("empty directory", "empty directories"),
}
MAX_DIRECTORIES = 100_000  # remembered until the end of a run; more are counted
DIRECTORY_TYPE = "application/x-directory"  # as s3cmd, rclone and AWS's console store them


class LocalFiles(NamedTuple):
    """Regular files that follow each other, in columns; ``below`` is the walk's root and a slash."""

    names: list[str]
    sizes: list[int]
    times_ns: list[int]
    below: bytes


def path_opener(below: bytes) -> Callable[[str], str]:
    """Return the paths of many names in one directory, as path_below() does."""
    if sys.getfilesystemencoding() == "utf-8":
        return os.fsdecode(below).__add__  # a slash ends it: no character can begin there and end in a name
    return partial(path_below, below)


def path_below(below: bytes, name: str) -> str:
    """Return a function that opens a file by its key below a directory."""
    return os.fsdecode(below + name_bytes(name))


@dataclass(frozen=True, slots=True)
class Unusable:
    """A name in the tree that cannot be sent: RefusedError for what is skipped, else failed."""

    relative: str
    path: str
    error: S3PoolError


class Walk:
    """One walk over a tree; memory holds the names of the directories on the way only.

    Names outside of ``within`` are not looked at, nor are directories that can hold no name inside.
    Temporary files of downloads are no part of it; ``on_part`` hears of them. ``on_left`` hears
    of empty directories and of links that are skipped without a word.
    """

    def __init__(
        self,
        root: str,
        *,
        names: Names = NO_FILTER,
        links: str = LINKS_FILES,
        within: NameRange = EVERYTHING,
        on_part: Callable[[bytes], object] | None = None,
        on_left: Callable[[str, bytes], object] | None = None,
    ) -> None:
        self._root = os.fsencode(root)
        self._below = os.path.join(self._root, b"")
        self._on_part, self._links = on_part, links
        self._on_left = on_left or (lambda _kind, _relative: None)
        self._names = names
        self._takes_all = takes_all(names)
        self._after = None if within.after is None else name_bytes(within.after)
        self._until = None if within.until is None else name_bytes(within.until)
        self._stat = os.lstat if links == LINKS_SKIP else os.stat

    def __iter__(self) -> Iterator[LocalFiles | Unusable]:
        """Yield files and problems by relative name, in byte order; files that follow each other together.

        Raises LocalFileError: the root itself cannot be read.
        """
        try:
            facts = os.stat(self._root)
            names = _sorted_names(self._root)
        except OSError as exc:
            raise local_error("read", os.fsdecode(self._root), exc) from exc
        yield from self._walk(names, b"", ((facts.st_dev, facts.st_ino),))

    def _walk(
        self, names: list[bytes], below: bytes, ancestors: tuple[tuple[int, int], ...]
    ) -> Iterator[LocalFiles | Unusable]:
        self._cut(names, below)
        # From the end, so that names already seen can go while a long directory is walked.
        names.reverse()
        while names:
            if names[-1].endswith(b"/"):
                yield from self._directory(below + names.pop(), ancestors)
                continue
            some = names[-FILES_AT_ONCE:][::-1]
            count = next((place for place, name in enumerate(some) if name.endswith(b"/")), len(some))
            del names[-count:], some[count:]
            yield from self._files(below, self._without_parts(below, some))

    def _cut(self, names: list[bytes], below: bytes) -> None:
        """Leave out the names of one directory that the range does not have."""
        if self._until is not None and self._until.startswith(below):
            del names[bisect_right(names, self._until[len(below) :]) :]
        if self._after is not None and self._after.startswith(below):
            after = self._after[len(below) :]
            stop = bisect_right(names, after)
            # The last one may be a directory that the range begins in.
            is_begun = stop and names[stop - 1].endswith(b"/") and after.startswith(names[stop - 1])
            del names[: stop - 1 if is_begun else stop]

    def _holds_directory(self, relative: bytes) -> bool:
        """Return whether a directory's own name is in the range, so that one shard reports it."""
        return (self._after is None or self._after < relative) and (self._until is None or relative <= self._until)

    def _directory(self, relative: bytes, ancestors: tuple[tuple[int, int], ...]) -> Iterator[LocalFiles | Unusable]:
        if not self._names.may_contain(_decode(relative)):
            return
        path = os.path.join(self._root, relative)
        is_ours = self._holds_directory(relative)
        try:
            if os.path.islink(path[:-1]) and self._links != LINKS_FOLLOW:
                if is_ours and self._links == LINKS_SKIP:
                    self._on_left(LINK, relative)
                elif is_ours:
                    advice = "--links follow takes it, --links skip hides this"
                    why = f"{os.fsdecode(path[:-1])} is a link to a directory: skipped; {advice}"
                    yield self._unusable(relative, RefusedError(why))
                return
            facts = os.stat(path)
            identity = (facts.st_dev, facts.st_ino)
            if identity in ancestors:
                if is_ours:
                    yield self._unusable(relative, RefusedError(f"{os.fsdecode(path)} leads back to itself: skipped"))
                return
            names = _sorted_names(path)
            if not names and is_ours:
                self._on_left(EMPTY, relative)
        except OSError as exc:
            # Every shard whose names may be there reports it: none of them has seen all of its own.
            yield self._unusable(relative, local_error("read", os.fsdecode(path), exc))
            return
        yield from self._walk(names, relative, (*ancestors, identity))

    def _without_parts(self, below: bytes, names: list[bytes]) -> list[bytes]:
        place = bisect_left(names, FIRST_PART_NAME)
        if place == len(names) or not names[place].startswith(FIRST_PART_NAME):
            return names
        for name in filter(is_part_name, names):
            if self._on_part is not None:
                self._on_part(self._below + below + name)
        return [name for name in names if not is_part_name(name)]

    def _files(self, below: bytes, names: list[bytes]) -> Iterator[LocalFiles | Unusable]:
        """Look at files of one directory; all at once, unless something is wrong with one of them."""
        if not names:
            return
        start = self._below + below
        try:
            relatives = _decoded(below, names)
            if not self._takes_all:
                picks = [self._names.admits(relative) for relative in relatives]
                names, relatives = list(compress(names, picks)), list(compress(relatives, picks))
            look = self._stat
            facts = [look(start + name) for name in names]
        except (OSError, UnicodeDecodeError):
            facts = []
        if len(facts) == len(names) and {stat.S_IFMT(fact.st_mode) for fact in facts} <= REGULAR:
            if names:
                sizes, times = [fact.st_size for fact in facts], [fact.st_mtime_ns for fact in facts]
                yield LocalFiles(relatives, sizes, times, self._below)
            return
        for name in names:
            yield from self._file(below + name)

    def _file(self, name: bytes) -> Iterator[LocalFiles | Unusable]:
        relative, path = _decode(name), self._below + name
        text, error = os.fsdecode(path), None
        if not self._names.admits(relative):
            return
        try:
            facts = self._stat(path)
        except OSError as exc:
            is_link = os.path.islink(path)
            error = RefusedError(f"{text} is a broken link: skipped") if is_link else local_error("read", text, exc)
            yield self._unusable(name, error)
            return
        if stat.S_ISLNK(facts.st_mode):
            self._on_left(LINK, name)
        elif any("\udc80" <= character <= "\udcff" for character in relative):
            yield self._unusable(name, LocalFileError(f"the name of {text} is not UTF-8: no key can hold it"))
        elif stat.S_ISREG(facts.st_mode):
            yield LocalFiles([relative], [facts.st_size], [facts.st_mtime_ns], self._below)
        else:
            yield self._unusable(name, RefusedError(f"{text} is {_kind(facts.st_mode)}: skipped"))

    def _unusable(self, relative: bytes, error: S3PoolError) -> Unusable:
        return Unusable(_decode(relative), os.fsdecode(os.path.join(self._root, relative)), error)


def _sorted_names(path: bytes) -> list[bytes]:
    """Return a directory's names; directories end in ``/``, or ``a-b`` and ``a/b`` would swap."""
    try:
        with os.scandir(path) as entries:
            names = [entry.name + b"/" if entry.is_dir() else entry.name for entry in entries]
    except OSError:  # of one of them, it may be
        with os.scandir(path) as entries:
            names = [entry.name + b"/" if os.path.isdir(entry.path) else entry.name for entry in entries]
    names.sort()
    return names


def _decoded(below: bytes, names: list[bytes]) -> list[str]:
    """Decode names at once; no file name holds the NUL between them."""
    start = below.decode()
    return [start + name for name in b"\0".join(names).decode().split("\0")]


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return kinds.get(stat.S_IFMT(mode), "no regular file")


# -- what is not kept -----------------------------------------------------------------------


class NotKept:
    """What objects cannot hold of a run's files: counts, and the empty directories that are to be stored at its end.

    For many threads.
    """

    def __init__(self) -> None:
        # Guards the counts: workers add to them.
        self._lock = threading.Lock()
        self.counts = dict.fromkeys(WORDS, 0)
        self.directories: list[UploadTask] = []

    def count(self, kind: str) -> None:
        """Count one more."""
        with self._lock:
            self.counts[kind] += 1

    def teller(self, root: str, target: S3Path) -> Callable[[str, bytes], object]:
        """Return what a walk tells of what it leaves out; an empty directory is stored below the target."""

        def tell(kind: str, relative: bytes) -> None:
            if kind == LINK:
                self.count(SKIPPED_LINKS)
            elif len(self.directories) >= MAX_DIRECTORIES:
                self.count(DIRECTORIES)
            else:
                path, key = os.path.join(root, os.fsdecode(relative)), relative.decode("utf-8", "surrogateescape")
                self.directories.append(UploadTask(path, target.bucket, target.tree_prefix + key))

        return tell

    def look_at_file(self, fd: int, path: str) -> None:
        """Count what a file that is sent has beside its bytes."""
        if os.fstat(fd).st_nlink > 1:
            self.count(HARD_LINKS)
        if os.path.islink(path):
            self.count(LINKS)
        try:
            names = os.listxattr(fd)
        except (OSError, AttributeError):
            return
        if any(name.startswith("user.") for name in names):
            self.count(ATTRIBUTES)

    def look_at_object(self, metadata: dict[str, str]) -> None:
        """Count an object that another program stored for a link."""
        mode = stored_mode(metadata)
        if mode is not None and stat.S_ISLNK(mode):
            self.count(LINKS)


def words_of(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield what was not kept, for people."""
    for kind, (one, many) in WORDS.items():
        if number := counts[kind]:
            yield f"{number} {one if number == 1 else many}"
