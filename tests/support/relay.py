"""A TCP relay before a real server: a node that dies without anybody's daemon dying."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from urllib.parse import urlsplit

BLOCK_BYTES = 1 << 16
BACKLOG = 64
JOIN_S = 5.0


class Relay:
    """One address that passes everything on to a target, until it is told otherwise.

    ``cut_after(n)`` resets the next connection on which the server has sent n bytes. A marker is
    a few bytes that stand nowhere but in the body that is meant: ``flip(marker)`` turns over a
    bit of it whenever it passes, either way, and ``cut_at(marker)`` ends the answer there, always.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 80)
        self._hole = False
        self.lag_s = 0.0  # for each piece that passes, either way
        self._cut_after: int | None = None
        self._flipped = b""
        self._last = b""
        self.cuts = 0
        self.flips = 0
        self.accepted = 0
        # Guards the set of open sockets and the cut, which many threads look at.
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._servers: set[socket.socket] = set()
        self._doomed: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._reserved: socket.socket | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        """Give the URL, which stays the same over kill() and start()."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen and pass on; harmless when it does."""
        self._hole = False
        if self._listener is not None:
            return
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        self._listener = self._bind()
        self._listener.listen(BACKLOG)
        self.port = self._listener.getsockname()[1]
        self._spawn(self._accept, self._listener)

    def black_hole(self) -> None:
        """Accept, and pass nothing on any more."""
        self._hole = True

    def cut_after(self, count: int) -> None:
        """Reset once, when the server has sent so many bytes on a connection."""
        with self._lock:
            self._cut_after = count

    def flip(self, marker: bytes) -> None:
        """Spoil the last byte of each such marker; with b"" nothing any more."""
        self._flipped = marker

    def cut_at(self, marker: bytes) -> None:
        """Let answers end at such a marker, always; with b"" nowhere any more."""
        self._last = marker

    def kill(self) -> None:
        """Refuse connects, and reset what is open."""
        listener, self._listener = self._listener, None
        if listener is not None:
            _shut(listener)
            listener.close()
            self._reserved = self._bind()
        with self._lock:
            sockets = set(self._open)
        for sock in sockets:
            (self._doom if sock in self._servers else _reset)(sock)
        for thread in self._threads:
            thread.join(JOIN_S)
        self._threads = []

    def stop(self) -> None:
        """End it."""
        self.kill()
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _bind(self) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self.port))
        return sock

    def _spawn(self, act, *arguments: object) -> None:  # type: ignore[no-untyped-def]
        thread = threading.Thread(target=act, args=arguments, name=f"relay-{self.port}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            with self._lock:
                self._open.add(client)
            self._spawn(self._join, client)

    def _join(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target)
        except OSError:
            self._drop(client)
            return
        with self._lock:
            self._open.add(server)
            self._servers.add(server)
        self._spawn(self._pump, client, server, False)
        self._pump(server, client, True)

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        passed = 0
        before = b""
        try:
            while block := source.recv(BLOCK_BYTES):
                if self._hole:
                    continue
                if self.lag_s:
                    time.sleep(self.lag_s)
                end = _place_of(self._last, before, block) if counted else -1
                if end >= 0:
                    self.cuts += 1
                    target.sendall(block[: max(0, end + 1 - len(self._last))])
                    break
                block, before = self._spoiled(before, block), block
                keep = self._room(passed, len(block)) if counted else len(block)
                target.sendall(block[:keep])
                passed += keep
                if keep < len(block):
                    _reset(target)
                    break
        except OSError:
            if not counted:
                self._doom(target)
        self._drop(target)
        self._drop(source)

    def _spoiled(self, before: bytes, block: bytes) -> bytes:
        """Give the block as it goes on; the marker may have begun in the one before."""
        at = _place_of(self._flipped, before, block)
        if at < 0:
            return block
        with self._lock:
            self.flips += 1
        return block[:at] + bytes([block[at] ^ 1]) + block[at + 1 :]

    def _room(self, passed: int, count: int) -> int:
        """Give how many of the next bytes may pass, and use the cut up when it falls here."""
        with self._lock:
            if self._cut_after is None or passed + count <= self._cut_after:
                return count
            keep = max(0, self._cut_after - passed)
            self._cut_after = None
            self.cuts += 1
            return keep

    def _doom(self, server: socket.socket) -> None:
        """Let a connection to the server end by a reset: a shutdown would tell it that all was sent."""
        with self._lock:
            self._doomed.add(server)
        with contextlib.suppress(OSError):
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            server.shutdown(socket.SHUT_RD)

    def _drop(self, sock: socket.socket) -> None:
        if sock not in self._doomed:
            _shut(sock)
        with self._lock:
            self._doomed.discard(sock)
            self._open.discard(sock)
            self._servers.discard(sock)
        sock.close()


def _place_of(marker: bytes, before: bytes, block: bytes) -> int:
    """Give where in a block the marker's last byte is, -1 for nowhere."""
    if not marker:
        return -1
    seen = before[-(len(marker) - 1) :]
    place = (seen + block).find(marker)
    return -1 if place < 0 else place + len(marker) - 1 - len(seen)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _shut(sock)
