"""The request head that goes to a node: the client's fields, signed anew or left alone.

Fields pass unless they stand on a list: S3 has over a hundred, and gets more. What is sent is
built from parsed parts with one Content-Length, so no node can see another framing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from s3pool.model import Endpoint, Request
from s3pool.pool.breaker import ANYBODY
from s3pool.proxy.auth import QUERY_V2, QUERY_V4, STREAMS, V2_PARAMETERS, V4_PARAMETERS, echoed
from s3pool.proxy.budget import Slip
from s3pool.proxy.denial import forbidden
from s3pool.proxy.head import RequestHead
from s3pool.proxy.target import Target
from s3pool.record import dataclass, field, replace
from s3pool.s3.signing import Signer

Fields = tuple[tuple[str, str], ...]

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
FRAMING = frozenset({"x-amz-decoded-content-length", "x-amz-trailer"})
CONDITIONS = frozenset({"range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"})
SIGNED_BY_NAME = frozenset({"content-md5", "content-type"})
AWS_CHUNKED = "aws-chunked"
PAYLOAD_FIELD = "x-amz-content-sha256"


@dataclass(frozen=True, slots=True)
class ProxyRequest(Request):
    """A request whose head is built by the proxy itself, once an endpoint was picked."""

    build: Callable[[Endpoint, float], bytes] = field(default=lambda _endpoint, _now: b"")
    slip: Slip | None = None
    access_key: str = ""

    @property
    def asker(self) -> str:
        """Return the key and the request, since a key's every request is one that others have not sent."""
        return f"{self.access_key} {self.method} {self.path}" if self.access_key else ANYBODY

    def may_retry(self) -> bool:
        """Say whether the budget of second tries has room."""
        return self.slip is None or self.slip.may_retry()

    def note_retry(self) -> None:
        """Take up a place in the budget of second tries."""
        if self.slip is not None:
            self.slip.note_retry()


class Sendable(Protocol):
    """A request whose head can be built for any node."""

    @property
    def method(self) -> str:
        """Give the request's method."""

    @property
    def path(self) -> str:
        """Give the path as it goes on."""

    @property
    def resource(self) -> str:
        """Give s3/bucket/key, for logs and for nodes that keep to their keys."""

    @property
    def signs(self) -> bool:
        """Say whether the head is signed here."""

    @property
    def access_key(self) -> str:
        """Return whose request it is, or an address; empty for anonymous."""

    def build(self, endpoint: Endpoint, now: float) -> bytes:
        """Give the bytes of the head for an endpoint."""


def head_of(request: Request, endpoint: Endpoint, now: float) -> bytes:
    """Build the head of a ProxyRequest; what the pool's transport is given."""
    if not isinstance(request, ProxyRequest):
        raise TypeError("only the proxy's own requests come this way")
    return request.build(endpoint, now)


@dataclass(frozen=True, slots=True)
class Outbound:
    """All that is known of a request's head before an endpoint is picked.

    ``signer`` is None where the client's own signature is kept. ``length`` is the body's, None
    when there is none to announce. ``extra`` are fields that the proxy adds.
    """

    head: RequestHead
    target: Target
    form: str
    signer: Signer | None
    payload: str
    length: int | None
    is_decoded: bool = False
    asks_leave: bool = False  # the node is to say whether it wants the body
    is_trusted: bool = False  # the client is a balancer whose word for its own client counts
    access_key: str = ""  # or the address of a client whom only nodes know
    extra: Fields = ()
    dropped: frozenset[str] = frozenset()

    @property
    def method(self) -> str:
        """Give the request's method."""
        return self.head.method

    @property
    def path(self) -> str:
        """Give the path as it goes on."""
        return self.target.path

    @property
    def resource(self) -> str:
        """Give s3/bucket/key."""
        return self.target.resource

    @property
    def signs(self) -> bool:
        """Say whether the head is signed here."""
        return self.signer is not None

    def resumed(self, first: int, last: int, *, etag: str) -> Outbound:
        """Give the request for the rest of an object, and of no other one."""
        fields = (("Range", f"bytes={first}-{last}"), ("If-Match", etag))
        return replace(self, extra=(*self.extra, *fields), dropped=self.dropped | CONDITIONS)

    def build(self, endpoint: Endpoint, now: float) -> bytes:
        """Give the bytes of the head for an endpoint."""
        if self.signer is None:
            return self._lines(self.head.target, self._kept_fields(endpoint))
        fields = [*self._own_fields(), *self.extra]
        if self.form == QUERY_V4 and PAYLOAD_FIELD in self.head.index:  # a URL that is good for one content alone
            fields.append((PAYLOAD_FIELD, self.payload))
        headers = {"host": endpoint.netloc, **_joined(fields)}
        if self.form == QUERY_V4:
            query = self.signer.authorize_query(
                headers,
                self.head.method,
                path=self.target.path,
                query=self.target.query_without(V4_PARAMETERS),
                now=now,
                payload_hash=self.payload,
            )
            return self._lines(_target(self.target.path, query), [("Host", endpoint.netloc), *fields])
        query = self.target.query_without(self._signature_parameters())
        before = set(headers)
        if self.payload:
            headers[PAYLOAD_FIELD] = self.payload
        self.signer.authorize(headers, self.head.method, path=self.target.path, query=query, now=now)
        added = [(name, value) for name, value in headers.items() if name not in before]
        return self._lines(_target(self.target.path, query), [("Host", endpoint.netloc), *fields, *added])

    def _signature_parameters(self) -> frozenset[str]:
        if self.head.method == "OPTIONS":  # a signed URL that a browser asks about; it goes on unsigned
            return V2_PARAMETERS | V4_PARAMETERS
        return V2_PARAMETERS | echoed(self.head, self.target) if self.form == QUERY_V2 else frozenset()

    def _kept_fields(self, endpoint: Endpoint) -> Iterable[tuple[str, str]]:
        if not self.head.host:  # HTTP/1.0 may leave it out
            yield "Host", endpoint.netloc
        gone = {"content-length", "expect"} | self.dropped
        for name, value in self.head.iter_end_to_end():
            if name.lower() not in gone and (self.is_trusted or not is_hearsay(name.lower())):
                yield name, value
        yield from self.extra

    def _own_fields(self) -> Iterable[tuple[str, str]]:
        gone = REPLACED | self.dropped | (FRAMING if self.is_decoded else frozenset())
        for name, value in self.head.iter_end_to_end():
            lower = name.lower()
            if lower == "content-encoding" and self.is_decoded:
                rest = without_token(value, AWS_CHUNKED)
                if rest:
                    yield name, rest
            elif lower not in gone and (self.is_trusted or not is_hearsay(lower)):
                yield name, value

    def _lines(self, target: str, fields: Iterable[tuple[str, str]]) -> bytes:
        lines = [f"{self.head.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
        if self.length is not None:
            lines.append(f"Content-Length: {self.length}")
        if self.asks_leave:
            lines.append("Expect: 100-continue")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def _target(path: str, query: str) -> str:
    return f"{path}?{query}" if query else path


def _joined(fields: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """Give the fields that the signature covers, repeated ones joined as the canonical form wants."""
    joined: dict[str, str] = {}
    for name, value in fields:
        lower = name.lower()
        if is_signed_name(lower):
            joined[lower] = f"{joined[lower]},{value}" if lower in joined else value
    return joined


def is_hearsay(lower: str) -> bool:
    """Return whether a field tells of a client what only a balancer may."""
    return lower in FORWARDED or lower.startswith(FORWARDED_PREFIX)


def refuse_hearsay(head: RequestHead, target: Target) -> None:
    """Refuse a request that must keep its signature and can keep it only with such a field.

    Raises:
        Denial: it is signed, or said to be.
    """
    hearsay = [name for name in head.index if is_hearsay(name)]
    if hearsay and not signed_names(head, target).isdisjoint(hearsay):
        detail = "only a trusted balancer may send this header, signed or not; leave it out"
        raise forbidden("AccessDenied", f"{hearsay[0]}: {detail}", reason="forwarded")


def is_signed_name(lower: str) -> bool:
    """Say whether the proxy's own signature covers a field beside Host."""
    return lower.startswith("x-amz-") or lower in SIGNED_BY_NAME


def without_token(value: str, token: str) -> str:
    """Take one word out of a comma-separated value: ``gzip,aws-chunked`` is ``gzip``."""
    words = [word.strip(" \t") for word in value.split(",")]
    return ",".join(word for word in words if word and word.lower() != token)


def signed_names(head: RequestHead, target: Target) -> frozenset[str]:
    """Give the headers that a client says it signed, for requests that keep its signature."""
    _, _, listed = head.value("authorization").partition("SignedHeaders=")
    queries = [value for name, value in target.parameters if name.lower() == "x-amz-signedheaders"]
    return frozenset(";".join([listed.split(",", 1)[0].strip(), *queries]).lower().split(";"))


def is_framed(payload: str) -> bool:
    """Say whether a payload word means the aws-chunked form."""
    return payload in STREAMS
