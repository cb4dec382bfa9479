"""Samples of requests, the load that makes them, and which node they blame."""

from __future__ import annotations

import itertools
import logging
import random
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pool.errors import AccessDeniedError, ConnectError, NotFoundError, S3Error, S3PoolError, StoppedError
from s3pool.model import Endpoint, Request, Response
from s3pool.record import replace
from s3pool.speedtest import measure as load_module
from s3pool.speedtest.measure import (
    ALL_NODES,
    Histogram,
    Measurement,
    NothingLeftError,
    Observer,
    Samples,
    Work,
    Workload,
    find_outliers,
    is_hopeless,
    result_of,
    rows_of,
    total_of,
)

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


LONG_S = 3600.0
ENDPOINT = Endpoint.parse("http://node1:9000")


class Pool:
    """Answers whatever is asked."""

    endpoints = (ENDPOINT,)
    attempt = window = finish = None  # nobody asks for many at once

    def send(self, request: Request, check: Callable[[Response], None], *, only: Endpoint | None = None) -> Response:
        class Empty:
            def readinto(self, buffer: memoryview) -> int:
                return 0

            def close(self) -> None:
                pass

        return Response(200, {}, Empty(), endpoint=ENDPOINT)


def make(act: Callable[[int], Work], *, lanes: int = 1, duration_s: float = LONG_S, **settings: float) -> Workload:
    """Make a load on nothing."""
    return Workload(act, Observer(Pool()), concurrency=lanes, duration_s=duration_s, stop=threading.Event(), **settings)


def failing(*errors: Exception) -> Callable[[int], Work]:
    """Give an operation that fails in these ways, and then has nothing left."""
    left = iter(errors)

    def act(_lane: int) -> Work:
        raise next(left, NothingLeftError())

    return act


def test_work_is_added_up_over_lanes() -> None:
    """Until there is none."""
    numbers = iter(range(100))
    lock = threading.Lock()

    def act(_lane: int) -> Work:
        with lock:
            if next(numbers, None) is None:
                raise NothingLeftError
        return Work(7, 1)

    load = make(act, lanes=4)
    load.run()

    assert (100, 700, 100) == (load.succeeded, total_of(load.tallies).bytes, total_of(load.tallies).objects)


def test_it_ends_when_time_is_up() -> None:
    """By its own clock."""
    ticks = itertools.count()

    load = make(lambda _: Work(), duration_s=10.0, now=lambda: float(next(ticks)))
    load.run()

    assert 1 <= load.succeeded <= 10


def test_requests_count_for_the_node_that_answered() -> None:
    """The pool chooses; the observer sees whom."""
    observer = Observer(Pool())
    left = iter([1])

    def act(_lane: int) -> Work:
        if next(left, None) is None:
            raise NothingLeftError
        observer.send(Request("GET", "/", "ListBuckets"), lambda _: None)
        return Work()

    load = Workload(act, observer, concurrency=1, duration_s=LONG_S, stop=threading.Event())
    load.run()

    assert [{"http://node1:9000": 1}] == [{name: t.times.count for name, t in lane.items()} for lane in load.tallies]


def test_failures_count_for_the_node_that_failed() -> None:
    """And the first one is kept, for who has to explain a run without a success."""
    first = ConnectError("refused", endpoint="http://a")

    load = make(failing(first, S3Error(500, "InternalError", endpoint="http://b"), S3PoolError("odd")))
    load.run()

    assert {"http://a": 1, "http://b": 1, "": 1} == {name: tally.errors for name, tally in load.tallies[0].items()}
    assert first is load.first_error


def test_lane_gives_up_after_failures_in_a_row() -> None:
    """A dead node would be asked thousands of times."""
    load = make(failing(*[ConnectError("refused", endpoint="http://a")] * 50))

    load.run()

    assert 5 == load.tallies[0]["http://a"].errors


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotFoundError(404, "NoSuchBucket"), True),
        (AccessDeniedError(403, "AccessDenied"), True),
        (NotFoundError(404, "NoSuchKey"), False),
        (S3Error(500, "InternalError"), False),
    ],
)
def test_hopeless_failures_end_a_lane_at_once(error: S3PoolError, expected: bool) -> None:
    """The next request would meet the same."""
    load = make(failing(error, error))
    load.run()

    assert expected == is_hopeless(error)
    assert (1 if expected else 2) == total_of(load.tallies).errors


def test_what_was_stopped_is_no_failure() -> None:
    """The user stopped it."""
    load = make(failing(StoppedError("stopped")))
    load.run()

    assert 0 == total_of(load.tallies).errors


def test_bug_in_a_lane_is_told_as_a_failure() -> None:
    """It must not look like a fast end."""
    load = make(failing(ZeroDivisionError("a bug")))
    load.run()

    assert "ZeroDivisionError: a bug" == total_of(load.tallies).error


def test_lane_that_hangs_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """A node that went silent must not hold the test; the request counts as failed."""
    release = threading.Event()

    def act(lane: int) -> Work:
        if lane:
            raise NothingLeftError
        release.wait()
        return Work()

    load = make(act, lanes=2, duration_s=0.001, stall_s=0.05)
    with caplog.at_level(logging.WARNING):
        load.run()
    alive = load.alive
    release.set()

    assert (1, 1) == (alive, total_of(load.tallies).errors)
    assert ["1 requests got no answer within 0.05 s"] == caplog.messages


def test_interrupt_stops_the_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on when they are stopped."""
    monkeypatch.setattr(load_module, "STOP_WITHIN_S", 30.0)
    stop, looks = threading.Event(), itertools.count()

    def interrupted() -> float:
        if threading.current_thread() is threading.main_thread() and next(looks):
            raise KeyboardInterrupt
        return 0.0

    load = Workload(lambda _: Work(), Observer(Pool()), concurrency=2, duration_s=LONG_S, stop=stop, now=interrupted)
    with pytest.raises(KeyboardInterrupt):
        load.run()

    assert (True, 0) == (stop.is_set(), load.alive)


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


class LateSamples(Samples):
    """Those of a lane that gets its late answer while it is added up."""

    def __init__(self, lane: dict[str, Samples]) -> None:
        super().__init__()
        self.lane = lane

    def __getattribute__(self, name: str) -> object:
        if name == "times":
            self.lane["late"] = Samples()
        return super().__getattribute__(name)


def test_a_late_answer_does_not_break_the_sum() -> None:
    """A lane that hung goes on when the results are told."""
    lane: dict[str, Samples] = {}
    lane["node"] = LateSamples(lane)

    assert 0 == total_of([lane]).errors
    assert ["node", "late"] == list(lane)
