"""A clock that stands still until a test turns it."""

from __future__ import annotations

from random import Random

START = 1_769_114_673.0  # 2026-01-22 20:44:33 UTC


class Clock:
    """Gives the time, and sleeps by turning itself forward; ``slept`` keeps every sleep.

    It serves as ``now``, ``monotonic`` and ``sleep`` alike::

        policy = RetryPolicy(now=clock, sleep=clock.sleep)
    """

    def __init__(self, start: float = START) -> None:
        self.time = start
        self.slept: list[float] = []

    def __call__(self) -> float:
        """Give the seconds."""
        return self.time

    def advance(self, seconds: float) -> None:
        """Turn it forward."""
        self.time += seconds

    def sleep(self, seconds: float) -> None:
        """Note the sleep, and turn forward by it."""
        self.slept.append(seconds)
        self.time += seconds

    def wait(self, seconds: float | None = None) -> bool:
        """Sleep as an Event does that nobody sets."""
        self.sleep(seconds or 0.0)
        return False


class Chosen(Random):
    """A source of chance whose whole numbers are all one: ``LoadBalancer(nodes, random=Chosen(0))``."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def randrange(self, *_bounds: int) -> int:
        """Return the number."""
        return self.number
