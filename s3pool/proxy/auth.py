"""Verify Signature Version 4 on the bytes as received, before the body is read.

Every check is made against the request that will be acted on. Because the proxy signs again, anything that it let
through unsigned would come out signed: so every x-amz-* header must be covered, and Host, too.

Source: Amazon S3 API Reference, "Authenticating Requests (AWS Signature Version 4)".
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

from s3pool.body import EMPTY_SHA256
from s3pool.model import UNSIGNED_PAYLOAD
from s3pool.proxy.claims import (
    Credential,
    SignatureClaim,
    make_claim,
    malformed_header,
    malformed_query,
    read_claim,
    read_query_claim,
)
from s3pool.proxy.clients import Client
from s3pool.proxy.errors import S3ErrorResponse, forbidden
from s3pool.proxy.operations import DIALECTS
from s3pool.proxy.request import HOP_BY_HOP, Index, RequestHead, Target
from s3pool.record import dataclass, field
from s3pool.s3.signing import (
    ALGORITHM,
    MAX_EXPIRES_S,
    Mac,
    beginning_to_sign,
    canonical_path,
    canonical_query,
    canonical_request,
    canonical_tail,
    canonical_value,
    derive_key,
    signature,
    string_to_sign,
)

MAX_SKEW_S = 15 * 60  # what AWS and RGW allow
KEY_CACHE_SIZE = 1024
PROOFS = 1024
HEX_HASH = re.compile(r"[0-9a-f]{64}")
SIGNED_STREAM = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_STREAM_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_STREAM_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
STREAMS = frozenset({SIGNED_STREAM, SIGNED_STREAM_TRAILER, UNSIGNED_STREAM_TRAILER})
ASYMMETRIC_PREFIX = "AWS4-ECDSA-P256-SHA256"
V2_PARAMETERS = frozenset({"AWSAccessKeyId", "Signature", "Expires"})
DUMMY_SECRET = "no such key"
# Fields by which a node decides something. RGW reads those of other dialects as x-amz-*, MinIO has its own.
DECIDING_PREFIXES = ("x-amz-", *DIALECTS)

HEADER_V4, QUERY_V4, HEADER_V2, QUERY_V2, ANONYMOUS = "header-v4", "query-v4", "header-v2", "query-v2", "anonymous"


@dataclass(frozen=True, slots=True)
class Seed:
    """The first signature of the chain that a body's chunks continue."""

    key: bytes = field(repr=False)
    timestamp: str
    scope: str
    signature: str


class Caller:
    """The sender of verified requests; ``client`` is None for an anonymous one.

    ``payload`` is the value of x-amz-content-sha256 that was signed, ``is_framed`` whether that
    means the aws-chunked form, ``access_key`` empty for an anonymous one.
    """

    __slots__ = ("access_key", "client", "form", "is_framed", "payload", "seed")

    def __init__(
        self, form: str, client: Client | None = None, payload: str = UNSIGNED_PAYLOAD, seed: Seed | None = None
    ) -> None:
        self.form = form
        self.client = client
        self.payload = payload
        self.is_framed = payload in STREAMS
        self.seed = seed
        self.access_key = client.access_key if client else ""


class Proof(NamedTuple):
    """What a signature that held tells of all requests with the same fields.

    ``tail`` is what their signatures cover beside method, path and query.
    """

    caller: Caller
    seconds: float
    tail: str
    mac: Mac


def form_of(head: RequestHead, target: Target) -> str:
    """Return how a request is signed.

    Raises S3ErrorResponse: in more than one way, or in one that is not known here.
    """
    authorizations = head.values("authorization")
    forms = [_header_form(authorizations)] if authorizations else []
    if not target.pairs:
        return forms[0] if forms else ANONYMOUS
    names = target.names
    if names & {"X-Amz-Algorithm", "X-Amz-Signature", "X-Amz-Credential"}:
        forms.append(QUERY_V4)
    if names >= {"AWSAccessKeyId", "Signature"}:
        forms.append(QUERY_V2)
    if len(forms) > 1:
        raise S3ErrorResponse(400, "InvalidArgument", "only one way of signing may be used", reason="two_forms")
    return forms[0] if forms else ANONYMOUS


def _header_form(values: Sequence[str]) -> str:
    if len(values) > 1:
        raise S3ErrorResponse(400, "InvalidArgument", "there is more than one Authorization field", reason="two_forms")
    if values[0].startswith(ALGORITHM + " "):
        return HEADER_V4
    if values[0].startswith("AWS "):
        return HEADER_V2
    if values[0].startswith(ASYMMETRIC_PREFIX):
        raise S3ErrorResponse(501, "NotImplemented", "SigV4A is not supported", reason="algorithm")
    raise S3ErrorResponse(400, "InvalidArgument", "this kind of Authorization is not supported", reason="algorithm")


class Verifier:
    """Checks signatures of Version 4 for a set of clients; safe for many threads."""

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self._clients = clients
        self._keys: dict[tuple[str, str, str], bytes] = {}
        # By Authorization up to the signature, the fields' names and Connection: what selects the signed values, and
        # by Host and these values what followed from them.
        self._shapes: dict[tuple[str, tuple[str, ...], frozenset[str]], Callable[[Index], object]] = {}
        self._proofs: dict[tuple[object, ...], Proof] = {}

    def recognize(self, head: RequestHead, target: Target, *, now: float) -> Caller | None:
        """Return the sender of a request like one that verify() let in, if its own signature holds; else None.

        All that verify() looks at is the same again, but for method and path, which are hashed, and the time.
        """
        index = head.index
        authorization = index.get("authorization")
        if authorization is None or target.pairs or head.path != target.path or len(index) < len(head.names):
            return None
        front, _, claimed = authorization[0].rpartition("Signature=")
        shape = front, head.names, head.connection
        select = self._shapes.get(shape)
        proof = self._proofs.get((shape, head.host, select(index))) if select is not None else None
        if proof is None or abs(proof.seconds - now) > MAX_SKEW_S or not claimed.isascii():
            return None
        canonical = f"{head.method}\n{head.path}\n\n{proof.tail}".encode("utf-8", "surrogateescape")
        expected = proof.mac.sign(canonical)
        return proof.caller if hmac.compare_digest(expected, claimed) else None

    def _remember(self, caller: Caller, claim: SignatureClaim, key: bytes, head: RequestHead) -> None:
        """Keep what followed from the fields of a request that was let in, where nothing else counts."""
        index, credential = head.index, claim.credential
        front, _, claimed = head.value("authorization").rpartition("Signature=")
        has_all = len(index) == len(head.names) and "x-amz-date" in index and "x-amz-content-sha256" in index
        if not (has_all and head.is_cacheable and front.endswith((" ", ",")) and claimed == claim.signature):
            return
        if len(self._proofs) >= PROOFS:
            self._shapes, self._proofs = {}, {}
        shape = front, head.names, head.connection
        select = self._shapes[shape] = itemgetter(*credential.signed)
        tail = canonical_tail(_signed_values(credential, head), credential.signed, caller.payload)
        mac = Mac(key, begins_with=beginning_to_sign(claim.timestamp, credential.scope))
        self._proofs[shape, head.host, select(index)] = Proof(caller, claim.seconds, tail, mac)

    def verify(self, form: str, head: RequestHead, target: Target, *, now: float) -> Caller:
        """Verify a request signed by header or query and return its sender.

        Raises S3ErrorResponse: the signature does not hold, or does not cover what it must.
        """
        claim = read_claim(head) if form == HEADER_V4 else read_query_claim(target)
        if form == HEADER_V4:
            _check_skew(claim.seconds, now)
        else:
            _check_expiry(claim.seconds, target.value("X-Amz-Expires"), now)
        payload = payload_of(form, head, target)
        _check_coverage(claim, head)
        client, key = self._client_and_key(claim.credential)
        client = _proven(client, holds=_holds(key, claim, head, target, payload), what="request")
        if client.session_token or target.pairs or "x-amz-security-token" in head.index:
            check_token(client, head, target)
        if payload in STREAMS:
            seed = Seed(key, claim.timestamp, claim.credential.scope, claim.signature)
            return Caller(form, client, payload, seed)
        caller = Caller(form, client, payload)
        if form == HEADER_V4 and not target.pairs:
            self._remember(caller, claim, key, head)
        return caller

    def verify_policy(self, fields: Mapping[str, str], policy: str) -> Client:
        """Verify the signature of an upload form's policy and return the client.

        Raises S3ErrorResponse: the signature does not hold.
        """
        if fields.get("x-amz-algorithm") != ALGORITHM:
            raise S3ErrorResponse(400, "InvalidArgument", f"x-amz-algorithm must be {ALGORITHM}", reason="algorithm")
        words = [fields.get(f"x-amz-{name}", "") for name in ("credential", "signature", "date")]
        claim = make_claim(words[0], "host", words[1], words[2], malformed_header)
        client, key = self._client_and_key(claim.credential)
        holds = hmac.compare_digest(signature(key, policy.encode("utf-8", "surrogateescape")), claim.signature)
        return _proven(client, holds=holds, what="policy")

    def _client_and_key(self, credential: Credential) -> tuple[Client | None, bytes]:
        """Return the client, if it is known, and a key: an unknown one must take as long as a bad signature."""
        client = self._clients.get(credential.access_key)
        secret = client.secret_key if client else DUMMY_SECRET
        name = (secret, credential.date, credential.region)
        key = self._keys.get(name)
        if key is None:
            key = derive_key(secret, credential.date, region=credential.region, service="s3")
            if len(self._keys) >= KEY_CACHE_SIZE:
                self._keys = {}
            self._keys[name] = key
        return client, key


def _proven(client: Client | None, *, holds: bool, what: str) -> Client:
    if client is None:
        raise forbidden("InvalidAccessKeyId", "the access key is not known here", reason="unknown_key")
    if not holds:
        raise forbidden("SignatureDoesNotMatch", f"the signature is not that of this {what}", reason="signature")
    return client


def _holds(key: bytes, claim: SignatureClaim, head: RequestHead, target: Target, payload: str) -> bool:
    """Compare in constant time; both spellings of a path name one key, both orders of equal names one query."""
    credential = claim.credential
    values = _signed_values(credential, head)
    canonical = head.path if head.path == target.path else canonical_path(head.path)
    query = head.query or ""
    paths = (canonical,) if canonical == head.path else (canonical, head.path)
    queries = {canonical_query(query), canonical_query(query, by_value=False)} if query else ("",)
    texts = [
        canonical_request(head.method, path, query=text, values=values, signed=credential.signed, payload_hash=payload)
        for path in paths
        for text in queries
    ]
    signatures = [signature(key, string_to_sign(claim.timestamp, credential.scope, text)) for text in texts]
    return any(hmac.compare_digest(expected, claim.signature) for expected in signatures)


def _signed_values(credential: Credential, head: RequestHead) -> dict[str, str]:
    index = head.index
    values = {name: index[name][0] for name in credential.signed}
    if len(index) < len(head.names):
        values |= {name: ",".join(map(canonical_value, index[name])) for name in credential.signed}
    values["host"] = head.host
    return values


def _check_skew(seconds: float, now: float) -> None:
    if abs(seconds - now) > MAX_SKEW_S:
        raise forbidden("RequestTimeTooSkewed", "the clocks differ by more than 15 minutes", reason="skew")


def _check_expiry(started: float, expires: str, now: float) -> None:
    if not re.fullmatch(r"[0-9]{1,6}", expires) or not 1 <= int(expires) <= MAX_EXPIRES_S:
        raise malformed_query("X-Amz-Expires must be 1 second to 7 days")
    if started > now + MAX_SKEW_S:
        raise forbidden("AccessDenied", "Request is not valid yet", reason="skew")
    if now > started + int(expires):
        raise forbidden("AccessDenied", "Request has expired", reason="expired")


def _check_coverage(claim: SignatureClaim, head: RequestHead) -> None:
    signed = claim.credential.signed
    if "host" not in signed:
        raise forbidden("AccessDenied", "the Host field must be signed", reason="coverage")
    refuse_unsigned(head, signed)
    dropped = head.connection.intersection(signed) - HOP_BY_HOP
    if dropped:
        raise S3ErrorResponse(
            400, "InvalidRequest", f"Connection names the signed header {min(dropped)}", reason="coverage"
        )
    missing = sorted(set(signed) - head.index.keys())
    if missing:
        raise forbidden("AccessDenied", f"the signed header {missing[0]} is missing", reason="coverage")


def refuse_unsigned(head: RequestHead, signed: Collection[str]) -> None:
    """Refuse a request with a field that decides something and is not signed. Raises S3ErrorResponse: there is one."""
    unsigned = {name for name in head.index if name.startswith(DECIDING_PREFIXES)}.difference(signed)
    if unsigned:
        raise forbidden("AccessDenied", f"the header {min(unsigned)} is not signed", reason="coverage")


def payload_of(form: str, head: RequestHead, target: Target) -> str:
    """Return the payload hash that was signed.

    Raises S3ErrorResponse: it says nothing although there is a body, or what is not known here.
    """
    given = head.values("x-amz-content-sha256")
    if len(given) > 1:
        raise S3ErrorResponse(400, "InvalidArgument", "there is more than one x-amz-content-sha256", reason="malformed")
    payload = given[0] if given else target.value("X-Amz-Content-Sha256")
    if not payload and form == HEADER_V4:
        if head.length == 0:
            return EMPTY_SHA256
        detail = "Missing required header for this request: x-amz-content-sha256"
        raise S3ErrorResponse(400, "InvalidRequest", detail, reason="payload")
    payload = payload or UNSIGNED_PAYLOAD
    if payload == UNSIGNED_PAYLOAD or payload in STREAMS or HEX_HASH.fullmatch(payload) is not None:
        return payload
    if payload.startswith(f"STREAMING-{ASYMMETRIC_PREFIX}"):
        raise S3ErrorResponse(501, "NotImplemented", "SigV4A is not supported", reason="algorithm")
    raise S3ErrorResponse(400, "InvalidArgument", "x-amz-content-sha256 is no hash and no known word", reason="payload")


def check_token(client: Client, head: RequestHead, target: Target) -> None:
    """Take no session token but the one that belongs to the key.

    Raises S3ErrorResponse: there is another, or one is missing.
    """
    token = head.value("x-amz-security-token") or target.value("X-Amz-Security-Token")
    if not hmac.compare_digest(token.encode("utf-8", "replace"), client.session_token.encode("utf-8", "replace")):
        raise forbidden("InvalidToken", "the session token is not known here", reason="token")
