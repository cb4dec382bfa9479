"""How many requests of a listing are under way at once: additive increase, halved on trouble (AIMD)."""

from __future__ import annotations

AUTO_JOBS = 0  # as many as help
CAUTIOUS_JOBS = 8  # while the size of the listing is unknown
MOST_AUTO_JOBS = 32  # beyond, one process only waits for itself
WINDOW_PAGES = 16  # a rate is measured over this many pages, or two for each job
PAGES_PER_JOB = 8  # a listing with less to come gains nothing from more jobs
LEAST_GAIN = 1.1
STRIKES = 2  # windows without gain before the limit is halved for good


class ConcurrencyLimit:
    """The bound on requests under way; pure, the time comes with the pages.

    A fixed number only goes down when servers throttle, and up again page by page. The
    automatic one doubles while much is to come and the pages come faster for it.
    """

    def __init__(self, jobs: int, *, most: int = CAUTIOUS_JOBS) -> None:
        self._is_auto = jobs == AUTO_JOBS
        self._most = max(1, most) if self._is_auto else jobs
        self.limit = min(CAUTIOUS_JOBS, self._most) if self._is_auto else jobs
        self._goal = self.limit  # what the limit returns to after trouble
        self._clean = 0  # pages since the last trouble
        self._window = 0
        self._since: float | None = None
        self._rate_before = 0.0  # pages a second with half as many jobs, 0 when not known
        self._strikes = 0

    def cap(self, most: int) -> None:
        """Never go above a number from now on."""
        self._most = min(self._most, most)
        self._goal = min(self._goal, most)
        self.limit = min(self.limit, most)
        self._is_auto = False

    def note_trouble(self) -> None:
        """Halve: a range failed although its request went to several nodes."""
        self.limit = max(1, self.limit // 2)
        self._restart()

    def note_page(self, now: float, *, to_come: float) -> None:
        """Note that a page came, and how many are still expected."""
        self._clean += 1
        if self.limit < self._goal:
            if self._clean >= WINDOW_PAGES:
                self.limit += 1
                self._restart()
            return
        if self._is_auto:
            self._measure(now, to_come)

    def _restart(self) -> None:
        self._clean = self._window = 0
        self._since = None

    def _measure(self, now: float, to_come: float) -> None:
        if self._since is None:
            self._since = now
            return
        self._window += 1
        if self._window < max(WINDOW_PAGES, 2 * self.limit):
            return
        rate = self._window / max(now - self._since, 1e-9)
        self._window, self._since = 0, now
        self._judge(rate, to_come)

    def _judge(self, rate: float, to_come: float) -> None:
        if self._rate_before and rate < LEAST_GAIN * self._rate_before:
            self._strikes += 1
            if self._strikes >= STRIKES:
                self._goal = self.limit = max(1, self.limit // 2)
                self._is_auto = False
            return
        self._strikes = 0
        doubled = self.limit * 2
        if doubled <= self._most and to_come >= PAGES_PER_JOB * doubled:
            self._rate_before = rate
            self._goal = self.limit = doubled
