"""The pool behind one verb: send a request, to whichever node, until it is answered."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from s3pool import __version__
from s3pool.errors import UsageError
from s3pool.model import Endpoint, Request, Response
from s3pool.pool.balancer import LoadBalancer, Node
from s3pool.pool.call import Call, Check
from s3pool.pool.exchange import Exchange, may_be_doubled
from s3pool.pool.patience import answer_patience_s
from s3pool.pool.retry import RetryPolicy
from s3pool.pool.stats import EndpointStats

if TYPE_CHECKING:
    from s3pool.pool.inflight import InFlight

logger = logging.getLogger(__name__)

Sign = Callable[[Request, Endpoint, float], Mapping[str, str]]
BuildHead = Callable[[Request, Endpoint, float], bytes]
SKEW_WARN_S = 60.0


class Transport:
    """The pool behind one verb. Safe for many threads; starts none."""

    def __init__(
        self,
        balancer: LoadBalancer,
        sign: Sign,
        *,
        policy: RetryPolicy | None = None,
        read_timeout_s: float = 60.0,
        patience_s: float = 3.0,
        head: BuildHead | None = None,
        now: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.balancer = balancer
        self.endpoints = tuple(node.endpoint for node in balancer.nodes)
        self._knows_lanes = False
        self._ops_on_kept: set[str] = set()  # that were answered over a kept connection
        self.clock_offset_s = 0.0  # the servers' clock minus ours, learned from a refusal
        self._sign = sign
        self._build_head = head  # builds the whole request head, in place of sign
        self.policy = policy or RetryPolicy()
        self.read_timeout_s = read_timeout_s
        self.patience_s = patience_s
        self.now = now
        self._wall_clock = wall_clock
        self.sleep = sleep
        self._node_of = {node.endpoint: node for node in balancer.nodes}

    def send(self, request: Request, check: Check, *, only: Endpoint | None = None) -> Response:
        """Give the first answer that passes the check; the caller closes it.

        ``check`` raises for an error answer and may preload the body, so that a body cut
        short is asked for again. ``only`` keeps every attempt on one endpoint.

        Raises:
            S3Error: the storage answered with an error that a repetition cannot mend.
            NoEndpointError: no endpoint gave an answer. TransportError: the answer was lost
            and the request must not be repeated. IntegrityError: its body changed.
        """
        return Call(self, request, check, only).finish()

    def call(self, request: Request, check: Check, *, only: Endpoint | None = None) -> Call:
        """Give the same as send() in steps, for who has many requests under way in one thread."""
        return Call(self, request, check, only)

    def in_flight(self) -> InFlight:
        """Give a place for requests that one thread has under way at once."""
        from s3pool.pool.inflight import InFlight

        return InFlight(self)

    def patience_with(self, exchange: Exchange) -> float:
        """Give the seconds after which an answer is not waited for alone, or not any more."""
        request = exchange.request
        if len(self.balancer.nodes) > 1 and may_be_doubled(request):
            return answer_patience_s(exchange.node, self.balancer.nodes, full_s=self.patience_s)
        return self.read_timeout_s * request.slowness

    def node_of(self, endpoint: Endpoint) -> Node:
        """Give the node of one of the pool's endpoints."""
        return self._node_of[endpoint]

    def signing_time(self) -> float:
        """Give the servers' time, in seconds since 1970."""
        return self._wall_clock() + self.clock_offset_s

    def head_for(self, request: Request, endpoint: Endpoint) -> bytes:
        """Build the request head. Sign after picking: the Host header is part of the signature."""
        return self.head_at(request, endpoint, self.signing_time())

    def head_at(self, request: Request, endpoint: Endpoint, now: float) -> bytes:
        """Build the request head as of a time."""
        if self._build_head is not None:
            return self._build_head(request, endpoint, now)
        return build_head(request, self._sign(request, endpoint, now))

    def stats(self) -> tuple[EndpointStats, ...]:
        """Give what happened per endpoint since the start."""
        return tuple(node.counters.snapshot(str(node.endpoint), node.breaker.state) for node in self.balancer.nodes)

    def close(self) -> None:
        """Close all idle connections."""
        for node in self.balancer.nodes:
            node.connections.close()

    def is_trying_kept(self, op: str) -> bool:
        """Say whether nobody knows yet how fast such requests are answered over kept connections."""
        return not self._knows_lanes and op not in self._ops_on_kept

    def note_kept(self, op: str) -> None:
        """Note that such a request was answered over a kept connection."""
        self._ops_on_kept.add(op)

    def widen_lanes(self) -> None:
        """Spread requests over more connections from now on: these are slow one by one."""
        self._knows_lanes = True
        for node in self.balancer.nodes:
            node.connections.widen_lanes()

    def drop_idle(self) -> None:
        """Close all idle connections; new ones are made and kept as ever."""
        for node in self.balancer.nodes:
            node.connections.drop_idle()

    def learn_clock(self, server_time: float) -> None:
        """Take the servers' clock for signing, and warn once."""
        offset_s = server_time - self._wall_clock()
        if not self.clock_offset_s and abs(offset_s) > SKEW_WARN_S:
            logger.warning(
                "this machine's clock differs from the storage's by %.0f s; signing with the storage's time", offset_s
            )
        self.clock_offset_s = offset_s


_CONTROL = re.compile(r"[\r\n\0]")
DEFAULT_HEADERS = {"accept-encoding": "identity", "user-agent": f"s3pool/{__version__}"}


def build_head(request: Request, headers: Mapping[str, str]) -> bytes:
    """Give the request head as it goes on the wire, with Content-Length where there is a body.

    Raises:
        UsageError: a header value holds CR, LF or NUL, which would end the header early.
    """
    lines = [f"{request.method} {request.target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()]]
    for name, value in DEFAULT_HEADERS.items():
        if name not in headers:
            lines.append(f"{name}: {value}")
    length = request.body.length
    if length or request.method in {"PUT", "POST"}:
        lines.append(f"content-length: {length}")
    text = "\r\n".join(lines)
    if _has_more_than_line_ends(text, len(lines) - 1):
        bad = next(line for line in lines if _CONTROL.search(line))
        raise UsageError(f"the header {bad.split(':', 1)[0]!r} holds a line break or NUL; S3 cannot store that")
    return f"{text}\r\n\r\n".encode("utf-8", "surrogateescape")


def _has_more_than_line_ends(text: str, count: int) -> bool:
    return text.count("\r") != count or text.count("\n") != count or "\0" in text
