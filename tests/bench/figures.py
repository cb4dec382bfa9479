"""The arithmetic of measurements: medians, spreads, and ratios of rounds run side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from tests.bench.measure import Sample

METRICS = ("seconds", "cpu_s", "peak_bytes", "rate")
Round = tuple[int, Sample]  # its number, and what was measured in it


class Figure(NamedTuple):
    """One metric over all rounds."""

    median: float
    least: float
    most: float

    @property
    def spread(self) -> float:
        """Give how far the rounds lie apart, as a share of the median."""
        return (self.most - self.least) / self.median if self.median else 0.0


def figure(rounds: Sequence[Round], metric: str) -> Figure:
    """Sum up one metric of at least one round."""
    values = [float(getattr(sample, metric)) for _, sample in rounds]
    return Figure(statistics.median(values), min(values), max(values))


def ratio(ours: Sequence[Round], theirs: Sequence[Round], *, metric: str) -> float | None:
    """Give how many times theirs ours is; None where there is nothing to compare.

    Rounds that both ran are compared one by one, for what disturbed one disturbed its
    neighbour as well, and the median of these ratios counts. A round that only they ran is
    compared with our median.
    """
    if not ours:
        return None
    mine = {number: float(getattr(sample, metric)) for number, sample in ours}
    middle = statistics.median(mine.values())
    pairs = [(mine.get(number, middle), float(getattr(sample, metric))) for number, sample in theirs]
    ratios = [one / other for one, other in pairs if other]
    return statistics.median(ratios) if ratios else None
