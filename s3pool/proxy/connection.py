"""One client connection, from its first request to its last."""

from __future__ import annotations

import logging
import time

from s3pool.proxy.access_log import RequestRecord
from s3pool.proxy.errors import ClientGoneError, S3ErrorResponse
from s3pool.proxy.request_handler import Host, RequestHandler
from s3pool.proxy.stream import ClientStream

logger = logging.getLogger(__name__)

NEXT_REQUEST_S = (
    0.5  # a thread waits so long for a client's next request before it leaves the waiting to the event loop
)
EXCESS_S = 2.0  # a connection beyond the bound has this long for its one request


class Connection:
    """One client; in one thread at a time, or in the event loop.

    ``is_excess`` says that it is beyond the bound of connections, and gets one answer.
    """

    def __init__(self, stream: ClientStream, peer: str, host: Host, *, is_excess: bool = False) -> None:
        self.stream = stream
        self.peer = peer
        self.host = host
        self.is_excess = is_excess
        self.is_idle = False  # it waits for a request; read by other threads
        self.idle_since = time.monotonic()
        self.is_over = False  # all answers were given
        self.is_watched = False  # the event loop's own note
        self.goes_on = True  # another request may come
        self.started: RequestHandler | None = None  # a request that the event loop leaves to a thread
        self._leaves_thread = False

    def serve(self) -> None:
        """Answer requests until either side has enough, or the event loop can wait for the next one.

        ``goes_on`` tells which.
        """
        self._leaves_thread = False
        started, self.started = self.started, None
        try:
            self.goes_on = started is None or self._finish(started)
            while self.goes_on and not self._leaves_thread:
                self.goes_on = self._serve_next()
        except ClientGoneError as exc:
            logger.debug("%s: %s", self.peer, exc)
            self.goes_on = False
            self.stream.close()
            return
        if not self.goes_on:
            self.is_over = True
            self.stream.hang_up()

    def _serve_next(self) -> bool:
        host, stream = self.host, self.stream
        settings = host.gateway.settings
        # In this order: who drains first says so, and then wakes whoever is idle.
        self.is_idle = True
        if host.is_draining and not stream.buffered:
            return False
        may_leave = self._may_leave_thread() and not self.is_excess
        idle_s = min(settings.idle_timeout, NEXT_REQUEST_S) if may_leave else settings.idle_timeout
        head_s = settings.header_timeout
        if self.is_excess:
            idle_s = head_s = EXCESS_S
        bytes_before = stream.bytes_in - stream.buffered
        try:
            block = stream.read_head(idle_s=idle_s, head_s=head_s)
        except S3ErrorResponse as error:
            return self._finish(self.handler(b"", bytes_before, error=error))
        if block is None:
            self._leaves_thread = may_leave and stream.is_silent
            return self._leaves_thread
        self.is_idle = False
        return self._finish(self.handler(block, bytes_before))

    def handler(self, block: bytes, bytes_before: int, *, error: S3ErrorResponse | None = None) -> RequestHandler:
        """Return a handler for a request head, or for one that could not be read."""
        handler = RequestHandler(
            self.stream, self.host, block, RequestRecord(self.peer, time.monotonic()), bytes_before
        )
        handler.is_excess, handler.error = self.is_excess, error
        return handler

    def _may_leave_thread(self) -> bool:
        return self.host.has_loop and not self.stream.is_tls and not self.stream.buffered

    def _finish(self, handler: RequestHandler) -> bool:
        try:
            goes_on = handler.serve()
        except ClientGoneError:
            handler.note_client_gone()
            raise
        finally:
            handler.report()
            self.idle_since = time.monotonic()
        self._leaves_thread = handler.is_plain and self._may_leave_thread()
        return goes_on
