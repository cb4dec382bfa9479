from __future__ import annotations

import pytest

from tests.bench.figures import Figure, figure, ratio
from tests.bench.measure import Sample


def rounds(*seconds: float, start: int = 1) -> list[tuple[int, Sample]]:
    """Give one sample a round."""
    return [(number, Sample(value, value / 2, 10)) for number, value in enumerate(seconds, start)]


def test_figure_sums_up_one_metric() -> None:
    """One slow round must not decide."""
    found = figure(rounds(1.0, 9.0, 2.0), "seconds")

    assert Figure(2.0, 1.0, 9.0) == found
    assert 4.0 == found.spread


def test_spread_of_nothing_is_nothing() -> None:
    """Commands have no rate, and still a row in the table."""
    assert 0.0 == figure(rounds(1.0), "rate").spread


def test_ratio_compares_neighbours() -> None:
    """What slowed one round slowed both: the medians' ratio would be 2.0 here."""
    ours, theirs = rounds(1.0, 10.0, 2.0), rounds(2.0, 20.0, 1.0)

    assert 0.5 == ratio(ours, theirs, metric="seconds")


def test_round_without_neighbour_is_compared_with_the_median() -> None:
    """A slow peer's only round may be the warm-up."""
    assert 0.25 == ratio(rounds(1.0, 2.0, 3.0), rounds(8.0, start=0), metric="seconds")


@pytest.mark.parametrize(("ours", "theirs"), [((), (1.0,)), ((1.0,), ()), ((1.0,), (0.0,))])
def test_no_ratio_without_two_sides(ours: tuple[float, ...], theirs: tuple[float, ...]) -> None:
    """A tool that failed has no rounds, and nothing is divided by zero."""
    assert ratio(rounds(*ours), rounds(*theirs), metric="seconds") is None
