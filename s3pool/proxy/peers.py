"""Who a client is when a balancer stands before the proxy."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from s3pool.proxy.head import RequestHead
from s3pool.proxy.readers import Network

FORWARDED_FOR = "x-forwarded-for"
FORWARDED_PROTO = "x-forwarded-proto"


def is_trusted(peer: str, networks: Sequence[Network]) -> bool:
    """Say whether an address is a balancer's whose word counts."""
    address = _address(peer) if networks else None
    return address is not None and any(address in network for network in networks)


def client_of(head: RequestHead, peer: str, networks: Sequence[Network]) -> str:
    """Give the address of the client: the last one in X-Forwarded-For that is no balancer's.

    Everything before that one is what the client itself claims.
    """
    hops = [hop.strip(" \t") for value in head.values(FORWARDED_FOR) for hop in value.split(",")]
    for hop in reversed([*hops, peer]):
        if not is_trusted(hop, networks):
            address = _address(hop)
            return str(address) if address is not None else peer
        peer = hop
    return peer


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an address, with or without a port; IPv4 inside IPv6 is IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
