"""The request head for a node: the client's fields, signed again or left alone.

Fields pass unless they stand on a list: S3 has over a hundred, and gets more. What is sent is
built from parsed parts with one Content-Length, so no node can see another framing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from s3pool.model import Endpoint, Request
from s3pool.pool.breaker import ANYBODY
from s3pool.proxy.auth import QUERY_V2, QUERY_V4, STREAMS, V2_PARAMETERS, V4_PARAMETERS
from s3pool.proxy.auth_v2 import echoed
from s3pool.proxy.errors import forbidden
from s3pool.proxy.limits import RetryToken
from s3pool.proxy.request import CACHE_SIZE, HOP_BY_HOP, Field, RequestHead, assume_present
from s3pool.proxy.request_target import Target
from s3pool.record import dataclass, field, replace
from s3pool.s3.signing import Signer

Fields = tuple[Field, ...]

NO_NAMES: frozenset[str] = frozenset()
# Replaced by the new signature, answered here, or true of the client's connection alone.
REPLACED = frozenset(
    {
        "host",
        "authorization",
        "content-length",
        "date",
        "expect",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-security-token",
    }
)
# What a balancer says of a client; of anybody else it is hearsay. Nodes can be told to believe any of these.
FORWARDED = frozenset(
    {
        "cf-connecting-ip",
        "client-ip",
        "fastly-client-ip",
        "forwarded",
        "front-end-https",
        "true-client-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-original-forwarded-for",
        "x-original-host",
        "x-original-uri",
        "x-original-url",
        "x-proxyuser-ip",
        "x-real-ip",
        "x-rewrite-url",
        "x-url-scheme",
    }
)
FORWARDED_PREFIX = "x-forwarded"
KEPT = frozenset({"content-length", "expect"})  # of those, what is replaced even where the signature is kept
FRAMING = frozenset({"x-amz-decoded-content-length", "x-amz-trailer"})
CONDITIONS = frozenset({"range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"})
SIGNED_BY_NAME = frozenset({"content-md5", "content-type"})
AWS_CHUNKED = "aws-chunked"
PAYLOAD_FIELD = "x-amz-content-sha256"


@dataclass(frozen=True, slots=True)
class ProxyRequest(Request):
    """A request whose head the proxy builds once an endpoint is picked."""

    build: Callable[[Endpoint, float], bytes] = field(default=lambda _endpoint, _now: b"")
    token: RetryToken | None = None
    access_key: str = ""
    look_for_client: Callable[[], None] = assume_present

    @property
    def asker(self) -> str:
        """Return the key and the request, since a key's every request is one that others have not sent."""
        return f"{self.access_key} {self.method} {self.path}" if self.access_key else ANYBODY

    def may_retry(self) -> bool:
        """Return whether the budget of second tries has room."""
        return self.token is None or self.token.may_retry()

    def note_retry(self) -> None:
        """Take up a place in the budget of second tries."""
        if self.token is not None:
            self.token.note_retry()

    def look_for_sender(self) -> None:
        """Raise ClientGoneError if the client has hung up."""
        self.look_for_client()


def head_of(request: Request, endpoint: Endpoint, now: float) -> bytes:
    """Build the head of a ProxyRequest; the pool's transport calls this."""
    if not isinstance(request, ProxyRequest):
        raise TypeError("only the proxy's own requests come this way")
    return request.build(endpoint, now)


@dataclass(slots=True)  # not frozen: one is made for every request
class NodeRequest:
    """All that is known of a request's head before an endpoint is picked.

    ``signer`` is None where the client's own signature is kept. ``length`` is the body's, None
    when there is none to announce. ``extra`` are fields that the proxy adds, ``dropped`` the
    names of those that it leaves out.
    """

    head: RequestHead
    target: Target
    form: str
    signer: Signer | None
    payload: str
    length: int | None
    is_decoded: bool = False
    expects_continue: bool = False  # the node is to say whether it wants the body
    is_trusted: bool = False  # the client is a balancer whose word for its own client counts
    access_key: str = ""  # or the address of a client whom only nodes know
    extra: Fields = ()
    dropped: frozenset[str] = frozenset()

    @property
    def resource(self) -> str:
        """Return s3/bucket/key."""
        return self.target.resource

    def resumed(self, first: int, last: int, *, etag: str) -> NodeRequest:
        """Return the request for the rest of an object, and of no other one."""
        fields = (("Range", f"bytes={first}-{last}"), ("If-Match", etag))
        return replace(self, extra=(*self.extra, *fields), dropped=self.dropped | CONDITIONS)

    def build(self, endpoint: Endpoint, now: float) -> bytes:
        """Return the bytes of the head for an endpoint."""
        head, target, signer, host = self.head, self.target, self.signer, endpoint.netloc
        if signer is None:
            own = [("Host", host)] if not head.host else []  # which HTTP/1.0 may leave out
            return self._lines(head.target, [*own, *self._client_fields(KEPT), *self.extra])
        fields = [*self._client_fields(REPLACED), *self.extra]
        headers = _signed_fields(host, fields)
        if self.form == QUERY_V4:
            query = self._signed_query(signer, headers, fields, now)
            return self._lines(_target(target.path, query), [("Host", host), *fields])
        count = len(headers)
        if self.payload:
            headers[PAYLOAD_FIELD] = self.payload
        query = target.query_without(self._signature_parameters()) if target.pairs else ""
        signer.authorize(headers, head.method, path=target.path, query=query, now=now)
        return self._lines(_target(target.path, query), [("Host", host), *fields, *[*headers.items()][count:]])

    def _signed_query(self, signer: Signer, headers: dict[str, str], fields: list[Field], now: float) -> str:
        """Return the query with a signature of ours instead of the client's."""
        if PAYLOAD_FIELD in self.head.index:  # a URL that is good for one content alone
            fields.append((PAYLOAD_FIELD, self.payload))
            headers[PAYLOAD_FIELD] = self.payload
        return signer.authorize_query(
            headers,
            self.head.method,
            path=self.target.path,
            query=self.target.query_without(V4_PARAMETERS),
            now=now,
            payload_hash=self.payload,
        )

    def _signature_parameters(self) -> frozenset[str]:
        if self.head.method == "OPTIONS":  # a signed URL that a browser asks about; it goes on unsigned
            return V2_PARAMETERS | V4_PARAMETERS
        return V2_PARAMETERS | echoed(self.head, self.target) if self.form == QUERY_V2 else NO_NAMES

    def _client_fields(self, replaced: frozenset[str]) -> list[Field]:
        """Return the client's end-to-end fields without those that are replaced."""
        head = self.head
        gone = replaced | self.dropped if self.dropped else replaced
        if head.connection:
            gone |= head.connection
        select = _cached_places if head.is_cacheable else _places
        fields = [head.fields[place] for place in select(head.names, gone, trusts_forwarding=self.is_trusted)]
        return [*filter(None, map(_decoded, fields))] if self.is_decoded and self.signer is not None else fields

    def _lines(self, target: str, fields: Iterable[Field]) -> bytes:
        lines = [f"{self.head.method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in fields]]
        if self.length is not None:
            lines.append(f"Content-Length: {self.length}")
        if self.expects_continue:
            lines.append("Expect: 100-continue")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def _places(names: tuple[str, ...], gone: frozenset[str], *, trusts_forwarding: bool) -> tuple[int, ...]:
    """Return the places of the fields that go on to a node."""
    gone |= HOP_BY_HOP
    return tuple(
        place
        for place, name in enumerate(names)
        if name not in gone and (trusts_forwarding or not is_forwarding_header(name))
    )


_cached_places = lru_cache(CACHE_SIZE)(_places)


def _decoded(field: Field) -> Field | None:
    """Return a field without aws-chunked; None for a field of that coding alone."""
    name, value = field
    lower = name.lower()
    if lower == "content-encoding":
        value = without_token(value, AWS_CHUNKED)
        return (name, value) if value else None
    return None if lower in FRAMING else field


def _target(path: str, query: str) -> str:
    return f"{path}?{query}" if query else path


def _signed_fields(host: str, fields: Iterable[Field]) -> dict[str, str]:
    """Return the fields that the signature covers, repeated ones joined as the canonical form wants."""
    joined = {"host": host}
    for name, value in fields:
        lower = name.lower()
        if lower[:6] == "x-amz-" or lower in SIGNED_BY_NAME:
            joined[lower] = f"{joined[lower]},{value}" if lower in joined else value
    return joined


def is_forwarding_header(lower: str) -> bool:
    """Return whether only a balancer may send a field."""
    return lower in FORWARDED or lower.startswith(FORWARDED_PREFIX)


def refuse_signed_forwarding(head: RequestHead, target: Target) -> None:
    """Refuse a signed request whose signature covers a forwarding header.

    Raises:
        S3ErrorResponse: it is signed, or said to be.
    """
    hearsay = [name for name in head.index if is_forwarding_header(name)]
    if hearsay and not signed_names(head, target).isdisjoint(hearsay):
        detail = "only a trusted balancer may send this header, signed or not; leave it out"
        raise forbidden("AccessDenied", f"{hearsay[0]}: {detail}", reason="forwarded")


def without_token(value: str, token: str) -> str:
    """Take one word out of a comma-separated value: ``gzip,aws-chunked`` is ``gzip``."""
    words = [word.strip(" \t") for word in value.split(",")]
    return ",".join(word for word in words if word and word.lower() != token)


def signed_names(head: RequestHead, target: Target) -> frozenset[str]:
    """Return the names of the headers that a client declares as signed."""
    _, _, listed = head.value("authorization").partition("SignedHeaders=")
    queries = [value for name, value in target.parameters if name.lower() == "x-amz-signedheaders"]
    return frozenset(";".join([listed.split(",", 1)[0].strip(), *queries]).lower().split(";"))


def is_framed(payload: str) -> bool:
    """Return whether a payload word means the aws-chunked form."""
    return payload in STREAMS
