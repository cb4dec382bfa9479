"""The bandwidth limit over all threads."""

from __future__ import annotations

from s3pool.pool.tcp import Throttle


class FakeTime:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_bytes_take_the_time_that_the_rate_allows() -> None:
    """1000 bytes at 100 bytes/s take 10 s, whatever the pieces, less the small burst."""
    time = FakeTime()
    throttle = Throttle(100, now=time.clock, sleep=time.sleep)

    for _ in range(10):
        throttle.take(100)

    assert round(time.now - 100.0, 6) == 9.9


def test_two_callers_share_one_rate() -> None:
    """Each books behind the other: the limit is for the program, not per thread."""
    time = FakeTime()
    waits: list[float] = []
    throttle = Throttle(100, now=time.clock, sleep=waits.append)

    throttle.take(100)
    throttle.take(100)

    assert [round(wait, 6) for wait in waits] == [0.9, 1.9]


def test_idle_time_does_not_save_up_a_flood() -> None:
    """After an hour of silence the link still gets its rate, not an hour's worth."""
    time = FakeTime()
    throttle = Throttle(100, now=time.clock, sleep=time.sleep)
    throttle.take(10)
    time.now += 3600.0

    throttle.take(1000)

    assert round(time.slept[-1], 6) == 9.9


def test_each_way_has_its_rate() -> None:
    """What is received does not wait for what is sent; 0 is no limit."""
    time = FakeTime()
    waits: list[float] = []
    throttle = Throttle(100, down=1000, now=time.clock, sleep=waits.append)
    unlimited = Throttle(0, down=10, now=time.clock, sleep=waits.append)

    throttle.take(100)
    throttle.take_received(1000)
    unlimited.take(1 << 40)
    unlimited.take_received(10)

    assert [0.9, 0.9, 0.9] == [round(wait, 6) for wait in waits]
