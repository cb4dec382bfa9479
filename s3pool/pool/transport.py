"""The pool behind one verb: send a request, to whichever node, until it is answered."""

from __future__ import annotations

import functools
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from s3pool import __version__
from s3pool.errors import NoEndpointError, TransportError, UsageError
from s3pool.model import Endpoint, Request, Response
from s3pool.pool.attempt import Attempt, Check
from s3pool.pool.balancer import LoadBalancer
from s3pool.pool.exchange import Exchange
from s3pool.pool.node import Delays, EndpointStats, Node
from s3pool.pool.retry import AttemptContext, KeptConnections, RetryPolicy
from s3pool.pool.tcp import QUIET_S, wait_readable

if TYPE_CHECKING:
    from s3pool.pool.window import Window

logger = logging.getLogger(__name__)

Sign = Callable[[Request, Endpoint, float], Mapping[str, str]]
BuildHead = Callable[[Request, Endpoint, float], bytes]
SKEW_WARN_S = 60.0


class Transport:
    """The pool behind one verb. Safe for many threads; starts one only to probe a node that fell silent."""

    def __init__(
        self,
        balancer: LoadBalancer,
        sign: Sign,
        *,
        policy: RetryPolicy | None = None,
        read_timeout_s: float = 60.0,
        patience_s: float = 3.0,
        head: BuildHead | None = None,
        new_keys: Callable[[float, bool], bool] | None = None,
        adopt_region: Callable[[str], bool] | None = None,
        delays: Delays | None = None,
        on_end: Callable[[Attempt], None] | None = None,
        now: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.balancer, self._sign = balancer, sign
        self.clock_offset_s = 0.0  # the servers' clock minus ours, learned from a refusal
        self.adopt_region = adopt_region  # for signing; False for one that was known all along
        self._build_head = head  # builds the whole request head, in place of sign
        self._now, self._sleep = now, sleep
        self.wall_clock = wall_clock
        self._has_told = self._has_told_region = False  # that nothing is heard; that the region is another one
        self.unreachable_hint = ""  # told once when no node can be connected to
        self._adopt(balancer.nodes, delays)
        self.context = AttemptContext(
            policy=policy or RetryPolicy(),
            balancer=balancer,
            build_head=self.head_for,
            learn_clock=self.learn_clock,
            learn_region=self.learn_region,
            read_timeout_s=read_timeout_s,
            patience_s=patience_s,
            kept=KeptConnections(),
            on_unreachable=self._note_unreachable,
            on_end=on_end,
            new_keys=new_keys,
            now=now,
        )

    def _adopt(self, nodes: Sequence[Node], delays: Delays | None) -> None:
        for node in nodes:
            node.on_suspicion = node.on_suspicion or suspect
            node.on_long_wait = self._note_long_wait
            node.delays = delays or node.delays

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Return the endpoints that the pool has now."""
        return tuple(node.endpoint for node in self.balancer.nodes)

    def send(self, request: Request, check: Check, *, only: Endpoint | None = None) -> Response:
        """Return the first answer that passes the check; the caller closes it.

        ``check`` raises for an error answer and may preload the body, so that a body cut short is asked for again.
        ``only`` keeps every try on one endpoint.

        Raises S3Error: no repetition mends what the storage answered. NoEndpointError: no endpoint gave an answer.
        TransportError: the answer was lost, and the request must not be repeated. IntegrityError: its body changed.
        """
        return self.finish(self.attempt(request, check, only=only))

    def attempt(self, request: Request, check: Check, *, only: Endpoint | None = None) -> Attempt:
        """Return a request that has not started; finish() brings it to its end."""
        return Attempt(self.context, request, check, self.node_of(only) if only is not None else None)

    def finish(self, attempt: Attempt) -> Response:
        """Wait for an attempt, which goes on from where it stands; errors as send() has them."""
        try:
            while not attempt.is_over:
                self._advance(attempt)
        except BaseException:
            attempt.abandon()
            raise
        if attempt.error is not None:
            raise attempt.error
        if attempt.response is None:
            raise AssertionError("an attempt that is over has an answer or an error")
        return attempt.response

    def _advance(self, attempt: Attempt) -> None:
        """Wait for the next thing that happens to an attempt, and let it happen."""
        exchanges = attempt.exchanges
        if not exchanges:
            if attempt.pause_s is not None:
                self._pause(attempt.request, attempt.pause_s)
            if attempt.history.tries:
                attempt.request.look_for_sender()
            attempt.start(wait=True)
        elif len(exchanges) == 1:
            self._wait_for_one(attempt, exchanges[0])
        else:
            self._wait_for_first(attempt)

    def _pause(self, request: Request, seconds: float) -> None:
        while seconds > QUIET_S:
            self._sleep(QUIET_S)
            request.look_for_sender()
            seconds -= QUIET_S
        self._sleep(seconds)

    def _wait_for_one(self, attempt: Attempt, exchange: Exchange) -> None:
        left_s = attempt.deadline - self._now()
        try:
            # A receive that waits, not a poll before it: half the cost of a small request.
            if exchange.head is None and not exchange.begins_within(left_s):
                attempt.on_deadline()
                return
            exchange.read(self._timeout_s(attempt))
        except TransportError as exc:
            attempt.on_failure(exchange, exc)
            return
        attempt.on_head(exchange)

    def _wait_for_first(self, attempt: Attempt) -> None:
        by_connection = {exchange.connection: exchange for exchange in attempt.exchanges}
        left_s = min(attempt.deadline - self._now(), QUIET_S)
        ready = wait_readable(list(by_connection), max(left_s, 0.0))
        for connection in ready:
            exchange = by_connection[connection]
            try:
                exchange.read(1.0 if connection.is_tls else self._timeout_s(attempt))
            except TransportError as exc:
                attempt.on_failure(exchange, exc)
                continue
            attempt.on_head(exchange)
            return
        if not ready:
            attempt.look()
            if attempt.exchanges and self._now() >= attempt.deadline:
                attempt.on_deadline()

    def _timeout_s(self, attempt: Attempt) -> float:
        return self.context.read_timeout_s * attempt.request.timeout_factor

    def _note_long_wait(self, request: Request, why: str) -> None:
        """Warn once that no node has answered for long, and name the request that waits."""
        now = self._now()
        if self._has_told or any(now - node.heard_at < node.delays.tell_s for node in self.balancer.nodes):
            return
        self._has_told = True
        logger.warning("still waiting for %s %s: %s", request.op, request.resource, why)

    def _note_unreachable(self) -> None:
        hint, self.unreachable_hint = self.unreachable_hint, ""
        if hint:
            logger.warning("%s", hint)

    def window(self) -> Window:
        """Return a place for requests that one thread has under way at once."""
        from s3pool.pool.window import Window  # most commands have no use for it

        return Window(self.context)

    def node_of(self, endpoint: Endpoint) -> Node:
        """Return the node of one of the pool's endpoints, also when it has left the pool.

        Raises NoEndpointError: it left long ago.
        """
        for node in (*self.balancer.nodes, *reversed(self.balancer.former)):
            if node.endpoint == endpoint:
                return node
        raise NoEndpointError(f"{endpoint} has left the pool", endpoint=str(endpoint), sent=False)

    def head_for(self, request: Request, endpoint: Endpoint) -> bytes:
        """Build the request head. Sign after picking: the Host header is part of the signature."""
        now = self.wall_clock() + self.clock_offset_s
        if self._build_head is not None:
            return self._build_head(request, endpoint, now)
        return build_head(request, self._sign(request, endpoint, now))

    def stats(self) -> tuple[EndpointStats, ...]:
        """Return what happened per endpoint since the start."""
        rows = {node: node.breaker.state for node in self.balancer.nodes}
        rows |= {node: "gone" for node in self.balancer.former if node.counters.requests}
        return tuple(
            node.counters.snapshot(str(node.endpoint), state, node.breaker.ejections) for node, state in rows.items()
        )

    def close(self) -> None:
        """Close all idle connections."""
        for node in self.balancer.nodes:
            node.connections.close()

    def drop_idle(self) -> None:
        """Close all idle connections; new ones are made and kept as ever."""
        for node in self.balancer.nodes:
            node.connections.drop_idle()

    def learn_clock(self, server_time: float) -> None:
        """Take the servers' clock for signing, and warn once."""
        offset_s = server_time - self.wall_clock()
        if not self.clock_offset_s and abs(offset_s) > SKEW_WARN_S:
            logger.warning(
                "this machine's clock differs from the storage's by %.0f s; signing with the storage's time", offset_s
            )
        self.clock_offset_s = offset_s

    def learn_region(self, region: str) -> bool:
        """Take the storage's region for signing, and warn once; False when it was that already."""
        if self.adopt_region is None or not self.adopt_region(region):
            return False
        if not self._has_told_region:
            self._has_told_region = True
            logger.warning("the storage's region is %s: signing for it; --region %s spares the refusal", region, region)
        return True


def suspect(node: Node) -> None:
    """Have a node probed at once, in a thread of its own."""
    from s3pool.pool.health import probe_suspect  # needed only when a node falls silent

    probe_suspect(node)


_CONTROL = re.compile(r"[\r\n\0]")
DEFAULT_LINES = {
    "accept-encoding": "accept-encoding: identity\r\n",
    "user-agent": f"user-agent: s3pool/{__version__}\r\n",
}


def build_head(request: Request, headers: Mapping[str, str]) -> bytes:
    """Return the request head as it goes on the connection, with Content-Length where there is a body.

    Raises UsageError: a header value holds CR, LF or NUL, which would end the header early.
    """
    # Two thirds of the time of a list of lines: one head is made for each small object.
    template, count = _template(tuple(headers))
    text = f"{request.method} {request.target} HTTP/1.1\r\n{template % tuple(headers.values())}"
    if text.count("\r") != count or text.count("\n") != count or "\0" in text:
        bad = next((name for name, value in headers.items() if _CONTROL.search(name + value)), "request line")
        raise UsageError(f"the header {bad!r} holds a line break or NUL; S3 cannot store that")
    length = request.body.length
    end = f"content-length: {length}\r\n\r\n" if length or request.method in {"PUT", "POST"} else "\r\n"
    return (text + end).encode("utf-8", "surrogateescape")


@functools.lru_cache(maxsize=64)
def _template(names: tuple[str, ...]) -> tuple[str, int]:
    """Return the header lines of requests with these names, a place left for each value; and the lines of a head."""
    lines = [name.replace("%", "%%") + ": %s\r\n" for name in names]
    lines += [line for name, line in DEFAULT_LINES.items() if name not in names]
    return "".join(lines), 1 + len(lines)
