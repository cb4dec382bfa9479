"""How fast bytes move: at most as a user wants it, and about as fast as at other nodes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable

BURST_S = 0.1  # credit that may be saved up, in seconds of the rate
BULK_BYTES = 1 << 18  # a shorter body is waited for
MEASURED_BYTES = 4 << 20  # shorter ones tell of buffers and caches, and little of a node's speed
FAST_BYTES_PER_S = 1e8  # more than this is asked of nobody: disks and caches differ
CRAWL_TIMES = 10.0  # a body that takes so many times as long as at other nodes is given up
UNKNOWN_BYTES_PER_S = 1e7  # at which others are taken to send, while nobody knows
SPEED_WEIGHT = 0.3  # share of the newest body in the moving average


class Throttle:
    """Hold all transfers together at a rate in bytes per second, received ones at ``down``; 0 is no limit."""

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
        """Wait until count bytes fit into the rate: every caller books a slot of its own at the end of the line."""
        if not self._rate:
            return
        with self._lock:
            now = self._now()
            self._free_at = max(self._free_at, now - BURST_S) + count / self._rate
            wait = self._free_at - now
        if wait > 0:
            self._sleep(wait)

    def take_received(self, count: int) -> None:
        """Wait until count bytes that were received fit into their rate."""
        (self._down or self).take(count)


class BodySpeed:
    """How fast a node takes bodies and sends them: bytes per second of waiting, 0.0 while that is unknown."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.sent = self.received = 0.0

    def note(self, count: int, waited_s: float, *, is_read: bool) -> None:
        """Note a body that has moved whole."""
        speed = count / max(waited_s, 1e-6)
        old = self.of(is_read=is_read)
        self.set(old + SPEED_WEIGHT * (speed - old) if old else speed, is_read=is_read)

    def of(self, *, is_read: bool) -> float:
        """Return the speed of the bodies of answers, or of requests."""
        return self.received if is_read else self.sent

    def set(self, speed: float, *, is_read: bool) -> None:
        """Forget what was known."""
        if is_read:
            self.received = speed
        else:
            self.sent = speed


def longest_s(moved: int, others: Iterable[BodySpeed], *, is_read: bool) -> float:
    """Return the seconds that bytes of a body may be waited for, by the speed of other nodes.

    While that is unknown an answer is left for another node once, which tells: a request would begin anew there.
    """
    known = sorted(speed for other in others if (speed := other.of(is_read=is_read)))
    if not known and not is_read:
        return math.inf
    usual = min(known[len(known) // 2], FAST_BYTES_PER_S) if known else UNKNOWN_BYTES_PER_S
    return CRAWL_TIMES * moved / usual
