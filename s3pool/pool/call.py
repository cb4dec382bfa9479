"""One request on its way through the pool: attempts, and the one retry loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from s3pool.errors import (
    ConnectError,
    ProtocolError,
    S3Error,
    S3PoolError,
    ThrottledError,
    TransportError,
)
from s3pool.model import Endpoint, Request, Response
from s3pool.pool.balancer import Node
from s3pool.pool.breaker import ANYBODY, CONNECT_FAILURE_WEIGHT
from s3pool.pool.connection import AllBusy
from s3pool.pool.exchange import Exchange, PatienceOver, begin_exchange, first_answer, may_be_doubled
from s3pool.pool.patience import MAX_HASTY, answer_patience_s, connect_patience_s, is_early
from s3pool.pool.retry import (
    RETRY_AFTER_CAP_S,
    SKEWED_CODES,
    failure_kind,
    final_error,
    is_illness,
    may_add_load,
    may_repeat,
)
from s3pool.pool.wire import StaleConnectionError

if TYPE_CHECKING:
    from s3pool.pool.transport import Transport

logger = logging.getLogger(__name__)

Check = Callable[[Response], None]
THROTTLE_PAUSE_S = 1.0  # a node that says SlowDown without Retry-After is left alone this long
MAX_PARKED = 2  # so many silent nodes beside one more: a slow store must not get every request many times


class Call:
    """One request on its way through attempts; lives in one thread.

    ``begin`` sends the first attempt and does not wait for the answer, so that one thread
    can have many requests under way. Then ``first_result`` waits for it, and ``finish``
    goes on from there, with more attempts where they help. A call that was begun is ended by
    one of these two, or abandoned.
    """

    __slots__ = (
        "_attempts",
        "_begun",
        "_check",
        "_counted",
        "_deadline",
        "_failed",
        "_haste_s",
        "_hasty",
        "_is_alone",
        "_last_errors",
        "_only",
        "_parked",
        "_picked",
        "_request",
        "_skew_learned",
        "_t",
        "_tried",
    )

    def __init__(self, transport: Transport, request: Request, check: Check, only: Endpoint | None) -> None:
        self._t = transport
        self._request = request
        self._check = check
        self._only = transport.node_of(only) if only is not None else None
        self._is_alone = only is not None or len(transport.balancer.nodes) == 1
        self._tried: list[Node] = []  # nodes of the current round, oldest first
        self._parked: list[Exchange] = []  # asked, but silent beyond patience
        self._begun: Exchange | None = None  # the first attempt, sent by begin()
        self._picked: Node | None = None  # of which the next attempt is to be
        self._failed: S3PoolError | None = None  # how the last attempt ended
        self._attempts = 0
        self._counted = 0  # attempts that used up the retry budget
        self._hasty = 0  # connections that were given up early, which costs no retry
        self._haste_s = 0.0  # what the last one had, if it was one of these
        self._skew_learned = False
        self._last_errors: dict[str, TransportError] = {}
        self._deadline = transport.now() + transport.policy.deadline_for(request)

    def begin(self, *, wait: bool = True) -> bool:
        """Send the first attempt; how it fares is told later.

        Without ``wait``, False says that nothing was sent because all connections to the
        node are in use: who holds some of them must give them back first.
        """
        try:
            self._begun = self._start(wait=wait)
        except AllBusy:
            return False
        except S3PoolError as exc:
            self._failed = exc
        return True

    def adopt(self, node: Node, exchange: Exchange | None) -> None:
        """Go on from a first attempt that somebody else began, or could not begin, on a node that was picked."""
        if exchange is None:
            self._picked = node  # its circuit may have granted this one request
            return
        exchange.request = self._request
        if exchange.head is not None and exchange.response is None:
            exchange.accept(exchange.head)
        self._begun = exchange
        self._attempts = 1
        self._tried.append(node)

    def adopt_failure(self, node: Node, error: S3PoolError) -> None:
        """Go on from a first attempt that failed in somebody else's hands."""
        self._attempts = 1
        self._tried.append(node)
        self._report(node, error)
        self._failed = error

    @property
    def begun(self) -> Exchange | None:
        """Give the attempt that was sent and not looked at since."""
        return self._begun

    def give_up_waiting(self) -> None:
        """Ask another node next, beside the one that was begun with, or instead of it.

        One that has sent the head already is waited for, as ever.
        """
        begun = self._begun
        if begun is None or begun.response is not None:
            return
        self._begun = None
        if self._patience_for(begun.node) is not None:
            self._parked.append(begun)
            return
        begun.abandon()
        self._failed = late = begun.late_error()
        self._report(begun.node, late)

    def first_result(self, *, timely: bool = True) -> Response | None:
        """Give the answer to what begin() sent; None when finish() has to go on from a failure.

        Not ``timely``, an answer that is there already is not taken for the node's latency.
        """
        begun = self._begun
        if begun is not None and not timely and begun.wire.is_readable():
            begun.was_waiting = True
        if self._failed is None:
            try:
                return self._attempt()
            except S3PoolError as exc:
                self._failed = exc
        return None

    def finish(self) -> Response:
        """Give the first answer that passes the check; errors as Transport.send() has them."""
        try:
            while True:
                if self._failed is not None:
                    failed, self._failed = self._failed, None
                    self._after_failure(failed)
                try:
                    return self._attempt()
                except S3PoolError as exc:
                    self._failed = exc
        finally:
            self._drop_parked(winner=None)

    def abandon(self) -> None:
        """Give up what is under way; harmless after the end."""
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.abandon()
        self._drop_parked(winner=None)

    # -- one attempt -------------------------------------------------------------------------

    def _attempt(self) -> Response:
        newest, self._begun = self._begun, None
        started = self._t.now()
        try:
            exchange = self._answered(newest or self._start(wait=not self._parked))
        except AllBusy:  # the silent ones may have all connections that there are
            exchange = self._last_hope()
        response = exchange.taken()
        if logger.isEnabledFor(logging.DEBUG):
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

    def _start(self, *, fresh: bool = False, wait: bool = True) -> Exchange:
        """Pick a node and send it the request, over a new connection when ``fresh``."""
        node = self._pick()
        greeting_s = None if self._is_alone else self._t.patience_s
        connect_s = self._connect_patience_for(node)
        try:
            exchange = begin_exchange(
                node,
                self._request,
                self._head,
                greeting_s=greeting_s,
                connect_timeout_s=connect_s,
                fresh=fresh,
                wait=wait,
            )
        except S3PoolError as exc:
            self._count(node)
            self._haste_s = (connect_s or 0.0) if isinstance(exc, ConnectError) and exc.is_late else 0.0
            self._hasty += self._haste_s > 0
            self._report(node, exc)
            raise
        self._haste_s = 0.0
        self._count(node)
        return exchange

    def _count(self, node: Node) -> None:
        node.counters.add_request(is_retry=self._attempts > 0)
        self._attempts += 1
        self._tried.append(node)

    def _answered(self, newest: Exchange) -> Exchange:
        """Wait for the newest exchange and, beside it, for those that are silent so far."""
        try:
            exchange = self._first_answer(newest)
        except PatienceOver as over:
            self._parked = over.waiting
            logger.debug("%s is silent, asking another node as well", newest.node.endpoint)
            return self._answered_elsewhere()
        except S3PoolError as exc:
            self._parked = [parked for parked in self._parked if not parked.is_over]
            self._report(newest.node, exc)
            raise
        if exchange.wire.exchanges > 1 and not self._is_alone:
            self._t.note_kept(self._request.op)
        if self._parked:
            self._learn_of_lanes(exchange)
            self._drop_parked(winner=exchange)
        return exchange

    def _learn_of_lanes(self, winner: Exchange) -> None:
        """Use more connections where kept ones are silent and a new one is answered."""
        silent = [parked for parked in self._parked if parked.wire.exchanges and parked.node.is_proven]
        if silent and winner not in self._parked and winner.wire.exchanges == 1:
            self._t.widen_lanes()

    def _first_answer(self, newest: Exchange) -> Exchange:
        node = newest.node
        patience_s = self._patience_for(node, is_kept=newest.wire.exchanges > 0)
        while True:
            try:
                winner = first_answer([newest, *self._parked], self._read_timeout(), patience_s=patience_s)
            except StaleConnectionError:
                # The server closed an idle connection while the request was on its way: nobody's fault.
                if not self._request.replayable:
                    raise
                self._request.body.rewind()
                newest = begin_exchange(node, self._request, self._head, greeting_s=None)
                continue
            if winner is not newest:
                newest.abandon()
            return winner

    def _answered_elsewhere(self) -> Exchange:
        """Ask the next node beside the silent ones, or wait for these when all were asked."""
        if all(node in self._tried for node in self._t.balancer.in_service):
            return self._last_hope()
        try:
            # Where the connection is what makes requests wait, a new one of any node is answered at once.
            newest = self._start(fresh=True, wait=False)
        except AllBusy:  # by those who may wait for this thread
            return self._last_hope()
        self._request.note_retry()
        return self._answered(newest)

    def _log_answer(self, node: Node, status: int, started: float) -> None:
        request, seconds = self._request, self._t.now() - started
        logger.debug("%s %s at %s: %d in %.3f s", request.op, request.resource, node.endpoint, status, seconds)

    def _pick(self) -> Node:
        if self._only is not None:
            return self._only
        picked, self._picked = self._picked, None
        if picked is not None:
            return picked
        if self._tried and all(node in self._tried for node in self._t.balancer.in_service):
            self._tried.clear()
        return self._t.balancer.pick(exclude=self._tried, affinity=self._request.resource)

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

    def _patience_for(self, node: Node, *, is_kept: bool = False) -> float | None:
        """Give the seconds after which the node is not waited for alone; None waits to the end.

        A node that answered before gets many times its usual latency, so that a store that
        is slow throughout is not asked everything twice. It may be one that makes each of its
        connections wait: then another node, or another connection, answers at once.
        """
        if self._is_alone or len(self._parked) >= MAX_PARKED or not may_be_doubled(self._request):
            return None
        trying = is_kept and self._t.is_trying_kept(self._request.op)
        return answer_patience_s(node, self._t.balancer.nodes, full_s=self._t.patience_s, is_trying_kept=trying)

    def _connect_patience_for(self, node: Node) -> float | None:
        """Give the seconds after which a connection is given up for another node's; None for all it may have.

        Only reads: a node that cannot be had for a moment must not get the next write all the less.
        """
        if self._is_alone or node.is_proven:
            return None
        if self._hasty >= MAX_HASTY or not self._t.policy.retries or not may_be_doubled(self._request):
            return None
        full_s = node.connections.settings.connect_timeout_s
        patience_s = connect_patience_s(node, self._t.balancer.nodes, full_s=full_s)
        return patience_s if patience_s < full_s else None

    def _read_timeout(self) -> float:
        return self._t.read_timeout_s * self._request.slowness

    def _head(self, node: Node) -> bytes:
        return self._t.head_for(self._request, node.endpoint)

    # -- after a failure ---------------------------------------------------------------------

    def _is_only_doubted(self, node: Node, seconds: float) -> bool:
        """Pass over a node that was silent for a moment, once, instead of calling it ill."""
        return is_early(seconds, full_s=self._t.patience_s) and node.doubt(self._t.now())

    def _report(self, node: Node, error: S3PoolError) -> None:
        if isinstance(error, ThrottledError):
            pause_s = THROTTLE_PAUSE_S if error.retry_after_s is None else min(error.retry_after_s, RETRY_AFTER_CAP_S)
            node.cooling_until = self._t.now() + pause_s
            node.lose_share()
            node.counters.add_throttled()
            node.breaker.report_success()
        elif is_illness(error) and not (self._haste_s and self._is_only_doubted(node, self._haste_s)):
            node.counters.add_failure(failure_kind(error), str(error))
            is_gone = isinstance(error, ConnectError) and not self._haste_s
            node.breaker.report_failure(CONNECT_FAILURE_WEIGHT if is_gone else 1, asker=self._asker_behind(error))
            node.lose_share()
        elif isinstance(error, S3Error):
            node.breaker.report_success()
        if isinstance(error, TransportError):
            self._last_errors[str(node.endpoint)] = error
            logger.debug("%s %s: %s", self._request.op, self._request.resource, error)

    def _asker_behind(self, error: S3PoolError) -> str:
        """Return who may be the cause of a failure: of a malformed answer who asked, of all others nobody known."""
        asker = self._request.asker
        may_be = isinstance(error, ProtocolError) or (asker == ANYBODY and not isinstance(error, ConnectError))
        return asker if may_be else ""

    def _after_failure(self, error: S3PoolError) -> None:
        """Prepare the next attempt, or raise what the caller is to know."""
        if not may_repeat(error, self._request) or (self._request.body.length and not self._can_rewind()):
            raise self._final(error) from error
        is_free = self._is_free_failover(error)
        if not is_free:
            self._counted += 1
        if self._counted > self._t.policy.retries or self._t.now() >= self._deadline:
            raise self._final(error) from error
        if may_add_load(error):
            self._request.note_retry()
        if isinstance(error, S3Error) and error.code in SKEWED_CODES:
            self._learn_clock(error)
            return
        if not is_free:
            self._back_off(error)
        logger.info("%s; trying again (attempt %d)", error, self._attempts + 1)

    def _is_free_failover(self, error: S3PoolError) -> bool:
        """Say whether going on costs nothing: nothing was sent, and a node was never tried or not for long."""
        return self._haste_s > 0 or (
            self._t.policy.retries > 0
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
        wait_s = self._t.policy.backoff_s(self._counted)
        if isinstance(error, ThrottledError) and error.retry_after_s is not None and self._is_alone:
            wait_s = max(wait_s, min(error.retry_after_s, RETRY_AFTER_CAP_S))
        elif isinstance(error, ThrottledError):
            wait_s = max(wait_s, min(self._t.balancer.cooldown_s(), RETRY_AFTER_CAP_S))
        self._t.sleep(wait_s)

    def _drop_parked(self, *, winner: Exchange | None) -> None:
        for exchange in self._parked:
            if exchange is winner:
                continue
            exchange.abandon()
            if winner is not None:
                self._report_late(exchange)
        self._parked = []

    def _report_late(self, exchange: Exchange) -> None:
        node = exchange.node
        seconds = time.monotonic() - exchange.started
        if self._is_only_doubted(node, seconds):
            return
        node.lose_share()
        is_hasty = seconds < self._t.patience_s
        if node.is_proven and is_hasty:
            return  # slower than others, which is no illness
        late = exchange.late_error()
        node.counters.add_failure(failure_kind(late), str(late))
        weight = 1 if node.is_proven or is_hasty else CONNECT_FAILURE_WEIGHT
        node.breaker.report_failure(weight, asker=self._asker_behind(late))

    def _final(self, error: S3PoolError) -> S3PoolError:
        return final_error(error, self._request, attempts=self._attempts, last_errors=self._last_errors.values())
