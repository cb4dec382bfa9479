"""Percentiles, sums, and the rows that are made of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pool.speedtest.measure import Histogram, Samples, result_of, rows_of

TIMES = st.lists(st.floats(1e-5, 1e3), min_size=1, max_size=200)
PERCENT = 1.0101  # what a bucket may be too wide


def filled(times: list[float]) -> Histogram:
    """Give a histogram of these times."""
    histogram = Histogram()
    for seconds in times:
        histogram.add(seconds)
    return histogram


@given(TIMES, st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_percentile_is_that_of_the_sorted_times(times: list[float], share: float) -> None:
    """To a percent, for the histogram must not grow with the requests."""
    exact = sorted(times)[max(0, -int(-share * len(times) // 1) - 1)]

    assert exact <= filled(times).percentile(share) * 1.0000001 <= exact * PERCENT


def test_largest_and_mean_are_exact() -> None:
    """Only what lies between is rounded."""
    histogram = filled([0.1, 0.2, 0.6])

    assert (0.6, 0.6, pytest.approx(0.3)) == (histogram.percentile(1.0), histogram.most_s, histogram.mean_s)


def test_nothing_has_no_times() -> None:
    """A node that answered nothing gives zeros, not an error."""
    assert (0.0, 0.0, 0) == (Histogram().percentile(0.99), Histogram().mean_s, Histogram().count)


@given(TIMES, TIMES)
def test_merged_histograms_are_one(first: list[float], second: list[float]) -> None:
    """Every lane has its own; they are added up in the end."""
    merged = filled(first)
    merged.merge(filled(second))

    assert filled(first + second).counts == merged.counts
    assert [filled(first + second).percentile(share) for share in (0.5, 0.99)] == [
        merged.percentile(share) for share in (0.5, 0.99)
    ]


def test_row_speaks_of_the_whole_run() -> None:
    """Rates are by the clock on the wall, not by the time of requests."""
    tally = Samples()
    tally.add(0.5, bytes=100, objects=1)
    tally.add(0.5, bytes=100, objects=1)
    tally.fail("503 SlowDown")

    row = result_of(tally, "upload", endpoint="http://n", alone=True, seconds=4.0)

    assert (50.0, 0.5, 0.5) == (row.throughput, row.requests_per_s, row.objects_per_s)
    assert (2, 1, "503 SlowDown", 500.0) == (row.requests, row.errors, row.error, row.max_ms)


def test_row_of_no_time_has_no_rates() -> None:
    """Nobody divides by it."""
    row = result_of(Samples(), "list", endpoint="http://n", alone=True, seconds=0.0)

    assert (0.0, 0.0, 0.0) == (row.throughput, row.requests_per_s, row.objects_per_s)


def test_shares_stand_below_the_sum() -> None:
    """In the order of the pool; what no node answered for counts in all."""
    fast, slow, lost = Samples(), Samples(), Samples()
    fast.add(0.1, bytes=3, objects=1)
    slow.add(0.9, bytes=3, objects=1)
    lost.fail("no endpoint")

    rows = rows_of([{"b": slow}, {"a": fast, "": lost}], "download", endpoints=["a", "b", "c"], seconds=1.0)

    assert [("all", 6, 1), ("a", 3, 0), ("b", 3, 0), ("c", 0, 0)] == [
        (row.endpoint, row.bytes, row.errors) for row in rows
    ]
