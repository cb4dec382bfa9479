"""The nodes that a name stands for, asked of the system or of name servers with dnspython, and kept up to date."""

from __future__ import annotations

import ipaddress
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from s3pool.endpoint import Endpoint
from s3pool.errors import ConfigError, NoEndpointError, S3PoolError, TransportError
from s3pool.pool.balancer import LoadBalancer
from s3pool.pool.node import CLOSED, Node
from s3pool.record import replace

if TYPE_CHECKING:
    import dns.resolver

REFRESH_S = 10.0  # where nobody tells how long an answer holds
LEAST_TTL_S, MOST_TTL_S = 1.0, 300.0
LOOKUP_TIMEOUT_S = 4.0  # of one question to all name servers
DNS_PORT = 53
MAX_WEIGHT = 100  # of an endpoint
NO_SUCH_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
NO_DNSPYTHON = "SRV records and --resolver need the package dnspython; run: pip install 's3pool[dns]'"


class ResolveError(S3PoolError):
    """Nobody could be asked for a name; or, where ``is_certain``, there is no such name."""

    def __init__(self, message: str, *, is_certain: bool = False) -> None:
        super().__init__(message)
        self.is_certain = is_certain


class FoundNodes(NamedTuple):
    """The nodes of a name, and for how many seconds they may be taken for granted."""

    endpoints: tuple[Endpoint, ...]
    ttl_s: float


class Resolver:
    """Finds the nodes of endpoints with names.

    ``servers`` are name servers, as address:port. Without any, addresses come from the
    system (with its hosts file), and SRV records from the servers of resolv.conf.
    """

    def __init__(self, servers: Sequence[str] = ()) -> None:
        parts = [urlsplit(f"//{server}") for server in servers]
        self._servers = [(part.hostname or "", part.port or DNS_PORT) for part in parts]

    def find(self, endpoint: Endpoint) -> FoundNodes:
        """Return the nodes that an endpoint stands for now.

        Raises ResolveError: there are none, or it cannot be known. ConfigError: dnspython is missing.
        """
        found = self._by_service(endpoint) if endpoint.discovery == "srv" else self._by_address(endpoint)
        if not found.endpoints:
            raise ResolveError(f"{endpoint}: the name has no addresses")
        return found._replace(ttl_s=min(max(found.ttl_s, LEAST_TTL_S), MOST_TTL_S))

    def _by_address(self, endpoint: Endpoint) -> FoundNodes:
        if self._servers:
            addresses, ttl_s = self._ask_addresses(endpoint)
        else:
            addresses, ttl_s = _system_addresses(endpoint), REFRESH_S
        nodes = (replace(endpoint, discovery="", address=address) for address in sorted(addresses))
        return FoundNodes(tuple(nodes), ttl_s)

    def _by_service(self, endpoint: Endpoint) -> FoundNodes:
        """Follow SRV records (RFC 2782): priorities become tiers, and weights multiply the endpoint's own."""
        records, ttl_s = self._ask(endpoint, endpoint.host, "SRV")
        ranks = sorted({record.priority for record in records})
        weights = _reduced([record.weight for record in records], limit=MAX_WEIGHT // endpoint.weight)
        nodes: list[Endpoint] = []
        for record, weight in zip(records, weights, strict=True):
            host = record.target.to_text(omit_final_dot=True).lower()
            if not host:  # RFC 2782: the service is not offered
                continue
            tier = endpoint.tier + ranks.index(record.priority)
            node = replace(endpoint, discovery="dns", host=host, port=record.port, tier=tier)
            node = replace(node, weight=endpoint.weight * weight)
            try:
                of_host = self._by_address(node)
            except ResolveError as exc:
                if not exc.is_certain:
                    raise
                continue  # a node that is going
            nodes += of_host.endpoints
            ttl_s = min(ttl_s, of_host.ttl_s)
        return FoundNodes(tuple(sorted(nodes, key=str)), ttl_s)

    def _ask_addresses(self, endpoint: Endpoint) -> tuple[set[str], float]:
        answers = [self._ask(endpoint, endpoint.host, kind) for kind in ("A", "AAAA")]
        return {record.address for records, _ in answers for record in records}, min(ttl_s for _, ttl_s in answers)

    def _ask(self, endpoint: Endpoint, name: str, kind: str) -> tuple[list[Any], float]:
        resolver = self._make_resolver()
        import dns.exception
        import dns.resolver

        try:
            answer = resolver.resolve(name, kind, search=True, raise_on_no_answer=False)
        except dns.exception.DNSException as exc:
            is_certain = isinstance(exc, dns.resolver.NXDOMAIN)
            raise ResolveError(f"{endpoint}: {_plain(exc)}", is_certain=is_certain) from exc
        return list(answer.rrset or ()), answer.expiration - time.time() if answer.rrset else math.inf

    def _make_resolver(self) -> dns.resolver.Resolver:
        try:
            import dns.nameserver
            import dns.resolver
        except ImportError:
            raise ConfigError(NO_DNSPYTHON) from None
        resolver = dns.resolver.Resolver(configure=not self._servers)
        resolver.lifetime = LOOKUP_TIMEOUT_S
        if self._servers:
            resolver.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in self._servers]
        return resolver


def _reduced(weights: Sequence[int], *, limit: int) -> list[int]:
    """Return weights in the same proportion, as small as can be; 0 becomes the smallest."""
    common = math.gcd(*weights) or 1
    scale = max(max(weights, default=0) / limit, common)
    return [max(round(weight / scale), 1) for weight in weights]


def _system_addresses(endpoint: Endpoint) -> set[str]:
    try:
        rows = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        is_certain = getattr(exc, "errno", None) in NO_SUCH_NAME
        raise ResolveError(f"{endpoint}: {getattr(exc, 'strerror', None) or exc}", is_certain=is_certain) from exc
    return {str(row[4][0]) for row in rows}


def _plain(error: Exception) -> str:
    return str(error).partition("; ")[0].rstrip(".")


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
        """Return the first nodes. Raises NoEndpointError: no name has an address. ConfigError: a package is missing."""
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
