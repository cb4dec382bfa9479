"""Bodies that the kernel moves between two sockets, by way of a pipe."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable

from s3pool.body import Sink
from s3pool.errors import TransportError
from s3pool.model import Response
from s3pool.pool.http1 import NodeConnection, ResponseBody

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
