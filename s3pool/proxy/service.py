"""Put a gateway together from its configuration, with the nodes behind it, and tell how these are."""

from __future__ import annotations

import contextlib
import logging
import resource
from collections.abc import Iterable, Mapping
from typing import Any

from s3pool.config.files import parse_yaml, read_source
from s3pool.config.options import DEFAULT_ORIGIN, Config
from s3pool.dialect import HABITS, MINIO_NAME, RGW_NAME
from s3pool.errors import ConfigError
from s3pool.model import Credentials, Endpoint, Request
from s3pool.pool.health import HealthChecker, ProbePlan
from s3pool.pool.node import CLOSED, HALF_OPEN, Node
from s3pool.pool.node import OPEN as TRIPPED
from s3pool.pool.retry import RetryPolicy
from s3pool.pool.transport import Transport
from s3pool.proxy.clients import Client, pool_client, read_clients
from s3pool.proxy.forward import Forwarder, head_of
from s3pool.proxy.gateway import OPEN, VERIFY, Gateway
from s3pool.proxy.limits import BucketLimits, FairSlots, RateMeter, read_bucket_limits
from s3pool.proxy.settings import DEFAULT_TRIES, ProxySettings
from s3pool.record import dataclass, replace
from s3pool.s3.signing import KeyProvider
from s3pool.session import Session, keys_of, open_session, proxy_hint

OWN = 64  # listeners, logs, probes, the admin page, and answers to those that are turned away
PER_SLOT = 3  # a connection to a node and a pipe
SLOT_PART = 8  # of the descriptors, at least so many for each place at a node


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


logger = logging.getLogger(__name__)

CLIENT_PATIENCE_S = 20.0  # no further attempt starts later than this after a request's first
SLOW_PATIENCE = 10.0  # times that, where the client itself expects minutes
# Paths that answer for one node's health alone.
NAMED_PATHS = {"minio": HABITS[MINIO_NAME].health_path, "rgw": HABITS[RGW_NAME].health_path}


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


def load_clients(
    config: Config, settings: ProxySettings, pool: Credentials | KeyProvider | None
) -> tuple[Mapping[str, Client], BucketLimits]:
    """Return all clients by access key, the pool's own pair among them, and buckets' limits. Raises ConfigError."""
    own = config.credentials
    clients = {own.access_key: pool_client(own, pool or own)} if own is not None else {}
    clients |= read_clients(settings.clients, pool, where="proxy.clients")
    limits = read_bucket_limits(settings.bucket_limits, "proxy.bucket_limits")
    if settings.clients_file:
        source = read_source(settings.clients_file, named_by="--clients")
        for warning in source.secrecy_warnings():
            logger.warning("%s", warning)
        document = parse_yaml(source)
        unknown = sorted(document.keys() - {"clients", "bucket_limits"})
        if unknown:
            raise ConfigError(
                f"{settings.clients_file}: unknown key {unknown[0]}; it holds a list named clients, and bucket_limits"
            )
        limits += read_bucket_limits(document.get("bucket_limits"), f"{settings.clients_file}: bucket_limits")
        clients |= read_clients(document.get("clients"), pool, where=settings.clients_file)
    return clients, limits


COUNTED = (
    *("endpoint", "state", "ejections", "hedges", "requests", "failures", "failure_kinds", "throttled", "retries"),
    *("bytes_sent", "bytes_received", "last_error"),
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


def is_ready(nodes: Iterable[Node]) -> bool:
    """Return whether a node is there that would take a request."""
    return any(
        not node.is_draining and (node.breaker.state != TRIPPED or node.breaker.is_trial_due()) for node in nodes
    )
