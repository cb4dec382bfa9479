"""A load: one operation, over and over, in many lanes, until time is up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from s3pool.errors import AccessDeniedError, NotFoundError, S3Error, S3PoolError, StoppedError, TransportError
from s3pool.model import Endpoint, Request, Response
from s3pool.record import dataclass
from s3pool.s3.exchange import BegunRequest, OperationWindow, Sender
from s3pool.speedtest.lanes import Lanes
from s3pool.speedtest.measure import Samples

logger = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 5  # then a lane gives up: a dead node answers errors faster than objects
STALL_S = 30.0  # without a byte or an answer in any lane after the end, what is left is given up
STOP_WITHIN_S = 5.0  # an interrupt waits so long for requests under way
NOBODY = ""  # the endpoint of a failure that no node can be blamed for


class NothingLeftError(Exception):
    """The operation has nothing more to do."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one request moved."""

    bytes: int = 0
    objects: int = 0


class Observer:
    """Passes requests on to the pool and remembers, for each thread, which node answered last."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._local = threading.local()
        self.endpoints = sender.endpoints

    def send(self, request: Request, check: Callable[[Response], None], *, only: Endpoint | None = None) -> Response:
        """Send a request as the pool does."""
        self._local.endpoint = NOBODY
        response = self._sender.send(request, check, only=only)
        self._local.endpoint = str(response.endpoint)
        return response

    def call(self, request: Request, check: Callable[[Response], None]) -> BegunRequest:
        """Return a request as steps, without counting it."""
        return self._sender.call(request, check)

    def window(self) -> OperationWindow:
        """Return a place for many requests of one thread, unobserved."""
        return self._sender.window()

    def finish(self, attempt: Any) -> Response:
        """Wait for a request of a window, unobserved."""
        return self._sender.finish(attempt)

    @property
    def endpoint(self) -> str:
        """Return the node that answered this thread's last request, or ""."""
        return str(getattr(self._local, "endpoint", NOBODY))


class Workload:
    """One run. ``act`` does one request, in the lane of the number it gets.

    Each lane does one request at least, and ends what it has begun when time is up, so that
    large objects count, too. It gives up after some failures in a row.
    """

    def __init__(
        self,
        act: Callable[[int], Work],
        observer: Observer,
        *,
        concurrency: int,
        duration_s: float,
        stop: threading.Event,
        stall_s: float = STALL_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._act = act
        self._observer = observer
        self._duration_s = duration_s
        self._stop = stop
        self._stall_s = stall_s
        self._now = now
        self._deadline = 0.0
        self._moved = 0.0
        self._ended: list[float] = []
        self.tallies: list[dict[str, Samples]] = [{} for _ in range(concurrency)]
        self.first_error: S3PoolError | None = None
        self._lanes = Lanes(concurrency, self._run_lane, name="speedtest")

    def run(self) -> float:
        """Run to the end and give the seconds it took.

        An interrupt stops the lanes, waits a little for what is under way, and goes on.
        """
        started = self._moved = self._now()
        self._deadline = started + self._duration_s
        try:
            self._lanes.start()
            has_ended = self._lanes.wait(self._has_patience)
        except BaseException:
            self._stop.set()
            self._lanes.wait_at_most(STOP_WITHIN_S)
            raise
        if not has_ended:
            self._give_up()
        return max(self._ended, default=self._now()) - started

    def moved(self) -> None:
        """Take notice that bytes came or went: the lanes do not hang."""
        self._moved = self._now()

    @property
    def alive(self) -> int:
        """Count the lanes whose last request has no answer."""
        return self._lanes.alive

    @property
    def succeeded(self) -> int:
        """Count the requests that went well."""
        return sum(tally.times.count for lane in self.tallies for tally in lane.values())

    def _has_patience(self) -> bool:
        now = self._now()
        return now < max(self._deadline, self._moved) + self._stall_s

    def _give_up(self) -> None:
        """Count what hangs as failed; the threads are left behind."""
        hanging = self._lanes.alive
        logger.warning("%d requests got no answer within %g s", hanging, self._stall_s)
        lost = Samples()
        for _ in range(hanging):
            lost.fail(f"no answer within {self._stall_s:g} s")
        self.tallies = [*map(dict, self.tallies), {NOBODY: lost}]

    def _run_lane(self, number: int) -> None:
        try:
            self._repeat(number, self.tallies[number])
        except Exception as exc:
            # The outermost frame of a lane: a bug in one must not look like a fast end.
            logger.debug("a lane of the speed test failed", exc_info=True)
            self._tally(self.tallies[number], NOBODY).fail(f"{type(exc).__name__}: {exc}")
        self._ended.append(self._now())

    def _repeat(self, number: int, lane: dict[str, Samples]) -> None:
        failures = 0
        started = self._now()
        while failures < FAILURES_IN_A_ROW and not self._stop.is_set():
            try:
                work = self._act(number)
            except (StoppedError, NothingLeftError):
                return
            except S3PoolError as exc:
                failures += 1
                self._fail(lane, exc)
                if is_hopeless(exc):
                    return
            else:
                failures = 0
                self.moved()
                seconds = self._now() - started
                self._tally(lane, self._observer.endpoint).add(seconds, bytes=work.bytes, objects=work.objects)
            started = self._now()
            if started >= self._deadline:
                return

    def _fail(self, lane: dict[str, Samples], error: S3PoolError) -> None:
        if self.first_error is None:
            self.first_error = error
        endpoint = error.endpoint if isinstance(error, (S3Error, TransportError)) else NOBODY
        self._tally(lane, endpoint).fail(error.message)

    @staticmethod
    def _tally(lane: dict[str, Samples], endpoint: str) -> Samples:
        return lane.setdefault(endpoint, Samples())


def is_hopeless(error: S3PoolError) -> bool:
    """Return whether the next request would fail in the same way."""
    return isinstance(error, AccessDeniedError) or (isinstance(error, NotFoundError) and error.code == "NoSuchBucket")


def total_of(lanes: list[dict[str, Samples]]) -> Samples:
    """Add up what all lanes did."""
    total = Samples()
    for lane in lanes:
        for tally in _values(lane):
            total.merge(tally)
    return total


def _values(lane: Mapping[str, Samples]) -> list[Samples]:
    return list(lane.values())
