"""One connection's HTTP/1.1: a head out, a head in, a body either way.

A connection owns its receive buffer and reads no more of a body than the caller asks for.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable

from s3pool.body import EMPTY_BODY, Body, BytesBody
from s3pool.errors import ProtocolError, RequestTimeoutError, TransportError
from s3pool.pool.heads import CONTINUE, FIRST_FINAL_STATUS, Head, parse_head
from s3pool.pool.pace import Throttle
from s3pool.pool.tcp import JOIN_LIMIT_BYTES, EarlyResponse, NodeSilentError, StaleConnectionError, TcpStream

BUFFER_BYTES = 16 * 1024  # nearly every response head fits: RGW's and AWS's limits are 16 and 8 KiB
MAX_BUFFER_BYTES = 64 * 1024  # for one that does not
MAX_CHUNK_LINE_BYTES = 512
SWITCHING_PROTOCOLS = 101
INTERIM_START = b"HTTP/1.1 1"
MOST_INTERIM = 100  # answers of 1xx before the final one


class NodeConnection(TcpStream):
    """A connection between requests or inside one; used by one thread at a time."""

    __slots__ = ("_buffer", "_end", "_interim", "_is_begun", "_start", "_view", "exchanges", "idle_since")

    def __init__(
        self, sock: socket.socket, *, endpoint: str, tls_version: str = "", throttle: Throttle | None = None
    ) -> None:
        super().__init__(sock, endpoint=endpoint, tls_version=tls_version, throttle=throttle)
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._interim = 0  # 1xx heads before the next final one
        self._is_begun = False  # an interim answer came: the server has the request
        self.idle_since = 0.0
        self.exchanges = 0  # answers received so far

    def is_readable(self) -> bool:
        """Return whether bytes, or the end, have arrived: on an idle connection it is then dead."""
        return self._end > self._start or self.has_news()

    @property
    def has_rest(self) -> bool:
        """Return whether more was read than the answer."""
        return self._end > self._start

    def has_bytes(self) -> bool:
        """Return whether bytes arrived that no request asked for; the end of the connection is none."""
        return self._end > self._start or self.has_unread()

    # -- sending ---------------------------------------------------------------------------

    def send(self, head: bytes, body: Body) -> None:
        """Send a request; small bodies in memory go out together with the head.

        Raises:
            EarlyResponse: the server speaks already, or hung up; its answer may be readable.
            RequestTimeoutError: the server stopped taking bytes.
        """
        if isinstance(body, BytesBody) and body.length <= JOIN_LIMIT_BYTES:
            self.write(head + body.content if body.content else head)
            return
        self.write(head)
        body.send(self)

    # Sends a head, with a small body behind it, without a look at what the server says.
    send_joined = TcpStream.send_now

    def await_leave(self, limit_s: float) -> None:
        """Wait until the server asks for the body that was announced, or says nothing for a while.

        Raises:
            EarlyResponse: it answered instead; its answer waits to be read. TransportError: it hung up.
        """
        patience_s, until = self._timeout_s, time.monotonic() + limit_s
        self.set_timeout(limit_s)
        try:
            is_first = True
            while (status := self._next_interim()) != CONTINUE:
                if status >= FIRST_FINAL_STATUS:
                    raise EarlyResponse("the server answered before the body was sent")
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

    def look_for_early_answer(self) -> None:
        """Raise EarlyResponse when the server speaks before the request was sent whole."""
        # Under TLS a readable socket may only hold a session ticket; the answer is found after a failed send.
        if not self.is_tls and self.is_readable() and not self._has_only_interim():
            raise EarlyResponse("the server answered before the body was sent")

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

    # -- receiving -------------------------------------------------------------------------

    def await_answer(self, seconds: float) -> bool:
        """Wait for the first bytes of an answer, which are kept; False when none came in time.

        Raises:
            StaleConnectionError: a kept connection ended without a byte. ProtocolError: so did a new one.
            NodeSilentError: the watcher ends the wait.
        """
        if self._end > self._start:
            return True
        timeout_s, self._timeout_s = self._timeout_s, seconds
        try:
            self._fill(is_first=True)
        except NodeSilentError:
            raise
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
        is_first = self._start == self._end
        while is_first or (head := self.next_head(method)) is None:
            self._fill(is_first=is_first)
            is_first = False
        return head

    def _fill(self, *, is_first: bool) -> None:
        """Receive into the buffer behind what is there; fails at the end of the connection."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._buffer):
            self._make_room()
        if is_first:  # which may take long, and tells nothing of the speed
            self.pace.begin(-self._timeout_s)
        try:
            count = self.receive(self._view[self._end :])
        except TransportError as exc:
            if is_first and self.exchanges and not self._is_begun and not isinstance(exc, RequestTimeoutError):
                raise StaleConnectionError(str(exc), endpoint=self.endpoint) from exc
            raise
        if not count:
            raise self.ended_early(is_first=is_first)
        if is_first:
            self.acknowledge()  # the kernel forgets it after each use
            self.pace.begin()
        self._end += count

    def _make_room(self) -> None:
        """Move what is unread to the front, of a larger buffer when it fills this one."""
        unread = self._view[self._start : self._end].tobytes()
        if len(unread) == MAX_BUFFER_BYTES:
            raise self.protocol_error("sent a line or head of more than 64 KiB")
        if len(unread) == len(self._buffer):
            self._buffer = bytearray(MAX_BUFFER_BYTES)
            self._view = memoryview(self._buffer)
        self._start, self._end = 0, len(unread)
        self._view[: self._end] = unread

    def readinto(self, view: memoryview, *, more_must_come: bool = False) -> int:
        """Read body bytes: what the buffer holds first, then straight from the socket; 0 at the end.

        Under TLS a receive gives 16 KiB at most. Where ``more_must_come``, all that has arrived is taken.
        """
        ready = self._end - self._start
        if not ready:
            if more_must_come and self.is_tls and self._throttle is None:
                return self.gather(view)
            return self.receive(view)
        count = min(ready, len(view))
        view[:count] = self._view[self._start : self._start + count]
        self._start += count
        return count

    # -- taking what arrives, without waiting ------------------------------------------------

    def advance(self, method: str, head: Head | None) -> tuple[int, Head | None]:
        """Receive once into the buffer, without waiting; return the count and the final head, if it is whole.

        The count is -1 when nothing has arrived, and 0 at the end of the connection. A ``head``
        that was read before is returned as it is.

        Raises:
            ProtocolError: the connection broke, or what came is not HTTP.
        """
        end = self._end
        if self._start == end:
            self._start = self._end = end = 0
        elif end == len(self._buffer):
            self._make_room()
            end = self._end
        count = self.receive_now(self._view[end:] if end else self._view)
        if count > 0:
            self._end = end + count
            if head is None:
                head = self.next_head(method)
        return count, head

    @property
    def is_full(self) -> bool:
        """Return whether the last receive filled the buffer: more may be there, of which there is no news."""
        return self._end == len(self._buffer)

    def take_whole(self, length: int) -> bytes | None:
        """Return so many bytes of the buffer, which is emptied of them; None, and nothing taken, when it has fewer."""
        start = self._start
        end = start + length
        if end > self._end:
            return None
        self._start = end
        return self._view[start:end].tobytes() if length else b""

    def fits(self, length: int) -> bool:
        """Return whether so many bytes, with those that are there, fit behind what was taken."""
        return self._start + length <= len(self._buffer)

    def take(self, most: int) -> bytes:
        """Return the next bytes of the buffer, which is emptied of them."""
        start = self._start
        self._start = end = min(start + most, self._end)
        return self._view[start:end].tobytes() if end > start else b""

    def next_head(self, method: str) -> Head | None:
        """Return the final head in the buffer, or None while it is not whole; 1xx heads before it are dropped.

        Raises:
            ProtocolError: it is not a valid head.
        """
        while True:
            start = self._start
            end = self._buffer.find(b"\r\n\r\n", start, self._end)
            if end < 0:
                return None
            head = parse_head(self._buffer[start:end].decode("utf-8", "surrogateescape"), method, self.endpoint)
            if head.status == SWITCHING_PROTOCOLS:
                raise self.protocol_error("sent status 101 without being asked")
            self._start = end + 4
            if head.status >= FIRST_FINAL_STATUS:
                self._is_begun, self._interim = False, 0
                self.exchanges += 1
                return head
            self._is_begun = True
            self._interim += 1
            if self._interim > MOST_INTERIM:
                raise self.protocol_error(f"sent more than {MOST_INTERIM} interim answers")

    def ended_early(self, *, is_first: bool) -> ProtocolError:
        """Return the error of a connection that ended before the answer was complete."""
        if is_first and self.exchanges and not self._is_begun and self._start == self._end:
            return StaleConnectionError(f"{self.endpoint} closed a kept connection", endpoint=self.endpoint)
        return self.protocol_error("closed the connection before the answer was complete")

    def read_line(self) -> bytes:
        """Read a line of chunked framing, without its CRLF."""
        while True:
            end = self._buffer.find(b"\r\n", self._start, self._end)
            if 0 <= end <= self._start + MAX_CHUNK_LINE_BYTES:
                line = self._view[self._start : end].tobytes()
                self._start = end + 2
                return line
            if self._end - self._start > MAX_CHUNK_LINE_BYTES:
                raise self.protocol_error("sent a chunk line of more than 512 bytes")
            self._fill(is_first=False)


MOST_TRAILERS = 64


class ResponseBody:
    """The body of one response; it ends the exchange when its last byte was read.

    ``finish(reusable)`` is called exactly once: with True when the connection can carry
    another request. ``failed(error)`` is told when the body breaks off.
    """

    __slots__ = ("_connection", "_failed", "_finish", "_head", "_is_done", "_left")

    def __init__(
        self,
        connection: NodeConnection,
        head: Head,
        *,
        finish: Callable[[bool], None],
        failed: Callable[[TransportError], None],
    ) -> None:
        self._connection = connection
        self._head = head
        self._finish = finish
        self._failed = failed
        self._is_done = False
        # Bytes left of the body, of the current chunk, or -1 when only the end of the connection tells.
        self._left = head.length if head.length is not None else 0 if head.is_chunked else -1
        if head.length == 0:
            self._end(reusable=head.keep_alive)

    def readinto(self, buffer: memoryview) -> int:
        """Fill part of the buffer; 0 at the end of a complete body.

        Raises:
            ProtocolError: the connection ended early. RequestTimeoutError: it stalled.
        """
        if self._is_done or not len(buffer):
            return 0
        try:
            return self._readinto(buffer)
        except TransportError as exc:
            self._end(reusable=False)
            self._failed(exc)
            raise

    def _readinto(self, buffer: memoryview) -> int:
        if self._left == 0 and not self._next_chunk():
            return 0
        limit = len(buffer) if self._left < 0 else min(self._left, len(buffer))
        count = self._connection.readinto(buffer[:limit], more_must_come=self._left > 0)
        if self._left < 0:
            if not count:
                self._end(reusable=False)
            return count
        if not count:
            raise ProtocolError(
                f"{self._connection.endpoint} closed the connection {self._left} bytes early",
                endpoint=self._connection.endpoint,
            )
        self._left -= count
        if self._left == 0:
            if not self._head.is_chunked:
                self._end(reusable=self._head.keep_alive)
            elif self._connection.read_line():
                raise ProtocolError(
                    f"{self._connection.endpoint} sent a malformed chunk", endpoint=self._connection.endpoint
                )
        return count

    def _next_chunk(self) -> bool:
        line = self._connection.read_line().split(b";", 1)[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,16}", line):
            raise ProtocolError(
                f"{self._connection.endpoint} sent a malformed chunk size", endpoint=self._connection.endpoint
            )
        self._left = int(line, 16)
        if self._left:
            return True
        for _ in range(MOST_TRAILERS):  # they carry nothing that s3pool uses
            if not self._connection.read_line():
                break
        else:
            raise ProtocolError(
                f"{self._connection.endpoint} sent too many trailer fields", endpoint=self._connection.endpoint
            )
        self._end(reusable=self._head.keep_alive)
        return False

    def _end(self, *, reusable: bool) -> None:
        if not self._is_done:
            self._is_done = True
            self._finish(reusable)

    def close(self) -> None:
        """End the exchange; a connection with unread bytes is dropped."""
        self._end(reusable=False)


# Not HEAD: RGW 16 answers HEAD / with a chunked body all the same.
GENERIC_PATH = "/"
BODY_LIMIT_BYTES = 64 * 1024
BLOCK_BYTES = 4096


def probe_request(
    connection: NodeConnection, netloc: str, *, path: str = GENERIC_PATH, timeout_s: float
) -> tuple[Head, bool]:
    """Ask for a sign of life; give the answer's head and whether the connection can be used again.

    The body is read and dropped. Any status counts as an answer.

    Raises:
        TransportError: no complete HTTP answer arrived.
    """
    connection.set_timeout(timeout_s)
    try:
        connection.send(f"GET {path} HTTP/1.1\r\nhost: {netloc}\r\n\r\n".encode("ascii"), EMPTY_BODY)
    except EarlyResponse as exc:
        raise ProtocolError(f"{connection.endpoint} broke the connection: {exc}", endpoint=connection.endpoint) from exc
    connection.pace.window_s = timeout_s
    head = connection.read_head("GET")
    reusable: list[bool] = []
    body = ResponseBody(connection, head, finish=reusable.append, failed=lambda _error: None)
    buffer = memoryview(bytearray(BLOCK_BYTES))
    total = 0
    until = time.monotonic() + timeout_s
    while count := body.readinto(buffer):
        total += count
        if total > BODY_LIMIT_BYTES or time.monotonic() > until:
            body.close()
    return head, reusable[0]
