"""One request that never waits: sent over a connection that is open, its answer taken as it arrives.

It is for one thread that has many under way. A short answer is whole in its wire's buffer
before anybody looks at it. For all others somebody is needed who can wait: Call.adopt() goes
on from whatever was reached here.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

from s3pool.body import BytesBody
from s3pool.errors import TransportError
from s3pool.model import Request
from s3pool.pool.balancer import Node
from s3pool.pool.exchange import Exchange
from s3pool.pool.heads import FIRST_FINAL_STATUS, Head, parse_head
from s3pool.pool.wire import TCP_QUICKACK, EarlyAnswer, Wire

END_OF_HEAD = b"\r\n\r\n"
FIRST_ERROR_OF_SERVERS = 500
# Answers that speak of the node or of the clock, and not of the object.
ODD_STATUS = frozenset({403, 429})


class Arrival(NamedTuple):
    """An answer that is here from its first byte to its last."""

    head: Head
    body: bytes


class NeedsPatience(Exception):
    """The answer is long, of no known length, odd, or does not come; what was taken is kept."""


def begin_now(node: Node, request: Request, head: bytes) -> Exchange | None:
    """Send a request with a small body or none; None when no connection to the node is open.

    It must be one that can be sent again. The connections must be plain ones, without TLS and
    without a limit of their bandwidth.
    """
    wire = node.connections.take_open()
    exchange = send_over(wire, node, request, head) if wire is not None else None
    if exchange is not None:
        node.enter()
        node.counters.add_request(is_retry=False)
    return exchange


def send_over(wire: Wire, node: Node, request: Request, head: bytes) -> Exchange | None:
    """Send a request over a connection, to be counted by the caller; None when it was closed while it waited."""
    exchange = Exchange(node, wire, request)
    body = request.body
    content = body.content if isinstance(body, BytesBody) else b""
    connections = node.connections
    try:
        wire.send_now(head + content if content else head, connections.settings.read_timeout_s)
    except (EarlyAnswer, TransportError):
        connections.checkin(wire, reusable=False)
        return None
    return exchange


def arrives(exchange: Exchange) -> Arrival | None:
    """Take what has arrived; give the answer when all of it is there, until then None.

    Raises:
        NeedsPatience: it takes somebody who waits.
    """
    arrival = take_arrival(exchange)
    if arrival is not None:
        exchange.complete(arrival.head)
    return arrival


def take_arrival(exchange: Exchange) -> Arrival | None:
    """Do what arrives() does, and leave it to the caller to note that the exchange is over.

    Raises:
        NeedsPatience: it takes somebody who waits.
    """
    wire = exchange.wire
    start = wire._start
    if start == wire._end:
        wire._start = wire._end = start = 0
    try:
        try:
            count = wire._sock.recv_into(wire._view[wire._end :], 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        if not count:
            raise NeedsPatience
        wire.bytes_received += count
        wire._end = end = wire._end + count
        head = exchange.head
        if head is None:
            head = _head(wire, exchange.request.method)
    except (OSError, TransportError) as exc:
        raise NeedsPatience from exc
    if head is not None:
        status, length = head.status, head.length
        start = wire._start
        if (
            length is None
            or start + length > len(wire._buffer)
            or status >= FIRST_ERROR_OF_SERVERS
            or status in ODD_STATUS
        ):
            exchange.accept(head)
            raise NeedsPatience
        if end - start >= length:
            wire._start = start + length
            return Arrival(head, wire._view[start : start + length].tobytes() if length else b"")
        exchange.head = head
    elif end == len(wire._buffer):  # of what is left there may be no more news
        raise NeedsPatience
    _acknowledge(wire)
    return None


def _acknowledge(wire: Wire) -> None:
    if TCP_QUICKACK is not None:
        # Without it Nagle there may wait 40 ms for our ACK before the rest is sent.
        wire._sock.setsockopt(socket.IPPROTO_TCP, TCP_QUICKACK, 1)


def _head(wire: Wire, method: str) -> Head | None:
    """Give the head when all of it is there; an interim one stays for who reads on."""
    start = wire._start
    end = wire._buffer.find(END_OF_HEAD, start, wire._end)
    if end < 0:
        return None
    head = parse_head(wire._buffer[start:end].decode("utf-8", "surrogateescape"), method, wire.endpoint)
    if head.status < FIRST_FINAL_STATUS:
        raise NeedsPatience
    wire._start = end + len(END_OF_HEAD)
    wire.exchanges += 1
    return head
