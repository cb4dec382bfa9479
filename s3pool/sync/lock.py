"""One run at a time for a pair of source and target."""

from __future__ import annotations

import errno
import fcntl
import logging
import os

from s3pool.errors import JournalError, JournalLockedError

logger = logging.getLogger(__name__)

NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
MAX_WORD_BYTES = 64


class PairLock:
    """A lock on a file, which the system lets go when the process ends, however it ends.

    ``optional`` is for a place that s3pool chose itself: where no file can be made there,
    the run goes on with a warning.

    Raises:
        JournalLockedError: another run has it. JournalError: the file cannot be made.
    """

    def __init__(self, path: str, *, optional: bool = False) -> None:
        self.path = path
        self._fd = -1
        try:
            self._fd = _open(path)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_own_number(self._fd)
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


def _open(path: str) -> int:
    directory = os.path.dirname(path)
    if directory:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _write_own_number(fd: int) -> None:
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError:  # it is for people only
        pass


def _read_word(fd: int) -> str:
    try:
        word = os.pread(fd, MAX_WORD_BYTES, 0).decode("ascii", "replace").strip()
    except OSError:
        return ""
    return word if word.isdigit() else ""
