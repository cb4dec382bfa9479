"""A server on a loopback socket that answers with scripted bytes, connection by connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from s3pool.model import Endpoint
from tests.support.listening import close_listener, serve_each

Turn = bytes | Callable[[socket.socket], None]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OK_EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
SLOW_DOWN = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n"
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
HANG = None  # a turn that never answers


class ScriptedServer:
    """Answer the n-th request with the n-th turn; the last turn repeats.

    A turn is bytes to send, HANG, or a function that gets the socket. ``requests`` keeps
    each head and body as received. After a turn that does not end in a complete answer the
    connection is closed when ``close_after`` holds the turn's number.
    """

    def __init__(self, turns: Sequence[Turn | None] = (OK,), *, close_after: Sequence[int] = ()) -> None:
        self._turns = list(turns)
        self._close_after = set(close_after)
        self._lock = threading.Lock()
        self._served = 0
        self.requests: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.endpoint = Endpoint("http", "127.0.0.1", self._listener.getsockname()[1])
        self._stopped = threading.Event()
        serve_each(self._listener, self._serve, note=self._note)

    def _note(self, sock: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            self._open.append(sock)
            if self._stopped.is_set():  # it was accepted while the others were closed
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock:
                while (request := read_request(sock)) is not None:
                    if not self._answer(sock, request):
                        return
        except OSError:
            return

    def _answer(self, sock: socket.socket, request: tuple[bytes, bytes]) -> bool:
        with self._lock:
            turn_number = self._served
            self._served += 1
            self.requests.append(request)
        turn = self._turns[min(turn_number, len(self._turns) - 1)]
        if turn is None:
            self._stopped.wait(30)
            return False
        if callable(turn):
            turn(sock)
        else:
            sock.sendall(turn)
        return turn_number not in self._close_after

    def stop(self) -> None:
        """Close the listener and every connection."""
        self._stopped.set()
        close_listener(self._listener)
        with self._lock:
            for sock in self._open:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def read_request(sock: socket.socket) -> tuple[bytes, bytes] | None:
    """Read one request framed by Content-Length; None at the end of the connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = sock.recv(65536)
        if not piece:
            return None
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
    )
    while len(body) < length:
        piece = sock.recv(65536)
        if not piece:
            return None
        body += piece
    return head, body


_refused_before: set[int] = set()


def refused_endpoint() -> Endpoint:
    """Give an endpoint on a port where nothing listens, another one each time."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = int(listener.getsockname()[1])
        if port not in _refused_before:
            _refused_before.add(port)
            return Endpoint("http", "127.0.0.1", port)
