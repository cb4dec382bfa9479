"""One endpoint of the pool with everything that changes about it while the program runs."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from s3pool.pool.breaker import CLOSED, CircuitBreaker
from s3pool.record import dataclass, field, replace

if TYPE_CHECKING:
    from s3pool.model import Endpoint, Request
    from s3pool.pool.connections import ConnectionPool

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

    **Reads** are hedged: after ``proven_s`` at a node that answered before, or many times its usual latency; after
    ``unproven_s`` at one that never did while no other has answered; once after ``early_s`` without a word against it,
    and never sooner than ``failure_s`` when it counts as a failure.

    **Everything** that hears nothing for ``suspect_s``, from a node that answered nobody else in the meantime, has the
    node probed, with ``probe_s`` for the answer. When its circuit is open and another node is there, what may be
    repeated leaves at once. What may not, or works for minutes (Complete, copies), leaves when the node has answered
    nobody for ``hold_s``. A body is given up after ``stall_s`` when its node has failed, or answered nobody since.
    After ``tell_s`` without a word from any node the user is told, once, what is waited for.
    """

    proven_s: float = 1.0
    unproven_s: float = 1.0
    failure_s: float = 0.5
    early_s: float = 0.1
    suspect_s: float = 1.0
    probe_s: float = 1.5
    stall_s: float = 5.0
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
        self.seconds = 0.0
        self.timed = 0
        self.last_error = ""
        self.failure_kinds: Counter[str] = Counter()

    def add(
        self, *, requests: int = 0, retries: int = 0, hedges: int = 0, throttled: int = 0, timed: int = 0,
        seconds: float = 0.0, sent: int = 0, received: int = 0,
    ) -> None:  # fmt: skip
        """Add to the counts; so many ``timed`` answers took ``seconds`` from the request's first byte to the head."""
        with self._lock:
            self.requests += requests
            self.retries += retries
            self.hedges += hedges
            self.throttled += throttled
            self.timed += timed
            self.seconds += seconds
            self.bytes_sent += sent
            self.bytes_received += received

    def add_failure(self, kind: str, message: str) -> None:
        """Count a failed attempt under its kind (``connect``, ``timeout``, ``http 500``, ...)."""
        with self._lock:
            self.failure_kinds[kind] += 1
            self.last_error = message

    def snapshot(self, endpoint: str, state: str, ejections: int = 0) -> EndpointStats:
        """Return the counters as a frozen value."""
        with self._lock:
            kinds = dict(self.failure_kinds)
            counts = {name: getattr(self, name) for name in COUNTED}
            last = self.last_error
        failures = sum(kinds.values())
        return EndpointStats(
            endpoint, state, failures=failures, failure_kinds=kinds, last_error=last, ejections=ejections, **counts
        )


def may_be_hedged(request: Request) -> bool:
    """Return whether the same request may be under way on two nodes at once."""
    is_read = request.idempotent and not request.body.length and request.method in {"GET", "HEAD"}
    return is_read and request.may_retry()


def leaves_at_once(request: Request) -> bool:
    """Return whether a request goes elsewhere as soon as its node's circuit is open."""
    if request.method in {"GET", "HEAD"}:
        return request.replayable
    if request.is_harmless_twice:
        return request.body.rewindable
    return request.replayable and request.timeout_factor <= 1.0


class Try:
    """One try of a request on a node, for its trace; times are of the monotonic clock, ``ended`` is 0 to its end."""

    __slots__ = ("ended", "endpoint", "error", "is_hedge", "started", "status")

    def __init__(self, endpoint: object, started: float, *, is_hedge: bool = False) -> None:
        self.endpoint, self.started, self.is_hedge = endpoint, started, is_hedge
        self.ended, self.status, self.error = 0.0, 0, ""


class Tries(list[Try]):
    """The tries of a request whose trace ``on_end`` makes; without a trace there is no such list."""

    def __init__(self, on_end: Callable[[Any], None]) -> None:
        super().__init__()
        self.on_end = on_end

    def begin(self, node: Node, started: float, *, is_hedge: bool = False) -> None:
        """Note a try."""
        self.append(Try(node.endpoint, started, is_hedge=is_hedge))

    def end(self, node: Node, *, status: int = 0, error: str = "") -> None:
        """Note what became of the newest try of a node."""
        for each in reversed(self):
            if each.endpoint is node.endpoint and not each.ended:
                each.ended, each.status, each.error = time.monotonic(), status, error
                return


class Waiter(Protocol):
    """A request that waits for a node's answer."""

    def interrupt(self) -> None:
        """Stop waiting if the node's open circuit means that nothing is to be expected; from any thread."""


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
        # Requests under way, until their bodies are read or dropped; adding and discarding is atomic.
        self.waiting: set[Waiter] = set()
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
        """Note the time to the head of an answer, which earns a larger share.

        The share doubles with every round of answers until the first loss, then it grows by one.
        None is for an answer that may have been there before anybody looked.
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
        self.counters.add(timed=count, seconds=ended.seconds, sent=ended.sent, received=ended.received)

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


class ExchangeTotals:
    """The sums of exchanges with one node that ended together."""

    __slots__ = ("begun", "count", "read_seconds", "reads", "received", "seconds", "sent")

    def __init__(self) -> None:
        self.begun = 0  # further requests that were sent first here
        self.count = 0
        self.seconds = 0.0
        self.reads = 0
        self.read_seconds = 0.0
        self.sent = 0
        self.received = 0


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


def introduce(nodes: Sequence[Node]) -> None:
    """Make nodes siblings of each other."""
    for node in nodes:
        node.siblings = tuple(other for other in nodes if other is not node)


def middle_latency(nodes: Iterable[Node]) -> float:
    """Return the latency of the middle node."""
    latencies = sorted(node.latency_s for node in nodes)
    return latencies[len(latencies) // 2]
