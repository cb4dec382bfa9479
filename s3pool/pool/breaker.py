"""The one truth about an endpoint's health: a circuit breaker fed by reports."""

from __future__ import annotations

import random as random_module
import threading
import time
from collections.abc import Callable

FAILURE_THRESHOLD = 5  # consecutive failures that open a circuit
CONNECT_FAILURE_WEIGHT = 3  # a node that does not even accept is more likely gone than busy
OPEN_BASE_S = 30.0  # the n-th opening in a row lasts n times this
OPEN_MAX_FACTOR = 10
INVITED_AFTER_S = 10.0  # a node that failed n trials stays out n times this, however well it answers probes
OPEN_JITTER = 0.2  # +- share, so that many clients do not return at once
SUSPECT_S = 10.0  # after a failure a node waits this long while others are clean
TRIAL_LEASE_S = 90.0  # a trial that nobody reported on is given up after this

ANYBODY = "anybody"  # who asks, where nobody knows

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"


class CircuitBreaker:
    """Decide whether an endpoint may get a request.

    Live traffic and the health checker both only report; the balancer only asks. All
    times are seconds of a monotonic clock.
    """

    def __init__(
        self, *, now: Callable[[], float] = time.monotonic, random: Callable[[], float] = random_module.random
    ) -> None:
        self._now = now
        self._random = random
        # Guards the fields below; nothing is called while it is held but the two clocks.
        self._lock = threading.Lock()
        # For others to read; they change here alone.
        self.state = CLOSED  # or open, or half-open
        self.is_sound = True  # it is closed, and nothing failed since the last success
        self.openings = 0  # since it was last closed
        self.ejections = 0  # openings in all
        self.open_until = 0.0  # when an open circuit admits its next trial
        self._failures = 0
        self._suspect_until = 0.0
        self._trial_until = 0.0
        self._askers: set[str] = set()  # whose requests failed since the last one that did not
        self.is_invited = False  # probes succeed again
        self._least_until = 0.0  # no invitation makes the next trial come earlier
        # Called without the lock whenever the circuit opens.
        self.on_open: Callable[[], None] = _do_nothing

    @property
    def is_clean(self) -> bool:
        """Return whether the circuit is closed and the last failure is SUSPECT_S ago."""
        return self.state is CLOSED and (not self._failures or self._now() >= self._suspect_until)

    def is_trial_due(self, *, is_read: bool = True) -> bool:
        """Return whether an opened circuit would grant a claim now.

        A read is hedged, so it can try at little cost. A write tries a node only after a
        good probe, or much later where nothing probes.
        """
        if self.state is OPEN:
            delay_s = 0.0 if is_read or self.is_invited else OPEN_BASE_S
            return self._now() >= self.open_until + delay_s
        return self.state is HALF_OPEN and self._now() >= self._trial_until

    def claim(self, *, is_read: bool = True) -> bool:
        """Ask to send one request; in half-open state only one claim at a time is granted."""
        if self.state is CLOSED:
            return True
        with self._lock:
            if self.state is CLOSED:
                return True
            if not self.is_trial_due(is_read=is_read):
                return False
            self.state = HALF_OPEN
            self._trial_until = self._now() + TRIAL_LEASE_S
            return True

    def report_success(self) -> None:
        """Note that the endpoint answered: closes the circuit."""
        if self.is_sound:
            return
        with self._lock:
            self.state = CLOSED
            self.is_sound = True
            self._failures = 0
            self.openings = 0
            self._askers.clear()

    def report_failure(self, weight: int = 1, *, asker: str = "") -> None:
        """Note a failure; at the threshold, or during a trial, the circuit opens.

        ``asker`` is who may be the cause: then it counts once only, so that no request
        that servers stumble over makes all of them look ill. Empty says that nobody is.
        """
        with self._lock:
            if asker == ANYBODY and self.state is HALF_OPEN:
                self.state, self.open_until = OPEN, self._now() + SUSPECT_S
            if asker in self._askers:
                return
            if asker:
                self._askers.add(asker)
            self._failures += weight
            self.is_sound = False
            self._suspect_until = self._now() + SUSPECT_S
            opens = self.state is HALF_OPEN or (self.state is CLOSED and self._failures >= FAILURE_THRESHOLD)
            if opens:
                self._open()
        if opens:
            self.on_open()

    def trip(self) -> None:
        """Open the circuit at once, or keep it open: probes of the node fail."""
        with self._lock:
            opens = self.state is not OPEN
            if opens:
                self._open()
            else:
                self.is_invited = False
                self.open_until = max(self.open_until, self._now() + OPEN_BASE_S)
        if opens:
            self.on_open()

    def invite_trial(self) -> None:
        """Let the next request through an open circuit: probes succeed again.

        A probe does not touch the store itself, so only a real request closes the circuit.
        One that fails such trials again and again is tried less and less often.
        """
        with self._lock:
            if self.state is OPEN:
                self.is_invited = True
                self.open_until = min(self.open_until, max(self._now(), self._least_until))

    def put_off_trial(self, seconds: float) -> None:
        """Let a trial that showed nothing be made again in so many seconds."""
        with self._lock:
            if self.state is HALF_OPEN:
                self.state = OPEN
                self.open_until = self._now() + seconds

    def _open(self) -> None:
        self._askers.clear()
        self.openings += 1
        self.ejections += 1
        jitter = 1.0 + OPEN_JITTER * (2.0 * self._random() - 1.0)
        factor = min(self.openings, OPEN_MAX_FACTOR)
        self.open_until = self._now() + OPEN_BASE_S * factor * jitter
        self._least_until = self._now() + INVITED_AFTER_S * (factor - 1)
        self.is_invited = False
        self.state = OPEN
        self.is_sound = False


def _do_nothing() -> None:
    pass
