"""Many short transfers at a time in one thread: the steps of each go on when its answer is there.

A thread that waits for one small answer at a time spends most of its processor time on waking up. Here requests go
out while earlier ones are being answered. A transfer that turns out to be long, or whose request needs patience, is
handed on as it stands: to a worker, or to this thread itself once nothing else is under way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from s3pool.errors import S3PoolError, StoppedError, is_pool_dead
from s3pool.s3.operation import block_on, go_on
from s3pool.transfer.context import why_skip
from s3pool.transfer.delete import check_no_tree, delete
from s3pool.transfer.download import download
from s3pool.transfer.tasks import (
    DONE,
    FAILED,
    IN_WINDOW_BYTES,
    NOT_STARTED,
    SKIPPED,
    UNKNOWN_SIZE,
    CopyTask,
    DeleteTask,
    Done,
    DownloadTask,
    Item,
    Outcome,
    Problem,
    RemoveTask,
    UploadTask,
    state_of,
)
from s3pool.transfer.upload import mtime_of_file, upload
from s3pool.transfer.workers import schedule_of

if TYPE_CHECKING:
    from s3pool.model import Request, Response
    from s3pool.s3.operation import Operation, Steps
    from s3pool.transfer.context import TransferContext
    from s3pool.transfer.workers import BoundedExecutor

logger = logging.getLogger(__name__)


def perform(task: Item, context: TransferContext, *, rehearse: bool = False) -> Outcome:
    """Do one task in this thread, or only rehearse it, and tell what became of it; never raises an Exception."""
    if context.stop.is_set() and not isinstance(task, Problem):
        return Outcome(task, NOT_STARTED)
    started = time.monotonic()
    try:
        return done_outcome(task, block_on((_rehearse if rehearse else transfer)(task, context)), started)
    except Exception as exc:  # noqa: BLE001 - the outermost frame of a worker: the others go on
        return failed_outcome(task, exc, started)


def done_outcome(task: Item, done: Done, started: float) -> Outcome:
    """Return the outcome of a task that has come to its end."""
    return Outcome(task, SKIPPED if done.skipped else DONE, done, None, time.monotonic() - started)


def failed_outcome(task: Item, error: Exception, started: float) -> Outcome:
    """Return the outcome of an error; of one that is none of ours the debug log tells where it came from."""
    if isinstance(error, StoppedError):
        return Outcome(task, NOT_STARTED)
    seconds = time.monotonic() - started
    if isinstance(error, S3PoolError):
        return Outcome(task, state_of(error), error=error, seconds=seconds)
    logger.debug("%s -> %s: this should not have happened", task.source, task.target, exc_info=error)
    return Outcome(task, FAILED, error=error, seconds=seconds)


def transfer(task: Item, context: TransferContext) -> Steps[Done]:
    """Do one task; of a move the source goes when the target was proved.

    Raises S3PoolError: it failed, or is the problem that could not become a task.
    """
    if isinstance(task, Problem):
        raise task.error
    if context.why_not is not None and (why := context.why_not(task)):
        return Done(skipped=why)
    if isinstance(task, (DeleteTask, RemoveTask)):
        return (yield from delete(task, context))
    if isinstance(task, UploadTask):
        done = yield from upload(task, context)
    elif isinstance(task, DownloadTask):
        done = yield from download(task, context)
    else:
        from s3pool.transfer.copy import copy

        done = yield from copy(task, context)
    if context.options.remove_source and not done.skipped:
        from s3pool.transfer.proofs import remove_source

        yield from remove_source(task, done, context, copy_again=_copy_again)
    return done


def _copy_again(task: CopyTask, context: TransferContext) -> Steps[Done]:
    from s3pool.transfer.copy import copy

    return copy(task, context, is_repeated=True)


def _rehearse(task: Item, context: TransferContext) -> Steps[Done]:
    skipped = ""
    if isinstance(task, Problem):
        raise task.error
    if context.why_not is not None and (why := context.why_not(task)):
        return Done(skipped=why)
    if isinstance(task, UploadTask):
        skipped = yield from why_skip(task, context, mtime_of_file(task, context))
    elif isinstance(task, (DownloadTask, CopyTask)):
        skipped = yield from why_skip(task, context)
    elif isinstance(task, DeleteTask):
        yield from check_no_tree(task, context.client)
    return Done(max(0, task.size), skipped=skipped)


MOST_THREADS = 8  # with many short transfers under way in each
LOOK_S = 0.1  # how often a thread looks whether it is held up
SLOW_TASK_S = 0.0015  # ten times what a task takes where files are at hand and connections open
SENT_AT_ONCE = 32  # requests that are sent before the thread looks for answers
LATER_S = 1.0  # so long may what was handed on wait for a worker
GATHERED = 64  # so many outcomes come home at once, so that the one who waits wakes up seldom
GATHER_S = 0.2  # but none waits longer than this for the others

Give = Callable[[list[Outcome]], None]


class TransferWindow:
    """The short transfers of a run: those that wait, and the threads that have them under way.

    A thread ends when there is nothing to take, and another one begins when there is something
    again. One at a time is enough, and several are in each other's way, unless what they wait
    for is not the answers: then one more begins beside them.
    """

    def __init__(self, context: TransferContext) -> None:
        self.context = context
        self._executor: BoundedExecutor = context.executor
        self._give: Give = lambda _: None
        self._failed: Callable[[BaseException], None] = lambda _: None
        self.waiting: deque[Item] = deque()
        self.handed: deque[_Handed] = deque()
        # Guards the numbers of threads: a thread may only end when nothing waits.
        self._lock = threading.Lock()
        self._running = 0
        self._most = 1
        self.is_hopeless = False  # no endpoint answers, which takes long to find out for each

    def suits(self, item: Item) -> bool:
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

    def add(self, item: Item) -> None:
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

    def take(self) -> Item | None:
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

    def __init__(self, task: Item, steps: Steps[Done]) -> None:
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
        self._window = window
        self._give = give
        self._context = window.context
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
            self._advance(_Transfer(task, transfer(task, self._context)))
        if not batch:
            return True
        # Who waits for a connection that only this thread gives back would wait for ever.
        may_wait = not self._flight and not self._window.handed
        sent = self._flight.submit(batch, wait=may_wait)
        del batch[:sent]
        return bool(batch) or is_due or len(self._flight) >= self._window.depth

    def _next(self) -> Item | None:
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
