"""Which node is named, and how."""

from __future__ import annotations

import pytest

from s3pool.record import replace
from s3pool.speedtest.measure import ALL_NODES, Measurement, find_outliers

ROW = Measurement("download", "", False, 0, 0, 1.0, 100, 0, "", 10.0, 10.0, 10.0, 10.0, 10.0)


def rows(*median_ms: float, phase: str = "download", alone: bool = False) -> list[Measurement]:
    """Give rows of nodes with these times."""
    return [
        replace(ROW, phase=phase, endpoint=f"http://node{number}", p50_ms=mean, p90_ms=mean, alone=alone)
        for number, mean in enumerate(median_ms, 1)
    ]


def messages(results: list[Measurement]) -> list[str]:
    """Give what is found, in words."""
    return [finding.message for finding in find_outliers(results)]


def test_slow_node_is_named_with_its_factor() -> None:
    """Against the median of the others, so that it does not excuse itself."""
    assert ["http://node3 is 4.1x slower than the median of the others in download"] == messages(
        rows(10.0, 12.0, 45.1, 11.0)
    )


@pytest.mark.parametrize("mean_ms", [(10.0, 12.0, 19.0), (10.0,), (), (10.0, 10.0), (0.0, 5.0)])
def test_alike_nodes_are_not_named(mean_ms: tuple[float, ...]) -> None:
    """Noise is no finding, and one node has nobody to be compared with."""
    assert [] == messages(rows(*mean_ms))


def test_two_nodes_judge_each_other() -> None:
    """The other one is the median."""
    assert ["http://node2 is 3.0x slower than the median of the others in download"] == messages(rows(10.0, 30.0))


def test_few_requests_say_nothing() -> None:
    """One slow answer is chance."""
    fast, slow = rows(10.0, 90.0)

    assert [] == messages([fast, replace(slow, requests=4)])


def test_row_of_all_is_not_judged() -> None:
    """It is not a node."""
    assert [] == messages([replace(ROW, endpoint=ALL_NODES, p50_ms=500.0), *rows(10.0, 11.0)])


def test_nodes_alone_decide_where_there_are_some() -> None:
    """A share of the common load is worse evidence, and nothing is said twice."""
    found = messages([*rows(10.0, 50.0), *rows(40.0, 10.0, alone=True)])

    assert ["http://node1 is 4.0x slower than the median of the others in download"] == found


def test_every_phase_is_judged_by_itself() -> None:
    """A node may be slow in one thing only."""
    found = find_outliers([*rows(10.0, 30.0, phase="upload"), *rows(30.0, 10.0, phase="list")])

    assert [("upload", "http://node2"), ("list", "http://node1")] == [(f.phase, f.endpoint) for f in found]


def test_failures_are_told_with_the_last_reason() -> None:
    """Whatever the speed."""
    good, bad = rows(10.0, 11.0)

    assert ["http://node2 failed 3 of 103 requests in download: 500 InternalError"] == messages(
        [good, replace(bad, errors=3, error="500 InternalError")]
    )


def test_dead_node_is_told() -> None:
    """It answered nothing at all."""
    good, dead = rows(10.0, 0.0, alone=True)

    assert ["http://node2 answered none of 7 requests in download: refused"] == messages(
        [good, replace(dead, requests=0, errors=7, error="refused")]
    )


def test_node_that_was_left_out_is_told() -> None:
    """With why."""
    good, dead = rows(10.0, 0.0, alone=True)

    assert ["http://node2 was left out of download: connection refused"] == messages(
        [good, replace(dead, requests=0, error="connection refused")]
    )


def test_node_that_the_pool_went_around_is_told() -> None:
    """The others' answers hide that it is gone."""
    good, dead = rows(10.0, 0.0)

    assert ["http://node2 answered none of the pool's 100 requests in download"] == messages(
        [good, replace(dead, requests=0)]
    )
    assert [] == messages([replace(good, requests=3), replace(dead, requests=0)])
