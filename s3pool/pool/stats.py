"""What happened per endpoint: counters that ``--stats`` and the proxy show."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from s3pool.record import dataclass, field


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """A snapshot of one endpoint's counters. Bytes are on the connection; seconds add up over ``timed`` answers.

    ``failures`` counts exchanges without a usable answer and answers of 500 and above,
    ``retries`` the attempts made here because an earlier one, here or elsewhere, failed.
    """

    endpoint: str
    state: str
    requests: int
    failures: int
    throttled: int
    retries: int
    bytes_sent: int
    bytes_received: int
    seconds: float
    last_error: str
    failure_kinds: dict[str, int] = field(default_factory=dict)
    timed: int = 0

    @property
    def values(self) -> tuple[Any, ...]:
        """The fields in their order."""
        return tuple(getattr(self, name) for name in self.__match_args__)

    def plus(self, other: EndpointStats) -> EndpointStats:
        """Return the sums of the counters of one endpoint in two processes."""
        kinds = Counter(self.failure_kinds)
        kinds.update(other.failure_kinds)
        return EndpointStats(
            self.endpoint,
            self.state,
            self.requests + other.requests,
            self.failures + other.failures,
            self.throttled + other.throttled,
            self.retries + other.retries,
            self.bytes_sent + other.bytes_sent,
            self.bytes_received + other.bytes_received,
            self.seconds + other.seconds,
            other.last_error or self.last_error,
            dict(kinds),
            self.timed + other.timed,
        )


class ConnectionCounts:
    """How the requests of one endpoint came by their connections."""

    def __init__(self) -> None:
        # Guards all fields; held for additions only.
        self._lock = threading.Lock()
        self._opened = 0
        self._reused = 0
        self._stale = 0
        self._unasked = 0

    def add_opened(self) -> None:
        """Count a connection that was made."""
        with self._lock:
            self._opened += 1

    def add_reused(self, count: int) -> None:
        """Count connections that were used again."""
        with self._lock:
            self._reused += count

    def add_stale(self) -> None:
        """Count an idle connection that was found closed, or too old, when one was looked for."""
        with self._lock:
            self._stale += 1

    def add_unasked(self) -> None:
        """Count a connection that was closed because bytes came that no request had asked for."""
        with self._lock:
            self._unasked += 1

    def snapshot(self) -> dict[str, int]:
        """Return the counts by kind."""
        with self._lock:
            return {
                "new": self._opened,
                "reused": self._reused,
                "stale": self._stale,
                "unasked": self._unasked,
            }


class NodeCounters:
    """The live counters of one endpoint."""

    def __init__(self) -> None:
        # Guards all fields; held for additions only.
        self._lock = threading.Lock()
        self.requests = 0
        self.retries = 0
        self.throttled = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.seconds = 0.0
        self.timed = 0
        self.last_error = ""
        self.failure_kinds: Counter[str] = Counter()

    def add_request(self, *, is_retry: bool) -> None:
        """Count an attempt that is about to start."""
        with self._lock:
            self.requests += 1
            self.retries += is_retry

    def add_requests(self, count: int) -> None:
        """Count first attempts that have started."""
        with self._lock:
            self.requests += count

    def add_answer(self, seconds: float) -> None:
        """Count the time from the request's first byte to the response's head."""
        with self._lock:
            self.seconds += seconds
            self.timed += 1

    def add_exchanges(self, count: int, seconds: float, *, sent: int, received: int) -> None:
        """Count answers, with the time and the bytes of all their exchanges."""
        with self._lock:
            self.seconds += seconds
            self.timed += count
            self.bytes_sent += sent
            self.bytes_received += received

    def add_failure(self, kind: str, message: str) -> None:
        """Count a failed attempt under its kind (``connect``, ``timeout``, ``http 500``, ...)."""
        with self._lock:
            self.failure_kinds[kind] += 1
            self.last_error = message

    def add_throttled(self) -> None:
        """Count an answer that asks for fewer requests."""
        with self._lock:
            self.throttled += 1

    def add_bytes(self, *, sent: int = 0, received: int = 0) -> None:
        """Count bytes that went over the connection."""
        with self._lock:
            self.bytes_sent += sent
            self.bytes_received += received

    def snapshot(self, endpoint: str, state: str) -> EndpointStats:
        """Return the counters as a frozen value."""
        with self._lock:
            return EndpointStats(
                endpoint=endpoint,
                state=state,
                requests=self.requests,
                failures=self.failure_kinds.total(),
                throttled=self.throttled,
                retries=self.retries,
                bytes_sent=self.bytes_sent,
                bytes_received=self.bytes_received,
                seconds=self.seconds,
                last_error=self.last_error,
                failure_kinds=dict(self.failure_kinds),
                timed=self.timed,
            )
