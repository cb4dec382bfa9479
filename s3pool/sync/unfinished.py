"""The large transfers that runs began and did not end, so that a later run goes on with them, or cleans up."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from typing import Any

from s3pool.transfer.resume import PartialDownload

logger = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 10.0  # other runs may use the same file
Row = tuple[Any, ...]

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
