"""A load: one operation, over and over, in many lanes, until time is up; and the bytes that it sends."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from s3pool.body import EMPTY_BODY, Body, BytesBody, Sink
from s3pool.errors import AccessDeniedError, NotFoundError, S3Error, S3PoolError, StoppedError, TransportError
from s3pool.model import Endpoint, Request, Response
from s3pool.record import dataclass
from s3pool.s3.operation import BegunRequest, OperationWindow, Sender
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


BASE_BYTES = 1 << 20  # of randomness, from the operating system; everything else is made of it
PIECE_BYTES = 1 << 18  # what is in memory of one body at a time
STAMP_BYTES = 16
TABLES = 64  # so many pieces pass until a substitution comes again: 16 MiB, far beyond a compressor's view
BYTE_VALUES = 256
OFFSET_STEP = 4093  # a prime: the pieces of objects begin at ever other places of the base


class RandomSource:
    """Makes bodies of one size; the same number always gives the same bytes.

    Small ones are a part of the base, at a place of their own. Large ones are made piece by piece while they are sent;
    each piece is written with another substitution of bytes, so that no two of them have anything in common. All begin
    with a stamp of their own. ``check`` is called before each piece; what it raises ends the sending.
    """

    def __init__(self, size: int, *, check: Callable[[], None] = lambda: None) -> None:
        self.size = size
        self._check = check
        self._base = os.urandom(BASE_BYTES)
        self._tables = _make_tables() if size > PIECE_BYTES else ()

    def body(self, number: int) -> Body:
        """Return the body of object ``number``; it can be sent again."""
        if not self.size:
            return EMPTY_BODY
        if self.size <= PIECE_BYTES:
            return BytesBody(self._plain(number, self.size))
        return GeneratedBody(lambda index, count: self.piece(number, index=index, count=count), self.size, self._check)

    def piece(self, number: int, *, index: int, count: int) -> bytes:
        """Return ``count`` bytes of a large body, from the piece with this index."""
        table = self._tables[(number + index) % TABLES]
        return self._plain(number * TABLES + index, count).translate(table)

    def _plain(self, number: int, count: int) -> bytes:
        stamp = (number.to_bytes(STAMP_BYTES // 2, "big") + self._base[: STAMP_BYTES // 2])[:count]
        start = number * OFFSET_STEP % (BASE_BYTES - PIECE_BYTES)
        return stamp + self._base[start + len(stamp) : start + count]


class GeneratedBody:
    """A body that is made while it is sent, piece by piece."""

    __slots__ = ("_check", "_piece", "length")

    rewindable = True

    def __init__(self, piece: Callable[[int, int], bytes], length: int, check: Callable[[], None]) -> None:
        self._piece = piece
        self._check = check
        self.length = length

    def rewind(self) -> None:
        """Stay where it is: every sending makes the pieces anew."""

    def send(self, sink: Sink) -> None:
        """Write all pieces, unless the check raises: a server keeps nothing of a cut body."""
        for index, start in enumerate(range(0, self.length, PIECE_BYTES)):
            self._check()
            sink.write(self._piece(index, min(PIECE_BYTES, self.length - start)))


def _make_tables() -> tuple[bytes, ...]:
    values = list(range(BYTE_VALUES))
    tables = []
    for _ in range(TABLES):
        random.shuffle(values)
        tables.append(bytes(values))
    return tuple(tables)


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
