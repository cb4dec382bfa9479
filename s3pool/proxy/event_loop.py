"""The event loop: idle connections and short reads of all clients, in one thread.

Most requests are read in one piece, go to a node over an open connection, and come back in one piece. Handing the
interpreter from thread to thread for that costs more than the work itself: one thread does it for all connections. It
never waits: whatever is not there at once goes to a thread, which continues where the event loop stopped.
"""

from __future__ import annotations

import logging
import queue
import select
import threading
import time
from collections.abc import Callable

from s3pool.errors import TransportError
from s3pool.pool.exchange import Exchange, NeedsThread
from s3pool.pool.node import Totals
from s3pool.proxy.errors import ClientGoneError, S3ErrorResponse
from s3pool.proxy.forward import FIRST_ERROR
from s3pool.proxy.request import RequestRecord
from s3pool.proxy.request_handler import Host, RequestHandler
from s3pool.proxy.stream import ClientStream

logger = logging.getLogger(__name__)

NEXT_REQUEST_S = 0.5  # a thread waits so long for a client's next request before the event loop does
EXCESS_S = 2.0  # a connection beyond the bound has this long for its one request
IS_POSSIBLE = hasattr(select, "epoll")
TICK_S = 0.25  # how often it is looked at what waits too long
SILENCE_S = 0.25  # after which a thread waits for a node, with all its patience
MOST_EVENTS = 256
END_OF_HEAD = b"\r\n\r\n"
END_BYTES = len(END_OF_HEAD)
ONCE = select.EPOLLIN | select.EPOLLONESHOT if IS_POSSIBLE else 0

# Why a connection went to a thread.
REQUEST, UNCONNECTED, ANSWER, OVERDUE, CLIENT = "request", "unconnected", "answer", "overdue", "client"


class Connection:
    """One client, in a thread or in the event loop; one beyond the bound (``is_excess``) gets one answer."""

    def __init__(self, stream: ClientStream, peer: str, host: Host, *, is_excess: bool = False) -> None:
        self.stream = stream
        self.peer = peer
        self.host = host
        self.is_excess = is_excess
        self.is_idle = False  # it waits for a request; read by other threads
        self.idle_since = time.monotonic()
        self.is_known = False  # a request with a key was answered on it
        self.is_over = False  # all answers were given
        self.is_watched = False  # the event loop's own note
        self.goes_on = True  # another request may come
        self.started: RequestHandler | None = None  # a request that the event loop leaves to a thread
        self._leaves_thread = False

    def serve(self) -> None:
        """Answer requests until either side has enough, or the event loop can wait (``goes_on``) for the next one."""
        self._leaves_thread = False
        started, self.started = self.started, None
        try:
            self.goes_on = started is None or self._finish(started)
            while self.goes_on and not self._leaves_thread:
                self.goes_on = self._serve_next()
        except ClientGoneError as exc:
            logger.debug("%s: %s", self.peer, exc)
            self.goes_on = False
            self.stream.close()
            return
        if not self.goes_on:
            self.is_over = True
            self.stream.hang_up()

    def _serve_next(self) -> bool:
        host, stream = self.host, self.stream
        settings = host.gateway.settings
        # In this order: who drains first says so, and then wakes whoever is idle.
        self.is_idle = True
        if host.is_draining and not stream.buffered:
            return False
        may_leave = self._may_leave_thread() and not self.is_excess
        idle_s = min(settings.idle_timeout, NEXT_REQUEST_S) if may_leave else settings.idle_timeout
        head_s = settings.header_timeout
        if self.is_excess:
            idle_s = head_s = EXCESS_S
        bytes_before = stream.bytes_in - stream.buffered
        try:
            block = stream.read_head(idle_s=idle_s, head_s=head_s)
        except S3ErrorResponse as error:
            return self._finish(self.handler(b"", bytes_before, error=error))
        if block is None:
            self._leaves_thread = may_leave and stream.is_silent
            return self._leaves_thread
        self.is_idle = False
        return self._finish(self.handler(block, bytes_before))

    def handler(self, block: bytes, bytes_before: int, *, error: S3ErrorResponse | None = None) -> RequestHandler:
        """Return a handler for a request head, or for one that could not be read."""
        record = RequestRecord(self.peer, time.monotonic())
        handler = RequestHandler(self.stream, self.host, block, record, bytes_before)
        handler.is_excess, handler.error = self.is_excess, error
        return handler

    def note_answer(self, handler: RequestHandler) -> None:
        """Report the request, and note since when the connection waits for the next one."""
        handler.report()
        record = handler.record
        self.is_known = self.is_known or bool(record.access_key and 0 < record.status < FIRST_ERROR)
        self.idle_since = time.monotonic()

    def _may_leave_thread(self) -> bool:
        return IS_POSSIBLE and not self.stream.is_tls and not self.stream.buffered

    def _finish(self, handler: RequestHandler) -> bool:
        try:
            goes_on = handler.serve()
        except ClientGoneError:
            handler.note_client_gone()
            raise
        finally:
            self.note_answer(handler)
        self._leaves_thread = handler.is_plain and self._may_leave_thread()
        return goes_on


Attend = Callable[[Connection, str], None]
UnderWay = tuple[int, Connection, RequestHandler, Exchange]  # the first is the descriptor of the client


class EventLoop:
    """Connections that are not in a thread; ``attend`` gives one to a thread, for a reason, ``release`` closes one."""

    def __init__(self, host: Host, *, attend: Attend, release: Callable[[Connection], None]) -> None:
        self._host = host
        self._attend = attend
        self._release = release
        self._epoll = select.epoll()
        # A connection belongs to whoever takes it out of here; other threads only add to it.
        self._clients: dict[int, Connection] = {}
        # By the descriptor of the connection to the node.
        self._requests: dict[int, UnderWay] = {}
        self._totals = Totals()  # of what came in one turn
        self._stops = False
        self._has_ended = False
        self._thread = threading.Thread(target=self._run, name="s3pool-loop", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread with its last connection; later ones are closed."""
        self._stops = True

    def watch(self, connection: Connection) -> None:
        """Wait for a connection's next request; callable from any thread."""
        # In this order: who drains first says so, and then wakes whoever is idle.
        connection.is_idle = True
        connection.is_watched = True
        fd = connection.stream.fileno()
        try:
            # Before it is the loop's, which may end it at once. What is ready stays ready.
            self._epoll.register(fd, select.EPOLLIN)
        except (OSError, ValueError):  # the loop has ended
            self._release(connection)
            return
        self._clients[fd] = connection
        if self._has_ended:
            self._end(fd)

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        next_tick = time.monotonic() + TICK_S
        while not (self._stops and not self._clients):
            for fd, _ in self._epoll.poll(TICK_S, MOST_EVENTS):
                self._serve(fd)
            self._totals.flush()
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + TICK_S
                self._look_for_late_ones(now)
        self._has_ended = True
        for fd in list(self._clients):
            self._end(fd)
        self._epoll.close()

    def _serve(self, fd: int, *, is_late: bool = False) -> None:
        """Handle a descriptor that is ready."""
        under_way = self._requests.get(fd)
        try:
            if under_way is not None:
                self._on_answer(fd, under_way, is_late=is_late)
            elif (connection := self._clients.get(fd)) is not None:
                self._on_client(fd, connection)
        except Exception:  # one connection's trouble must not be the others'
            logger.exception("a connection failed")
            self._give_up(fd)

    def _on_client(self, fd: int, connection: Connection) -> None:
        if not connection.is_idle:
            # The next request already, or the end: it has its time after this one.
            self._epoll.unregister(fd)
            connection.is_watched = False
            return
        stream, started = connection.stream, time.monotonic()
        bytes_before = stream.bytes_in
        received = stream.receive_now()
        if received is None:
            return
        if not received:
            self._end(fd)
            return
        connection.is_idle = False
        # One request's head, and nothing behind it; an empty line before it is for a thread.
        head_end = len(received) - END_BYTES
        is_head = received.find(END_OF_HEAD) == head_end > 0
        if is_head and self._host.gateway.allows_event_loop and not received.startswith(b"\r\n"):
            block = received[:head_end]
            record = RequestRecord(connection.peer, started)
            handler = RequestHandler(stream, self._host, block, record, bytes_before)
            self._begin(fd, connection, handler)
            return
        stream.put_back(received)
        self._hand_over(fd, connection, None, REQUEST)

    def _begin(self, fd: int, connection: Connection, handler: RequestHandler) -> None:
        try:
            is_plain = handler.admit_now()
            exchange = handler.begin() if is_plain else None
        except BaseException:
            handler.abandon()
            raise
        if exchange is None:
            self._hand_over(fd, connection, handler, UNCONNECTED if is_plain else REQUEST)
            return
        wire_fd = exchange.connection.fileno()
        self._requests[wire_fd] = fd, connection, handler, exchange
        self._totals.of(exchange.node).begun += 1
        self._watch(wire_fd)

    def _watch(self, fd: int) -> None:
        """Wait for one event of a node's connection, which stays registered with epoll."""
        try:
            self._epoll.modify(fd, ONCE)
        except FileNotFoundError:
            self._epoll.register(fd, ONCE)

    def _on_answer(self, fd: int, under_way: UnderWay, *, is_late: bool) -> None:
        client_fd, connection, handler, exchange = under_way
        try:
            arrival = exchange.receive(0, is_good_only=True)
        except (NeedsThread, TransportError):
            del self._requests[fd]
            self._hand_over(client_fd, connection, handler, ANSWER)
            return
        if arrival is None and not is_late:
            self._watch(fd)
            return
        del self._requests[fd]
        if arrival is None:
            self._hand_over(client_fd, connection, handler, OVERDUE)
            return
        exchange.end(arrival[0], self._totals.of(exchange.node))
        try:
            if not handler.offer(arrival):
                self._hand_over(client_fd, connection, handler, CLIENT)
                return
        except BaseException as exc:
            handler.abandon()
            self._end(client_fd)
            if isinstance(exc, ClientGoneError):
                return
            raise
        connection.note_answer(handler)
        connection.is_idle = True
        if not connection.is_watched:
            connection.is_watched = True
            self._epoll.register(client_fd, select.EPOLLIN)

    def _look_for_late_ones(self, now: float) -> None:
        """Hand requests of silent nodes to threads, and close connections idle too long."""
        for fd, (_, _, _, exchange) in list(self._requests.items()):
            if now - exchange.started > SILENCE_S:
                self._serve(fd, is_late=True)
        oldest = now - self._host.gateway.settings.idle_timeout
        for fd, connection in list(self._clients.items()):
            if connection.is_idle and connection.idle_since < oldest:
                self._end(fd)

    # -- whose a connection is next --------------------------------------------------------------

    def _hand_over(self, fd: int, connection: Connection, handler: RequestHandler | None, reason: str) -> None:
        del self._clients[fd]
        if connection.is_watched:
            self._epoll.unregister(fd)
            connection.is_watched = False
        connection.started = handler
        self._attend(connection, reason)

    def _end(self, fd: int) -> None:
        connection = self._clients.pop(fd, None)
        if connection is not None:
            self._release(connection)

    def _give_up(self, fd: int) -> None:
        """Close the connection on which an exception was raised."""
        under_way = self._requests.pop(fd, None)
        if under_way is None:
            self._end(fd)
            return
        client_fd, _, handler, _ = under_way
        handler.abandon()
        self._end(client_fd)


REST_S = 2.0  # a thread without work ends after this
MOST_RESTING = 32  # further ones end at once

Job = Callable[[], None]


class ThreadCache:
    """Runs each job in its own thread, and keeps idle threads for the next jobs."""

    def __init__(self, name: str, *, rest_s: float = REST_S, most_resting: int = MOST_RESTING) -> None:
        self._name = name
        self._rest_s = rest_s
        self._most_resting = most_resting
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        # Guards the number of threads that rest and are not meant for a job yet.
        self._lock = threading.Lock()
        self.resting = 0  # threads without work

    def submit(self, job: Job) -> None:
        """Run a job soon. Raises RuntimeError: the system has no thread left."""
        with self._lock:
            is_taken = self.resting > 0
            self.resting -= is_taken
        if is_taken:
            self._jobs.put(job)
        else:
            threading.Thread(target=self._work, args=([job],), name=self._name, daemon=True).start()

    def _work(self, first: list[Job]) -> None:
        # Out of the list, because a thread keeps its arguments to its end.
        job: Job | None = first.pop()
        while job is not None:
            try:
                job()
            except Exception:  # the thread's outermost frame
                logger.exception("%s: a job failed", self._name)
            job = None  # what it holds on to must not wait with this thread
            with self._lock:
                if self.resting >= self._most_resting:
                    return
                self.resting += 1
            job = self._next()

    def _next(self) -> Job | None:
        try:
            return self._jobs.get(timeout=self._rest_s)
        except queue.Empty:
            with self._lock:
                if self.resting:
                    self.resting -= 1
                    return None
            return self._jobs.get()  # somebody counts on this thread: the job is on its way
