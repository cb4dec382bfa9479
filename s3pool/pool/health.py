"""Watch the endpoints in the background; report to their breakers, decide nothing."""

from __future__ import annotations

import logging
import random as random_module
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from s3pool.dialect import habits_of
from s3pool.errors import TransportError, describe_os_error
from s3pool.model import Endpoint
from s3pool.pool.connections import ConnectionPool, PoolExhausted
from s3pool.pool.exchange import GENERIC_PATH, probe_request
from s3pool.pool.http1 import NodeConnection
from s3pool.pool.node import CLOSED, Node
from s3pool.record import dataclass, replace
from s3pool.units import parse_http_date

if TYPE_CHECKING:
    from s3pool.pool.resolver import NodeKeeper

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 2.0
SUSPECT_PAUSE_S = 3.0  # between two probes for a silence; one has ended by then
RECOVERY_PAUSE_S = 1.0  # between probes of a node that failed one
LEAST_PAUSE_S = 0.1  # of the thread
JITTER = 0.2  # +- share of the interval, so that many clients do not probe in step
RISE = 2  # successes in a row that let a trial through an open circuit
FALL = 3  # failures in a row that open the circuit
ALIVE_BELOW_STATUS = 500
UNAVAILABLE = 503
DATE_CENTRE_S = 0.5  # a Date header is cut to whole seconds: the server's clock is half of one ahead of it
NO_QUORUM = "no quorum"
OK_STATUS = range(200, 400)  # what a path that was named for its health must answer


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one unsigned request told of an endpoint.

    ``latency_s`` runs from the request to the end of the answer, ``connect_s`` is the time for a new connection with
    TLS, 0 on a kept one. ``clock_offset_s`` is the server's clock minus ours, to half a second; None without a Date.
    """

    endpoint: Endpoint
    is_alive: bool
    status: int = 0
    latency_s: float = 0.0
    connect_s: float = 0.0
    server: str = ""
    tls_version: str = ""
    clock_offset_s: float | None = None
    error: str = ""
    keys: str = ""  # what came of a signed request, where one was made


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """What is asked of every endpoint, and how many answers in a row count.

    ``path`` is asked with GET and must be answered with a status from 200 to 399. Without one every status below 500 is
    a sign of life, and the server's name decides on the path where ``adapts``. ``connects_only`` asks for an open port.
    """

    path: str = ""
    adapts: bool = True
    connects_only: bool = False
    timeout_s: float = PROBE_TIMEOUT_S
    rise: int = RISE
    fall: int = FALL


def probe_port(node: Node, *, timeout_s: float = PROBE_TIMEOUT_S) -> ProbeResult:
    """Open a new connection to an endpoint and close it; never raises for a sick one."""
    endpoint, started = node.endpoint, time.monotonic()
    try:
        if node.connections.settings.http_proxy is not None:
            node.connections.open(timeout_s).close()
        else:
            socket.create_connection((endpoint.connect_host, endpoint.port), timeout_s).close()
    except TransportError as exc:
        return ProbeResult(endpoint, is_alive=False, error=str(exc))
    except OSError as exc:
        return ProbeResult(endpoint, is_alive=False, error=f"{endpoint}: {describe_os_error(exc)}")
    return ProbeResult(endpoint, is_alive=True, connect_s=time.monotonic() - started)


def probe(
    node: Node, *, path: str = GENERIC_PATH, timeout_s: float = PROBE_TIMEOUT_S, is_named: bool = False,
    fresh: bool = False
) -> ProbeResult:  # fmt: skip
    """Ask an endpoint for a sign of life, over its own TLS settings; never raises for a sick one.

    Where the path ``is_named``, it speaks of health, and only success counts. ``fresh`` takes a new connection.
    """
    started = time.monotonic()
    try:
        connection, give_back = _connect(node.connections, timeout_s, fresh=fresh)
    except TransportError as exc:
        return ProbeResult(node.endpoint, is_alive=False, error=str(exc))
    connected = time.monotonic()
    is_reusable = False
    try:
        head, is_reusable = probe_request(connection, node.endpoint.netloc, path=path, timeout_s=timeout_s)
    except TransportError as exc:
        return ProbeResult(node.endpoint, is_alive=False, error=str(exc), tls_version=connection.tls_version)
    finally:
        give_back(connection, reusable=is_reusable)
    server = head.headers.get("server", "")
    node.lock_wait_s = habits_of(server).lock_wait_s
    is_alive = head.status in OK_STATUS if is_named else head.status < ALIVE_BELOW_STATUS
    return ProbeResult(
        node.endpoint,
        is_alive=is_alive,
        status=head.status,
        latency_s=time.monotonic() - connected,
        connect_s=connected - started,
        server=server,
        tls_version=connection.tls_version,
        clock_offset_s=_clock_offset_s(head.headers.get("date", "")),
        error="" if is_alive else f"status {head.status}",
    )


def probe_with_set(node: Node, *, timeout_s: float = PROBE_TIMEOUT_S) -> ProbeResult:
    """Do the same, and find out whether the set of servers that the endpoint is one of has a quorum."""
    result = probe(node, timeout_s=timeout_s)
    path = habits_of(result.server).set_path
    if not path or not result.is_alive:
        return result
    whole = probe(node, path=path, timeout_s=timeout_s, is_named=True)
    return result if whole.status != UNAVAILABLE else replace(result, is_alive=False, error=NO_QUORUM)


def _connect(
    connections: ConnectionPool, timeout_s: float, *, fresh: bool
) -> tuple[NodeConnection, Callable[..., None]]:
    """Return a connection, and what takes it back."""
    try:
        return connections.checkout(connect_timeout_s=timeout_s, fresh=fresh, wait=False), connections.checkin
    except PoolExhausted:  # perhaps because the node is silent: its bound does not hold for a probe
        return connections.open(timeout_s), lambda connection, **_: connection.close()


def _clock_offset_s(date: str) -> float | None:
    seconds = parse_http_date(date)
    return None if seconds is None else seconds + DATE_CENTRE_S - time.time()


def follow_suspicion(node: Node, *, pause_s: float = RECOVERY_PAUSE_S) -> None:
    """Probe a node that fell silent, and, where nobody else does, until it answers again."""
    heard_at = node.heard_at
    result = probe(node, timeout_s=node.delays.probe_s, fresh=True)
    if result.is_alive or node.heard_at > heard_at:
        return
    logger.warning("%s leaves the pool: %s", node.endpoint, result.error)
    node.counters.add_failure("probe", result.error)
    node.breaker.trip()
    while not node.is_watched and node.breaker.state is not CLOSED and not _has_recovered(node, pause_s):
        node.breaker.trip()


def _has_recovered(node: Node, pause_s: float) -> bool:
    for _ in range(RISE):
        time.sleep(pause_s)
        if not probe(node).is_alive:
            return False
    node.breaker.invite_trial()
    return True


def probe_suspect(node: Node) -> None:
    """Have a node probed at once in a thread of its own, unless one is at it or just was."""
    now = time.monotonic()
    if now < node.suspect_again_at:
        return
    node.suspect_again_at = now + SUSPECT_PAUSE_S
    threading.Thread(target=follow_suspicion, args=(node,), name="s3pool-suspicion", daemon=True).start()


DEFAULT_PLAN = ProbePlan()


class HealthChecker:
    """The thread that probes every endpoint in turn; it owns the thread from start to join.

    A ``keeper`` tells, and changes, which nodes there are.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        keeper: NodeKeeper | None = None,
        interval_s: float = 5.0,
        plan: ProbePlan = DEFAULT_PLAN,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._nodes = tuple(nodes)
        self._interval_s = interval_s
        self._plan = plan
        self._random = random
        self._keeper = keeper
        # Successes in a row, or failures as a negative number. Nodes may leave.
        self._streaks: WeakKeyDictionary[Node, int] = WeakKeyDictionary()
        self._paths: WeakKeyDictionary[Node, str] = WeakKeyDictionary()
        self.clock_offsets_s: dict[Endpoint, float] = {}  # the nodes' clocks minus ours, as last seen
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; the first round begins at once."""
        for node in self._nodes:
            node.is_watched = True
        self._thread = threading.Thread(target=self._run, name="s3pool-health", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; waits for a probe under way, at most its timeout."""
        self._stop.set()
        for node in self._nodes:
            node.is_watched = False
        if self._thread is not None:
            self._thread.join(timeout=2 * self._plan.timeout_s)

    def _run(self) -> None:
        next_round = 0.0
        while not self._stop.is_set():
            if self._keeper is not None:
                self._follow(self._keeper.tend())
            if time.monotonic() >= next_round:
                self.check_all()
                jitter = 1.0 + JITTER * (2.0 * self._random() - 1.0)
                next_round = time.monotonic() + self._interval_s * jitter
            due_at = next_round if self._keeper is None else min(next_round, self._keeper.due_at)
            # Somebody else may be looking up the names that are due.
            self._stop.wait(max(due_at - time.monotonic(), LEAST_PAUSE_S))

    def _follow(self, nodes: Sequence[Node]) -> None:
        self._nodes = tuple(nodes)
        for node in nodes:
            node.is_watched = True

    def check_all(self) -> None:
        """Probe every endpoint once, unless it is told to stop in between."""
        for node in self._nodes:
            if self._stop.is_set():
                return
            try:
                self.check(node)
            except Exception:  # the thread's outermost frame for one node
                logger.exception("probing %s failed", node.endpoint)

    def check(self, node: Node) -> None:
        """Probe one endpoint and report rise or fall to its breaker."""
        result = self._ask(node)
        if result.clock_offset_s is not None:
            self.clock_offsets_s[node.endpoint] = result.clock_offset_s
        streak = self._streaks.get(node, 0)
        if result.is_alive:
            node.is_proven = True
            node.heard_at = time.monotonic()
            self._streaks[node] = max(streak, 0) + 1
            if self._streaks[node] >= self._plan.rise:
                node.breaker.invite_trial()
            return
        self._streaks[node] = min(streak, 0) - 1
        logger.debug("probe of %s failed: %s", node.endpoint, result.error)
        if self._streaks[node] == -self._plan.fall:
            logger.warning("%s leaves the pool: %s", node.endpoint, result.error)
        if self._streaks[node] <= -self._plan.fall:
            node.breaker.trip()

    def _ask(self, node: Node) -> ProbeResult:
        plan = self._plan
        if plan.connects_only:
            return probe_port(node, timeout_s=plan.timeout_s)
        path = self._paths.get(node, plan.path or GENERIC_PATH)
        result = probe(node, path=path, timeout_s=plan.timeout_s, is_named=bool(plan.path))
        if plan.adapts and not plan.path:
            self._paths[node] = habits_of(result.server).health_path or path
        return result
