"""Keep the pool as its configuration means it: the nodes that its names have now, and warm connections."""

from __future__ import annotations

import ipaddress
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from s3pool.endpoint import Endpoint
from s3pool.errors import NoEndpointError, S3PoolError, TransportError
from s3pool.pool.balancer import LoadBalancer
from s3pool.pool.breaker import CLOSED
from s3pool.pool.node import Node
from s3pool.pool.resolver import REFRESH_S, ResolveError, Resolver

logger = logging.getLogger(__name__)

WARM_S = 2.0  # between two looks for connections that were closed


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, which needs no look-up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class NameSource:
    """One endpoint of the configuration, and the nodes it stands for."""

    def __init__(self, endpoint: Endpoint, *, has_name: bool) -> None:
        self.endpoint = endpoint
        self.found: tuple[Endpoint, ...] = () if has_name else (endpoint,)
        self.due_at = -math.inf if has_name else math.inf  # when it is to be looked up
        self.problem = ""  # why the last look failed

    def look_up(self, resolver: Resolver, now: float) -> None:
        """Look for the nodes; where there are none, or nobody knows, the old ones stay, and one line says so."""
        try:
            self.found, ttl_s = resolver.find(self.endpoint)
        except ResolveError as exc:
            self.due_at = now + REFRESH_S
            if self.found and not self.problem:
                logger.warning("%s; the %d nodes that were found before stay", exc, len(self.found))
            self.problem = str(exc)
        else:
            self.due_at = now + ttl_s
            self.problem = ""


class NodeKeeper:
    """Keeps the nodes of a balancer those that the configuration stands for; any thread may call it."""

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        resolver: Resolver,
        make_node: Callable[[Endpoint], Node],
        *,
        resolve_all: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources = [
            NameSource(endpoint, has_name=not is_address(endpoint.host) and (resolve_all or bool(endpoint.discovery)))
            for endpoint in endpoints
        ]
        self._resolver = resolver
        self._make_node = make_node
        self._now = now
        self._balancer: LoadBalancer | None = None
        self.min_connections = 0  # that are kept open to each node
        self._warm_at = math.inf
        # Held while names are looked up; who finds it taken goes on with the nodes there are.
        self._lock = threading.Lock()

    @property
    def due_at(self) -> float:
        """Return when tend() has something to do."""
        return min(self._warm_at, *(source.due_at for source in self._sources))

    def find(self) -> list[Node]:
        """Return the first nodes.

        Raises:
            NoEndpointError: no name has an address. ConfigError: a package is missing.
        """
        self._look_up()
        nodes = [self._make_node(endpoint) for endpoint in self._endpoints()]
        problems = "; ".join(source.problem for source in self._sources if source.problem)
        if not nodes:
            raise NoEndpointError(f"no node was found: {problems}; check the name, and --resolver", sent=False)
        if problems:
            logger.warning("%s; the pool goes on without", problems)
        return nodes

    def attend(self, balancer: LoadBalancer, *, min_connections: int = 0) -> None:
        """Keep this balancer's nodes from now on."""
        self._balancer = balancer
        self.min_connections = min_connections
        self._warm_at = -math.inf if min_connections else math.inf
        balancer.on_second_try = self.refresh

    def tend(self) -> Sequence[Node]:
        """Do what is due; return the nodes."""
        self.refresh()
        balancer = self._balancer
        if balancer is None:
            raise AssertionError("attend() comes first")
        now = self._now()
        if now >= self._warm_at:
            self._warm_at = now + WARM_S
            for node in balancer.nodes:
                if node.breaker.state is CLOSED and not node.is_draining:
                    self._warm(node)
        return balancer.nodes

    def _warm(self, node: Node) -> None:
        try:
            node.connections.keep_open(self.min_connections)
        except TransportError as exc:
            logger.debug("no connection in reserve: %s", exc)

    def refresh(self) -> None:
        """Look up the names that are due, and exchange the nodes where their addresses have changed."""
        if self._now() < min(source.due_at for source in self._sources) or not self._lock.acquire(blocking=False):
            return
        try:
            self._look_up()
            if self._balancer is not None:
                self._exchange(self._balancer)
        except S3PoolError as exc:
            logger.error("%s", exc)
        finally:
            self._lock.release()

    def _look_up(self) -> None:
        for source in self._sources:
            if self._now() >= source.due_at:
                source.look_up(self._resolver, self._now())

    def _endpoints(self) -> list[Endpoint]:
        return list(dict.fromkeys(endpoint for source in self._sources for endpoint in source.found))

    def _exchange(self, balancer: LoadBalancer) -> None:
        """Let new nodes in and those out whose names no longer stand for them; their requests under way finish."""
        before = {node.endpoint: node for node in balancer.nodes}
        wanted = self._endpoints()
        if [(each.spec, each.tier) for each in wanted] == [(each.spec, each.tier) for each in before]:
            return
        former = {node.endpoint: node for node in balancer.former}
        nodes = []
        for endpoint in wanted:
            node = before.pop(endpoint, None)
            if node is None:
                node = self._make_node(endpoint)
                node.join(balancer.nodes[0])
                if endpoint in former:  # its counts go on
                    node.counters = former[endpoint].counters
                logger.info("%s joins the pool", endpoint)
            node.endpoint, node.priority = endpoint, endpoint.tier
            nodes.append(node)
        balancer.use(nodes)
        for node in before.values():
            logger.info("%s leaves the pool: the name no longer stands for it", node.endpoint)
            node.connections.close()
