"""A bounded ThreadPoolExecutor, where a worker that has a large job lets idle workers help.

A late worker finds nothing left and returns, so no task ever waits for one that has not started.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from s3pool.units import NANO

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor


Item = TypeVar("Item")

MIN_AUTO_WORKERS = 16
MAX_AUTO_WORKERS = 64
WORKERS_PER_ENDPOINT = 8
SMALL_PER_AUTO_WORKER = 4  # so many small objects under way: their time is the server's, which stores many at once
DESCRIPTORS_PER_WORKER = 3 + SMALL_PER_AUTO_WORKER  # a file, its directory, a connection; those of the small objects
RESERVED_DESCRIPTORS = 64
DEFAULT_FILE_LIMIT = 256  # of systems that do not tell theirs
FEWEST_AT_FIRST = 2  # workers that begin one large download: one receives while the other one writes
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


class BoundedExecutor:
    """Up to ``workers`` threads, started when there is work for them; 0 runs all inline.

    ``small`` is how many short items are under way in windows, as many as workers when None; 0 keeps short items in
    workers of their own. ``first`` is how many bulky jobs, which keep a processor busy, are under way at first: more
    of them hand the interpreter to each other and get less done. More come in while those mostly wait; all at once
    when 0. Shares may be made from any worker.
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
