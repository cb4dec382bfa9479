"""The body of one answer, read off its wire as the head says that it is framed."""

from __future__ import annotations

import re
from collections.abc import Callable

from s3pool.errors import ProtocolError, TransportError
from s3pool.pool.heads import Head
from s3pool.pool.wire import Wire

MOST_TRAILERS = 64


class WireBody:
    """The body of one response; it ends the exchange when its last byte was read.

    ``finish(reusable)`` is called exactly once: with True when the connection can carry
    another request. ``failed(error)`` is told when the body breaks off.
    """

    __slots__ = ("_failed", "_finish", "_head", "_is_done", "_left", "_wire")

    def __init__(
        self, wire: Wire, head: Head, *, finish: Callable[[bool], None], failed: Callable[[TransportError], None]
    ) -> None:
        self._wire = wire
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
        count = self._wire.readinto(buffer[:limit], more_must_come=self._left > 0)
        if self._left < 0:
            if not count:
                self._end(reusable=False)
            return count
        if not count:
            raise ProtocolError(
                f"{self._wire.endpoint} closed the connection {self._left} bytes early", endpoint=self._wire.endpoint
            )
        self._left -= count
        if self._left == 0:
            if not self._head.is_chunked:
                self._end(reusable=self._head.keep_alive)
            elif self._wire.read_line():
                raise ProtocolError(f"{self._wire.endpoint} sent a malformed chunk", endpoint=self._wire.endpoint)
        return count

    def _next_chunk(self) -> bool:
        line = self._wire.read_line().split(b";", 1)[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,16}", line):
            raise ProtocolError(f"{self._wire.endpoint} sent a malformed chunk size", endpoint=self._wire.endpoint)
        self._left = int(line, 16)
        if self._left:
            return True
        for _ in range(MOST_TRAILERS):  # they carry nothing that s3pool uses
            if not self._wire.read_line():
                break
        else:
            raise ProtocolError(f"{self._wire.endpoint} sent too many trailer fields", endpoint=self._wire.endpoint)
        self._end(reusable=self._head.keep_alive)
        return False

    def _end(self, *, reusable: bool) -> None:
        if not self._is_done:
            self._is_done = True
            self._finish(reusable)

    def close(self) -> None:
        """End the exchange; a connection with unread bytes is dropped."""
        self._end(reusable=False)
