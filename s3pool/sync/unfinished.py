"""The large transfers that runs began and did not end, so that a later run goes on with them, or cleans up."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

from s3pool.location import name_bytes
from s3pool.transfer.resume import ANNOUNCED, PartialDownload

logger = logging.getLogger(__name__)

FROM_OLDER = """
BEGIN IMMEDIATE;
INSERT OR IGNORE INTO pool_uploads SELECT upload_id, '', bucket, key, fingerprint, owner FROM uploads;
DROP TABLE uploads;
COMMIT;
"""  # of versions that did not know the pool
BUSY_TIMEOUT_S = 10.0  # other runs may use the same file
Row = tuple[Any, ...]
OF_POOL = "pool IN (?, '')"  # files of older versions do not know it
START_FIELD = 19  # of /proc/PID/stat, behind the name (proc(5): the 22nd in all)
DEAD_STATES = (b"Z", b"X")

UNFINISHED_SCHEMA = """
CREATE TABLE IF NOT EXISTS pool_uploads (
    upload_id TEXT, pool TEXT, bucket TEXT NOT NULL, key BLOB NOT NULL, fingerprint TEXT NOT NULL,
    owner TEXT NOT NULL, PRIMARY KEY (upload_id, pool)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS downloads (
    name TEXT PRIMARY KEY, target BLOB NOT NULL, fingerprint TEXT NOT NULL, owner TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ranges (name TEXT, first INTEGER, PRIMARY KEY (name, first)) WITHOUT ROWID;
"""


class Unfinished:
    """The large transfers that began and did not end; for all workers.

    It stands in a file of its own, made with the first large transfer. Losing it costs bytes that are sent again, so
    nothing waits for the disk here, and nothing raises. Uploads are those of one ``pool``, which is asked for with
    the first of them. What a living process of this machine has begun is left to it; with ``shared``, for a file that
    other runs use at the same time, so is everything of other machines. Without ``resumes`` nothing is gone on with.
    """

    def __init__(
        self, path: str, *, pool: Callable[[], str] = lambda: "", shared: bool = False, resumes: bool = True
    ) -> None:
        self._path = path
        self._find_pool = pool
        self._shared = shared
        self.resumes = resumes
        self._owner = f"{os.uname().nodename}:{os.getpid()}:{_start_of(os.getpid())}"
        # Guards the connection and the set; held for one statement.
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._is_lost = not path
        self._mine: set[str] = set()  # what this run has begun or taken up

    @functools.cached_property
    def _pool(self) -> str:
        return self._find_pool()

    def find_upload(self, bucket: str, key: str, fingerprint: str) -> str:
        """Return the id of an unfinished upload that no run has taken up; "" without one."""
        if not self.resumes and fingerprint != ANNOUNCED:
            return ""
        query = (
            f"SELECT upload_id, owner FROM pool_uploads WHERE bucket = ? AND key = ? AND fingerprint = ? AND {OF_POOL}"
        )
        return self._take_up("pool_uploads", self._ask(query, (bucket, name_bytes(key), fingerprint, self._pool)))

    def begin_upload(self, bucket: str, key: str, *, upload_id: str, fingerprint: str) -> None:
        """Remember an upload."""
        self._mine.add(upload_id)
        values = (upload_id, self._pool, bucket, name_bytes(key), fingerprint, self._owner)
        self._ask("INSERT OR REPLACE INTO pool_uploads VALUES (?, ?, ?, ?, ?, ?)", values)

    def end_upload(self, upload_id: str) -> None:
        """Forget an upload."""
        self._ask(f"DELETE FROM pool_uploads WHERE upload_id = ? AND {OF_POOL}", (upload_id, self._pool))

    def find_download(self, target: str, fingerprint: str) -> PartialDownload | None:
        """Return a partial download that no run has taken up; None without one."""
        if not self.resumes:
            return None
        query = "SELECT name, owner FROM downloads WHERE target = ? AND fingerprint = ?"
        name = self._take_up("downloads", self._ask(query, (name_bytes(target), fingerprint)))
        if not name:
            return None
        rows = self._ask("SELECT first FROM ranges WHERE name = ?", (name,))
        return PartialDownload(name, frozenset(row[0] for row in rows))

    def begin_download(self, target: str, *, name: str, fingerprint: str) -> None:
        """Remember a temporary file, empty as it is."""
        self._mine.add(name)
        self._ask("DELETE FROM ranges WHERE name = ?", (name,))
        values = (name, name_bytes(target), fingerprint, self._owner)
        self._ask("INSERT OR REPLACE INTO downloads VALUES (?, ?, ?, ?)", values)

    def add_range(self, name: str, first: int) -> None:
        """Remember that a range is in a temporary file."""
        self._ask("INSERT OR IGNORE INTO ranges VALUES (?, ?)", (name, first))

    def end_download(self, name: str) -> None:
        """Forget a temporary file."""
        self._ask("DELETE FROM ranges WHERE name = ?", (name,))
        self._ask("DELETE FROM downloads WHERE name = ?", (name,))

    def knows_part(self, name: str) -> bool:
        """Return whether a temporary file belongs to a partial download."""
        return self._exists() and bool(self._ask("SELECT 1 FROM downloads WHERE name = ?", (name,)))

    def left_uploads(self) -> list[tuple[str, str, str]]:
        """Return the uploads (id, bucket, key) that neither this run nor a running one uses."""
        rows = self._left(f"SELECT upload_id, owner, bucket, key FROM pool_uploads WHERE {OF_POOL}", (self._pool,))
        return [(row[0], row[2], row[3].decode("utf-8", "surrogateescape")) for row in rows]

    def left_downloads(self) -> list[tuple[str, str]]:
        """Return the temporary files (name, target) that neither this run nor a running one uses."""
        rows = self._left("SELECT name, owner, target FROM downloads", ())
        return [(row[0], row[2].decode("utf-8", "surrogateescape")) for row in rows]

    def _left(self, query: str, values: tuple[object, ...]) -> list[Row]:
        rows = self._ask(query, values) if self._exists() else []
        return [row for row in rows if row[0] not in self._mine and not self._is_at_work(row[1])]

    def take_upload(self, upload_id: str) -> bool:
        """Make an upload that somebody left this run's, to be ended; False when somebody else was faster."""
        query = f"SELECT upload_id, owner FROM pool_uploads WHERE upload_id = ? AND {OF_POOL}"
        return bool(self._take_up("pool_uploads", self._ask(query, (upload_id, self._pool))))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _take_up(self, table: str, rows: list[Row]) -> str:
        """Return the first that no running process owns, and make this run its owner."""
        column = "upload_id" if table == "pool_uploads" else "name"
        for name, owner in rows:
            with self._lock:
                if name in self._mine or self._is_at_work(owner):
                    continue
                self._mine.add(name)
            # Another process may have come to the same.
            self._ask(f"UPDATE {table} SET owner = ? WHERE {column} = ? AND owner = ?", (self._owner, name, owner))
            if self._ask(f"SELECT 1 FROM {table} WHERE {column} = ? AND owner = ?", (name, self._owner)):
                return str(name)
        return ""

    def _is_at_work(self, owner: str) -> bool:
        """Return whether another process may be using it; processes of other machines are unknown."""
        node, number, start = (*owner.split(":"), "", "")[:3]
        if node != os.uname().nodename:
            return self._shared
        if owner == self._owner or not number.isdecimal() or int(number) == os.getpid():
            return False
        now = _start_of(int(number))
        # A number is used again; files of older versions hold no more.
        return now != "" and start in ("", now)

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
            if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'uploads'").fetchone():
                with contextlib.suppress(sqlite3.OperationalError):  # another run was faster
                    database.executescript(FROM_OLDER)
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


def _start_of(pid: int) -> str:
    """Return when a process began, in the kernel's ticks; "" when there is none, or it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in DEAD_STATES else fields[START_FIELD].decode()
