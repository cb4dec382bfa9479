"""A relay before one node that speaks HTTP, so that it can be asked for any fault."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

from tests.resilience.chaos.http1 import ClosedError, Request, Response, connect, iter_body, read_request, read_response

BACKLOG = 128
TICK_S = 0.05
LONGEST_STALL_S = 120.0
SETTLED_WITHIN_S = 10.0


class Cut(Exception):
    """Ends the client's connection: with a reset, or in an orderly manner."""

    def __init__(self, *, reset: bool = True) -> None:
        super().__init__("cut by the relay")
        self.reset = reset


class Fault(Protocol):
    """What meets one request. Each hook may raise Cut."""

    def before(self, relay: ChaosRelay, request: Request) -> Response | None:
        """Act before the request goes on; a response is the answer in the node's place."""

    def body(self, relay: ChaosRelay, request: Request, offset: int, block: bytes) -> bytes:
        """Change a block of the request's body."""

    def after(self, relay: ChaosRelay, request: Request, response: Response) -> Response:
        """Change the answer."""


class Faults(Protocol):
    """What decides which faults meet a request."""

    def meeting(self, request: Request) -> Iterable[Fault]:
        """Return the faults of one request, in order."""


class ChaosRelay:
    """One address before one node. The request passes unchanged, the signed Host too."""

    def __init__(self, target: str, index: int, faults: Faults) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 80)
        self.index = index
        self.faults = faults
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._thawed = threading.Event()
        self._thawed.set()
        self._over = threading.Event()  # set when whatever stalls is to end
        self._under_way = 0  # requests that the node may still act on
        self._listener: socket.socket | None = None
        self._reserved: socket.socket | None = None
        self.port = 0
        self.restore()

    def url(self, host: str = "127.0.0.1") -> str:
        """Return the URL, which stays the same over refuse() and restore()."""
        return f"http://{host}:{self.port}"

    # -- states of the whole node ------------------------------------------------------------

    def restore(self) -> None:
        """Be a healthy node again; what hangs is cut."""
        self._over.set()
        self._thawed.set()
        self._drop_all()
        self._over = threading.Event()
        if self._listener is not None:
            return
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        listener = self._bind()
        listener.listen(BACKLOG)
        self._listener, self.port = listener, listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def refuse(self) -> None:
        """Refuse connects and reset what is open, as a dead process does."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            self._reserved = self._bind()
        self._drop_all()

    def freeze(self) -> None:
        """Take what comes, and let no byte out, until thaw()."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Go on where freeze() stopped."""
        self._thawed.set()

    def stop(self) -> None:
        """End it."""
        self.refuse()
        self._over.set()
        self._thawed.set()
        if self._reserved is not None:
            self._reserved.close()

    def settle(self) -> None:
        """Wait until the node has answered everything that reached it."""
        deadline = time.monotonic() + SETTLED_WITHIN_S
        while self._under_way and time.monotonic() < deadline:
            time.sleep(TICK_S / 10)

    def stall(self) -> None:
        """Be silent until the faults are over, then cut.

        Raises:
            Cut: always.
        """
        self._over.wait(LONGEST_STALL_S)
        raise Cut

    def pause(self, seconds: float) -> None:
        """Wait, or until the faults are over."""
        self._over.wait(seconds)

    # -- connections -------------------------------------------------------------------------

    def _bind(self) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self.port))
        return sock

    def _drop_all(self) -> None:
        with self._lock:
            sockets = set(self._open)
        for sock in sockets:
            _reset(sock)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = None
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = connect(self._target)
            with client.makefile("rb") as requests, server.makefile("rb") as responses:
                while self._pass_one(client, server, requests, responses):
                    pass
        except Cut as cut:
            if cut.reset:
                _reset(client)
        except (OSError, ValueError, ClosedError):
            pass  # one of the two sides went away
        finally:
            with self._lock:
                self._open.discard(client)
            for sock in (client, server):
                if sock is not None:
                    _end(sock)

    def _pass_one(self, client: socket.socket, server: socket.socket, requests: BinaryIO, responses: BinaryIO) -> bool:
        request = read_request(requests, self.index)
        if request is None:
            return False
        faults = list(self.faults.meeting(request))
        response = None
        for fault in faults:
            response = response or fault.before(self, request)
        self._await_thaw()
        if response is not None:
            response.has_body = request.method != "HEAD"
            self._write(client, response)
            return False  # the body was not read
        with self._counted():
            self._send_on(client, server, request, requests=requests, faults=faults)
            response = read_response(responses, request.method)
        for fault in faults:
            response = fault.after(self, request, response)
        response.has_body = response.has_body and request.method != "HEAD"
        self._write(client, response)
        return "close" not in response.get("connection").lower()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1

    def _send_on(
        self, client: socket.socket, server: socket.socket, request: Request, *, requests: BinaryIO, faults: list[Fault]
    ) -> None:
        if request.headers.get("expect", "").lower() == "100-continue":
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        server.sendall(request.head)
        offset = 0
        for block in iter_body(requests, request):
            changed = block
            for fault in faults:
                changed = fault.body(self, request, offset, changed)
            self._await_thaw()
            server.sendall(changed)
            offset += len(block)

    def _write(self, client: socket.socket, response: Response) -> None:
        self._await_thaw()
        head = response.head()
        if response.cut_head_at is not None:
            client.sendall(head[: response.cut_head_at])
            raise Cut(reset=not response.half_close)
        body = response.body if response.has_body else b""
        end = next((at for at in (response.stall_at, response.cut_body_at) if at is not None), len(body))
        if not response.rate:
            client.sendall(head + body[:end])
        else:
            client.sendall(head)
            self._send_slowly(client, body[:end], response.rate)
        if response.stall_at is not None:
            self.stall()
        if response.cut_body_at is not None:
            raise Cut(reset=not response.half_close)

    def _send_slowly(self, client: socket.socket, body: bytes, rate: int) -> None:
        step = max(1, int(rate * TICK_S))
        for start in range(0, len(body), step):
            client.sendall(body[start : start + step])
            self._over.wait(TICK_S)

    def _await_thaw(self) -> None:
        over = self._over
        if self._thawed.is_set():
            return
        # What waits when the faults are over goes nowhere: its command has ended.
        if not self._thawed.wait(LONGEST_STALL_S) or over.is_set():
            raise Cut


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RD)
    _end(sock)


def _end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        sock.close()
