"""What survives a run: pairs left in sync, hashes of local files. A hint, never the truth.

Every row is held against what storage and disk say now, so losing the file loses time and
nothing else. Only the thread that runs the sync uses a journal.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote

from s3pool.errors import JournalError
from s3pool.sync.compare import Record

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS pairs (
    name BLOB PRIMARY KEY, size INTEGER NOT NULL, stamp TEXT NOT NULL, etag TEXT NOT NULL,
    modified TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hashes (
    place TEXT, state TEXT NOT NULL, part_size INTEGER, etag TEXT NOT NULL, PRIMARY KEY (place, part_size)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS unordered (side TEXT PRIMARY KEY) WITHOUT ROWID;
"""
PAIR_COLUMNS = "name, size, stamp, etag, modified"
TO_DELETE_SCHEMA = "CREATE TEMP TABLE to_delete (name BLOB PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID"
AS_IT_IS = -1  # the part size of content whose ETag tells nothing of it: it was stored or fetched with this one
ROWS_PER_READ = 1000
ROWS_PER_WRITE = 1000
SECONDS_PER_WRITE = 0.2  # about as much is forgotten when the run is killed
SOON_BYTES = 1 << 20  # what took so long is not forgotten at all
BUSY_TIMEOUT_S = 10.0  # another run may use the same state with a lock file of its own

T = TypeVar("T")
Row = tuple[Any, ...]
Identity = tuple[int, int, int, int, int]  # device, inode, size, mtime and ctime: whoever edits can set all but that


class Journal:
    """The state of one pair of source and target, in one file; "" keeps it in memory.

    What cannot be read or written is warned of once and then done without. ``read_only``
    is for rehearsals: nothing is written, and a file that is missing is not made.
    """

    def __init__(self, path: str, *, read_only: bool = False, now: Callable[[], float] = time.time) -> None:
        self.path = path
        self._read_only = read_only
        self._now = now
        self._pairs: dict[bytes, Record | None] = {}
        self._rows: list[Row] = []
        self._hashes: list[Row] = []
        self._last_write = time.monotonic()
        self._database = self._open()

    # -- pairs -----------------------------------------------------------------------------

    def iter_rows(self, first: bytes = b"") -> Iterator[list[Row]]:
        """Yield the pairs from ``first`` on by name, in byte order, many at once; rows noted meanwhile may be missing.

        A row is the name and the fields of its Record.
        """
        while rows := self._try(functools.partial(self._read_names, PAIR_COLUMNS, "pairs", first), list[Row]()):
            yield rows
            first = rows[-1][0] + b"\0"

    def _read_names(self, columns: str, table: str, first: bytes) -> list[Row]:
        query = f"SELECT {columns} FROM {table} WHERE name >= ? ORDER BY name LIMIT ?"
        return self._database.execute(query, (first, ROWS_PER_READ)).fetchall()

    def note(self, name: bytes, record: Record | None) -> None:
        """Remember how a pair was left; None forgets it."""
        self._pairs[name] = record
        self._write_in_time()

    def note_rows(self, rows: list[Row]) -> None:
        """Remember many pairs, as rows; each name is noted once in a run."""
        self._rows += rows
        self._write_in_time()

    def note_transfer(self, name: bytes, record: Record | None) -> None:
        """Remember a pair that was brought in sync just now; a large one on disk, at once."""
        self.note(name, record)
        if record is not None and record.size >= SOON_BYTES:
            self.write()

    # -- hashes ----------------------------------------------------------------------------

    def hashes_of(self, identity: Identity) -> dict[int, str]:
        """Return the known ETags of a local file in its present state, by part size; 0 is no parts."""
        return dict(self._all("SELECT part_size, etag FROM hashes WHERE place = ? AND state = ?", *_words_of(identity)))

    def note_hash(self, identity: Identity, part_size: int, etag: str) -> None:
        """Remember the ETag that a local file has when it is stored with a part size."""
        self._hashes.append((*_words_of(identity), part_size, etag))
        self._write_in_time()

    # -- what is to be deleted at the end --------------------------------------------------

    def mark(self, names: list[tuple[bytes, int]]) -> None:
        """Keep names and sizes for the end of the run, on disk.

        Raises JournalError: they cannot be kept, so nothing may be deleted.
        """
        self._must(lambda: self._database.executemany("INSERT OR IGNORE INTO to_delete VALUES (?, ?)", names))

    def unmark(self, name: bytes) -> int:
        """Take back one name, and give how many that were: none or one.

        Raises JournalError: it cannot be taken back.
        """
        return self._must(lambda: self._database.execute("DELETE FROM to_delete WHERE name = ?", (name,)).rowcount)

    def iter_to_delete(self) -> Iterator[tuple[bytes, int]]:
        """Yield what was kept, in byte order. Raises JournalError: it cannot be read."""
        first = b""
        while rows := self._must(functools.partial(self._read_names, "name, size", "to_delete", first)):
            yield from ((bytes(name), size) for name, size in rows)
            first = bytes(rows[-1][0]) + b"\0"

    def unmark_all(self) -> None:
        """Take back all names, and write what was noted: the comparison begins anew.

        Raises JournalError: they cannot be taken back.
        """
        self.write()
        self._must(lambda: self._database.execute("DELETE FROM to_delete"))

    # -- sides that are listed without order -----------------------------------------------

    def is_unordered(self, side: str) -> bool:
        """Return whether an earlier run found that a side is listed without order."""
        return bool(self._all("SELECT 1 FROM unordered WHERE side = ?", side))

    def note_order(self, side: str, *, is_ordered: bool) -> None:
        """Remember whether a side is listed in order."""
        if not self._read_only:
            act = "DELETE FROM unordered WHERE side = ?" if is_ordered else "INSERT OR IGNORE INTO unordered VALUES (?)"
            self._all(act, side)

    def _all(self, query: str, *values: object) -> list[Row]:
        return self._try(lambda: self._database.execute(query, values).fetchall(), list[Row]())

    # -- the file --------------------------------------------------------------------------

    def write(self) -> None:
        """Write what was noted."""
        noted = self._pairs, self._rows, self._hashes
        self._pairs, self._rows, self._hashes = {}, [], []
        self._last_write = time.monotonic()
        if any(noted) and not self._read_only:
            self._try(lambda: self._write(*noted), None)

    def _write_in_time(self) -> None:
        waiting = len(self._pairs) + len(self._rows) + len(self._hashes)
        if waiting >= ROWS_PER_WRITE or time.monotonic() - self._last_write > SECONDS_PER_WRITE:
            self.write()

    def close(self) -> None:
        """Write what was noted, and close the file."""
        self.write()
        self._try(self._database.close, None)

    def _write(self, pairs: dict[bytes, Record | None], rows: list[Row], hashes: list[Row]) -> None:
        kept = rows + [(name, *record) for name, record in pairs.items() if record is not None]
        gone = [(name,) for name, record in pairs.items() if record is None]
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:  # ends the transaction, either way
            self._database.executemany("INSERT OR REPLACE INTO pairs VALUES (?, ?, ?, ?, ?)", kept)
            self._database.executemany("DELETE FROM pairs WHERE name = ?", gone)
            self._database.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?)", hashes)

    def _open(self) -> sqlite3.Connection:
        if not self.path or (self._read_only and not os.path.exists(self.path)):
            return _in_memory()
        for is_last in (False, True):
            try:
                if self._read_only:
                    place = f"file:{quote(self.path)}?mode=ro"
                    return _checked(sqlite3.connect(place, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None))
                os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
                return _prepared(sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None))
            except (sqlite3.OperationalError, OSError) as exc:
                why = getattr(exc, "strerror", exc)
                logger.warning("the state in %s cannot be used (%s); this run goes on without it", self.path, why)
                break
            except sqlite3.DatabaseError as exc:
                if not is_last:
                    self._set_aside(exc)
                if self._read_only:
                    break
        return _in_memory()

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        aside = f"{self.path}.corrupt-{int(self._now())}"
        try:
            if not self._read_only:
                os.replace(self.path, aside)
        except OSError:  # it will be found corrupt again
            aside = self.path
        logger.warning("the state in %s is corrupt (%s): set aside as %s, starting anew", self.path, error, aside)

    def _try(self, act: Callable[[], T], otherwise: T) -> T:
        """Use the file, and go on without it when that fails."""
        try:
            return act()
        except sqlite3.OperationalError as exc:
            logger.warning("the state in %s cannot be used now: %s", self.path or "memory", exc)
        except sqlite3.DatabaseError as exc:
            # What was to be deleted is lost with the old state, and stays.
            if self.path:
                self._set_aside(exc)
            self.path = ""
            old, self._database = self._database, _in_memory(to_delete=False)
            with contextlib.suppress(sqlite3.Error):
                old.close()
        return otherwise

    def _must(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except sqlite3.Error as exc:
            raise JournalError(f"cannot keep what is to be deleted ({exc}): nothing is") from exc


def _checked(database: sqlite3.Connection) -> sqlite3.Connection:
    """Return a connection with the tables of this version; close it if they are others."""
    try:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"its version is {version}, not {SCHEMA_VERSION}")
        database.execute(TO_DELETE_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _prepared(database: sqlite3.Connection) -> sqlite3.Connection:
    """Return a connection for writing; missing tables are created."""
    try:
        # A rollback journal, unlike WAL, serves on network file systems too. Waiting for the
        # disk would help in a power cut only, and then a hint is all that is lost.
        database.execute("PRAGMA synchronous = OFF")
        if not database.execute("PRAGMA user_version").fetchone()[0]:
            database.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    except sqlite3.Error:
        database.close()
        raise
    return _checked(database)


def _in_memory(*, to_delete: bool = True) -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.executescript(SCHEMA)
    if to_delete:
        database.execute(TO_DELETE_SCHEMA)
    return database


def _words_of(identity: Identity) -> tuple[str, str]:
    """Return where a file is and what state it is in, as texts: SQLite's numbers have 64 bits, times need not."""
    device, inode, *state = identity
    return f"{device} {inode}", " ".join(map(str, state))
