"""One client's socket: heads against a deadline, bodies at a least speed.

Timeouts on plain sockets are the kernel's, as in the pool: a blocking socket can be spliced,
and no poll comes before each receive.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Protocol

from s3pool.proxy.errors import ClientGoneError, malformed
from s3pool.proxy.request import MAX_HEAD_BYTES
from s3pool.proxy.settings import ProxySettings

RECEIVE_BYTES = 16 * 1024  # what one receive takes while a head or a chunk line is read
SEND_TIMEOUT_S = 60.0  # a client that takes no byte for this long is gone
LINGER_S = 2.0
LINGER_BYTES = 64 * 1024
FEW_BYTES = 512  # a receive that brings fewer of a longer body wakes its thread for too little
LOW_MARK_BYTES = 16 * 1024
BARE_LF = re.compile(rb"(?<!\r)\n")
JOIN_LIMIT_BYTES = 64 * 1024  # answers up to this leave in one send
HAS_ENDED = getattr(select, "POLLRDHUP", 0)  # Linux only; elsewhere a client that has gone is noticed at its answer
RESET_S = 0.1  # a client that has gone answers within a round trip
HUNG_UP = select.POLLHUP | select.POLLERR | select.POLLNVAL
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Speed:
    """How fast one direction is, by the time that was spent waiting for the client."""

    __slots__ = ("_bytes", "_least", "_waited_s", "_what", "pace", "window_s")

    def __init__(self, what: str, *, least: int, window_s: float) -> None:
        self._what = what
        self._least = least
        self.window_s = window_s
        self.pace: Callable[[int], None] | None = None  # is told of the bytes, and may wait
        self._waited_s, self._bytes = 0.0, 0

    def judge(self, waited_s: float, count: int) -> None:
        """Count bytes and the time that they took. Raises ClientGoneError: they have been too few for long."""
        self._waited_s += waited_s
        self._bytes += count
        if self.pace is not None:
            self.pace(count)
        if self._waited_s < self.window_s:
            return
        is_slow = self._bytes < self._waited_s * self._least
        self._waited_s, self._bytes = 0.0, 0
        if is_slow:
            raise ClientGoneError(f"the client {self._what} too slowly")


class Rest(Protocol):
    """A body of which ``left`` bytes are unread."""

    left: int

    def readinto(self, view: memoryview) -> int:
        """Fill part of a buffer."""


class ClientStream:
    """The bytes of one client connection, in order; used by one thread."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        is_tls: bool = False,
        least_speed: int = ProxySettings.least_speed.default,
        speed_window: float = ProxySettings.speed_window.default,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sock = sock
        self._now = now
        self._incoming = Speed("sends its request body", least=least_speed, window_s=speed_window)
        self.outgoing = Speed("takes its answer", least=least_speed, window_s=speed_window)
        self._patience_s = speed_window  # for the next bytes of a body
        # A body that drips wakes its thread once for so many bytes; one at the least speed brings them in time.
        self._low_mark = max(min(int(least_speed * speed_window / 4), LOW_MARK_BYTES), 1)
        self._drips = False
        self._rest = b""  # received, not yet taken
        self._receive_timeout_s = -1.0
        self.is_tls = is_tls
        self.is_silent = False  # the last wait for a request ended without a byte, and without an end
        self._has_ended = False  # it had ended its side when its answer began
        self._looks = 0  # for one that has ended its side
        self.holds_body = False  # the client waits to be asked for its body, as the first read of it does
        self.bytes_in = 0
        self.bytes_out = 0
        if not is_tls:
            if sock.gettimeout() is not None:
                sock.settimeout(None)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(SEND_TIMEOUT_S))

    @property
    def buffered(self) -> int:
        """Return the number of bytes that were received and not yet taken."""
        return len(self._rest)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    def _wait_at_most(self, seconds: float) -> None:
        seconds = max(seconds, 0.001)
        if self.is_tls:
            self._sock.settimeout(seconds)
        elif seconds != self._receive_timeout_s:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))
        self._receive_timeout_s = seconds

    # -- without waiting ---------------------------------------------------------------------

    def receive_now(self) -> bytes | None:
        """Return received bytes, b"" at the end of the stream, or None if there are none yet."""
        try:
            received = self._sock.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        self.bytes_in += len(received)
        return received

    def put_back(self, received: bytes) -> None:
        """Put bytes back, to be read next."""
        self._rest = received

    def send_now(self, block: bytes) -> bytes:
        """Send without blocking, and return the unsent rest. Raises ClientGoneError: the client hung up."""
        try:
            count = self._sock.send(block, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return block
        except OSError as exc:
            raise ClientGoneError(f"the client does not take its answer: {exc}") from exc
        self.bytes_out += count
        return block[count:]

    # -- while a node is waited for ------------------------------------------------------------

    def note_end(self) -> None:
        """Note whether the client has ended its side, as some do behind their request."""
        self._has_ended = bool(self._events() & HAS_ENDED)

    def look_for_client(self, *, asks: bool, is_answered: bool) -> None:
        """Raise ClientGoneError if the client has hung up.

        One that ended its side may still read. One that has gone resets the connection when something is sent: with
        ``asks`` an interim response, which means nothing. Once the answer has begun, a new end is its last word.
        """
        events = self._events()
        if asks and events == HAS_ENDED:
            self._looks += 1
            if self._looks & (self._looks - 1) == 0:  # ever more rarely: some clients take few of them
                self.write(CONTINUE)
                events = self._events(0, wait_s=RESET_S)
        if events & HUNG_UP or (is_answered and events & HAS_ENDED and not self._has_ended):
            raise ClientGoneError("the client hung up before it had its answer")

    def _events(self, mask: int = HAS_ENDED, *, wait_s: float = 0.0) -> int:
        poller = select.poll()
        poller.register(self._sock, mask)
        return next((events for _, events in poller.poll(wait_s * 1000)), 0)

    # -- heads -------------------------------------------------------------------------------

    def read_head(self, *, idle_s: float, head_s: float) -> bytes | None:
        """Return a request head without its blank line; None at the end of the stream or after ``idle_s``.

        Raises S3ErrorResponse: it is too large, too slow (``head_s``), or has bare line feeds. ClientGoneError.
        """
        if not self._rest and not self._first_bytes(idle_s):
            return None
        deadline, seen = self._now() + head_s, 0
        while True:
            if not seen and self._rest[:2] == b"\r\n":  # RFC 9112, 2.2: one empty line before a request is forgiven
                self._rest = self._rest[2:]
            end = self._rest.find(b"\r\n\r\n", max(seen - 3, 0))
            if end >= 0:
                block, self._rest = self._rest[:end], self._rest[end + 4 :]
                return block
            if len(self._rest) > MAX_HEAD_BYTES:
                raise malformed("the request head is too large", status=431, code="RequestHeaderSectionTooLarge")
            if BARE_LF.search(self._rest, seen):
                raise malformed("lines must end in CR LF")
            if len(self._rest) > 1:  # what was looked at once is not looked at again, however small the pieces
                seen = len(self._rest)
            self._more_of_head(deadline)

    def _first_bytes(self, idle_s: float) -> bool:
        self._wait_at_most(idle_s)
        self.is_silent = False
        try:
            self._rest = self._sock.recv(RECEIVE_BYTES)
        except OSError as exc:
            self.is_silent = isinstance(exc, (BlockingIOError, TimeoutError))
            return False
        self.bytes_in += len(self._rest)
        return bool(self._rest)

    def _more_of_head(self, deadline: float) -> None:
        try:
            left_s = deadline - self._now()
            if left_s <= 0:
                raise TimeoutError
            self._wait_at_most(left_s)
            piece = self._sock.recv(RECEIVE_BYTES)
        except (TimeoutError, BlockingIOError):
            raise malformed("the request head took too long", status=408, code="RequestTimeout") from None
        except OSError as exc:
            raise ClientGoneError(f"the client hung up inside a request head: {exc}") from exc
        if not piece:
            raise ClientGoneError("the client hung up inside a request head")
        self.bytes_in += len(piece)
        self._rest += piece

    # -- bodies ------------------------------------------------------------------------------

    def readinto(self, view: memoryview) -> int:
        """Fill part of a buffer with body bytes. Raises ClientGoneError: the client hung up, or is too slow."""
        if self.holds_body:
            self.write_continue()
        if not self._rest:
            return self._receive_body(view, len(view))
        count = min(len(self._rest), len(view))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        if self._incoming.pace is not None:
            self._incoming.pace(count)
        return count

    @property
    def pace(self) -> Callable[[int], None] | None:
        """Return the function that limits the rate in both directions."""
        return self.outgoing.pace

    @pace.setter
    def pace(self, pace: Callable[[int], None] | None) -> None:
        self._incoming.pace = self.outgoing.pace = pace

    def drop(self, body: Rest) -> bool:
        """Discard the rest of a body; return False when it does not arrive in time."""
        until, buffer = self._now() + LINGER_S, memoryview(bytearray(RECEIVE_BYTES))
        try:
            while body.left:
                if not self._rest:
                    left_s = until - self._now()
                    if left_s <= 0:
                        return False
                    self._patience_s = left_s
                body.readinto(buffer)
        except ClientGoneError:
            return False
        finally:
            self._patience_s = self._incoming.window_s
        return True

    @property
    def can_splice(self) -> bool:
        """Return whether the next bytes of the client can be spliced."""
        return not self.is_tls and not self._rest and self.pace is None

    def splice(self, pipe: int, limit: int) -> int:
        """Splice body bytes into a pipe, at least one. Raises ClientGoneError: the client hung up, or is too slow."""
        return self._receive(lambda: os.splice(self._sock.fileno(), pipe, limit), limit)

    def _receive_body(self, view: memoryview, wanted: int) -> int:
        return self._receive(lambda: self._sock.recv_into(view), wanted)

    def _receive(self, take: Callable[[], int], wanted: int) -> int:
        """Receive at least one byte of the ``wanted`` that are certain to come."""
        started, patience_s = self._now(), self._patience_s
        if self._drips:
            self._await_many(min(self._low_mark, wanted))
            patience_s += started - self._now()
        self._wait_at_most(patience_s)
        try:
            count = take()
        except (TimeoutError, BlockingIOError):
            raise ClientGoneError("the client stopped sending its request body") from None
        except OSError as exc:
            raise ClientGoneError(f"the client hung up inside its request body: {exc}") from exc
        if not count:
            raise ClientGoneError("the client hung up inside its request body")
        self._drips = count < min(FEW_BYTES, wanted) and not self.is_tls
        self._incoming.judge(self._now() - started, count)
        self.bytes_in += count
        return count

    def _await_many(self, count: int) -> None:
        """Let the kernel wait for so many bytes, an end, or the end of the patience (SO_RCVLOWAT, socket(7))."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
        self._events(select.POLLIN, wait_s=self._patience_s)
        # A receive would count what it took already, and still wait for as many more.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def read_line(self, limit: int) -> bytes:
        """Read a line of chunked framing, without its CRLF. Raises S3ErrorResponse: it is too long. ClientGoneError."""
        if self.holds_body:
            self.write_continue()
        while (end := self._rest.find(b"\r\n")) < 0:
            if len(self._rest) > limit:
                raise malformed("a chunk's line is too long")
            buffer = bytearray(RECEIVE_BYTES)
            self._rest += buffer[: self._receive_body(memoryview(buffer), 1)]
        if end > limit:
            raise malformed("a chunk's line is too long")
        line, self._rest = self._rest[:end], self._rest[end + 2 :]
        return line

    # -- answers -----------------------------------------------------------------------------

    def write(self, *blocks: bytes | memoryview) -> None:
        """Send blocks, together where they are small. Raises ClientGoneError: the client takes nothing any more."""
        if self.is_tls:
            self._sock.settimeout(SEND_TIMEOUT_S)
        total = sum(len(block) for block in blocks)
        if len(blocks) > 1 and total <= JOIN_LIMIT_BYTES:
            blocks = (b"".join(blocks),)
        try:
            for block in blocks:
                self._send_all(memoryview(block))
        except OSError as exc:
            raise ClientGoneError(f"the client does not take its answer: {exc}") from exc

    def _send_all(self, view: memoryview) -> None:
        while view:
            started = self._now()
            sent = self._sock.send(view)
            self.outgoing.judge(self._now() - started, sent)
            self.bytes_out += sent
            view = view[sent:]

    def write_continue(self) -> None:
        """Ask for the body that the client holds back."""
        self.holds_body = False
        self.write(CONTINUE)

    def hang_up(self) -> None:
        """Close without a reset, which would eat the answer while bytes of the client are unread (RFC 9112, 9.6)."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            self._wait_at_most(LINGER_S)
            deadline, dropped = self._now() + LINGER_S, bytearray(LINGER_BYTES)
            while self._now() < deadline and self._sock.recv_into(dropped):
                continue
        self.close()

    def abort(self) -> None:
        """Reset the connection, so that the client cannot take the response for complete."""
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close the socket; harmless when called twice."""
        with contextlib.suppress(OSError):
            self._sock.close()


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("ll", whole, int((seconds - whole) * 1_000_000))
