"""The bandwidth limit over all threads."""

from __future__ import annotations

from s3pool.body import Throttle
from tests.support.clock import Clock


def test_bytes_take_the_time_that_the_rate_allows() -> None:
    """1000 bytes at 100 bytes/s take 10 s, whatever the pieces, less the small burst."""
    clock = Clock(100.0)
    throttle = Throttle(100, now=clock, sleep=clock.sleep)

    for _ in range(10):
        throttle.take(100)

    assert round(clock.time - 100.0, 6) == 9.9


def test_two_callers_share_one_rate() -> None:
    """Each books behind the other: the limit is for the program, not per thread."""
    clock = Clock(100.0)
    waits: list[float] = []
    throttle = Throttle(100, now=clock, sleep=waits.append)

    throttle.take(100)
    throttle.take(100)

    assert [round(wait, 6) for wait in waits] == [0.9, 1.9]


def test_idle_time_does_not_save_up_a_flood() -> None:
    """After an hour of silence the link still gets its rate, not an hour's worth."""
    clock = Clock(100.0)
    throttle = Throttle(100, now=clock, sleep=clock.sleep)
    throttle.take(10)
    clock.time += 3600.0

    throttle.take(1000)

    assert round(clock.slept[-1], 6) == 9.9


def test_each_way_has_its_rate() -> None:
    """What is received does not wait for what is sent; 0 is no limit."""
    clock = Clock(100.0)
    waits: list[float] = []
    throttle = Throttle(100, down=1000, now=clock, sleep=waits.append)
    unlimited = Throttle(0, down=10, now=clock, sleep=waits.append)

    throttle.take(100)
    throttle.take_received(1000)
    unlimited.take(1 << 40)
    unlimited.take_received(10)

    assert [0.9, 0.9, 0.9] == [round(wait, 6) for wait in waits]
