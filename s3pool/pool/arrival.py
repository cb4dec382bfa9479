"""A GET or HEAD that the proxy's loop begins and takes without waiting; a thread goes on where it stops."""

from __future__ import annotations

from s3pool.errors import TransportError
from s3pool.model import Request
from s3pool.pool.exchange import Answer as Arrival
from s3pool.pool.exchange import Exchange, send_over
from s3pool.pool.exchange import NeedsThread as NeedsPatience
from s3pool.pool.node import Node, Totals

__all__ = ["Arrival", "NeedsPatience", "arrives", "begin_now"]


def begin_now(node: Node, request: Request, head: bytes) -> Exchange | None:
    """Send a request with a small body or none; None when no connection to the node is open.

    It must be one that can be sent again. The connections must be plain ones, without TLS and
    without a limit of their bandwidth.
    """
    connection = node.connections.take_open()
    exchange = send_over(connection, node, request, head) if connection is not None else None
    if exchange is not None:
        node.counters.add_request(is_retry=False)
    return exchange


def arrives(exchange: Exchange) -> Arrival | None:
    """Take what has arrived; return the answer when all of it is there, until then None.

    Raises:
        NeedsPatience: it takes a thread that waits.
    """
    try:
        answer = exchange.receive(0, is_good_only=True)
    except TransportError as exc:
        raise NeedsPatience from exc
    if answer is not None:
        totals = Totals()
        exchange.end(answer.head, totals.of(exchange.node))
        totals.flush()
    return answer
