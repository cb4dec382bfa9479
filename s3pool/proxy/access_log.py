"""Access log, and a limit on equal log lines, so that clients cannot fill the disk."""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable

from s3pool.errors import ConfigError
from s3pool.model import format_iso_time

LOG_MODE = 0o640
REQUEST_ID_BYTES = 8
CLIENT_GONE = "client gone"
MAX_KEY_LENGTH = 1024  # S3 has no longer keys, and a line no more room for a stranger


class RequestRecord:
    """What happened to one request, filled in as it goes. Times are in seconds.

    What nobody fills in stays the class's own: most requests set a few of these.
    """

    method = ""
    access_key = ""
    op = "Unknown"
    bucket = ""
    key = ""
    status = 0
    code = ""
    bytes_in = 0
    bytes_out = 0
    endpoint = ""
    tries = 0
    resumes = 0
    replays = 0
    auth_s = 0.0
    first_byte_s = 0.0
    total_s = 0.0
    used_event_loop = False  # no thread was needed
    end = "done"
    limited: tuple[str, str] | None = None  # beyond which limit: its label, and what there was too much of
    denied = ""  # one word for why a caller was turned away
    backend_request_id = ""
    _request_id = ""

    def __init__(self, client: str, started: float) -> None:
        self.client = client
        self.peer = client  # who is connected: the client, or a balancer before it
        self.started = started

    @property
    def owner(self) -> str:
        """Return the access key, or the client's address for an anonymous request."""
        return self.access_key or f"@{self.client}"

    @property
    def request_id(self) -> str:
        """Return the proxy's own request id, generated at the first use."""
        if not self._request_id:
            self._request_id = secrets.token_hex(REQUEST_ID_BYTES)
        return self._request_id

    def line(self) -> bytes:
        """Return the access log's line. It holds no signature, no token and no secret."""
        record = {
            "time": format_iso_time(time.time()),
            "client": self.client,
            "access_key": self.access_key,
            "method": self.method,
            "op": self.op,
            "bucket": self.bucket,
            "key": self.key[:MAX_KEY_LENGTH],
            "status": self.status,
            "code": self.code,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "endpoint": self.endpoint,
            "tries": self.tries,
            "resumes": self.resumes,
            "replays": self.replays,
            "auth_ms": round(self.auth_s * 1000, 3),
            "first_byte_ms": round(self.first_byte_s * 1000, 3),
            "total_ms": round(self.total_s * 1000, 3),
            "end": self.end,
            "request_id": self.request_id,
            "backend_request_id": self.backend_request_id,
        }
        return json.dumps(record).encode() + b"\n"


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
                os.write(self._fd, record.line())
            except OSError:
                return

    def reopen(self) -> None:
        """Reopen the file after log rotation.

        Raises:
            ConfigError: it cannot be opened; the old one stays.
        """
        fd = _open(self._path)
        with self._lock:
            old, self._fd = self._fd, fd
        os.close(old)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


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
