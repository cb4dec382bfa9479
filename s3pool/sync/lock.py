"""One run at a time for a pair of source and target."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import stat
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from s3pool.errors import JournalError, JournalLockedError, UsageError

if TYPE_CHECKING:
    from s3pool.sync.options import SyncOptions

logger = logging.getLogger(__name__)

NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
MAX_WORD_BYTES = 64
WORD = "s3pool-lock"  # what such a file begins with; the number of a process follows
OWN = re.compile(rb"s3pool-lock ([0-9]{1,10})\n")
OPEN_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class PairLock:
    """A lock on a file, which the system lets go when the process ends, however it ends.

    ``optional`` is for a place that s3pool chose itself: where no file can be made there,
    the run goes on with a warning. A place that the user chose is refused when it is there
    and no lock of s3pool's, for it may be data.

    Raises:
        JournalLockedError: another run has it. JournalError: the file cannot be made.
        UsageError: what is there is no lock file.
    """

    def __init__(self, path: str, *, optional: bool = False) -> None:
        self.path = path
        self._fd = -1
        try:
            self._fd, is_new = _open(path)
            if not (is_new or optional):
                _check_own(self._fd, path)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_new or os.fstat(self._fd).st_size:
                _write_own_number(self._fd)
        except UsageError:
            self.release()
            raise
        except BlockingIOError as exc:
            holder = _read_word(self._fd)
            self.release()
            by = f" by process {holder}" if holder else ""
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


def lock_pair(options: SyncOptions) -> AbstractContextManager[object]:
    """Lock a pair of source and target, as far as the options want it.

    Raises:
        JournalLockedError: another run is at work.
    """
    path = options.lock or options.state.lock
    return PairLock(path, optional=not options.lock) if path and not options.dry_run else nullcontext()


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


def _check_own(fd: int, path: str) -> None:
    content = os.pread(fd, MAX_WORD_BYTES, 0)
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode) or (facts.st_size and not OWN.fullmatch(content)):
        raise UsageError(f"--lock {path}: it is no lock file of s3pool's, and may be data; name another one")


def _write_own_number(fd: int) -> None:
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{WORD} {os.getpid()}\n".encode(), 0)
    except OSError:  # it is for people only
        pass


def _read_word(fd: int) -> str:
    try:
        found = OWN.fullmatch(os.pread(fd, MAX_WORD_BYTES, 0))
    except OSError:
        return ""
    return found[1].decode() if found else ""
