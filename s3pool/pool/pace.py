"""How long a connection may keep its user waiting: for one byte, and for all of them."""

from __future__ import annotations

import math
import select
import socket
import struct
import time
from typing import Protocol, TypeVar

from s3pool.errors import RequestTimeoutError

LEAST_BYTES_PER_S = 1024  # less is no network, but somebody's trick


class Pace:
    """The speed of an answer that has begun, judged by the time that was spent waiting for it."""

    __slots__ = ("_bytes", "_endpoint", "_waited_s", "window_s")

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._waited_s, self._bytes = 0.0, 0
        self.window_s = math.inf  # of waiting, after which the speed is judged

    def begin(self, waited_s: float = 0.0) -> None:
        """Forget what was before; a negative time is for what is waited for without a word about its speed."""
        self._waited_s, self._bytes = waited_s, 0

    def judge(self, waited_s: float, count: int) -> None:
        """Count bytes and the time that they were waited for.

        Raises:
            RequestTimeoutError: they come too slowly, and have done so for long.
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
        """Judge one send, which ends after the timeout when not all was taken.

        Raises:
            RequestTimeoutError: next to nothing was taken.
        """
        if seconds >= timeout_s and count < seconds * LEAST_BYTES_PER_S:
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


def wait_readable(wires: list[Open], timeout_s: float) -> list[Open]:
    """Wait until one of the connections has something to read; an empty list after the timeout."""
    by_fd = {wire.fileno(): wire for wire in wires}
    poller = select.poll()
    for fd in by_fd:
        poller.register(fd, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while True:
        events = poller.poll(max(deadline - time.monotonic(), 0.0) * 1000)
        if events or time.monotonic() >= deadline:
            return [by_fd[fd] for fd, _ in events]
