"""Servers and nodes that end with their test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from s3pool.model import Endpoint
from s3pool.pool.node import Node
from tests.support.pools import NodeFor, Servers, make_node
from tests.support.scripted import OK, ScriptedServer


@pytest.fixture
def servers() -> Iterator[Servers]:
    """Make servers: ``servers(OK, HANG)`` answers its first request, and no other."""
    with ExitStack() as stack:
        yield lambda *turns, **options: stack.enter_context(ScriptedServer(turns or (OK,), **options))


@pytest.fixture
def node_for() -> Iterator[NodeFor]:
    """Make the nodes of endpoints."""
    with ExitStack() as stack:

        def make(endpoint: Endpoint) -> Node:
            node = make_node(endpoint)
            stack.callback(node.connections.close)
            return node

        yield make
