"""One request on one connection to one node: its head out, its answer in, nothing decided."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from s3pool.body import EMPTY_BODY, BytesBody
from s3pool.errors import ConnectError, ProtocolError, TransportError
from s3pool.model import Request, Response
from s3pool.pool.balancer import Watch
from s3pool.pool.http1 import Head, NodeConnection, ResponseBody
from s3pool.pool.node import ExchangeTotals, Node
from s3pool.pool.tcp import EarlyResponse, NodeSilentError, StaleConnectionError

MEASURED_BYTES = 4 << 20  # shorter bodies tell of buffers and caches, and little of a node's speed
DEADLINE_FACTOR = 5  # times its timeout an answer may take that is read whole
FRESH_IDLE_S = 1.0  # what must not be sent twice goes over a connection idle for less than this
ODD_STATUS = frozenset({403, 429, *range(500, 1000)})  # these speak of the node or of the clock, and not of the object
COLLECT_LIMIT_BYTES = 1 << 20  # a longer answer is for a thread that waits for it alone

# Not HEAD: RGW 16 answers HEAD / with a chunked body all the same.
GENERIC_PATH = "/"
BODY_LIMIT_BYTES = 64 * 1024
BLOCK_BYTES = 4096

BuildHead = Callable[[Node], bytes]


class NeedsThread(Exception):
    """The answer is long or of no known length; what was taken of it is kept."""


Answer = tuple[Head, bytes]  # that is here from its first byte to its last


class _EndedStream:
    """The stream of a body that was read."""

    def readinto(self, buffer: memoryview) -> int:  # noqa: ARG002 - the protocol's name
        """Return 0: nothing more comes."""
        return 0

    def close(self) -> None:
        """Do nothing: the exchange is over."""


_ENDED = _EndedStream()


class CollectedResponse(Response):
    """A response that is here to its last byte; its lines are left out."""

    __slots__ = ()

    def __init__(self, node: Node, answer: Answer) -> None:
        # Not by way of the base: one is made for each small object.
        head, body = answer
        self.status = head.status
        self.reason = head.reason
        self.headers = head.headers
        self.lines = ()
        self.endpoint = node.endpoint
        self.length = len(body)
        self.body = body
        self._ahead = None
        self._stream = _ENDED


class Exchange(Watch):
    """A request that was sent and whose response head is awaited or read."""

    __slots__ = ("_collected", "_filled", "was_waiting")

    def __init__(self, node: Node, connection: NodeConnection, request: Request) -> None:
        self.node = node
        self.connection = connection
        self.request = request
        self.started = connection.moved_at = time.monotonic()
        self.was_waiting = False  # the answer was there before anybody looked
        self.head: Head | None = None
        self.response: Response | None = None
        self.sent_before = connection.bytes_sent  # on this connection, by those before
        self.received_before = connection.bytes_received
        connection.waited_s, connection.alarm_s = 0.0, node.delays.crawl_s
        self.is_over = self.is_sent = self.is_patient = self.is_resumable = False
        self._lost: NodeSilentError | None = None  # why it was interrupted
        self._collected: bytearray | None = None  # of a body that outgrows the connection's buffer
        self._filled = 0
        connection.watcher = self

    def __repr__(self) -> str:
        state = "over" if self.is_over else "answered" if self.head else "sent" if self.is_sent else "begun"
        return f"<Exchange {self.request.op} at {self.node.endpoint}: {state}>"

    # -- the answer, waited for ----------------------------------------------------------------

    def taken(self) -> Response:
        """Return the response, which has arrived, and forget it: the two would keep each other alive."""
        response, self.response = self.response, None
        if response is None:
            raise AssertionError("the answer is asked for before it is there")
        return response

    def begins_within(self, seconds: float) -> bool:
        """Wait for the first byte of the answer; False when it did not come in time. Raises TransportError."""
        if self.response is not None:
            return True
        return self.connection.await_answer(seconds) if seconds > 0 else self.connection.is_readable()

    def read(self, timeout_s: float) -> None:
        """Read the response head, so that the response is open. Raises TransportError: nothing usable arrived."""
        if self.response is not None:
            return
        self.connection.timeout_s = timeout_s
        self._set_window()
        self.accept(self.head or self.connection.read_head(self.request.method))

    def accept(self, head: Head) -> None:
        """Make the response of a head that was read; a body that was begun goes on where it is."""
        now = time.monotonic()
        seconds = None if self.was_waiting else now - self.started
        self.node.note_answer(seconds, at=now, is_read=self.request.method in {"GET", "HEAD"})
        if self.head is None and self.request.body.length >= MEASURED_BYTES and self.connection.waited_s:
            self.node.speed.note(self.request.body.length, self.connection.waited_s, is_read=False)
        self.head = head
        self._set_window()
        self.connection.timeout_s = self._timeout_s
        stream = ResponseBody(self.connection, head, finish=self._finish, failed=self._body_failed)
        self.response = Response(
            head.status,
            head.headers,
            stream,
            endpoint=self.node.endpoint,
            reason=head.reason,
            lines=head.lines,
            length=head.length,
        )
        self.response.on_resumable = self._on_resumable
        self.response.patience_s = DEADLINE_FACTOR * self._timeout_s

    def _on_resumable(self) -> None:
        self.is_resumable = True

    @property
    def _timeout_s(self) -> float:
        is_begun = self.head is not None and self.request.replayable
        return self.node.connections.settings.read_timeout_s * (1.0 if is_begun else self.request.timeout_factor)

    def _set_window(self) -> None:
        self.connection.pace.window_s = math.inf if self.request.is_endless else self._timeout_s

    # -- the answer, taken as it arrives -------------------------------------------------------

    def receive(self, limit: int = COLLECT_LIMIT_BYTES, *, is_good_only: bool = False) -> Answer | None:
        """Take what has arrived, without waiting; return the answer when all of it is here, until then None.

        Raises NeedsThread: the head is here, and the body is of no known length, or longer than the connection's buffer
        and the limit; or the status speaks of the node or of the clock, where ``is_good_only``. TransportError: the
        connection ended or broke.
        """
        connection, head = self.connection, self.head
        while self._collected is None:
            count, head = connection.advance(self.request.method, head)
            if count < 0:
                return None
            if not count:
                raise connection.ended_early(is_first=head is None)
            connection.moved_at = time.monotonic()
            if head is not None:
                self.head = head
                length = head.length
                if length is None or (is_good_only and head.status in ODD_STATUS):
                    raise NeedsThread
                body = connection.take_whole(length)
                if body is not None:
                    return head, body
                if not connection.fits(length):
                    self._begin_collecting(length, limit)
                    break
            if not (connection.is_full or connection.is_tls):
                connection.acknowledge()
                return None
        return self._collect()

    def _begin_collecting(self, length: int, limit: int) -> None:
        if length > limit:
            raise NeedsThread
        self._collected = bytearray(length)
        if self.connection.has_rest:
            self._filled = self.connection.readinto(memoryview(self._collected))

    def _collect(self) -> Answer | None:
        """Receive the rest of a body that outgrows the connection's buffer."""
        connection, collected = self.connection, self._collected
        if collected is None or self.head is None:
            raise AssertionError("there is no body yet")
        with memoryview(collected) as view:
            while self._filled < len(collected):
                count = connection.receive_now(view[self._filled :])
                if count < 0:
                    return None
                if not count:
                    raise connection.ended_early(is_first=False)
                connection.moved_at = time.monotonic()
                self._filled += count
        return self.head, bytes(collected)

    def end(self, head: Head, totals: ExchangeTotals) -> None:
        """Count an answer that is here, and give the connection back."""
        connection = self.connection
        seconds = connection.moved_at - self.started
        totals.count += 1
        totals.seconds += seconds
        if self.request.method == "GET":
            totals.reads += 1
            totals.read_seconds += seconds
        totals.sent += connection.bytes_sent - self.sent_before
        totals.received += connection.bytes_received - self.received_before
        self.node.waiting.discard(self)
        self._end(reusable=head.keep_alive)

    def abandon(self) -> None:
        """Drop the connection, which cannot be used again."""
        self._finish(reusable=False)

    def _finish(self, reusable: bool) -> None:
        if self.is_over:
            return
        connection, node = self.connection, self.node
        sent, received = connection.bytes_sent - self.sent_before, connection.bytes_received - self.received_before
        node.counters.add(bytes_sent=sent, bytes_received=received)
        if reusable and received >= MEASURED_BYTES and self.connection.waited_s:
            node.speed.note(received, self.connection.waited_s, is_read=True)
        node.waiting.discard(self)
        self._end(reusable=reusable)

    def _end(self, *, reusable: bool) -> None:
        self.is_over = True
        self.connection.watcher = None
        if self._lost is not None:
            reusable = False
            with self.node.wake_lock:  # who interrupts it may still be at its socket
                pass
        self.node.connections.checkin(self.connection, reusable=reusable)

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
    is_patient: bool = False,
) -> Exchange:
    """Connect where needed, or in any case when ``fresh``, and send the request.

    A node that never answered in this process is asked for a sign of life, to be given within ``greeting_s``, before it
    gets a request that cannot be under way on two nodes at once: a dead node behind an open port must not swallow it.
    One that ``is_patient`` does not leave a node that is slow.

    Raises TransportError: with ``sent`` False while the server cannot have acted. PoolExhausted: there is no free
    connection, and ``wait`` is False.
    """
    while True:
        node.connections.await_turn()
        connection = node.connections.checkout(
            max_idle_s=None if request.replayable else FRESH_IDLE_S,
            connect_timeout_s=connect_timeout_s,
            fresh=fresh,
            wait=wait,
            look=request.look_for_sender,
        )
        try:
            exchange = Exchange(node, connection, request)
            exchange.is_patient = is_patient
            return _begin_over(exchange, build_head, greeting_s)
        except StaleConnectionError:
            if not request.body.rewindable:
                raise
            request.body.rewind()


def _begin_over(exchange: Exchange, build_head: BuildHead, greeting_s: float | None) -> Exchange:
    node, request = exchange.node, exchange.request
    node.waiting.add(exchange)
    try:
        if greeting_s is not None and not node.is_proven and not request.may_be_hedged:
            _ask_for_life(exchange.connection, node, greeting_s)
        _send(exchange, build_head(node))
    except BaseException:
        exchange.abandon()
        raise
    exchange.is_sent = True
    return exchange


def send_over(connection: NodeConnection, node: Node, request: Request, head: bytes) -> Exchange | None:
    """Send one that can be sent again, with a small body or none; None when the connection was closed meanwhile."""
    exchange = Exchange(node, connection, request)
    body = request.body
    content = body.content if isinstance(body, BytesBody) else b""
    connections = node.connections
    try:
        connection.send_joined(head + content if content else head, connections.settings.read_timeout_s)
    except (EarlyResponse, TransportError):
        connection.watcher = None
        connections.checkin(connection, reusable=False)
        return None
    exchange.is_sent = True
    node.waiting.add(exchange)
    return exchange


def _ask_for_life(connection: NodeConnection, node: Node, patience_s: float) -> None:
    try:
        _, is_reusable = probe_request(connection, node.endpoint.netloc, timeout_s=patience_s)
    except TransportError as exc:
        raise ConnectError(
            f"{node.endpoint} accepts connections but does not answer: {exc}", endpoint=str(node.endpoint)
        ) from exc
    node.is_proven = True
    if not is_reusable:
        raise StaleConnectionError(f"{node.endpoint} closes after each answer", endpoint=str(node.endpoint))


def _send(exchange: Exchange, head: bytes) -> None:
    connection, request = exchange.connection, exchange.request
    connection.timeout_s = exchange.node.connections.settings.read_timeout_s
    sent_before = connection.bytes_sent
    try:
        connection.send(head, request.body)
    except EarlyResponse as early:
        sent = connection.bytes_sent - sent_before
        _read_early_answer(exchange, early, is_whole=sent >= len(head) + request.body.length)


def _read_early_answer(exchange: Exchange, early: EarlyResponse, *, is_whole: bool) -> None:
    """Take the answer that came before the body was sent; the connection ends with it."""
    connection, request = exchange.connection, exchange.request
    try:
        head = connection.read_head(request.method)
    except TransportError as exc:
        if isinstance(exc, (StaleConnectionError, NodeSilentError)):
            exc.sent = is_whole
            raise
        raise ProtocolError(
            f"{connection.endpoint} broke the connection: {early}", endpoint=connection.endpoint, sent=is_whole
        ) from exc
    exchange.accept(
        Head(head.status, head.reason, head.headers, head.lines, head.length, head.is_chunked, keep_alive=False)
    )


def probe_request(
    connection: NodeConnection, netloc: str, *, path: str = GENERIC_PATH, timeout_s: float
) -> tuple[Head, bool]:
    """Ask for a sign of life; give the answer's head, of any status, and whether the connection can be used again.

    Raises TransportError: no complete HTTP answer arrived.
    """
    connection.timeout_s = timeout_s
    try:
        connection.send(f"GET {path} HTTP/1.1\r\nhost: {netloc}\r\n\r\n".encode("ascii"), EMPTY_BODY)
    except EarlyResponse as exc:
        raise connection.protocol_error(f"broke the connection: {exc}") from exc
    connection.pace.window_s = timeout_s
    head = connection.read_head("GET")
    reusable: list[bool] = []
    body = ResponseBody(connection, head, finish=reusable.append, failed=lambda _error: None)
    buffer = memoryview(bytearray(BLOCK_BYTES))
    total = 0
    until = time.monotonic() + timeout_s
    while count := body.readinto(buffer):
        total += count
        if total > BODY_LIMIT_BYTES or time.monotonic() > until:
            body.close()
    return head, reusable[0]
