"""A load of one operation, over and over in many lanes: what its requests took, and which node that blames."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import median

from s3pool.errors import AccessDeniedError, NotFoundError, S3Error, S3PoolError, StoppedError, TransportError
from s3pool.model import Endpoint, Request, Response
from s3pool.record import dataclass
from s3pool.s3.operation import Sender

logger = logging.getLogger(__name__)

STEP = 1.01  # each bucket of the histogram is 1 % wider than the one before
LOG_STEP = math.log(STEP)
LEAST_S = 1e-6
MILLIS = 1000
MEDIAN, MOST, NEARLY_ALL = 0.5, 0.9, 0.99
ALL_NODES = "all"
FAILURES_IN_A_ROW = 5  # then a lane gives up: a dead node answers errors faster than objects
STALL_S = 30.0  # without a byte or an answer in any lane after the end, what is left is given up
STOP_WITHIN_S = 5.0  # an interrupt waits so long for requests under way
NOBODY = ""  # the endpoint of a failure that no node can be blamed for
WAKE_S = 0.2  # a wait looks around after so long
SLOW_FACTOR = 2.0  # between medians: a stall of the whole machine moves a mean
SURE_FACTOR = 1.3  # what must be left of it without what chance can do
THREE_SIGMA, OF_A_MEDIAN, NINE_OF_TEN = 3, 1.2533, 1.2816
LEAST_REQUESTS = 5  # fewer say nothing about a node
LEAST_ROUNDS = 3  # so many requests one after another: a single stall hits all that are under way
LEAST_TURNS = 2  # so many for each node, and one without any was passed over

SLOW = "slow"
SILENT = "silent"
FAILING = "failing"


class Histogram:
    """Times in buckets of 1 %; the smallest, the largest and the sum are exact."""

    __slots__ = ("count", "counts", "least_s", "most_s", "total_s")

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.count = 0
        self.total_s = 0.0
        self.least_s = math.inf
        self.most_s = 0.0

    def add(self, seconds: float) -> None:
        """Take one time in."""
        self.counts[math.ceil(math.log(max(seconds, LEAST_S)) / LOG_STEP)] += 1
        self.count += 1
        self.total_s += seconds
        self.least_s = min(self.least_s, seconds)
        self.most_s = max(self.most_s, seconds)

    def merge(self, other: Histogram) -> None:
        """Take all times of another one in."""
        self.counts.update(other.counts)
        self.count += other.count
        self.total_s += other.total_s
        self.least_s = min(self.least_s, other.least_s)
        self.most_s = max(self.most_s, other.most_s)

    def percentile(self, share: float) -> float:
        """Return the time in seconds that this share of all did not exceed, 0 when there is none.

        It is too large by 1 % at most, and never beyond the largest.
        """
        wanted = math.ceil(share * self.count)
        for bucket, count in sorted(self.counts.items()):
            wanted -= count
            if wanted <= 0:
                return min(max(STEP**bucket, self.least_s), self.most_s)
        return 0.0

    @property
    def mean_s(self) -> float:
        """Return the mean in seconds, 0 when there is none."""
        return self.total_s / self.count if self.count else 0.0


class Samples:
    """What one lane, or a node, did in one run. Not for threads: one writes, others add up later."""

    __slots__ = ("bytes", "error", "errors", "objects", "times")

    def __init__(self, error: str = "") -> None:
        self.bytes = self.objects = self.errors = 0
        self.error = error
        self.times = Histogram()

    def add(self, seconds: float, *, bytes: int, objects: int) -> None:
        """Count one request that went well."""
        self.times.add(seconds)
        self.bytes += bytes
        self.objects += objects

    def fail(self, message: str) -> None:
        """Count one that did not; the last message is kept."""
        self.errors += 1
        self.error = message

    def merge(self, other: Samples) -> None:
        """Add another one up."""
        self.bytes += other.bytes
        self.objects += other.objects
        self.errors += other.errors
        self.error = other.error or self.error
        self.times.merge(other.times)


# -- the load ------------------------------------------------------------------------------


class NothingLeftError(Exception):
    """The operation has nothing more to do."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one request moved."""

    bytes: int = 0
    objects: int = 0


class Observer:
    """Passes requests on to the pool and remembers, for each thread, which node answered last; not those of windows."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._local = threading.local()
        self.endpoints = sender.endpoints
        self.attempt, self.window, self.finish = sender.attempt, sender.window, sender.finish

    def send(self, request: Request, check: Callable[[Response], None], *, only: Endpoint | None = None) -> Response:
        """Send a request as the pool does."""
        self._local.endpoint = NOBODY
        response = self._sender.send(request, check, only=only)
        self._local.endpoint = str(response.endpoint)
        return response

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
        self._act, self._observer = act, observer
        self._duration_s, self._stall_s = duration_s, stall_s
        self._stop, self._now = stop, now
        self._deadline = self._moved = 0.0
        self._ended: list[float] = []
        self.tallies: list[dict[str, Samples]] = [{} for _ in range(concurrency)]
        self.first_error: S3PoolError | None = None
        # Daemons: a request to a node that went silent cannot be called back, and must not hold the program's end.
        self._lanes = [
            threading.Thread(target=self._run_lane, args=(number,), name=f"s3pool-speedtest-{number}", daemon=True)
            for number in range(concurrency)
        ]

    def run(self) -> float:
        """Run to the end and give the seconds it took.

        An interrupt stops the lanes, waits a little for what is under way, and goes on.
        """
        started = self._moved = self._now()
        self._deadline = started + self._duration_s
        try:
            for lane in self._lanes:
                lane.start()
            self._wait(lambda: max(self._deadline, self._moved) + self._stall_s - self._now())
        except BaseException:
            self._stop.set()
            end = time.monotonic() + STOP_WITHIN_S
            self._wait(lambda: end - time.monotonic())
            raise
        if self.alive:
            self._give_up()
        return max(self._ended, default=self._now()) - started

    def moved(self) -> None:
        """Take notice that bytes came or went: the lanes do not hang."""
        self._moved = self._now()

    @property
    def alive(self) -> int:
        """Count the lanes whose last request has no answer."""
        return sum(lane.is_alive() for lane in self._lanes)

    @property
    def succeeded(self) -> int:
        """Count the requests that went well."""
        return sum(tally.times.count for lane in self.tallies for tally in lane.values())

    def _wait(self, left_s: Callable[[], float]) -> None:
        for lane in self._lanes:
            while lane.is_alive() and left_s() > 0:
                lane.join(WAKE_S)

    def _give_up(self) -> None:
        """Count what hangs as failed; the threads are left behind."""
        hanging = self.alive
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
            self.tallies[number].setdefault(NOBODY, Samples()).fail(f"{type(exc).__name__}: {exc}")
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
                lane.setdefault(self._observer.endpoint, Samples()).add(seconds, bytes=work.bytes, objects=work.objects)
            started = self._now()
            if started >= self._deadline:
                return

    def _fail(self, lane: dict[str, Samples], error: S3PoolError) -> None:
        if self.first_error is None:
            self.first_error = error
        endpoint = error.endpoint if isinstance(error, (S3Error, TransportError)) else NOBODY
        lane.setdefault(endpoint, Samples()).fail(error.message)


def is_hopeless(error: S3PoolError) -> bool:
    """Return whether the next request would fail in the same way."""
    return isinstance(error, AccessDeniedError) or (isinstance(error, NotFoundError) and error.code == "NoSuchBucket")


# -- what it comes to ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row: a phase on a node, or on all of them.

    ``alone`` says that the node got the whole load; otherwise it is the node's share of a
    load on the pool. ``seconds`` is how long the run took; times are in milliseconds.
    """

    phase: str
    endpoint: str
    alone: bool
    bytes: int
    objects: int
    seconds: float
    requests: int
    errors: int
    error: str
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float

    @property
    def throughput(self) -> float:
        """Return bytes a second."""
        return self.bytes / self.seconds if self.seconds else 0.0

    @property
    def requests_per_s(self) -> float:
        """Return answered requests a second."""
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def objects_per_s(self) -> float:
        """Return objects a second: stored, read, listed or deleted."""
        return self.objects / self.seconds if self.seconds else 0.0

    @property
    def is_all(self) -> bool:
        """Return whether this is the row of all nodes together."""
        return self.endpoint == ALL_NODES


def result_of(tally: Samples, phase: str, *, endpoint: str, alone: bool, seconds: float) -> Measurement:
    """Return the row of the samples of a node."""
    times = tally.times
    return Measurement(
        phase=phase,
        endpoint=endpoint,
        alone=alone,
        bytes=tally.bytes,
        objects=tally.objects,
        seconds=seconds,
        requests=times.count,
        errors=tally.errors,
        error=tally.error,
        mean_ms=times.mean_s * MILLIS,
        p50_ms=times.percentile(MEDIAN) * MILLIS,
        p90_ms=times.percentile(MOST) * MILLIS,
        p99_ms=times.percentile(NEARLY_ALL) * MILLIS,
        max_ms=times.most_s * MILLIS,
    )


def total_of(lanes: Iterable[Mapping[str, Samples]]) -> Samples:
    """Add up what lanes did."""
    total = Samples()
    for lane in lanes:
        for tally in list(lane.values()):  # a lane that was left behind may yet get its answer
            total.merge(tally)
    return total


def rows_of(
    lanes: Sequence[Mapping[str, Samples]], phase: str, *, endpoints: Iterable[str], seconds: float
) -> tuple[Measurement, ...]:
    """Return the row of all nodes, then one row for each node, from the samples of all lanes."""
    shares = {each: total_of([{each: lane[each]} for lane in lanes if each in lane]) for each in endpoints}
    of_nodes = {ALL_NODES: total_of(lanes), **shares}.items()
    return tuple(result_of(share, phase, endpoint=each, alone=False, seconds=seconds) for each, share in of_nodes)


@dataclass(frozen=True, slots=True)
class Finding:
    """One node that stands out in one phase; ``factor`` is 0 where it says nothing."""

    kind: str
    phase: str
    endpoint: str
    message: str
    factor: float = 0.0


def find_outliers(results: Sequence[Measurement]) -> tuple[Finding, ...]:
    """Return the nodes that stand out, phase by phase.

    Where nodes were tested alone these rows decide, else their shares of the common load.
    """
    findings: list[Finding] = []
    for phase in dict.fromkeys(result.phase for result in results):
        rows = [result for result in results if result.phase == phase and not result.is_all]
        judged = [row for row in rows if row.alone] or rows
        findings += [*_iter_silent(judged), *_iter_failing(judged), *_iter_slow(judged)]
    return tuple(findings)


def _iter_silent(rows: Sequence[Measurement]) -> Iterator[Finding]:
    total = sum(row.requests for row in rows)
    for row in (row for row in rows if not row.requests):
        if row.errors:
            message = f"{row.endpoint} answered none of {row.errors} requests in {row.phase}: {row.error}"
        elif row.error:
            message = f"{row.endpoint} was left out of {row.phase}: {row.error}"
        elif total >= LEAST_TURNS * len(rows) and not row.alone:
            message = f"{row.endpoint} answered none of the pool's {total} requests in {row.phase}"
        else:
            continue
        yield Finding(SILENT, row.phase, row.endpoint, message)


def _iter_failing(rows: Iterable[Measurement]) -> Iterator[Finding]:
    for row in rows:
        if row.errors and row.requests:
            total = row.errors + row.requests
            message = f"{row.endpoint} failed {row.errors} of {total} requests in {row.phase}: {row.error}"
            yield Finding(FAILING, row.phase, row.endpoint, message)


def _iter_slow(rows: Sequence[Measurement]) -> Iterator[Finding]:
    fit = [row for row in rows if row.requests >= LEAST_REQUESTS and row.p50_ms * LEAST_ROUNDS <= row.seconds * MILLIS]
    for row in fit:
        others = [other for other in fit if other is not row]
        usual = median([other.p50_ms for other in others]) if others else 0.0
        factor = row.p50_ms / usual if usual else 0.0
        if factor >= SLOW_FACTOR and factor / _chance(row, others) >= SURE_FACTOR:
            message = f"{row.endpoint} is {factor:.1f}x slower than the median of the others in {row.phase}"
            yield Finding(SLOW, row.phase, row.endpoint, message, factor)


def _chance(row: Measurement, others: Sequence[Measurement]) -> float:
    """Return the factor between two medians that chance alone brings about once in a thousand times.

    Times are taken for log-normal, and their spread for that between the median and nine of ten, as most nodes have it.
    """
    spread = median([math.log(each.p90_ms / each.p50_ms) for each in (row, *others) if each.p50_ms]) / NINE_OF_TEN
    share = 1 / row.requests + 1 / median([other.requests for other in others])
    return math.exp(THREE_SIGMA * OF_A_MEDIAN * spread * math.sqrt(share))
