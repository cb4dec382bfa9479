"""What requests took: counts, times in a histogram that does not grow with them, and which node they blame."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median

from s3pool.record import dataclass

STEP = 1.01  # each bucket of the histogram is 1 % wider than the one before
LOG_STEP = math.log(STEP)
LEAST_S = 1e-6
MILLIS = 1000
MEDIAN, MOST, NEARLY_ALL = 0.5, 0.9, 0.99
ALL_NODES = "all"


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
        for bucket in sorted(self.counts):
            wanted -= self.counts[bucket]
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

    def __init__(self) -> None:
        self.bytes = 0
        self.objects = 0
        self.errors = 0
        self.error = ""
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


def rows_of(
    lanes: Iterable[Mapping[str, Samples]], phase: str, *, endpoints: Iterable[str], seconds: float
) -> tuple[Measurement, ...]:
    """Return the row of all nodes, then one row for each node, from the samples of all lanes."""
    total = Samples()
    shares: dict[str, Samples] = {endpoint: Samples() for endpoint in endpoints}
    for lane in lanes:
        for endpoint, tally in lane.items():
            total.merge(tally)
            if endpoint in shares:
                shares[endpoint].merge(tally)
    rows = [result_of(total, phase, endpoint=ALL_NODES, alone=False, seconds=seconds)]
    rows += [
        result_of(tally, phase, endpoint=endpoint, alone=False, seconds=seconds) for endpoint, tally in shares.items()
    ]
    return tuple(rows)


SLOW_FACTOR = 2.0  # between medians: a stall of the whole machine moves a mean
SURE_FACTOR = 1.3  # what must be left of it without what chance can do
THREE_SIGMA, OF_A_MEDIAN, NINE_OF_TEN = 3, 1.2533, 1.2816
LEAST_REQUESTS = 5  # fewer say nothing about a node
LEAST_ROUNDS = 3  # so many requests one after another: a single stall hits all that are under way
LEAST_TURNS = 2  # so many for each node, and one without any was passed over

SLOW = "slow"
SILENT = "silent"
FAILING = "failing"


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
        findings += _iter_silent(judged)
        findings += _iter_failing(judged)
        findings += _iter_slow(judged)
    return tuple(findings)


def _iter_silent(rows: Sequence[Measurement]) -> Iterator[Finding]:
    total = sum(row.requests for row in rows)
    for row in rows:
        if row.requests:
            continue
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
