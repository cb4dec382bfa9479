"""Waits for the first of several connections that has something to read."""

from __future__ import annotations

import select
import time
from typing import Protocol, TypeVar


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
