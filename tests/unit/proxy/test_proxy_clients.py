"""Who clients are: their keys, and their addresses behind balancers."""

from __future__ import annotations

import ipaddress
from contextlib import nullcontext

import pytest

from s3pool.errors import ConfigError
from s3pool.model import Credentials
from s3pool.proxy.clients import Client, client_of, is_trusted, read_clients
from s3pool.proxy.errors import S3ErrorResponse
from s3pool.proxy.operations import S3Operation
from s3pool.proxy.request import parse_head

READ, WRITE = S3Operation("GetObject", reads=True), S3Operation("PutObject")
PAIR = {"access_key": "A", "secret_key": "hush"}
POOL = Credentials("P", "pool-secret")


def test_client_is_itself_unless_it_is_the_pool() -> None:
    """What the nodes see as its identity."""
    clients = read_clients([PAIR, {**PAIR, "access_key": "B", "backend": "pool"}], POOL, where="w")

    assert Credentials("A", "hush") == clients["A"].credentials
    assert POOL == clients["B"].credentials


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({}, "must be a list"),
        (["A"], "must be a map"),
        ([{"access_key": "A"}], "secret_key must be text"),
        ([{**PAIR, "secret_key": 12}], "secret_key must be text"),
        ([{**PAIR, "bucket": "x"}], "unknown key bucket"),
        ([{**PAIR, "buckets": []}], "buckets must be"),
        ([{**PAIR, "read_only": "yes"}], "read_only must be"),
        ([{**PAIR, "backend": "other"}], "backend must be"),
        ([{**PAIR, "expires": "soon"}], "expires must be a date"),
        ([PAIR, PAIR], "client 2: the access key A is there twice"),
    ],
)
def test_unfit_entries_are_refused(entries: object, words: str) -> None:
    """The message names the entry, and never the secret."""
    with pytest.raises(ConfigError, match=words) as refusal:
        read_clients(entries, POOL, where="w")

    assert "hush" not in str(refusal.value)


def test_secret_is_in_no_repr() -> None:
    """Not even of a client that a debugger prints."""
    assert "hush" not in repr(read_clients([PAIR], POOL, where="w"))


@pytest.mark.parametrize(
    ("client", "operation", "bucket", "source", "passes"),
    [
        (Client("A", "s"), WRITE, "b", "", True),
        (Client("A", "s", read_only=True), READ, "b", "", True),
        (Client("A", "s", read_only=True), WRITE, "b", "", False),
        (Client("A", "s", buckets=("log-*",)), WRITE, "log-1", "", True),
        (Client("A", "s", buckets=("log-*",)), WRITE, "b", "", False),
        (Client("A", "s", buckets=("log-*",)), WRITE, "log-1", "b", False),
        (Client("A", "s", buckets=("log-*",)), READ, "", "", False),
        (Client("A", "s", expires=100.0), READ, "b", "", True),
        (Client("A", "s", expires=10.0), READ, "b", "", False),
    ],
)
def test_authorization(client: Client, operation: S3Operation, bucket: str, source: str, passes: bool) -> None:
    """Buckets, reading, and time."""
    refusal = nullcontext() if passes else pytest.raises(S3ErrorResponse, match="403 AccessDenied")

    with refusal:
        client.authorize(operation, bucket, source_bucket=source, now=50.0)


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
