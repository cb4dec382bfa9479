"""A bandwidth limit over all threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PIECE_BYTES = 64 * 1024  # a limited transfer moves in pieces of this size, so that it flows evenly
BURST_S = 0.1  # credit that may be saved up, in seconds of the rate


class Throttle:
    """Hold all transfers together at a rate in bytes per second."""

    def __init__(
        self,
        rate: int,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._now = now
        self._sleep = sleep
        # Guards the schedule; the waiting itself happens outside of it.
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, count: int) -> None:
        """Wait until count bytes fit into the rate.

        Every caller books its own slot at the end of the line, so threads share the rate
        in the order in which they ask.
        """
        with self._lock:
            now = self._now()
            start = max(self._free_at, now - BURST_S)
            self._free_at = start + count / self._rate
            wait = self._free_at - now
        if wait > 0:
            self._sleep(wait)
