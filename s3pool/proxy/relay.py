"""Answers of nodes on their way to the client: fields, framing, and bodies that continue from another node.

Long bodies, those of requests too, are moved by the kernel from one socket to the other, by way of a pipe.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import compress

from s3pool.body import Sink
from s3pool.errors import S3PoolError, TransportError
from s3pool.model import BodyStream, Response
from s3pool.pool.http1 import Head, NodeConnection, ResponseBody
from s3pool.proxy.errors import ClientGoneError
from s3pool.proxy.request import HOP_BY_HOP, RequestHead, RequestRecord, connection_words
from s3pool.proxy.stream import ClientStream

BLANKS = b" \t\r\n"
MAX_DOCUMENT_BYTES = 64 * 1024  # a longer one is passed on as it is
LOCATION = re.compile(rb"(<Location>)(https?://)?([^<>/]*)(/[^<>]*)?(?=</Location>)")
BLOCK_BYTES = 128 * 1024
FIRST_BLOCK_BYTES = 16 * 1024  # doubled while the client takes blocks: slow ones by the hundred stay small
WHOLE_BYTES = 16 * 1024  # a body up to this leaves with its head, in one send
NO_BODY_STATUS = frozenset({204, 304})
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
LAST_CHUNK = b"0\r\n\r\n"
EVERYDAY_OPTIONS = ("", "keep-alive", "close")  # of a Connection field; these name no other field
OK, PARTIAL = 200, 206
PIPE_BYTES = 1 << 20  # the size pays: with the default of 64 KiB nothing is gained
F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)  # Linux; in the module from Python 3.10 on
SPLICE_FROM_BYTES = 1 << 20  # for less a pipe costs more than it saves
CAN_SPLICE = hasattr(os, "splice")

Resume = Callable[[int, int, str], Response]


class LocationRewriter:
    """A CompleteMultipartUpload response with the proxy's host in its Location; blanks before it pass at once."""

    def __init__(self, stream: BodyStream, *, node: str, scheme: str, host: str) -> None:
        self._stream = stream
        self._node, self._scheme, self._host = node.encode(), scheme.encode(), host.encode()
        self._ready = b""
        self._is_passing = False

    def readinto(self, buffer: memoryview) -> int:
        """Fill part of the buffer; 0 at the end."""
        if not self._ready and not self._is_passing:
            count = self._stream.readinto(buffer)
            if not buffer[:count].tobytes().strip(BLANKS):
                return count
            self._ready = self._read_document(buffer[:count].tobytes())
            self._is_passing = True
        if not self._ready:
            return self._stream.readinto(buffer)
        count = min(len(self._ready), len(buffer))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _read_document(self, document: bytes) -> bytes:
        block = memoryview(bytearray(MAX_DOCUMENT_BYTES))
        while len(document) <= MAX_DOCUMENT_BYTES:
            count = self._stream.readinto(block)
            if not count:
                return LOCATION.sub(self._relocated, document)
            document += block[:count]
        return document

    def _relocated(self, found: re.Match[bytes]) -> bytes:
        opening, scheme, host, rest = found.groups(b"")
        if host.lower() != self._node.lower():
            return found[0]
        return opening + (self._scheme + b"://" if scheme else b"") + self._host + rest

    def close(self) -> None:
        """End the exchange."""
        self._stream.close()


def with_location(said: Response, *, scheme: str, host: str) -> Response:
    """Return an answer in which the new object's address is this proxy's, not the node's."""
    stream = LocationRewriter(said._stream, node=said.endpoint.netloc, scheme=scheme, host=host)
    return Response(said.status, said.headers, stream, endpoint=said.endpoint, reason=said.reason, lines=said.lines)


@lru_cache(1024)
def _are_told(names: tuple[str, ...]) -> list[bool]:
    """Return which of a node's fields a client is told: not where the proxy has its own, or the node's is gone."""
    return [name not in HOP_BY_HOP and name != "content-length" for name in names]


class Relay:
    """One answer; ``write`` sends it to its end, if it breaks off by ``resume(first, last, etag)`` of another node."""

    def __init__(
        self,
        stream: ClientStream,
        record: RequestRecord,
        head: RequestHead,
        response: Response,
        *,
        keep_alive: bool,
        is_eager: bool,
    ) -> None:
        self._stream = stream
        self._record = record
        self._head = head
        self._first = response  # what the client is told of the answer, whoever sends its end
        self._response = response
        self.resume: Resume | None = None
        self.resumes_left = 0
        self._eager = is_eager
        self._etag = response.headers.get("etag", "")
        self._sent = 0
        self._buffer: memoryview | None = None
        self.is_begun = False  # something was sent to the client
        self.has_body = head.method != "HEAD" and response.status not in NO_BODY_STATUS
        is_open_ended = self.has_body and _length(response) is None
        self._is_chunked = is_open_ended and not head.is_http_1_0
        self.keep_alive = keep_alive and not (is_open_ended and head.is_http_1_0)

    def write(self) -> None:
        """Send head and body.

        Raises ClientGoneError: the client hung up. TransportError: the node did, and nothing was sent yet, or too much
        to begin anew; ``is_begun`` tells which.
        """
        self._let_break_off()
        if not self.has_body:
            self._start()
        elif self._response.body is not None:
            self._start(self._framed(memoryview(self._response.body)), LAST_CHUNK if self._is_chunked else b"")
        elif self._response.length is not None and self._response.length <= WHOLE_BYTES and not self._eager:
            self._write_whole(self._response.length)
        else:
            self._write_streamed()

    def _start(self, *blocks: bytes | memoryview) -> None:
        self.is_begun = True
        self._record.first_byte_s = time.monotonic() - self._record.started
        first = self._first
        head = answer_head(
            self._head, first, length=_length(first), keep_alive=self.keep_alive, chunked=self._is_chunked
        )
        self._stream.write(head, *blocks)

    def _write_whole(self, length: int) -> None:
        """Send a small body when all of it is there: until then another node can still give it."""
        body = memoryview(bytearray(length))
        while self._sent < length and (count := self._fill(body[self._sent :])):
            self._sent += count
        self._start(body[: self._sent])

    def _write_streamed(self) -> None:
        if self._eager:
            self._start()
        # The first block takes what came with the node's head, so that a pipe can move the rest.
        while self._write_block() and (self._is_chunked or not self._splice()):
            continue
        if not self.is_begun:
            self._start()
        if self._is_chunked:
            self._stream.write(LAST_CHUNK)

    def _write_block(self) -> bool:
        """Send the next block; False when there was none."""
        buffer = self._buffer
        if buffer is None:
            size = min(self._response.length or FIRST_BLOCK_BYTES, FIRST_BLOCK_BYTES)
            buffer = self._buffer = memoryview(bytearray(size))
        count = self._fill(buffer)
        if not count:
            return False
        block = self._framed(buffer[:count])
        if self.is_begun:
            self._stream.write(block)
        else:
            self._start(block)
        self._sent += count
        if count == len(buffer) < BLOCK_BYTES:
            self._buffer = memoryview(bytearray(2 * count))
        return True

    def _splice(self) -> bool:
        """Let the kernel move the rest of a large body; False when some of it must be read."""
        left = (self._first.length or 0) - self._sent
        if left < SPLICE_FROM_BYTES or self._stream.is_tls or self._stream.pace is not None or not CAN_SPLICE:
            return False
        made = open_pipe()
        if made is None:
            return False
        self._buffer = None
        with made as pipe:
            while left:
                count = self._move(pipe)
                if not count:
                    return False
                self._sent += count
                left -= count
        return True

    def _move(self, pipe: Pipe) -> int:
        try:
            count = pipe.move(self._response, self._stream.fileno(), self._stream.outgoing.judge)
        except TransportError as exc:
            self._go_on_elsewhere(exc)
            return 0
        except OSError as exc:
            raise ClientGoneError(f"the client does not take its answer: {exc}") from exc
        self._stream.bytes_out += count
        return count

    def _framed(self, block: memoryview) -> bytes | memoryview:
        if not self._is_chunked:
            return block
        return b"".join((b"%x\r\n" % len(block), block, b"\r\n")) if block else b""

    def _fill(self, buffer: memoryview) -> int:
        while True:
            try:
                return self._response.readinto(buffer)
            except TransportError as exc:
                self._go_on_elsewhere(exc)

    def _go_on_elsewhere(self, broken: TransportError) -> None:
        """Get the rest of the same object from another node, or give up with the first error."""
        span = _span(self._first)
        if span is None or self.resume is None or not self.resumes_left or not self._etag:
            raise broken
        first, last, total = span
        self.resumes_left -= 1
        self._response.close()
        try:
            response = self.resume(first + self._sent, last, self._etag)
        except ClientGoneError:
            raise
        except S3PoolError as exc:
            raise broken from exc
        if not self._is_the_rest(response, (first + self._sent, last, total)):
            response.close()
            raise broken
        self._record.resumes += 1
        self._response = response
        self._let_break_off()

    def _let_break_off(self) -> None:
        if self.resume is not None and self.resumes_left and self._etag:
            self._response.may_break_off()

    def _is_the_rest(self, response: Response, span: tuple[int, int, int]) -> bool:
        return (
            response.status == PARTIAL
            and response.headers.get("etag", "") == self._etag
            and _span(response) == span
            and response.length == span[1] - span[0] + 1
        )

    def close(self) -> None:
        """Close the response; an unread body costs the node's connection."""
        self._response.close()


def _length(response: Response) -> int | None:
    return len(response.body) if response.body is not None else response.length


def _span(response: Response) -> tuple[int, int, int] | None:
    """Return the byte range and total size of a 200 or 206 response; None if unknown."""
    if response.length is None or not response.length:
        return None
    if response.status == OK:
        return 0, response.length - 1, response.length
    match = CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if response.status != PARTIAL or match is None:
        return None
    return int(match[1]), int(match[2]), int(match[3])


def answer_head(
    head: RequestHead, said: Response | Head, *, length: int | None, keep_alive: bool, chunked: bool
) -> bytes:
    """Return the response head: the node's end-to-end fields and our framing; ``length`` is None if unknown."""
    headers, lines = said.headers, said.lines
    # The names of a head as it was read stand in the order of its lines, unless one is repeated.
    in_order = isinstance(said, Head) and len(headers) == len(lines)
    kept: Iterable[str] = compress(lines, _are_told(tuple(headers))) if in_order else filter(_is_told, lines)
    if headers.get("connection", "").lower() not in EVERYDAY_OPTIONS:
        gone = connection_words([headers["connection"]])
        kept = filter(lambda line: line.partition(":")[0].lower() not in gone, [*kept])
    text = "\r\n".join((f"HTTP/1.1 {said.status} {said.reason}", *kept, _framing(head, said, length, chunked=chunked)))
    if not keep_alive:
        text += "Connection: close\r\n"
    elif head.is_http_1_0:
        text += "Connection: keep-alive\r\n"
    return f"{text}\r\n".encode("utf-8", "surrogateescape")


def _is_told(line: str) -> bool:
    return _are_told((line.partition(":")[0].lower(),))[0]


def _framing(head: RequestHead, said: Response | Head, length: int | None, *, chunked: bool) -> str:
    """Return the line that frames the body, nothing where there is none to frame."""
    if chunked:
        return "Transfer-Encoding: chunked\r\n"
    named = said.headers.get("content-length")
    if head.method == "HEAD" or said.status in NO_BODY_STATUS:
        return f"Content-Length: {named}\r\n" if head.method == "HEAD" and named is not None else ""
    return "" if length is None else f"Content-Length: {length}\r\n"


class Pipe:
    """A pipe in the middle of a transfer; a context that closes it. Empty between two moves."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        try:
            fcntl.fcntl(self._in, F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            # Above the user's limit for pipes: slower, and right all the same.
            return

    def move(
        self, response: Response, target: int, judge: Callable[[float, int], None] = lambda _seconds, _count: None
    ) -> int:
        """Move what is there of a body to a blocking socket; 0 when this body cannot be moved so.

        Return the bytes that left for the target, at most a pipe full. ``judge`` is told how long the target took for
        how many.

        Raises TransportError: the node broke off; nothing of this move got to the target. OSError: the target takes no
        more.
        """
        body = response._stream
        if response._ahead or not isinstance(body, ResponseBody) or not _is_spliceable(body):
            return 0
        try:
            count = self._fill(body._connection, body._left)
        except TransportError as exc:
            body._end(reusable=False)
            body._failed(exc)
            raise
        left = count
        while left:
            started = time.monotonic()
            sent = os.splice(self._out, target, left)
            judge(time.monotonic() - started, sent)
            left -= sent
        _note_taken(body, count)
        return count

    def push(self, fill: Callable[[int, int], int], connection: Sink, left: int) -> int:
        """Send what ``fill(pipe, limit)`` puts into the pipe to a node; give the number of bytes.

        Raises EarlyResponse: the server speaks already, or hung up; its answer may be readable. RequestTimeoutError:
        the server stopped taking bytes.
        """
        if not isinstance(connection, NodeConnection):
            raise TypeError("only a plain connection takes bytes from a pipe")
        count = fill(self._in, min(left, PIPE_BYTES))
        connection.send_by(lambda waiting: os.splice(self._out, connection.fileno(), waiting), count)
        return count

    def _fill(self, connection: NodeConnection, left: int) -> int:
        count = connection.receive_by(os.splice, connection.fileno(), self._in, min(left, PIPE_BYTES))
        if not count:
            raise connection.protocol_error(f"closed the connection {left} bytes early")
        return count

    def close(self) -> None:
        """Close both ends."""
        os.close(self._out)
        os.close(self._in)

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def open_pipe() -> Pipe | None:
    """Return a pipe; None when the process has no descriptors left."""
    try:
        return Pipe()
    except OSError:
        return None


def takes_splice(sink: Sink) -> bool:
    """Return whether bytes may go to a sink past this process: a plain connection without a limit of speed."""
    return CAN_SPLICE and isinstance(sink, NodeConnection) and sink.is_bare


def _is_spliceable(body: ResponseBody) -> bool:
    """Return whether all that is to come is plain bytes on the socket, and how many is known."""
    connection = body._connection
    is_bare = connection.is_bare and not connection.has_rest
    return is_bare and not body._is_done and body._left > 0 and not body._head.is_chunked


def _note_taken(body: ResponseBody, count: int) -> None:
    body._left -= count
    if not body._left:
        body._end(reusable=body._head.keep_alive)
