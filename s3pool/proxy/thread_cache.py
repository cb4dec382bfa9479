"""A cache of idle threads: reusing one costs less than starting one."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

REST_S = 2.0  # a thread without work ends after this
MOST_RESTING = 32  # further ones end at once

Job = Callable[[], None]


class ThreadCache:
    """Runs each job in its own thread, and keeps idle threads for the next jobs."""

    def __init__(self, name: str, *, rest_s: float = REST_S, most_resting: int = MOST_RESTING) -> None:
        self._name = name
        self._rest_s = rest_s
        self._most_resting = most_resting
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        # Guards the number of threads that rest and are not meant for a job yet.
        self._lock = threading.Lock()
        self._resting = 0

    @property
    def resting(self) -> int:
        """Return the number of threads without work."""
        return self._resting

    def submit(self, job: Job) -> None:
        """Run a job soon.

        Raises:
            RuntimeError: the system has no thread left.
        """
        with self._lock:
            is_taken = self._resting > 0
            self._resting -= is_taken
        if is_taken:
            self._jobs.put(job)
        else:
            threading.Thread(target=self._work, args=([job],), name=self._name, daemon=True).start()

    def _work(self, first: list[Job]) -> None:
        # Out of the list, because a thread keeps its arguments to its end.
        job: Job | None = first.pop()
        while job is not None:
            try:
                job()
            except Exception:  # the thread's outermost frame
                logger.exception("%s: a job failed", self._name)
            job = None  # what it holds on to must not wait with this thread
            with self._lock:
                if self._resting >= self._most_resting:
                    return
                self._resting += 1
            job = self._next()

    def _next(self) -> Job | None:
        try:
            return self._jobs.get(timeout=self._rest_s)
        except queue.Empty:
            with self._lock:
                if self._resting:
                    self._resting -= 1
                    return None
            return self._jobs.get()  # somebody counts on this thread: the job is on its way
