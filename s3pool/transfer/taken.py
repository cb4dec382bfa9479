"""Which source a target belongs to: the first of a run that was to become it."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from s3pool.errors import LocalFileError, TargetTakenError
from s3pool.transfer.tasks import CopyTask, DownloadTask, Item, Problem, Task

if TYPE_CHECKING:
    import sqlite3

MOST_IN_MEMORY = 20_000
DIGEST_BYTES = 16
CACHE_KIB = 16 * 1024


class Targets:
    """The targets of a run; beyond some thousands they are kept on disk, in a file that has no name."""

    def __init__(self) -> None:
        self._few: dict[str, str] = {}
        self._many: sqlite3.Connection | None = None

    def owner(self, target: str, source: str) -> str:
        """Return the source that a target belongs to, which is this one if no other came before.

        Raises:
            LocalFileError: the disk for temporary files is full.
        """
        if self._many is None and len(self._few) < MOST_IN_MEMORY:
            return self._few.setdefault(target, source)
        import sqlite3

        try:
            return self._owner_on_disk(self._many or self._spill(), target, source)
        except sqlite3.Error as exc:
            raise LocalFileError(f"cannot remember in a temporary file which targets are taken: {exc}") from exc

    def _owner_on_disk(self, many: sqlite3.Connection, target: str, source: str) -> str:
        digest = _digest(target)
        if many.execute("INSERT OR IGNORE INTO taken VALUES (?, ?)", (digest, os.fsencode(source))).rowcount:
            return source
        return os.fsdecode(many.execute("SELECT source FROM taken WHERE target = ?", (digest,)).fetchone()[0])

    def _spill(self) -> sqlite3.Connection:
        import sqlite3

        self._many = many = sqlite3.connect("", isolation_level=None)
        many.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        many.execute("PRAGMA journal_mode = OFF")
        many.execute("CREATE TABLE taken (target BLOB PRIMARY KEY, source BLOB) WITHOUT ROWID")
        many.execute("BEGIN")
        rows = ((_digest(target), os.fsencode(source)) for target, source in self._few.items())
        many.executemany("INSERT INTO taken VALUES (?, ?)", rows)
        self._few.clear()
        return many


def _digest(target: str) -> bytes:
    return hashlib.blake2b(os.fsencode(target), digest_size=DIGEST_BYTES).digest()


def apart(item: Item, targets: Targets) -> Item | None:
    """Return the item, or the problem that its target is another one's; None for the same pair once more."""
    if isinstance(item, Problem) or _is_marker(item):
        return item
    name = os.path.normpath(item.target) if isinstance(item, DownloadTask) else item.target
    first = targets.owner(name, item.source)
    if first == item.source:
        return item
    error = TargetTakenError(f"{item.source} and {first} would both be {item.target}: the first one stays")
    return Problem(item.source, error, item.target, op=item.op)


def _is_marker(task: Task) -> bool:
    """Return whether a task makes a directory, which may be made twice."""
    if isinstance(task, DownloadTask):
        return not task.relative or task.relative.endswith("/")
    return isinstance(task, CopyTask) and task.key.endswith("/") and task.size == 0
