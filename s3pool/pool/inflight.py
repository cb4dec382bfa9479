"""Many requests of one thread, all under way at once; each answer is taken when it is there.

Everyday requests go out over connections that are open, and answers that come whole make
nobody wait. Whatever else happens to one (no connection is open, the answer is long or odd or
does not come) becomes a Call, which goes on from where that one stopped.
"""

from __future__ import annotations

import select
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from s3pool.errors import S3PoolError
from s3pool.model import Request, Response
from s3pool.pool.arrival import Arrival, NeedsPatience, send_over, take_arrival
from s3pool.pool.balancer import Node
from s3pool.pool.call import Call
from s3pool.pool.exchange import Exchange

if TYPE_CHECKING:
    from s3pool.pool.transport import Transport
    from s3pool.pool.wire import Wire

IS_POSSIBLE = hasattr(select, "epoll")
TICK_S = 0.25  # how often it is looked at who is silent
# A connection is watched from its first request here on, also while others use it: what
# happens then is news of nothing.
WATCHED = select.EPOLLIN | select.EPOLLET if IS_POSSIBLE else 0


class Going(Protocol):
    """A request that is one of many; whoever it is for goes on with it."""

    @property
    def request(self) -> Request:
        """Give the request, which must be one that can be sent again."""

    def check(self, response: Response) -> None:
        """Take the answer, or raise for one that is none, as with Transport.send()."""


class Landed(NamedTuple):
    """What has come of a request, when it is not the answer itself.

    ``call`` goes on from a failure or from an answer that is not here yet; when ``is_late``,
    from a node that was silent. ``error`` is one that the check itself, or the request, has made.
    """

    going: Any
    call: Call | None = None
    error: Exception | None = None
    is_late: bool = False


_UnderWay = tuple[Exchange, Going, "Call | None"]  # the call, if any, whose attempt it is


class InFlight:
    """The requests of one thread that are under way."""

    def __init__(self, transport: Transport) -> None:
        self._t = transport
        self._epoll = _open_epoll()
        self._watched: dict[int, Wire] = {}
        self._under_way: dict[int, _UnderWay] = {}  # by descriptor, the oldest first
        self._landed: list[Landed] = []  # that landed as they were sent
        self._next_tick = 0.0
        self.waited_s = 0.0  # for answers, while nothing else was to be done

    def __len__(self) -> int:
        return len(self._under_way) + len(self._landed)

    def send(self, batch: Sequence[Going]) -> tuple[int, Node | None]:
        """Send requests over open connections; give how many of them, from the first on.

        And the node whose turn it is, if that is one to send to without a second thought,
        and all it lacks is an open connection.
        """
        if self._epoll is None:
            return 0, None
        balancer = self._t.balancer
        nodes = balancer.next_in_turns(len(batch))
        begun: list[Node] = []
        sent = 0
        lacking = None
        for node, going in zip(nodes, batch, strict=False):
            if not node.is_proven or not node.connections.is_plain:
                break
            if not self._send(node, going, begun):
                lacking = node
                break
            sent += 1
        for node, count in Counter(begun).items():
            node.enter(count)
            node.counters.add_requests(count)
        if sent < len(nodes):
            balancer.give_back(len(nodes) - sent - (lacking is not None))
        return sent, lacking

    def _send(self, node: Node, going: Going, begun: list[Node]) -> bool:
        """Send a request, or let it land as an error; False when no connection to the node is open."""
        wire = node.connections.take_open()
        if wire is None:
            return False
        request = going.request
        try:
            head = self._t.head_for(request, node.endpoint)
        except Exception as exc:  # noqa: BLE001 - it is for the one whose request this is
            node.connections.checkin(wire, reusable=True)
            self._landed.append(Landed(going, error=exc))
            return True
        exchange = send_over(wire, node, request, head)
        if exchange is None:
            return False
        begun.append(node)
        try:
            self._watch(exchange, going, None)
        except OSError as exc:
            node.enter()
            exchange.abandon()
            begun.pop()
            self._landed.append(Landed(going, error=exc))
        return True

    def join(self, call: Call, going: Going) -> None:
        """Wait for the answer to what a call has begun as well."""
        begun = call.begun
        if begun is None or begun.response is not None:
            self._landed.append(Landed(going, call))
            return
        try:
            self._watch(begun, going, call)
        except OSError:
            call.abandon()
            raise

    def ready(self, *, wait: bool) -> tuple[list[Any], list[Landed]]:
        """Give those whose answers came and passed their checks, and what else has landed.

        When there is nothing yet and ``wait``, wait for a while.
        """
        landed, self._landed = self._landed, []
        if self._epoll is None:
            return [], landed or ([self._oldest()] if wait else [])
        events = self._epoll.poll(0.0)
        if not events and wait and not landed:
            since = time.monotonic()
            events = self._epoll.poll(TICK_S)
            self.waited_s += time.monotonic() - since
        answered = self._take(events, landed)
        now = time.monotonic()
        if now >= self._next_tick:  # after what has come: this thread may have been away for long
            self._next_tick = now + TICK_S
            landed += self._late_ones(now)
        return answered, landed

    def _take(self, events: Sequence[tuple[int, int]], landed: list[Landed]) -> list[Any]:
        """Look at connections that have news: give who got a good answer, add the others to what landed."""
        answered: list[Any] = []
        tallies: dict[Node, _Tally] = {}
        now = time.monotonic()
        for fd, _ in events:
            under_way = self._under_way.get(fd)
            if under_way is None:
                continue
            exchange, going, call = under_way
            try:
                arrival = take_arrival(exchange) if call is None else self._ask(exchange)
            except NeedsPatience:
                del self._under_way[fd]
                landed.append(Landed(going, call or self._call_for(exchange, going)))
                continue
            if arrival is None:
                continue
            del self._under_way[fd]
            node = exchange.node
            tally = tallies.get(node)
            if tally is None:
                tally = tallies[node] = _Tally()
            tally.add(exchange, now)
            exchange.give_back(arrival.head)
            try:
                going.check(_Arrived(node, arrival))
            except Exception as exc:  # noqa: BLE001 - it is for the one whose request this is
                tallies.pop(node).note(node)  # before what the node is to be blamed for
                landed.append(self._refused(exchange, going, exc))
            else:
                answered.append(going)
        for node, tally in tallies.items():
            tally.note(node)
        return answered

    def _ask(self, exchange: Exchange) -> Arrival | None:
        """Leave what a call has begun to the call, when it has news."""
        if exchange.wire.is_readable():
            raise NeedsPatience
        return None

    def _refused(self, exchange: Exchange, going: Going, error: Exception) -> Landed:
        if not isinstance(error, S3PoolError):
            return Landed(going, error=error)
        call = self._t.call(exchange.request, going.check)
        call.adopt_failure(exchange.node, error)
        return Landed(going, call)

    def abandon(self) -> None:
        """Give up all that is under way."""
        for exchange, _, call in self._under_way.values():
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

    def _watch(self, exchange: Exchange, going: Going, call: Call | None) -> None:
        wire = exchange.wire
        fd = wire.fileno()
        if self._epoll is not None and self._watched.get(fd) is not wire:
            self._epoll.register(fd, WATCHED)
            self._watched[fd] = wire
        self._under_way[fd] = exchange, going, call

    def _oldest(self) -> Landed:
        fd, (_, going, call) = next(iter(self._under_way.items()))
        del self._under_way[fd]
        return Landed(going, call)

    def _call_for(self, exchange: Exchange, going: Going) -> Call:
        call = self._t.call(exchange.request, going.check)
        call.adopt(exchange.node, exchange)
        return call

    def _late_ones(self, now: float) -> list[Landed]:
        """Take out those that were waited for long enough."""
        late = []
        for fd, (exchange, going, call) in list(self._under_way.items()):
            if now - exchange.started >= self._t.patience_with(exchange):
                del self._under_way[fd]
                silent = self._call_for(exchange, going) if call is None else call
                silent.give_up_waiting()
                late.append(Landed(going, silent, is_late=True))
        return late


def _open_epoll() -> select.epoll | None:
    """Give None on other systems, and where there are no descriptors left: then answers are waited for in turn."""
    try:
        return select.epoll() if IS_POSSIBLE else None
    except OSError:
        return None


class _Ended:
    """The stream of a body that was read."""

    def readinto(self, buffer: memoryview) -> int:  # noqa: ARG002 - the protocol's name
        """Give nothing more."""
        return 0

    def close(self) -> None:
        """Do nothing: the exchange is over."""


_ENDED = _Ended()


class _Arrived(Response):
    """A response that is here to its last byte; its raw headers are left out."""

    __slots__ = ()

    def __init__(self, node: Node, arrival: Arrival) -> None:
        head, body = arrival
        self.status = head.status
        self.reason = head.reason
        self.headers = head.headers
        self.raw_headers = ()
        self.endpoint = node.endpoint
        self.length = len(body)
        self.body = body
        self._ahead = None
        self._stream = _ENDED


class _Tally:
    """Answers of a node that came together."""

    __slots__ = ("_count", "_received", "_seconds", "_sent")

    def __init__(self) -> None:
        self._count = 0
        self._seconds = 0.0
        self._sent = 0
        self._received = 0

    def add(self, exchange: Exchange, now: float) -> None:
        """Count an exchange, whose answer was here at a time."""
        wire = exchange.wire
        self._count += 1
        self._seconds += now - exchange.started
        self._sent += wire.bytes_sent - exchange.sent_before
        self._received += wire.bytes_received - exchange.received_before

    def note(self, node: Node) -> None:
        """Tell the node."""
        node.end_well(self._seconds, sent=self._sent, received=self._received, count=self._count)
        node.breaker.report_success()
