"""Lanes: until when they go on, what they count, and what happens to those that hang."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable

import pytest

from s3pool.errors import AccessDeniedError, ConnectError, NotFoundError, S3Error, S3PoolError, StoppedError
from s3pool.model import Endpoint, Request, Response
from s3pool.speedtest import measure as load_module
from s3pool.speedtest.measure import NothingLeftError, Observer, Work, Workload, is_hopeless, total_of

LONG_S = 3600.0
ENDPOINT = Endpoint.parse("http://node1:9000")


class Pool:
    """Answers whatever is asked."""

    endpoints = (ENDPOINT,)

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
