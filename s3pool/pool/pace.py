"""How fast bytes have to move, and how fast they may: slow answers are ended, transfers held to a limit."""

from __future__ import annotations

import math
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from s3pool.errors import RequestTimeoutError

LEAST_BYTES_PER_S = 1024  # less is no network, but somebody's trick


class Pace:
    """The speed of an answer that has begun, judged by the time that was spent waiting for it."""

    __slots__ = ("_bytes", "_endpoint", "_taken", "_taking_s", "_waited_s", "window_s")

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._waited_s, self._bytes = 0.0, 0
        self._taking_s, self._taken = 0.0, 0
        self.window_s = math.inf  # of waiting, after which the speed is judged

    def begin(self, waited_s: float = 0.0) -> None:
        """Forget what was before; a negative time is for what is waited for without a word about its speed."""
        self._waited_s, self._bytes = waited_s, 0

    def judge(self, waited_s: float, count: int) -> None:
        """Count bytes and the time that they were waited for.

        Raises RequestTimeoutError: they come too slowly, and have done so for long.
        """
        self._waited_s += waited_s
        self._bytes += count
        if self._waited_s < self.window_s:
            return
        seconds, total = self._waited_s, self._bytes
        self.begin()
        if total < seconds * LEAST_BYTES_PER_S:
            message = f"{self._endpoint} sent {total} bytes of its answer in {seconds:.0f} s"
            raise RequestTimeoutError(message, endpoint=self._endpoint)

    def judge_taking(self, seconds: float, count: int, timeout_s: float) -> None:
        """Judge sends by the time that they took together, once this is as long as the timeout.

        Raises RequestTimeoutError: next to nothing was taken.
        """
        self._taking_s += seconds
        self._taken += count
        if self._taking_s < timeout_s:
            return
        seconds, count = self._taking_s, self._taken
        self._taking_s, self._taken = 0.0, 0
        if count < seconds * LEAST_BYTES_PER_S:
            message = f"{self._endpoint} took {count} bytes in {seconds:.0f} s"
            raise RequestTimeoutError(message, endpoint=self._endpoint, sent=False)


def set_kernel_timeout(sock: socket.socket, option: int, seconds: float) -> None:
    """Let the kernel end sends or receives that make no progress."""
    if sock.gettimeout() is not None:
        sock.settimeout(None)
    whole = int(seconds)
    micros = max(int((seconds - whole) * 1_000_000), 0 if whole else 1)
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", whole, micros))


class HasFileno(Protocol):
    """What can be polled."""

    def fileno(self) -> int:
        """Return the descriptor."""


Open = TypeVar("Open", bound=HasFileno)


def wait_readable(open_ones: list[Open], timeout_s: float) -> list[Open]:
    """Wait until one of the connections has something to read; an empty list after the timeout."""
    by_fd = {connection.fileno(): connection for connection in open_ones}
    poller = select.poll()
    for fd in by_fd:
        poller.register(fd, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while True:
        events = poller.poll(max(deadline - time.monotonic(), 0.0) * 1000)
        if events or time.monotonic() >= deadline:
            return [by_fd[fd] for fd, _ in events]


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
