"""A ThreadPoolExecutor that is bounded: by its workers, and by how many items are taken at a time.

Two kinds of work: *flows*, whose items are taken only as fast as they are done, with the results coming home to the
thread that asked; and *shares*, where a worker that has a large job lets idle workers help. A late worker finds
nothing left and returns, so no task ever waits for one that has not started.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from s3pool.interrupts import LOOK_FOR_SIGNALS_S
from s3pool.transfer.attributes import NANO

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor


Item = TypeVar("Item")
Result = TypeVar("Result")
ShortItem = TypeVar("ShortItem", contravariant=True)  # noqa: PLC0105 - what a window takes

SMALL_ITEMS_PER_WORKER = 16  # small ones come and go by the handful
ITEMS_PER_WORKER = 2  # one in work, one ready: an item costs memory while it waits
MIN_AUTO_WORKERS = 16
MAX_AUTO_WORKERS = 64
WORKERS_PER_ENDPOINT = 8
SMALL_PER_AUTO_WORKER = 4  # so many small objects under way: their time is the server's, which stores many at once
DESCRIPTORS_PER_WORKER = 3 + SMALL_PER_AUTO_WORKER  # a file, its directory, a connection; those of the small objects
RESERVED_DESCRIPTORS = 64
DEFAULT_FILE_LIMIT = 256  # of systems that do not tell theirs
FEWEST_AT_FIRST = 2  # workers that begin one large download: one receives while the other one writes
DRAIN_TICK_S = 0.05  # how often the one who waits for the last results looks whether somebody works
WAKE_S = 0.5  # how long a wait lasts before it looks whether the run was stopped

SCOUT_S = 0.1  # how often it is looked whether workers of bulky jobs mostly wait
WORKING_SHARE = 0.35  # of the time; workers that work for less leave room for others

_END = object()


def choose_workers(asked: int, nodes: int) -> int:
    """Return the number that was asked for, or one that suits the pool and this process's file limit."""
    if asked:
        return asked
    limit = DEFAULT_FILE_LIMIT
    with suppress(ImportError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = limit if soft == resource.RLIM_INFINITY else soft
    wanted = min(MAX_AUTO_WORKERS, max(MIN_AUTO_WORKERS, WORKERS_PER_ENDPOINT * nodes))
    return max(1, min(wanted, (limit - RESERVED_DESCRIPTORS) // DESCRIPTORS_PER_WORKER))


def make_executor(asked: int, workers: int, *, is_limited: bool) -> BoundedExecutor:
    """Return the workers of a run; ``asked`` is 0 where nobody chose their number."""
    first = 0 if asked else max(FEWEST_AT_FIRST, processors())
    # A bandwidth limit makes threads sleep: none that has other transfers under way.
    return BoundedExecutor(workers, small=0 if is_limited else asked or SMALL_PER_AUTO_WORKER * workers, first=first)


def processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ShortWork(Protocol[ShortItem, Result]):
    """Where the items of a flow are done that are short, many at a time in one worker."""

    def suits(self, item: ShortItem) -> bool:
        """Return whether an item is short."""

    def deliver(self, give: Callable[[list[Result]], None], failed: Callable[[BaseException], None]) -> None:
        """Hand results to ``give``, in lists, and errors that end everything to ``failed``."""

    def add(self, item: ShortItem) -> None:
        """Queue an item."""

    def open(self) -> None:
        """Use one more worker, if something waits for it."""


class BoundedExecutor:
    """Up to ``workers`` threads, started when there is work for them; 0 runs all inline.

    ``small`` is how many short items are under way in windows, as many as workers when None; 0 keeps short items in
    workers of their own. ``first`` is how many bulky jobs, which keep a processor busy, are under way at first: more
    of them hand the interpreter to each other and get less done. More come in while those mostly wait; all at once
    when 0. Only one thread may iterate a flow; shares may be made from any worker.
    """

    def __init__(self, workers: int, *, small: int | None = None, first: int = 0) -> None:
        self.workers = workers
        self._ramp = _Ramp(self, first) if 0 < first < workers else None
        self.small = workers if small is None else small
        self._pool: ThreadPoolExecutor | None = None
        self.jobs: deque[Callable[[], object]] = deque()  # the next one first; one token in the pool for each
        # Guards the number of jobs that run; never held while one does.
        self._lock = threading.Lock()
        self._running = 0

    def flow(
        self,
        work: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        window: ShortWork[Item, Result] | None = None,
        is_bulky: Callable[[Item], bool] = lambda _item: False,
    ) -> Flow[Item, Result]:
        """Return the results of work over all items, in the order in which they are ready.

        With a ``window`` the items that suit it are done there, many at a time in one worker.
        """
        return Flow(self, work, items, window=window if self.workers else None, is_bulky=is_bulky)

    def share(self, work: Callable[[Item], None], items: Iterable[Item], *, limit: int, bulky: bool = False) -> None:
        """Do work over all items in this thread and up to limit - 1 idle workers.

        Items are taken one at a time, under a lock. The first error ends the taking; it is
        raised here when everything that had begun is over.
        """
        share: _Share[Item] = _Share(work, items)
        for _ in range(min(limit - 1, self.workers)):
            self.submit(share.help, first=True, bulky=bulky)
        share.run()

    def submit(self, job: Callable[[], object], *, first: bool = False, bulky: bool = False) -> None:
        """Queue a job that never raises; run it here and now when there are no workers.

        ``first`` puts it before those that wait: what has begun shall end.
        """
        if not self.workers:
            job()
            return
        if bulky and self._ramp is not None:
            self._ramp.submit(job, first=first)
            return
        if first:
            self.jobs.appendleft(job)
        else:
            self.jobs.append(job)
        with suppress(RuntimeError):  # the pool was closed: nobody waits for more
            self._executor().submit(self._run_next)

    @property
    def is_busy(self) -> bool:
        """Whether a worker is at work now."""
        return self._running > 0

    def close(self) -> None:
        """Let the workers end after the queue; returns at once."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    def _executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                from concurrent.futures import ThreadPoolExecutor

                self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="s3pool-worker")
            return self._pool

    def _run_next(self) -> None:
        with self._lock:
            self._running += 1
        try:
            self.jobs.popleft()()
        finally:
            with self._lock:
                self._running -= 1


class _Ramp:
    """Bulky jobs: few begin, and more come in while the workers that are at them mostly wait."""

    def __init__(self, executor: BoundedExecutor, first: int) -> None:
        self._executor = executor
        self._allowed = first
        # Guards what follows; never held while a job runs.
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Callable[[], object], bool]] = deque()  # and whether a job is to be the first
        self._begun = 0  # jobs
        self._threads: set[int] = set()  # that had such a job, by the kernel's numbers
        self._is_scouting = False
        self._none_waits = threading.Event()

    def submit(self, job: Callable[[], object], *, first: bool) -> None:
        """Queue a job, before those that wait where it is to be the ``first``."""
        with self._lock:
            if first:
                self._waiting.appendleft((job, first))
            else:
                self._waiting.append((job, first))
        self._begin()

    def _begin(self) -> None:
        with self._lock:
            count = min(self._allowed - self._begun, len(self._waiting))
            jobs = [self._waiting.popleft() for _ in range(count)]
            self._begun += count
            calls_scout = bool(self._waiting) and not self._is_scouting and self._allowed < self._executor.workers
            if calls_scout:
                self._is_scouting = True
                self._none_waits.clear()
            elif not self._waiting:
                self._none_waits.set()
        for job, first in jobs:
            self._executor.submit(partial(self._run, job), first=first)
        if calls_scout:
            self._executor.submit(self._scout, first=True)

    def _run(self, job: Callable[[], object]) -> None:
        with self._lock:
            self._threads.add(threading.get_native_id())
        try:
            job()
        finally:
            with self._lock:
                self._begun -= 1
            self._begin()

    def _scout(self) -> None:
        """Let more jobs begin while the workers at them mostly wait, until none is left to begin."""
        looked, worked = time.monotonic(), worked_s(tuple(self._threads))
        while not self._none_waits.wait(SCOUT_S):
            now, worked_now = time.monotonic(), worked_s(tuple(self._threads))
            if worked_now - worked < WORKING_SHARE * self._begun * (now - looked):
                with self._lock:
                    self._allowed = min(2 * self._allowed, self._executor.workers)
                self._begin()
                if self._allowed == self._executor.workers:
                    return
            looked, worked = now, worked_now
        with self._lock:
            self._is_scouting = False
        self._begin()  # something may have come since


def worked_s(threads: Iterable[int]) -> float:
    """Return the seconds that threads, by the kernel's numbers, have worked or waited for a processor; proc(5).

    Elsewhere, or when one of them has ended, it is the time of the whole process.
    """
    try:
        return sum(sum(schedule_of(thread)) for thread in threads)
    except (OSError, ValueError):
        return time.process_time()


def schedule_of(thread: int) -> tuple[float, float]:
    """Return the seconds that a thread, by the kernel's number, has run, and could have run without a processor.

    Raises OSError, ValueError: the system does not tell (Linux does: proc(5), "schedstat").
    """
    with open(f"/proc/self/task/{thread}/schedstat", "rb") as file:
        ran, waited, _ = map(int, file.read().split())
    return ran / NANO, waited / NANO


class Flow(Generic[Item, Result]):
    """Results of bounded work, for one thread to iterate.

    The items are pulled only as fast as the work is done; an item's result is yielded in the
    iterating thread. When work raises, iterating raises.
    """

    def __init__(
        self,
        executor: BoundedExecutor,
        work: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        window: ShortWork[Item, Result] | None,
        is_bulky: Callable[[Item], bool],
    ) -> None:
        self._executor = executor
        self._work = work
        self._items = items
        self._window = window
        self._is_bulky = is_bulky
        if window is not None:
            window.deliver(self._gave, self._failed)
        self._limit = max(1, executor.workers * ITEMS_PER_WORKER)
        self._small_limit = max(1, executor.workers) * SMALL_ITEMS_PER_WORKER
        # A queue would lose what it gives to a thread that is interrupted at that moment: a window's whole batch.
        self._ready: deque[tuple[Result | None, int, BaseException | None]] = deque()
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()  # at least one where something is ready
        self._small = 0  # items that are in the window
        self.pending = 0  # all items that were taken and not yet yielded

    def __iter__(self) -> Iterator[Result]:
        window = self._window
        for item in self._items:
            self.pending += 1
            if window is None or not window.suits(item):
                self._executor.submit(partial(self._do, item), bulky=self._is_bulky(item))
            else:
                self._small += 1
                window.add(item)
            while self._is_full() or self._ready:
                yield from self._take(None)
        while self.pending:
            yield from self._take(None)

    def _is_full(self) -> bool:
        return self.pending - self._small >= self._limit or self._small >= self._small_limit

    def drain(self, timeout_s: float) -> Iterator[Result]:
        """Yield what still comes in within a time; ``pending`` tells what did not.

        That may be more than what is at work: who iterated was interrupted, perhaps while an
        item was counted and not yet handed out.
        """
        deadline = time.monotonic() + timeout_s
        while self.pending:
            left_s = max(0.0, deadline - time.monotonic())
            try:
                yield from self._take(min(left_s, DRAIN_TICK_S))
            except queue.Empty:
                if not left_s or not (self._executor.jobs or self._executor.is_busy or self._ready):
                    return

    def _do(self, item: Item) -> None:
        try:
            self._gave([self._work(item)], 0)
        except Exception as exc:  # noqa: BLE001 - raised again in the iterating thread
            self._failed(exc)

    def _gave(self, results: list[Result], small: int = 1) -> None:
        self._ready.extend([(result, small, None) for result in results])
        self._news.put(None)

    def _failed(self, error: BaseException) -> None:
        self._ready.append((None, 0, error))
        self._news.put(None)

    def _take(self, timeout_s: float | None) -> Iterator[Result]:
        """Yield what is ready, or becomes so: one result, or those of a lane."""
        if self._window is not None:
            self._window.open()
        while not self._ready:
            try:
                self._news.get(timeout=LOOK_FOR_SIGNALS_S if timeout_s is None else timeout_s)
                break  # perhaps news of what was taken before
            except queue.Empty:
                if timeout_s is not None:
                    raise
        while self._ready:
            result, small, error = self._ready.popleft()
            self._small -= small
            self.pending -= 1
            if error is not None:
                raise error
            yield result  # type: ignore[misc] # it is None where work gives that


class _Share(Generic[Item]):
    def __init__(self, work: Callable[[Item], None], items: Iterable[Item]) -> None:
        self._work = work
        self._items = iter(items)
        # Guards the items, the count of active ones and the error; taking an item may read
        # from a pipe, which is meant to be one at a time.
        self._lock = threading.Lock()
        self._changed = threading.Condition(threading.Lock())
        self._active = 0
        self._error: BaseException | None = None

    def run(self) -> None:
        """Work until the items are used up, wait for the helpers' last items, raise errors."""
        try:
            self.help()
        except BaseException as exc:  # noqa: BLE001 - an interrupt must stop the helpers too
            self._fail(exc)
        with self._changed:
            while self._active:
                self._changed.wait(WAKE_S)
        if self._error is not None:
            raise self._error

    def help(self) -> None:
        """Take items until there are none left or one has failed."""
        while (item := self._take()) is not _END:
            try:
                self._work(item)  # type: ignore[arg-type]
            except Exception as exc:  # noqa: BLE001 - raised again in the owner
                self._fail(exc)
            finally:
                with self._changed:
                    self._active -= 1
                    self._changed.notify_all()

    def _take(self) -> Item | object:
        with self._lock:
            if self._error is not None:
                return _END
            with self._changed:
                self._active += 1
            try:
                return next(self._items)
            except BaseException as exc:  # noqa: BLE001 - raised again in the owner
                if not isinstance(exc, StopIteration):
                    self._error = exc
                with self._changed:
                    self._active -= 1
                    self._changed.notify_all()
                return _END

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._error is None:
                self._error = error
