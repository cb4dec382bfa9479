"""One proxy process: the gateway with its nodes, put together from the configuration, and the listeners before it."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from s3pool import __version__
from s3pool.config.options import DEFAULT_ORIGIN, Config
from s3pool.dialect import HABITS, MINIO_NAME, RGW_NAME
from s3pool.errors import ConfigError, S3PoolError
from s3pool.model import Endpoint, Request
from s3pool.pool.health import HealthChecker, ProbePlan
from s3pool.pool.node import CLOSED, HALF_OPEN, Node
from s3pool.pool.retry import RetryPolicy
from s3pool.pool.transport import Transport
from s3pool.proxy.admin import AdminActions, AdminServer, admin_rules
from s3pool.proxy.clients import load_clients
from s3pool.proxy.forward import Forwarder, head_of
from s3pool.proxy.gateway import OPEN, VERIFY, Gateway
from s3pool.proxy.limits import FairSlots, RateMeter
from s3pool.proxy.metrics import AccessLog, Metrics, PoolHistory, gauges, limit_log
from s3pool.proxy.server import ProxyServer, server_context
from s3pool.proxy.settings import DEFAULT_TRIES, OFF, Address, ProxySettings
from s3pool.record import dataclass, replace
from s3pool.session import Session, keys_of, open_session, proxy_hint

logger = logging.getLogger(__name__)

Record = dict[str, Any]
LoadConfig = Callable[[], "tuple[Config, ProxySettings]"]
ACCEPT_POLL_S = 0.1  # how soon accepting ends when it is told to
# Each thread that waits for the interpreter wakes up this often. There may be hundreds, and
# they need not: whoever has it gives it away at its next send or receive.
SWITCH_INTERVAL_S = 0.05
COLLECT_AFTER = 10_000  # new objects; requests leave no cycles behind, so there is little to find
OWN = 64  # listeners, logs, probes, the admin page, and answers to those that are turned away
PER_SLOT = 3  # a connection to a node and a pipe
SLOT_PART = 8  # of the descriptors, at least so many for each place at a node
CLIENT_PATIENCE_S = 20.0  # no further attempt starts later than this after a request's first
SLOW_PATIENCE = 10.0  # times that, where the client itself expects minutes
# Paths that answer for one node's health alone.
NAMED_PATHS = {"minio": HABITS[MINIO_NAME].health_path, "rgw": HABITS[RGW_NAME].health_path}
COUNTED = (
    *("endpoint", "state", "ejections", "hedges", "requests", "failures", "failure_kinds", "throttled", "retries"),
    *("bytes_sent", "bytes_received", "last_error"),
)


@dataclass(frozen=True, slots=True)
class OpenGateway:
    """A gateway with its session and health checker."""

    gateway: Gateway
    session: Session
    checker: HealthChecker

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes."""
        return self.session.nodes

    def find(self, url: str) -> list[Node]:
        """Return the nodes that a URL, host:port, or an address that was found for a name, names."""
        name = url.rstrip("/")
        named = [(node, (node.endpoint.url, node.endpoint.netloc, node.endpoint.address)) for node in self.nodes]
        return [node for node, names in named if name and name in names]

    def tend(self) -> None:
        """Do what is due for the nodes, in a process that does not probe them."""
        if self.session.keeper is not None:
            self.session.keeper.tend()

    def stats(self) -> dict[str, Any]:
        """Return what bodies take, what is tried again, and everything about the nodes, ready for JSON."""
        loader, skews = self.gateway.loader, self.checker.clock_offsets_s
        return {
            "replay_memory": {"used": loader.budget.used, "size": loader.budget.size},
            "spool": {"used": loader.disk.used, "size": loader.disk.size},
            "retrying": self.gateway.forwarder.budget.retrying,
            "endpoints": [_node_record(node, skews) for node in self.nodes],
        }

    def close(self) -> None:
        """Stop watching the nodes, and close all connections."""
        self.checker.stop()
        self.session.close()


def open_gateway(config: Config, settings: ProxySettings, meter: RateMeter | None = None) -> OpenGateway:
    """Build a gateway without connecting; ``meter`` counts limits. Raises ConfigError: a setting is unfit."""
    pool = keys_of(config)
    clients, bucket_limits = load_clients(config, settings, pool)
    if settings.auth == VERIFY and not clients and settings.anonymous == "deny":
        raise ConfigError(
            "nobody could enter: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, give --clients FILE, "
            "or choose --auth passthrough"
        )
    if settings.auth == OPEN:
        config.require_credentials()
        if callable(pool):
            pool()  # where it gives no keys, nobody could be served: better known now
    session = open_session(_pool_config(config, settings), slot_wait_s=settings.slot_wait, keeps_warm=True)
    forwarder = _forwarder(session, settings)
    gateway = Gateway(
        settings, forwarder, clients=clients, pool=pool, region=config.region, meter=meter, bucket_limits=bucket_limits
    )
    forwarder.transport.adopt_region = gateway.adopt_region
    interval_s = settings.probe_interval or session.config.health_interval_s
    plan = probe_plan(settings)
    checker = HealthChecker(session.nodes, keeper=session.keeper, interval_s=interval_s, plan=plan)
    return OpenGateway(gateway, session, checker)


def _forwarder(session: Session, settings: ProxySettings) -> Forwarder:
    timeout_s = session.config.read_timeout_s
    slots = slots_within(sum(node.connections.settings.max_connections - 1 for node in session.nodes))
    transport = Transport(
        session.transport.balancer,
        session.signer.sign,
        policy=ProxyPolicy(retries=_retries(session.config, settings), deadline_s=CLIENT_PATIENCE_S),
        read_timeout_s=timeout_s,
        patience_s=session.config.connect_timeout_s,
        head=head_of,
        on_end=(lambda _attempt: None) if settings.tracing else None,
    )
    transport.unreachable_hint = proxy_hint(session.config)
    return Forwarder(
        transport,
        retry_share=settings.retry_budget,
        timeout_factor=settings.slow_op_timeout / timeout_s,
        slots=FairSlots(slots),
        body_slots=clients_within(settings.max_clients, slots),
        is_plain=not session.config.is_limited and all(node.endpoint.scheme == "http" for node in session.nodes),
    )


def _retries(config: Config, settings: ProxySettings) -> int:
    """Return the attempts after the first: the proxy's own number, or --retries where it is set."""
    if settings.tries is None and config.origins.get("retries", DEFAULT_ORIGIN) != DEFAULT_ORIGIN:
        return config.retries
    return (settings.tries or DEFAULT_TRIES) - 1


class ProxyPolicy(RetryPolicy):
    """The pool's policy with a client's patience, which does not grow with a node's timeouts."""

    def deadline_for(self, request: Request) -> float:
        """Return the seconds after which no further attempt of this request starts."""
        return self.deadline_s * (SLOW_PATIENCE if request.timeout_factor > 1.0 else 1.0)


def _pool_config(config: Config, settings: ProxySettings) -> Config:
    """Return the pool's configuration; it signs nothing itself, the gateway's signers do."""
    tiers = enumerate(settings.tiers)
    endpoints = tuple(replace(endpoint, tier=number) for number, tier in tiers for endpoint in tier)
    return config.replace(
        endpoints=endpoints or config.endpoints,
        sticky=settings.sticky or config.sticky,
        sign=False,
        tracing=False,  # what is sent for a client is in its trace
        read_timeout_s=settings.ttfb_timeout or config.read_timeout_s,
        max_idle_time_s=settings.backend_idle or config.max_idle_time_s,
    )


def probe_plan(settings: ProxySettings) -> ProbePlan:
    """Return the health probe, and how many results change a node's state."""
    words = settings.probe
    path = words if words.startswith("/") else NAMED_PATHS.get(words, "")
    return ProbePlan(
        path=path,
        adapts=words == "auto",
        connects_only=words == "tcp",
        timeout_s=settings.probe_timeout,
        rise=settings.rise,
        fall=settings.fall,
    )


def _node_record(node: Node, skews: Mapping[Endpoint, float]) -> dict[str, Any]:
    """Return everything about one endpoint, ready for JSON."""
    stats = node.counters.snapshot(node.endpoint.url, node.breaker.state, node.breaker.ejections)
    return {
        **{name: getattr(stats, name) for name in COUNTED},
        "health": _health(node),
        "drained": node.is_draining,
        "tier": node.priority,
        "zone": node.endpoint.zone,
        "weight": node.endpoint.weight,
        "in_flight": node.in_flight,
        "latency_ms": round(node.latency_s * 1000, 3),
        "answers": stats.timed,
        "answer_seconds": round(stats.seconds, 6),
        "connections": node.connections.counts.snapshot(),
        "clock_skew_s": skews.get(node.endpoint),
    }


def _health(node: Node) -> str:
    """Return the state of a node in a word that people use."""
    if node.is_draining:
        return "draining" if node.in_flight else "drained"
    if node.breaker.state == CLOSED:
        return "up"
    return "avoided" if node.breaker.state == HALF_OPEN or node.breaker.is_invited else "down"


def raise_limit() -> None:
    """Let this process have as many descriptors as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def slots_within(wanted: int) -> int:
    """Return how many requests may be at work on nodes, of those that the nodes' connections allow."""
    return max(min(wanted, (_limit() - OWN) // SLOT_PART), 1)


def clients_within(wanted: int, slots: int) -> int:
    """Return the maximum of client connections, beside the descriptors of those slots."""
    return max(min(wanted, _limit() - OWN - PER_SLOT * slots), 1)


def _limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def tune_interpreter() -> None:
    """Fit the whole process to many threads that mostly wait; for processes that do nothing else."""
    limit_log()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()  # what is there now stays to the end
    gc.set_threshold(COLLECT_AFTER)


class Proxy:
    """One proxy process, ready to be started; ``load`` reads the configuration, now and for a reload.

    Among several some have no admin listener, and one has no server for clients; ``merge`` adds the others' state.
    """

    def __init__(
        self, load: LoadConfig, *, has_server: bool = True, has_admin: bool = True, meter: RateMeter | None = None
    ) -> None:
        self._load = load
        config, self.settings = load()
        tls = server_context(self.settings)
        self.metrics = Metrics(multiprocess=not (has_server and has_admin))
        self._meter = meter or RateMeter()
        self.opened = open_gateway(config, self.settings, self._meter)
        self._started, self._probes = time.time(), False
        self.log = AccessLog(self.settings.access_log) if self.settings.access_log != OFF else None
        self.merge: Callable[[Record], Record] = lambda own: own
        self.server: ProxyServer | None = None
        self.admin: AdminServer | None = None
        self.is_draining = False
        self._end_traces: Callable[[], None] = lambda: None
        self.history = PoolHistory()
        try:
            if has_server:
                self.server = ProxyServer(
                    self.settings.listen, self.opened.gateway, metrics=self.metrics, log=self.log, tls=tls
                )
                if self.settings.tracing:
                    from s3pool.tracing import Tracer  # an extra, which few have

                    tracer = Tracer("s3pool-proxy")
                    self.server.trace, self._end_traces = tracer.add_served, tracer.close
            if has_admin and self.settings.admin_listen is not None:
                self.admin = AdminServer(self.settings.admin_listen, self._desk(), admin_rules(self.settings))
        except BaseException:
            if self.server is not None:
                self.server.server_close()
            raise
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> Address:
        """Return the listening address with its actual port."""
        return self.settings.listen if self.server is None else self.server.address

    @property
    def admin_address(self) -> Address | None:
        """Return the admin listener's address, None without one."""
        return self.admin.address if self.admin is not None else None

    def start(self, *, probes: bool = True) -> None:
        """Watch the nodes and take connections, in threads."""
        self._probes = probes
        if probes:
            self.opened.checker.start()
        if self.server is not None:
            self._thread = threading.Thread(
                target=self.server.serve_forever, args=(ACCEPT_POLL_S,), name="s3pool-accept", daemon=True
            )
            self._thread.start()
        if self.admin is not None:
            self.admin.start()

    @property
    def connections(self) -> int:
        """Return the number of S3 clients' open connections."""
        return self.server.connections if self.server is not None else 0

    def reload(self) -> None:
        """Reload the configuration; an invalid one is logged and changes nothing."""
        try:
            config, settings = self._load()
            tls = server_context(settings)
            opened = open_gateway(config, settings, self._meter)
            rules = admin_rules(settings)
            if self.log is not None:
                self.log.reopen()
        except S3PoolError as exc:
            logger.error("the configuration was not reloaded: %s", exc)
            return
        self._exchange(opened, tls)
        if self.admin is not None:
            self.admin.rules = rules
        fixed = ("listen", "admin_listen", "processes", "access_log", "tracing")
        for name in fixed:
            if getattr(settings, name) != getattr(self.settings, name):
                logger.warning("proxy.%s has changed; that takes a restart", name)
        logger.info("the configuration was reloaded")

    def _exchange(self, opened: OpenGateway, tls: ssl.SSLContext | None) -> None:
        """Put another configuration in force; requests at work finish on the old one, drained nodes stay so."""
        drained = {node.endpoint for node in self.opened.nodes if node.is_draining}
        for node in opened.nodes:
            node.is_draining = node.endpoint in drained
        if self._probes:
            opened.checker.start()
        old, self.opened = self.opened, opened
        if self.server is not None:
            self.server.gateway, self.server.tls = opened.gateway, tls
        old.close()

    def drain(self, *, is_urgent: Callable[[], bool] = lambda: False) -> bool:
        """Take no new connections, let running requests finish, and return whether all did."""
        self.is_draining = True
        return self.server is None or self.server.drain(is_urgent=is_urgent)

    def close(self) -> None:
        """Close what is open."""
        if self.admin is not None:
            self.admin.stop()
        self.opened.close()
        self.metrics.flush()
        self._end_traces()
        if self.log is not None:
            self.log.close()

    # -- what the admin listener shows -----------------------------------------------------------

    def _desk(self) -> AdminActions:
        return AdminActions(
            is_draining=lambda: self.is_draining,
            is_ready=lambda: self.opened.gateway.is_ready,
            metrics=self._render_metrics,
            stats=self.stats,
            set_drained=self.set_drained,
            history=self.history,
        )

    def _render_metrics(self) -> bytes:
        record = self.stats()
        return self.metrics.render(gauges(record), record["pids"])

    def stats(self) -> dict[str, Any]:
        """Return the whole state, ready for JSON."""
        opened = self.opened
        own = {
            "version": __version__,
            "uptime_s": round(time.time() - self._started, 1),
            "draining": self.is_draining,
            "auth": opened.gateway.settings.auth,
            "connections": self.connections,
            "pids": [os.getpid()],
            "requests": self.metrics.summary(),
            **opened.stats(),
        }
        return self.merge(own)

    def set_drained(self, url: str, drained: bool) -> int:
        """Take nodes out of service, or back; give how many there were of that name."""
        nodes = self.opened.find(url)
        for node in nodes:
            node.is_draining = drained
        return len(nodes)
