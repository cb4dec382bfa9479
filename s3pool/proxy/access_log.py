"""Access log, and a limit on equal log lines, so that clients cannot fill the disk."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable

from s3pool.errors import ConfigError
from s3pool.model import format_iso_time
from s3pool.proxy.request import RequestRecord

LOG_MODE = 0o640
MAX_KEY_LENGTH = 1024  # S3 has no longer keys, and a line no more room for a stranger


class AccessLog:
    """A file, or standard output, to which whole lines are appended."""

    def __init__(self, path: str) -> None:
        self._path = path
        # Guards the descriptor while it is exchanged; a line is one write, which needs no lock.
        self._lock = threading.Lock()
        self._fd = _open(path)

    def write(self, record: RequestRecord) -> None:
        """Append the line of one request. On a full disk the line is lost."""
        with self._lock:
            try:
                os.write(self._fd, _line(record))
            except OSError:
                return

    def reopen(self) -> None:
        """Reopen the file after log rotation. Raises ConfigError: it cannot be opened; the old one stays."""
        fd = _open(self._path)
        with self._lock:
            old, self._fd = self._fd, fd
        os.close(old)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _line(record: RequestRecord) -> bytes:
    """Return the line of one request. It holds no signature, no token and no secret."""
    told = {
        "time": format_iso_time(time.time()),
        "client": record.client,
        "access_key": record.access_key,
        "method": record.method,
        "op": record.op,
        "bucket": record.bucket,
        "key": record.key[:MAX_KEY_LENGTH],
        "status": record.status,
        "code": record.code,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "endpoint": record.endpoint,
        "tries": record.tries,
        "resumes": record.resumes,
        "replays": record.replays,
        "auth_ms": round(record.auth_s * 1000, 3),
        "first_byte_ms": round(record.first_byte_s * 1000, 3),
        "total_ms": round(record.total_s * 1000, 3),
        "end": record.end,
        "request_id": record.request_id,
        "backend_request_id": record.backend_request_id,
    }
    return json.dumps(told).encode() + b"\n"


def _open(path: str) -> int:
    if path == "-":
        return os.dup(1)
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, LOG_MODE)
    except OSError as exc:
        raise ConfigError(f"cannot write the access log {path}: {exc.strerror}") from exc


LINES = 20  # of one kind
PERIOD_S = 10.0


class LogLimit(logging.Filter):
    """Passes the first lines of a kind in each period, and says in the next one how many it held back."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        # Guards the counts: the start of the period and the lines in it, by the text before its values are filled in.
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is to be written."""
        kind, now = (record.name, str(record.msg)), self._now()
        with self._lock:
            since, count = self._counts.get(kind, (now, 0))
            held_back = 0
            if now - since >= PERIOD_S:
                since, count, held_back = now, 0, max(count - LINES, 0)
            self._counts[kind] = since, count + 1
        if held_back:
            record.msg, record.args = f"{record.getMessage()} ({held_back} lines like this were left out)", ()
        return count < LINES


def limit_log() -> None:
    """Limit the lines of this process."""
    for handler in logging.getLogger("s3pool").handlers:
        if not any(isinstance(known, LogLimit) for known in handler.filters):
            handler.addFilter(LogLimit())
