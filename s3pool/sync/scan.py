"""Two sides of a sync as streams of batches, each in the byte order of the names."""

from __future__ import annotations

import operator
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import lru_cache
from itertools import islice, repeat
from typing import TYPE_CHECKING, TypeVar

from s3pool.dialect import HIDES_BELOW
from s3pool.errors import (
    LOOK_FOR_SIGNALS_S,
    JournalError,
    LocalFileError,
    LocalNotFoundError,
    RefusedError,
    S3PoolError,
    UnorderedError,
)
from s3pool.filters import NameRange, Names, takes_all
from s3pool.location import AFTER_SLASH, name_bytes
from s3pool.model import ListPage
from s3pool.s3.pages import values_of, versions_of
from s3pool.sync.compare import Batch
from s3pool.sync.job import is_foreign
from s3pool.transfer.safe_path import local_error, split_relative
from s3pool.transfer.tasks import Problem
from s3pool.transfer.walk import EVERYTHING, LINKS_FILES, LINKS_SKIP, Unusable, Walk

if TYPE_CHECKING:
    from s3pool.location import S3Path
    from s3pool.s3.client import S3Client

ODD_COMPONENTS = ("/", "./")
PAGES_AHEAD = 4  # of a listing, asked for while the pages before are compared
PUT_WAIT_S = 0.2  # how long a listing waits for room before it looks whether it is still wanted

T = TypeVar("T")


def local_source(
    root: str,
    *,
    names: Names,
    links: str = LINKS_FILES,
    within: NameRange = EVERYTHING,
    target_of: Callable[[str], str],
    on_problem: Callable[[Problem], None],
    on_left: Callable[[str, bytes], object] | None = None,
) -> Iterator[Batch]:
    """Yield the files below a directory; what cannot be sent goes to ``on_problem``.

    ``target_of(name)`` gives the target's text for messages. Raises LocalFileError: the directory cannot be read.
    """
    for found in Walk(root, names=names, links=links, within=within, on_left=on_left):
        if isinstance(found, Unusable):
            error = _without_absence(found.error)
            on_problem(Problem(found.path, error, target_of(found.relative), op="upload"))
        else:
            yield Batch(found.names, found.sizes, found.times_ns, below=found.below)


def local_target(
    root: str,
    *,
    names: Names,
    within: NameRange,
    on_problem: Callable[[Problem], None],
    on_part: Callable[[bytes], object] | None,
) -> Iterator[Batch]:
    """Yield the regular files below a directory that may not exist yet.

    Links are not seen here: a download replaces a link, and a removal leaves it alone. Names that no key can have, and
    what is no file, are left alone as well. ``on_part`` hears of temporary files of downloads.

    Raises LocalFileError: the directory is there and cannot be read, or is none.
    """
    if not os.path.lexists(root or "."):
        return
    for found in Walk(root or ".", names=names, links=LINKS_SKIP, within=within, on_part=on_part):
        if not isinstance(found, Unusable):
            yield Batch(found.names, found.sizes, found.times_ns, below=found.below)
        elif not (isinstance(found.error, RefusedError) or is_foreign(found.relative)):
            on_problem(Problem(found.path, _without_absence(found.error), op="download"))


class RemoteTree:
    """The keys below a prefix, by what follows it, in the order of their bytes.

    ``is_ordered`` becomes False when the server lists without order. With ``sorts`` the names
    are sorted here, on disk, and those outside of ``within`` left out. ``seen`` counts the keys,
    also those that a filter leaves out; ``has_ended`` tells that none are to come.
    """

    def __init__(
        self,
        pages: Iterable[ListPage],
        prefix: str,
        *,
        names: Names,
        sorts: bool = False,
        within: NameRange = EVERYTHING,
    ) -> None:
        self._pages, self._start = pages, len(prefix)
        self._names, self._sorts, self._within = names, sorts, within
        self._last: bytes | None = None
        self.is_ordered, self.has_ended = True, False
        self.seen = 0

    def __iter__(self) -> Iterator[Batch]:
        """Yield the keys; errors are those of the listing.

        Raises UnorderedError: a key comes too late, and nothing is sorted here.
        """
        blocks = self._blocks()
        if self._sorts and self._within != EVERYTHING:
            blocks = (block.pick(map(self._within.holds, block.names)) for block in blocks)
        yield from sorted_batches(blocks) if self._sorts else blocks

    def _blocks(self) -> Iterator[Batch]:
        everything = takes_all(self._names)
        try:
            for page in self._pages:
                self.has_ended = not page.truncated
                if page.objects:
                    keys, sizes, modified, etags = values_of(page.objects)
                    versions = versions_of(page.objects)
                    names = [key[self._start :] for key in keys] if self._start else keys
                    self.seen += len(names)
                    self._check_order(names)
                    block = Batch(names, sizes, etags=etags, modified=modified, versions=versions)
                    yield block if everything else block.pick(map(self._names.admits, names))
        except UnorderedError:
            self.is_ordered = False
            raise
        self.has_ended = True

    def _check_order(self, names: Sequence[str]) -> None:
        first, last = name_bytes(names[0]), name_bytes(names[-1])
        # The order of text is that of its bytes, but for bytes that are not UTF-8.
        orders: Sequence[str | bytes] = names if "".join(names).isascii() else list(map(name_bytes, names))
        is_sorted = all(map(operator.lt, orders, islice(orders, 1, None)))
        if (self._last is not None and first <= self._last) or not is_sorted:
            self.is_ordered = False
            if not self._sorts:
                raise UnorderedError("the server lists its keys without order")
        self._last = last


class UnusualKeys:
    """The files that keys with empty or ``.`` components need, for a run that lists a range of keys only.

    ``a//b`` and ``a/./b`` need the file ``a/b``, and may stand in the range of another run.
    ``list_keys(prefix)`` gives the keys with a prefix; it is asked about directories at the borders.
    """

    def __init__(self, within: NameRange, list_keys: Callable[[str], Iterable[str]]) -> None:
        self._within = within
        self._list_keys = list_keys
        self._known: dict[str, frozenset[bytes]] = {}

    def need(self, name: str) -> bool:
        """Return whether such a key outside of the range needs a file."""
        places = [0, *(place + 1 for place, letter in enumerate(name) if letter == "/")]
        for start in (name[:place] + odd for place in places for odd in ODD_COMPONENTS):
            # The keys with a prefix follow each other, so that the range has all of them if it has both ends.
            if self._within.holds(start) and self._within.holds(start[:-1] + AFTER_SLASH):
                continue
            if start not in self._known:
                self._known[start] = frozenset(map(plain_name, self._list_keys(start)))
            if name_bytes(name) in self._known[start]:
                return True
        return False


def plain_name(name: str) -> bytes:
    """Return the name by which a walk finds the file of a key. Raises RefusedError: it can have none."""
    parents, last = split_relative(name)
    return b"/".join((*parents, last))


def _without_absence(error: S3PoolError) -> S3PoolError:
    """Return the error of a vanished file as that of one file: the source itself is not missing."""
    return LocalFileError(error.message) if isinstance(error, LocalNotFoundError) else error


_END = object()


class Ahead(Iterable[T]):
    """A stream that a thread of its own reads ahead, a few items and no more.

    Both sides of a sync are listed at once by it. close() ends the thread after the item it
    is reading; whoever iterates gets the stream's own error.
    """

    def __init__(self, items: Iterable[T], *, depth: int = PAGES_AHEAD) -> None:
        self._items = items
        self._ready: queue.Queue[object] = queue.Queue(depth)
        self._closed = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="s3pool-listing", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        while True:
            try:
                item = self._ready.get(timeout=LOOK_FOR_SIGNALS_S)
            except queue.Empty:
                continue
            if item is _END:
                break
            yield item  # type: ignore[misc]
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Let the thread end."""
        self._closed.set()

    def _read(self) -> None:
        items: Iterator[T] | None = None
        try:
            items = iter(self._items)
            for item in items:
                self._put(item)
                if self._closed.is_set():
                    return
        except BaseException as exc:  # noqa: BLE001 - it is raised in the thread that iterates
            self._error = exc
        finally:
            # A listing by many threads ends them when it is closed, in the thread that reads it.
            if isinstance(items, Generator):
                items.close()
        self._put(_END)

    def _put(self, item: object) -> None:
        while not self._closed.is_set():
            with suppress(queue.Full):
                self._ready.put(item, timeout=PUT_WAIT_S)
                return


SCHEMA = (
    "CREATE TABLE names (name BLOB PRIMARY KEY, size INTEGER, etag TEXT, modified TEXT, version TEXT) WITHOUT ROWID"
)
NAMES_PER_BLOCK = 1000


def sorted_batches(blocks: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the names of a side in S3 in their order, each once, after all of them were read.

    Raises JournalError: they cannot be kept; SQLITE_TMPDIR names another place.
    """
    try:
        # Without a name it is a file that nobody else sees, gone with its connection: also in another thread.
        with closing(sqlite3.connect("", isolation_level=None, check_same_thread=False)) as database:
            database.execute(SCHEMA)
            for block in blocks:
                names = map(name_bytes, block.names)
                versions = block.versions or repeat("", len(block.names))
                rows = zip(names, block.sizes, block.etags, block.modified, versions, strict=True)
                database.execute("BEGIN")
                database.executemany("INSERT OR REPLACE INTO names VALUES (?, ?, ?, ?, ?)", rows)
                database.execute("COMMIT")
            found = database.execute("SELECT * FROM names ORDER BY name")
            while rows_in_order := found.fetchmany(NAMES_PER_BLOCK):
                raw, sizes, etags, modified, versions = zip(*rows_in_order, strict=True)
                names_in_order = [name.decode("utf-8", "surrogateescape") for name in raw]
                versions = versions if any(versions) else ()
                yield Batch(names_in_order, sizes, etags=etags, modified=modified, versions=versions)
    except sqlite3.Error as exc:
        raise JournalError(f"cannot sort the names of a listing ({exc}); is there room in /var/tmp?") from exc


def check_root(root: str) -> None:
    """See to it that the source is there before anything is asked of the target."""
    try:
        with os.scandir(root or "."):
            pass
    except NotADirectoryError as exc:
        raise LocalFileError(f"{root} is no directory: sync takes trees, cp takes files") from exc
    except OSError as exc:
        raise local_error("read", root, exc) from exc


def is_hidden(client: S3Client, tree: S3Path, name: str) -> bool:
    """Return whether a tree has a name that its listing left out, as MinIO's do below the name of an object."""
    if not client.dialect.knows(HIDES_BELOW):
        return False
    above = (name[:at] for at, letter in enumerate(name) if letter == "/")
    is_below_an_object = any(_is_object(client, tree.bucket, tree.tree_prefix + parent) for parent in above)
    return is_below_an_object and client.exists(tree.bucket, tree.tree_prefix + name)


_is_object = lru_cache(1000)(lambda client, bucket, key: client.exists(bucket, key))  # names come sorted
