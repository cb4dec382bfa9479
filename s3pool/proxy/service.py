"""Put the proxy together, keep it up to date, and take it apart."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from s3pool.config_sources import read_source
from s3pool.config_yaml import parse_yaml
from s3pool.errors import ConfigError
from s3pool.pool.retry import RetryPolicy
from s3pool.pool.transport import Transport
from s3pool.proxy.clients import Client, pool_client, read_clients
from s3pool.proxy.forward import Forwarder
from s3pool.proxy.gateway import OPEN, VERIFY, Gateway
from s3pool.proxy.outbound import head_of
from s3pool.proxy.settings import ProxySettings
from s3pool.session import Session, open_session

if TYPE_CHECKING:
    from s3pool.config import Config
    from s3pool.pool.balancer import Node

logger = logging.getLogger(__name__)

CLIENT_PATIENCE_S = 20.0  # no further attempt starts later than this after a request's first


@dataclass(frozen=True, slots=True)
class Opened:
    """A gateway and the session it stands on."""

    gateway: Gateway
    session: Session


def open_gateway(config: Config, settings: ProxySettings) -> Opened:
    """Build what one configuration asks for; connects to nothing.

    Raises:
        ConfigError: endpoints, keys or clients are missing, or a file is unfit.
    """
    clients = load_clients(config, settings)
    if settings.auth == VERIFY and not clients and settings.anonymous == "deny":
        raise ConfigError(
            "nobody could enter: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, give --clients FILE, "
            "or choose --auth passthrough"
        )
    if settings.auth == OPEN:
        config.require_credentials()
    session = open_session(_pool_config(config, settings))
    tiers = {endpoint: number for number, tier in enumerate(settings.tiers) for endpoint in tier}
    for node in session.nodes:
        node.tier = tiers.get(node.endpoint, 0)
    transport = Transport(
        session.transport.balancer,
        session.signer.sign,
        policy=RetryPolicy(retries=settings.tries - 1, deadline_s=CLIENT_PATIENCE_S),
        read_timeout_s=config.read_timeout_s,
        patience_s=config.connect_timeout_s,
        head=head_of,
    )
    pool = config.credentials if config.sign else None
    gateway = Gateway(settings, Forwarder(transport), clients=clients, pool=pool, region=config.region)
    return Opened(gateway, session)


def _pool_config(config: Config, settings: ProxySettings) -> Config:
    """Give the pool's configuration; it signs nothing itself, the gateway's signers do."""
    endpoints = tuple(endpoint for tier in settings.tiers for endpoint in tier) or config.endpoints
    return replace(config, endpoints=endpoints, sticky=settings.sticky or config.sticky, sign=False)


def load_clients(config: Config, settings: ProxySettings) -> Mapping[str, Client]:
    """Give all clients by access key: the pool's own pair, the configuration's, the file's.

    Raises:
        ConfigError: an entry is unfit, or a key is in both lists.
    """
    pool = config.credentials if config.sign else None
    clients = {pool.access_key: pool_client(pool)} if pool is not None else {}
    clients |= read_clients(settings.clients, pool, where="proxy.clients")
    if settings.clients_file:
        source = read_source(settings.clients_file, named_by="--clients")
        for warning in source.secrecy_warnings():
            logger.warning("%s", warning)
        document = parse_yaml(source)
        unknown = sorted(document.keys() - {"clients"})
        if unknown:
            raise ConfigError(f"{settings.clients_file}: unknown key {unknown[0]}; it holds a list named clients")
        clients |= read_clients(document.get("clients"), pool, where=settings.clients_file)
    return clients


class Pool:
    """The session in force and those that still end; what reloading exchanges."""

    def __init__(self, opened: Opened) -> None:
        # Guards the exchange of the session; nothing waits while it is held.
        self._lock = threading.Lock()
        self._opened = opened
        self._probes = False
        self.started = time.time()

    @property
    def gateway(self) -> Gateway:
        """Give the gateway in force."""
        return self._opened.gateway

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Give the nodes in force."""
        return self._opened.session.nodes

    def start(self) -> None:
        """Start watching the nodes, now and after every exchange."""
        self._probes = True
        self._opened.session.start_health()

    def exchange(self, opened: Opened, *, publish: Callable[[Gateway], None]) -> None:
        """Put another configuration in force; requests at work finish on the old one.

        Nodes that are drained stay so.
        """
        drained = {node.endpoint for node in self.nodes if node.is_drained}
        for node in opened.session.nodes:
            node.is_drained = node.endpoint in drained
        if self._probes:
            opened.session.start_health()
        with self._lock:
            old, self._opened = self._opened, opened
        publish(opened.gateway)
        old.session.close()

    def find(self, url: str) -> list[Node]:
        """Give the nodes that a URL, or host:port, names."""
        return [node for node in self.nodes if url.rstrip("/") in (node.endpoint.url, node.endpoint.netloc)]

    def close(self) -> None:
        """Stop watching, and close all connections."""
        self._opened.session.close()
