"""One attempt on one node: request out, response head in, nothing decided."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from s3pool.errors import ConnectError, ProtocolError, RequestTimeoutError, TransportError
from s3pool.model import Request, Response
from s3pool.pool.balancer import Node
from s3pool.pool.greeting import greet
from s3pool.pool.heads import Head
from s3pool.pool.pace import wait_readable
from s3pool.pool.wire import EarlyAnswer, StaleConnectionError, Wire
from s3pool.pool.wirebody import WireBody

DEADLINE_FACTOR = 5  # times its timeout an answer may take that is read whole
FRESH_IDLE_S = 1.0  # what must not be sent twice goes over a connection idle for less than this

BuildHead = Callable[[Node], bytes]


class PatienceOver(Exception):
    """Nobody answered yet; ``waiting`` are the exchanges that still may."""

    def __init__(self, waiting: Sequence[Exchange]) -> None:
        super().__init__(f"{len(waiting)} nodes are silent")
        self.waiting = list(waiting)


class Exchange:
    """A request that was sent and whose response head is awaited or read."""

    __slots__ = (
        "head",
        "is_over",
        "node",
        "received_before",
        "request",
        "response",
        "sent_before",
        "started",
        "was_waiting",
        "wire",
    )

    def __init__(self, node: Node, wire: Wire, request: Request) -> None:
        self.node = node
        self.wire = wire
        self.request = request
        self.started = time.monotonic()
        self.was_waiting = False  # the answer was there before anybody wanted it
        self.head: Head | None = None  # of an answer whose body is awaited by who does not wait
        self.response: Response | None = None
        self.sent_before = wire.bytes_sent  # on this connection, by those before
        self.received_before = wire.bytes_received
        self.is_over = False

    def taken(self) -> Response:
        """Give the response, which has arrived; from then on it is the caller's alone.

        The two would keep each other alive until the garbage collector comes by.
        """
        response, self.response = self.response, None
        if response is None:
            raise AssertionError("the answer is asked for before it is there")
        return response

    def begins_within(self, patience_s: float) -> bool:
        """Wait for the first byte of the answer; False when it did not come in time.

        Raises:
            TransportError: the connection ended; it is dropped.
        """
        try:
            return self.wire.await_answer(patience_s)
        except TransportError:
            self.abandon()
            raise

    def read(self, timeout_s: float) -> Exchange:
        """Read the response head and give itself, its response open.

        Raises:
            TransportError: nothing usable arrived; the connection is dropped.
        """
        self.wire.set_timeout(timeout_s)
        self._set_window()
        try:
            head = self.wire.read_head(self.request.method)
        except TransportError:
            self.abandon()
            raise
        self.accept(head)
        return self

    def accept(self, head: Head) -> None:
        """Make the response of a head that was read."""
        self.node.note_answer(None if self.was_waiting else time.monotonic() - self.started)
        self._set_window()
        stream = WireBody(self.wire, head, finish=self._finish, failed=self._body_failed)
        self.response = Response(
            head.status,
            head.headers,
            stream,
            endpoint=self.node.endpoint,
            reason=head.reason,
            raw_headers=head.raw_headers,
            length=head.length,
        )
        self.response.patience_s = DEADLINE_FACTOR * self._timeout_s

    @property
    def _timeout_s(self) -> float:
        return self.node.connections.settings.read_timeout_s * self.request.slowness

    def _set_window(self) -> None:
        self.wire.pace.window_s = math.inf if self.request.is_endless else self._timeout_s

    def complete(self, head: Head) -> None:
        """Note a good answer of which everything was taken, and give the connection back."""
        wire, node = self.wire, self.node
        node.end_well(
            time.monotonic() - self.started,
            sent=wire.bytes_sent - self.sent_before,
            received=wire.bytes_received - self.received_before,
        )
        node.breaker.report_success()
        self.give_back(head)

    def give_back(self, head: Head) -> None:
        """Give the connection back after an answer, the count of which is somebody else's business."""
        self.is_over = True
        self.node.connections.checkin(self.wire, reusable=head.keep_alive)

    def late_error(self) -> RequestTimeoutError:
        """Give the error of a node that has sent nothing since the request left."""
        endpoint, seconds = self.node.endpoint, time.monotonic() - self.started
        return RequestTimeoutError(f"{endpoint} sent nothing for {seconds:.1f} s", endpoint=str(endpoint))

    def abandon(self) -> None:
        """Give up: the connection cannot be used again."""
        self._finish(reusable=False)

    def _finish(self, reusable: bool) -> None:
        if self.is_over:
            return
        self.is_over = True
        wire, node = self.wire, self.node
        node.counters.add_bytes(
            sent=wire.bytes_sent - self.sent_before, received=wire.bytes_received - self.received_before
        )
        node.connections.checkin(wire, reusable=reusable)
        node.leave()

    def _body_failed(self, error: TransportError) -> None:
        self.node.counters.add_failure("body", str(error))
        self.node.breaker.report_failure(asker=self.request.asker)


def begin_exchange(
    node: Node,
    request: Request,
    build_head: BuildHead,
    *,
    greeting_s: float | None,
    connect_timeout_s: float | None = None,
    fresh: bool = False,
    wait: bool = True,
) -> Exchange:
    """Connect where needed, or in any case when ``fresh``, and send the request.

    A ``connect_timeout_s`` of None is the one that is configured.

    A node that never answered in this process is asked for a sign of life, to be given
    within ``greeting_s``, before it gets a request that cannot be under way on two nodes at
    once: a dead node behind an open port must not swallow it. None asks for nothing.

    Raises:
        TransportError: with ``sent`` False while the server cannot have acted.
        AllBusy: there is no free connection, and ``wait`` is False.
    """
    replayable = request.replayable
    while True:
        wire = node.connections.checkout(
            max_idle_s=None if replayable else FRESH_IDLE_S,
            connect_timeout_s=connect_timeout_s,
            fresh=fresh,
            wait=wait,
        )
        node.enter()
        exchange = Exchange(node, wire, request)
        try:
            if greeting_s is not None and not node.is_proven and not may_be_doubled(request):
                _ask_for_life(wire, node, greeting_s)
            _send(exchange, build_head(node))
        except StaleConnectionError:
            exchange.abandon()
            if request.body.rewindable:
                request.body.rewind()
                continue
            raise
        except BaseException:
            exchange.abandon()
            raise
        return exchange


def may_be_doubled(request: Request) -> bool:
    """Say whether the same request may be under way on two nodes at once."""
    is_read = request.idempotent and not request.body.length and request.method in {"GET", "HEAD"}
    return is_read and request.may_retry()


def _ask_for_life(wire: Wire, node: Node, patience_s: float) -> None:
    try:
        _, is_reusable = greet(wire, node.endpoint.netloc, timeout_s=patience_s)
    except TransportError as exc:
        raise ConnectError(
            f"{node.endpoint} accepts connections but does not answer: {exc}", endpoint=str(node.endpoint)
        ) from exc
    node.is_proven = True
    if not is_reusable:
        raise StaleConnectionError(f"{node.endpoint} closes after each answer", endpoint=str(node.endpoint))


def _send(exchange: Exchange, head: bytes) -> None:
    wire, request = exchange.wire, exchange.request
    wire.set_timeout(exchange.node.connections.settings.read_timeout_s)
    sent_before = wire.bytes_sent
    try:
        wire.send(head, request.body)
    except EarlyAnswer as early:
        _read_early_answer(exchange, early, is_whole=wire.bytes_sent - sent_before >= len(head) + request.body.length)


def _read_early_answer(exchange: Exchange, early: EarlyAnswer, *, is_whole: bool) -> None:
    """Take the answer that came before the body was sent; the connection ends with it."""
    wire, request = exchange.wire, exchange.request
    try:
        head = wire.read_head(request.method)
    except TransportError as exc:
        if isinstance(exc, StaleConnectionError):
            exc.sent = is_whole
            raise
        raise ProtocolError(
            f"{wire.endpoint} broke the connection: {early}", endpoint=wire.endpoint, sent=is_whole
        ) from exc
    exchange.accept(
        Head(head.status, head.reason, head.headers, head.lines, head.length, head.is_chunked, keep_alive=False)
    )


def first_answer(exchanges: Sequence[Exchange], timeout_s: float, *, patience_s: float | None) -> Exchange:
    """Give the exchange whose response head arrives first; the others stay as they are.

    Raises:
        PatienceOver: nobody answered within ``patience_s``. TransportError: the last one
        failed, or ``timeout_s`` went by.
    """
    newest = exchanges[0]
    if newest.response is not None:
        return newest
    if len(exchanges) == 1:
        if patience_s is None or patience_s >= timeout_s or newest.begins_within(patience_s):
            return newest.read(timeout_s)
        raise PatienceOver(exchanges)
    return _first_of(exchanges, timeout_s, patience_s)


def _first_of(exchanges: Sequence[Exchange], timeout_s: float, patience_s: float | None) -> Exchange:
    newest = exchanges[0]
    waiting = list(exchanges)
    limit_s = timeout_s if patience_s is None else min(patience_s, timeout_s)
    deadline = time.monotonic() + limit_s
    while waiting:
        ready = wait_readable([exchange.wire for exchange in waiting], max(deadline - time.monotonic(), 0.0))
        if not ready:
            break
        for exchange in [exchange for exchange in waiting if exchange.wire in ready]:
            try:
                return exchange.read(max(deadline - time.monotonic(), 1.0) if exchange.wire.is_tls else timeout_s)
            except TransportError:
                waiting.remove(exchange)
                if not waiting:
                    raise
    if patience_s is not None and patience_s < timeout_s:
        raise PatienceOver(waiting)
    for exchange in waiting:
        exchange.abandon()
    raise RequestTimeoutError(
        f"{newest.node.endpoint} sent nothing for {timeout_s:g} s", endpoint=str(newest.node.endpoint)
    )
