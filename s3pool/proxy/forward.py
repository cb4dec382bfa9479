"""A verified request on its way through the pool: its head for a node, retries, and the final answer.

Fields pass unless they stand on a list: S3 has over a hundred, and gets more. What is sent is
built from parsed parts with one Content-Length, so no node can see another framing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
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
from s3pool.pool.exchange import Exchange, send_over
from s3pool.pool.node import ANYBODY, Node
from s3pool.pool.retry import Try
from s3pool.pool.transport import Transport
from s3pool.proxy.auth import QUERY_V2, QUERY_V4
from s3pool.proxy.auth_v2 import echoed
from s3pool.proxy.errors import RETRY_AFTER_FIELDS, S3ErrorResponse, forbidden, unavailable
from s3pool.proxy.limits import ByteBudget, FairSlots, RetryBudget
from s3pool.proxy.operations import V2_PARAMETERS, V4_PARAMETERS, S3Operation
from s3pool.proxy.request import CACHE_SIZE, HOP_BY_HOP, NO_NAMES, Field, RequestHead, Target, assume_present
from s3pool.record import dataclass, field, replace
from s3pool.s3.documents import MAX_ERROR_BYTES, REGION_STATUS, parse_error, told_region
from s3pool.s3.signing import Signer, canonical_query
from s3pool.units import parse_http_date, word_set

Fields = tuple[Field, ...]

# Replaced by the new signature, answered here, or true of the client's connection alone.
REPLACED = word_set(
    "host authorization content-length date expect x-amz-content-sha256 x-amz-date x-amz-security-token"
)
# What a balancer says of a client; of anybody else it is hearsay. Nodes can be told to believe any of these.
FORWARDED = word_set(
    "cf-connecting-ip client-ip fastly-client-ip forwarded front-end-https true-client-ip x-client-ip "
    "x-cluster-client-ip x-original-forwarded-for x-original-host x-original-uri x-original-url x-proxyuser-ip "
    "x-real-ip x-rewrite-url x-url-scheme"
)
FORWARDED_PREFIX = "x-forwarded"
KEPT = frozenset({"content-length", "expect"})  # of those, what is replaced even where the signature is kept
FRAMING = frozenset({"x-amz-decoded-content-length", "x-amz-trailer"})
CONDITIONS = frozenset({"range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"})
SIGNED_BY_NAME = frozenset({"content-md5", "content-type"})
AWS_CHUNKED = "aws-chunked"
PAYLOAD_FIELD = "x-amz-content-sha256"


class Passage(NamedTuple):
    """Which fields of a head go on to a node, by their places, and which of these are signed."""

    places: tuple[int, ...]
    signed: tuple[int, ...]


@dataclass(slots=True)  # not frozen: one is made for every request
class NodeRequest:
    """All that is known of a request's head before an endpoint is picked.

    ``signer`` is None where the client's own signature is kept. ``length`` is the body's, None when there is none to
    announce. The proxy adds ``origin``, lines that tell of the client and that no signature covers, and the fields in
    ``extra``; ``dropped`` are the names of those that it leaves out.
    """

    head: RequestHead
    target: Target
    form: str
    signer: Signer | None
    payload: str
    length: int | None
    origin: str = ""
    access_key: str = ""  # or the address of a client whom only nodes know
    expects_continue: bool = False  # the node is to say whether it wants the body
    is_trusted: bool = False  # the client is a balancer whose word for its own client counts
    extra: Fields = ()
    dropped: frozenset[str] = NO_NAMES

    def resumed(self, first: int, last: int, *, etag: str) -> NodeRequest:
        """Return the request for the rest of an object, and of no other one."""
        fields = ("Range", f"bytes={first}-{last}"), ("If-Match", etag)
        return replace(self, extra=(*self.extra, *fields), dropped=self.dropped | CONDITIONS)

    def build(self, endpoint: Endpoint, now: float) -> bytes:
        """Return the bytes of the head for an endpoint."""
        head, target, signer, host = self.head, self.target, self.signer, endpoint.netloc
        if signer is None:  # HTTP/1.0 may leave out Host
            return self._bytes(head.target, "" if head.host else f"Host: {host}\r\n", self._passage(KEPT), "")
        passage = self._passage(REPLACED)
        headers = self._signed_fields(host, passage) if passage.signed or self.extra else (("host", host),)
        query = target.query_without(self._signature_parameters()) if target.pairs else ""
        if self.form == QUERY_V4:
            query, signature = self._signed_query(signer, headers, query, now)
        else:
            if self.payload:
                headers = (*headers, (PAYLOAD_FIELD, self.payload))
            covered = canonical_query(query) if query else ""
            signature = signer.signed_head(headers, now).lines(head.method, target.path, covered)
        path = f"{target.path}?{query}" if query else target.path
        return self._bytes(path, f"Host: {host}\r\n", passage, signature)

    def _bytes(self, target: str, host: str, passage: Passage, signature: str) -> bytes:
        head = self.head
        own = "".join(map(head.lines.__getitem__, passage.places))
        extra = "".join([f"{name}: {value}\r\n" for name, value in self.extra]) if self.extra else ""
        length = "" if self.length is None else f"Content-Length: {self.length}\r\n"
        if self.expects_continue:
            length += "Expect: 100-continue\r\n"
        text = f"{head.method} {target} HTTP/1.1\r\n{host}{own}{self.origin}{extra}{signature}{length}\r\n"
        return text.encode("utf-8", "surrogateescape")

    def _passage(self, replaced: frozenset[str]) -> Passage:
        head = self.head
        gone = replaced | self.dropped if self.dropped else replaced
        if head.connection:
            gone |= head.connection
        find = _cached_passage if head.is_cacheable else _find_passage
        return find(head.names, gone, self.is_trusted)

    def _signed_fields(self, host: str, passage: Passage) -> Fields:
        """Return the fields that the signature covers, repeated ones joined as the canonical form wants."""
        head, joined = self.head, {"host": host}
        fields = [(head.names[place], head.fields[place][1]) for place in passage.signed]
        fields += [(name.lower(), value) for name, value in self.extra if is_signed(name.lower())]
        for name, value in fields:
            joined[name] = f"{joined[name]},{value}" if name in joined else value
        return tuple(joined.items())

    def _signed_query(self, signer: Signer, headers: Fields, query: str, now: float) -> tuple[str, str]:
        """Return the query with a signature of ours instead of the client's, and the lines that it needs."""
        line = ""
        if PAYLOAD_FIELD in self.head.index:  # a URL that is good for one content alone
            line, headers = f"{PAYLOAD_FIELD}: {self.payload}\r\n", (*headers, (PAYLOAD_FIELD, self.payload))
        method, path, fields = self.head.method, self.target.path, dict(headers)
        return signer.authorize_query(fields, method, path=path, query=query, now=now, payload_hash=self.payload), line

    def _signature_parameters(self) -> frozenset[str]:
        if self.head.method == "OPTIONS":  # a signed URL that a browser asks about; it goes on unsigned
            return V2_PARAMETERS | V4_PARAMETERS
        if self.form == QUERY_V4:
            return V4_PARAMETERS
        return V2_PARAMETERS | echoed(self.head, self.target) if self.form == QUERY_V2 else NO_NAMES


def _find_passage(names: tuple[str, ...], gone: frozenset[str], trusts_forwarding: bool) -> Passage:
    gone |= HOP_BY_HOP
    hides = not trusts_forwarding
    passing = [n for n, name in enumerate(names) if not (name in gone or (hides and is_forwarding_header(name)))]
    return Passage(tuple(passing), tuple([place for place in passing if is_signed(names[place])]))


_cached_passage = lru_cache(CACHE_SIZE)(_find_passage)


def is_signed(lower: str) -> bool:
    """Return whether the proxy's signature covers a field."""
    return lower.startswith("x-amz-") or lower in SIGNED_BY_NAME


def without_framing(head: RequestHead) -> RequestHead:
    """Return a head without what it says of the aws-chunked form, for a body that has left it."""
    return head.with_fields(filter(None, map(_decoded, head.fields)))


def _decoded(field: Field) -> Field | None:
    """Return a field without aws-chunked; None for a field of that coding alone."""
    name, value = field
    lower = name.lower()
    if lower == "content-encoding":
        words = [word.strip(" \t") for word in value.split(",")]  # gzip,aws-chunked becomes gzip
        value = ",".join(word for word in words if word and word.lower() != AWS_CHUNKED)
        return (name, value) if value else None
    return None if lower in FRAMING else field


def is_forwarding_header(lower: str) -> bool:
    """Return whether only a balancer may send a field."""
    return lower in FORWARDED or lower.startswith(FORWARDED_PREFIX)


def refuse_signed_forwarding(head: RequestHead, target: Target) -> None:
    """Refuse a request whose signature covers a forwarding header. Raises S3ErrorResponse: it does."""
    hearsay = [name for name in head.index if is_forwarding_header(name)]
    if hearsay and not signed_names(head, target).isdisjoint(hearsay):
        detail = "only a trusted balancer may send this header, signed or not; leave it out"
        raise forbidden("AccessDenied", f"{hearsay[0]}: {detail}", reason="forwarded")


def signed_names(head: RequestHead, target: Target) -> frozenset[str]:
    """Return the names of the headers that a client declares as signed."""
    _, _, listed = head.value("authorization").partition("SignedHeaders=")
    queries = [value for name, value in target.parameters if name.lower() == "x-amz-signedheaders"]
    return frozenset(";".join([listed.split(",", 1)[0].strip(), *queries]).lower().split(";"))


@dataclass(slots=True)
class Attempts:
    """Which endpoints a request was sent to, in order."""

    endpoints: list[Endpoint] = field(default_factory=list)
    tries: list[Try] = field(default_factory=list)  # where traces are made
    kept: int = 0  # bytes of answers that are kept, taken from the memory for all requests
    is_retrying: bool = False  # it has a place in the budget of second tries

    @property
    def last(self) -> str:
        """Return the last endpoint's URL, or nothing."""
        return str(self.endpoints[-1]) if self.endpoints else ""


@dataclass(frozen=True, slots=True)
class ProxyRequest(Request):
    """A request whose head the proxy builds once an endpoint is picked."""

    build: Callable[[Endpoint, float], bytes] = field(default=lambda _endpoint, _now: b"")
    attempts: Attempts = field(default_factory=Attempts)
    budget: RetryBudget = field(default_factory=RetryBudget)
    access_key: str = ""
    look_for_client: Callable[[], None] = assume_present

    @property
    def asker(self) -> str:
        """Return the key and the request, since a key's every request is one that others have not sent."""
        return f"{self.access_key} {self.method} {self.path}" if self.access_key else ANYBODY

    def may_retry(self) -> bool:
        """Return whether the budget of second tries has room."""
        return self.attempts.is_retrying or self.budget.admits

    def note_retry(self) -> None:
        """Take up a place in the budget of second tries."""
        if not self.attempts.is_retrying:
            self.attempts.is_retrying = True
            self.budget.change(1)

    def end(self) -> None:
        """Free the place, once there is an answer."""
        if self.attempts.is_retrying:
            self.attempts.is_retrying = False
            self.budget.change(-1)

    def look_for_sender(self) -> None:
        """Raise ClientGoneError if the client has hung up."""
        self.look_for_client()


def head_of(request: Request, endpoint: Endpoint, now: float) -> bytes:
    """Build the head of a ProxyRequest; the pool's transport calls this."""
    if not isinstance(request, ProxyRequest):
        raise TypeError("only the proxy's own requests come this way")
    return request.build(endpoint, now)


FIRST_ERROR, TOO_MANY_REQUESTS, SERVER_ERROR, NOT_IMPLEMENTED, UNAVAILABLE = 400, 429, 500, 501, 503
SKEWED = "RequestTimeTooSkewed"
# A client would repeat these itself when the node that has them falls silent for good.
REPEATED_BY_CLIENTS = frozenset({"CreateMultipartUpload", "PutObject", "UploadPart"})
MAX_DOCUMENT_BYTES = 4 << 20  # a page of a thousand versions with long names has 3 MB
MAX_ANSWER_BYTES = 1 << 20  # of an error that another node may not give
Begun = tuple[Node, Exchange | None]  # a first try: where, and what was sent if anything could be at once
# Until more is asked of a request than its method.
BARE = {method: Request(method, "", "") for method in ("GET", "HEAD")}


class ResponseCheck:
    """Says whether another node is to be asked, once for each kind of refusal; keeps the last answer whole."""

    def __init__(self, operation: S3Operation, *, signs: bool, attempts: Attempts, memory: ByteBudget | None) -> None:
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
        status, headers, endpoint, op = response.status, response.headers, str(response.endpoint), self._operation.name
        code, region = code or f"HTTP{status}", told_region(status, headers, response.body or b"")
        at = parse_http_date(headers.get("date", ""))
        return kind(status, code, endpoint=endpoint, op=op, server_time=at, final=final, region=region)


class Forwarder:
    """Sends requests into the pool; shared by all connections."""

    def __init__(
        self,
        transport: Transport,
        *,
        retry_share: float,
        timeout_factor: float,
        is_plain: bool,
        slots: FairSlots,
        body_slots: int,
    ) -> None:
        self.transport = transport
        self.is_plain = is_plain  # no TLS to any node, and no limit of the bandwidth
        self._timeout_factor = timeout_factor  # of slow operations, in timeouts of the others
        self.slots = slots
        self.budget = RetryBudget(retry_share, lambda: slots.taken)
        # A body may come slowly, and holds one of the clients' connections as long.
        self.body_slots = FairSlots(
            body_slots, kind="bodies", detail="too many of your uploads are under way.", closes=True
        )
        self.memory: ByteBudget | None = None  # for documents that nodes send

    def begin_now(self, node_request: NodeRequest) -> Begun:
        """Send a GET or HEAD over an open connection, without waiting; no exchange when there is none."""
        transport = self.transport
        balancer = transport.balancer
        node = balancer.next_in_turn() or balancer.pick(affinity=node_request.target.resource)
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

        Raises S3ErrorResponse: no node gave one, or the client's body is not what was signed. ClientGoneError.
        """
        check = ResponseCheck(operation, signs=node_request.signer is not None, attempts=attempts, memory=self.memory)
        request = self._request(node_request, operation, body, attempts)
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
            request.end()
            attempts.tries += attempt.tries or ()

    def _request(
        self, node_request: NodeRequest, operation: S3Operation, body: Body, attempts: Attempts
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
            resource=node_request.target.resource,
            timeout_factor=self._timeout_factor if operation.is_slow else 1.0,
            is_endless=operation.is_endless,
            may_come_late=operation.name == "UploadPart",
            is_harmless_twice=operation.name in REPEATED_BY_CLIENTS and CONDITIONS.isdisjoint(node_request.head.index),
            build=build,
            attempts=attempts,
            budget=self.budget,
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
        detail = "the storage node did not answer in time"
        return S3ErrorResponse(504, "RequestTimeout", detail, fields=RETRY_AFTER_FIELDS)
    detail = "the storage node's answer was broken off or malformed"
    return S3ErrorResponse(502, "BadGateway", detail, fields=RETRY_AFTER_FIELDS)
