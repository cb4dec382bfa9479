"""Whether and when an attempt is repeated, or another node is asked as well: pure decisions.

Two facts decide whether it is repeated: may the server have acted (``error.sent``), and may the
request be repeated with its body rewound (``request.replayable``).
"""

from __future__ import annotations

import random as random_module
from collections.abc import Callable, Collection, Iterable, Sequence

from s3pool.errors import (
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
)
from s3pool.model import Request
from s3pool.pool.node import Delays, Node
from s3pool.pool.tcp import NodeSilentError, StaleConnectionError
from s3pool.record import dataclass

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

    def deadline_for(self, request: Request) -> float:
        """Return the seconds after which no further attempt of this request starts."""
        return self.deadline_s * max(1.0, request.timeout_factor)


def may_repeat(error: S3PoolError, request: Request) -> bool:
    """Return whether another attempt may help and can do no harm.

    Source: RFC 9110 section 9.2.2; a request framed by Content-Length that was not sent
    whole cannot have been acted on.
    """
    rewindable = request.body.rewindable
    if isinstance(error, S3Error) and error.final:
        return False
    if may_add_load(error) and not request.may_retry():
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

    A node that cannot be reached was asked nothing, and one whose connection broke does not
    work on the request any more: going on loads nobody twice, even when all that a dead node
    was at goes on at once. Nor does a silent one that is known to be ill.
    """
    if isinstance(error, NodeSilentError):
        return False
    return isinstance(error, (S3Error, RequestTimeoutError))


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
    return kind(
        f"{what}: no endpoint gave {answer} in {tried}: {details}; check the endpoints with s3pool ping",
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


def may_be_hedged(request: Request) -> bool:
    """Return whether the same request may be under way on two nodes at once."""
    is_read = request.idempotent and not request.body.length and request.method in {"GET", "HEAD"}
    return is_read and request.may_retry()


def leaves_at_once(request: Request) -> bool:
    """Return whether a request goes elsewhere as soon as its node's circuit is open."""
    if request.method in {"GET", "HEAD"}:
        return request.replayable
    if request.is_harmless_twice:
        return request.body.rewindable
    return request.replayable and request.timeout_factor <= 1.0


def connect_attempt_delay_s(node: Node, nodes: Iterable[Node], *, full_s: float) -> float:
    """Return the seconds that a node's connection may take while others could be tried (RFC 8305's word)."""
    if node.is_proven or node.connections.open_s:
        return full_s
    usual = [other.connections.open_s for other in nodes if other.connections.open_s]
    return _for_unproven(node, usual, full_s)


def hedge_delay_s(node: Node, nodes: Iterable[Node], *, full_s: float, is_trying_kept: bool = False) -> float:
    """Return the seconds after which a node that got a read is not waited for alone.

    A node that answers reads slowly gets longer, but never more than what is unusual for the pool's middle node: where
    others answer in milliseconds, a second is the most. ``is_trying_kept`` means a request over a kept connection while
    nobody knows yet whether these are served as fast as new ones.
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
