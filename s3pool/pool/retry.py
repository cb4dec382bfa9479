"""Whether and when an attempt is repeated, or another node is asked as well, and what all attempts of a pool share.

Two facts decide whether it is repeated: may the server have acted (``error.sent``), and may the
request be repeated with its body rewound (``request.replayable``).
"""

from __future__ import annotations

import enum
import logging
import math
import random as random_module
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

from s3pool.errors import (
    CREDENTIAL_CODES,
    AccessDeniedError,
    ConnectError,
    IntegrityError,
    NoEndpointError,
    ProtocolError,
    RequestTimeoutError,
    S3Error,
    S3PoolError,
    SlotsBusyError,
    ThrottledError,
    TLSError,
    TransportError,
    UnusableAnswerError,
    advice_on,
)
from s3pool.model import Endpoint, Request
from s3pool.pool.balancer import LoadBalancer
from s3pool.pool.exchange import Exchange
from s3pool.pool.node import ANYBODY, CONNECT_FAILURE_WEIGHT, Delays, Node
from s3pool.pool.tcp import NodeSilentError, StaleConnectionError
from s3pool.record import dataclass, field

BACKOFF_BASE_S = 0.1
BACKOFF_CAP_S = 5.0
RETRY_AFTER_CAP_S = 30.0  # a server cannot make a command sleep longer than this per attempt
DEADLINE_FACTOR = 5  # no attempt starts later than this many read timeouts after the first
SERVER_ERROR = 500
# Answers above 500 that say nothing of the node, and that no repetition mends.
NOT_IMPLEMENTED = 501
HTTP_VERSION_UNSUPPORTED = 505
STORAGE_FULL = 507
LOOP_DETECTED = 508
NOT_ILL = frozenset({NOT_IMPLEMENTED, HTTP_VERSION_UNSUPPORTED, STORAGE_FULL, LOOP_DETECTED})
UNPROCESSED_STATUS = 503  # the answer says that the request was not worked on
RETRYABLE_CODES = frozenset({"RequestTimeout", "RequestTimeTooSkewed", "InternalError", "OperationAborted"})
SKEWED_CODES = frozenset({"RequestTimeTooSkewed"})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and for how long one request is tried. ``retries`` are extra attempts."""

    retries: int = 5
    deadline_s: float = 300.0
    random: Callable[[], float] = random_module.random

    def backoff_s(self, attempt: int) -> float:
        """Return the wait before extra attempt number ``attempt`` (from 1): full jitter."""
        return float(self.random() * min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** (attempt - 1)))


def may_repeat(error: S3PoolError, request: Request) -> bool:
    """Return whether another attempt may help and can do no harm.

    A request framed by Content-Length that was not sent whole cannot have been acted on (RFC 9110 section 9.2.2).
    """
    rewindable = request.body.rewindable
    if (isinstance(error, S3Error) and error.final) or (may_add_load(error) and not request.may_retry()):
        return False
    if isinstance(error, ThrottledError):
        return rewindable
    if isinstance(error, TransportError):
        return rewindable and (not error.sent or request.replayable)
    if isinstance(error, S3Error):
        return _may_repeat_after_answer(error, request)
    return False


def _may_repeat_after_answer(error: S3Error, request: Request) -> bool:
    if error.code in SKEWED_CODES or error.region or error.status == UNPROCESSED_STATUS:
        return request.body.rewindable
    if error.status in NOT_ILL:
        return False
    return request.replayable and (error.status >= SERVER_ERROR or error.code in RETRYABLE_CODES)


def may_add_load(error: S3PoolError) -> bool:
    """Return whether another attempt may multiply the load that the first one failed of.

    A node that cannot be reached was asked nothing, and one whose connection broke, or that is known to be ill, does
    not work on the request any more: going on loads nobody twice, even when all of a dead node's go on at once.
    """
    return isinstance(error, (S3Error, RequestTimeoutError)) and not isinstance(error, NodeSilentError)


def is_illness(error: S3PoolError) -> bool:
    """Return whether the error speaks against the endpoint; load and our own mistakes do not."""
    if isinstance(error, (ThrottledError, IntegrityError, SlotsBusyError, StaleConnectionError)):
        return False
    if isinstance(error, S3Error):
        return error.status >= SERVER_ERROR and error.status not in NOT_ILL
    return isinstance(error, TransportError)


def failure_kind(error: S3PoolError) -> str:
    """Name a failure for the counters."""
    if isinstance(error, S3Error):
        return f"http {error.status}"
    if isinstance(error, TLSError):
        return "tls"
    if isinstance(error, ConnectError):
        return "connect"
    if isinstance(error, RequestTimeoutError):
        return "timeout"
    return type(error).__name__.removesuffix("Error").removeprefix("Request").lower()


def final_error(
    error: S3PoolError, request: Request, *, attempts: int, last_errors: Collection[TransportError]
) -> S3PoolError:
    """Return the error for the caller: what was tried, on what, and what every node answered."""
    if not isinstance(error, TransportError) or isinstance(error, NoEndpointError):
        return error
    what = f"{request.op} {request.resource}".strip()
    if not may_repeat(error, request):
        acted = "; it may have been carried out all the same" if error.sent else ""
        return type(error)(f"{what}: {error}{acted}", endpoint=error.endpoint, sent=error.sent)
    details = "; ".join(dict.fromkeys(str(e) for e in last_errors))
    has_answers = all(isinstance(e, ProtocolError) for e in last_errors)
    answer = "a usable answer" if has_answers else "an answer"
    tried = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    kind = UnusableAnswerError if has_answers else NoEndpointError
    advice = advice_on(error, str(error)) or "check the endpoints with s3pool ping"
    return kind(
        f"{what}: no endpoint gave {answer} in {tried}: {details}; {advice}",
        endpoint=error.endpoint,
        sent=any(e.sent for e in last_errors),
    )


# -- another node as well --------------------------------------------------------------------
# A node that never answered may be one that swallows everything sent to it. Its full connect
# timeout is for pools in which nobody answers: where others do, they tell what is usual.

UNUSUAL_LATENCIES = 20.0  # a node that answered before is overdue after so many of its usual latencies
UNPROVEN_TIMES = 10.0  # a node that never answered has so many times what others took
KEPT_TIMES = 5.0  # so many times what others took, when no kept connection was ever answered
MAX_EARLY_CONNECTS = 2  # nodes of one request whose connection is given up early: the network may be slow
MAX_HEDGED = 2  # silent nodes beside one more: a slow store must not get every request many times


def connect_attempt_delay_s(node: Node, nodes: Iterable[Node], *, full_s: float) -> float:
    """Return the seconds that a node's connection may take while others could be tried (RFC 8305's word)."""
    if node.is_proven or node.connections.open_s:
        return full_s
    usual = [other.connections.open_s for other in nodes if other.connections.open_s]
    return _for_unproven(node, usual, full_s)


def hedge_delay_s(node: Node, nodes: Iterable[Node], *, full_s: float, is_trying_kept: bool = False) -> float:
    """Return the seconds after which a node that got a read is not waited for alone.

    One that answers slowly gets longer, but never more than what is unusual for the pool's middle node. With
    ``is_trying_kept`` nobody knows yet whether kept connections are served as fast as new ones.
    """
    # A probe, or an answer that was waiting, proves a node and tells no time.
    usual = [other.read_s for other in nodes if other.read_s]
    if not node.is_proven:
        return _for_unproven(node, usual, full_s)
    others = [other.read_s for other in nodes if other.read_s and other is not node]
    usual_s = min(node.read_s, _middle(others)) if others else node.read_s
    proven_s = max(min(node.delays.proven_s, full_s), UNUSUAL_LATENCIES * usual_s)
    if is_trying_kept and usual:
        return min(proven_s, max(node.delays.early_s, KEPT_TIMES * _middle(usual)))
    return proven_s


def is_early(seconds: float, delays: Delays, *, full_s: float) -> bool:
    """Return whether an unproven node that was silent for so long may be just slow for a moment."""
    return seconds < min(delays.unproven_s, delays.failure_s, full_s)


def _for_unproven(node: Node, usual: Sequence[float], full_s: float) -> float:
    delays = node.delays
    if not usual:
        return min(delays.unproven_s, full_s)
    least_s = delays.failure_s if node.is_suspect else delays.early_s
    return min(max(least_s, UNPROVEN_TIMES * _middle(usual)), full_s)


def _middle(usual: Sequence[float]) -> float:
    return sorted(usual)[len(usual) // 2]


class State(enum.Enum):
    """Where an attempt stands."""

    PICKED = "picked"  # a node is to be asked, now or after a pause
    SENT = "sent"  # the request has left, no head is here
    HEDGED = "hedged"  # more than one node was asked
    BODY = "body"  # the head is here, and part of the body
    HEAD = "head"  # the head is here, and the rest is for a thread that waits
    DONE = "done"
    FAILED = "failed"


class Try:
    """One try of a request on a node, for its trace; times are of the monotonic clock, ``ended`` is 0 to its end."""

    __slots__ = ("ended", "endpoint", "error", "is_hedge", "started", "status")

    def __init__(self, endpoint: object, started: float, *, is_hedge: bool = False) -> None:
        self.endpoint, self.started, self.is_hedge = endpoint, started, is_hedge
        self.ended, self.status, self.error = 0.0, 0, ""


class Tries(list[Try]):
    """The tries of a request whose trace ``on_end`` makes; without a trace there is no such list."""

    def __init__(self, on_end: Callable[[Any], None]) -> None:
        super().__init__()
        self.on_end = on_end

    def begin(self, node: Node, started: float, *, is_hedge: bool = False) -> None:
        """Note a try."""
        self.append(Try(node.endpoint, started, is_hedge=is_hedge))

    def end(self, node: Node, *, status: int = 0, error: str = "") -> None:
        """Note what became of the newest try of a node."""
        for each in reversed(self):
            if each.endpoint is node.endpoint and not each.ended:
                each.ended, each.status, each.error = time.monotonic(), status, error
                return


class History(NamedTuple):
    """What an attempt has learned from its tries."""

    tries: int = 0
    counted: int = 0  # tries that used up the retry budget
    tried: tuple[Node, ...] = ()  # of the current round, the oldest first
    errors: tuple[TransportError, ...] = ()  # the newest of each node
    early_connects: int = 0  # connections that were given up early, which costs no retry
    early_s: float = 0.0  # what the last one had, if it was one of these
    has_learned_clock: bool = False
    has_new_keys: bool = False
    has_learned_region: bool = False

    def with_try(self, node: Node) -> History:
        """Add a try."""
        return self._replace(tries=self.tries + 1, tried=(*self.tried, node))

    def with_error(self, error: TransportError) -> History:
        """Add what a node's last word was."""
        others = tuple(each for each in self.errors if each.endpoint != error.endpoint)
        return self._replace(errors=(*others, error))


NO_HISTORY = History()
MAX_FIRST_TRIES = 4096


class KeptConnections:
    """What is known of requests over kept connections: some servers make them wait."""

    def __init__(self) -> None:
        self._is_settled = False
        self._answered: set[str] = set()  # operations

    def is_trying(self, op: str) -> bool:
        """Return whether nobody knows yet how fast such requests are answered over kept connections."""
        return not self._is_settled and op not in self._answered

    def note_answered(self, op: str) -> None:
        """Note that such a request was answered over a kept connection."""
        self._answered.add(op)

    def settle(self) -> None:
        """Note that they are slow, and that more connections are used from now on."""
        self._is_settled = True


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """What all attempts of a pool share: policy, nodes, clock, and how a head is built."""

    policy: RetryPolicy
    balancer: LoadBalancer
    build_head: Callable[[Request, Endpoint], bytes]
    learn_clock: Callable[[float], None]
    read_timeout_s: float
    patience_s: float  # for a sign of life, and at most for a node that never answered
    kept: KeptConnections
    new_keys: Callable[[float, bool], bool] | None = None  # whether refused keys were replaced since a moment
    learn_region: Callable[[str], bool] = lambda _region: False
    on_unreachable: Callable[[], None] | None = None  # no node could be connected to
    on_end: Callable[[Any], None] | None = None  # is given each attempt that is over, with its tries, for traces
    now: Callable[[], float] = time.monotonic
    first_tries: dict[Node, History] = field(default_factory=dict)  # what nearly every history is

    def note_failure(self, errors: Sequence[TransportError]) -> None:
        """Note that a request failed with these last words of all nodes."""
        if self.on_unreachable is not None and all(isinstance(error, ConnectError) for error in errors):
            self.on_unreachable()

    def first_try(self, node: Node) -> History:
        """Return the history of an attempt that has asked one node."""
        history = self.first_tries.get(node)
        if history is None:
            if len(self.first_tries) >= MAX_FIRST_TRIES:  # of nodes that have left, mostly
                self.first_tries.clear()
            history = self.first_tries[node] = NO_HISTORY.with_try(node)
        return history

    def has_new_keys(self, error: S3PoolError, request: Request, history: History, *, since: float) -> bool:
        """Return whether a request was refused for keys that have been replaced."""
        if self.new_keys is None or not isinstance(error, AccessDeniedError) or error.final or history.has_new_keys:
            return False
        is_sure = error.code in CREDENTIAL_CODES or request.method == "HEAD"  # which cannot name its reason
        return request.body.rewindable and self.new_keys(since, is_sure)

    def connect_delay_s(self, node: Node, request: Request, history: History) -> float | None:
        """Return the seconds after which a connection is given up for another node's; None for all it may have.

        Only reads: a node that cannot be had for a moment must not get the next write all the less.
        """
        if node.is_proven or history.early_connects >= MAX_EARLY_CONNECTS:
            return None
        if not self.policy.retries or not request.may_be_hedged:
            return None
        full_s = node.connections.settings.connect_timeout_s
        delay_s = connect_attempt_delay_s(node, self.balancer.nodes, full_s=full_s)
        return delay_s if delay_s < full_s else None

    def read_timeout_for(
        self, request: Request, node: Node, *, is_begun: bool = False, has_failed: bool = False
    ) -> float:
        """Return the read timeout; slow operations have more where the node works, and no body that may be asked again.

        A write that another node died at may wait here for that node's locks: asked once more it would be stored twice.
        """
        has_more = node.is_proven and not (is_begun and request.replayable)
        timeout_s = self.read_timeout_s * (request.timeout_factor if has_more else min(request.timeout_factor, 1.0))
        may_wait = has_failed and not is_begun and request.method not in {"GET", "HEAD"}
        return max(timeout_s, node.lock_wait_s) if may_wait else timeout_s

    def tell_long_wait(self, request: Request, history: History, *, since: float) -> None:
        """Print what is waited for, if a request has failed on all its nodes for long."""
        node = self.balancer.nodes[0]
        if history.errors and node.on_long_wait is not None and self.now() - since >= node.delays.tell_s:
            node.on_long_wait(request, str(history.errors[-1]))

    def last_start(self, request: Request, started: float) -> float:
        """Return the time after which no further try starts; a slow operation has more at nodes that work."""
        is_known = any(node.is_proven for node in self.balancer.nodes)
        return started + self.policy.deadline_s * (max(1.0, request.timeout_factor) if is_known else 1.0)

    def is_free_failover(self, error: S3PoolError, history: History) -> bool:
        """Return whether going on to another node costs nothing: one was not tried for long, or is known to be ill."""
        if history.early_s > 0:
            return True
        count = len(self.balancer.nodes)
        if self.policy.retries <= 0 or history.tries >= 2 * count:
            return False
        return isinstance(error, NodeSilentError) or (isinstance(error, ConnectError) and history.tries < count)

    def pause_s(self, error: S3PoolError, history: History, *, is_alone: bool) -> float:
        """Return the pause before the next try; a throttled pool of one waits as long as the node asked for."""
        pause_s = self.policy.backoff_s(history.counted)
        if not isinstance(error, ThrottledError):
            return pause_s
        if is_alone and error.retry_after_s is not None:
            return max(pause_s, min(error.retry_after_s, RETRY_AFTER_CAP_S))
        return max(pause_s, min(self.balancer.cooldown_s(), RETRY_AFTER_CAP_S))


logger = logging.getLogger(__name__)

THROTTLE_PAUSE_S = 1.0  # a node that says SlowDown without Retry-After is left alone this long
LOST_RACE_WEIGHT = 2  # three reads in a row that another node had to answer open a circuit


def report_failure(
    context: AttemptContext,
    node: Node,
    request: Request,
    error: S3PoolError,
    *,
    early_s: float = 0.0,
    since: float = math.inf,
) -> None:
    """Count a failed try, which began at ``since``; ``early_s`` is what a connection had that was given up early."""
    if isinstance(error, ThrottledError):
        pause_s = THROTTLE_PAUSE_S if error.retry_after_s is None else min(error.retry_after_s, RETRY_AFTER_CAP_S)
        node.cooling_until = context.now() + pause_s
        node.on_loss()
        node.counters.add(throttled=1)
        node.breaker.report_success()
    elif is_illness(error) and not _is_only_doubted(context, node, early_s):
        node.counters.add_failure(failure_kind(error), str(error))
        if isinstance(error, RequestTimeoutError) and node.answered_at > since:
            return  # it answered others: what it did not answer tells of the object, such as a lock
        is_gone = isinstance(error, ConnectError) and not early_s
        node.breaker.report_failure(CONNECT_FAILURE_WEIGHT if is_gone else 1, asker=_asker_behind(request, error))
        node.on_loss()
    elif isinstance(error, S3Error):
        node.breaker.report_success()
    if isinstance(error, TransportError):
        logger.debug("%s %s: %s", request.op, request.resource, error)


def report_lost_race(context: AttemptContext, loser: Exchange) -> None:
    """Count a node that was silent for so long that another one had to answer."""
    node = loser.node
    seconds = context.now() - loser.started
    if _is_only_doubted(context, node, seconds):
        return
    node.on_loss()
    if node.is_proven and seconds < min(node.delays.proven_s, context.patience_s):
        return  # slower than others for a moment, which is no illness
    late = loser.late_error()
    node.counters.add_failure(failure_kind(late), str(late))
    weight = LOST_RACE_WEIGHT if node.is_proven else 1
    if not node.is_proven and seconds >= context.patience_s:
        weight = CONNECT_FAILURE_WEIGHT
    node.breaker.report_failure(weight, asker=_asker_behind(loser.request, late))


def _is_only_doubted(context: AttemptContext, node: Node, seconds: float) -> bool:
    """Pass over a node that was silent for a moment, once, instead of calling it ill."""
    return (
        0 < seconds and is_early(seconds, node.delays, full_s=context.patience_s) and node.mark_suspect(context.now())
    )


def _asker_behind(request: Request, error: S3PoolError) -> str:
    """Return who may be the cause of a failure: of a malformed answer the request, of all others nobody known."""
    asker = request.asker
    if isinstance(error, ProtocolError):
        return asker or f"{request.op} {request.target}"
    return asker if asker == ANYBODY and not isinstance(error, ConnectError) else ""
