"""The state of a pair of source and target: its files, the pool that they belong to, and the lock."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import stat
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from s3pool.errors import JournalError, JournalLockedError, UsageError
from s3pool.filters import Shard
from s3pool.record import dataclass
from s3pool.sync.compare import COPY
from s3pool.sync.direction import SyncPair

NAME_DIGITS = 32


@dataclass(frozen=True, slots=True)
class StatePaths:
    """The files of one pair, and its pool; "" where no state is kept.

    ``older`` is where versions that did not know the pool kept the journal, and the transfers.
    """

    journal: str = ""
    unfinished: str = ""
    lock: str = ""
    pool: str = ""
    older: tuple[str, str] = ("", "")

    def adopt(self) -> None:
        """Take over what older versions have left: the pool that comes first has it."""
        for old, new in zip(self.older, (self.journal, self.unfinished), strict=True):
            if os.path.exists(old) and not os.path.exists(new):
                with contextlib.suppress(OSError):
                    os.replace(old, new)

    @property
    def readable_journal(self) -> str:
        """Return the journal for who must not take it over."""
        return self.journal if os.path.exists(self.journal) else self.older[0]


NO_STATE = StatePaths()


def state_directory(state_home: str, home: str) -> str:
    """Return s3pool's directory below $XDG_STATE_HOME, else below ~/.local/state."""
    base = state_home if os.path.isabs(state_home) else os.path.join(home, ".local", "state")
    return os.path.join(base, "s3pool")


def paths_for(route: SyncPair, *, directory: str, shard: Shard, pool: str, source_profile: str = "") -> StatePaths:
    """Return the state files of a pair.

    Both directions between a local directory and S3 share them: what one has left in sync the other finds in sync.
    ``pool`` names the pool of the target, and that of the source where it is another one: the same names in another
    pool are another pair. ``source_profile`` was what stood for the latter.
    """
    if not directory:
        return NO_STATE
    if route.direction == COPY:
        sides = [source_profile, route.source_text, route.target_text]
    else:
        remote = route.source_text if route.source.bucket else route.target_text
        sides = [os.uname().nodename, os.path.realpath(route.root or "."), remote]
    sides.append("" if shard.is_whole else shard.text)
    older, name = _name_of(sides), _name_of([*sides, pool])
    return StatePaths(
        journal=os.path.join(directory, "sync", f"{name}.sqlite"),
        unfinished=os.path.join(directory, "sync", f"{name}.unfinished.sqlite"),
        lock=os.path.join(directory, "locks", f"{name}.lock"),
        pool=pool,
        older=(
            os.path.join(directory, "sync", f"{older}.sqlite"),
            os.path.join(directory, "sync", f"{older}.unfinished.sqlite"),
        ),
    )


def _name_of(words: list[str]) -> str:
    text = "\0".join(words).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:NAME_DIGITS]


FILE = "pools"  # a line for each endpoint that was ever used: its pool and itself
DIGITS = 16
NEW_FILE_MODE = 0o600


def pool_of(endpoints: Iterable[object], directory: str, *, read_only: bool = False) -> str:
    """Return the name of the pool with these endpoints; one that has an endpoint of a known pool is that pool.

    What is new is remembered, unless ``read_only``, or the directory cannot be written to.
    """
    given = sorted({str(endpoint) for endpoint in endpoints})
    path = os.path.join(directory, FILE)
    known = _read(path)
    found = [pool for endpoint, pool in known.items() if endpoint in given]
    pool = found[0] if found else hashlib.sha256("\n".join(given).encode()).hexdigest()[:DIGITS]
    lines = "".join(f"{pool} {endpoint}\n" for endpoint in given if endpoint not in known)
    if lines and directory and not read_only:
        with contextlib.suppress(OSError):
            os.makedirs(directory, mode=0o700, exist_ok=True)
            with open(path, "ab", buffering=0, opener=partial(os.open, mode=NEW_FILE_MODE)) as file:
                file.write(lines.encode())
    return pool


def _read(path: str) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return {}
    # The first line about an endpoint counts: of two runs that came to it at once, too.
    return {line[1]: line[0] for line in reversed(lines) if len(line) == 2}


logger = logging.getLogger(__name__)

NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
MAX_WORD_BYTES = 64
WORD = "s3pool-lock"  # what such a file begins with; the number of a process follows
OWN = re.compile(rb"s3pool-lock ([0-9]{1,10})\n")
OPEN_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class PairLock:
    """A lock on a file, which the system lets go when the process ends, however it ends.

    ``optional`` is for a place that s3pool chose itself: where no file can be made there, the run goes on with a
    warning. A place that the user chose is refused when it is there and no lock of s3pool's, for it may be data.

    Raises JournalLockedError: another run has it. JournalError: the file cannot be made. UsageError: what is there is
    no lock file.
    """

    def __init__(self, path: str, *, optional: bool = False) -> None:
        self.path = path
        self._fd = -1
        try:
            self._fd, is_new = _open(path)
            content, facts = os.pread(self._fd, MAX_WORD_BYTES, 0), os.fstat(self._fd)
            is_own = stat.S_ISREG(facts.st_mode) and (not facts.st_size or OWN.fullmatch(content))
            if not (is_new or optional or is_own):
                raise UsageError(f"--lock {path}: it is no lock file of s3pool's, and may be data; name another one")
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_new or os.fstat(self._fd).st_size:
                with contextlib.suppress(OSError):  # the number is for people only
                    os.ftruncate(self._fd, 0)
                    os.pwrite(self._fd, f"{WORD} {os.getpid()}\n".encode(), 0)
        except UsageError:
            self.release()
            raise
        except BlockingIOError as exc:
            holder = OWN.fullmatch(os.pread(self._fd, MAX_WORD_BYTES, 0))
            self.release()
            by = f" by process {holder[1].decode()}" if holder else ""
            raise JournalLockedError(f"another run works on this source and target: {path} is locked{by}") from exc
        except OSError as exc:
            self.release()
            if not optional and exc.errno not in NO_LOCKS_HERE:
                raise JournalError(f"cannot lock {path}: {exc.strerror}") from exc
            logger.warning("cannot lock %s (%s): nothing keeps a second run from starting", path, exc.strerror)

    def release(self) -> None:
        """Let go; the file stays, because removing it would let two runs in."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> PairLock:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.release()


def lock_pair(own: str, state: StatePaths, *, dry_run: bool) -> AbstractContextManager[object]:
    """Lock a pair of source and target by the user's ``own`` file, else by that of its state.

    Raises JournalLockedError: another run is at work.
    """
    path = own or state.lock
    return PairLock(path, optional=not own) if path and not dry_run else nullcontext()


def _open(path: str) -> tuple[int, bool]:
    """Open the file, or make it; return whether it is new."""
    directory = os.path.dirname(path)
    if directory:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    try:
        return os.open(path, OPEN_FLAGS | os.O_CREAT | os.O_EXCL, 0o600), True
    except FileExistsError:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # opening alone may do something to a device
            raise UsageError(f"--lock {path}: it is no regular file; name another one") from None
    return os.open(path, OPEN_FLAGS), False
