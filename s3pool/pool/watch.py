"""How long an exchange waits for its node: one that is silent, known to be ill, or much slower than others."""

from __future__ import annotations

import time

from s3pool.errors import RequestTimeoutError
from s3pool.model import Request, Response
from s3pool.pool.http1 import Head, NodeConnection
from s3pool.pool.node import CLOSED, Node
from s3pool.pool.speed import BULK_BYTES, longest_s
from s3pool.pool.tcp import TIMER_SLACK_S, NodeSilentError


class Watch:
    """The state of an exchange, and when it leaves its node; the connection's watcher."""

    __slots__ = ("_lost", "connection", "head", "is_over", "is_patient", "is_resumable", "is_sent", "node",
                 "received_before", "request", "response", "sent_before", "started")  # fmt: skip

    node: Node
    connection: NodeConnection
    request: Request
    head: Head | None
    response: Response | None
    is_over: bool
    is_sent: bool  # all of the request has left
    is_patient: bool  # no slowness makes it leave
    is_resumable: bool  # the rest of the answer's body may come from elsewhere
    started: float
    sent_before: int
    received_before: int
    _lost: NodeSilentError | None

    def on_quiet(self, quiet_s: float) -> None:
        """Have a node probed that is silent. Raises NodeSilentError: it is known to be ill, and has siblings."""
        node = self.node
        now = time.monotonic()
        is_endless = self.request.is_endless
        is_long = quiet_s + TIMER_SLACK_S >= node.delays.suspect_s
        if is_long and now - node.heard_at >= node.delays.suspect_s and not is_endless:
            node.suspect()
        if quiet_s >= node.delays.tell_s and node.on_long_wait is not None and not is_endless:
            node.on_long_wait(self.request, f"{node.endpoint} has sent nothing for {quiet_s:.0f} s")
        self.request.look_for_sender()
        if (error := self.silence(now, quiet_s)) is not None:
            raise error
        self._leave_crawling(quiet_s)

    def on_slow(self) -> None:
        """Raise NodeSilentError for a body that crawls and may go elsewhere."""
        self._leave_crawling()

    def _leave_crawling(self, quiet_s: float = 0.0) -> None:
        node, is_read = self.node, self.head is not None
        if self.is_patient or not self._may_leave or not node.has_sibling or not self.is_crawling(quiet_s):
            return
        crawling = [other for other in node.siblings if any(each.is_crawling() for each in tuple(other.waiting))]
        if 2 * (len(crawling) + 1) > len(node.siblings) + 1:
            return  # the store is slow, and no node of it
        seconds = self.connection.waited_s + quiet_s
        node.speed.set(self._moved / seconds, is_read=is_read)
        node.on_loss()
        message = f"{node.endpoint} moved {self._moved} bytes in {seconds:.1f} s, much slower than others"
        raise NodeSilentError(message, endpoint=str(node.endpoint), sent=self.is_sent)

    @property
    def _may_leave(self) -> bool:
        if self.head is not None:
            return self.is_resumable
        body = self.request.body
        return body.rewindable and (self.request.may_come_late or not self.is_sent)

    @property
    def _moved(self) -> int:
        connection = self.connection
        return connection.bytes_sent - self.sent_before + connection.bytes_received - self.received_before

    def is_crawling(self, quiet_s: float = 0.0) -> bool:
        """Return whether a body takes many times as long as at other nodes."""
        waited_s, is_read = self.connection.waited_s + quiet_s, self.head is not None
        length = self.request.body.length if self.head is None else self.head.length or 0
        if waited_s <= self.node.delays.crawl_s or length < BULK_BYTES:
            return False
        others = (sibling.speed for sibling in self.node.siblings)
        return waited_s > self.node.delays.crawl_s + longest_s(self._moved, others, is_read=is_read)

    def on_end(self) -> None:
        """Raise the reason for which this exchange was interrupted, if it was."""
        if self._lost is not None:
            raise self._lost

    def silence(self, now: float, quiet_s: float) -> NodeSilentError | None:
        """Return the error with which to leave a node that is silent; None to go on waiting."""
        node, request, delays = self.node, self.request, self.node.delays
        if self._lost is not None or not node.has_sibling:
            return self._lost
        unheard_s = now - node.heard_at
        has_head = self.head is not None
        if node.breaker.state is CLOSED:
            is_stalled = has_head and quiet_s >= delays.stall_s and not request.is_endless
            if not is_stalled or (node.breaker.is_sound and unheard_s < delays.stall_s):
                return None
        elif not has_head and not request.leaves_at_once and unheard_s < delays.hold_s:
            return None
        what = "stalled in its answer" if has_head else "sent nothing" if self.is_sent else "took no bytes"
        message = f"{node.endpoint} {what} for {quiet_s:.1f} s"
        return NodeSilentError(message, endpoint=str(node.endpoint), sent=self.is_sent)

    def interrupt(self) -> None:
        """Wake the thread that waits for the head, if the node is to be left; from any thread."""
        now = time.monotonic()
        quiet_s = now - self.connection.moved_at
        # A body, and a request that is being sent, look themselves each second.
        if self.response is not None or not self.is_sent or quiet_s + TIMER_SLACK_S < self.node.delays.suspect_s:
            return
        if (error := self.silence(now, quiet_s)) is not None:
            self._lost = error  # first this, then the look: whoever ends it does so the other way round
            if not self.is_over:
                self.connection.interrupt()

    def late_error(self) -> RequestTimeoutError:
        """Return the error of a node that has sent nothing since the request left."""
        endpoint, seconds = self.node.endpoint, time.monotonic() - self.started
        return RequestTimeoutError(f"{endpoint} sent nothing for {seconds:.1f} s", endpoint=str(endpoint))
