"""Results of work over a stream: long items in workers of their own, short transfers many at a time in one thread.

A thread that waits for one small answer at a time spends most of its processor time on waking up. In the window
requests go out while earlier ones are being answered. A transfer that turns out to be long, or whose request needs
patience, is handed on as it stands: to a worker, or to this thread itself once nothing else is under way.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from s3pool.errors import LOOK_FOR_SIGNALS_S, StoppedError, is_pool_dead
from s3pool.s3.operation import go_on
from s3pool.transfer.executor import BoundedExecutor, schedule_of
from s3pool.transfer.tasks import (
    IN_WINDOW_BYTES,
    NOT_STARTED,
    UNKNOWN_SIZE,
    CopyTask,
    Done,
    DownloadTask,
    Outcome,
    Task,
    UploadTask,
    done_outcome,
    failed_outcome,
)

if TYPE_CHECKING:
    from s3pool.model import Request, Response
    from s3pool.s3.operation import Operation, Steps
    from s3pool.transfer.context import TransferContext

Item = TypeVar("Item")
Result = TypeVar("Result")

SMALL_ITEMS_PER_WORKER = 16  # small ones come and go by the handful
ITEMS_PER_WORKER = 2  # one in work, one ready: an item costs memory while it waits
DRAIN_TICK_S = 0.05  # how often the one who waits for the last results looks whether somebody works
MOST_THREADS = 8  # with many short transfers under way in each
LOOK_S = 0.1  # how often a thread looks whether it is held up
SLOW_TASK_S = 0.0015  # ten times what a task takes where files are at hand and connections open
SENT_AT_ONCE = 32  # requests that are sent before the thread looks for answers
LATER_S = 1.0  # so long may what was handed on wait for a worker
GATHERED = 64  # so many outcomes come home at once, so that the one who waits wakes up seldom
GATHER_S = 0.2  # but none waits longer than this for the others

Give = Callable[[list[Outcome]], None]
Transfer = Callable[[Task, "TransferContext"], "Steps[Done]"]


class Flow(Generic[Item, Result]):
    """The results of work over all items, in the order in which they are ready, for one thread to iterate.

    Items are pulled only as fast as the work is done. With a ``window`` those that suit it are done there, many at a
    time in one worker. When work raises, iterating raises.
    """

    def __init__(
        self,
        executor: BoundedExecutor,
        work: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        window: TransferWindow | None = None,
        is_bulky: Callable[[Item], bool] = lambda _item: False,
    ) -> None:
        self._executor, self._work, self._items = executor, work, items
        self._window, self._is_bulky = window, is_bulky
        if window is not None:
            window.deliver(self._gave, self._failed)  # type: ignore[arg-type] # whose results are outcomes
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
            if window is None or not window.suits(item):  # type: ignore[arg-type]
                self._executor.submit(partial(self._do, item), bulky=self._is_bulky(item))
            else:
                self._small += 1
                window.add(item)  # type: ignore[arg-type]
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


class TransferWindow:
    """The short transfers of a run: those that wait, and the threads that have them under way.

    A thread ends when there is nothing to take, and another one begins when there is something
    again. One at a time is enough, and several are in each other's way, unless what they wait
    for is not the answers: then one more begins beside them.
    """

    def __init__(self, context: TransferContext, transfer: Transfer) -> None:
        self.context, self.transfer = context, transfer
        self._executor: BoundedExecutor = context.executor
        self._give: Give = lambda _: None
        self._failed: Callable[[BaseException], None] = lambda _: None
        self.waiting: deque[Task] = deque()
        self.handed: deque[_Handed] = deque()
        # Guards the numbers of threads: a thread may only end when nothing waits.
        self._lock = threading.Lock()
        self._running = 0
        self._most = 1
        self.is_hopeless = False  # no endpoint answers, which takes long to find out for each

    def suits(self, item: Task) -> bool:
        """Return whether an item is short, or expected to be: one that turns out to be long is handed on."""
        context = self.context
        if not self._executor.small or not isinstance(item, (UploadTask, DownloadTask, CopyTask)):
            return False
        least = UNKNOWN_SIZE if context.options.expects_short else 0
        if not least <= item.size <= IN_WINDOW_BYTES or (context.is_cross_pool and isinstance(item, CopyTask)):
            return False
        return context.in_question is None or not context.in_question(item)

    def deliver(self, give: Give, failed: Callable[[BaseException], None]) -> None:
        """Hand outcomes to ``give``, in lists, and errors that end a thread to ``failed``."""
        self._give, self._failed = give, failed

    def widen(self) -> None:
        """Let one more thread run beside those that there are."""
        with self._lock:
            if self._running == self._most:
                self._most = min(self._most + 1, MOST_THREADS, self._executor.small)

    def add(self, item: Task) -> None:
        """Queue an item; the first is begun at once, since the next may be a long listing away."""
        self.waiting.append(item)
        if not self._running or (self._running < self._most and len(self.waiting) >= self.depth):
            self.open()

    @property
    def depth(self) -> int:
        """How many transfers one thread has under way."""
        return max(1, self._executor.small // self._most)

    def open(self) -> None:
        """Begin one more thread, if something waits for it and there may be one."""
        if self._running >= self._most or not self.waiting:
            return
        with self._lock:
            if self._running < self._most and self.waiting:
                self._running += 1
                self._executor.submit(self._run)

    def take(self) -> Task | None:
        """Return the next item; None when there is none now."""
        try:
            return self.waiting.popleft()
        except IndexError:
            return None

    def _run(self) -> None:
        while True:
            error = None
            try:
                _Thread(self, self._give).run()
            except Exception as exc:  # noqa: BLE001 - raised again in the iterating thread
                error = exc
            with self._lock:
                if error is None and self.waiting:
                    continue
                self._running -= 1
            if error is not None:
                self._failed(error)
            return

    # -- what is handed on -----------------------------------------------------------------

    def is_backlog_due(self) -> bool:
        """Return whether nothing new may begin before what was handed on is done."""
        try:
            return time.monotonic() - self.handed[0].since > LATER_S or len(self.handed) > self.depth
        except IndexError:
            return False

    def hand_on(self, handed: _Handed) -> None:
        """Let a worker go on with a transfer as it stands; one that comes late finds nothing left."""
        self.handed.append(handed)
        self._executor.submit(self.work_off, first=True)

    def work_off(self) -> None:
        """Go on with one transfer that was handed on, to its end."""
        try:
            handed = self.handed.popleft()
        except IndexError:
            return
        self._give([handed.finish(self)])


class _Transfer:
    """One transfer and its operation, as one of many: ``request`` and ``check`` are what is under way."""

    __slots__ = ("check", "has_asked", "operation", "request", "started", "steps", "task")

    check: Callable[[Response], None]
    operation: Operation[Any]
    request: Request

    def __init__(self, task: Task, steps: Steps[Done]) -> None:
        self.task = task
        self.steps = steps
        self.has_asked = False  # something has come of its first request
        self.started = time.monotonic()


class _Handed(NamedTuple):
    """A transfer that goes on elsewhere; ``resume`` does what its last step waits for, ``abandon`` drops that."""

    transfer: _Transfer
    resume: Callable[[], Operation[Any] | None]
    abandon: Callable[[], None]
    since: float

    def finish(self, window: TransferWindow) -> Outcome:
        steps, task, started = self.transfer.steps, self.transfer.task, self.transfer.started
        resume = self.resume
        if window.context.stop.is_set() or window.is_hopeless:
            self.abandon()
            resume = partial(steps.throw, StoppedError("stopped before the end"))
        try:
            outcome = done_outcome(task, go_on(steps, resume), started)
        except Exception as exc:  # noqa: BLE001 - told of as the outcome of this one task
            outcome = failed_outcome(task, exc, started)
        window.is_hopeless |= is_pool_dead(outcome.error)
        return outcome


class _Thread:
    def __init__(self, window: TransferWindow, give: Give) -> None:
        self._window, self._give = window, give
        self._context, self._transfer = window.context, window.transfer
        self._sender = window.context.client.sender
        self._flight = self._sender.window()  # what is under way
        self._ready: list[_Transfer] = []  # whose next request is to be sent
        self._gathered: list[Outcome] = []
        self._given_at = time.monotonic()
        self._looked = time.monotonic(), _unscheduled_s()  # how busy it is: when, and what was no work by then
        self._begun = 0  # tasks since then

    def run(self) -> None:
        flight, window = self._flight, self._window
        try:
            while not (is_full := self._fill()) or flight or self._ready or window.is_backlog_due():
                if flight:
                    for result in flight.poll(wait=is_full):
                        self._take(result.operation, result.error, result.attempt)
                elif is_full:
                    window.work_off()
                self._hand_over(at_least=GATHERED)
                self._widen_if_held_up()
            self._hand_over(at_least=1)
        finally:
            flight.close()
            for each in self._ready:
                each.steps.close()

    def _fill(self) -> bool:
        """Send requests; return whether no more can be sent now, or there are none."""
        if self._window.is_hopeless:  # what has not asked yet would find out one by one that no endpoint answers
            for each in (each for each in self._ready if not each.has_asked):
                each.steps.close()
                self._gathered.append(Outcome(each.task, NOT_STARTED))
            self._ready[:] = [each for each in self._ready if each.has_asked]
        room = min(self._window.depth - len(self._flight), SENT_AT_ONCE)
        batch = self._ready
        is_due = self._window.is_backlog_due()
        while not is_due and len(batch) < room and (task := self._next()) is not None:
            self._begun += 1
            self._advance(_Transfer(task, self._transfer(task, self._context)))
        if not batch:
            return True
        # Who waits for a connection that only this thread gives back would wait for ever.
        may_wait = not self._flight and not self._window.handed
        sent = self._flight.submit(batch, wait=may_wait)
        del batch[:sent]
        return bool(batch) or is_due or len(self._flight) >= self._window.depth

    def _next(self) -> Task | None:
        while (task := self._window.take()) is not None:
            if not self._context.stop.is_set() and not self._window.is_hopeless:
                return task
            self._gathered.append(Outcome(task, NOT_STARTED))
        return None

    def _take(self, under_way: _Transfer, error: Exception | None, attempt: Any) -> None:
        operation, steps = under_way.operation, under_way.steps
        under_way.has_asked = True
        if attempt is not None:

            def settle() -> Operation[Any] | None:
                try:
                    result = operation.settle(operation.sender.finish(attempt))
                except BaseException as exc:  # noqa: BLE001 - the steps clean up, and decide what it means
                    return steps.throw(exc)
                return steps.send(result)

            self._hand_on(under_way, settle, attempt.abandon)
        elif error is not None:
            self._advance(under_way, error=error)
        elif operation.is_whole:
            self._advance(under_way, operation.result)
        else:
            response = operation.result
            self._hand_on(under_way, partial(steps.send, response), response.close)

    def _advance(self, under_way: _Transfer, value: Any = None, *, error: Exception | None = None) -> None:
        steps = under_way.steps
        try:
            operation = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as end:
            self._gathered.append(done_outcome(under_way.task, end.value, under_way.started))
        except Exception as exc:  # noqa: BLE001 - told of as the outcome of this one task
            self._window.is_hopeless |= is_pool_dead(exc)
            self._gathered.append(failed_outcome(under_way.task, exc, under_way.started))
        else:
            if operation is None:
                self._hand_on(under_way, steps.__next__)
            elif operation.sender is not self._sender or operation.only is not None:
                self._hand_on(under_way, lambda: operation)
            else:
                under_way.operation, under_way.request, under_way.check = operation, operation.request, operation.check
                self._ready.append(under_way)

    def _hand_on(
        self,
        under_way: _Transfer,
        resume: Callable[[], Operation[Any] | None],
        abandon: Callable[[], None] = lambda: None,
    ) -> None:
        self._window.hand_on(_Handed(under_way, resume, abandon, time.monotonic()))

    def _widen_if_held_up(self) -> None:
        """Ask for one more thread when the tasks take long, and not because of the answers."""
        now = time.monotonic()
        since, idle_before_s = self._looked
        if now - since < LOOK_S:
            return
        # Where other programs have the processor, more threads would only be in each other's way.
        idle_s = self._flight.waited_s + _unscheduled_s()
        busy_s = now - since - (idle_s - idle_before_s)
        if busy_s > SLOW_TASK_S * max(self._begun, 1):
            self._window.widen()
        self._looked, self._begun = (now, idle_s), 0

    def _hand_over(self, *, at_least: int) -> None:
        count = len(self._gathered)
        if count >= at_least or (count and time.monotonic() - self._given_at > GATHER_S):
            gathered, self._gathered = self._gathered, []
            self._given_at = time.monotonic()
            self._give(gathered)


def _unscheduled_s() -> float:
    """Return the seconds that this thread could have run and had no processor; 0 where the system does not tell."""
    try:
        return schedule_of(threading.get_native_id())[1]
    except (OSError, ValueError):
        return 0.0
