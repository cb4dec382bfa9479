"""Threads that do one thing side by side, and can be left behind when they hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

WAKE_S = 0.2  # a wait looks around after so long


class Lanes:
    """So many daemon threads with one task; whoever made them waits for them.

    They are daemons because a request to a node that went silent cannot be called back, and
    must not hold the program's end. ``work`` gets the lane's number and raises nothing.
    """

    def __init__(self, count: int, work: Callable[[int], None], *, name: str) -> None:
        self._threads = [
            threading.Thread(target=work, args=(number,), name=f"s3pool-{name}-{number}", daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        """Start all of them."""
        for thread in self._threads:
            thread.start()

    def wait(self, has_patience: Callable[[], bool] = lambda: True) -> bool:
        """Wait until all have ended, while there is patience; say whether they have."""
        for thread in self._threads:
            while thread.is_alive():
                if not has_patience():
                    return False
                thread.join(WAKE_S)
        return True

    def wait_at_most(self, seconds: float) -> bool:
        """Wait for so long; say whether all have ended."""
        deadline = time.monotonic() + seconds
        return self.wait(lambda: time.monotonic() < deadline)

    @property
    def alive(self) -> int:
        """Count those that have not ended."""
        return sum(thread.is_alive() for thread in self._threads)
