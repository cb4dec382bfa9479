"""Send a request to the pool: pick, sign, send, check, report, and the one retry loop."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping

from s3pool import __version__
from s3pool.errors import (
    ConnectError,
    NoEndpointError,
    RequestTimeoutError,
    S3Error,
    S3PoolError,
    ThrottledError,
    TransportError,
    UsageError,
)
from s3pool.model import Endpoint, Request, Response
from s3pool.pool.balancer import LoadBalancer, Node
from s3pool.pool.breaker import CONNECT_FAILURE_WEIGHT
from s3pool.pool.exchange import Exchange, PatienceOver, begin_exchange, first_answer, may_be_doubled
from s3pool.pool.retry import (
    RETRY_AFTER_CAP_S,
    SKEWED_CODES,
    RetryPolicy,
    failure_kind,
    is_illness,
    may_repeat,
)
from s3pool.pool.stats import EndpointStats
from s3pool.pool.wire import StaleConnectionError

logger = logging.getLogger(__name__)

Sign = Callable[[Request, Endpoint, float], Mapping[str, str]]
Check = Callable[[Response], None]
BuildHead = Callable[[Request, Endpoint, float], bytes]
THROTTLE_PAUSE_S = 1.0  # a node that says SlowDown without Retry-After is left alone this long
SKEW_WARN_S = 60.0
MAX_PARKED = 2  # so many silent nodes beside one more: a slow store must not get every request many times
UNUSUAL_LATENCIES = 20.0  # a node that answered before is overdue after so many of its usual latencies


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
        self.clock_offset_s = 0.0  # the servers' clock minus ours, learned from a refusal
        self._sign = sign
        self._build_head = head  # builds the whole request head, in place of sign
        self._policy = policy or RetryPolicy()
        self._read_timeout_s = read_timeout_s
        self._patience_s = patience_s
        self._now = now
        self._wall_clock = wall_clock
        self._sleep = sleep
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
        return _Call(self, request, check, only).run()

    def stats(self) -> tuple[EndpointStats, ...]:
        """Give what happened per endpoint since the start."""
        return tuple(node.counters.snapshot(str(node.endpoint), node.breaker.state) for node in self.balancer.nodes)

    def close(self) -> None:
        """Close all idle connections."""
        for node in self.balancer.nodes:
            node.connections.close()

    def learn_clock(self, server_time: float) -> None:
        """Take the servers' clock for signing, and warn once."""
        offset_s = server_time - self._wall_clock()
        if not self.clock_offset_s and abs(offset_s) > SKEW_WARN_S:
            logger.warning(
                "this machine's clock differs from the storage's by %.0f s; signing with the storage's time", offset_s
            )
        self.clock_offset_s = offset_s


class _Call:
    """One request on its way through attempts; lives in one thread."""

    def __init__(self, transport: Transport, request: Request, check: Check, only: Endpoint | None) -> None:
        self._t = transport
        self._request = request
        self._check = check
        self._only = transport._node_of[only] if only is not None else None
        self._tried: list[Node] = []  # nodes of the current round, oldest first
        self._parked: list[Exchange] = []  # asked, but silent beyond patience
        self._attempts = 0
        self._counted = 0  # attempts that used up the retry budget
        self._skew_learned = False
        self._last_errors: dict[str, TransportError] = {}

    def run(self) -> Response:
        started = self._t._now()
        deadline = started + self._t._policy.deadline_for(self._request)
        try:
            while True:
                try:
                    return self._attempt()
                except S3PoolError as exc:
                    self._after_failure(exc, deadline)
        finally:
            self._drop_parked(winner=None)

    # -- one attempt -------------------------------------------------------------------------

    def _attempt(self) -> Response:
        node = self._pick()
        is_retry = self._attempts > 0
        self._attempts += 1
        self._tried.append(node)
        node.counters.add_request(is_retry=is_retry)
        started = self._t._now()
        exchange = self._exchange(node)
        response = exchange.response
        self._log_answer(exchange.node, response.status, started)
        try:
            self._check(response)
        except BaseException as exc:
            response.close()
            if isinstance(exc, S3PoolError):
                self._report(exchange.node, exc)
            raise
        exchange.node.breaker.report_success()
        return response

    def _log_answer(self, node: Node, status: int, started: float) -> None:
        request, seconds = self._request, self._t._now() - started
        logger.debug("%s %s at %s: %d in %.3f s", request.op, request.resource, node.endpoint, status, seconds)

    def _pick(self) -> Node:
        if self._only is not None:
            return self._only
        if all(node in self._tried for node in self._t.balancer.in_service):
            self._tried.clear()
        affinity = self._request.resource
        return self._t.balancer.pick(exclude=self._tried, affinity=affinity)

    def _exchange(self, node: Node) -> Exchange:
        try:
            exchange = self._ask(node)
        except PatienceOver as over:
            self._parked = over.waiting
            logger.debug("%s: silent for %g s, asking another node as well", node.endpoint, self._t._patience_s)
            return self._exchange_elsewhere()
        except S3PoolError as exc:
            self._report(node, exc)
            raise
        self._drop_parked(winner=exchange)
        return exchange

    def _ask(self, node: Node) -> Exchange:
        """Send to the node and wait, beside it, for those that are silent so far."""
        greeting_s = None if self._is_alone else self._t._patience_s
        patience_s = self._patience_for(node)
        while True:
            newest = begin_exchange(node, self._request, self._head, greeting_s=greeting_s)
            try:
                winner = first_answer([newest, *self._parked], self._read_timeout(), patience_s=patience_s)
            except StaleConnectionError:
                # The server closed an idle connection while the request was on its way: nobody's fault.
                if not self._request.replayable:
                    raise
                self._request.body.rewind()
                continue
            if winner is not newest:
                newest.abandon()
            return winner

    def _exchange_elsewhere(self) -> Exchange:
        """Ask the next node beside the silent ones, or wait for these when all were asked."""
        if all(node in self._tried for node in self._t.balancer.in_service):
            return self._last_hope()
        node = self._pick()
        self._attempts += 1
        self._tried.append(node)
        node.counters.add_request(is_retry=True)
        return self._exchange(node)

    def _last_hope(self) -> Exchange:
        silent = list(self._parked)
        try:
            exchange = first_answer(silent, self._read_timeout(), patience_s=None)
        except TransportError as exc:
            self._parked = []
            for parked in silent:
                self._report(parked.node, exc)
            raise
        self._drop_parked(winner=exchange)
        return exchange

    @property
    def _is_alone(self) -> bool:
        return self._only is not None or len(self._t.balancer.nodes) == 1

    def _patience_for(self, node: Node) -> float | None:
        """Give the seconds after which the node is not waited for alone; None waits to the end.

        A node that answered before gets many times its usual latency, so that a store that
        is slow throughout is not asked everything twice.
        """
        if self._is_alone or len(self._parked) >= MAX_PARKED or not may_be_doubled(self._request):
            return None
        return max(self._t._patience_s, UNUSUAL_LATENCIES * node.latency_s if node.is_proven else 0.0)

    def _read_timeout(self) -> float:
        return self._t._read_timeout_s * self._request.slowness

    def _head(self, node: Node) -> bytes:
        """Build the request head. Sign after picking: the Host header is part of the signature."""
        now = self._t._wall_clock() + self._t.clock_offset_s
        if self._t._build_head is not None:
            return self._t._build_head(self._request, node.endpoint, now)
        return build_head(self._request, self._t._sign(self._request, node.endpoint, now))

    # -- after a failure ---------------------------------------------------------------------

    def _report(self, node: Node, error: S3PoolError) -> None:
        if isinstance(error, ThrottledError):
            pause_s = THROTTLE_PAUSE_S if error.retry_after_s is None else min(error.retry_after_s, RETRY_AFTER_CAP_S)
            node.cooling_until = self._t._now() + pause_s
            node.lose_share()
            node.counters.add_throttled()
            node.breaker.report_success()
        elif is_illness(error):
            node.counters.add_failure(failure_kind(error), str(error))
            node.breaker.report_failure(CONNECT_FAILURE_WEIGHT if isinstance(error, ConnectError) else 1)
            node.lose_share()
        elif isinstance(error, S3Error):
            node.breaker.report_success()
        if isinstance(error, TransportError):
            self._last_errors[str(node.endpoint)] = error
            logger.debug("%s %s: %s", self._request.op, self._request.resource, error)

    def _after_failure(self, error: S3PoolError, deadline: float) -> None:
        """Prepare the next attempt, or raise what the caller is to know."""
        if not may_repeat(error, self._request) or (self._request.body.length and not self._can_rewind()):
            raise self._final(error) from error
        is_free = self._is_free_failover(error)
        if not is_free:
            self._counted += 1
        if self._counted > self._t._policy.retries or self._t._now() >= deadline:
            raise self._final(error) from error
        if isinstance(error, S3Error) and error.code in SKEWED_CODES:
            self._learn_clock(error)
            return
        if not is_free:
            self._back_off(error)
        logger.info("%s; trying again (attempt %d)", error, self._attempts + 1)

    def _is_free_failover(self, error: S3PoolError) -> bool:
        """Say whether going on costs nothing: nothing was sent and a node was never tried."""
        return (
            self._t._policy.retries > 0
            and self._only is None
            and isinstance(error, ConnectError)
            and self._attempts < len(self._t.balancer.nodes)
        )

    def _can_rewind(self) -> bool:
        if not self._request.body.rewindable:
            return False
        self._request.body.rewind()
        return True

    def _learn_clock(self, error: S3Error) -> None:
        if self._skew_learned or error.server_time is None:
            raise error
        self._skew_learned = True
        self._tried.clear()
        self._t.learn_clock(error.server_time)

    def _back_off(self, error: S3PoolError) -> None:
        wait_s = self._t._policy.backoff_s(self._counted)
        if isinstance(error, ThrottledError) and error.retry_after_s is not None and self._is_alone:
            wait_s = max(wait_s, min(error.retry_after_s, RETRY_AFTER_CAP_S))
        elif isinstance(error, ThrottledError):
            wait_s = max(wait_s, min(self._t.balancer.cooldown_s(), RETRY_AFTER_CAP_S))
        self._t._sleep(wait_s)

    def _drop_parked(self, *, winner: Exchange | None) -> None:
        for exchange in self._parked:
            if exchange is winner:
                continue
            exchange.abandon()
            if winner is not None:
                late = RequestTimeoutError(
                    f"{exchange.node.endpoint} sent nothing for {self._t._patience_s:g} s",
                    endpoint=str(exchange.node.endpoint),
                )
                exchange.node.counters.add_failure(failure_kind(late), str(late))
                exchange.node.breaker.report_failure(1 if exchange.node.is_proven else CONNECT_FAILURE_WEIGHT)
        self._parked = []

    def _final(self, error: S3PoolError) -> S3PoolError:
        """Say what was tried, on what, and what every node answered."""
        if not isinstance(error, TransportError) or isinstance(error, NoEndpointError):
            return error
        what = f"{self._request.op} {self._request.resource}".strip()
        if not may_repeat(error, self._request):
            acted = "; it may have been carried out all the same" if error.sent else ""
            return _reworded(error, f"{what}: {error}{acted}")
        details = "; ".join(dict.fromkeys(str(e) for e in self._last_errors.values()))
        attempts = "1 attempt" if self._attempts == 1 else f"{self._attempts} attempts"
        return NoEndpointError(
            f"{what}: no endpoint gave an answer in {attempts}: {details}; check the endpoints with s3pool ping",
            endpoint=error.endpoint,
            sent=any(e.sent for e in self._last_errors.values()),
        )


def _reworded(error: TransportError, message: str) -> TransportError:
    return type(error)(message, endpoint=error.endpoint, sent=error.sent)


_CONTROL = re.compile(r"[\r\n\0]")
_DEFAULT_HEADERS = {"accept-encoding": "identity", "user-agent": f"s3pool/{__version__}"}


def build_head(request: Request, headers: Mapping[str, str]) -> bytes:
    """Give the request head as it goes on the wire, with Content-Length where there is a body.

    Raises:
        UsageError: a header value holds CR, LF or NUL, which would end the header early.
    """
    lines = [f"{request.method} {request.target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"{name}: {value}" for name, value in _DEFAULT_HEADERS.items() if name not in headers]
    if request.body.length or request.method in {"PUT", "POST"}:
        lines.append(f"content-length: {request.body.length}")
    bad = next((line for line in lines if _CONTROL.search(line)), None)
    if bad is not None:
        raise UsageError(f"the header {bad.split(':', 1)[0]!r} holds a line break or NUL; S3 cannot store that")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
