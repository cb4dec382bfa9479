"""Which node stands out, in words: pure decisions on rows that were measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from s3pool.record import dataclass
from s3pool.speedtest.measure import Measurement

SLOW_FACTOR = 2.0  # below, it is noise as often as not
LEAST_REQUESTS = 5  # fewer say nothing about a node
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
    fit = [row for row in rows if row.requests >= LEAST_REQUESTS]
    for row in fit:
        factor = slowness(row, fit)
        if factor >= SLOW_FACTOR:
            message = f"{row.endpoint} is {factor:.1f}x slower than the median of the others in {row.phase}"
            yield Finding(SLOW, row.phase, row.endpoint, message, factor)


def slowness(row: Measurement, rows: Iterable[Measurement]) -> float:
    """Return how many times longer a request takes than on the other nodes; 0 without others."""
    others = [other.mean_ms for other in rows if other is not row]
    usual = median(others) if others else 0.0
    return row.mean_ms / usual if usual else 0.0
