"""Sending a verified request through the pool: retries, and the final response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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
from s3pool.pool.exchange import Exchange
from s3pool.pool.node import Node
from s3pool.pool.transport import Transport
from s3pool.pool.window import Call, begin_now
from s3pool.proxy.bodies import ByteBudget
from s3pool.proxy.errors import RETRY_AFTER_FIELDS, S3ErrorResponse, unavailable
from s3pool.proxy.limits import FairSlots, RetryBudget, RetryToken
from s3pool.proxy.node_request import CONDITIONS, NodeRequest, ProxyRequest
from s3pool.proxy.operations import S3Operation
from s3pool.record import dataclass, field
from s3pool.s3.documents import MAX_ERROR_BYTES, parse_error
from s3pool.units import parse_http_date

TOO_MANY_REQUESTS = 429
UNAVAILABLE = 503
SERVER_ERROR = 500
NOT_IMPLEMENTED = 501
FORBIDDEN = 403
FIRST_ERROR = 400
SKEWED = "RequestTimeTooSkewed"
DEFAULT_SLOWNESS = 10.0
UNLIMITED = float("inf")
MANY = 1 << 20
# A client would repeat these itself when the node that has them falls silent for good.
REPEATED_BY_CLIENTS = frozenset({"CreateMultipartUpload", "PutObject", "UploadPart"})
MAX_DOCUMENT_BYTES = 4 << 20  # a page of a thousand versions with long names has 3 MB
MAX_ANSWER_BYTES = 1 << 20  # of an error that another node may not give
# Until more is asked of a request than its method.
BARE = {method: Request(method, "", "") for method in ("GET", "HEAD")}


@dataclass(slots=True)
class Attempts:
    """Which endpoints a request was sent to, in order."""

    endpoints: list[Endpoint] = field(default_factory=list)
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
        if status == FORBIDDEN and self._signs:
            code = self._code(response)
            if code == SKEWED:
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
        )


class Forwarder:
    """Sends requests into the pool; shared by all connections."""

    def __init__(
        self,
        transport: Transport,
        *,
        budget: RetryBudget | None = None,
        timeout_factor: float = DEFAULT_SLOWNESS,
        is_plain: bool = False,
        slots: FairSlots | None = None,
        body_slots: int = MANY,
    ) -> None:
        self._transport = transport
        self.is_plain = is_plain  # no TLS to any node, and no limit of the bandwidth
        self._timeout_factor = timeout_factor  # of slow operations, in timeouts of the others
        self.budget = budget or RetryBudget(UNLIMITED)
        self.slots = slots or FairSlots(MANY)
        # A body may come slowly, and holds one of the clients' connections as long.
        self.body_slots = FairSlots(
            body_slots, kind="bodies", detail="too many of your uploads are under way.", closes=True
        )
        self.memory: ByteBudget | None = None  # for documents that nodes send

    def send(
        self,
        node_request: NodeRequest,
        operation: S3Operation,
        *,
        body: Body = EMPTY_BODY,
        attempts: Attempts,
        only: Endpoint | None = None,
    ) -> Response:
        """Return a node's answer, whatever its status; the caller closes it.

        Raises:
            S3ErrorResponse: no node gave one, or the client's body is not what was signed.
            ClientGoneError: the client hung up inside its body.
        """
        return self.sending(node_request, operation, body=body, attempts=attempts, only=only).finish()

    def begin_now(self, node_request: NodeRequest) -> tuple[Node, Exchange | None]:
        """Send a GET or HEAD without waiting for anything; no exchange when that cannot be."""
        transport = self._transport
        node = transport.balancer.pick(affinity=node_request.resource)
        head = node_request.build(node.endpoint, transport.signing_time())
        return node, begin_now(node, BARE[node_request.head.method], head)

    def sending(
        self,
        node_request: NodeRequest,
        operation: S3Operation,
        *,
        body: Body = EMPTY_BODY,
        attempts: Attempts,
        only: Endpoint | None = None,
        begun: StartedRequest | None = None,
    ) -> ForwardedRequest:
        """Return the same as send() in two steps; it must be finished.

        ``begun`` is what begin_now() did of it, with its place in the budget.
        """
        check = ResponseCheck(operation, signs=node_request.signer is not None, attempts=attempts, memory=self.memory)
        token = begun.token if begun is not None else RetryToken(self.budget)
        request = self._request(node_request, operation, body=body, attempts=attempts, token=token)
        call = self._transport.call(request, check.check, only=only)
        if begun is not None:
            call.adopt(begun.node, begun.exchange)
            if begun.exchange is not None:
                attempts.endpoints.append(begun.node.endpoint)
        return ForwardedRequest(call, check, token)

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


class StartedRequest(NamedTuple):
    """A request that begin_now() sent, with its retry token."""

    node: Node
    exchange: Exchange | None
    token: RetryToken


class ForwardedRequest:
    """A request under way; it counts in the retry budget until it is answered."""

    __slots__ = ("_call", "_check", "_token")

    def __init__(self, call: Call, check: ResponseCheck, token: RetryToken) -> None:
        self._call = call
        self._check = check
        self._token = token

    def finish(self) -> Response:
        """Return a node's answer, as Forwarder.send() does."""
        try:
            return self._call.finish()
        except S3Error:
            if self._check.answer is None:
                raise
            return self._check.answer
        except TransportError as exc:
            raise refusal_for(exc) from exc
        finally:
            self._token.end()


def refusal_for(error: S3PoolError) -> S3ErrorResponse:
    """Return the response to the client when no node answered; details are only logged."""
    if isinstance(error, NoEndpointError) and isinstance(error.__cause__, ProtocolError):
        error = error.__cause__  # the nodes were reached, and said nothing that is HTTP
    if isinstance(error, NoEndpointError) or (isinstance(error, TransportError) and not error.sent):
        return unavailable("no storage node could be reached; try again")
    if isinstance(error, RequestTimeoutError):
        return S3ErrorResponse(504, "RequestTimeout", "the storage node did not answer in time", fields=_RETRY)
    return S3ErrorResponse(502, "BadGateway", "the storage node's answer was broken off or malformed", fields=_RETRY)


_RETRY: Sequence[tuple[str, str]] = RETRY_AFTER_FIELDS
