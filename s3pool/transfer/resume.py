"""What is remembered of large transfers, so that a later run goes on where one was cut short or cleans up."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from s3pool.errors import NotFoundError, S3PoolError, StoppedError, TransportError
from s3pool.location import name_bytes
from s3pool.model import parse_iso_time
from s3pool.record import dataclass
from s3pool.s3.list_all import iter_uploads
from s3pool.transfer.part_file import remove_orphan
from s3pool.transfer.safe_path import PRIVATE_MODE, is_part_name
from s3pool.transfer.tasks import DONE, CopyTask, DownloadTask, Outcome, UploadTask

if TYPE_CHECKING:
    import sqlite3

    from s3pool.model import ByteRange
    from s3pool.s3.client import S3Client

logger = logging.getLogger(__name__)

FINGERPRINT_DIGITS = 32
ANNOUNCED = "announced "  # the fingerprint of an upload that is being created, and what its word begins with
RANDOM_BYTES = 8
CLOCKS_APART_S = 300  # how much earlier than announced a server may say that an upload was created
NOTHING_DONE: frozenset[int] = frozenset()
MAX_ENTRIES = 20_000  # of a directory are looked at: one file must not wait for the reading of a million
BUSY_TIMEOUT_S = 10.0  # other runs may use the same file
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

POOLS_FILE = "pools"  # a line for each endpoint that was ever used: its pool and itself
POOL_DIGITS = 16

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class PartialDownload:
    """A temporary file by its name, and the offsets of the ranges that it holds."""

    name: str
    done: frozenset[int]


def announcement() -> str:
    """Return a word that stands for the id of an upload until the id is known.

    Who is killed while the server creates one leaves it behind, and nobody knows its id: the
    word in the memory tells the next run to look for it.
    """
    return f"{ANNOUNCED}{time.time():.0f} {os.urandom(RANDOM_BYTES).hex()}"


def abort_announced(client: S3Client, word: str, bucket: str, key: str) -> None:
    """Abort what may have become of an announced upload: those of the key without a part.

    One that has parts is another run's, and so is one of an earlier time.
    """
    since = float(word.split()[1]) - CLOCKS_APART_S
    for info in iter_uploads(client, bucket, prefix=key):
        # An upload of nobody knows when may be anybody's.
        if info.key == key and info.initiated and parse_iso_time(info.initiated) >= since:
            with contextlib.suppress(NotFoundError):
                if not client.list_parts(bucket, key, upload_id=info.upload_id):
                    client.abort_multipart_upload(bucket, key, upload_id=info.upload_id)


def fingerprint_of(*facts: object) -> str:
    """Return what a transfer must have in common with an unfinished one: all that decides about its parts."""
    text = " ".join(str(fact) for fact in facts if fact != "")
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:FINGERPRINT_DIGITS]


def may_go_on(error: BaseException | None) -> bool:
    """Return whether a later run could take up what this error has cut short."""
    return isinstance(error, (StoppedError, TransportError, KeyboardInterrupt, SystemExit))


class Resumption:
    """One download that is remembered from its first range on; lives in one worker."""

    __slots__ = ("_fingerprint", "_memory", "_target", "found", "name")

    def __init__(self, memory: Unfinished, target: str = "", fingerprint: str = "") -> None:
        self._memory, self._target, self._fingerprint = memory, target, fingerprint
        self.name = ""  # of the temporary file, once it is remembered
        self.found = memory.find_download(target, fingerprint)

    def begin(self, name: str, *, reused: bool) -> frozenset[int]:
        """Begin with a temporary file; return the offsets that need not be fetched."""
        if not self._memory.remembers:
            return NOTHING_DONE
        self.name = name
        if reused and self.found is not None:
            return self.found.done
        self._memory.begin_download(self._target, name=name, fingerprint=self._fingerprint)
        return NOTHING_DONE

    def add(self, place: ByteRange) -> None:
        """Remember a range that is on disk."""
        self._memory.add_range(self.name, place.first)

    def end(self) -> None:
        """Forget it, unless its ``name`` was taken away: the file has its name, or is gone."""
        if self.name:
            self._memory.end_download(self.name)


def make_sweep(is_known: Callable[[str], bool], *, largest: int, min_age_s: float = 0.0) -> Callable[[int], None]:
    """Return a function that removes useless temporary files from an open directory.

    Of use is what somebody is at work on, what ``is_known`` tells, and what has more than
    ``largest`` bytes: another command may mean to go on with it.
    """

    def sweep(directory: int) -> None:
        try:
            with os.scandir(directory) as entries:
                names = [
                    entry.name
                    for entry in islice(entries, MAX_ENTRIES)
                    if is_part_name(os.fsencode(entry.name)) and entry.stat(follow_symlinks=False).st_size <= largest
                ]
        except OSError:  # the download itself will say what is wrong
            return
        unknown = (name for name in names if not is_known(name))
        removed = (remove_orphan(os.fsencode(name), dir_fd=directory, min_age_s=min_age_s) for name in unknown)
        tell_swept(sum(map(bool, removed)))

    return sweep


def tell_swept(count: int) -> None:
    """Log how many leftover files were removed."""
    if count:
        logger.warning("removed %d temporary file%s that a killed run had left", count, "s" if count > 1 else "")


class Unfinished:
    """The large transfers that began and did not end; for all workers. Nothing raises.

    It stands in a file of its own, made with the first large transfer; without a path nothing is remembered. Losing it
    costs bytes that are sent again, so nothing waits for the disk. Uploads are those of one ``pool``, which is asked
    for with the first of them. What a living process of this machine has begun is left to it; with ``shared``, for a
    file that other runs use at the same time, so is everything of other machines. Without ``resumes`` nothing is gone
    on with. A fingerprint is of all that must be the same for a transfer to go on.
    """

    def __init__(
        self, path: str, *, pool: Callable[[], str] = lambda: "", shared: bool = False, resumes: bool = True
    ) -> None:
        self._path, self._find_pool, self._shared, self.resumes = path, pool, shared, resumes
        self._owner = f"{os.uname().nodename}:{os.getpid()}:{_start_of(os.getpid())}"
        # Guards the connection and the set; held for one statement.
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self.remembers = bool(path)
        self._mine: set[str] = set()  # what this run has begun or taken up

    @functools.cached_property
    def _pool(self) -> str:
        return self._find_pool()

    def find_upload(self, bucket: str, key: str, fingerprint: str) -> str:
        """Return the id of an unfinished upload that no run has taken up; "" without one."""
        if not self.resumes and fingerprint != ANNOUNCED:
            return ""
        query = (
            "SELECT upload_id, owner FROM pool_uploads WHERE bucket = ? AND key = ? AND fingerprint = ? AND pool = ?"
        )
        return self._take_up("pool_uploads", self._ask(query, bucket, name_bytes(key), fingerprint, self._pool))

    def begin_upload(self, bucket: str, key: str, *, upload_id: str, fingerprint: str) -> None:
        """Remember an upload."""
        if not self.remembers:
            return
        self._mine.add(upload_id)
        values = (upload_id, self._pool, bucket, name_bytes(key), fingerprint, self._owner)
        self._ask("INSERT OR REPLACE INTO pool_uploads VALUES (?, ?, ?, ?, ?, ?)", *values)

    def end_upload(self, upload_id: str) -> None:
        """Forget an upload."""
        self._ask("DELETE FROM pool_uploads WHERE upload_id = ? AND pool = ?", upload_id, self._pool)

    def find_download(self, target: str, fingerprint: str) -> PartialDownload | None:
        """Return a partial download that no run has taken up; None without one."""
        if not self.resumes:
            return None
        query = "SELECT name, owner FROM downloads WHERE target = ? AND fingerprint = ?"
        name = self._take_up("downloads", self._ask(query, name_bytes(target), fingerprint))
        rows = self._ask("SELECT first FROM ranges WHERE name = ?", name) if name else []
        return PartialDownload(name, frozenset(row[0] for row in rows)) if name else None

    def begin_download(self, target: str, *, name: str, fingerprint: str) -> None:
        """Remember a temporary file, empty as it is."""
        self._mine.add(name)
        self._ask("DELETE FROM ranges WHERE name = ?", name)
        values = (name, name_bytes(target), fingerprint, self._owner)
        self._ask("INSERT OR REPLACE INTO downloads VALUES (?, ?, ?, ?)", *values)

    def add_range(self, name: str, first: int) -> None:
        """Remember that a range, by its first byte, is in a temporary file."""
        self._ask("INSERT OR IGNORE INTO ranges VALUES (?, ?)", name, first)

    def end_download(self, name: str) -> None:
        """Forget a temporary file."""
        self._ask("DELETE FROM ranges WHERE name = ?", name)
        self._ask("DELETE FROM downloads WHERE name = ?", name)

    def knows_part(self, name: str) -> bool:
        """Return whether a temporary file belongs to a partial download."""
        return self._exists() and bool(self._ask("SELECT 1 FROM downloads WHERE name = ?", name))

    def left_uploads(self) -> list[tuple[str, str, str]]:
        """Return the uploads (id, bucket, key) that neither this run nor a running one uses."""
        rows = self._left("SELECT upload_id, owner, bucket, key FROM pool_uploads WHERE pool = ?", self._pool)
        return [(row[0], row[2], row[3].decode("utf-8", "surrogateescape")) for row in rows]

    def left_downloads(self) -> list[tuple[str, str]]:
        """Return the temporary files (name, target) that neither this run nor a running one uses."""
        rows = self._left("SELECT name, owner, target FROM downloads")
        return [(row[0], row[2].decode("utf-8", "surrogateescape")) for row in rows]

    def _left(self, query: str, *values: object) -> list[Row]:
        rows = self._ask(query, *values) if self._exists() else []
        return [row for row in rows if row[0] not in self._mine and not self._is_at_work(row[1])]

    def take_upload(self, upload_id: str) -> bool:
        """Make an upload that somebody left this run's, to be ended; False when somebody else was faster."""
        query = "SELECT upload_id, owner FROM pool_uploads WHERE upload_id = ? AND pool = ?"
        return bool(self._take_up("pool_uploads", self._ask(query, upload_id, self._pool)))

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
            self._ask(f"UPDATE {table} SET owner = ? WHERE {column} = ? AND owner = ?", self._owner, name, owner)
            if self._ask(f"SELECT 1 FROM {table} WHERE {column} = ? AND owner = ?", name, self._owner):
                return str(name)
        return ""

    def _is_at_work(self, owner: str) -> bool:
        """Return whether another process may be using it; processes of other machines are unknown."""
        node, _, process = owner.partition(":")
        if node != os.uname().nodename:
            return self._shared
        number, _, start = process.partition(":")
        # A number is used again.
        return number.isdecimal() and int(number) != os.getpid() and "" != _start_of(int(number)) == start

    def _exists(self) -> bool:
        return self._database is not None or os.path.exists(self._path)

    def _ask(self, query: str, *values: object) -> list[Row]:
        with self._lock:
            if not self.remembers:
                return []
            import sqlite3

            try:
                if self._database is None:
                    self._database = self._open()
                return self._database.execute(query, values).fetchall()
            except (sqlite3.Error, OSError) as exc:
                logger.warning("unfinished transfers cannot be remembered in %s (%s)", self._path, exc)
                self.remembers = False
                if isinstance(exc, sqlite3.DatabaseError) and not isinstance(exc, sqlite3.OperationalError):
                    with contextlib.suppress(OSError):
                        os.unlink(self._path)  # it is broken, and holds nothing that could not be done again
                return []

    def _open(self) -> sqlite3.Connection:
        import sqlite3

        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        database = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA synchronous = OFF")
            database.executescript(UNFINISHED_SCHEMA)
        except sqlite3.Error:
            database.close()
            raise
        return database


def _start_of(pid: int) -> str:
    """Return when a process began, in the kernel's ticks; "" when there is none, or it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in DEAD_STATES else fields[START_FIELD].decode()


NO_MEMORY = Unfinished("", resumes=False)


def state_directory(environ: Mapping[str, str]) -> str:
    """Return s3pool's directory below $XDG_STATE_HOME, else below ~/.local/state."""
    base = environ.get("XDG_STATE_HOME", "")
    return os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.local/state"), "s3pool")


def pool_of(endpoints: Iterable[object], directory: str, *, read_only: bool = False) -> str:
    """Return the name of the pool with these endpoints; one that has an endpoint of a known pool is that pool.

    What is new is remembered, unless ``read_only``, or the directory cannot be written to.
    """
    given = sorted({str(endpoint) for endpoint in endpoints})
    path = os.path.join(directory, POOLS_FILE)
    known = _known_pools(path)
    found = [pool for endpoint, pool in known.items() if endpoint in given]
    pool = found[0] if found else hashlib.sha256("\n".join(given).encode()).hexdigest()[:POOL_DIGITS]
    lines = "".join(f"{pool} {endpoint}\n" for endpoint in given if endpoint not in known)
    if lines and directory and not read_only:
        with contextlib.suppress(OSError):
            os.makedirs(directory, mode=0o700, exist_ok=True)
            with open(path, "ab", buffering=0, opener=functools.partial(os.open, mode=PRIVATE_MODE)) as file:
                file.write(lines.encode())
    return pool


def _known_pools(path: str) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return {}
    # The first line about an endpoint counts: of two runs that came to it at once, too.
    return {line[1]: line[0] for line in reversed(lines) if len(line) == 2}


class Leftovers:
    """The uploads and temporary files of runs that are no more, for the thread that takes outcomes.

    What is still of use is taken up by the transfers themselves. The rest belongs to sources that
    have changed: it goes when its target is written anew.
    """

    def __init__(self, unfinished: Unfinished, client: S3Client) -> None:
        self._unfinished, self._client = unfinished, client
        self._uploads: dict[tuple[str, str], list[str]] = {}
        for upload_id, bucket, key in unfinished.left_uploads():
            self._uploads.setdefault((bucket, key), []).append(upload_id)
        self._downloads: dict[str, list[str]] = {}
        for name, target in unfinished.left_downloads():
            self._downloads.setdefault(target, []).append(name)

    def __bool__(self) -> bool:
        return bool(self._uploads or self._downloads)

    def clear_of(self, outcome: Outcome) -> None:
        """Clean up what was left of a target that is there now."""
        if not self or outcome.state != DONE:
            return
        task = outcome.task
        if isinstance(task, DownloadTask):
            target = os.path.abspath(task.target)
            self._clear([], [(name, target) for name in self._downloads.pop(target, ())])
        elif isinstance(task, (UploadTask, CopyTask)):
            left = self._uploads.pop((task.bucket, task.key), ())
            self._clear([(upload_id, task.bucket, task.key) for upload_id in left], [])

    def clear_all(self, is_mine: Callable[[str], bool]) -> None:
        """Clean up after a run that has seen all of its names; ``is_mine`` is asked about keys and paths."""
        uploads = [upload for upload in self._unfinished.left_uploads() if is_mine(upload[2])]
        downloads = [(name, target) for name, target in self._unfinished.left_downloads() if is_mine(target)]
        self._clear(uploads, downloads)

    def _clear(self, uploads: list[tuple[str, str, str]], downloads: list[tuple[str, str]]) -> None:
        unfinished = self._unfinished
        gone = 0
        for upload_id, bucket, key in uploads:
            if unfinished.take_upload(upload_id) and self._abort(upload_id, bucket, key):
                unfinished.end_upload(upload_id)
                gone += not upload_id.startswith(ANNOUNCED)
        for name, target in downloads:
            path = os.path.join(os.path.dirname(target), name)
            if is_part_name(os.fsencode(name)) and os.path.lexists(path):
                if remove_orphan(os.fsencode(path)) is None:
                    continue  # somebody is at work on it
                gone += 1
            unfinished.end_download(name)
        if gone:
            logger.info("cleaned up %d unfinished transfer%s of killed runs", gone, "s" if gone > 1 else "")

    def _abort(self, upload_id: str, bucket: str, key: str) -> bool:
        """Abort an upload; False when that cannot be done now, so that the next run tries it again."""
        try:
            if upload_id.startswith(ANNOUNCED):
                abort_announced(self._client, upload_id, bucket, key)
            else:
                self._client.abort_multipart_upload(bucket, key, upload_id=upload_id)
        except NotFoundError:
            pass
        except S3PoolError as exc:
            logger.warning("an unfinished upload of s3/%s/%s stays behind: %s", bucket, key, exc)
            return False
        return True
