"""Ask for the nodes that a name stands for: the system, or name servers with dnspython."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from s3pool.endpoint import Endpoint
from s3pool.errors import ConfigError, S3PoolError
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

        Raises:
            ResolveError: there are none, or it cannot be known. ConfigError: dnspython is missing.
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
