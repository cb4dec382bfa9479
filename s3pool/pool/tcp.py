"""The bytes of one connection: sent and received in slices of time, counted, and held to a pace.

On plain sockets timeouts are the kernel's (SO_RCVTIMEO), which saves a poll before each receive.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from s3pool.body import READ_BLOCK_BYTES, Body, FileSlice, Throttle
from s3pool.errors import IntegrityError, ProtocolError, RequestTimeoutError, describe_os_error

JOIN_LIMIT_BYTES = 64 * 1024  # bodies up to this leave in one send with the head
# What sendfile says of file systems that it cannot read from.
NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EOVERFLOW)
IS_LINUX = sys.platform.startswith("linux")
TCP_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
RESET, ORDERLY = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)  # how a connection ends, for SO_LINGER
QUIET_S = 1.0  # a wait is cut into pieces of this length, so that what befalls the node reaches it
TIMER_SLACK_S = 0.005  # the kernel may wake a wait this much early
LEAST_BYTES_PER_S = 1024  # less is no network, but somebody's trick
PIECE_BYTES = 64 * 1024  # a limited transfer moves in pieces of this size, so that it flows evenly


class StaleConnectionError(ProtocolError):
    """A kept connection was closed by the server before it answered anything."""


class NodeSilentError(RequestTimeoutError):
    """A silent node that is known to be ill is not waited for any longer."""


class EarlyResponse(Exception):
    """The server answered, or stopped reading, before the request body was sent whole."""


class Watcher(Protocol):
    """Whoever decides how long a silent connection is waited for; called by the thread that waits."""

    def on_quiet(self, quiet_s: float) -> None:
        """Raise a TransportError to end the wait, which has lasted so long without a byte."""

    def on_slow(self) -> None:
        """Raise a TransportError to end a transfer whose bytes were waited for ``alarm_s`` or longer in all."""

    def on_end(self) -> None:
        """Raise the TransportError that explains why the connection ended, where one is known."""


class Pace:
    """The speed at which bytes come, or are taken, judged by the time that was spent waiting for that."""

    __slots__ = ("_bytes", "_endpoint", "_message", "_waited_s", "window_s")

    def __init__(self, endpoint: str, message: str) -> None:
        self._endpoint, self._message = endpoint, message
        self._waited_s, self._bytes = 0.0, 0
        self.window_s = math.inf  # of waiting, after which the speed is judged

    def begin(self, waited_s: float = 0.0) -> None:
        """Forget what was before; a negative time is for what is waited for without a word about its speed."""
        self._waited_s, self._bytes = waited_s, 0

    def judge(self, waited_s: float, count: int, *, sent: bool = True) -> None:
        """Count bytes and the time that they were waited for.

        Raises RequestTimeoutError: they move too slowly, and have done so for long.
        """
        self._waited_s += waited_s
        self._bytes += count
        if self._waited_s < self.window_s:
            return
        seconds, total = self._waited_s, self._bytes
        self.begin()
        if total < seconds * LEAST_BYTES_PER_S:
            message = f"{self._endpoint} {self._message.format(total)} in {seconds:.0f} s"
            raise RequestTimeoutError(message, endpoint=self._endpoint, sent=sent)


class TcpStream:
    """A connected socket, plain or under TLS; used by one thread at a time."""

    __slots__ = ("_poll", "_receive_timeout_s", "_send_timeout_s", "_sock", "_taking", "_throttle", "_trouble",
                 "alarm_s", "bytes_received", "bytes_sent", "endpoint", "is_tls", "moved_at", "pace", "timeout_s",
                 "tls_version", "waited_s", "watcher")  # fmt: skip

    def __init__(
        self, sock: socket.socket, *, endpoint: str, tls_version: str = "", throttle: Throttle | None = None
    ) -> None:
        self._sock = sock
        self._poll: Callable[[int], list[tuple[int, int]]] | None = None  # made when it is needed first
        self._throttle = throttle
        self._trouble: OSError | None = None  # what followed the bytes that were gathered last
        self.timeout_s = 0.0  # that every later send and receive waits at most without progress
        self.pace = Pace(endpoint, "sent {} bytes of its answer")
        self._taking = Pace(endpoint, "took {} bytes")
        # What the socket itself was told last; under TLS, and where there is no SO_RCVTIMEO, both are one.
        self._send_timeout_s = self._receive_timeout_s = -1.0
        self.endpoint = endpoint
        self.is_tls = bool(tls_version)
        self.tls_version = tls_version
        self.bytes_sent = self.bytes_received = 0
        self.moved_at = 0.0  # when bytes came or went last
        self.waited_s = 0.0  # for bytes of either way, by the watcher's exchange
        self.alarm_s = math.inf
        self.watcher: Watcher | None = None  # while an exchange is under way

    def close(self) -> None:
        """Close the socket; harmless when called twice."""
        self._sock.close()

    def fileno(self) -> int:
        """Return the descriptor to poll; -1 when closed."""
        return self._sock.fileno()

    @property
    def is_bare(self) -> bool:
        """Return whether the socket is all there is: no TLS, and no limit of the bandwidth."""
        return not self.is_tls and self._throttle is None

    @property
    def _pending(self) -> int:
        return self._sock.pending()  # type: ignore[attr-defined,no-any-return]

    def has_unread(self) -> bool:
        """Return whether bytes have arrived at the socket; its end is none."""
        if self.is_tls:  # a readable socket may only hold a session ticket
            return self._pending > 0
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def look_for_early_answer(self) -> None:
        """Raise EarlyResponse when the server speaks before all was sent; for protocols that have such answers."""

    def interrupt(self) -> None:
        """End a receive or send of another thread at once; the connection cannot be used again."""
        with contextlib.suppress(OSError):
            # Not SSLSocket's own, which would turn the other thread's next receive into a plain one.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def _after_quiet(self, since: float, what: str = "sent nothing", *, sent: bool = True) -> float:
        """Return for how long to go on waiting, which was in vain so far."""
        quiet_s = time.monotonic() - since
        left_s = self.timeout_s - quiet_s
        if left_s < TIMER_SLACK_S:
            message = f"{self.endpoint} {what} for {self.timeout_s:g} s"
            raise RequestTimeoutError(message, endpoint=self.endpoint, sent=sent)
        if self.watcher is not None:
            self.watcher.on_quiet(quiet_s)
        return min(left_s, QUIET_S)

    def _note_end(self) -> None:
        """Let the watcher explain the end of the connection, or a failed send, if it can."""
        if self.watcher is not None:
            self.watcher.on_end()

    def _set_timeout(self, option: int, seconds: float) -> None:
        """Let the kernel end sends or receives that make no progress."""
        if self.is_tls or not IS_LINUX:
            self._send_timeout_s = self._receive_timeout_s = seconds
            self._sock.settimeout(seconds)
            return
        if option == socket.SO_SNDTIMEO:
            self._send_timeout_s = seconds
        else:
            self._receive_timeout_s = seconds
        if self._sock.gettimeout() is not None:
            self._sock.settimeout(None)
        whole = int(seconds)
        micros = max(int((seconds - whole) * 1_000_000), 0 if whole else 1)
        self._sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", whole, micros))

    # -- sending ---------------------------------------------------------------------------

    def write(self, block: bytes | bytearray | memoryview) -> None:
        """Send all of a block, in pieces when the bandwidth is limited."""
        if self._throttle is None:
            self._write(block)
            return
        with memoryview(block) as view:
            for offset in range(0, len(view), PIECE_BYTES):
                piece = view[offset : offset + PIECE_BYTES]
                self._throttle.take(len(piece))
                self._write(piece)

    def _write(self, block: bytes | bytearray | memoryview) -> None:
        if len(block) > JOIN_LIMIT_BYTES:
            self.look_for_early_answer()
        self.send_now(block, self.timeout_s)
        self.moved_at = time.monotonic()

    def send_now(self, block: bytes | bytearray | memoryview, timeout_s: float) -> None:
        """Send a block without a look at what the server says or at a limit; later receives wait as long.

        Raises EarlyResponse: the server hung up. RequestTimeoutError: it takes no bytes.
        """
        self.timeout_s = timeout_s
        slice_s = min(timeout_s, QUIET_S)
        if self._send_timeout_s != slice_s:
            self._set_timeout(socket.SO_SNDTIMEO, slice_s)
        try:
            sent = self._sock.send(block)
        except (BlockingIOError, TimeoutError):
            sent = 0
        except OSError as exc:
            self._note_end()
            raise EarlyResponse(str(exc)) from exc
        self.bytes_sent += sent
        size = len(block)
        if sent < size:
            self._end_by(RESET)
            view = memoryview(block)
            self._push(lambda left: self._sock.send(view[size - left :]), size - sent)

    def send_body(self, body: Body) -> None:
        """Send a body whole. A connection that ends before that, also by the death of the process, is reset.

        versitygw stores the half of a body behind which a connection ends in good order.
        """
        self._end_by(RESET)
        body.send(self)
        self._end_by(ORDERLY)

    def _end_by(self, manner: bytes) -> None:
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, manner)

    def send_by(self, send: Callable[[int], int], count: int) -> None:
        """Send so many bytes past this class; ``send`` is told how many are left, and returns how many left.

        Raises EarlyResponse: the server speaks already, or hung up. RequestTimeoutError: it takes no bytes.
        """
        self.look_for_early_answer()
        slice_s = min(self.timeout_s, QUIET_S)
        if self._send_timeout_s != slice_s:
            self._set_timeout(socket.SO_SNDTIMEO, slice_s)
        self._push(send, count)

    def _push(self, send: Callable[[int], int], left: int) -> None:
        since = time.monotonic()
        while left:
            started = time.monotonic()
            try:
                sent = send(left)
            except (BlockingIOError, TimeoutError):
                self._after_quiet(since, "took no bytes", sent=False)
                self.look_for_early_answer()
                continue
            except OSError as exc:
                self._note_end()
                raise EarlyResponse(str(exc)) from exc
            since = self.moved_at = time.monotonic()
            self.bytes_sent += sent
            self._taking.window_s = self.timeout_s
            self._taking.judge(since - started, sent, sent=False)
            left -= sent
            self._add_wait(since - started)

    def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send part of a file: by the kernel on plain sockets, through one buffer under TLS.

        Raises EarlyResponse, TransportError: the connection broke. OSError: the file cannot be read.
        """
        if self.is_tls or not IS_LINUX:
            FileSlice(fd, offset=offset, length=count).feed(self.write)
            return
        slice_s = min(self.timeout_s, QUIET_S)
        if self._send_timeout_s != slice_s:
            self._set_timeout(socket.SO_SNDTIMEO, slice_s)
        limit = READ_BLOCK_BYTES if self._throttle is None else PIECE_BYTES
        size = 0

        def send(left: int) -> int:
            if not (sent := os.sendfile(self._sock.fileno(), fd, offset + size - left, left)):
                raise IntegrityError(f"the file became {count - size + left} bytes shorter while it was sent")
            return sent

        while count:
            size = min(count, limit)
            self.look_for_early_answer()
            if self._throttle is not None:
                self._throttle.take(size)
            sent_before = self.bytes_sent
            try:
                self._push(send, size)
            except EarlyResponse as early:
                done = self.bytes_sent - sent_before
                if getattr(early.__cause__, "errno", None) in NO_SENDFILE:
                    FileSlice(fd, offset=offset + done, length=count - done).feed(self.write)
                    return
                os.pread(fd, 1, offset + done)  # raises an OSError where the file is to blame, and no connection
                raise
            offset += size
            count -= size

    # -- receiving -------------------------------------------------------------------------

    def acknowledge(self) -> None:
        """Acknowledge what came at once: without it Nagle there may wait 40 ms before the rest is sent."""
        if TCP_QUICKACK is not None:
            self._sock.setsockopt(socket.IPPROTO_TCP, TCP_QUICKACK, 1)

    def receive(self, view: memoryview) -> int:
        """Receive into a view; return the number of bytes, 0 at the end of the connection."""
        return self.receive_by(self._sock.recv_into, view)

    def receive_by(self, receive: Callable[..., int], *args: object) -> int:
        """Return the number of bytes that a call receives from the socket, 0 at the end; wait in slices.

        Raises RequestTimeoutError: nothing came. ProtocolError: the connection broke.
        """
        slice_s = min(self.timeout_s, QUIET_S)
        if self._receive_timeout_s != slice_s:
            self._set_timeout(socket.SO_RCVTIMEO, slice_s)
        started = time.monotonic()
        while True:
            try:
                count = receive(*args)
                break
            except (BlockingIOError, TimeoutError):
                self._set_timeout(socket.SO_RCVTIMEO, self._after_quiet(started))
            except OSError as exc:
                self._note_end()
                raise self._broken(exc) from exc
        if not count:
            self._note_end()
        now = self.moved_at = time.monotonic()
        self.bytes_received += count
        self.pace.judge(now - started, count)
        self.waited_s += now - started
        if self.waited_s > self.alarm_s and self.watcher is not None:
            self.watcher.on_slow()
        if self._throttle is not None:
            self._throttle.take_received(count)
        return count

    def receive_now(self, view: memoryview) -> int:
        """Receive what has arrived, without waiting; -1 when nothing has, 0 at the end of the connection.

        Raises ProtocolError: the connection broke.
        """
        try:
            if self.is_tls:
                count = self._receive_tls_now(view)
            else:
                count = self._sock.recv_into(view, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return -1
        except OSError as exc:
            self._note_end()
            raise self._broken(exc) from exc
        if count > 0:
            self.bytes_received += count
        elif not count:
            self._note_end()
        return count

    def _receive_tls_now(self, view: memoryview) -> int:
        import ssl  # imported already where there is a connection with TLS

        if self._receive_timeout_s:
            self._set_timeout(socket.SO_RCVTIMEO, 0.0)
        try:
            return self._sock.recv_into(view)
        except ssl.SSLWantReadError:
            return -1

    def gather(self, view: memoryview) -> int:
        """Receive TLS records until the view is full or nothing is there; wait for the first alone."""
        import ssl  # imported already where there is a connection with TLS

        if self._receive_timeout_s:
            self._set_timeout(socket.SO_RCVTIMEO, 0.0)
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise self._broken(trouble) from trouble
        read, size, filled = self._sock.recv_into, len(view), 0
        while True:
            try:
                while filled < size and (count := read(view[filled:])):
                    filled += count
            except ssl.SSLWantReadError:
                if not filled:
                    self._wait_for_record()
                    continue
            except OSError as exc:
                if not filled:
                    self._note_end()
                    raise self._broken(exc) from exc
                self._trouble = exc
            if not filled:
                self._note_end()
            self.moved_at = time.monotonic()
            self.bytes_received += filled
            self.pace.judge(0.0, filled)
            return filled

    def _wait_for_record(self) -> None:
        started, slice_s = time.monotonic(), min(self.timeout_s, QUIET_S)
        while not wait_readable([self], slice_s):
            slice_s = self._after_quiet(started)
        waited_s = time.monotonic() - started
        self.pace.judge(waited_s, 0)
        self._add_wait(waited_s)

    def _add_wait(self, waited_s: float) -> None:
        self.waited_s += waited_s
        if self.waited_s > self.alarm_s and self.watcher is not None:
            self.watcher.on_slow()

    def protocol_error(self, what: str) -> ProtocolError:
        """Return the error of what the endpoint did."""
        return ProtocolError(f"{self.endpoint} {what}", endpoint=self.endpoint)

    def _broken(self, error: OSError) -> ProtocolError:
        return self.protocol_error(f"broke the connection: {describe_os_error(error)}")


Open = TypeVar("Open", bound=TcpStream)


def wait_readable(open_ones: list[Open], timeout_s: float) -> list[Open]:
    """Wait until one of the connections has something to read; an empty list after the timeout."""
    by_fd = {connection.fileno(): connection for connection in open_ones}
    poller = select.poll()
    for fd in by_fd:
        poller.register(fd, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while True:
        events = poller.poll(max(deadline - time.monotonic(), 0.0) * 1000)
        if events or time.monotonic() >= deadline:
            return [by_fd[fd] for fd, _ in events]
