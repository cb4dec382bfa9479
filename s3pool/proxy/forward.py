"""Sending a verified request through the pool: retries, and the final response."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from s3pool.body import EMPTY_BODY, Body
from s3pool.errors import (
    AccessDeniedError,
    NoEndpointError,
    ProtocolError,
    RequestTimeoutError,
    S3Error,
    S3PoolError,
    ThrottledError,
    TransportError,
)
from s3pool.model import Endpoint, Request, Response
from s3pool.pool.exchange import Exchange, send_over
from s3pool.pool.node import Node
from s3pool.pool.retry import Try
from s3pool.pool.transport import Transport
from s3pool.proxy.bodies import ByteBudget
from s3pool.proxy.errors import RETRY_AFTER_FIELDS, S3ErrorResponse, slow_down, unavailable
from s3pool.proxy.node_request import CONDITIONS, NodeRequest, ProxyRequest, RetryBudget, RetryToken
from s3pool.proxy.operations import S3Operation
from s3pool.record import dataclass, field
from s3pool.s3.documents import MAX_ERROR_BYTES, REGION_STATUS, parse_error, told_region
from s3pool.units import parse_http_date

TOO_MANY_REQUESTS = 429
UNAVAILABLE = 503
SERVER_ERROR = 500
NOT_IMPLEMENTED = 501
FIRST_ERROR = 400
SKEWED = "RequestTimeTooSkewed"
DEFAULT_SLOWNESS = 10.0
UNLIMITED = float("inf")
MANY = 1 << 20
# A client would repeat these itself when the node that has them falls silent for good.
REPEATED_BY_CLIENTS = frozenset({"CreateMultipartUpload", "PutObject", "UploadPart"})
MAX_DOCUMENT_BYTES = 4 << 20  # a page of a thousand versions with long names has 3 MB
MAX_ANSWER_BYTES = 1 << 20  # of an error that another node may not give
Begun = tuple[Node, Exchange | None]  # a first try: where, and what was sent if anything could be at once
# Until more is asked of a request than its method.
BARE = {method: Request(method, "", "") for method in ("GET", "HEAD")}


@dataclass(slots=True)
class Attempts:
    """Which endpoints a request was sent to, in order."""

    endpoints: list[Endpoint] = field(default_factory=list)
    tries: list[Try] = field(default_factory=list)  # where traces are made
    kept: int = 0  # bytes of answers that are kept, taken from the memory for all requests

    @property
    def last(self) -> str:
        """Return the last endpoint's URL, or nothing."""
        return str(self.endpoints[-1]) if self.endpoints else ""


class ResponseCheck:
    """Says of each answer whether another node is to be asked; keeps the last refusal whole.

    One answer of a kind may be asked again of one other node; the second is the client's.
    """

    def __init__(
        self, operation: S3Operation, *, signs: bool, attempts: Attempts, memory: ByteBudget | None = None
    ) -> None:
        self._operation = operation
        self._signs = signs
        self._attempts = attempts
        self._memory = memory  # for documents
        self._refusals = 0
        self._failures = 0
        self.answer: Response | None = None

    def check(self, response: Response) -> None:
        """Raise for an answer that speaks of the node's state instead of the object's."""
        status = response.status
        if status in (TOO_MANY_REQUESTS, UNAVAILABLE):
            self._refusals += 1
            final = not self._operation.after_503 or self._refusals > 1
            code = self._code(response)
            is_load = status == TOO_MANY_REQUESTS or code.startswith("SlowDown") or not code
            raise self._error(ThrottledError if is_load else S3Error, response, code, final=final)
        if status >= SERVER_ERROR and status != NOT_IMPLEMENTED:
            self._failures += 1
            final = not self._operation.after_500 or self._failures > 1
            raise self._error(S3Error, response, self._code(response), final=final)
        if status in REGION_STATUS and self._signs:
            code = self._code(response)
            if code == SKEWED or told_region(status, response.headers, response.body or b""):
                raise self._error(AccessDeniedError, response, code, final=False)
        if self._operation.brings_document or (self._operation.reads and status >= FIRST_ERROR):
            # Nobody can go on in the middle of a text that another node may word otherwise. So it
            # has to be here before its first byte leaves; until then it can be asked for anew.
            # What is no document is passed on as it comes: nodes ignore sub-resources that they do not know.
            response.read_ahead(MAX_DOCUMENT_BYTES, self._take)

    def _take(self, count: int) -> bool:
        is_there = self._memory is None or self._memory.take(count)
        self._attempts.kept += count if is_there else 0
        return is_there

    def _code(self, response: Response) -> str:
        return parse_error(response.body or b"")[0] if response.read_ahead(MAX_ERROR_BYTES) else ""

    def _error(self, kind: type[S3Error], response: Response, code: str, *, final: bool) -> S3Error:
        if not response.read_ahead(MAX_ANSWER_BYTES):  # it is closed before the client can have it
            response.close()
            raise ProtocolError(f"{response.endpoint} sent a long error", endpoint=str(response.endpoint))
        self.answer = response
        return kind(
            response.status,
            code or f"HTTP{response.status}",
            endpoint=str(response.endpoint),
            op=self._operation.name,
            server_time=parse_http_date(response.headers.get("date", "")),
            final=final,
            region=told_region(response.status, response.headers, response.body or b""),
        )


MIXED_S = 60.0  # so long after another owner came a single one may not have more than half
LOOK_S = 1.0  # how often it is looked whether whoever waits is still there
SPARE_SHARE = 4  # a part of the places is left for who comes next, even by one that is alone


class FairSlots:
    """A bound on concurrent requests; no owner gets more than half while others are active.

    An owner is an access key, or an address where there is none. One that is alone may have
    more, but for a quarter that is kept for others: their first requests find it free.
    """

    def __init__(
        self,
        size: int,
        *,
        kind: str = "slots",
        detail: str = "all connections to the storage are in use.",
        closes: bool = False,
    ) -> None:
        self.size = max(size, 1)
        self._kind, self._detail, self._closes = kind, detail, closes
        self._half = max(self.size // 2, 1)
        self._most = max(self.size - self.size // SPARE_SHARE, 1)
        # Guards all below; held for a few additions.
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}
        # Who waits, by owner: a place that comes free wakes the one who gets it, and nobody else.
        self._lines: dict[str, deque[threading.Lock]] = {}
        self._taken = 0
        self._last_owner = ""
        self._mixed_at = -MIXED_S

    @property
    def taken(self) -> int:
        """Return the number of places that are taken."""
        return self._taken

    @property
    def waiting(self) -> int:
        """Return the number of those who wait for a place."""
        return sum(map(len, list(self._lines.values())))

    def try_acquire(self, owner: str) -> bool:
        """Take a place if there is one for this owner."""
        with self._lock:
            return self._take(owner)

    def take(self, owner: str, patience_s: float, look: Callable[[], None] | None = None) -> bool:
        """Take a place, or wait for one; False when there is none in time. Meanwhile ``look`` may raise."""
        turn = threading.Lock()
        turn.acquire()
        with self._lock:
            if self._take(owner):
                return True
            self._lines.setdefault(owner, deque()).append(turn)
        until = time.monotonic() + patience_s
        try:
            while (left_s := until - time.monotonic()) > 0:
                if turn.acquire(timeout=min(left_s, LOOK_S)):
                    return True
                if look is not None:
                    look()
        except BaseException:
            if not self._leave_line(owner, turn):
                self.give_back(owner)
            raise
        # By now it may have had no other owner beside it for long enough, which wakes nobody.
        return not self._leave_line(owner, turn) or self.try_acquire(owner)

    def _leave_line(self, owner: str, turn: threading.Lock) -> bool:
        """Return False if a place was given meanwhile."""
        with self._lock:
            line = self._lines.get(owner, ())
            if turn not in line:
                return False
            self._lines[owner].remove(turn)
            if not self._lines[owner]:
                del self._lines[owner]
            return True

    def claim(self, owner: str, patience_s: float = 0.0, *, look: Callable[[], None] | None = None) -> str:
        """Take a place as take() does, and return the owner.

        Raises:
            S3ErrorResponse: there is none in time.
        """
        if not self.take(owner, patience_s, look):
            denial = slow_down(f"Please reduce your request rate: {self._detail}", closes=self._closes)
            denial.limited = ("", self._kind)
            raise denial
        return owner

    def _take(self, owner: str) -> bool:
        held = self._held.get(owner, 0)
        if owner != self._last_owner:
            if self._last_owner:
                self._mixed_at = time.monotonic()
            self._last_owner = owner
        if self._taken >= self.size:
            return False
        if held >= self._half and (self._taken >= self._most or time.monotonic() - self._mixed_at < MIXED_S):
            return False
        self._held[owner] = held + 1
        self._taken += 1
        return True

    def give_back(self, owner: str) -> None:
        """Return a place back."""
        with self._lock:
            self._taken -= 1
            held = self._held[owner] - 1
            if held:
                self._held[owner] = held
            else:
                del self._held[owner]
            self._pass_on()

    def _pass_on(self) -> None:
        """Let the first who may have the place that came free take it; owners take turns."""
        for owner in list(self._lines):
            if self._take(owner):
                line = self._lines.pop(owner)
                line.popleft().release()
                if line:
                    self._lines[owner] = line
                return


class Forwarder:
    """Sends requests into the pool; shared by all connections."""

    def __init__(
        self,
        transport: Transport,
        *,
        retry_share: float = UNLIMITED,
        timeout_factor: float = DEFAULT_SLOWNESS,
        is_plain: bool = False,
        slots: FairSlots | None = None,
        body_slots: int = MANY,
    ) -> None:
        self.transport = transport
        self.is_plain = is_plain  # no TLS to any node, and no limit of the bandwidth
        self._timeout_factor = timeout_factor  # of slow operations, in timeouts of the others
        self.slots = slots or FairSlots(MANY)
        self.budget = RetryBudget(retry_share, lambda: self.slots.taken)
        # A body may come slowly, and holds one of the clients' connections as long.
        self.body_slots = FairSlots(
            body_slots, kind="bodies", detail="too many of your uploads are under way.", closes=True
        )
        self.memory: ByteBudget | None = None  # for documents that nodes send

    def begin_now(self, node_request: NodeRequest) -> Begun:
        """Send a GET or HEAD over an open connection, without waiting; no exchange when there is none."""
        transport = self.transport
        balancer = transport.balancer
        node = balancer.next_in_turn() or balancer.pick(affinity=node_request.resource)
        head = node_request.build(node.endpoint, transport.wall_clock() + transport.clock_offset_s)
        connection = node.connections.take_open()
        if connection is None:
            return node, None
        return node, send_over(connection, node, BARE[node_request.head.method], head)

    def send(
        self,
        node_request: NodeRequest,
        operation: S3Operation,
        *,
        body: Body = EMPTY_BODY,
        attempts: Attempts,
        only: Endpoint | None = None,
        begun: Begun | None = None,
    ) -> Response:
        """Return a node's answer, whatever its status; the caller closes it. ``begun`` is what begin_now() did of it.

        Raises:
            S3ErrorResponse: no node gave one, or the client's body is not what was signed.
            ClientGoneError: the client hung up inside its body.
        """
        check = ResponseCheck(operation, signs=node_request.signer is not None, attempts=attempts, memory=self.memory)
        token = RetryToken(self.budget)
        request = self._request(node_request, operation, body=body, attempts=attempts, token=token)
        attempt = self.transport.attempt(request, check.check, only=only)
        if begun is not None:
            node, exchange = begun
            if exchange is None:
                attempt.pick(node)
            else:
                attempt.adopt(exchange)
                attempts.endpoints.append(node.endpoint)
        try:
            return self.transport.finish(attempt)
        except S3Error:
            if check.answer is None:
                raise
            return check.answer
        except TransportError as exc:
            raise refusal_for(exc) from exc
        finally:
            token.end()
            attempts.tries += attempt.tries or ()

    def _request(
        self, node_request: NodeRequest, operation: S3Operation, *, body: Body, attempts: Attempts, token: RetryToken
    ) -> ProxyRequest:
        def build(endpoint: Endpoint, now: float) -> bytes:
            attempts.endpoints.append(endpoint)
            return node_request.build(endpoint, now)

        return ProxyRequest(
            node_request.head.method,
            node_request.target.path,
            operation.name,
            body=body,
            idempotent=operation.ambiguous,
            resource=node_request.resource,
            timeout_factor=self._timeout_factor if operation.is_slow else 1.0,
            is_endless=operation.is_endless,
            is_harmless_twice=operation.name in REPEATED_BY_CLIENTS and CONDITIONS.isdisjoint(node_request.head.index),
            build=build,
            token=token,
            access_key=node_request.access_key,
            look_for_client=node_request.head.look_for_client,
        )


def refusal_for(error: S3PoolError) -> S3ErrorResponse:
    """Return the response to the client when no node answered; details are only logged."""
    if isinstance(error, NoEndpointError) and isinstance(error.__cause__, ProtocolError):
        error = error.__cause__  # the nodes were reached, and said nothing that is HTTP
    if isinstance(error, NoEndpointError) or (isinstance(error, TransportError) and not error.sent):
        return unavailable("no storage node could be reached; try again")
    if isinstance(error, RequestTimeoutError):
        return S3ErrorResponse(
            504, "RequestTimeout", "the storage node did not answer in time", fields=RETRY_AFTER_FIELDS
        )
    return S3ErrorResponse(
        502, "BadGateway", "the storage node's answer was broken off or malformed", fields=RETRY_AFTER_FIELDS
    )
