"""So many log lines of one kind at a time: no stranger fills a disk with them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

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
