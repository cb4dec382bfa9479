"""The body of a response, read to its end, and the request with which a node is probed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from s3pool.body import EMPTY_BODY
from s3pool.errors import ProtocolError, TransportError
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
