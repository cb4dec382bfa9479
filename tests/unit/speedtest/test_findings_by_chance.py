"""Whether a node is named that only had bad luck: many runs of nodes whose times are drawn by a law."""

from __future__ import annotations

import random

import pytest

from s3pool.speedtest.measure import Measurement, Samples, find_outliers, result_of

RUNS = 100
NODES = 4


def run_of(dice: random.Random, requests: int, spread: float, factors: dict[int, float]) -> list[Measurement]:
    """Give the rows of one short run; now and then the machine stalls, which hits a few requests of one node."""
    rows = []
    stalled = dice.randrange(NODES)
    for node in range(NODES):
        samples = Samples()
        for number in range(dice.randint(requests, 2 * requests)):
            seconds = 0.02 * dice.lognormvariate(0.0, spread) * factors.get(node, 1.0)
            stall = 0.5 if node == stalled and number < requests // 4 else 0.0
            samples.add(seconds + stall, bytes=1, objects=1)
        rows.append(result_of(samples, "upload", endpoint=f"node{node}", alone=False, seconds=1.0))
    return rows


@pytest.mark.parametrize("spread", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("requests", [5, 12, 60])
def test_nodes_that_are_alike_are_not_blamed(requests: int, spread: float) -> None:
    """A stall moves the mean of one of them to many times that of the others, and says nothing."""
    dice = random.Random(requests + spread)

    blamed = sum(bool(find_outliers(run_of(dice, requests, spread, {}))) for _ in range(RUNS))

    assert blamed <= 1


@pytest.mark.parametrize(("requests", "spread"), [(8, 0.1), (12, 0.3), (30, 0.5), (100, 1.0)])
def test_a_node_that_is_five_times_slower_is_named(requests: int, spread: float) -> None:
    """As long as the figures allow it: the more they differ among themselves, the more it takes."""
    dice = random.Random(requests)

    named = [{found.endpoint for found in find_outliers(run_of(dice, requests, spread, {2: 5.0}))} for _ in range(RUNS)]

    assert all(names <= {"node2"} for names in named)
    assert sum(names == {"node2"} for names in named) >= RUNS - 2
