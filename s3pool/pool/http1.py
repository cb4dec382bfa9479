"""One connection's HTTP/1.1: a head out, a head in, a body either way.

A connection owns its receive buffer and reads no more of a body than the caller asks for.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from s3pool.body import Body, BytesBody, Throttle
from s3pool.errors import ProtocolError, RequestTimeoutError, TransportError
from s3pool.pool.tcp import JOIN_LIMIT_BYTES, EarlyResponse, NodeSilentError, StaleConnectionError, TcpStream

BUFFER_BYTES = 16 * 1024  # nearly every response head fits: RGW's and AWS's limits are 16 and 8 KiB
MAX_BUFFER_BYTES = 64 * 1024  # for one that does not
MAX_CHUNK_LINE_BYTES = 512
SWITCHING_PROTOCOLS = 101
INTERIM_START = b"HTTP/1.1 1"
MOST_INTERIM = 100  # answers of 1xx before the final one
STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9]\d\d)(?: ([^\r\n\0]*))?")
HEADER_LINE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*")
LENGTH = re.compile("[0-9]{1,19}")
NO_BODY_STATUS = frozenset({204, 304})
CONTINUE, FIRST_FINAL_STATUS = 100, 200
MAX_KNOWN, MAX_KNOWN_LENGTH = 1024, 128  # lines that are remembered, and their length
MOST_TRAILERS = 64
CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
KEPT_TEXT = 60  # so much of what is wrong is told

_Field = tuple[str, str]  # the name in lower case, and the value
OnFailure = Callable[[TransportError], None]


class Head(NamedTuple):
    """A response's status line and fields; ``length`` is None for chunked and close-delimited bodies."""

    status: int
    reason: str
    headers: dict[str, str]
    lines: list[str]  # the fields as they came
    length: int | None
    is_chunked: bool
    keep_alive: bool


def parse_head(text: str, method: str, endpoint: str) -> Head:
    """Read a response head without its blank line, strictly.

    Folded lines, control characters, differing Content-Length fields and unknown transfer codings are refused.
    Source: RFC 9112 sections 4, 5 and 6.3.
    """
    lines = text.split("\r\n")
    try:
        is_1_1, status, reason = _KNOWN_STARTS[lines.pop(0)]
        headers = dict(map(_field_of, lines))
        if len(headers) < len(lines):  # the values of repeated ones are joined with a comma
            headers = {}
            for name, value in map(_field_of, lines):
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
        is_chunked = "transfer-encoding" in headers and _is_chunked(headers["transfer-encoding"])
        connection = headers.get("connection", "").lower()
        keep_alive = "close" not in connection and (is_1_1 or "keep-alive" in connection)
        if method == "HEAD" or status in NO_BODY_STATUS or status < FIRST_FINAL_STATUS:
            length: int | None = 0
            # RGW 16 sends a chunked end after some HEAD answers; it must not become the next answer.
            keep_alive = keep_alive and not is_chunked
            is_chunked = False
        else:
            length = None if is_chunked else _content_length(headers)
            # Both framings at once are a smuggling trick; the coding wins and the connection is not used again.
            keep_alive = keep_alive and not (is_chunked and "content-length" in headers)
    except ValueError as exc:
        raise ProtocolError(f"{endpoint} {exc}", endpoint=endpoint) from exc
    # A third of the time of a call of the class.
    return tuple.__new__(Head, (status, reason, headers, lines, length, is_chunked, keep_alive))


class _KnownStarts(dict[str, tuple[bool, int, str]]):
    """Status lines that were read before: whether it is HTTP/1.1, the status, the reason."""

    def __missing__(self, line: str) -> tuple[bool, int, str]:
        match = STATUS_LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"does not speak HTTP: it sent {line[:KEPT_TEXT]!r}")
        minor, status, reason = match.groups()
        start = minor == "1", int(status), reason or ""
        if len(self) < MAX_KNOWN and len(line) <= MAX_KNOWN_LENGTH:
            self[line] = start
        return start


class _KnownLines(dict[str, "_Field"]):
    """Header lines that were read before: most of an answer's are those of the one before it."""

    def __missing__(self, line: str) -> _Field:
        if HEADER_LINE.fullmatch(line) is None:
            raise ValueError(f"sent a malformed header line {line[:KEPT_TEXT]!r}")
        name, _, value = line.partition(":")
        field = name.lower(), value.strip(" \t")
        if len(line) <= MAX_KNOWN_LENGTH:
            if len(self) >= MAX_KNOWN:
                self.clear()
            self[line] = field
        return field


_KNOWN_STARTS = _KnownStarts()
_field_of = _KnownLines().__getitem__


def _is_chunked(coding: str) -> bool:
    if coding.lower() not in ("identity", "chunked"):
        raise ValueError(f"uses an unknown transfer coding {coding!r}")
    return coding.lower() == "chunked"


def _content_length(headers: dict[str, str]) -> int | None:
    text = headers.get("content-length")
    if text is None:
        return None
    value, *others = {value.strip() for value in text.split(",")} if "," in text else [text]
    if others or LENGTH.fullmatch(value) is None:
        raise ValueError(f"sent a bad Content-Length {text!r}")
    return int(value)


class NodeConnection(TcpStream):
    """A connection between requests or inside one; used by one thread at a time."""

    __slots__ = ("_buffer", "_end", "_interim", "_start", "_view", "exchanges", "idle_since")

    def __init__(
        self, sock: socket.socket, *, endpoint: str, tls_version: str = "", throttle: Throttle | None = None
    ) -> None:
        super().__init__(sock, endpoint=endpoint, tls_version=tls_version, throttle=throttle)
        self._buffer = bytearray(BUFFER_BYTES)
        self._view, self._start, self._end = memoryview(self._buffer), 0, 0
        self._interim = 0  # 1xx heads before the next final one: the server has the request
        self.idle_since = 0.0
        self.exchanges = 0  # answers received so far

    def is_readable(self) -> bool:
        """Return whether bytes, or the end, have arrived: on an idle connection it is then dead."""
        if self._poll is None:
            poller = select.poll()
            poller.register(self._sock, select.POLLIN)
            self._poll = poller.poll
        return self._end > self._start or bool(self._poll(0)) or (self.is_tls and self._pending > 0)

    @property
    def has_rest(self) -> bool:
        """Return whether more was read than the answer."""
        return self._end > self._start

    def has_bytes(self) -> bool:
        """Return whether bytes arrived that no request asked for; the end of the connection is none."""
        return self._end > self._start or self.has_unread()

    # -- sending ---------------------------------------------------------------------------

    def send(self, head: bytes, body: Body) -> None:
        """Send a request, a small body together with the head. Raises EarlyResponse, RequestTimeoutError."""
        if isinstance(body, BytesBody) and body.length <= JOIN_LIMIT_BYTES:
            self.write(head + body.content if body.content else head)
            return
        self.write(head)
        self.send_body(body)

    # Sends a head, with a small body behind it, without a look at what the server says.
    send_joined = TcpStream.send_now

    def await_leave(self, limit_s: float) -> None:
        """Wait until the server asks for the body that was announced, or says nothing for a while.

        Raises EarlyResponse: its answer waits to be read. TransportError: it hung up.
        """
        patience_s, until = self.timeout_s, time.monotonic() + limit_s
        self.timeout_s = limit_s
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
            self.timeout_s = patience_s

    def _next_interim(self) -> int:
        """Return the status of the next head in the buffer, and drop it if it is interim; 0 while it is not whole."""
        end = self._buffer.find(b"\r\n\r\n", self._start, self._end)
        if end < 0:
            return 0
        status = parse_head(str(self._view[self._start : end], "utf-8", "surrogateescape"), "GET", self.endpoint).status
        if status == SWITCHING_PROTOCOLS or status >= FIRST_FINAL_STATUS:
            return FIRST_FINAL_STATUS
        self._start = end + 4
        self._interim += 1
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

        Raises StaleConnectionError, ProtocolError: the connection ended. NodeSilentError: the watcher ends the wait.
        """
        if self._end > self._start:
            return True
        timeout_s, self.timeout_s = self.timeout_s, seconds
        try:
            self._fill(is_first=True)
        except NodeSilentError:
            raise
        except RequestTimeoutError:
            return False
        finally:
            self.timeout_s = timeout_s
        return True

    def read_head(self, method: str) -> Head:
        """Read the final response head. Raises StaleConnectionError: a kept connection ended without a byte."""
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
            self.pace.begin(-self.timeout_s)
        try:
            count = self.receive(self._view[self._end :])
        except TransportError as exc:
            if is_first and self.exchanges and not self._interim and not isinstance(exc, RequestTimeoutError):
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
        """Read body bytes, 0 at the end; under TLS, which gives 16 KiB at once, all that came if ``more_must_come``."""
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

        The count is -1 when nothing has arrived, 0 at the end of the connection; a ``head`` that was read comes back.
        Raises ProtocolError: the connection broke, or what came is not HTTP.
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

    def next_head(self, method: str) -> Head | None:
        """Return the final head in the buffer, None while it is not whole; 1xx heads before it are dropped."""
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
                self._interim = 0
                self.exchanges += 1
                return head
            self._interim += 1
            if self._interim > MOST_INTERIM:
                raise self.protocol_error(f"sent more than {MOST_INTERIM} interim answers")

    def ended_early(self, *, is_first: bool) -> ProtocolError:
        """Return the error of a connection that ended before the answer was complete."""
        if is_first and self.exchanges and not self._interim and self._start == self._end:
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


class ResponseBody:
    """The body of one response; it ends the exchange when its last byte was read.

    ``finish`` is called once, with True when the connection can carry another request; ``failed`` when the body breaks.
    """

    __slots__ = ("_connection", "_failed", "_finish", "_head", "_is_done", "_left")

    def __init__(
        self, connection: NodeConnection, head: Head, *, finish: Callable[[bool], None], failed: OnFailure
    ) -> None:
        self._connection, self._head, self._finish, self._failed = connection, head, finish, failed
        self._is_done = False
        # Bytes left of the body, of the current chunk, or -1 when only the end of the connection tells.
        self._left = head.length if head.length is not None else 0 if head.is_chunked else -1
        if head.length == 0:
            self._end(reusable=head.keep_alive)

    def readinto(self, buffer: memoryview) -> int:
        """Fill part of the buffer; 0 at the end of a complete body. Raises TransportError: it broke off."""
        if self._is_done or not len(buffer):
            return 0
        try:
            return self._readinto(buffer)
        except TransportError as exc:
            self._end(reusable=False)
            self._failed(exc)
            raise

    def _readinto(self, buffer: memoryview) -> int:
        connection = self._connection
        if self._left == 0 and not self._next_chunk():
            return 0
        limit = len(buffer) if self._left < 0 else min(self._left, len(buffer))
        count = connection.readinto(buffer[:limit], more_must_come=self._left > 0)
        if self._left < 0:
            if not count:
                self._end(reusable=False)
            return count
        if not count:
            raise connection.protocol_error(f"closed the connection {self._left} bytes early")
        self._left -= count
        if self._left == 0:
            if not self._head.is_chunked:
                self._end(reusable=self._head.keep_alive)
            elif connection.read_line():
                raise connection.protocol_error("sent a malformed chunk")
        return count

    def _next_chunk(self) -> bool:
        line = self._connection.read_line().split(b";", 1)[0].strip()
        if not CHUNK_SIZE.fullmatch(line):
            raise self._connection.protocol_error("sent a malformed chunk size")
        self._left = int(line, 16)
        if self._left:
            return True
        if all(self._connection.read_line() for _ in range(MOST_TRAILERS)):  # they carry nothing that s3pool uses
            raise self._connection.protocol_error("sent too many trailer fields")
        self._end(reusable=self._head.keep_alive)
        return False

    def _end(self, *, reusable: bool) -> None:
        if not self._is_done:
            self._is_done = True
            self._finish(reusable)

    def close(self) -> None:
        """End the exchange; a connection with unread bytes is dropped."""
        self._end(reusable=False)
