"""The request head for a node: the client's fields, signed again or left alone.

Fields pass unless they stand on a list: S3 has over a hundred, and gets more. What is sent is
built from parsed parts with one Content-Length, so no node can see another framing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from s3pool.model import Endpoint, Request
from s3pool.pool.node import ANYBODY
from s3pool.proxy.auth import QUERY_V2, QUERY_V4, STREAMS, V2_PARAMETERS
from s3pool.proxy.auth_v2 import echoed
from s3pool.proxy.claims import V4_PARAMETERS
from s3pool.proxy.errors import forbidden
from s3pool.proxy.request import CACHE_SIZE, HOP_BY_HOP, NO_NAMES, Field, RequestHead, Target, assume_present
from s3pool.record import dataclass, field, replace
from s3pool.s3.signing import Signer, canonical_query
from s3pool.units import word_set

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
        signed = signer.authorize_query(
            dict(headers), self.head.method, path=self.target.path, query=query, now=now, payload_hash=self.payload
        )
        return signed, line

    def _signature_parameters(self) -> frozenset[str]:
        if self.head.method == "OPTIONS":  # a signed URL that a browser asks about; it goes on unsigned
            return V2_PARAMETERS | V4_PARAMETERS
        if self.form == QUERY_V4:
            return V4_PARAMETERS
        return V2_PARAMETERS | echoed(self.head, self.target) if self.form == QUERY_V2 else NO_NAMES


def _find_passage(names: tuple[str, ...], gone: frozenset[str], trusts_forwarding: bool) -> Passage:
    gone |= HOP_BY_HOP
    places = [
        place
        for place, name in enumerate(names)
        if name not in gone and (trusts_forwarding or not is_forwarding_header(name))
    ]
    return Passage(tuple(places), tuple([place for place in places if is_signed(names[place])]))


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
        value = without_token(value, AWS_CHUNKED)
        return (name, value) if value else None
    return None if lower in FRAMING else field


def is_forwarding_header(lower: str) -> bool:
    """Return whether only a balancer may send a field."""
    return lower in FORWARDED or lower.startswith(FORWARDED_PREFIX)


def refuse_signed_forwarding(head: RequestHead, target: Target) -> None:
    """Refuse a signed request whose signature covers a forwarding header.

    Raises S3ErrorResponse: it is signed, or said to be.
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


LEAST_RETRIES = 3  # so many second tries at a time are free: a quiet proxy has no percentage to speak of


class RetryBudget:
    """The share of the requests at nodes that may be in a second try.

    When every node refuses, trying each request three times would triple the load that
    made them refuse. What a dead node leaves behind is no such load, and is not counted.
    """

    def __init__(self, share: float, under_way: Callable[[], int]) -> None:
        self._share = share
        self._under_way = under_way
        # Guards the number below; held for additions.
        self._lock = threading.Lock()
        self._retrying = 0

    @property
    def retrying(self) -> int:
        """Return the requests that are in a second try now."""
        return self._retrying

    @property
    def admits(self) -> bool:
        """Return whether one more may begin a second try."""
        return self._retrying < max(LEAST_RETRIES, self._share * self._under_way())

    def change(self, count: int) -> None:
        """Count requests that begin or end a second try."""
        with self._lock:
            self._retrying += count


class RetryToken:
    """One request's share of the retry budget, until it is answered."""

    __slots__ = ("_budget", "_is_retrying")

    def __init__(self, budget: RetryBudget) -> None:
        self._budget = budget
        self._is_retrying = False

    def end(self) -> None:
        """Return it; once."""
        if self._is_retrying:
            self._budget.change(-1)

    def may_retry(self) -> bool:
        """Return whether a second try may begin; one that has begun may go on."""
        return self._is_retrying or self._budget.admits

    def note_retry(self) -> None:
        """Note that the request is in a second try that may add to the load, or a later one."""
        if not self._is_retrying:
            self._is_retrying = True
            self._budget.change(1)


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
