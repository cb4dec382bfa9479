"""A lane: one thread with many small transfers under way.

A thread that waits for one small answer at a time spends most of its processor time on
waking up. In a lane requests go out while earlier ones are being answered, and the answers
are taken in the order of the requests.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from s3pool.errors import StoppedError
from s3pool.transfer.small import GeneralWayError, SmallDownload, SmallTransfers, SmallUpload
from s3pool.transfer.tasks import DONE, NOT_STARTED, Done, Item, Outcome

if TYPE_CHECKING:
    from s3pool.transfer.engine import Engine

FEWEST_LANES = 2  # more threads wait for each other, one alone for every file that it writes
MIN_LANE_DEPTH = 8  # requests under way in one lane
MAX_LANE_DEPTH = 32
GATHERED = 16  # so many outcomes come home at once, so that the one who waits wakes up seldom
GATHER_S = 0.2  # but none waits longer than this for the others

Small = SmallUpload | SmallDownload
Perform = Callable[[Item], Outcome]
Fail = Callable[[Item, Exception, float], Outcome]


def lane_depth(in_flight: int) -> int:
    """Give how many requests one lane has under way, of all that may be."""
    return max(1, min(in_flight, MAX_LANE_DEPTH, max(MIN_LANE_DEPTH, in_flight // FEWEST_LANES)))


class Lane:
    """Runs in one thread until ``take`` gives None and all is done.

    ``perform`` does a task the general way, ``fail`` makes the outcome of an error. Both may
    take long, and may need connections: they are called only while nothing is under way.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        depth: int,
        take: Callable[[], Item | None],
        give: Callable[[list[Outcome]], None],
        perform: Perform,
        fail: Fail,
    ) -> None:
        self._engine = engine
        self._depth = depth
        self._take = take
        self._give = give
        self._perform = perform
        self._fail = fail
        self._transfers = SmallTransfers(engine)
        self._under_way: deque[Small] = deque()
        self._later: list[Small | Item] = []  # failed at first, or not for the lane
        self._held: Small | None = None  # prepared, but there was no connection for it
        self._gathered: list[Outcome] = []
        self._given_at = time.monotonic()

    def run(self) -> None:
        """Work until there is nothing left to take."""
        try:
            while self._fill() or self._later:
                if self._under_way:
                    self._conclude_first(self._under_way.popleft())
                else:
                    self._do_later()
                self._hand_over(at_least=GATHERED)
            self._hand_over(at_least=1)
        except BaseException:
            for small in self._under_way:
                small.abandon()
            raise
        finally:
            self._transfers.close()

    def _fill(self) -> bool:
        """Begin transfers until enough are under way; say whether any is."""
        while len(self._under_way) < self._depth and len(self._later) < self._depth:
            small = self._held or self._next()
            self._held = None
            if small is None:
                break
            if not self._begin(small):
                self._held = small
                break
        return bool(self._under_way)

    def _begin(self, small: Small) -> bool:
        try:
            if not small.begin(wait=not self._under_way):
                return False
        except Exception as exc:  # noqa: BLE001 - told of as the outcome of this one task
            self._gathered.append(self._fail(small.task, exc, small.started))
        else:
            self._under_way.append(small)
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

    def _conclude_first(self, small: Small) -> None:
        try:
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
        later, self._later = self._later, []
        for item in later:
            if not isinstance(item, (SmallUpload, SmallDownload)):
                self._gathered.append(self._perform(item))
            else:
                self._finish(item)
            self._hand_over(at_least=1)

    def _finish(self, small: Small) -> None:
        try:
            if self._engine.stop.is_set():
                small.abandon()
                raise StoppedError("stopped before the end")
            self._gathered.append(_outcome(small, small.finish()))
        except GeneralWayError:
            self._gathered.append(self._perform(small.task))
        except Exception as exc:  # noqa: BLE001 - told of as the outcome of this one task
            self._gathered.append(self._fail(small.task, exc, small.started))

    def _hand_over(self, *, at_least: int) -> None:
        count = len(self._gathered)
        if count >= at_least or (count and time.monotonic() - self._given_at > GATHER_S):
            gathered, self._gathered = self._gathered, []
            self._given_at = time.monotonic()
            self._give(gathered)


def _outcome(small: Small, done: Done) -> Outcome:
    return Outcome(small.task, DONE, done, None, time.monotonic() - small.started)
