"""Two HTTP clients, ours and stock urllib3, before a server that says what it is told to."""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

import urllib3
from urllib3.exceptions import HTTPError

from s3pool.body import EMPTY_BODY, Body, BytesBody
from s3pool.errors import TransportError
from s3pool.model import Endpoint, Request, Response
from s3pool.pool.balancer import LoadBalancer
from s3pool.pool.connections import ConnectionPool, ConnectionSettings
from s3pool.pool.node import CircuitBreaker, Node
from s3pool.pool.retry import RetryPolicy
from s3pool.pool.transport import Transport
from tests.support.listening import close_listener, serve_each

TLS_DIR = Path(__file__).parents[1] / "support" / "tls"
AGAIN = "/again"  # the path of the request that shows whether the connection is used again
ANSWER_AGAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain"
SOME_BYTES = 64 * 1024
TIMEOUT_S = 10.0
BODY = b"b" * 100_000  # what a PUT carries
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # for SO_LINGER


class Script(NamedTuple):
    """What the server does with the first request; it answers the next one as anybody would."""

    raw: bytes = b""
    closes: bool = False
    resets: bool = False  # where it closes
    drips: bool = False  # byte by byte
    is_early: bool = False  # answers before the body of the request


class Seen(NamedTuple):
    """What a client made of the first answer, and whether the next one came over the same connection."""

    status: int = 0
    body: bytes = b""
    headers: Mapping[str, str] = {}  # names in lower case, repeated ones joined
    is_error: bool = False
    is_reused: bool = False


class Client(Protocol):
    """An HTTP client with one connection."""

    def get(self, method: str, path: str) -> Seen:
        """Do one request and read its answer whole."""

    def close(self) -> None:
        """Close the connection."""


class RawServer:
    """Follow a script on a loopback socket, a thread for each connection."""

    def __init__(self, *, is_tls: bool = False) -> None:
        self.script = Script()
        self.connections_again = 0  # whose first request is the second one
        self.script_over = threading.Event()  # set when the server closed because the script says so
        self._context: ssl.SSLContext | None = None
        if is_tls:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(TLS_DIR / "server.pem")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint("https" if is_tls else "http", "127.0.0.1", self._listener.getsockname()[1])
        serve_each(self._listener, self._serve)

    def _serve(self, sock: socket.socket) -> None:
        is_over = False
        try:
            with self._context.wrap_socket(sock, server_side=True) if self._context else sock as stream:
                is_over = self._answer_all(stream)
        except OSError:
            return
        if is_over:
            self.script_over.set()

    def _answer_all(self, sock: socket.socket) -> bool:
        """Answer every request; True when the script ends the connection."""
        is_first = True
        while (request := _read_head(sock)) is not None:
            target, length, received = request
            if target == AGAIN:
                self.connections_again += is_first
                sock.sendall(ANSWER_AGAIN)
            else:
                self._follow(sock, left=length - received)
                if self.script.closes:
                    return True
            is_first = False
        return False

    def _follow(self, sock: socket.socket, *, left: int) -> None:
        script = self.script
        if not script.is_early:
            _discard(sock, left)
        for piece in _pieces(script):
            sock.sendall(piece)
        if script.is_early:
            _discard(sock, left)
        if script.resets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    def __enter__(self) -> RawServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        close_listener(self._listener)


def _pieces(script: Script) -> list[bytes]:
    return [bytes([byte]) for byte in script.raw] if script.drips else [script.raw]


def _read_head(sock: socket.socket) -> tuple[str, int, int] | None:
    """Give a request's target, the length of its body and how much of that came with the head."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = sock.recv(SOME_BYTES)
        if not piece:
            return None
        head += piece
    lines, _, rest = head.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in lines.split(b"\r\n")[1:])
    return lines.split(b" ")[1].decode(), int(fields.get(b"content-length", b"0")), len(rest)


def _discard(sock: socket.socket, left: int) -> None:
    while left > 0:
        left -= len(sock.recv(SOME_BYTES)) or left


class Ours:
    """The pool of one node, without a retry."""

    def __init__(self, endpoint: Endpoint) -> None:
        settings = ConnectionSettings(read_timeout_s=TIMEOUT_S, ca_bundle=str(TLS_DIR / "cert.pem"))
        node = Node(endpoint, ConnectionPool(endpoint, settings), CircuitBreaker())
        self._transport = Transport(LoadBalancer([node]), _sign, policy=RetryPolicy(retries=0))

    def get(self, method: str, path: str) -> Seen:
        """Do one request and read its answer whole."""
        body: Body = BytesBody(BODY) if method == "PUT" else EMPTY_BODY
        try:
            response = self._transport.send(Request(method, path, "Test", body=body), Response.preload)
        except TransportError:
            return Seen(is_error=True)
        return Seen(response.status, response.preload(), response.headers)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


def _sign(request: Request, endpoint: Endpoint, _now: float) -> Mapping[str, str]:
    return {"host": request.host_header(endpoint)}


class Stock:
    """urllib3 as it comes, told not to retry, redirect or decode."""

    def __init__(self, endpoint: Endpoint) -> None:
        if endpoint.scheme == "https":
            self._pool: urllib3.HTTPConnectionPool = urllib3.HTTPSConnectionPool(
                endpoint.host, endpoint.port, timeout=TIMEOUT_S, ca_certs=str(TLS_DIR / "cert.pem")
            )
        else:
            self._pool = urllib3.HTTPConnectionPool(endpoint.host, endpoint.port, timeout=TIMEOUT_S)

    def get(self, method: str, path: str) -> Seen:
        """Do one request and read its answer whole."""
        body = BODY if method == "PUT" else None
        try:
            answer = self._pool.urlopen(
                method, path, body=body, retries=False, redirect=False, preload_content=False, decode_content=False
            )
        except (HTTPError, http.client.HTTPException, OSError):
            return Seen(is_error=True)
        try:
            content = answer.read()
        except (HTTPError, http.client.HTTPException, OSError, ValueError):  # ValueError: a negative chunk
            answer.close()
            return Seen(is_error=True)
        answer.release_conn()
        headers = {name.lower(): value for name, value in answer.headers.itermerged()}
        return Seen(answer.status, content, headers)

    def close(self) -> None:
        """Close the connection."""
        self._pool.close()


def observe(kind: type[Ours] | type[Stock], server: RawServer, script: Script, *, method: str = "GET") -> Seen:
    """Let a new client meet a script, then ask once more; the second answer must always be right."""
    server.script = script
    server.connections_again = 0
    server.script_over.clear()
    client: Client = kind(server.endpoint)
    try:
        seen = client.get(method, "/")
        if script.closes and not server.script_over.wait(TIMEOUT_S):
            raise AssertionError("the server did not get to the end of its script")
        again = client.get("GET", AGAIN)
    finally:
        client.close()
    if (again.status, again.body) != (200, b"again"):
        raise AssertionError(f"the next request got {again}")
    return seen._replace(is_reused=server.connections_again == 0)
