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
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote

from s3pool.errors import JournalError
from s3pool.sync.compare import Record
from s3pool.transfer.resume import PartialDownload

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS pairs (
    name BLOB PRIMARY KEY, size INTEGER NOT NULL, stamp TEXT NOT NULL, etag TEXT NOT NULL,
    modified TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hashes (
    device INTEGER, inode INTEGER, size INTEGER, mtime_ns INTEGER, part_size INTEGER, etag TEXT NOT NULL,
    PRIMARY KEY (device, inode, part_size)
) WITHOUT ROWID;
"""
PAIR_COLUMNS = "name, size, stamp, etag, modified"
DOOMED_SCHEMA = "CREATE TEMP TABLE doomed (name BLOB PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID"
UNFINISHED_SCHEMA = """
CREATE TABLE IF NOT EXISTS uploads (
    upload_id TEXT PRIMARY KEY, bucket TEXT NOT NULL, key BLOB NOT NULL, fingerprint TEXT NOT NULL,
    owner TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS downloads (
    name TEXT PRIMARY KEY, target BLOB NOT NULL, fingerprint TEXT NOT NULL, owner TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ranges (name TEXT, first INTEGER, PRIMARY KEY (name, first)) WITHOUT ROWID;
"""
ROWS_PER_READ = 1000
ROWS_PER_WRITE = 1000
SECONDS_PER_WRITE = 0.2  # about as much is forgotten when the run is killed
SOON_BYTES = 1 << 20  # what took so long is not forgotten at all
BUSY_TIMEOUT_S = 10.0  # another run may use the same state with a lock file of its own
SIGNED_64 = 1 << 63

T = TypeVar("T")
Row = tuple[Any, ...]
Identity = tuple[int, int, int, int]  # device, inode, size, mtime_ns


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

    def iter_rows(self) -> Iterator[list[Row]]:
        """Yield all pairs by name, in byte order, many at once; rows noted meanwhile may be missing.

        A row is the name and the fields of its Record.
        """
        last: bytes | None = None
        nothing: list[Row] = []
        while rows := self._try(functools.partial(self._read_names, PAIR_COLUMNS, "pairs", last), nothing):
            yield rows
            last = rows[-1][0]

    def _read_names(self, columns: str, table: str, last: bytes | None) -> list[Row]:
        """Read the next rows of a table in the order of names."""
        if last is None:
            return self._all(f"SELECT {columns} FROM {table} ORDER BY name LIMIT ?", (ROWS_PER_READ,))
        return self._all(f"SELECT {columns} FROM {table} WHERE name > ? ORDER BY name LIMIT ?", (last, ROWS_PER_READ))

    def note(self, name: bytes, record: Record | None) -> None:
        """Remember how a pair was left; None forgets it."""
        if not self._read_only:
            self._pairs[name] = record
            self._write_in_time()

    def note_rows(self, rows: list[Row]) -> None:
        """Remember many pairs, as rows; each name is noted once in a run."""
        if not self._read_only:
            self._rows += rows
            self._write_in_time()

    def note_transfer(self, name: bytes, record: Record | None) -> None:
        """Remember a pair that was brought in sync just now; a large one on disk, at once."""
        self.note(name, record)
        if record is not None and record.size >= SOON_BYTES:
            self.write()

    # -- hashes ----------------------------------------------------------------------------

    def hashes_of(self, identity: Identity) -> dict[int, str]:
        """Give the known ETags of a local file as it is now, by part size; 0 for no parts."""
        device, inode, size, mtime_ns = identity
        query = "SELECT part_size, etag FROM hashes WHERE device = ? AND inode = ? AND size = ? AND mtime_ns = ?"
        nothing: list[Row] = []
        return dict(self._try(lambda: self._all(query, (_signed(device), _signed(inode), size, mtime_ns)), nothing))

    def note_hash(self, identity: Identity, part_size: int, etag: str) -> None:
        """Remember the ETag that a local file has when it is stored with a part size."""
        if not self._read_only:
            device, inode, size, mtime_ns = identity
            self._hashes.append((_signed(device), _signed(inode), size, mtime_ns, part_size, etag))
            self._write_in_time()

    # -- what is to be deleted at the end --------------------------------------------------

    def doom(self, names: list[tuple[bytes, int]]) -> None:
        """Keep names and sizes for the end of the run, on disk.

        Raises:
            JournalError: they cannot be kept, so nothing may be deleted.
        """
        self._must(lambda: self._database.executemany("INSERT OR IGNORE INTO doomed VALUES (?, ?)", names))

    def spare(self, name: bytes) -> int:
        """Take back one name, and give how many that were: none or one.

        Raises:
            JournalError: it cannot be taken back.
        """
        return self._must(lambda: self._database.execute("DELETE FROM doomed WHERE name = ?", (name,)).rowcount)

    def iter_doomed(self) -> Iterator[tuple[bytes, int]]:
        """Yield what was kept, in byte order.

        Raises:
            JournalError: it cannot be read.
        """
        last: bytes | None = None
        while rows := self._must(functools.partial(self._read_names, "name, size", "doomed", last)):
            yield from ((bytes(name), size) for name, size in rows)
            last = bytes(rows[-1][0])

    # -- the file --------------------------------------------------------------------------

    def write(self) -> None:
        """Write what was noted."""
        pairs, self._pairs = self._pairs, {}
        rows, self._rows = self._rows, []
        hashes, self._hashes = self._hashes, []
        self._last_write = time.monotonic()
        if pairs or rows or hashes:
            self._try(lambda: self._write(pairs, rows, hashes), None)

    def close(self) -> None:
        """Write what was noted, and close the file."""
        self.write()
        self._try(self._database.close, None)

    def _write_in_time(self) -> None:
        waiting = len(self._pairs) + len(self._rows) + len(self._hashes)
        if waiting >= ROWS_PER_WRITE or time.monotonic() - self._last_write > SECONDS_PER_WRITE:
            self.write()

    def _write(self, pairs: dict[bytes, Record | None], rows: list[Row], hashes: list[Row]) -> None:
        kept = rows + [(name, *record) for name, record in pairs.items() if record is not None]
        gone = [(name,) for name, record in pairs.items() if record is None]
        self._database.execute("BEGIN IMMEDIATE")
        with self._database:  # ends the transaction, either way
            self._database.executemany("INSERT OR REPLACE INTO pairs VALUES (?, ?, ?, ?, ?)", kept)
            self._database.executemany("DELETE FROM pairs WHERE name = ?", gone)
            self._database.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?, ?, ?)", hashes)

    def _all(self, query: str, values: tuple[object, ...]) -> list[Row]:
        return self._database.execute(query, values).fetchall()

    def _open(self) -> sqlite3.Connection:
        if not self.path or (self._read_only and not os.path.exists(self.path)):
            return _in_memory()
        try:
            return self._open_file()
        except sqlite3.OperationalError as exc:
            logger.warning("the state in %s cannot be used (%s); this run goes on without it", self.path, exc)
        except sqlite3.DatabaseError as exc:
            return self._open_anew(exc)
        except OSError as exc:
            logger.warning("the state in %s cannot be used (%s); this run goes on without it", self.path, exc.strerror)
        return _in_memory()

    def _open_file(self) -> sqlite3.Connection:
        if self._read_only:
            place = f"file:{quote(self.path)}?mode=ro"
            return _checked(sqlite3.connect(place, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None))
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        return _prepared(sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None))

    def _open_anew(self, error: sqlite3.DatabaseError) -> sqlite3.Connection:
        self._set_aside(error)
        try:
            return _in_memory() if self._read_only else self._open_file()
        except (sqlite3.Error, OSError):
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
            self._replace(exc)
        return otherwise

    def _replace(self, error: sqlite3.DatabaseError) -> None:
        """Go on with an empty state; what was to be deleted is lost with the old one, and stays."""
        if self.path:
            self._set_aside(error)
        self.path = ""
        old, self._database = self._database, _in_memory(doomed=False)
        with contextlib.suppress(sqlite3.Error):
            old.close()

    def _must(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except sqlite3.Error as exc:
            raise JournalError(f"cannot keep what is to be deleted ({exc}): nothing is") from exc


def _checked(database: sqlite3.Connection) -> sqlite3.Connection:
    """Give a connection with the right tables; it is closed when they are others."""
    try:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"its version is {version}, not {SCHEMA_VERSION}")
        database.execute(DOOMED_SCHEMA)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _prepared(database: sqlite3.Connection) -> sqlite3.Connection:
    """Give a connection to write to; the tables are made where there are none."""
    try:
        # A rollback journal, unlike WAL, serves on network file systems too. Waiting for the
        # disk would help in a power cut only, and then a hint is all that is lost.
        database.execute("PRAGMA synchronous = OFF")
        if database.execute("PRAGMA user_version").fetchone()[0] == 0:
            database.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    except sqlite3.Error:
        database.close()
        raise
    return _checked(database)


def _in_memory(*, doomed: bool = True) -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.executescript(SCHEMA)
    if doomed:
        database.execute(DOOMED_SCHEMA)
    return database


def _signed(number: int) -> int:
    """Fit an unsigned number of 64 bits into SQLite's signed ones."""
    return number - 2 * SIGNED_64 if number >= SIGNED_64 else number


class Unfinished:
    """The large transfers that began and did not end; for all workers.

    It stands in a file of its own, made with the first large transfer. Losing it costs bytes
    that are sent again, so nothing waits for the disk here, and nothing raises. ``shared``
    is for a file that other runs use at the same time: what is theirs is left to them.
    """

    def __init__(self, path: str, *, shared: bool = False) -> None:
        self._path = path
        self._shared = shared
        self._owner = f"{os.uname().nodename}:{os.getpid()}"
        # Guards the connection and the set; held for one statement.
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._is_lost = not path
        self._mine: set[str] = set()  # what this run has begun or taken up

    def find_upload(self, bucket: str, key: str, fingerprint: str) -> str:
        """Give the id of an unfinished upload that nobody has taken up yet."""
        query = "SELECT upload_id, owner FROM uploads WHERE bucket = ? AND key = ? AND fingerprint = ?"
        return self._take_up(self._ask(query, (bucket, _as_bytes(key), fingerprint)))

    def begin_upload(self, bucket: str, key: str, *, upload_id: str, fingerprint: str) -> None:
        """Remember an upload."""
        self._mine.add(upload_id)
        values = (upload_id, bucket, _as_bytes(key), fingerprint, self._owner)
        self._ask("INSERT OR REPLACE INTO uploads VALUES (?, ?, ?, ?, ?)", values)

    def end_upload(self, upload_id: str) -> None:
        """Forget an upload."""
        self._ask("DELETE FROM uploads WHERE upload_id = ?", (upload_id,))

    def find_download(self, target: str, fingerprint: str) -> PartialDownload | None:
        """Give a temporary file that nobody has taken up yet."""
        query = "SELECT name, owner FROM downloads WHERE target = ? AND fingerprint = ?"
        name = self._take_up(self._ask(query, (_as_bytes(target), fingerprint)))
        if not name:
            return None
        rows = self._ask("SELECT first FROM ranges WHERE name = ?", (name,))
        return PartialDownload(name, frozenset(row[0] for row in rows))

    def begin_download(self, target: str, *, name: str, fingerprint: str) -> None:
        """Remember a temporary file, empty as it is."""
        self._mine.add(name)
        self._ask("DELETE FROM ranges WHERE name = ?", (name,))
        values = (name, _as_bytes(target), fingerprint, self._owner)
        self._ask("INSERT OR REPLACE INTO downloads VALUES (?, ?, ?, ?)", values)

    def add_range(self, name: str, first: int) -> None:
        """Remember that a range is in a temporary file."""
        self._ask("INSERT OR IGNORE INTO ranges VALUES (?, ?)", (name, first))

    def end_download(self, name: str) -> None:
        """Forget a temporary file."""
        self._ask("DELETE FROM ranges WHERE name = ?", (name,))
        self._ask("DELETE FROM downloads WHERE name = ?", (name,))

    def knows_part(self, name: str) -> bool:
        """Say whether a temporary file may still be of use."""
        return self._exists() and bool(self._ask("SELECT 1 FROM downloads WHERE name = ?", (name,)))

    def left_uploads(self) -> list[tuple[str, str, str]]:
        """Give the uploads (id, bucket, key) that this run had no use for."""
        rows = self._ask("SELECT upload_id, bucket, key FROM uploads", ()) if self._exists() else []
        return [(row[0], row[1], row[2].decode("utf-8", "surrogateescape")) for row in rows if row[0] not in self._mine]

    def left_downloads(self) -> list[tuple[str, str]]:
        """Give the temporary files (name, target) that this run had no use for."""
        rows = self._ask("SELECT name, target FROM downloads", ()) if self._exists() else []
        return [(row[0], row[1].decode("utf-8", "surrogateescape")) for row in rows if row[0] not in self._mine]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _take_up(self, rows: list[Row]) -> str:
        """Give the first that nobody is at work on, and make it this run's."""
        with self._lock:
            free = (name for name, owner in rows if name not in self._mine and not self._is_at_work(owner))
            name: str = next(free, "")
            self._mine.add(name)
        for table, column in (("uploads", "upload_id"), ("downloads", "name")) if name else ():
            self._ask(f"UPDATE {table} SET owner = ? WHERE {column} = ?", (self._owner, name))
        return name

    def _is_at_work(self, owner: str) -> bool:
        """Say whether another process may be at it; of other machines nothing is known."""
        node, _, number = owner.rpartition(":")
        if not self._shared or int(number) == os.getpid():
            return False
        if node != os.uname().nodename:
            return True
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True

    def _exists(self) -> bool:
        return self._database is not None or os.path.exists(self._path)

    def _ask(self, query: str, values: tuple[object, ...]) -> list[Row]:
        with self._lock:
            if self._is_lost:
                return []
            try:
                if self._database is None:
                    self._database = self._open()
                return self._database.execute(query, values).fetchall()
            except (sqlite3.Error, OSError) as exc:
                self._lose(exc)
                return []

    def _open(self) -> sqlite3.Connection:
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        database = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA synchronous = OFF")
            database.executescript(UNFINISHED_SCHEMA)
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _lose(self, error: Exception) -> None:
        logger.warning("unfinished transfers cannot be remembered in %s (%s)", self._path, error)
        self._is_lost = True
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            with contextlib.suppress(OSError):
                os.unlink(self._path)  # it is broken, and holds nothing that could not be done again


def _as_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
