"""Who a client is behind balancers."""

from __future__ import annotations

import ipaddress

import pytest

from s3pool.proxy.clients import client_of, is_trusted
from s3pool.proxy.request import parse_head

NETWORKS = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("fd00::1", True), ("11.0.0.1", False), ("nobody", False)],
)
def test_balancers_are_known_by_their_network(peer: str, trusted: bool) -> None:
    """IPv4 inside IPv6 is IPv4."""
    assert trusted == is_trusted(peer, NETWORKS)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("11.0.0.1", "1.1.1.1", "11.0.0.1"),
        ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "1.1.1.1, 2.2.2.2", "2.2.2.2"),
        ("10.0.0.1", "1.1.1.1, 2.2.2.2, 10.0.0.9", "2.2.2.2"),
        ("10.0.0.1", "2.2.2.2:4711", "2.2.2.2"),
        ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "", "10.0.0.1"),
    ],
)
def test_client_is_the_last_hop_that_is_no_balancer(peer: str, forwarded: str, client: str) -> None:
    """Whatever stands before it, the client may have written itself."""
    head = parse_head(f"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {forwarded}".encode())

    assert client == client_of(head, peer, NETWORKS)
