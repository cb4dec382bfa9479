"""The composition root: a Config becomes a pool, a transport and an S3 client."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from s3pool.body import Throttle
from s3pool.dialect import CHECKSUM_ALGORITHM, CHECKSUM_MODE
from s3pool.errors import ConfigError
from s3pool.pool.balancer import LoadBalancer
from s3pool.pool.connections import ConnectionPool, ConnectionSettings, make_tls_context
from s3pool.pool.node import CLOSED, CircuitBreaker, Node
from s3pool.pool.retry import DEADLINE_FACTOR, RetryPolicy
from s3pool.pool.transport import Transport
from s3pool.record import replace
from s3pool.s3.client import S3Client
from s3pool.s3.signing import Signer

if TYPE_CHECKING:
    import ssl

    from s3pool.config.options import Config
    from s3pool.endpoint import Credentials, Endpoint, HttpProxy
    from s3pool.keys import RenewedKeys
    from s3pool.pool.health import HealthChecker
    from s3pool.pool.resolver import NodeKeeper

WHEN_REQUIRED = "when_required"
PROBE_S = 1.0  # for an answer; a node that takes longer is none to send people to


class Session:
    """The transport and the S3 client of one pool; close it, or use it as a context manager."""

    def __init__(
        self, config: Config, transport: Transport, client: S3Client, signer: Signer, keeper: NodeKeeper | None = None,
        *, end_traces: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self.config, self.transport, self.client, self.signer = config, transport, client, signer
        self.keeper = keeper  # where nodes are found by name, or connections kept open
        self._end_traces = end_traces
        self._health: HealthChecker | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes of the pool in the order of the configuration."""
        return self.transport.balancer.nodes

    @property
    def all_tls(self) -> bool:
        """Return whether every endpoint is HTTPS, so that bodies are safe without a signed hash."""
        return all(endpoint.scheme == "https" for endpoint in self.transport.endpoints)

    def answering_endpoint(self) -> Endpoint | None:
        """Return the first node that answers, those of the own zone before others; each is asked once."""
        from s3pool.pool.health import probe

        for node in sorted(self.nodes, key=lambda node: (node.priority, node.is_remote)):
            if node.breaker.state is not CLOSED:
                continue
            if node.is_proven or probe(node, timeout_s=min(PROBE_S, self.config.connect_timeout_s)).is_alive:
                node.is_proven = True
                return node.endpoint
            node.breaker.trip()
        return None

    def start_health(self) -> None:
        """Start the background probes; only for long commands with several threads."""
        if self._health is None and (len(self.nodes) > 1 or self.keeper is not None):
            from s3pool.pool.health import HealthChecker

            self._health = HealthChecker(self.nodes, keeper=self.keeper, interval_s=self.config.health_interval_s)
            self._health.start()

    def close(self) -> None:
        """Stop the probes and close the connections."""
        if self._health is not None:
            self._health.stop()
            self._health = None
        self.transport.close()
        if self._end_traces is not None:
            self._end_traces()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def open_session(
    config: Config, *, slot_wait_s: float | None = None, keeps_warm: bool = False, trace: str = ""
) -> Session:
    """Build the session of a configuration; opens no connection and starts no thread.

    Only names that stand for several nodes are looked up. ``slot_wait_s`` is how long a request waits for one of a
    node's connections; ``keeps_warm`` says that some are to be kept open. ``trace`` names the span of all requests,
    where they are traced.

    Raises ConfigError: no endpoint or no credentials are configured, or the CA bundle is bad. NoEndpointError: there
    are endpoints with names to look up, and none has an address.
    """
    config.require_endpoints()
    if config.sign:
        config.require_credentials()
    balancer, keeper = _open_pool(config, slot_wait_s, config.min_connections if keeps_warm else 0)
    tracer = None
    if config.tracing:
        from s3pool.tracing import Tracer  # an extra, which few have

        tracer = Tracer("s3pool", root=trace)
    keys = keys_of(config)
    signer = Signer(keys, region=config.region)
    transport = Transport(
        balancer,
        signer.sign,
        policy=RetryPolicy(retries=config.retries, deadline_s=DEADLINE_FACTOR * config.read_timeout_s),
        read_timeout_s=config.read_timeout_s,
        patience_s=config.connect_timeout_s,
        new_keys=getattr(keys, "replaced", None),
        adopt_region=signer.adopt_region,
        on_end=tracer.add_attempt if tracer is not None else None,
    )
    transport.unreachable_hint = proxy_hint(config)
    client = S3Client(transport, addressing=config.addressing, region=config.region)
    if config.response_checksum_validation == WHEN_REQUIRED:
        client.dialect.learn(CHECKSUM_MODE)
    if config.request_checksum_calculation == WHEN_REQUIRED:
        client.dialect.learn(CHECKSUM_ALGORITHM)
    return Session(config, transport, client, signer, keeper, end_traces=tracer.close if tracer is not None else None)


def _open_pool(
    config: Config, slot_wait_s: float | None, min_connections: int
) -> tuple[LoadBalancer, NodeKeeper | None]:
    """Return what picks the nodes, and what keeps them up to date where names stand for them."""
    make_node, is_all = _node_maker(config, slot_wait_s), config.resolve == "all"
    strategy, sticky = config.strategy, config.sticky == "key"
    if not (min_connections or is_all or any(endpoint.discovery for endpoint in config.endpoints)):
        return LoadBalancer(list(map(make_node, config.endpoints)), strategy=strategy, sticky=sticky), None
    from s3pool.pool.resolver import NodeKeeper, Resolver

    keeper = NodeKeeper(config.endpoints, Resolver(config.resolver), make_node, resolve_all=is_all)
    balancer = LoadBalancer(keeper.find(), strategy=strategy, sticky=sticky)
    keeper.attend(balancer, min_connections=min_connections)
    return balancer, keeper


def proxy_hint(config: Config) -> str:
    """Return what to tell when no node can be reached, and a proxy of the environment is not used."""
    if not config.unused_proxy:
        return ""
    return f"{config.unused_proxy} is set and not used: if the nodes are behind a proxy, give --http-proxy URL"


def _node_maker(config: Config, slot_wait_s: float | None) -> Callable[[Endpoint], Node]:
    settings = ConnectionSettings(
        connect_timeout_s=config.connect_timeout_s,
        read_timeout_s=config.read_timeout_s,
        max_connections=config.max_connections,
        max_idle_s=config.max_idle_time_s,
        slot_wait_s=slot_wait_s,
        insecure=config.insecure,
        ca_bundle=config.ca_bundle,
        client_cert=config.client_cert,
        client_key=config.client_key,
    )
    limit = config.bwlimit
    up, down = limit if isinstance(limit, tuple) else (limit, None)
    throttle = Throttle(up, down=down) if limit else None
    turns = Throttle(config.tpslimit) if config.tpslimit else None
    tls = _SharedTLSContext(settings)

    def make(endpoint: Endpoint) -> Node:
        proxy = _proxy_for(endpoint, config)
        own = replace(settings, http_proxy=proxy) if proxy is not None else settings
        connections = ConnectionPool(endpoint, own, throttle=throttle, turns=turns, tls_context=tls)
        node = Node(endpoint, connections, CircuitBreaker())
        node.is_remote = config.zone not in ("", endpoint.zone) and endpoint.zone != ""
        return node

    return make


def _proxy_for(endpoint: Endpoint, config: Config) -> HttpProxy | None:
    if config.http_proxy is None:
        return None
    names = (name.strip().lower().lstrip("*.") for name in config.no_proxy.split(",") if name.strip())
    if any(not name or f".{endpoint.host}".endswith(f".{name}") or endpoint.netloc == name for name in names):
        return None
    if endpoint.address and endpoint.scheme == "http":
        raise ConfigError(
            f"{endpoint} cannot be reached through the proxy {config.http_proxy}, which looks up names itself; "
            "use https, the name without dns+, or put it into NO_PROXY"
        )
    return config.http_proxy


def keys_of(config: Config) -> Credentials | RenewedKeys | None:
    """Return what signs for a configuration: a pair for ever, keys that are renewed, or nothing."""
    if not config.sign or config.key_source is None:
        return config.credentials
    from s3pool.keys import open_keys

    return open_keys(config, config.key_source)


class _SharedTLSContext:
    """One TLS context for all endpoints, made when the first of them connects."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        # Guards the creation, which reads the certificate store.
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None

    def __call__(self) -> ssl.SSLContext:
        with self._lock:
            if self._context is None:
                self._context = make_tls_context(self._settings)
            return self._context
