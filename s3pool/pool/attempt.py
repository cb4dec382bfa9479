"""One request on its way through the pool, from the first node to an answer or an error.

An ``Attempt`` holds retry, hedging and reporting, and never waits itself. A driver waits for
it: ``Transport.send`` for one, ``Window`` for many in one thread.

    picked --start--> sent --head--> body --> done
      ^                 |  silent      |
      |                 v              v
      |               hedged --------------> done
      +--- failed, but may be repeated ---> failed
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from s3pool.errors import ConnectError, RequestTimeoutError, S3Error, S3PoolError, TransportError
from s3pool.model import Request, Response
from s3pool.pool.connections import PoolExhausted
from s3pool.pool.exchange import DEADLINE_FACTOR, Answer, CollectedResponse, Exchange, NeedsThread, begin_exchange
from s3pool.pool.node import Node, Totals
from s3pool.pool.retry import (
    MAX_HEDGED,
    NO_HISTORY,
    SKEWED_CODES,
    AttemptContext,
    State,
    Tries,
    final_error,
    hedge_delay_s,
    may_add_load,
    may_repeat,
    report_failure,
    report_lost_race,
)
from s3pool.pool.tcp import NodeSilentError, StaleConnectionError

logger = logging.getLogger(__name__)

Check = Callable[[Response], None]
BUSY_PAUSE_S = 0.02  # before it is looked again for a free connection
CHECK_S = 0.25  # before a hedge is tried again for which there was no free connection

# Looking a member up in its class takes as long as a method call.
PICKED, SENT, HEDGED, DONE, FAILED = State.PICKED, State.SENT, State.HEDGED, State.DONE, State.FAILED


class Attempt:
    """One request through the pool; used by one thread at a time, and brought to its end, or abandoned.

    on_deadline() is to be called at the ``deadline``, unless one of ``exchanges`` becomes readable before.
    """

    __slots__ = ("_check", "_context", "_node", "_pin", "_resume_at", "error", "exchanges", "history", "pause_s",
                 "request", "response", "started", "state", "tries")  # fmt: skip

    def __init__(self, context: AttemptContext, request: Request, check: Check, pin: Node | None = None) -> None:
        self._context = context
        self._check = check
        self._pin = pin  # the only node that may be asked
        self._node: Node | None = None  # that the next try is to be of
        self._resume_at = 0.0
        self.pause_s: float | None = None  # before the next try
        self.request = request
        self.exchanges: list[Exchange] = []  # under way, the newest last
        self.history = NO_HISTORY
        self.state = PICKED
        self.started = 0.0
        self.response: Response | None = None
        self.error: Exception | None = None
        self.tries = None if context.on_end is None else Tries(context.on_end)

    def __repr__(self) -> str:
        nodes = ", ".join(str(exchange.node.endpoint) for exchange in self.exchanges)
        where = f" at {nodes}" if nodes else ""
        what = f"{self.request.op} {self.request.resource}"
        return f"<Attempt {what}: {self.state.value}{where}, {self.history.tries} tries>"

    # -- for the driver ------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Return whether there is an answer, or an error that no repetition mends."""
        return self.state is DONE or self.state is FAILED

    @property
    def deadline(self) -> float:
        """Return when on_deadline() is due, in seconds of the context's clock."""
        if not self.exchanges:
            return self._resume_at if self.state is PICKED else math.inf
        newest = self.exchanges[-1]
        delay_s = self.hedge_delay_s(newest)
        limit = self._limit(newest)
        return limit if delay_s is None else min(limit, max(newest.connection.moved_at + delay_s, self._resume_at))

    def fileno(self) -> int:
        """Return the descriptor of the newest exchange; -1 when none is under way."""
        return self.exchanges[-1].connection.fileno() if self.exchanges else -1

    def start(self, *, wait: bool = True) -> bool:
        """Send the request to the next node; False when all connections to it are in use and ``wait`` is False."""
        self.started = self.started or self._context.now()
        self._context.tell_long_wait(self.request, self.history, since=self.started)
        self.pause_s = None
        node = self._pick()
        try:
            exchange = self._begin(node, wait=wait)
        except PoolExhausted:
            self._node = node  # its circuit may have granted this one request
            self._resume_at = self._context.now() + BUSY_PAUSE_S
            return False
        except S3PoolError as exc:
            self._settle_failure(exc)
        except Exception as exc:  # noqa: BLE001 - such as a file that cannot be read: it is for the caller
            self._fail(exc)
        else:
            self._add(exchange)
        return True

    def pick(self, node: Node) -> None:
        """Let the next try be of a node whose turn was taken already."""
        self._node = node

    def adopt(self, exchange: Exchange) -> None:
        """Go on from a first try that was sent, and counted, by somebody else."""
        self.started = exchange.started
        exchange.request = self.request  # whoever sent it may have known less of it
        self.history = self._context.first_try(exchange.node)
        if self.tries is not None:
            self.tries.begin(exchange.node, exchange.started)
        self.exchanges.append(exchange)
        self.state = SENT

    def on_readable(self, exchange: Exchange, totals: Totals) -> None:
        """Take what has arrived for an exchange, without waiting; an answer is added to the totals."""
        try:
            answer = exchange.receive()
        except NeedsThread:
            self.state = State.HEAD
        except TransportError as exc:
            self.on_failure(exchange, exc)
        else:
            if answer is not None:
                self._on_answer(exchange, answer, totals)
            elif exchange.head is not None and self.state is SENT:
                self.state = State.BODY

    def on_head(self, exchange: Exchange) -> None:
        """Take a response whose head was read and whose body is waited for by the caller's check."""
        self._drop_losers(exchange)
        response = exchange.taken()
        if logger.isEnabledFor(logging.DEBUG):
            seconds = time.monotonic() - exchange.started
            what = f"{self.request.op} {self.request.resource} at {exchange.node.endpoint}"
            logger.debug("%s: %d in %.3f s", what, response.status, seconds)
        self._judge(exchange.node, response)

    def on_failure(self, exchange: Exchange, error: TransportError) -> None:
        """Go on after a connection that failed, or an answer that could not be read."""
        if exchange in self.exchanges:
            self.exchanges.remove(exchange)
        exchange.abandon()
        if isinstance(error, StaleConnectionError) and self.request.replayable:
            # The server closed an idle connection while the request was on its way: nobody's fault.
            if not self.exchanges:
                self.request.body.rewind()
                self._node = exchange.node
                self._rest(None)
            return
        self._report(exchange.node, error, since=exchange.started)
        if not self.exchanges:
            self._settle_failure(error)

    def on_deadline(self) -> None:
        """Do what is due: the next try, another node beside the silent ones, or the end of the wait."""
        if not self.exchanges:
            if self.state is PICKED:
                self.start(wait=False)
            return
        now = self._context.now()
        newest = self.exchanges[-1]
        if now >= self._limit(newest):
            self._give_up_waiting(newest)
        elif now >= self.deadline:
            self._hedge()

    def look(self) -> None:
        """Leave nodes that are silent and known to be ill; for a driver whose waits do not look themselves."""
        for exchange in tuple(self.exchanges):
            quiet_s = time.monotonic() - exchange.connection.moved_at
            try:
                exchange.on_quiet(quiet_s)
            except TransportError as exc:
                self.on_failure(exchange, exc)

    def note_waiting(self) -> None:
        """Let an answer that is there already tell nothing of its node's speed: nobody has looked for it."""
        for exchange in self.exchanges:
            exchange.was_waiting = exchange.connection.is_readable()

    def abandon(self) -> None:
        """Drop what is under way; harmless after the end."""
        for exchange in self.exchanges:
            exchange.abandon()
            if self.tries is not None:
                self.tries.end(exchange.node, error="abandoned")
        self.exchanges.clear()

    # -- one try -------------------------------------------------------------------------------

    @property
    def _is_alone(self) -> bool:
        return self._pin is not None or len(self._context.balancer.nodes) == 1

    def _pick(self) -> Node:
        if self._pin is not None:
            return self._pin
        picked, self._node = self._node, None
        if picked is not None:
            return picked
        balancer, tried = self._context.balancer, self.history.tried
        if tried and all(node in tried for node in balancer.in_service):
            self.history = self.history._replace(tried=())
        return balancer.pick(
            exclude=self.history.tried, affinity=self.request.resource, is_read=self.request.may_be_hedged
        )

    def _begin(self, node: Node, *, fresh: bool = False, wait: bool) -> Exchange:
        context = self._context
        if self.tries is not None:
            self.tries.begin(node, time.monotonic(), is_hedge=bool(self.exchanges))
        connect_s = None if self._is_alone else context.connect_delay_s(node, self.request, self.history)
        try:
            exchange = begin_exchange(
                node,
                self.request,
                lambda node: context.build_head(self.request, node.endpoint),
                greeting_s=None if self._is_alone else context.patience_s,
                connect_timeout_s=connect_s,
                fresh=fresh,
                wait=wait,
                is_patient=bool(self.history.errors),
            )
        except S3PoolError as exc:
            self._count(node)
            early_s = (connect_s or 0.0) if isinstance(exc, ConnectError) and exc.is_late else 0.0
            early = self.history.early_connects + (early_s > 0)
            self.history = self.history._replace(early_s=early_s, early_connects=early)
            self._report(node, exc)
            raise
        self._count(node)
        return exchange

    def _count(self, node: Node) -> None:
        node.counters.add(requests=1, retries=self.history.tries > 0, hedges=bool(self.exchanges))
        if self.history is NO_HISTORY:
            self.history = self._context.first_try(node)
        else:
            self.history = self.history._replace(early_s=0.0).with_try(node)

    def _add(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        self.state = SENT if len(self.exchanges) == 1 else HEDGED

    def hedge_delay_s(self, newest: Exchange) -> float | None:
        """Return the seconds after which the newest node is not waited for alone; None waits to the end.

        A node that answered before gets many times its usual latency: a store that is slow throughout is not asked
        everything twice. Where a server makes each connection wait, another node, or connection, answers at once.
        """
        context = self._context
        if self._is_alone or len(self.exchanges) > MAX_HEDGED or newest.response is not None:
            return None
        if not self.request.may_be_hedged or all(node in self.history.tried for node in context.balancer.in_service):
            return None
        kept = newest.connection.exchanges > 0 and newest.head is None and context.kept.is_trying(self.request.op)
        return hedge_delay_s(newest.node, context.balancer.nodes, full_s=context.patience_s, is_trying_kept=kept)

    def _read_timeout_s(self, exchange: Exchange) -> float:
        is_begun, has_failed = exchange.head is not None, bool(self.history.errors)
        return self._context.read_timeout_for(self.request, exchange.node, is_begun=is_begun, has_failed=has_failed)

    def _limit(self, newest: Exchange) -> float:
        """Return until when an answer is waited for: a node may be silent for one timeout, and slow for some."""
        timeout_s = self._read_timeout_s(newest)
        return min(newest.connection.moved_at + timeout_s, newest.started + DEADLINE_FACTOR * timeout_s)

    # -- hedging -------------------------------------------------------------------------------

    def _hedge(self) -> None:
        """Ask the next node beside the silent ones, where one is left."""
        newest = self.exchanges[-1]
        logger.debug("%s is silent, asking another node as well", newest.node.endpoint)
        if newest.node.delays.suspect_s <= time.monotonic() - newest.connection.moved_at:
            newest.node.suspect()
        node = self._pick()
        try:
            # Where the connection is what makes requests wait, a new one of any node is answered at once.
            exchange = self._begin(node, fresh=True, wait=False)
        except PoolExhausted:  # held by requests that may wait for this thread: the silent ones are waited for
            self._node, self._resume_at = node, self._context.now() + CHECK_S
            return
        except S3PoolError as exc:
            logger.debug("%s: %s", self.request.op, exc)
            return
        self.request.note_retry()
        self._add(exchange)

    def _drop_losers(self, winner: Exchange) -> None:
        context = self._context
        if winner.connection.exchanges > 1:
            context.kept.note_answered(self.request.op)
        if len(self.exchanges) == 1:
            self.exchanges.clear()
            return
        losers = [exchange for exchange in self.exchanges if exchange is not winner]
        self.exchanges.clear()
        silent = [loser for loser in losers if loser.connection.exchanges and loser.node.is_proven]
        is_new = winner.connection.exchanges == 1
        if silent and is_new and winner.started > silent[0].started:
            context.kept.settle()
            for node in context.balancer.nodes:
                node.connections.use_more_connections()
        for loser in losers:
            is_older = loser.started < winner.started
            loser.abandon()
            if self.tries is not None:
                self.tries.end(loser.node, error="overtaken")
            if is_older:
                report_lost_race(context, loser)

    def _give_up_waiting(self, newest: Exchange) -> None:
        endpoint, seconds = newest.node.endpoint, self._read_timeout_s(newest)
        error = RequestTimeoutError(f"{endpoint} sent nothing for {seconds:g} s", endpoint=str(endpoint))
        while self.exchanges:
            exchange = self.exchanges.pop(0)
            exchange.abandon()
            self._report(exchange.node, error, since=exchange.started)
        self._settle_failure(error)

    # -- the answer ----------------------------------------------------------------------------

    def _on_answer(self, exchange: Exchange, answer: Answer, totals: Totals) -> None:
        self._drop_losers(exchange)
        node = exchange.node
        exchange.end(answer[0], totals.of(node))
        self._judge(node, CollectedResponse(node, answer), totals)

    def _judge(self, node: Node, response: Response, totals: Totals | None = None) -> None:
        """Let the caller's check look at a response; what it refuses is a failed try."""
        try:
            self._check(response)
        except S3PoolError as exc:
            response.close()
            if totals is not None:
                totals.flush()  # before what the node is to be blamed for
            self._report(node, exc)
            self._settle_failure(exc)
        except Exception as exc:  # noqa: BLE001 - it is for the caller
            response.close()
            self._fail(exc)
        except BaseException:
            response.close()
            raise
        else:
            if totals is None and not node.breaker.is_sound:
                node.breaker.report_success()
            self.response = response
            self.state = DONE
            if self.tries is not None:
                self.tries.end(node, status=response.status)
                self.tries.on_end(self)

    # -- after a failure -----------------------------------------------------------------------

    def _report(self, node: Node, error: S3PoolError, *, since: float = math.inf) -> None:
        report_failure(self._context, node, self.request, error, early_s=self.history.early_s, since=since)
        if self.tries is not None:
            self.tries.end(node, status=getattr(error, "status", 0), error=type(error).__name__)
        if isinstance(error, TransportError):
            self.history = self.history.with_error(error)

    def _settle_failure(self, error: S3PoolError) -> None:
        """Prepare the next try, or end with what the caller is to know."""
        context, request = self._context, self.request
        if context.has_new_keys(error, request, self.history, since=self.started) and self._can_rewind():
            self.history = self.history._replace(has_new_keys=True, tried=())
            self._rest(None)
            return
        if not self._may_repeat(error) or (request.body.length and not self._can_rewind()):
            self._fail_finally(error)
            return
        if isinstance(error, S3Error) and (error.region or error.code in SKEWED_CODES):
            self._rest(None) if self._learns_from(error) else self._fail(error)
            return
        is_free = self._pin is None and context.is_free_failover(error, self.history)
        if not is_free:
            self.history = self.history._replace(counted=self.history.counted + 1)
        if self.history.counted > context.policy.retries or context.now() >= context.last_start(request, self.started):
            self._fail_finally(error)
            return
        if may_add_load(error):
            request.note_retry()
        self._rest(None if is_free else context.pause_s(error, self.history, is_alone=self._is_alone))
        logger.info("%s; trying again (attempt %d)", error, self.history.tries + 1)

    def _may_repeat(self, error: S3PoolError) -> bool:
        is_left = isinstance(error, NodeSilentError) and self.request.is_harmless_twice
        return may_repeat(error, self.request) or (is_left and self.request.body.rewindable)

    def _rest(self, pause_s: float | None) -> None:
        """Let the next try start after a pause, or at once."""
        self.state = PICKED
        self.pause_s = pause_s
        self._resume_at = self._context.now() + (pause_s or 0.0)

    def _can_rewind(self) -> bool:
        if not self.request.body.rewindable:
            return False
        self.request.body.rewind()
        return True

    def _learns_from(self, error: S3Error) -> bool:
        """Take the storage's clock or region for signing; False when that is known, and refused all the same."""
        context, history = self._context, self.history
        if error.region:
            self.history = history._replace(has_learned_region=True, tried=())
            return not history.has_learned_region and context.learn_region(error.region)
        if history.has_learned_clock or error.server_time is None:
            return False
        self.history = history._replace(has_learned_clock=True, tried=())
        context.learn_clock(error.server_time)
        return True

    def _fail_finally(self, error: S3PoolError) -> None:
        final = final_error(error, self.request, attempts=self.history.tries, last_errors=self.history.errors)
        if final is not error:
            final.__cause__ = error
            self._context.note_failure(self.history.errors)
        self._fail(final)

    def _fail(self, error: Exception) -> None:
        self.abandon()
        self.error = error
        self.state = FAILED
        if self.tries is not None:
            self.tries.on_end(self)
