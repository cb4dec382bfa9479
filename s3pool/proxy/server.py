"""The server: accepts connections up to a bound, and drains them at the end."""

from __future__ import annotations

import contextlib
import heapq
import logging
import os
import socket
import socketserver
import ssl
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from operator import itemgetter
from socketserver import BaseRequestHandler
from typing import Any

from s3pool.errors import ConfigError
from s3pool.proxy.clients import ProxyProtocolError, is_trusted, plain_address, read_header
from s3pool.proxy.errors import own_answer, unavailable
from s3pool.proxy.event_loop import IS_POSSIBLE, Connection, EventLoop, ThreadCache
from s3pool.proxy.gateway import Gateway
from s3pool.proxy.metrics import AccessLog, Metrics
from s3pool.proxy.request import Index, RequestRecord
from s3pool.proxy.settings import Address, ProxySettings
from s3pool.proxy.stream import ClientStream

logger = logging.getLogger(__name__)

BACKLOG = 1024
HANDSHAKE_TIMEOUT_S = 10.0
POLL_S = 0.2
LOCAL_PEER = "127.0.0.1"  # who comes by a UNIX socket is on this machine
EXCESS_CONNECTIONS = 32  # connections beyond the bound, which get one answer
ACCEPT_AT_ONCE = 64
SHED_AT_ONCE = 64  # so many of the longest idle are found by one look at all
LEAVE_WAIT_S = 0.2  # for one of those that were told to make room
BUSY = float("inf")
STRANGER_S = 1e9  # a connection that asked for nothing with a key makes room before all that did


class Listener(ThreadingHTTPServer):
    """A server that can be reached at an address. Raises ConfigError: it cannot listen there, ``whom`` it is for."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, address: Address, handler: type[BaseRequestHandler], *, whom: str = "") -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        place: Any = address.host, address.port
        try:
            if address.path:
                self.address_family, place = socket.AF_UNIX, address.path
                remove_dead_socket(address.path)
            super().__init__(place, handler)
        except OSError as exc:
            raise ConfigError(f"cannot listen on {address}{whom}: {exc.strerror or exc}") from exc
        self.address = address
        if not address.path:
            host, port = self.server_address[:2]
            self.address = Address(str(host), int(port))  # the port that it got

    def server_bind(self) -> None:
        """Bind without asking a name server for our own name."""
        socketserver.TCPServer.server_bind(self)
        if self.address_family != socket.AF_UNIX:
            self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]


class ConnectionHandler(BaseRequestHandler):
    """Serves one connection in a thread, for as long as it needs one."""

    def handle(self) -> None:
        """Serve the connection."""
        self.request.serve()


class ProxyServer(Listener):
    """Accepts connections up to a bound, serves them in an event loop or in threads, and ends without losing any.

    Plain connections wait in the event loop and get a thread for what it does not do; those with TLS have one
    throughout. Our own parser reads every byte of HTTP. ``gateway`` and ``tls`` may be replaced while it runs.
    """

    request_queue_size = BACKLOG

    def __init__(
        self, address: Address, gateway: Gateway, *, metrics: Metrics, log: AccessLog | None, tls: ssl.SSLContext | None
    ) -> None:
        self._path = address.path
        self._bound_path = ""
        self.allow_reuse_port = gateway.settings.processes > 1
        self.gateway = gateway
        self.metrics = metrics
        self.log = log
        self.tls = tls
        self.trace: Callable[[RequestRecord, Index], None] | None = None
        self.is_draining = False
        # Guards the two below: what runs, and who has how many.
        self._lock = threading.Lock()
        self._sockets: dict[Connection, socket.socket] = {}
        self._per_peer: Counter[str] = Counter()
        self._unsecured: dict[socket.socket, float] = {}  # whose TLS handshake began then
        self._leaving: set[socket.socket] = set()  # that were told to make room
        self._longest_idle: list[tuple[float, Connection | None, socket.socket]] = []
        self._left, self._may_wait = threading.Condition(self._lock), True
        self._all_gone = threading.Event()
        self._all_gone.set()
        self._thread_cache = ThreadCache("s3pool-proxy")
        self._loop: EventLoop | None = None
        super().__init__(address, ConnectionHandler)

    def server_bind(self) -> None:
        """Bind, several processes to the one port; accepting never waits."""
        if self.allow_reuse_port:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()
        self.socket.setblocking(False)
        self._bound_path = self._path

    def server_close(self) -> None:
        """Stop listening; a UNIX socket's name goes with it."""
        super().server_close()
        if self._bound_path:
            with contextlib.suppress(OSError):
                os.unlink(self._bound_path)

    @property
    def settings(self) -> ProxySettings:
        """Return the settings in force."""
        return self.gateway.settings

    @property
    def connections(self) -> int:
        """Return the number of open connections."""
        return len(self._sockets)

    # -- admission ---------------------------------------------------------------------------

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start serving a new connection and those behind it, or refuse them, without waiting."""
        self._admit_connection(request, client_address)
        with contextlib.suppress(OSError):  # there is none behind it
            for _ in range(ACCEPT_AT_ONCE):
                self._admit_connection(*self.get_request())

    def _admit_connection(self, request: Any, client_address: Any) -> None:
        peer = plain_address(str(client_address[0])) if client_address else LOCAL_PEER
        balancers = self.settings.proxy_protocol
        is_balancer = bool(balancers) and is_trusted(peer, balancers)
        is_excess = self._enter(peer, is_limited=not is_balancer)
        if is_excess is None:
            self.metrics.count_refused()
            self._refuse_connection(request)
            return
        try:
            if is_balancer:
                self._loop_at_work()  # which no other thread starts
                self._thread_cache.submit(lambda: self._read_proxy_header(request, peer, is_excess=is_excess))
            else:
                self._start_connection(request, peer, is_excess=is_excess)
        except (RuntimeError, OSError):  # the system has no thread left, or no descriptor, or the client is gone
            self._refuse_connection(request, peer)

    def _read_proxy_header(self, sock: socket.socket, balancer: str, *, is_excess: bool) -> None:
        """Read the client's address from a balancer's PROXY header, then start the connection."""
        peer = balancer
        try:
            peer = read_header(sock, self.settings.header_timeout) or balancer
            sock.settimeout(None)
        except (ProxyProtocolError, OSError) as exc:
            logger.info("%s: %s", balancer, exc)
            sock.close()
            self._leave(balancer)
            return
        if not self._recount(balancer, peer):
            self.metrics.count_refused()
            self._refuse_connection(sock, balancer)
            return
        try:
            self._start_connection(sock, peer, is_excess=is_excess)
        except (RuntimeError, OSError):
            self._refuse_connection(sock, peer)

    def _recount(self, balancer: str, peer: str) -> bool:
        """Count a connection for its client instead of its balancer; False at the client's limit."""
        with self._lock:
            limit = self.settings.max_per_client
            if limit and self._per_peer[peer] >= limit:
                return False
            self._per_peer[balancer] -= 1
            self._per_peer[peer] += 1
            self._per_peer += Counter()  # which drops those that have none
            return True

    def _start_connection(self, sock: socket.socket, peer: str, *, is_excess: bool) -> None:
        tls = self.tls
        if tls is not None:
            self._thread_cache.submit(lambda: self._secure(sock, peer, tls, is_excess=is_excess))
            return
        at_work = self._loop_at_work() if IS_POSSIBLE else None
        connection = self._connection(sock, peer, is_tls=False, is_excess=is_excess)
        if at_work is not None and not is_excess:
            at_work.watch(connection)
        else:
            self._serve_in_thread(connection)

    def _connection(self, sock: socket.socket, peer: str, *, is_tls: bool, is_excess: bool) -> Connection:
        if not self._path:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        settings = self.settings
        stream = ClientStream(sock, is_tls=is_tls, least_speed=settings.least_speed, speed_window=settings.speed_window)
        connection = Connection(stream, peer, self, is_excess=is_excess)
        with self._lock:
            self._sockets[connection] = sock
        return connection

    def _loop_at_work(self) -> EventLoop:
        """Return the event loop, started at the first call; only for the accepting thread."""
        if self._loop is None:
            made = EventLoop(self, attend=self._hand_to_thread, release=self._release)
            made.start()
            self._loop = made
        return self._loop

    def _enter(self, peer: str, *, is_limited: bool) -> bool | None:
        """Return whether a connection is one too many, None for one that may not come in.

        At the bound the longest idle one makes room.
        """
        limit = self.settings.max_per_client if is_limited else 0
        most = self.gateway.forwarder.body_slots.size
        with self._lock:
            if limit and self._per_peer[peer] >= limit:
                return None
            bound = most + EXCESS_CONNECTIONS
            if self._per_peer.total() >= bound and self._leaving and self._may_wait:
                self._may_wait = self._left.wait_for(lambda: self._per_peer.total() < bound, LEAVE_WAIT_S)
            total = self._per_peer.total()
            if total >= bound:
                return None
            has_room = total - len(self._leaving) < most or self._make_room()
            self._per_peer[peer] += 1
            self._all_gone.clear()
            return not has_room

    def _make_room(self) -> bool:
        """Close a finished connection, or the one idle longest; return False when all are busy."""
        if self._shed():
            return True
        waiting: list[tuple[Connection | None, socket.socket]] = [*self._sockets.items()]
        waiting += [(None, sock) for sock in [*self._unsecured]]
        moments = [(self._idle_since(own, sock), own, sock) for own, sock in waiting]
        found = heapq.nsmallest(SHED_AT_ONCE, moments, key=itemgetter(0))
        # Before the first known one leaves it is looked anew for strangers, who may have come since.
        self._longest_idle = ([entry for entry in found if entry[0] < 0] or found)[::-1]
        return self._shed()

    def _shed(self) -> bool:
        """Let the longest idle of those that were found leave; the others of them may have become busy."""
        while self._longest_idle:
            moment, own, sock = self._longest_idle.pop()
            if self._idle_since(own, sock) <= moment < BUSY:
                self._leaving.add(sock)
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RD)  # past TLS, which its own thread is at
                return True
        return False

    def _idle_since(self, own: Connection | None, sock: socket.socket) -> float:
        """Return since when a connection waits, -BUSY for one that is over, BUSY for one that stays."""
        if sock in self._leaving:
            return BUSY
        if own is None:
            return self._unsecured.get(sock, BUSY) - STRANGER_S
        if own.is_excess or own not in self._sockets:
            return BUSY
        if own.is_over:
            return -BUSY
        if not own.is_idle:
            return BUSY
        return own.idle_since - (0.0 if own.is_known else STRANGER_S)

    def _leave(self, peer: str) -> None:
        with self._lock:
            self._per_peer[peer] -= 1
            if not self._per_peer[peer]:
                del self._per_peer[peer]
            self._may_wait = True
            self._left.notify_all()
            if not self._per_peer:
                self._all_gone.set()

    def _refuse_connection(self, sock: socket.socket, peer: str = "") -> None:
        """Turn a connection away, which may be counted for its peer."""
        if peer:
            self._leave(peer)
        with contextlib.suppress(OSError):
            if self.tls is None:
                body = unavailable("too many connections; try again").xml("", "")
                sock.setblocking(False)
                sock.send(own_answer(503, "application/xml", body, "Retry-After: 1", "Connection: close"))
                sock.shutdown(socket.SHUT_WR)
        sock.close()

    # -- one connection ------------------------------------------------------------------------

    def _secure(self, sock: socket.socket, peer: str, tls: ssl.SSLContext, *, is_excess: bool) -> None:
        secured = None
        try:
            secured = self._handshake(sock, tls, peer)
        finally:
            if secured is None:
                sock.close()
                self._leave(peer)
        if secured is not None:
            self._run_handler(self._connection(secured, peer, is_tls=True, is_excess=is_excess))

    def _handshake(self, sock: socket.socket, tls: ssl.SSLContext, peer: str) -> ssl.SSLSocket | None:
        """Do the TLS handshake in the connection's own thread; None when it fails."""
        sock.settimeout(HANDSHAKE_TIMEOUT_S)
        secured = None
        try:
            secured = tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            with self._lock:
                self._unsecured[secured] = time.monotonic()
            secured.do_handshake()
        except (OSError, ValueError) as exc:
            logger.debug("%s: the TLS handshake failed: %s", peer, exc)
            if secured is not None:
                secured.close()
            return None
        finally:
            with self._lock:
                self._unsecured.pop(secured, None)  # type: ignore[arg-type]
                self._leaving.discard(secured)
        return secured

    def _hand_to_thread(self, connection: Connection, reason: str) -> None:
        """Return a connection of the event loop to a thread."""
        self.metrics.count_handover(reason)
        self._serve_in_thread(connection)

    def _serve_in_thread(self, connection: Connection) -> None:
        try:
            self._thread_cache.submit(lambda: self._run_handler(connection))
        except RuntimeError:  # the system has no thread left
            if connection.started is not None:
                connection.started.abandon()
            self._release(connection)

    def _run_handler(self, connection: Connection) -> None:
        # What socketserver calls a request is for its handler alone to know.
        self.process_request_thread(connection, connection.peer)  # type: ignore[arg-type]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the exception of a connection's thread."""
        if isinstance(request, Connection):
            request.goes_on = False
        logger.error("a connection from %s failed", client_address, exc_info=sys.exc_info())

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, or let it wait for its next request in the event loop."""
        if not isinstance(request, Connection):
            request.close()
        elif request.goes_on and not request.is_excess and self._loop is not None:
            self._loop.watch(request)
        else:
            self._release(request)

    def _release(self, connection: Connection) -> None:
        connection.stream.close()
        with self._lock:
            self._leaving.discard(self._sockets.pop(connection))
        self._leave(connection.peer)

    # -- the end -------------------------------------------------------------------------------

    def drain(self, *, is_urgent: Callable[[], bool] = lambda: False) -> bool:
        """Stop accepting, let running requests finish, and return whether all did in time, unless it ``is_urgent``.

        Health answers 503 for ``drain_delay`` before that, so that balancers notice.
        """
        self.is_draining = True
        until = time.monotonic() + self.settings.drain_delay
        while time.monotonic() < until and not is_urgent():
            time.sleep(min(POLL_S, max(until - time.monotonic(), 0.0)))
        self.shutdown()
        self.server_close()
        self._wake_idle()
        if self._loop is not None:
            self._loop.stop()
        until = time.monotonic() + self.settings.drain_timeout
        while time.monotonic() < until and not is_urgent():
            if self._all_gone.wait(min(POLL_S, max(until - time.monotonic(), 0.001))):
                return True
            self._wake_idle()
        return self._all_gone.is_set()

    def _wake_idle(self) -> None:
        """Let connections that wait for a request see the end of their client's side."""
        with self._lock:
            for connection, sock in self._sockets.items():
                if connection.is_idle:
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_RD)


def remove_dead_socket(path: str) -> None:
    """Remove a UNIX socket that a killed process left behind."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:  # which files and links get, too
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
        except OSError:
            return  # there is none, or nobody may know


def server_context(settings: ProxySettings) -> ssl.SSLContext | None:
    """Return the listener's TLS, None for plain HTTP. Raises ConfigError: a file is unfit, or they do not fit."""
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    used = f"{settings.tls_cert}, {settings.tls_key}"
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
        if used := settings.tls_client_ca:
            context.load_verify_locations(cafile=settings.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as exc:
        reason = getattr(exc, "reason", None) or getattr(exc, "strerror", None) or exc
        raise ConfigError(f"cannot use {used}: {reason}") from exc
    return context
