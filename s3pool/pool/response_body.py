"""The body of a response, read to its end or moved by the kernel, and the request with which a node is probed."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable

from s3pool.body import EMPTY_BODY, Sink
from s3pool.errors import ProtocolError, TransportError
from s3pool.model import Response
from s3pool.pool.http1 import Head, NodeConnection
from s3pool.pool.tcp import EarlyResponse

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

        Raises ProtocolError: the connection ended early. RequestTimeoutError: it stalled.
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

    Raises TransportError: no complete HTTP answer arrived.
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


PIPE_BYTES = 1 << 20  # the size pays: with the default of 64 KiB nothing is gained
F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", 1031)  # Linux; in the module from Python 3.10 on
SPLICE_FROM_BYTES = 1 << 20  # for less a pipe costs more than it saves
IS_POSSIBLE = hasattr(os, "splice")


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
        endpoint = connection.endpoint
        count = connection.receive_by(os.splice, connection.fileno(), self._in, min(left, PIPE_BYTES))
        if not count:
            raise ProtocolError(f"{endpoint} closed the connection {left} bytes early", endpoint=endpoint)
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
    return IS_POSSIBLE and isinstance(sink, NodeConnection) and sink.is_bare


def _is_spliceable(body: ResponseBody) -> bool:
    """Return whether all that is to come is plain bytes on the socket, and how many is known."""
    connection = body._connection
    is_bare = connection.is_bare and not connection.has_rest
    return is_bare and not body._is_done and body._left > 0 and not body._head.is_chunked


def _note_taken(body: ResponseBody, count: int) -> None:
    body._left -= count
    if not body._left:
        body._end(reusable=body._head.keep_alive)
