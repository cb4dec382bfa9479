"""Many requests of one thread, all under way at once; each answer is taken when it is there.

Everyday requests go out over connections that are open, and answers that come whole make
nobody wait. Whatever else happens to one (no connection is open, the answer is long or odd or
does not come) becomes a Call, which goes on from where that one stopped.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from s3pool.errors import S3PoolError
from s3pool.model import Request, Response
from s3pool.pool.arrival import Arrival, NeedsPatience, arrives, begin_now
from s3pool.pool.balancer import Node
from s3pool.pool.call import Call, Check
from s3pool.pool.exchange import Exchange

if TYPE_CHECKING:
    from s3pool.pool.transport import Transport
    from s3pool.pool.wire import Wire

IS_POSSIBLE = hasattr(select, "epoll")
TICK_S = 0.25  # how often it is looked at who is silent
# A connection is watched from its first request here on, also while others use it: what
# happens then is news of nothing.
WATCHED = select.EPOLLIN | select.EPOLLET if IS_POSSIBLE else 0


class Landed(NamedTuple):
    """What has come of one request: an answer that passed its check, when both fields are None.

    Else ``call`` goes on from a failure or from an answer that is not here yet; when
    ``is_late``, from a node that was silent. ``error`` is one that the check itself has made.
    """

    token: Any
    call: Call | None = None
    error: Exception | None = None
    is_late: bool = False


class _UnderWay(NamedTuple):
    exchange: Exchange
    check: Check
    token: Any
    call: Call | None = None  # whose attempt it is


class InFlight:
    """The requests of one thread that are under way, each with a token that tells whose it is."""

    def __init__(self, transport: Transport) -> None:
        self._t = transport
        self._epoll = select.epoll() if IS_POSSIBLE else None
        self._watched: dict[int, Wire] = {}
        self._under_way: dict[int, _UnderWay] = {}  # by descriptor, the oldest first
        self._landed: list[Landed] = []  # that landed as they were sent
        self._next_tick = 0.0
        self.waited_s = 0.0  # for answers, while nothing else was to be done

    def __len__(self) -> int:
        return len(self._under_way) + len(self._landed)

    def pick(self) -> Node | None:
        """Give the node whose turn it is, if that is one to send to without a second thought."""
        node = self._t.balancer.next_in_turn() if self._epoll is not None else None
        return node if node is not None and node.is_proven and node.connections.is_plain else None

    def send(self, node: Node, request: Request, check: Check, token: Any) -> bool:
        """Send a request that can be sent again; False when no connection to the node is open."""
        exchange = begin_now(node, request, self._t.head_for(request, node.endpoint))
        if exchange is None:
            return False
        self._watch(_UnderWay(exchange, check, token))
        return True

    def join(self, call: Call, check: Check, token: Any) -> None:
        """Wait for the answer to what a call has begun as well."""
        begun = call.begun
        if begun is None or begun.response is not None:
            self._landed.append(Landed(token, call))
        else:
            self._watch(_UnderWay(begun, check, token, call))

    def ready(self, *, wait: bool) -> list[Landed]:
        """Give what has landed; when there is nothing yet and ``wait``, what lands within a while."""
        landed, self._landed = self._landed, []
        if self._epoll is None:
            return landed or ([self._oldest()] if wait else [])
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            landed += self._late_ones(now)
        events = self._epoll.poll(0.0)
        if not events and wait and not landed:
            events = self._epoll.poll(TICK_S)
            self.waited_s += time.monotonic() - now
        for fd, _ in events:
            under_way = self._under_way.get(fd)
            if under_way is not None and (news := self._look_at(under_way)) is not None:
                del self._under_way[fd]
                landed.append(news)
        return landed

    def abandon(self) -> None:
        """Give up all that is under way."""
        for exchange, _, _, call in self._under_way.values():
            if call is not None:
                call.abandon()
            else:
                exchange.abandon()
        for landed in self._landed:
            if landed.call is not None:
                landed.call.abandon()
        self._under_way.clear()
        self._landed.clear()

    def close(self) -> None:
        """Give up what is under way, and let go of the connections, which stay open."""
        self.abandon()
        if self._epoll is not None:
            self._epoll.close()

    def _watch(self, under_way: _UnderWay) -> None:
        wire = under_way.exchange.wire
        fd = wire.fileno()
        if self._epoll is not None and self._watched.get(fd) is not wire:
            self._epoll.register(fd, WATCHED)
            self._watched[fd] = wire
        self._under_way[fd] = under_way

    def _oldest(self) -> Landed:
        fd, under_way = next(iter(self._under_way.items()))
        del self._under_way[fd]
        return Landed(under_way.token, under_way.call)

    def _look_at(self, under_way: _UnderWay) -> Landed | None:
        """Give what has come of a request whose connection has news."""
        exchange, check, token, call = under_way
        if call is not None:
            return Landed(token, call) if exchange.wire.is_readable() else None
        try:
            arrival = arrives(exchange)
        except NeedsPatience:
            return Landed(token, self._call_for(exchange, check))
        if arrival is None:
            return None
        try:
            check(_response_of(exchange, arrival))
        except S3PoolError as exc:
            failed = self._t.call(exchange.request, check)
            failed.adopt_failure(exchange.node, exc)
            return Landed(token, failed)
        except Exception as exc:  # noqa: BLE001 - it is for the one whose request this is
            return Landed(token, error=exc)
        return Landed(token)

    def _call_for(self, exchange: Exchange, check: Check) -> Call:
        call = self._t.call(exchange.request, check)
        call.adopt(exchange.node, exchange)
        return call

    def _late_ones(self, now: float) -> list[Landed]:
        """Take out those that were waited for long enough."""
        late = []
        for fd, (exchange, check, token, call) in list(self._under_way.items()):
            if now - exchange.started >= self._t.patience_with(exchange):
                del self._under_way[fd]
                silent = self._call_for(exchange, check) if call is None else call
                silent.give_up_waiting()
                late.append(Landed(token, silent, is_late=True))
        return late


class _Ended:
    """The stream of a body that was read."""

    def readinto(self, buffer: memoryview) -> int:  # noqa: ARG002 - the protocol's name
        """Give nothing more."""
        return 0

    def close(self) -> None:
        """Do nothing: the exchange is over."""


_ENDED = _Ended()


def _response_of(exchange: Exchange, arrival: Arrival) -> Response:
    head, body = arrival
    response = Response(
        head.status,
        head.headers,
        _ENDED,
        endpoint=exchange.node.endpoint,
        reason=head.reason,
        raw_headers=head.raw_headers,
        length=len(body),
    )
    response.body = body
    return response
