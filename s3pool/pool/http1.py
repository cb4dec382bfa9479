"""One connection's HTTP/1.1: a head out, a head in, a body either way.

A connection owns its receive buffer and reads no more of a body than the caller asks for.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterable
from typing import NamedTuple

from s3pool.body import Body, BytesBody
from s3pool.errors import ProtocolError, RequestTimeoutError, TransportError
from s3pool.pool.tcp import JOIN_LIMIT_BYTES, EarlyResponse, NodeSilentError, StaleConnectionError, TcpStream
from s3pool.pool.throttle import Throttle

BUFFER_BYTES = 16 * 1024  # nearly every response head fits: RGW's and AWS's limits are 16 and 8 KiB
MAX_BUFFER_BYTES = 64 * 1024  # for one that does not
MAX_CHUNK_LINE_BYTES = 512
SWITCHING_PROTOCOLS = 101
INTERIM_START = b"HTTP/1.1 1"
MOST_INTERIM = 100  # answers of 1xx before the final one
STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9]\d\d)(?: ([^\r\n\0]*))?")
NAME_CHARS = "!#$%&'*+.^_`|~0-9A-Za-z-"
HEADER_LINE = re.compile(rf"[{NAME_CHARS}]+:[^\r\n\0]*")
MAX_LENGTH_DIGITS = 19
LENGTH = re.compile(rf"[0-9]{{1,{MAX_LENGTH_DIGITS}}}")
NO_BODY_STATUS = frozenset({204, 304})
CONTINUE = 100
FIRST_FINAL_STATUS = 200
MAX_KNOWN = 1024  # lines that are remembered, and their length
MAX_KNOWN_LENGTH = 128
KEPT_TEXT = 60  # so much of what is wrong is told

_Field = tuple[str, str]  # the name in lower case, and the value


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

    Source: RFC 9112 sections 4, 5 and 6.3; folded lines, control characters, differing
    Content-Length fields and unknown transfer codings are refused.
    """
    lines = text.split("\r\n")
    try:
        is_1_1, status, reason = _KNOWN_STARTS[lines.pop(0)]
        headers = dict(map(_field_of, lines))
    except ValueError as exc:
        raise _malformed(text, endpoint) from exc
    if len(headers) < len(lines):
        headers = _joined(map(_field_of, lines))
    is_chunked = "transfer-encoding" in headers and _is_chunked(headers["transfer-encoding"], endpoint)
    connection = headers.get("connection", "").lower()
    keep_alive = "close" not in connection and (is_1_1 or "keep-alive" in connection)
    if method == "HEAD" or status in NO_BODY_STATUS or status < FIRST_FINAL_STATUS:
        length: int | None = 0
        # RGW 16 sends a chunked end after some HEAD answers; it must not become the next answer.
        keep_alive = keep_alive and not is_chunked
        is_chunked = False
    else:
        length = None if is_chunked else _content_length(headers, endpoint)
        # Both framings at once are a smuggling trick; the coding wins and the connection is not used again.
        keep_alive = keep_alive and not (is_chunked and "content-length" in headers)
    # A third of the time of a call of the class.
    return tuple.__new__(Head, (status, reason, headers, lines, length, is_chunked, keep_alive))


class _KnownStarts(dict[str, tuple[bool, int, str]]):
    """Status lines that were read before: whether it is HTTP/1.1, the status, the reason."""

    def __missing__(self, line: str) -> tuple[bool, int, str]:
        match = STATUS_LINE.fullmatch(line)
        if match is None:
            raise ValueError(line)
        minor, status, reason = match.groups()
        start = minor == "1", int(status), reason or ""
        if len(self) < MAX_KNOWN and len(line) <= MAX_KNOWN_LENGTH:
            self[line] = start
        return start


class _KnownLines(dict[str, "_Field"]):
    """Header lines that were read before: most of an answer's are those of the one before it.

    A line that is not known is read, strictly; threads that do so at once come to the same.
    """

    def __missing__(self, line: str) -> _Field:
        if HEADER_LINE.fullmatch(line) is None:
            raise ValueError(line)
        name, _, value = line.partition(":")
        field = name.lower(), value.strip(" \t")
        if len(line) <= MAX_KNOWN_LENGTH:
            if len(self) >= MAX_KNOWN:
                self.clear()
            self[line] = field
        return field


_KNOWN_STARTS = _KnownStarts()
_field_of = _KnownLines().__getitem__


def _joined(fields: Iterable[_Field]) -> dict[str, str]:
    """Return the fields by name, the values of repeated ones joined with a comma."""
    headers: dict[str, str] = {}
    for name, value in fields:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _malformed(text: str, endpoint: str) -> ProtocolError:
    first, *lines = text.split("\r\n")
    if STATUS_LINE.fullmatch(first) is None:
        return ProtocolError(f"{endpoint} does not speak HTTP: it sent {first[:KEPT_TEXT]!r}", endpoint=endpoint)
    bad = next(line for line in lines if HEADER_LINE.fullmatch(line) is None)
    return ProtocolError(f"{endpoint} sent a malformed header line {bad[:KEPT_TEXT]!r}", endpoint=endpoint)


def _is_chunked(coding: str, endpoint: str) -> bool:
    if coding.lower() == "identity":
        return False
    if coding.lower() != "chunked":
        raise ProtocolError(f"{endpoint} uses an unknown transfer coding {coding!r}", endpoint=endpoint)
    return True


def _content_length(headers: dict[str, str], endpoint: str) -> int | None:
    text = headers.get("content-length")
    if text is None:
        return None
    if text.isdigit() and text.isascii() and len(text) <= MAX_LENGTH_DIGITS:
        return int(text)
    values = {value.strip() for value in text.split(",")}
    value = values.pop()
    if values or LENGTH.fullmatch(value) is None:
        raise ProtocolError(f"{endpoint} sent a bad Content-Length {text!r}", endpoint=endpoint)
    return int(value)


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
        if self._poll is None or self.is_tls:
            return self._end > self._start or self.has_news()
        return self._end > self._start or bool(self._poll(0))

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

        Raises EarlyResponse: the server speaks already, or hung up; its answer may be readable. RequestTimeoutError:
        the server stopped taking bytes.
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

        Raises EarlyResponse: it answered instead; its answer waits to be read. TransportError: it hung up.
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

        Raises StaleConnectionError: a kept connection ended without a byte. ProtocolError: so did a new one.
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

        Raises StaleConnectionError: a kept connection ended without a byte. ProtocolError, RequestTimeoutError: no
        complete, valid head arrived.
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

        The count is -1 when nothing has arrived, and 0 at the end of the connection. A ``head`` that was read before is
        returned as it is.

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

    def take(self, most: int) -> bytes:
        """Return the next bytes of the buffer, which is emptied of them."""
        start = self._start
        self._start = end = min(start + most, self._end)
        return self._view[start:end].tobytes() if end > start else b""

    def next_head(self, method: str) -> Head | None:
        """Return the final head in the buffer, or None while it is not whole; 1xx heads before it are dropped.

        Raises ProtocolError: it is not a valid head.
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
