"""Requests that take far longer than others of their listing; pure, the time comes with calls."""

from __future__ import annotations

from s3pool.s3.keyrange import Flight

PATIENCE_S = 0.5  # nothing is overdue before
USUAL_TIMES = 5.0  # nor before so many times what requests usually take
NEWEST_WEIGHT = 0.2  # share of the newest answer in what is usual


class Overdue:
    """What is under way, since when, and how often.

    A listing waits for its last page, and one node that swallows a request would hold it up.
    So a request that is overdue is made once more, and the first answer counts; but not one
    that follows a token, which on some servers is a walk of its own.
    """

    def __init__(self) -> None:
        self._since: dict[Flight, float] = {}
        self._copies: dict[Flight, int] = {}
        self._repeated: set[Flight] = set()
        self._usual_s: float | None = None

    def begin(self, flight: Flight, now: float) -> None:
        """Note that a request is made, perhaps once more."""
        if flight in self._since:
            self._repeated.add(flight)
        self._since.setdefault(flight, now)
        self._copies[flight] = self._copies.get(flight, 0) + 1

    def end(self, flight: Flight, now: float, *, is_answered: bool) -> bool:
        """Note that it came back; say whether nothing is left of it under way."""
        if is_answered:
            seconds = now - self._since[flight]
            usual_s = seconds if self._usual_s is None else self._usual_s
            self._usual_s = usual_s + NEWEST_WEIGHT * (seconds - usual_s)
        self._copies[flight] -= 1
        is_last = not self._copies[flight]
        if is_last:
            del self._copies[flight], self._since[flight]
            self._repeated.discard(flight)
        return is_last

    def next(self, now: float) -> Flight | None:
        """Give a request to be made once more."""
        if self._usual_s is None:
            return None
        limit_s = max(PATIENCE_S, USUAL_TIMES * self._usual_s)
        return next(
            (
                flight
                for flight, since in self._since.items()
                if now - since > limit_s and flight not in self._repeated and not flight.token and flight.is_awaited
            ),
            None,
        )
