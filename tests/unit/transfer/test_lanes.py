"""Where small items are done: by lanes here, by helpers beside them, and what comes back from these."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from s3pool.transfer.executor import BoundedExecutor
from s3pool.transfer.lanes import Lanes

Take = Callable[[], "int | None"]
Give = Callable[[list[int]], None]
PATIENCE_S = 10.0
IN_FLIGHT = 8
SHARE = IN_FLIGHT // 2  # of one lane and one helper


class Queue(BoundedExecutor):
    """Workers whose jobs the test does, when it wants."""

    def __init__(self) -> None:
        super().__init__(4)
        self.queued: list[Callable[[], None]] = []

    def submit(self, job: Callable[[], None]) -> None:
        """Keep a job."""
        self.queued.append(job)

    def do_next(self) -> None:
        """Do the oldest job."""
        self.queued.pop(0)()


class Run:
    """Lanes with one helper, and what becomes of their items."""

    def __init__(self, helper: Callable[[Take, Give], bool] | None = None) -> None:
        self.executor = Queue()
        self.by_lanes: list[int] = []
        self.by_helper: list[int] = []
        self.given: list[int] = []
        self.errors: list[BaseException] = []
        self.lanes: Lanes[int, int] = Lanes(
            lambda _: True, self._lane, in_flight=IN_FLIGHT, helpers=[helper or self.helper]
        )

    def _lane(self, take: Take, give: Give) -> None:
        taken = list(iter(take, None))
        self.by_lanes += taken
        give(taken)

    def helper(self, take: Take, give: Give) -> bool:
        """Do all that there is, and be of use for more."""
        taken = list(iter(take, None))
        self.by_helper += taken
        give(taken)
        return True

    def add(self, *items: int) -> list[bool]:
        """Add items; tell for each whether one more lane or helper was due."""
        return [self.lanes.add(item) for item in items]

    def open(self) -> int:
        """Open one more if it is due; tell how many jobs wait."""
        self.lanes.open(self.executor, self.given.extend, self.errors.append)
        return len(self.executor.queued)

    def helper_before_lane(self) -> Callable[[], None]:
        """Open a helper beside the lane that was opened first, and give its job; the lane's waits."""
        self.open()
        lane, helper = self.executor.queued
        self.executor.queued[:] = [lane]
        return helper


def begun(run: Run) -> Run:
    """Give the run with a lane that has not taken anything yet, and as much waiting as one has under way."""
    run.add(*range(SHARE))
    run.open()
    return run


def test_helper_gets_what_is_more_than_a_lane_has_under_way() -> None:
    """Less is done sooner where it is."""
    run = Run()

    dues = run.add(*range(SHARE - 1))
    jobs = [run.open(), run.open()]
    dues_then = run.add(SHARE - 1)
    jobs_then = [run.open(), run.open()]

    assert ([True] * (SHARE - 1), [1, 1]) == (dues, jobs)
    assert ([True], [2, 2]) == (dues_then, jobs_then)


def test_first_items_are_for_a_lane() -> None:
    """However many there are: a helper takes longer to begin, and what it gives back needs a lane."""
    run = Run()
    run.add(*range(3 * SHARE))
    run.open()

    run.executor.do_next()

    assert (list(range(3 * SHARE)), []) == (run.by_lanes, run.by_helper)


def test_helper_is_used_again_and_by_one_worker_at_a_time() -> None:
    """It has one pipe."""
    run = begun(Run())
    run.open()
    jobs_beside = run.open()
    lane = run.executor.queued.pop(0)
    run.executor.do_next()
    run.add(*range(SHARE, 2 * SHARE))
    jobs_after = run.open()
    run.executor.do_next()
    lane()

    assert (2, 1) == (jobs_beside, jobs_after)
    assert (list(range(2 * SHARE)), []) == (run.by_helper, run.by_lanes)


def test_helper_of_no_use_is_not_used_again() -> None:
    """It has ended, or has no endpoint that answers."""
    calls: list[int] = []

    def useless(take: Take, _: Give) -> bool:
        calls.append(1)
        return take() is None

    run = begun(Run(useless))
    run.open()
    lane = run.executor.queued.pop(0)
    run.executor.do_next()
    due = run.add(*range(SHARE, 5 * SHARE))
    jobs = run.open()
    lane()

    assert ([1], [False] * 4 * SHARE, 0) == (calls, due, jobs)
    assert list(range(1, 5 * SHARE)) == run.by_lanes


def test_what_comes_back_is_done_by_the_lane_that_runs_and_not_by_a_helper() -> None:
    """A helper would give it back for ever."""

    def returning(take: Take, _: Give) -> bool:
        item = take()
        assert item is not None
        run.by_helper.append(item)
        run.lanes.give_back(item)
        return True

    run = begun(Run(returning))
    run.open()
    lane = run.executor.queued.pop(0)
    run.executor.do_next()
    run.add(*range(SHARE, 2 * SHARE))
    run.open()
    run.executor.do_next()
    lane()

    assert [0, 1] == run.by_helper
    assert [0, 1, *range(2, 2 * SHARE)] == run.by_lanes


def test_what_comes_back_when_no_lane_runs_begins_one() -> None:
    """All others have ended: nobody else would look for it."""

    def returning(take: Take, _: Give) -> bool:
        item = take()
        assert item is not None
        run.executor.do_next()  # the lane, which ends
        run.lanes.give_back(item)
        return False

    run = begun(Run(returning))
    run.helper_before_lane()()
    lanes_due = len(run.executor.queued)
    run.executor.do_next()

    assert 1 == lanes_due
    assert [*range(1, SHARE), 0] == run.by_lanes == run.given


def test_what_comes_back_in_the_middle_of_a_helpers_work_is_not_late() -> None:
    """Whoever waits for results has a lane begin, also while the helper has others under way."""

    def returning(take: Take, give: Give) -> bool:
        items = list(iter(take, None))
        run.lanes.give_back(items[0])
        run.open()
        run.executor.do_next()
        assert [items[0]] == run.by_lanes
        give(items[1:])
        return True

    run = begun(Run(returning))
    run.helper_before_lane()()

    assert [0, *range(1, SHARE)] == run.given


def test_error_in_a_helper_is_raised_where_results_are_taken() -> None:
    """Or the one who waits for them waits for ever."""
    executor = BoundedExecutor(4)
    was_called = threading.Event()

    def broken(_take: Take, _give: Give) -> bool:
        was_called.set()
        raise ZeroDivisionError("ours")

    def lane(take: Take, give: Give) -> None:
        was_called.wait(PATIENCE_S)
        give(list(iter(take, None)))

    lanes: Lanes[int, int] = Lanes(lambda _: True, lane, in_flight=IN_FLIGHT, helpers=[broken])

    with pytest.raises(ZeroDivisionError, match="ours"):
        list(executor.flow(lambda item: item, range(1000), lanes=lanes))
    executor.close()


def test_lanes_and_helpers_share_what_may_be_under_way() -> None:
    """The user's number of workers is the number of requests, whoever makes them."""
    helpers: list[Callable[[Take, Give], bool]] = [lambda _take, _give: True] * 3

    shares = [Lanes(bool, lambda _take, _give: None, in_flight=64, helpers=helpers[:count]).share for count in range(4)]
    few = Lanes(bool, lambda _take, _give: None, in_flight=2, helpers=helpers).share

    assert ([64, 32, 21, 16], 1) == (shares, few)
