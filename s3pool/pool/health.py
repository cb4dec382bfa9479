"""Watch the endpoints in the background; report to their breakers, decide nothing."""

from __future__ import annotations

import logging
import random as random_module
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from s3pool.errors import TransportError
from s3pool.model import Endpoint
from s3pool.pool.balancer import Node
from s3pool.pool.greeting import GENERIC_PATH, greet

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 2.0
JITTER = 0.2  # +- share of the interval, so that many clients do not probe in step
RISE = 2  # successes in a row that let a trial through an open circuit
FALL = 3  # failures in a row that open the circuit
ALIVE_BELOW_STATUS = 500
DATE_CENTRE_S = 0.5  # a Date header is cut to whole seconds: the server's clock is half of one ahead of it
# Paths that need no signature and touch no disk, by a word of the Server header.
PATH_BY_SERVER = {"minio": "/minio/health/live", "ceph": "/swift/healthcheck"}


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one unsigned request told of an endpoint.

    ``latency_s`` runs from the request to the end of the answer, ``connect_s`` is the time for
    a new connection with TLS, 0 on a kept one. ``clock_offset_s`` is the server's clock
    minus ours, to half a second; None without a Date header.
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


def probe(node: Node, *, path: str = GENERIC_PATH, timeout_s: float = PROBE_TIMEOUT_S) -> ProbeResult:
    """Ask an endpoint for a sign of life, over its own TLS settings; never raises for a sick one."""
    started = time.monotonic()
    try:
        wire = node.connections.checkout(connect_timeout_s=timeout_s)
    except TransportError as exc:
        return ProbeResult(node.endpoint, is_alive=False, error=str(exc))
    connected = time.monotonic()
    is_reusable = False
    try:
        head, is_reusable = greet(wire, node.endpoint.netloc, path=path, timeout_s=timeout_s)
    except TransportError as exc:
        return ProbeResult(node.endpoint, is_alive=False, error=str(exc), tls_version=wire.tls_version)
    finally:
        node.connections.checkin(wire, reusable=is_reusable)
    return ProbeResult(
        node.endpoint,
        is_alive=head.status < ALIVE_BELOW_STATUS,
        status=head.status,
        latency_s=time.monotonic() - connected,
        connect_s=connected - started,
        server=head.headers.get("server", ""),
        tls_version=wire.tls_version,
        clock_offset_s=_clock_offset_s(head.headers.get("date", "")),
        error="" if head.status < ALIVE_BELOW_STATUS else f"status {head.status}",
    )


def _clock_offset_s(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() + DATE_CENTRE_S - time.time()
    except (TypeError, ValueError, IndexError):
        return None


class HealthChecker:
    """The thread that probes every endpoint in turn; it owns the thread from start to join."""

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        interval_s: float = 5.0,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._nodes = tuple(nodes)
        self._interval_s = interval_s
        self._random = random
        self._streaks = dict.fromkeys(self._nodes, 0)  # successes in a row, or failures as a negative number
        self._paths = dict.fromkeys(self._nodes, GENERIC_PATH)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; the first round begins at once."""
        self._thread = threading.Thread(target=self._run, name="s3pool-health", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; waits for a probe under way, at most its timeout."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * PROBE_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.check_all()
            jitter = 1.0 + JITTER * (2.0 * self._random() - 1.0)
            self._stop.wait(self._interval_s * jitter)

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
        result = probe(node, path=self._paths[node])
        for word, path in PATH_BY_SERVER.items():
            if word in result.server.lower():
                self._paths[node] = path
        streak = self._streaks[node]
        if result.is_alive:
            node.is_proven = True
            self._streaks[node] = max(streak, 0) + 1
            if self._streaks[node] >= RISE:
                node.breaker.invite_trial()
            return
        self._streaks[node] = min(streak, 0) - 1
        logger.debug("probe of %s failed: %s", node.endpoint, result.error)
        if self._streaks[node] == -FALL:
            logger.warning("%s leaves the pool: %s", node.endpoint, result.error)
        if self._streaks[node] <= -FALL:
            node.breaker.trip()
