"""What all requests of a process share: memory and disk for bodies, and second tries."""

from __future__ import annotations

import threading

LEAST_RETRIES = 3  # so many second tries at a time are free: a quiet proxy has no percentage to speak of
SPARE_BYTES = 64 << 20  # of buffers that wait for their next use
MIN_SPARE_BYTES = 128 * 1024  # smaller ones come from the heap, which keeps them itself
MAX_WASTE = 2  # a spare buffer may be so many times as large as what is wanted


class Budget:
    """Bytes that all requests share; who finds them used up goes without."""

    def __init__(self, size: int) -> None:
        # Guards the number below; held for one addition.
        self._lock = threading.Lock()
        self._left = size
        self.size = size

    @property
    def used(self) -> int:
        """Give the bytes in use."""
        return self.size - self._left

    def has(self, count: int) -> bool:
        """Return whether so many bytes are free now."""
        return count <= self._left

    def take(self, count: int) -> bool:
        """Ask for so many bytes; False when they are not there."""
        with self._lock:
            if count > self._left:
                return False
            self._left -= count
            return True

    def give_back(self, count: int) -> None:
        """Return what was taken."""
        with self._lock:
            self._left += count


class Buffers:
    """Large buffers that are used again: fresh memory costs as much as filling it."""

    def __init__(self, size: int) -> None:
        # Guards the two below; held for a look.
        self._lock = threading.Lock()
        self._spare: list[bytearray] = []
        self._room = size

    def take(self, length: int) -> bytearray:
        """Give a buffer of at least that length; what is in it is of no meaning."""
        with self._lock:
            for number, buffer in enumerate(self._spare):
                if length <= len(buffer) <= MAX_WASTE * length:
                    self._room += len(buffer)
                    return self._spare.pop(number)
        return bytearray(length)

    def give_back(self, buffer: bytearray) -> None:
        """Return a buffer that nobody looks at any more."""
        with self._lock:
            if MIN_SPARE_BYTES <= len(buffer) <= self._room:
                self._spare.append(buffer)
                self._room -= len(buffer)


class RetryBudget:
    """The share of the requests at work that may be in a second try.

    When every node refuses, trying each request three times would triple the load that
    made them refuse. What a dead node leaves behind is no such load, and is not counted.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        # Guards the two numbers below; held for additions.
        self._lock = threading.Lock()
        self._active = 0
        self._retrying = 0

    @property
    def retrying(self) -> int:
        """Give the requests that are in a second try now."""
        return self._retrying

    @property
    def admits(self) -> bool:
        """Say whether one more may begin a second try."""
        return self._retrying < max(LEAST_RETRIES, self._share * self._active)

    def change(self, *, active: int = 0, retrying: int = 0) -> None:
        """Count requests that begin or end."""
        with self._lock:
            self._active += active
            self._retrying += retrying


class Slip:
    """One request's place in the budget, from now to its answer."""

    __slots__ = ("_budget", "_is_retrying")

    def __init__(self, budget: RetryBudget) -> None:
        self._budget = budget
        self._is_retrying = False
        budget.change(active=1)

    def end(self) -> None:
        """Give it back; once."""
        self._budget.change(active=-1, retrying=-int(self._is_retrying))

    def may_retry(self) -> bool:
        """Say whether a second try may begin; one that has begun may go on."""
        return self._is_retrying or self._budget.admits

    def note_retry(self) -> None:
        """Note that the request is in a second try that may add to the load, or a later one."""
        if not self._is_retrying:
            self._is_retrying = True
            self._budget.change(retrying=1)
