"""The listening side: who is let in, how many at once, and how it all comes to an end."""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any

from s3pool.errors import ConfigError
from s3pool.proxy.denial import unavailable
from s3pool.proxy.gateway import Gateway
from s3pool.proxy.handler import Connection
from s3pool.proxy.journal import AccessLog, Entry
from s3pool.proxy.metrics import Metrics
from s3pool.proxy.settings import Address, ProxySettings
from s3pool.proxy.stream import ClientStream

logger = logging.getLogger(__name__)

BACKLOG = 1024
HANDSHAKE_TIMEOUT_S = 10.0
POLL_S = 0.2


class ProxyServer(ThreadingHTTPServer):
    """A thread per connection, a bound on their number, and a way out that loses nothing.

    http.server gives the listening and the threads; every byte of HTTP is read by our own
    parser. ``gateway`` and ``tls`` may be replaced while it runs.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = BACKLOG
    allow_reuse_address = True

    def __init__(
        self, address: Address, gateway: Gateway, *, metrics: Metrics, log: AccessLog | None, tls: ssl.SSLContext | None
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self.allow_reuse_port = gateway.settings.processes > 1
        self.gateway = gateway
        self.metrics = metrics
        self.log = log
        self.tls = tls
        self.is_draining = False
        # Guards the two below: what runs, and who has how many.
        self._lock = threading.Lock()
        self._sockets: dict[Connection, socket.socket] = {}
        self._per_peer: Counter[str] = Counter()
        self._all_gone = threading.Event()
        self._all_gone.set()
        try:
            super().__init__((address.host, address.port), _unused_handler, bind_and_activate=True)
        except OSError as exc:
            raise ConfigError(f"cannot listen on {address}: {exc.strerror or exc}") from exc

    def server_bind(self) -> None:
        """Bind without asking a name server for our own name."""
        if self.allow_reuse_port:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    @property
    def settings(self) -> ProxySettings:
        """Give the settings in force."""
        return self.gateway.settings

    @property
    def connections(self) -> int:
        """Give the number of open connections."""
        return len(self._sockets)

    # -- admission ---------------------------------------------------------------------------

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a connection's thread, or turn it away: the accepting thread waits for nobody."""
        peer = str(client_address[0])
        if not self._enter(peer):
            self.metrics.turned_away()
            self._turn_away(request)
            return
        thread = threading.Thread(target=self._serve, args=(request, peer), name="s3pool-proxy", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left
            self._leave(peer)
            self._turn_away(request)

    def _enter(self, peer: str) -> bool:
        with self._lock:
            limit = self.settings.max_per_client
            if self._per_peer.total() >= self.settings.max_clients or (limit and self._per_peer[peer] >= limit):
                return False
            self._per_peer[peer] += 1
            self._all_gone.clear()
            return True

    def _leave(self, peer: str) -> None:
        with self._lock:
            self._per_peer[peer] -= 1
            if not self._per_peer[peer]:
                del self._per_peer[peer]
            if not self._per_peer:
                self._all_gone.set()

    def _turn_away(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self.tls is None:
                body = unavailable("too many connections; try again").xml("", "")
                head = (
                    "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: application/xml\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                )
                sock.setblocking(False)
                sock.send(head.encode() + body)
                sock.shutdown(socket.SHUT_WR)
        sock.close()

    # -- one connection ------------------------------------------------------------------------

    def _serve(self, sock: socket.socket, peer: str) -> None:
        try:
            self._converse(sock, peer)
        except Exception:  # the thread's outermost frame
            logger.exception("a connection from %s failed", peer)
        finally:
            with contextlib.suppress(OSError):
                sock.close()
            self._leave(peer)

    def _converse(self, sock: socket.socket, peer: str) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        tls = self.tls
        if tls is not None:
            secured = _shake_hands(sock, tls, peer)
            if secured is None:
                return
            sock = secured
        connection = Connection(ClientStream(sock, is_tls=tls is not None), peer, self)
        with self._lock:
            self._sockets[connection] = sock
        try:
            connection.serve()
        finally:
            with self._lock:
                del self._sockets[connection]

    # -- what connections need (handler.Host) --------------------------------------------------

    def begin(self) -> None:
        """Count a request that starts."""
        self.metrics.begin()

    def report(self, entry: Entry) -> None:
        """Count and log a request that ended."""
        self.metrics.end(entry)
        if self.log is not None:
            self.log.write(entry)

    # -- the end -------------------------------------------------------------------------------

    def drain(self, *, is_urgent: Callable[[], bool] = lambda: False) -> bool:
        """Stop accepting, let running requests finish, and say whether all did in time.

        Health answers 503 for ``drain_delay`` before that, so that balancers notice.
        ``is_urgent`` is asked often: True ends the waiting at once.
        """
        self.is_draining = True
        until = time.monotonic() + self.settings.drain_delay
        while time.monotonic() < until and not is_urgent():
            time.sleep(min(POLL_S, max(until - time.monotonic(), 0.0)))
        self.shutdown()
        self.server_close()
        self._wake_idle()
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


def _unused_handler(*_arguments: object) -> Any:
    """Stand where http.server wants a handler: process_request never asks for it."""


def _shake_hands(sock: socket.socket, context: ssl.SSLContext, peer: str) -> ssl.SSLSocket | None:
    """Do the TLS handshake in the connection's own thread; None when it fails."""
    sock.settimeout(HANDSHAKE_TIMEOUT_S)
    try:
        return context.wrap_socket(sock, server_side=True)
    except (OSError, ValueError) as exc:
        logger.debug("%s: the TLS handshake failed: %s", peer, exc)
        return None


def server_context(settings: ProxySettings) -> ssl.SSLContext | None:
    """Give the listener's TLS, None for plain HTTP.

    Raises:
        ConfigError: a certificate or key cannot be read, or they do not belong together.
    """
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
        if settings.tls_client_ca:
            context.load_verify_locations(cafile=settings.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as exc:
        reason = getattr(exc, "reason", None) or getattr(exc, "strerror", None) or exc
        raise ConfigError(f"cannot use {settings.tls_cert}, {settings.tls_key}: {reason}") from exc
    return context
