"""One endpoint's connections; the only room that knows urllib3.

urllib3 opens connections (addresses, socket options, TLS, verification) behind a PoolManager; idle ones wait in a stack
of ours, because urllib3's queue and its request path cost several times the exchange itself.
"""

from __future__ import annotations

import queue
import re
import socket
import sys
import threading
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if "importlib.metadata" in sys.modules:
    import urllib3
else:  # which urllib3.http2 would load for the moment in which HTTP/2 is switched on, and that takes long
    sys.modules["importlib.metadata"] = ModuleType("importlib.metadata")
    vars(sys.modules["importlib.metadata"])["version"] = lambda name: import_module("importlib.metadata").version(name)
    import urllib3

    del sys.modules["importlib.metadata"]
from urllib3.connection import BaseSSLError, HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.exceptions import HTTPError as Urllib3Error
from urllib3.exceptions import SSLError as Urllib3TLSError
from urllib3.util import create_urllib3_context, make_headers

from s3pool.body import Body, Throttle
from s3pool.endpoint import HttpProxy
from s3pool.errors import ConfigError, ConnectError, ProtocolError, SlotsBusyError, TLSError, describe_os_error
from s3pool.model import Endpoint
from s3pool.pool.http1 import Head, NodeConnection
from s3pool.pool.tcp import QUIET_S
from s3pool.record import dataclass

if TYPE_CHECKING:
    import ssl

DEFAULT_MAX_CONNECTIONS = 100
MAX_LEAST_OPEN = 4  # connections to a node that are kept busy where each of them is slow
DEFAULT_MAX_IDLE_S = 15.0  # RGW closes idle connections after 65 s, some servers after 5
PROXY_AUTHENTICATION_REQUIRED = 407
HOST = re.compile(rb"\r\nhost: *([^\r]*)", re.IGNORECASE)
LOOK_S = 0.5  # how often it is looked for those that were idle for too long
SOCKET_OPTIONS = [
    *HTTPConnection.default_socket_options,  # TCP_NODELAY
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
]


class PoolExhausted(Exception):
    """No connection of an endpoint can be had at once, and the caller cannot wait."""


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """How connections are made and kept; times in seconds, ``max_connections`` per endpoint."""

    connect_timeout_s: float = 3.0
    read_timeout_s: float = 60.0
    max_connections: int = DEFAULT_MAX_CONNECTIONS
    max_idle_s: float = DEFAULT_MAX_IDLE_S
    slot_wait_s: float | None = None  # for one of the connections that are all in use; None is the read timeout
    insecure: bool = False
    ca_bundle: str = ""
    client_cert: str = ""  # to show to nodes that ask for one
    client_key: str = ""
    http_proxy: HttpProxy | None = None  # between this machine and the node


class ConnectionCounts:
    """How the requests of one endpoint came by their connections.

    They were opened (``new``) or used again; ``stale`` ones were found closed, or too old, when one was
    looked for, and on ``unasked`` ones bytes had come that no request had asked for.
    """

    def __init__(self) -> None:
        # Guards the counts; held for additions only.
        self._lock = threading.Lock()
        self._counts = {"new": 0, "reused": 0, "stale": 0, "unasked": 0}

    def add(self, kind: str, count: int = 1) -> None:
        """Count connections of a kind."""
        with self._lock:
            self._counts[kind] += count

    def snapshot(self) -> dict[str, int]:
        """Return the counts by kind."""
        with self._lock:
            return dict(self._counts)


class ForwardedConnection(NodeConnection):
    """A connection whose requests name their node in the request line (RFC 9112 section 3.2.2).

    The signature covers the path and the Host alone, so that it holds all the same.
    """

    __slots__ = ("_authorization", "_proxy")

    def __init__(self, sock: socket.socket, proxy: HttpProxy, *, endpoint: str, throttle: Throttle | None) -> None:
        super().__init__(sock, endpoint=endpoint, throttle=throttle)
        self._proxy = proxy
        token = b64encode(proxy.user_password.encode())
        self._authorization = b"\r\nproxy-authorization: Basic %b" % token if proxy.user_password else b""

    def send(self, head: bytes, body: Body) -> None:
        """See NodeConnection."""
        super().send(self._absolute(head), body)

    def send_joined(self, block: bytes | bytearray | memoryview, timeout_s: float) -> None:
        """See NodeConnection."""
        self.send_now(self._absolute(bytes(block)), timeout_s)

    def next_head(self, method: str) -> Head | None:
        """See NodeConnection. Raises ProtocolError: the proxy wants to know who asks."""
        head = super().next_head(method)
        if head is not None and head.status == PROXY_AUTHENTICATION_REQUIRED:
            wish = "other credentials" if self._authorization else "credentials: http://USER:PASSWORD@host:port"
            raise ProtocolError(f"the proxy {self._proxy} wants {wish}", endpoint=self.endpoint, sent=False)
        return head

    def _absolute(self, head: bytes) -> bytes:
        host = HOST.search(head)
        line, _, rest = head.partition(b"\r\n")
        method, _, target = line.partition(b" ")
        name = host[1] if host else b""
        return b"%b http://%b%b%b\r\n%b" % (method, name, target, self._authorization, rest)


class _Opener:
    """What our pools add to urllib3's: a connected connection, without a request."""

    def open_connection(self, timeout_s: float) -> HTTPConnection:
        connection: HTTPConnection = self._new_conn()  # type: ignore[attr-defined]
        connection.timeout = timeout_s
        try:
            if self.proxy is not None and self.scheme == "https":  # type: ignore[attr-defined]
                self._prepare_proxy(connection)  # type: ignore[attr-defined]
            else:
                connection.connect()
        except BaseException:
            connection.close()  # in the middle of a handshake urllib3 leaves that to the garbage collector
            raise
        return connection


class PlainPool(_Opener, urllib3.HTTPConnectionPool):
    """urllib3's pool as a factory of plain connections."""


class TLSPool(_Opener, urllib3.HTTPSConnectionPool):
    """urllib3's pool as a factory of TLS connections."""


class ConnectionPool:
    """Open, keep and bound the connections to one endpoint; safe for many threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        settings: ConnectionSettings,
        *,
        throttle: Throttle | None = None,
        turns: Throttle | None = None,
        tls_context: Callable[[], ssl.SSLContext] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = endpoint
        self.settings = settings
        self._throttle = throttle
        self._turns = turns
        self.is_unlimited = throttle is None and turns is None  # sending never sleeps for a limit
        self._tls_context = tls_context
        self._now = now
        # One token for each connection that may still be in use: cheaper than a semaphore of threading.
        self._slots: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(settings.max_connections):
            self._slots.put(None)
        # Newest last; append and pop are atomic, so no lock is needed.
        self._idle: deque[NodeConnection] = deque()
        self._next_look = 0.0  # for those that wait too long
        self._least_open = 1  # so many are opened before one is used again
        self.counts = ConnectionCounts()
        self.open_s = 0.0  # what the newest connection took to open; 0 before the first
        # Guards the lazy creation of the urllib3 pool.
        self._lock = threading.Lock()
        self._factory: PlainPool | TLSPool | None = None
        self._is_closed = False

    def await_turn(self) -> None:
        """Wait until the next request may be sent, where their number in a second is limited."""
        if self._turns is not None:
            self._turns.take(1)

    def checkout(
        self,
        *,
        max_idle_s: float | None = None,
        connect_timeout_s: float | None = None,
        fresh: bool = False,
        wait: bool = True,
        look: Callable[[], None] | None = None,
    ) -> NodeConnection:
        """Return an idle connection that is still alive, or a new one; always this when ``fresh``.

        ``max_idle_s`` demands a younger one than the pool's own limit. Waits for a free slot when the endpoint is at
        its bound, unless told not to; meanwhile ``look`` may raise.

        Raises ConnectError, TLSError: none came about. PoolExhausted: there is no free slot, and ``wait`` is False.
        """
        timeout_s = self.settings.connect_timeout_s if connect_timeout_s is None else connect_timeout_s
        self._take_slot(wait, look)
        try:
            is_new = fresh or (self._least_open > 1 and self._opens_another())
            kept = None if is_new else self._idle_connection(max_idle_s)
            connection = kept or self.open(timeout_s)
            self.counts.add("new" if kept is None else "reused")
            return connection
        except BaseException:
            self._slots.put(None)
            raise

    def take_open(self) -> NodeConnection | None:
        """Return an idle connection that is still alive, at once; None when there is none to take.

        The caller counts it, with the request that goes over it.
        """
        try:
            self._slots.get_nowait()
        except queue.Empty:
            return None
        connection = None if self._least_open > 1 and self._opens_another() else self._idle_connection(None)
        if connection is None:
            self._slots.put(None)
        return connection

    def _take_slot(self, wait: bool, look: Callable[[], None] | None) -> None:
        try:
            return self._slots.get_nowait()
        except queue.Empty:
            if not wait:
                raise PoolExhausted from None
        until = time.monotonic() + (self.settings.slot_wait_s or self.settings.read_timeout_s)
        while (left_s := until - time.monotonic()) > 0:
            try:
                return self._slots.get(timeout=min(left_s, QUIET_S))
            except queue.Empty:
                if look is not None:
                    look()
        raise SlotsBusyError(f"{self.endpoint}: all connections stayed busy", endpoint=str(self.endpoint))

    def checkin(self, connection: NodeConnection, *, reusable: bool) -> None:
        """Take a connection back, to keep or to close."""
        if reusable and not self._is_closed and not connection.has_rest:
            connection.idle_since = now = self._now()
            self._idle.append(connection)
            if now >= self._next_look:
                self._next_look = now + LOOK_S
                self._drop_old(now)
        else:
            if reusable and connection.has_rest:
                self.counts.add("unasked")
            connection.close()
        self._slots.put(None)

    def _drop_old(self, now: float) -> None:
        """Close what waited too long at the far end of the stack, where nobody else looks."""
        oldest = now - self.settings.max_idle_s
        try:
            while self._idle[0].idle_since < oldest:
                connection = self._idle.popleft()
                if connection.idle_since >= oldest:  # another thread took the one that was looked at
                    self._idle.append(connection)
                    return
                connection.close()
        except IndexError:  # others took them all
            return

    def use_more_connections(self) -> None:
        """Open some more, then use the one that rested longest: for servers where requests of one connection wait."""
        self._least_open = MAX_LEAST_OPEN

    def keep_open(self, count: int) -> None:
        """Open connections until there are so many, idle ones and those in use; closed ones do not count.

        Raises ConnectError, TLSError: no connection came about.
        """
        for _ in range(len(self._idle)):
            try:
                connection = self._idle.popleft()
            except IndexError:  # others took them all
                break
            if connection.is_readable() or self._now() - connection.idle_since > self.settings.max_idle_s:
                connection.close()
            else:
                self._idle.append(connection)
        while len(self._idle) + self.settings.max_connections - self._slots.qsize() < count and not self._is_closed:
            try:
                self.checkin(self.checkout(fresh=True, wait=False), reusable=True)
            except PoolExhausted:
                return

    def _opens_another(self) -> bool:
        in_use = self.settings.max_connections - self._slots.qsize()  # with the one that is asked for
        return len(self._idle) + in_use <= self._least_open

    def drop_idle(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        """Close the idle connections; those in use close when they come back."""
        self._is_closed = True
        self.drop_idle()
        if self._factory is not None:
            self._factory.close()

    def _idle_connection(self, max_idle_s: float | None) -> NodeConnection | None:
        """Return an idle connection on which nothing arrived: what did would be taken for the next answer."""
        limit_s = self.settings.max_idle_s if max_idle_s is None else min(max_idle_s, self.settings.max_idle_s)
        while self._idle:
            try:
                connection = self._idle.pop() if self._least_open == 1 else self._idle.popleft()
            except IndexError:  # another thread was faster
                return None
            idle_s = self._now() - connection.idle_since
            if idle_s <= limit_s and not connection.is_readable():
                return connection
            if limit_s < idle_s <= self.settings.max_idle_s:
                self._idle.append(connection)  # too old for this caller, not for others; those below are older still
                return None
            self.counts.add("unasked" if connection.has_bytes() else "stale")
            connection.close()
        return None

    def open(self, timeout_s: float) -> NodeConnection:
        """Open a connection beyond the bound; the caller closes it. Raises ConnectError, TLSError: none came about."""
        factory = self._factory or self._make_factory()
        started = time.monotonic()
        try:
            sock = factory.open_connection(timeout_s).sock
        except NewConnectionError as exc:  # before its parent, ConnectTimeoutError
            is_unknown = isinstance(exc, NameResolutionError)
            raise self._connect_error("the host name is unknown" if is_unknown else _connect_reason(exc)) from exc
        except (ConnectTimeoutError, TimeoutError) as exc:  # this one in the middle of a TLS handshake
            raise self._connect_error(f"no connection within {timeout_s:g} s", is_late=True) from exc
        except (BaseSSLError, Urllib3TLSError) as exc:
            raise TLSError(f"{self.endpoint}: {_tls_reason(exc)}", endpoint=str(self.endpoint)) from exc
        except (OSError, Urllib3Error) as exc:
            raise self._connect_error(_connect_reason(exc)) from exc
        self.open_s = time.monotonic() - started
        version = getattr(sock, "version", None)
        tls_version = (version() or "TLS") if version else ""
        proxy, endpoint = self.settings.http_proxy, str(self.endpoint)
        if proxy is not None and self.endpoint.scheme == "http":
            return ForwardedConnection(sock, proxy, endpoint=endpoint, throttle=self._throttle)
        return NodeConnection(sock, endpoint=endpoint, tls_version=tls_version, throttle=self._throttle)

    def _connect_error(self, why: str, *, is_late: bool = False) -> ConnectError:
        proxy = self.settings.http_proxy
        place = f"{self.endpoint} through the proxy {proxy}" if proxy else str(self.endpoint)
        return ConnectError(f"{place}: {why}", endpoint=str(self.endpoint), is_late=is_late)

    def _make_factory(self) -> PlainPool | TLSPool:
        with self._lock:
            if self._factory is None:
                manager = self._make_manager()
                manager.pool_classes_by_scheme = {"http": PlainPool, "https": TLSPool}
                endpoint = self.endpoint
                pool = manager.connection_from_host(endpoint.connect_host, endpoint.port, scheme=endpoint.scheme)
                if not isinstance(pool, (PlainPool, TLSPool)):
                    raise TypeError("urllib3 ignored pool_classes_by_scheme")
                self._manager = manager
                self._factory = pool
            return self._factory

    def _make_manager(self) -> urllib3.PoolManager:
        options: dict[str, Any] = {"num_pools": 1, "maxsize": 1, "retries": False, "socket_options": SOCKET_OPTIONS}
        options |= self._tls_options()
        proxy = self.settings.http_proxy
        if proxy is None:
            return urllib3.PoolManager(**options)
        headers = make_headers(proxy_basic_auth=proxy.user_password) if proxy.user_password else None
        return urllib3.ProxyManager(str(proxy), proxy_headers=headers, **options)

    def _tls_options(self) -> dict[str, Any]:
        if self.endpoint.scheme != "https":
            return {}
        context = self._tls_context() if self._tls_context else make_tls_context(self.settings)
        options: dict[str, Any] = {"ssl_context": context, "cert_reqs": "CERT_REQUIRED"}
        if self.endpoint.address:  # the certificate is the name's
            options["server_hostname"] = self.endpoint.host
        if self.settings.insecure:
            options |= {"cert_reqs": "CERT_NONE", "assert_hostname": False}
        return options


def make_tls_context(settings: ConnectionSettings) -> ssl.SSLContext:
    """Return a client context, to be shared: loading the certificates costs more than a handshake.

    Raises ConfigError: the CA bundle cannot be read.
    """
    import ssl

    context = create_urllib3_context(cert_reqs=ssl.CERT_NONE if settings.insecure else ssl.CERT_REQUIRED)
    if settings.client_cert:
        try:
            context.load_cert_chain(settings.client_cert, settings.client_key or None, password="")
        except OSError as exc:
            is_no_file = not isinstance(exc, ssl.SSLError)
            why = exc.strerror if is_no_file else getattr(exc, "reason", "") or "it is no PEM, or the key is missing"
            raise ConfigError(f"cannot use the client certificate {settings.client_cert}: {why}") from exc
    if settings.insecure:
        context.check_hostname = False
        return context
    if not settings.ca_bundle:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(cafile=settings.ca_bundle)
    except OSError as exc:
        raise ConfigError(f"cannot read the CA bundle {settings.ca_bundle}: {describe_os_error(exc)}") from exc
    return context


def _connect_reason(exc: BaseException) -> str:
    cause = exc.__cause__ or exc.__context__
    if isinstance(exc, OSError):
        return describe_os_error(exc)
    return describe_os_error(cause) if isinstance(cause, OSError) else str(exc)


def _tls_reason(exc: BaseException) -> str:
    cause = exc.args[0] if exc.args and isinstance(exc.args[0], BaseException) else exc
    if why := getattr(cause, "verify_message", ""):
        return f"the certificate is not trusted: {why}; give --ca-bundle FILE, or --insecure to skip the check"
    reason = getattr(cause, "reason", "") or str(cause)
    return f"TLS failed: {reason}; does this port speak HTTPS?"
