"""An answer that is taken as it arrives: all of it or nothing, and no byte lost for who reads on."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from select import select
from typing import NamedTuple

import pytest

from s3pool.errors import TransportError
from s3pool.model import Endpoint, Request, Response
from s3pool.pool.balancer import LoadBalancer
from s3pool.pool.connections import ConnectionPool, ConnectionSettings
from s3pool.pool.exchange import Answer, Exchange, NeedsThread, begin_exchange, send_over
from s3pool.pool.http1 import BUFFER_BYTES
from s3pool.pool.node import CLOSED, HALF_OPEN, CircuitBreaker, Node, Totals
from s3pool.pool.transport import Transport
from tests.support.clock import Chosen
from tests.support.scripted import OK, ScriptedServer

GET = Request("GET", "/b/k", "GetObject")
HEAD = b"GET /b/k HTTP/1.1\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Ends(NamedTuple):
    """An exchange, and the node's side of its connection."""

    exchange: Exchange
    node: socket.socket

    def send(self, block: bytes) -> None:
        """Send from the node, and wait until it is there."""
        self.node.sendall(block)
        self.await_something()

    def await_something(self) -> None:
        """Wait until there is something to take."""
        assert select([self.exchange.connection.fileno()], [], [], 5.0)[0]

    def rest(self) -> bytes:
        """Read the answer to its end by the ways that wait."""
        self.exchange.read(5.0)
        return self.exchange.taken().preload()


def begin_now(node: Node) -> Exchange | None:
    """Send a request over an open connection, if there is one, and count it."""
    connection, totals = node.connections.take_open(), Totals()
    exchange = send_over(connection, node, GET, HEAD) if connection is not None else None
    totals.of(node).begun += exchange is not None
    totals.flush()
    return exchange


def arrives(exchange: Exchange) -> Answer | None:
    """Take what has arrived; an answer that is here ends the exchange."""
    answer, totals = exchange.receive(0, is_good_only=True), Totals()
    if answer is not None:
        exchange.end(answer[0], totals.of(exchange.node))
        totals.flush()
    return answer


def body_of(arrival: Answer | None) -> bytes | None:
    """Give an answer's body, None when it is not there."""
    return arrival[1] if arrival is not None else None


def preload(response: Response) -> None:
    """Read the body."""
    response.preload()


@pytest.fixture(name="ends")
def _ends() -> Iterator[Ends]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint("http", "127.0.0.1", listener.getsockname()[1])
        node = Node(endpoint, ConnectionPool(endpoint, ConnectionSettings()), CircuitBreaker())
        exchange = begin_exchange(node, GET, lambda _: b"GET / HTTP/1.1\r\n\r\n", greeting_s=None)
        sock, _ = listener.accept()
        with sock:
            yield Ends(exchange, sock)
        exchange.abandon()
        node.connections.close()


def test_nothing_is_not_yet(ends: Ends) -> None:
    """And costs no wait."""
    assert arrives(ends.exchange) is None


@pytest.mark.parametrize("cut", range(1, len(WHOLE)))
def test_answer_may_come_in_pieces(ends: Ends, cut: int) -> None:
    """Wherever a segment ends."""
    ends.send(WHOLE[:cut])
    first = arrives(ends.exchange)
    ends.send(WHOLE[cut:])

    assert (None, b"hello", 0) == (first, body_of(arrives(ends.exchange)), ends.exchange.node.in_flight)


@pytest.mark.parametrize(
    ("block", "method"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n", "HEAD"),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "GET"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET"),
    ],
)
def test_answer_without_a_body_is_its_head(ends: Ends, block: bytes, method: str) -> None:
    """Whatever length it names."""
    ends.exchange.request = Request(method, "/b/k", "GetObject")
    ends.send(block)

    assert (b"", 0) == (body_of(arrives(ends.exchange)), ends.exchange.node.in_flight)


@pytest.mark.parametrize(
    ("block", "end", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BUFFER_BYTES, b"x" * BUFFER_BYTES, b"x" * BUFFER_BYTES),
        (b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\n", b"hello", b"hello"),
        (b"HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\n", b"hello", b"hello"),
        (b"HTTP/1.1 429 No\r\nContent-Length: 5\r\n\r\n", b"hello", b"hello"),
    ],
    ids=["chunked", "large", "500", "403", "429"],
)
def test_who_waits_goes_on_from_there(ends: Ends, block: bytes, end: bytes, body: bytes) -> None:
    """Nothing is lost by having looked."""
    ends.send(block)
    with pytest.raises(NeedsThread):
        arrives(ends.exchange)
    ends.node.sendall(end)

    assert body == ends.rest()


@pytest.mark.parametrize("cut", [10, len(WHOLE) - 2])
def test_slow_answer_is_read_on_by_an_attempt(ends: Ends, cut: int) -> None:
    """The head may have been read by then, or not."""
    node = ends.exchange.node
    transport = Transport(LoadBalancer([node]), lambda *_: {"host": "x"})
    ends.send(WHOLE[:cut])
    first = arrives(ends.exchange)
    attempt = transport.attempt(GET, preload)
    attempt.adopt(ends.exchange)
    ends.node.sendall(WHOLE[cut:])

    assert (None, b"hello", 0) == (first, transport.finish(attempt).body, node.in_flight)


@pytest.mark.parametrize("begin", [b"", WHOLE[:10], WHOLE[:-1], b"nonsense\r\n\r\n"])
def test_end_and_nonsense_are_for_who_waits(ends: Ends, begin: bytes) -> None:
    """There it is told what is wrong."""
    if begin:
        ends.send(begin)
        with suppress(NeedsThread, TransportError):
            arrives(ends.exchange)
    ends.node.close()
    ends.await_something()

    with pytest.raises((NeedsThread, TransportError)):
        arrives(ends.exchange)
    with pytest.raises(TransportError):
        ends.rest()


def test_bytes_behind_the_answer_end_the_connection(ends: Ends) -> None:
    """They are nobody's answer."""
    ends.send(WHOLE + b"HTTP/1.1 200 OK\r\n")

    assert b"hello" == body_of(arrives(ends.exchange))
    assert ends.exchange.node.connections.take_open() is None


# -- beginning without connecting ----------------------------------------------------------------


@pytest.fixture(name="server")
def _server() -> Iterator[ScriptedServer]:
    with ScriptedServer((OK,)) as server:
        yield server


def test_kept_connection_is_taken_without_connecting(server: ScriptedServer) -> None:
    """And no other: the slot is free again."""
    pool = ConnectionPool(server.endpoint, ConnectionSettings(max_connections=1))
    assert pool.take_open() is None
    connection = pool.checkout()
    pool.checkin(connection, reusable=True)

    assert connection is pool.take_open()
    connection.close()


@contextmanager
def transport_to(*servers: ScriptedServer) -> Iterator[tuple[Transport, Sequence[Node]]]:
    """Give a transport whose first node has the first turn."""
    nodes = [
        Node(server.endpoint, ConnectionPool(server.endpoint, ConnectionSettings()), CircuitBreaker())
        for server in servers
    ]
    balancer = LoadBalancer(nodes, random=Chosen(0))
    transport = Transport(balancer, lambda *_: {"host": "x"}, patience_s=5.0)
    yield transport, nodes
    transport.close()


def test_request_that_cannot_begin_is_for_the_same_node(server: ScriptedServer) -> None:
    """The circuit granted this one trial: nobody else will report on it."""
    with ScriptedServer((OK,)) as other, transport_to(server, other) as (transport, nodes):
        nodes[0].breaker.trip()
        nodes[0].breaker.invite_trial()
        node = transport.balancer.pick()
        attempt = transport.attempt(GET, preload)

        assert begin_now(node) is None
        assert (HALF_OPEN, 0) == (nodes[0].breaker.state, nodes[0].in_flight)
        attempt.pick(node)
        assert server.endpoint == transport.finish(attempt).endpoint
        assert (CLOSED, [], 1) == (nodes[0].breaker.state, other.requests, nodes[0].counters.requests)


def test_request_begins_over_a_kept_connection(server: ScriptedServer) -> None:
    """Its answer is taken as it comes, and counted as any other."""
    with transport_to(server) as (transport, nodes):
        transport.send(GET, preload)

        exchange = begin_now(nodes[0])
        assert exchange is not None
        while (arrival := arrives(exchange)) is None:
            assert select([exchange.connection.fileno()], [], [], 5.0)[0]
        assert (b"ok", 1, 0) == (arrival[1], server.connections, nodes[0].in_flight)
        counters = nodes[0].counters
        assert (2, counters.bytes_sent) == (counters.requests, sum(len(head) + 4 for head, _ in server.requests))


def test_connection_that_ended_is_not_used(server: ScriptedServer) -> None:
    """Somebody who can connect begins again."""
    with transport_to(server) as (transport, nodes):
        transport.send(GET, preload)
        connection = nodes[0].connections.checkout()
        connection.close()
        nodes[0].connections.checkin(connection, reusable=True)

        assert begin_now(nodes[0]) is None
        assert (0, 1) == (nodes[0].in_flight, nodes[0].counters.requests)


def test_node_at_its_bound_is_not_waited_for(server: ScriptedServer) -> None:
    """Who holds its connections may be the very thread that asks for one more."""
    settings = ConnectionSettings(max_connections=1, read_timeout_s=0.05)
    node = Node(server.endpoint, ConnectionPool(server.endpoint, settings), CircuitBreaker())
    connection = node.connections.checkout()

    assert begin_now(node) is None
    connection.close()
