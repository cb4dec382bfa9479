"""A lane: one thread with many small transfers under way.

A thread that waits for one small answer at a time spends most of its processor time on
waking up. In a lane requests go out while earlier ones are being answered, and each answer is
taken when it is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from s3pool.errors import NoEndpointError, StoppedError
from s3pool.transfer.small import GeneralWayError, SmallDownload, SmallTransfers, SmallUpload
from s3pool.transfer.tasks import DONE, NOT_STARTED, Done, Item, Outcome

if TYPE_CHECKING:
    from s3pool.s3.exchange import Landed
    from s3pool.transfer.engine import Engine

LOOK_S = 0.1  # how often a lane looks whether it is held up
SLOW_TASK_S = 0.0015  # ten times what a task takes where files are at hand and connections open
BEGUN_AT_ONCE = 32  # requests that go out before it is looked at what has come
LATER_S = 1.0  # so long what failed at first may wait until nothing else is under way
GATHERED = 64  # so many outcomes come home at once, so that the one who waits wakes up seldom
GATHER_S = 0.2  # but none waits longer than this for the others

Small = SmallUpload | SmallDownload
Perform = Callable[[Item], Outcome]
Fail = Callable[[Item, Exception, float], Outcome]


class Lane:
    """Runs in one thread until ``take`` gives None and all is done.

    ``depth`` tells how many requests it may have under way. ``more`` asks for a lane beside
    this one, which is held up by slow files, or by connections that take long to open.
    ``perform`` does a task the general way, ``fail`` makes the outcome of an error. Both may
    take long, and may need connections: they are called only while nothing is under way.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        depth: Callable[[], int],
        more: Callable[[], None],
        take: Callable[[], Item | None],
        give: Callable[[list[Outcome]], None],
        perform: Perform,
        fail: Fail,
    ) -> None:
        self._engine = engine
        self._depth = depth
        self._more = more
        self._take = take
        self._give = give
        self._perform = perform
        self._fail = fail
        self._transfers = SmallTransfers(engine)
        self._in_flight = engine.client.in_flight()
        self._later: list[Small | Item] = []  # failed at first, or not for the lane
        self._late: list[Small] = []  # that hold the connections on which nothing came yet
        self._held: list[Small] = []  # prepared, but there was no connection for the first of them
        self._due_at = 0.0  # when those must not wait any longer
        self._is_hopeless = False  # no endpoint answers, which takes long to find out for each
        self._gathered: list[Outcome] = []
        self._given_at = time.monotonic()
        self._looked = (time.monotonic(), 0.0)  # when it was looked last how busy it is, and what it had waited
        self._begun = 0  # tasks since then

    def run(self) -> None:
        """Work until there is nothing left to take."""
        in_flight = self._in_flight
        try:
            while not (is_full := self._fill()) or in_flight or self._later or self._late:
                if in_flight:
                    answered, landed = in_flight.ready(wait=is_full)
                    self._conclude(answered)
                    for each in landed:
                        self._go_on(each.going, each)
                elif is_full:
                    self._do_later()
                self._hand_over(at_least=GATHERED)
                self._widen_if_held_up()
            self._hand_over(at_least=1)
        finally:
            self._in_flight.close()
            self._transfers.close()

    def _fill(self) -> bool:
        """Begin some transfers; say whether no more can be begun now, or there are none left."""
        room = self._depth() - len(self._in_flight)
        if self._is_due(len(self._later) + len(self._late)):
            return True
        batch, self._held = self._held, []
        wanted = min(room, BEGUN_AT_ONCE)
        while len(batch) < wanted:
            small = self._next()
            if small is None:
                self._begin(batch)
                return True
            batch.append(small)
        return not self._begin(batch) or room <= BEGUN_AT_ONCE

    def _is_due(self, later: int) -> bool:
        """Say whether nothing new may begin before what failed at first is done."""
        if not later:
            self._due_at = time.monotonic() + LATER_S
            return False
        return later >= self._depth() or time.monotonic() >= self._due_at

    def _begin(self, batch: list[Small]) -> bool:
        """Send what was prepared; what there was no connection for is held, and False."""
        in_flight = self._in_flight
        # Nobody else gives back what this thread holds.
        may_wait = not in_flight and not self._late
        self._begun += len(batch)
        while batch:
            sent, node = in_flight.send(batch)
            del batch[:sent]
            if not batch:
                break
            try:
                if not batch[0].begin_among(in_flight, node, wait=may_wait and not in_flight):
                    self._held = batch
                    self._begun -= len(batch)
                    return False
            except Exception as exc:  # noqa: BLE001 - told of as the outcome of this one task
                self._gathered.append(self._fail(batch[0].task, exc, batch[0].started))
            del batch[0]
        return True

    def _next(self) -> Small | None:
        while (task := self._take()) is not None:
            if self._engine.stop.is_set():
                self._gathered.append(Outcome(task, NOT_STARTED))
                continue
            small = self._prepare(task)
            if small is not None:
                return small
        return None

    def _prepare(self, task: Item) -> Small | None:
        try:
            small = self._transfers.prepare(task)
        except Exception as exc:  # noqa: BLE001 - told of as the outcome of this one task
            self._gathered.append(self._fail(task, exc, 0.0))
            return None
        if small is None:
            self._later.append(task)
        return small

    def _conclude(self, answered: Sequence[Small]) -> None:
        """Take the answers that have passed their checks."""
        for small in answered:
            try:
                self._gathered.append(_outcome(small, small.done()))
            except GeneralWayError:
                self._later.append(small.task)
            except Exception as exc:  # noqa: BLE001 - told of as the outcome of this one task
                self._gathered.append(self._fail(small.task, exc, small.started))

    def _go_on(self, small: Small, landed: Landed) -> None:
        """Go on with one whose answer is not as it was to be."""
        try:
            if landed.call is None:
                raise landed.error or AssertionError("it has landed for no reason")
            small.take_over(landed.call)
            if landed.is_late:
                self._late.append(small)
                return
            done = small.first_done()
        except GeneralWayError:
            small.abandon()
            self._later.append(small.task)
            return
        except Exception as exc:  # noqa: BLE001 - told of as the outcome of this one task
            self._gathered.append(self._fail(small.task, exc, small.started))
            return
        if done is None:
            self._later.append(small)
        else:
            self._gathered.append(_outcome(small, done))

    def _do_later(self) -> None:
        # First those that hold connections, or the others might wait for these.
        later = [*self._late, *self._later]
        self._late, self._later = [], []
        for item in later:
            if not isinstance(item, (SmallUpload, SmallDownload)):
                self._gathered.append(Outcome(item, NOT_STARTED) if self._is_hopeless else self._perform(item))
            else:
                self._finish(item)
            self._hand_over(at_least=1)

    def _finish(self, small: Small) -> None:
        try:
            if self._engine.stop.is_set() or self._is_hopeless:
                small.abandon()
                raise StoppedError("stopped before the end")
            self._gathered.append(_outcome(small, small.finish_done()))
        except GeneralWayError:
            self._gathered.append(self._perform(small.task))
        except Exception as exc:  # noqa: BLE001 - told of as the outcome of this one task
            self._is_hopeless |= isinstance(exc, NoEndpointError)
            self._gathered.append(self._fail(small.task, exc, small.started))

    def _widen_if_held_up(self) -> None:
        """Ask for a lane beside this one when its tasks take long, and not because of the answers."""
        now, waited_s = time.monotonic(), self._in_flight.waited_s
        since, waited_before_s = self._looked
        if now - since < LOOK_S:
            return
        busy_s = now - since - (waited_s - waited_before_s)
        if busy_s > SLOW_TASK_S * max(self._begun, 1):
            self._more()
        self._looked, self._begun = (now, waited_s), 0

    def _hand_over(self, *, at_least: int) -> None:
        count = len(self._gathered)
        if count >= at_least or (count and time.monotonic() - self._given_at > GATHER_S):
            gathered, self._gathered = self._gathered, []
            self._given_at = time.monotonic()
            self._give(gathered)


def _outcome(small: Small, done: Done) -> Outcome:
    return Outcome(small.task, DONE, done, None, time.monotonic() - small.started)
