"""Whether an attempt may be repeated: the two facts, row by row."""

from __future__ import annotations

import pytest

from s3pool.body import BytesBody
from s3pool.errors import (
    AccessDeniedError,
    ConnectError,
    IntegrityError,
    NotFoundError,
    ProtocolError,
    RequestTimeoutError,
    S3Error,
    S3PoolError,
    ThrottledError,
    TLSError,
    UsageError,
)
from s3pool.model import Endpoint, Request
from s3pool.pool.balancer import LoadBalancer
from s3pool.pool.connections import ConnectionPool, ConnectionSettings
from s3pool.pool.node import CircuitBreaker, Node
from s3pool.pool.retry import BACKOFF_CAP_S, RetryPolicy, failure_kind, is_illness, may_repeat
from s3pool.pool.tcp import StaleConnectionError
from s3pool.pool.transport import Transport


class SpentBody(BytesBody):
    """A body that was read and cannot be read again, as one that a client sends."""

    rewindable = False


def _request(*, idempotent: bool = True, spent: bool = False) -> Request:
    body = SpentBody(b"x") if spent else BytesBody(b"x")
    return Request("PUT", "/b/k", "PutObject", body=body, idempotent=idempotent)


UNSENT = ConnectError("refused")
CUT_WHILE_SENDING = ProtocolError("reset", sent=False)
AMBIGUOUS = RequestTimeoutError("no answer", sent=True)
SLOW_DOWN = ThrottledError(503, "SlowDown")
UNAVAILABLE = S3Error(503, "ServiceUnavailable")
INTERNAL = S3Error(500, "InternalError")


@pytest.mark.parametrize(
    ("error", "idempotent", "expected"),
    [
        (UNSENT, True, True),
        (UNSENT, False, True),
        (CUT_WHILE_SENDING, False, True),
        (AMBIGUOUS, True, True),
        (AMBIGUOUS, False, False),
        (SLOW_DOWN, False, True),
        (UNAVAILABLE, False, True),
        (INTERNAL, True, True),
        (INTERNAL, False, False),
        (S3Error(501, "NotImplemented"), True, False),
        (S3Error(400, "RequestTimeout"), True, True),
        (S3Error(400, "RequestTimeout"), False, False),
        (S3Error(403, "RequestTimeTooSkewed"), False, True),
        (NotFoundError(404, "NoSuchKey"), True, False),
        (AccessDeniedError(403, "AccessDenied"), True, False),
        (IntegrityError("changed"), True, False),
        (UsageError("bad"), True, False),
    ],
)
def test_repetition_depends_on_what_the_server_may_have_done(
    error: S3PoolError, idempotent: bool, expected: bool
) -> None:
    """Never a duplicate act, never a needless failure."""
    assert expected is may_repeat(error, _request(idempotent=idempotent))


class WithoutLeave(Request):
    """A request whose sender is told that there are second tries enough."""

    def may_retry(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UNSENT, True),
        (CUT_WHILE_SENDING, True),
        (ProtocolError("reset"), True),
        (StaleConnectionError("closed"), True),
        (AMBIGUOUS, False),
        (SLOW_DOWN, False),
        (INTERNAL, False),
    ],
)
def test_leave_is_needed_only_for_what_may_add_load(error: S3PoolError, expected: bool) -> None:
    """A dead node does none of its work; one that is slow, or answers that it cannot, has too much of it."""
    assert expected is may_repeat(error, WithoutLeave("GET", "/b/k", "GetObject"))


@pytest.mark.parametrize("error", [UNSENT, CUT_WHILE_SENDING, AMBIGUOUS, SLOW_DOWN, UNAVAILABLE, INTERNAL])
def test_a_spent_body_cannot_be_sent_again(error: S3PoolError) -> None:
    """A socket cannot rewind; a shorter second body would be a corrupt object."""
    assert may_repeat(error, _request(spent=True)) is False


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UNSENT, True),
        (AMBIGUOUS, True),
        (INTERNAL, True),
        (UNAVAILABLE, True),
        (SLOW_DOWN, False),
        (S3Error(501, "NotImplemented"), False),
        (NotFoundError(404, "NoSuchKey"), False),
        (IntegrityError("file changed"), False),
        (StaleConnectionError("closed"), False),
    ],
)
def test_only_sickness_counts_against_a_node(error: S3PoolError, expected: bool) -> None:
    """Load, refusals and our own mistakes must not open a circuit."""
    assert expected is is_illness(error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [(UNSENT, "connect"), (TLSError("x"), "tls"), (AMBIGUOUS, "timeout"), (CUT_WHILE_SENDING, "protocol"),
     (INTERNAL, "http 500")],
)  # fmt: skip
def test_failures_have_short_names(error: S3PoolError, expected: str) -> None:
    """--stats shows them in a table."""
    assert expected == failure_kind(error)


def test_backoff_doubles_up_to_its_cap() -> None:
    """Full jitter below 0.1, 0.2, 0.4 ... 5 seconds."""
    policy = RetryPolicy(random=lambda: 1.0)

    waits = [policy.backoff_s(attempt) for attempt in (1, 2, 3, 10)]

    assert waits == [0.1, 0.2, 0.4, BACKOFF_CAP_S]


def test_slow_operations_have_a_later_deadline_where_a_node_works() -> None:
    """A Complete that may take ten minutes is not given up after five."""
    endpoint = Endpoint.parse("http://127.0.0.1:1")
    node = Node(endpoint, ConnectionPool(endpoint, ConnectionSettings()), CircuitBreaker())
    context = Transport(LoadBalancer([node]), lambda *_: {}, policy=RetryPolicy(deadline_s=120.0)).context
    complete, get = Request("POST", "/", "Complete", timeout_factor=10.0), Request("GET", "/", "Get")

    unknown = context.last_start(complete, 5.0)
    node.is_proven = True

    assert (125.0, 1205.0, 125.0) == (unknown, context.last_start(complete, 5.0), context.last_start(get, 5.0))
