"""Where the small items of a flow are done: lanes of this process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from s3pool.transfer.executor import BoundedExecutor

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_LANES = 8  # threads with many small items under way


class Lanes(Generic[Item, Result]):
    """The items of a flow that are small enough to be done many at a time in one worker.

    ``suits`` chooses them; ``work(take, give)`` runs in a worker until ``take`` gives None,
    and hands the results over in lists. A lane ends when there is nothing to take, and
    another one begins when there is something again. One at a time is enough, and several
    are in each other's way, unless what they wait for is not the answers: widen() is for that.

    ``in_flight`` is how many items all of them have under way.
    """

    def __init__(
        self,
        suits: Callable[[Item], bool],
        work: Callable[[Callable[[], Item | None], Callable[[list[Result]], None]], None],
        *,
        in_flight: int,
    ) -> None:
        self.suits = suits
        self._in_flight = in_flight
        self._work = work
        self._waiting: deque[Item] = deque()
        # Guards the numbers of lanes: a lane may only end when nothing waits.
        self._lock = threading.Lock()
        self._running = 0
        self._most = 1

    @property
    def share(self) -> int:
        """Give how many items one lane has under way."""
        return max(1, self._in_flight // self._most)

    def widen(self) -> None:
        """Let one more lane run beside those that there are."""
        with self._lock:
            if self._running == self._most:
                self._most = min(self._most + 1, MOST_LANES, self._in_flight)

    def add(self, item: Item) -> bool:
        """Queue an item; say whether one more lane is due.

        The first is due at once: the next item may be a long listing away.
        """
        self._waiting.append(item)
        if not self._running:
            return True
        return self._running < self._most and len(self._waiting) >= self.share

    def open(
        self,
        executor: BoundedExecutor,
        ready: Callable[[list[Result]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Begin one more lane, if something waits for it and the workers allow it.

        ``failed`` hears of an error that ended a lane; what it had taken is lost.
        """
        if self._running >= self._most:
            return
        with self._lock:
            if self._running < self._most and self._waiting:
                self._running += 1
                executor.submit(lambda: self._run(ready, failed))

    def _run(self, ready: Callable[[list[Result]], None], failed: Callable[[BaseException], None]) -> None:
        while True:
            try:
                self._work(self._take, ready)
            except Exception as exc:  # noqa: BLE001 - raised again in the iterating thread
                with self._lock:
                    self._running -= 1
                failed(exc)
                return
            with self._lock:
                if not self._waiting:
                    self._running -= 1
                    return

    def _take(self) -> Item | None:
        try:
            return self._waiting.popleft()
        except IndexError:
            return None
