"""Nodes, requests and a signature for tests of the pool by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from s3pool.body import BytesBody
from s3pool.model import Endpoint, Request
from s3pool.pool.connections import ConnectionPool, ConnectionSettings
from s3pool.pool.node import CircuitBreaker, Node
from tests.support.scripted import ScriptedServer

Servers = Callable[..., ScriptedServer]
NodeFor = Callable[[Endpoint], Node]
GET = Request("GET", "/b/k", "GetObject", resource="s3/b/k")
PUT = Request("PUT", "/b/k", "PutObject", body=BytesBody(b"content"), resource="s3/b/k")
USUAL = ConnectionSettings()


def sign(request: Request, endpoint: Endpoint, _now: float) -> Mapping[str, str]:
    """Return the headers of a request without a signature."""
    return {"host": request.host_header(endpoint), **request.headers}


def make_node(endpoint: Endpoint, settings: ConnectionSettings = USUAL) -> Node:
    """Return a node that nobody knows yet."""
    return Node(endpoint, ConnectionPool(endpoint, settings), CircuitBreaker())
