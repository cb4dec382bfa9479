from __future__ import annotations

import queue
import resource
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from s3pool.transfer import executor as workers_module
from s3pool.transfer.executor import BoundedExecutor, choose_workers, make_executor, worked_s
from s3pool.transfer.flow import ITEMS_PER_WORKER, Flow

PATIENCE_S = 10.0
ONE_HOUR_S = 3600.0


@pytest.fixture
def executor() -> Iterator[BoundedExecutor]:
    """Give three workers."""
    executor = BoundedExecutor(3)
    yield executor
    executor.close()


def test_flow_gives_every_result_once(executor: BoundedExecutor) -> None:
    """An item that is lost or done twice would be a file that is missing or sent twice."""
    results = Flow(executor, lambda number: number * 2, range(500))

    assert [number * 2 for number in range(500)] == sorted(results)


def test_flow_pulls_items_no_faster_than_they_are_done(executor: BoundedExecutor) -> None:
    """Memory must not grow with the listing that the items come from."""
    release = threading.Event()
    pulled = []

    def items() -> Iterator[int]:
        for number in range(100):
            pulled.append(number)
            if len(pulled) == 3 * ITEMS_PER_WORKER:
                release.set()
            yield number

    results = iter(Flow(executor, lambda _: release.wait(10), items()))
    next(results)

    assert len(pulled) <= 3 * ITEMS_PER_WORKER + 1


def test_flow_without_workers_runs_in_the_calling_thread() -> None:
    """Commands that start no thread use the same code."""
    results = list(Flow(BoundedExecutor(0), lambda _: threading.current_thread(), range(3)))

    assert [threading.current_thread()] * 3 == results


def test_flow_raises_what_the_work_raises(executor: BoundedExecutor) -> None:
    """A broken worker must not look like an ended one."""

    def fail(_: int) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(Flow(executor, fail, [1]))


def test_drain_gives_up_on_work_that_hangs(executor: BoundedExecutor) -> None:
    """After an interrupt a hanging worker must not hold the program back."""
    release = threading.Event()
    flow = Flow(executor, lambda number: number and release.wait(10), [1, 0])
    results = iter(flow)

    first = next(results)
    drained = list(flow.drain(0.0))

    assert (0, []) == (first, drained)
    assert 1 == flow.pending
    assert executor.is_busy
    release.set()


def test_share_does_every_item_once(executor: BoundedExecutor) -> None:
    """Every part of an upload is sent, and only once."""
    done: list[int] = []

    executor.share(done.append, range(200), limit=3)

    assert list(range(200)) == sorted(done)


def test_share_gives_items_to_several_threads(executor: BoundedExecutor) -> None:
    """The parts of one large file go over several connections at a time."""
    together = threading.Barrier(3, timeout=10)

    def wait(_: int) -> None:
        together.wait()

    executor.share(wait, range(3), limit=3)

    assert not together.broken


def test_share_keeps_to_its_limit(executor: BoundedExecutor) -> None:
    """--part-workers 1 means one part at a time."""
    threads = set()

    executor.share(lambda _: threads.add(threading.current_thread()), range(50), limit=1)

    assert {threading.current_thread()} == threads


def test_share_raises_the_first_error_and_takes_no_more(executor: BoundedExecutor) -> None:
    """A failed part ends the upload; the parts behind it need not be sent."""
    taken = []

    def fail(number: int) -> None:
        taken.append(number)
        raise OSError("part")

    with pytest.raises(OSError, match="part"):
        executor.share(fail, range(1000), limit=3)

    assert len(taken) <= 4


def test_share_raises_what_the_items_raise(executor: BoundedExecutor) -> None:
    """A stream that cannot be read is an error, not its end."""

    def items() -> Iterator[int]:
        yield 1
        raise OSError("pipe")

    with pytest.raises(OSError, match="pipe"):
        executor.share(lambda _: None, items(), limit=3)


def test_shares_of_all_workers_end() -> None:
    """No large transfer waits for help that waits for it: every worker may hold one."""
    executor = BoundedExecutor(2)
    done: list[int] = []

    def large(number: int) -> None:
        executor.share(done.append, range(20), limit=8)

    list(Flow(executor, large, range(10)))
    executor.close()

    assert 200 == len(done)


@pytest.mark.parametrize(
    ("endpoints", "file_limit", "expected"), [(1, 1024, 16), (4, 1024, 32), (30, 4096, 64), (4, 104, 5), (4, 10, 1)]
)
def test_workers_grow_with_the_pool_within_the_file_limit(
    monkeypatch: pytest.MonkeyPatch, endpoints: int, file_limit: int, expected: int
) -> None:
    """More nodes carry more; a process that runs out of descriptors carries nothing."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (file_limit, file_limit))

    assert expected == choose_workers(0, endpoints)


@pytest.mark.parametrize(("asked", "expected"), [(0, 64), (5, 5), (200, 200)])
def test_small_items_under_way_are_what_was_asked_for(asked: int, expected: int) -> None:
    """Who gives a number of workers means requests; four times as many small ones only fill what was left to us."""
    assert expected == make_executor(asked, 16, is_limited=False).small


class Window:
    """Short work for a test: ``work`` takes what waits and returns what was done of it."""

    def __init__(
        self,
        executor: BoundedExecutor,
        work: Callable[[list[int]], list[int]],
        *,
        suits: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self.suits = suits
        self._executor = executor
        self._work = work
        self._waiting: list[int] = []

    def deliver(self, give: Callable[[list[int]], None], failed: Callable[[BaseException], None]) -> None:
        """Keep where results go."""
        self._give, self._failed = give, failed

    def add(self, item: int) -> None:
        """Take an item; the first begins the work."""
        self._waiting.append(item)
        if len(self._waiting) == 1:
            self._executor.submit(self._run)

    def open(self) -> None:
        """Need no more workers."""

    def _run(self) -> None:
        try:
            self._give(self._work(self._waiting))
        except ZeroDivisionError as exc:
            self._failed(exc)


def test_error_that_ends_a_window_is_raised_where_results_are_taken() -> None:
    """Or the one who waits for them waits for ever."""
    executor = BoundedExecutor(4)

    def broken(_items: object) -> list[int]:
        raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError, match="ours"):
        list(Flow(executor, lambda item: item, range(3), window=Window(executor, broken)))
    executor.close()


def test_results_that_came_before_an_interrupt_are_not_lost() -> None:
    """A window gives many at once; who stops in the middle of them would wait for what was done long ago."""
    executor = BoundedExecutor(4)
    all_came = threading.Event()

    def work(items: list[int]) -> list[int]:
        all_came.wait(PATIENCE_S)
        return items

    def items() -> Iterator[int]:
        yield from range(5)
        all_came.set()

    flow = Flow(executor, lambda item: item, items(), window=Window(executor, work))
    first = next(iter(flow))
    others = list(flow.drain(0.0))
    executor.close()

    assert (0, [1, 2, 3, 4], 0) == (first, others, flow.pending)


def test_results_are_not_lost_to_an_interrupt_while_they_are_waited_for() -> None:
    """The thread that waits is told of the interrupt when it wakes up, by what has just come."""
    executor = BoundedExecutor(4)
    news = InterruptedWaiting()

    def work(items: list[int]) -> list[int]:
        assert news.is_waited_for.wait(PATIENCE_S)
        return items

    flow = Flow(executor, lambda item: item, [1], window=Window(executor, work))
    flow._news = news
    with pytest.raises(KeyboardInterrupt):
        list(flow)
    drained = list(flow.drain(PATIENCE_S))
    executor.close()

    assert ([1], 0) == (drained, flow.pending)


class InterruptedWaiting(queue.SimpleQueue[None]):
    """Raises what Python does when a signal comes while its first waiter wakes up."""

    was_interrupted = False

    def __init__(self) -> None:
        self.is_waited_for = threading.Event()

    def get(self, block: bool = True, timeout: float | None = None) -> None:
        """Wait, and be interrupted the first time."""
        self.is_waited_for.set()
        super().get(block, timeout)
        if not self.was_interrupted:
            self.was_interrupted = True
            raise KeyboardInterrupt


def test_item_that_was_never_handed_out_is_not_waited_for() -> None:
    """An interrupt may come between the counting of an item and its handing out."""
    executor = BoundedExecutor(4)

    def interrupted(item: int) -> bool:
        if item == 2:
            raise KeyboardInterrupt
        return False

    flow = Flow(executor, lambda item: item, range(3), window=Window(executor, list, suits=interrupted))
    taken: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        taken.extend(flow)
    drained = threading.Thread(target=lambda: taken.extend(flow.drain(ONE_HOUR_S)), daemon=True)
    drained.start()
    drained.join(PATIENCE_S)
    executor.close()

    assert not drained.is_alive()
    assert ([0, 1], 1) == (sorted(taken), flow.pending)


class Work:
    """Workers that work all the time, or none, in a time that passes at each look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, share: float) -> None:
        self._share = share
        self._looks = 0
        self.was_seen_twice = threading.Event()
        monkeypatch.setattr(workers_module, "SCOUT_S", 0.001)
        monkeypatch.setattr(workers_module, "time", self)
        monkeypatch.setattr(workers_module, "worked_s", lambda threads: self._share * len(threads) * self._looks)

    def monotonic(self) -> float:
        """Return the time: a second more at each look."""
        self._looks += 1
        if self._looks > 2:
            self.was_seen_twice.set()
        return float(self._looks)


@pytest.mark.parametrize("way", ["shares", "flow"])
def test_workers_that_wait_get_help(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """A network that is slow for one connection is not slow for sixteen."""
    Work(monkeypatch, share=0.1)
    executor = BoundedExecutor(8, first=2)
    together = threading.Barrier(8)

    do_bulky(executor, lambda _: together.wait(PATIENCE_S), 8, way=way)

    assert not together.broken


def do_bulky(executor: BoundedExecutor, work: Callable[[int], object], count: int, *, way: str) -> None:
    """Do bulky work over numbers; in shares this thread is one more worker."""
    if way == "flow":
        list(Flow(executor, work, range(count), is_bulky=lambda _: True))
    else:
        executor.share(lambda number: work(number) and None, range(count), limit=8, bulky=True)
    executor.close()


@pytest.mark.parametrize("way", ["shares", "flow"])
def test_workers_that_work_are_enough(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Where the processors are busy, more threads take them from each other."""
    clock = Work(monkeypatch, share=0.9)
    executor = BoundedExecutor(8, first=2)
    lock = threading.Lock()
    at_work = most = 0

    def work(_: int) -> None:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        clock.was_seen_twice.wait(PATIENCE_S)
        with lock:
            at_work -= 1

    do_bulky(executor, work, 50, way=way)

    assert most <= (2 if way == "flow" else 3)


def test_work_that_is_not_bulky_does_not_wait_for_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy within the server costs no processor here."""
    Work(monkeypatch, share=0.9)
    executor = BoundedExecutor(8, first=2)
    others = threading.Barrier(5)

    def work(number: int) -> None:
        if number % 2:
            others.wait(PATIENCE_S)

    list(Flow(executor, work, range(10), is_bulky=lambda number: not number % 2))
    executor.close()

    assert not others.broken


def test_bulky_parts_of_what_has_begun_go_first() -> None:
    """Else a large file would wait for all small ones that were found after it."""
    executor = BoundedExecutor(2, first=1)
    gates = [threading.Event(), threading.Event()]
    order: queue.Queue[str] = queue.Queue()
    for gate in gates:
        executor.submit(partial(gate.wait, PATIENCE_S))
    executor.submit(lambda: order.put("small"))
    executor.submit(lambda: order.put("part"), first=True, bulky=True)

    gates[0].set()  # so that one worker does both
    done = [order.get(timeout=PATIENCE_S), order.get(timeout=PATIENCE_S)]
    gates[1].set()
    executor.close()

    assert ["part", "small"] == done


def test_time_at_work_is_the_threads_own() -> None:
    """What lists and prints beside them must not look like their work."""
    me = threading.get_native_id()
    waiting, over = threading.Event(), threading.Event()
    other = threading.Thread(target=lambda: (waiting.set(), over.wait(PATIENCE_S)))
    other.start()
    waiting.wait(PATIENCE_S)
    before = worked_s([me]), worked_s([other.native_id or 0])
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    mine, others = worked_s([me]) - before[0], worked_s([other.native_id or 0]) - before[1]
    over.set()
    other.join(PATIENCE_S)

    assert mine >= 0.04
    assert others < mine


def test_without_the_kernels_figures_the_process_counts() -> None:
    """Other systems have no such file."""
    before = time.process_time()
    assert before <= worked_s([0]) <= time.process_time()
