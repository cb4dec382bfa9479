"""How fast bytes may move: transfers are held to a limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PIECE_BYTES = 64 * 1024  # a limited transfer moves in pieces of this size, so that it flows evenly
BURST_S = 0.1  # credit that may be saved up, in seconds of the rate


class Throttle:
    """Hold all transfers together at a rate in bytes per second; 0 is no limit.

    With ``down`` what is received has a rate of its own.
    """

    def __init__(
        self,
        rate: int,
        *,
        down: int | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._down = None if down is None else Throttle(down, now=now, sleep=sleep)
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
        if not self._rate:
            return
        with self._lock:
            now = self._now()
            start = max(self._free_at, now - BURST_S)
            self._free_at = start + count / self._rate
            wait = self._free_at - now
        if wait > 0:
            self._sleep(wait)

    def take_received(self, count: int) -> None:
        """Wait until count bytes that were received fit into their rate."""
        (self._down or self).take(count)
