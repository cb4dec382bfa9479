"""HTTP/1.1 on raw sockets: an address that can be killed, black-holed and brought back."""

from __future__ import annotations

import contextlib
import email.utils
import itertools
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

BACKLOG = 128
JOIN_S = 10.0
POLITE_JOIN_S = 0.3
DRAIN_BYTES = 1 << 20
NO_BODY_STATUSES = (204, 304)
REASONS = {200: "OK", 204: "No Content", 206: "Partial Content", 304: "Not Modified", 404: "Not Found"}


class Drop(Exception):
    """Ends a connection without an answer: with a reset, or with a plain close."""

    def __init__(self, *, reset: bool = True) -> None:
        super().__init__("the fake drops the connection")
        self.reset = reset


@dataclass
class Reply:
    """An answer, and how it is written. Faults change it on its way out.

    ``cut_after`` ends the connection after so many body bytes (-1: before the head), by a
    reset or a close. ``pause_s`` with ``block`` makes the body drip.
    """

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None  # Content-Length when it is not the body's (HEAD, lies)
    chunked: bool = False
    cut_after: int | None = None
    reset: bool = True
    block: int = 1 << 20
    pause_s: float = 0.0
    last_act: Callable[[], object] | None = None  # called when the cut has come
    close: bool = False  # close after the answer, without having said so
    is_foreign: bool = False  # no store made it: it gets no header as stores send them


def flip(body: bytes, at: int) -> bytes:
    """Turn over the lowest bit of one byte."""
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


class Exchange:
    """One request as it stands on the wire; the body is read when somebody asks for it."""

    def __init__(self, node: Node, connection: int, *, method: str, target: str, lines: list[tuple[str, str]]) -> None:
        self.node = node
        self.connection = connection
        self.method = method
        self.target = target
        self.lines = tuple(lines)
        self.headers = dict(reversed(lines))
        self.received = b""
        self.trailer: dict[str, str] = {}  # what came behind an aws-chunked body
        self.spoil: int | None = None  # which byte is to be stored wrongly
        self.length = int(self.headers.get("content-length", "0") or "0")
        self._continue = self.headers.get("expect", "").lower() == "100-continue"
        self._reader: BinaryIO | None = None
        self._socket: socket.socket | None = None

    def attach(self, sock: socket.socket, reader: BinaryIO) -> None:
        """Tell where the body comes from."""
        self._socket, self._reader = sock, reader

    @property
    def complete(self) -> bool:
        """Say whether the whole body was received."""
        return len(self.received) == self.length

    def say(self, block: bytes) -> None:
        """Send bytes before the answer, in place of what an expectation would get."""
        self._continue = False
        if self._socket is not None:
            self._socket.sendall(block)

    def read(self, count: int) -> bytes:
        """Receive up to count more bytes of the body.

        Raises:
            Drop: the client went away before them.
        """
        count = min(count, self.length - len(self.received))
        if count <= 0 or self._reader is None or self._socket is None:
            return b""
        if self._continue:
            self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._continue = False
        block = self._reader.read(count)
        self.received += block
        if len(block) < count:
            raise Drop(reset=False)
        return block

    def body(self) -> bytes:
        """Receive the rest, and give the whole body."""
        self.read(self.length)
        return self.received


Handler = Callable[[Exchange], Reply]


class Node:
    """One listening address. Every connection has a thread; stop() joins them."""

    def __init__(
        self,
        handler: Handler,
        *,
        index: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.index = index
        self.host = host
        self.clock_offset_s = 0.0
        self.hole = False
        self.accepted = 0  # connections, ever
        self._handler = handler
        self._tls = tls
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._numbers = itertools.count(1)
        self._listener: socket.socket | None = None
        self._reserved: socket.socket | None = None
        self._stuffing: list[socket.socket] = []
        self._acceptor: threading.Thread | None = None
        # Guards the sets of what lives: the accepting thread adds, kill() empties them.
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self.ended = threading.Event()  # set by kill(): whatever hangs lets go
        self.port = port
        self.start()

    @property
    def netloc(self) -> str:
        """Give ``host:port`` as the Host header has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Give the URL; the port stays the same over kill() and start()."""
        return f"{'https' if self._tls else 'http'}://{self.netloc}"

    @property
    def listening(self) -> bool:
        """Say whether connects are accepted."""
        return self._listener is not None

    @property
    def open_connections(self) -> int:
        """Count the connections that live now."""
        with self._lock:
            return len(self._sockets)

    def start(self) -> None:
        """Listen and answer; harmless when it does."""
        if self._listener is not None and not self.hole and not self._stuffing:
            return
        self.kill()
        self._release()
        self.hole = False
        self.ended = threading.Event()
        self._listener = self._bind()
        self._listener.listen(BACKLOG)
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(
            target=self._accept, args=(self._listener, self.ended), name=f"fake-{self.port}", daemon=True
        )
        self._acceptor.start()

    def black_hole(self) -> None:
        """Accept from now on, and never answer: neither on new connections nor on kept ones."""
        self.hole = True

    def swallow(self) -> None:
        """Let connects run into their timeout: the queue of the listening socket is full."""
        self.kill()
        self._release()
        self._listener = self._bind()
        self._listener.listen(0)
        for _ in range(8):
            client = socket.socket(self._family, socket.SOCK_STREAM)
            client.settimeout(0.05)
            self._stuffing.append(client)
            try:
                client.connect((self.host, self.port))
            except OSError:
                return

    def kill(self) -> None:
        """Refuse connects and reset what is open, as a dead process does."""
        self.ended.set()
        listener, self._listener = self._listener, None
        if listener is not None:
            _shut(listener, socket.SHUT_RDWR)
            listener.close()
            # Bound but not listening: the port refuses, and nobody else gets it.
            self._reserved = self._bind()
        for client in self._stuffing:
            client.close()
        self._stuffing = []
        if self._acceptor is not None:
            self._acceptor.join(JOIN_S)
            self._acceptor = None
        self.drop_connections()

    def drop_connections(self) -> None:
        """Reset every open connection, idle ones too; new ones are welcome."""
        with self._lock:
            sockets, threads = set(self._sockets), set(self._threads) - {threading.current_thread()}
        for sock in sockets:
            _reset_when_closed(sock)
            # Only the reading side: a full shutdown would send a polite end before the reset.
            _shut(sock, socket.SHUT_RD)
        deadline = time.monotonic() + POLITE_JOIN_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for sock in sockets:
            _shut(sock, socket.SHUT_RDWR)
        for thread in threads if self.ended.is_set() else ():
            thread.join(JOIN_S)

    def stop(self) -> None:
        """Refuse for good, and give the port away."""
        self.kill()
        self._release()

    def _release(self) -> None:
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def _bind(self) -> socket.socket:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self.host, self.port))
        return sock

    def _accept(self, listener: socket.socket, ended: threading.Event) -> None:
        while not ended.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            number = next(self._numbers)
            thread = threading.Thread(
                target=self._converse, args=(sock, number, ended), name=f"fake-{self.port}-{number}", daemon=True
            )
            with self._lock:
                self._sockets.add(sock)
                self._threads.add(thread)
            thread.start()

    def _converse(self, sock: socket.socket, number: int, ended: threading.Event) -> None:
        plain = sock
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._sockets.discard(plain)
                    self._sockets.add(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with sock.makefile("rb") as reader:
                while self._answer_one(sock, reader, number, ended):
                    pass
        except Drop as drop:
            if drop.reset:
                _reset_when_closed(sock)
        except (OSError, ValueError):
            pass  # the client went away, or kill() closed the socket
        finally:
            with self._lock:
                self._sockets -= {plain, sock}
                self._threads.discard(threading.current_thread())
            sock.close()

    def _answer_one(self, sock: socket.socket, reader: BinaryIO, number: int, ended: threading.Event) -> bool:
        exchange = read_head(self, number, reader)
        if exchange is None:
            return False
        exchange.attach(sock, reader)
        if self.hole:
            ended.wait()
            raise Drop
        reply = self._handler(exchange)
        asked = exchange.headers.get("connection", "").lower() == "close" or not exchange.complete
        write_reply(sock, reply, head_only=exchange.method == "HEAD", last=asked, wait=ended.wait)
        if not exchange.complete:
            _linger(sock)
        return not (asked or reply.close)


def read_head(node: Node, number: int, reader: BinaryIO) -> Exchange | None:
    """Read request line and headers; None when the client closed the connection."""
    line = reader.readline()
    if not line.strip():
        return None
    method, target, _ = line.decode("utf-8", "surrogateescape").split(" ", 2)
    lines = []
    while (line := reader.readline()).strip():
        name, _, value = line.decode("utf-8", "surrogateescape").partition(":")
        lines.append((name.strip().lower(), value.strip(" \t\r\n")))
    if not line:
        return None
    return Exchange(node, number, method=method, target=target, lines=lines)


def write_reply(
    sock: socket.socket, reply: Reply, *, head_only: bool, last: bool, wait: Callable[[float], object]
) -> None:
    """Send head and body, in the manner that the reply asks for.

    Raises:
        Drop: it asks for an early end.
    """
    if reply.cut_after is not None and reply.cut_after < 0:
        raise Drop(reset=reply.reset)
    body = b"" if head_only or reply.status in NO_BODY_STATUSES else reply.body
    head = _head(reply, last=last)
    if reply.cut_after is None and not reply.pause_s:
        sock.sendall(head + (_chunk(body) if reply.chunked else body))
        return
    sock.sendall(head)
    _send_slowly(sock, reply, body[: reply.cut_after], wait)
    if reply.cut_after is not None:
        if reply.last_act is not None:
            reply.last_act()
        raise Drop(reset=reply.reset)


def _head(reply: Reply, *, last: bool) -> bytes:
    headers = {"Date": email.utils.formatdate(usegmt=True), **reply.headers}
    if reply.chunked:
        headers["Transfer-Encoding"] = "chunked"
    elif reply.status not in NO_BODY_STATUSES:
        headers["Content-Length"] = str(len(reply.body) if reply.length is None else reply.length)
    if last:
        headers["Connection"] = "close"
    lines = [
        f"HTTP/1.1 {reply.status} {REASONS.get(reply.status, 'Error')}",
        *(f"{n}: {v}" for n, v in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def _chunk(body: bytes) -> bytes:
    return (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"


def _send_slowly(sock: socket.socket, reply: Reply, body: bytes, wait: Callable[[float], object]) -> None:
    for offset in range(0, len(body), reply.block):
        block = body[offset : offset + reply.block]
        sock.sendall(b"%x\r\n%s\r\n" % (len(block), block) if reply.chunked else block)
        if reply.pause_s:
            wait(reply.pause_s)
    if reply.chunked and reply.cut_after is None:
        sock.sendall(b"0\r\n\r\n")


def _linger(sock: socket.socket) -> None:
    # An early answer must reach the client before the reset that unread bytes cause.
    sock.shutdown(socket.SHUT_WR)
    sock.settimeout(JOIN_S)
    left = 64
    while left and sock.recv(DRAIN_BYTES):
        left -= 1


def _reset_when_closed(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _shut(sock: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(how)
