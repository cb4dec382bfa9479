"""One endpoint of the pool with everything that changes about it while the program runs.

The one truth about its health is a circuit breaker, fed by reports.
"""

from __future__ import annotations

import math
import random as random_module
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from s3pool.body import BodySpeed
from s3pool.record import dataclass, field, replace

if TYPE_CHECKING:
    from s3pool.model import Endpoint, Request
    from s3pool.pool.connections import ConnectionPool

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

LATENCY_WEIGHT = 0.2  # share of the newest sample in the moving average
LATENCY_FLOOR_S = 0.001  # nodes that answer faster than this count as equal
SLOW_FACTOR = 3.0  # so many times the latency of the pool's middle node is slow
DOUBT_S = 5.0  # a node that was silent for a moment waits this long while others are clean
LOSS_SHARE = 0.5  # of its share of requests a node loses when it fails or asks for less
MAX_SAMPLE_S = 1.0  # an answer that came later counts as this late, or as OVERDUE_TIMES the average
OVERDUE_TIMES = 20.0


@dataclass(frozen=True, slots=True)
class Delays:
    """How long a node may be silent before something is done about it; seconds.

    Reads are hedged: after ``proven_s`` at a node that answered before, or many times its usual latency; after
    ``unproven_s`` at one that never did while no other has answered; once after ``early_s`` without a word against it,
    and never sooner than ``failure_s`` when it counts as a failure. Everything that hears nothing for ``suspect_s``,
    from a node that answered nobody else in the meantime, has the node probed, with ``probe_s`` for the answer. When
    its circuit is open and another node is there, what may be repeated leaves at once. What may not, or works for
    minutes (Complete, copies), leaves when the node has answered nobody for ``hold_s``. A body is given up after
    ``stall_s`` when its node has failed, or answered nobody since, and after ``crawl_s`` and many times what it would
    have taken elsewhere. After ``tell_s`` without a word from any node the
    user is told, once, what is waited for.
    """

    proven_s: float = 1.0
    unproven_s: float = 1.0
    failure_s: float = 0.5
    early_s: float = 0.1
    suspect_s: float = 1.0
    probe_s: float = 1.5
    stall_s: float = 5.0
    crawl_s: float = 3.0
    hold_s: float = 6.0
    tell_s: float = 10.0


DELAYS = Delays()


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """A snapshot of one endpoint's counters. Bytes are on the connection; seconds add up over ``timed`` answers.

    ``failures`` counts exchanges without a usable answer and answers of 500 and above, ``retries`` the attempts made
    here because an earlier one, here or elsewhere, failed or was silent, ``hedges`` those beside a silent one.
    """

    endpoint: str
    state: str
    requests: int
    failures: int
    throttled: int
    retries: int
    bytes_sent: int
    bytes_received: int
    seconds: float
    last_error: str
    failure_kinds: dict[str, int] = field(default_factory=dict)
    timed: int = 0
    hedges: int = 0
    ejections: int = 0

    @property
    def values(self) -> tuple[Any, ...]:
        """The fields in their order."""
        return tuple(getattr(self, name) for name in self.__match_args__)

    def plus(self, other: EndpointStats) -> EndpointStats:
        """Return the sums of the counters of one endpoint in two processes."""
        kinds = Counter(self.failure_kinds)
        kinds.update(other.failure_kinds)
        sums = {name: getattr(self, name) + getattr(other, name) for name in (*COUNTED, "failures", "ejections")}
        return replace(self, **sums, failure_kinds=dict(kinds), last_error=other.last_error or self.last_error)


COUNTED = ("requests", "retries", "hedges", "throttled", "bytes_sent", "bytes_received", "seconds", "timed")


class NodeCounters:
    """The live counters of one endpoint."""

    def __init__(self) -> None:
        # Guards all fields; held for additions only.
        self._lock = threading.Lock()
        self.requests = self.retries = self.hedges = self.throttled = self.bytes_sent = self.bytes_received = 0
        self.seconds, self.timed = 0.0, 0
        self.last_error = ""
        self.failure_kinds: Counter[str] = Counter()

    def add(self, **counts: float) -> None:
        """Add to the counts; so many ``timed`` answers took ``seconds`` from the request's first byte to the head."""
        values = self.__dict__
        with self._lock:
            for name, count in counts.items():
                values[name] += count

    def add_failure(self, kind: str, message: str) -> None:
        """Count a failed attempt under its kind (``connect``, ``timeout``, ``http 500``, ...)."""
        with self._lock:
            self.failure_kinds[kind] += 1
            self.last_error = message

    def snapshot(self, endpoint: str, state: str, ejections: int = 0) -> EndpointStats:
        """Return the counters as a frozen value."""
        with self._lock:
            counts = {name: getattr(self, name) for name in COUNTED}
            kinds, last_error = dict(self.failure_kinds), self.last_error
        counts |= {"failures": sum(kinds.values()), "ejections": ejections}
        return EndpointStats(endpoint, state, failure_kinds=kinds, last_error=last_error, **counts)


class CircuitBreaker:
    """Decide whether an endpoint may get a request; live traffic and the health checker report, the balancer asks."""

    def __init__(
        self, *, now: Callable[[], float] = time.monotonic, random: Callable[[], float] = random_module.random
    ) -> None:
        self._now = now
        self._random = random
        # Guards the fields below; nothing is called while it is held but the two clocks.
        self._lock = threading.Lock()
        # For others to read; they change here alone.
        self.state = CLOSED
        self.is_sound = True  # it is closed, and nothing failed since the last success
        self.openings = 0  # since it was last closed
        self.ejections = 0  # openings in all
        self.open_until = 0.0  # when an open circuit admits its next trial
        self._failures, self._suspect_until, self._trial_until = 0, 0.0, 0.0
        self._askers: set[str] = set()  # whose requests failed since the last one that did not
        self.is_invited = False  # probes succeed again
        self._least_until = 0.0  # no invitation makes the next trial come earlier
        # Called without the lock whenever the circuit opens.
        self.on_open: Callable[[], None] = lambda: None

    @property
    def is_clean(self) -> bool:
        """Return whether the circuit is closed and the last failure is SUSPECT_S ago."""
        return self.state is CLOSED and (not self._failures or self._now() >= self._suspect_until)

    def is_trial_due(self, *, is_read: bool = True) -> bool:
        """Return whether an opened circuit would grant a claim now.

        A read is hedged, and tries at little cost. A write waits for a good probe, or for long where nothing probes.
        """
        if self.state is OPEN:
            delay_s = 0.0 if is_read or self.is_invited else OPEN_BASE_S
            return self._now() >= self.open_until + delay_s
        return self.state is HALF_OPEN and self._now() >= self._trial_until

    def claim(self, *, is_read: bool = True) -> bool:
        """Ask to send one request; in half-open state only one claim at a time is granted."""
        if self.state is CLOSED:  # as for nearly every request: no lock for it
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
            self._failures = self.openings = 0
            self._askers.clear()

    def report_failure(self, weight: int = 1, *, asker: str = "") -> None:
        """Note a failure; at the threshold, or during a trial, the circuit opens.

        ``asker`` is who may be the cause, "" for nobody: then it counts once only, so that no request that servers
        stumble over makes all of them look ill.
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

        They do not touch the store, so only a real request closes it. Who fails such trials is tried less and less.
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
        self.state, self.is_invited, self.is_sound = OPEN, False, False


class Node:
    """One endpoint: its connections, its health, its counters, and the requests that wait for it."""

    def __init__(self, endpoint: Endpoint, connections: ConnectionPool, breaker: CircuitBreaker) -> None:
        self.endpoint = endpoint
        self.connections = connections
        self.breaker = breaker
        breaker.on_open = self.wake
        self.counters = NodeCounters()
        self.siblings: tuple[Node, ...] = ()  # the other nodes of its pool
        self.on_suspicion: Callable[[Node], None] | None = None  # probes the node at once
        self.on_long_wait: Callable[[Request, str], None] | None = None  # tells the user, with the reason
        self.delays = DELAYS
        self.cooling_until = 0.0
        self.latency_s = 0.0  # of all answers, for the balancing
        self.read_s = 0.0  # of the answers to GET and HEAD, for hedging
        self.speed = BodySpeed()
        self.heard_at = 0.0  # when it answered anything last
        self.answered_at = 0.0  # when it answered a request last that was no probe
        self.lock_wait_s = 0.0  # how long it may hold back a write that another node died at
        self.suspect_again_at = 0.0  # no probe for a silence starts before
        self.is_watched = False  # a health thread probes it
        self.is_proven = False  # it answered at least once in this process
        self.is_suspect = False  # it was passed over once, before it ever answered
        self.is_draining = False  # its keeper wants no new requests on it
        self.priority = endpoint.tier
        self.is_remote = False  # it is in another zone than this program
        self.congestion_window = 1.0  # requests that it takes at once without being worse off than others
        self._has_lost = False
        # The exchanges under way, until their bodies are read or dropped; adding and discarding is atomic.
        self.waiting: set[Any] = set()
        # Guards latencies and share, which many threads change.
        self._lock = threading.Lock()
        # Held while waiters are woken: an interrupted one takes it before it closes its socket.
        self.wake_lock = threading.Lock()

    def join(self, known: Node) -> None:
        """Take over what the pool has set on one of its nodes."""
        self.on_suspicion, self.on_long_wait = known.on_suspicion, known.on_long_wait
        self.delays, self.is_watched = known.delays, known.is_watched

    @property
    def in_flight(self) -> int:
        """Return the number of requests under way."""
        return len(self.waiting)

    def wake(self) -> None:
        """Let every request that waits here look whether it should go elsewhere: the circuit opened."""
        with self.wake_lock:
            for waiter in tuple(self.waiting):
                waiter.interrupt()

    def suspect(self) -> None:
        """Have the node probed at once: somebody waits for it, and nobody hears from it."""
        if self.siblings and self.on_suspicion is not None and self.breaker.state is CLOSED:
            self.on_suspicion(self)

    @property
    def has_sibling(self) -> bool:
        """Return whether another node of the pool could take over its requests."""
        return any(node.breaker.state is CLOSED and not node.is_draining for node in self.siblings)

    def note_answer(self, seconds: float | None, *, at: float = 0.0, is_read: bool = True) -> None:
        """Note the time to the head of an answer, None where nobody looked for it; it earns a larger share.

        The share doubles with every round of answers until the first loss, then it grows by one.
        """
        self.is_proven = True
        self.heard_at = self.answered_at = max(self.heard_at, at)
        with self._lock:
            self.congestion_window += 1.0 / self.congestion_window if self._has_lost else 1.0
            if seconds is None:
                return
            self.latency_s = _moved(self.latency_s, seconds, 1)
            if is_read:
                self.read_s = _moved(self.read_s, seconds, 1)
        self.counters.add(timed=1, seconds=seconds)

    def note_exchanges(self, ended: ExchangeTotals, *, at: float) -> None:
        """Note exchanges that are over, all at once."""
        count = ended.count
        self.is_proven = True
        self.heard_at = self.answered_at = at
        with self._lock:
            self.congestion_window += count / self.congestion_window if self._has_lost else count
            self.latency_s = _moved(self.latency_s, ended.seconds / count, count)
            if ended.reads:
                self.read_s = _moved(self.read_s, ended.read_seconds / ended.reads, ended.reads)
        self.counters.add(timed=count, seconds=ended.seconds, bytes_sent=ended.sent, bytes_received=ended.received)

    def note_begun(self, count: int) -> None:
        """Note first tries that were sent over open connections."""
        self.counters.add(requests=count)
        self.connections.counts.add("reused", count)

    def on_loss(self) -> None:
        """Take requests away: the node failed, or asked for fewer."""
        with self._lock:
            self._has_lost = True
            self.congestion_window = max(1.0, self.congestion_window * LOSS_SHARE)

    def mark_suspect(self, now: float) -> bool:
        """Prefer others for a while, without a word about its health; False when it had that favour already."""
        if self.is_proven or self.is_suspect:
            return False
        self.is_suspect = True
        self.cooling_until = max(self.cooling_until, now + DOUBT_S)
        self.breaker.put_off_trial(DOUBT_S)
        return True

    def is_busy(self, usual_latency_s: float) -> bool:
        """Return whether one more request would wait longer here than elsewhere."""
        in_flight = len(self.waiting)
        is_slow = self.latency_s > SLOW_FACTOR * max(usual_latency_s, LATENCY_FLOOR_S)
        return in_flight > 0 and (is_slow or in_flight >= self.congestion_window)

    def room(self, usual_latency_s: float) -> int:
        """Return how many requests it can take at once before it is_busy()."""
        in_flight = len(self.waiting)
        if self.latency_s > SLOW_FACTOR * max(usual_latency_s, LATENCY_FLOOR_S):
            return int(not in_flight)
        return max(math.ceil(self.congestion_window - in_flight), int(not in_flight))

    @property
    def load(self) -> float:
        """Return the expected wait: requests in flight, for its weight, times latency."""
        return (len(self.waiting) / self.endpoint.weight + 1) * max(self.latency_s, LATENCY_FLOOR_S)


@dataclass(slots=True)
class ExchangeTotals:
    """The sums of exchanges with one node that ended together; ``begun`` counts others that were sent first here."""

    begun: int = 0
    count: int = 0
    seconds: float = 0.0
    reads: int = 0
    read_seconds: float = 0.0
    sent: int = 0
    received: int = 0


class Totals:
    """Answers that came together, to be counted together for each node."""

    __slots__ = ("_by_node",)

    def __init__(self) -> None:
        self._by_node: dict[Node, ExchangeTotals] = {}

    def of(self, node: Node) -> ExchangeTotals:
        """Return the sums of a node, to add to."""
        totals = self._by_node.get(node)
        if totals is None:
            totals = self._by_node[node] = ExchangeTotals()
        return totals

    def flush(self) -> None:
        """Add the sums to the nodes."""
        if not self._by_node:
            return
        now = time.monotonic()
        for node, totals in self._by_node.items():
            if totals.begun:
                node.note_begun(totals.begun)
            if totals.count:
                node.note_exchanges(totals, at=now)
                if not node.breaker.is_sound:
                    node.breaker.report_success()
        self._by_node.clear()


def _moved(average: float, seconds: float, count: int) -> float:
    """Return a moving average after some more samples; an overdue answer does not count in full."""
    if not average:
        return seconds
    seconds = min(seconds, max(MAX_SAMPLE_S, OVERDUE_TIMES * average))
    return seconds + (1.0 - LATENCY_WEIGHT) ** count * (average - seconds)
