"""One connection's HTTP/1.1: a head out, a head in, a body either way.

It owns its receive buffer and reads no more of a body than the caller asks for. On plain
sockets timeouts are the kernel's (SO_RCVTIMEO), which saves a poll before each receive.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
import time
from collections.abc import Callable

from s3pool.body import READ_BLOCK_BYTES, Body, BytesBody, FileSlice
from s3pool.errors import IntegrityError, ProtocolError, RequestTimeoutError, TransportError, describe_os_error
from s3pool.pool.heads import CONTINUE, FIRST_FINAL_STATUS, Head, parse_head
from s3pool.pool.pace import Pace, set_kernel_timeout, wait_readable
from s3pool.pool.throttle import PIECE_BYTES, Throttle

BUFFER_BYTES = 16 * 1024  # nearly every response head fits: RGW's and AWS's limits are 16 and 8 KiB
MAX_BUFFER_BYTES = 64 * 1024  # for one that does not
JOIN_LIMIT_BYTES = 64 * 1024  # bodies up to this leave in one send with the head
MAX_CHUNK_LINE_BYTES = 512
# What sendfile says of file systems that it cannot read from.
NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EOVERFLOW)
IS_LINUX = sys.platform.startswith("linux")
TCP_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
SWITCHING_PROTOCOLS = 101
INTERIM_START = b"HTTP/1.1 1"
MOST_INTERIM = 100  # answers of 1xx before the final one


class StaleConnectionError(ProtocolError):
    """A kept connection was closed by the server before it answered anything."""


class EarlyAnswer(Exception):
    """The server answered, or stopped reading, before the request body was sent whole."""


class Wire:
    """A connected socket between requests or inside one; used by one thread at a time."""

    __slots__ = ("_buffer", "_end", "_is_begun", "_poll", "_receive_timeout_s", "_send_timeout_s",
                 "_sock", "_start", "_throttle", "_timeout_s", "_trouble", "_view", "bytes_received",
                 "bytes_sent", "endpoint", "exchanges", "idle_since", "is_tls", "pace", "tls_version")  # fmt: skip

    def __init__(
        self, sock: socket.socket, *, endpoint: str, tls_version: str = "", throttle: Throttle | None = None
    ) -> None:
        self._sock = sock
        self._poll: Callable[[int], list[tuple[int, int]]] | None = None  # made when it is needed first
        self._throttle = throttle
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._is_begun = False  # an interim answer came: the server has the request
        self._trouble: OSError | None = None  # what followed the bytes that were gathered last
        self._timeout_s = 0.0
        self.pace = Pace(endpoint)
        # What the socket itself was told last; under TLS, and where there is no SO_RCVTIMEO, both are one.
        self._send_timeout_s = self._receive_timeout_s = -1.0
        self.endpoint = endpoint
        self.is_tls = bool(tls_version)
        self.tls_version = tls_version
        self.idle_since = 0.0
        self.exchanges = 0  # answers received so far
        self.bytes_sent = 0
        self.bytes_received = 0

    def close(self) -> None:
        """Close the socket; harmless when called twice."""
        self._sock.close()

    def fileno(self) -> int:
        """Give the descriptor to poll; -1 when closed."""
        return self._sock.fileno()

    def is_readable(self) -> bool:
        """Return whether bytes, or the end, have arrived: on an idle connection it is then dead."""
        if self._poll is None:
            poller = select.poll()
            poller.register(self._sock, select.POLLIN)
            self._poll = poller.poll
        return self._end > self._start or bool(self._poll(0)) or (self.is_tls and self._pending() > 0)

    @property
    def has_rest(self) -> bool:
        """Return whether more was read than the answer."""
        return self._end > self._start

    def has_bytes(self) -> bool:
        """Return whether bytes arrived that no request asked for; the end of the connection is none."""
        if self._end > self._start:
            return True
        if self.is_tls:  # a readable socket may only hold a session ticket
            return self._pending() > 0
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def _pending(self) -> int:
        count: int = self._sock.pending()  # type: ignore[attr-defined]
        return count

    def set_timeout(self, seconds: float) -> None:
        """Let every later send and receive wait this long at most without progress."""
        self._timeout_s = seconds

    def prepare_receive(self) -> None:
        """Let the socket itself know how long to wait; for who reads past the wire."""
        if self._receive_timeout_s != self._timeout_s:
            self._set_receive_timeout(self._timeout_s)

    def _set_send_timeout(self, seconds: float) -> None:
        self._send_timeout_s = seconds
        if self.is_tls or not IS_LINUX:
            self._receive_timeout_s = seconds
            self._sock.settimeout(seconds)
        else:
            set_kernel_timeout(self._sock, socket.SO_SNDTIMEO, seconds)

    def _set_receive_timeout(self, seconds: float) -> None:
        self._receive_timeout_s = seconds
        if self.is_tls or not IS_LINUX:
            self._send_timeout_s = seconds
            self._sock.settimeout(seconds)
        else:
            set_kernel_timeout(self._sock, socket.SO_RCVTIMEO, seconds)

    # -- sending ---------------------------------------------------------------------------

    def send(self, head: bytes, body: Body) -> None:
        """Send a request; small bodies in memory go out together with the head.

        Raises:
            EarlyAnswer: the server speaks already, or hung up; its answer may be readable.
            RequestTimeoutError: the server stopped taking bytes.
        """
        if isinstance(body, BytesBody) and body.length <= JOIN_LIMIT_BYTES:
            self.write(head + body.content if body.content else head)
            return
        self.write(head)
        body.send(self)

    def await_leave(self, limit_s: float) -> None:
        """Wait until the server asks for the body that was announced, or says nothing for a while.

        Raises:
            EarlyAnswer: it answered instead; its answer waits to be read. TransportError: it hung up.
        """
        patience_s, until = self._timeout_s, time.monotonic() + limit_s
        self.set_timeout(limit_s)
        try:
            is_first = True
            while (status := self._next_interim()) != CONTINUE:
                if status >= FIRST_FINAL_STATUS:
                    raise EarlyAnswer("the server answered before the body was sent")
                if not status:
                    if not is_first and time.monotonic() > until:
                        return
                    self._fill(is_first=is_first)
                    is_first = False
        except RequestTimeoutError:
            return
        finally:
            self.set_timeout(patience_s)

    def _next_interim(self) -> int:
        """Return the status of the next head in the buffer, and drop it if it is interim; 0 while it is not whole."""
        end = self._buffer.find(b"\r\n\r\n", self._start, self._end)
        if end < 0:
            return 0
        status = parse_head(str(self._view[self._start : end], "utf-8", "surrogateescape"), "GET", self.endpoint).status
        if status == SWITCHING_PROTOCOLS or status >= FIRST_FINAL_STATUS:
            return FIRST_FINAL_STATUS
        self._start, self._is_begun = end + 4, True
        return status

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
            self._look_for_early_answer()
        self.send_now(block, self._timeout_s)

    def send_now(self, block: bytes | bytearray | memoryview, timeout_s: float) -> None:
        """Send a block without a look at what the server says or at a limit; later receives wait as long.

        Raises:
            EarlyAnswer: the server hung up. RequestTimeoutError: it takes no bytes.
        """
        self._timeout_s = timeout_s
        if self._send_timeout_s != timeout_s:
            self._set_send_timeout(timeout_s)
        try:
            sent = self._sock.send(block)
            if sent < len(block):
                self._send_rest(memoryview(block)[sent:])
        except (BlockingIOError, TimeoutError) as exc:
            raise self._send_timeout() from exc
        except OSError as exc:
            raise EarlyAnswer(str(exc)) from exc
        self.bytes_sent += len(block)

    def _send_rest(self, view: memoryview) -> None:
        """Send what the connection did not take at once."""
        while view:
            started = time.monotonic()
            sent = self._sock.send(view)
            self.pace.judge_taking(time.monotonic() - started, sent, self._timeout_s)
            view = view[sent:]

    def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send part of a file: by the kernel on plain sockets, through one buffer under TLS.

        Raises:
            EarlyAnswer, TransportError: the connection broke. OSError: the file cannot be read.
        """
        if self.is_tls or not IS_LINUX:
            FileSlice(fd, offset=offset, length=count).feed(self.write)
            return
        limit = READ_BLOCK_BYTES if self._throttle is None else PIECE_BYTES
        if self._send_timeout_s != self._timeout_s:
            self._set_send_timeout(self._timeout_s)
        while count:
            self._look_for_early_answer()
            if self._throttle is not None:
                self._throttle.take(min(count, limit))
            started = time.monotonic()
            try:
                sent = os.sendfile(self._sock.fileno(), fd, offset, min(count, limit))
            except (BlockingIOError, TimeoutError) as exc:
                raise self._send_timeout() from exc
            except OSError as exc:
                if exc.errno in NO_SENDFILE:
                    FileSlice(fd, offset=offset, length=count).feed(self.write)
                    return
                os.pread(fd, 1, offset)  # raises an OSError where the file is to blame, and no connection
                raise EarlyAnswer(str(exc)) from exc
            if not sent:
                raise IntegrityError(f"the file became {count} bytes shorter while it was sent")
            offset += sent
            count -= sent
            self.bytes_sent += sent
            self.pace.judge_taking(time.monotonic() - started, sent, self._timeout_s)

    def _look_for_early_answer(self) -> None:
        # Under TLS a readable socket may only hold a session ticket; the answer is found after a failed send.
        if not self.is_tls and self.is_readable() and not self._has_only_interim():
            raise EarlyAnswer("the server answered before the body was sent")

    def _has_only_interim(self) -> bool:
        """Take interim answers that have arrived, as RGW sends before forms; False at another, or the end."""
        try:
            with contextlib.suppress(BlockingIOError):  # the rest of a head is still under way
                count = self._sock.recv_into(self._view[self._end :], 0, socket.MSG_DONTWAIT)
                if not count:
                    return False
                self._end += count
            while 0 < (status := self._next_interim()) < FIRST_FINAL_STATUS:
                continue
        except (OSError, TransportError):
            return False
        return not status and INTERIM_START.startswith(self._view[self._start : self._end][:10].tobytes())

    def _send_timeout(self) -> RequestTimeoutError:
        return RequestTimeoutError(
            f"{self.endpoint} took no bytes for {self._timeout_s:g} s", endpoint=self.endpoint, sent=False
        )

    # -- receiving -------------------------------------------------------------------------

    def await_answer(self, seconds: float) -> bool:
        """Wait for the first bytes of an answer, which are kept; False when none came in time.

        Raises:
            StaleConnectionError: a kept connection ended without a byte. ProtocolError: so did a new one.
        """
        if self._end > self._start:
            return True
        timeout_s, self._timeout_s = self._timeout_s, seconds
        try:
            self._fill(is_first=True)
        except RequestTimeoutError:
            return False
        finally:
            self._timeout_s = timeout_s
        return True

    def read_head(self, method: str) -> Head:
        """Read the final response head; 1xx heads before it are dropped.

        Raises:
            StaleConnectionError: a kept connection ended without a byte.
            ProtocolError, RequestTimeoutError: no complete, valid head arrived.
        """
        fresh = self._start == self._end
        interim = 0
        while True:
            end = -1 if fresh else self._buffer.find(b"\r\n\r\n", self._start, self._end)
            if end < 0:
                self._fill(is_first=fresh)
                fresh = False
                continue
            text = str(self._view[self._start : end], "utf-8", "surrogateescape")
            self._start = end + 4
            head = parse_head(text, method, self.endpoint)
            if head.status >= FIRST_FINAL_STATUS:
                self._is_begun = False
                self.exchanges += 1
                return head
            if head.status == SWITCHING_PROTOCOLS:
                raise self._protocol_error("sent status 101 without being asked")
            interim += 1
            if interim > MOST_INTERIM:
                raise self._protocol_error(f"sent more than {MOST_INTERIM} interim answers")

    def _fill(self, *, is_first: bool) -> None:
        """Receive into the buffer behind what is there; fails at the end of the connection."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._buffer):
            self._make_room()
        if is_first:  # which may take long, and tells nothing of the speed
            self.pace.begin(-self._timeout_s)
        try:
            count = self._recv_into(self._view[self._end :])
        except TransportError as exc:
            if is_first and self.exchanges and not self._is_begun and not isinstance(exc, RequestTimeoutError):
                raise StaleConnectionError(str(exc), endpoint=self.endpoint) from exc
            raise
        if not count:
            if is_first and self.exchanges and not self._is_begun and self._start == self._end:
                raise StaleConnectionError(f"{self.endpoint} closed a kept connection", endpoint=self.endpoint)
            raise self._protocol_error("closed the connection before the answer was complete")
        if is_first and TCP_QUICKACK is not None:
            # The kernel forgets it after each use; without it Nagle there waits 40 ms for our ACK here.
            self._sock.setsockopt(socket.IPPROTO_TCP, TCP_QUICKACK, 1)
        if is_first:
            self.pace.begin()
        self._end += count

    def _make_room(self) -> None:
        """Move what is unread to the front, of a larger buffer when it fills this one."""
        unread = self._view[self._start : self._end].tobytes()
        if len(unread) == MAX_BUFFER_BYTES:
            raise self._protocol_error("sent a line or head of more than 64 KiB")
        if len(unread) == len(self._buffer):
            self._buffer = bytearray(MAX_BUFFER_BYTES)
            self._view = memoryview(self._buffer)
        self._start, self._end = 0, len(unread)
        self._view[: self._end] = unread

    def _recv_into(self, view: memoryview) -> int:
        if self._receive_timeout_s != self._timeout_s:
            self._set_receive_timeout(self._timeout_s)
        started = time.monotonic()
        try:
            count = self._sock.recv_into(view)
        except (BlockingIOError, TimeoutError) as exc:
            raise self._silence() from exc
        except OSError as exc:
            raise self._broken(exc) from exc
        self.bytes_received += count
        self.pace.judge(time.monotonic() - started, count)
        if self._throttle is not None:
            self._throttle.take(count)
        return count

    def readinto(self, view: memoryview, *, more_must_come: bool = False) -> int:
        """Give body bytes: what the buffer holds first, then straight from the socket; 0 at the end.

        Under TLS a receive gives 16 KiB at most. Where ``more_must_come``, all that has arrived is taken.
        """
        ready = self._end - self._start
        if not ready:
            if more_must_come and self.is_tls and self._throttle is None:
                return self._gather_into(view)
            return self._recv_into(view)
        count = min(ready, len(view))
        view[:count] = self._view[self._start : self._start + count]
        self._start += count
        return count

    def _gather_into(self, view: memoryview) -> int:
        """Receive TLS records until the view is full or nothing is there; wait for the first alone."""
        import ssl  # imported already where there is a connection with TLS

        if self._receive_timeout_s:
            self._set_receive_timeout(0.0)
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
                    started = time.monotonic()
                    if not wait_readable([self], self._timeout_s):
                        raise self._silence() from None
                    self.pace.judge(time.monotonic() - started, 0)
                    continue
            except OSError as exc:
                if not filled:
                    raise self._broken(exc) from exc
                self._trouble = exc
            self.bytes_received += filled
            self.pace.judge(0.0, filled)
            return filled

    def read_line(self) -> bytes:
        """Read a line of chunked framing, without its CRLF."""
        while True:
            end = self._buffer.find(b"\r\n", self._start, self._end)
            if 0 <= end <= self._start + MAX_CHUNK_LINE_BYTES:
                line = self._view[self._start : end].tobytes()
                self._start = end + 2
                return line
            if self._end - self._start > MAX_CHUNK_LINE_BYTES:
                raise self._protocol_error("sent a chunk line of more than 512 bytes")
            self._fill(is_first=False)

    def _protocol_error(self, what: str) -> ProtocolError:
        return ProtocolError(f"{self.endpoint} {what}", endpoint=self.endpoint)

    def _silence(self) -> RequestTimeoutError:
        return RequestTimeoutError(f"{self.endpoint} sent nothing for {self._timeout_s:g} s", endpoint=self.endpoint)

    def _broken(self, error: OSError) -> ProtocolError:
        return self._protocol_error(f"broke the connection: {describe_os_error(error)}")
