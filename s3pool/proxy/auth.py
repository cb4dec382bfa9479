"""Verify Signature Version 4 on the bytes as received, before the body is read.

Every check is made against the request that will be acted on. Because the proxy signs again, anything that it let
through unsigned would come out signed: so every x-amz-* header must be covered, and Host, too.

Source: Amazon S3 API Reference, "Authenticating Requests (AWS Signature Version 4)".
"""

from __future__ import annotations

import hmac
import re
import time
from calendar import timegm
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache, partial
from operator import itemgetter
from typing import NamedTuple

from s3pool.body import EMPTY_SHA256
from s3pool.model import UNSIGNED_PAYLOAD
from s3pool.proxy.clients import Client
from s3pool.proxy.errors import S3ErrorResponse, forbidden, invalid, not_implemented
from s3pool.proxy.operations import DIALECTS, V4_PARAMETERS, S3Operation
from s3pool.proxy.request import CACHE_SIZE, HOP_BY_HOP, Index, RequestHead, Target
from s3pool.record import dataclass, field
from s3pool.s3 import signing
from s3pool.units import parse_http_date

MAX_SKEW_S = 15 * 60  # what AWS and RGW allow
KEY_CACHE_SIZE = 1024
PROOFS = 1024
HEX_HASH = re.compile(r"[0-9a-f]{64}")  # a signature looks like one
SIGNED_STREAM = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_STREAM_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_STREAM_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
STREAMS = frozenset({SIGNED_STREAM, SIGNED_STREAM_TRAILER, UNSIGNED_STREAM_TRAILER})
ASYMMETRIC_PREFIX = "AWS4-ECDSA-P256-SHA256"
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
    """The sender of verified requests; an anonymous one has no ``client`` and no ``access_key``.

    ``payload`` is the x-amz-content-sha256 that was signed, ``is_framed`` whether that means the aws-chunked form.
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


@dataclass(slots=True)  # not frozen: one is made for every request
class Admitted:
    """An admitted request: its target, its sender, its operation and its signer.

    ``decodes`` says that the body comes in the aws-chunked form and leaves it here,
    ``is_form`` that it is an upload form, and who sent it is not known yet.
    """

    head: RequestHead
    target: Target
    caller: Caller
    operation: S3Operation
    signer: signing.Signer | None
    decodes: bool = False
    is_form: bool = False


class Proof(NamedTuple):
    """What a signature that held tells of requests alike; ``tail`` is what it covers beside method, path and query."""

    caller: Caller
    seconds: float
    tail: str
    mac: signing.Mac


def form_of(head: RequestHead, target: Target) -> str:
    """Return how a request is signed. Raises S3ErrorResponse: in two ways, or in one that is not known here."""
    authorizations = head.values("authorization")
    forms = [_header_form(authorizations)] if authorizations else []
    names = target.names
    if names & {"X-Amz-Algorithm", "X-Amz-Signature", "X-Amz-Credential"}:
        forms.append(QUERY_V4)
    if names >= {"AWSAccessKeyId", "Signature"}:
        forms.append(QUERY_V2)
    if len(forms) > 1:
        raise invalid("only one way of signing may be used", reason="two_forms")
    return forms[0] if forms else ANONYMOUS


def _header_form(values: Sequence[str]) -> str:
    if len(values) > 1:
        raise invalid("there is more than one Authorization field", reason="two_forms")
    if values[0].startswith(signing.ALGORITHM + " "):
        return HEADER_V4
    if values[0].startswith("AWS "):
        return HEADER_V2
    if values[0].startswith(ASYMMETRIC_PREFIX):
        raise not_implemented("SigV4A is not supported", reason="algorithm")
    raise invalid("this kind of Authorization is not supported", reason="algorithm")


class Verifier:
    """Checks signatures of Version 4 for a set of clients; safe for many threads."""

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self.clients = clients
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
        index = head.index
        front, _, claimed = head.value("authorization").rpartition("Signature=")
        has_all = len(index) == len(head.names) and "x-amz-date" in index and "x-amz-content-sha256" in index
        if not (has_all and head.is_cacheable and front.endswith((" ", ",")) and claimed == claim.signature):
            return
        if len(self._proofs) >= PROOFS:
            self._shapes, self._proofs = {}, {}
        shape = front, head.names, head.connection
        select = self._shapes[shape] = itemgetter(*claim.signed)
        tail = signing.canonical_tail(_signed_values(claim, head), claim.signed, caller.payload)
        mac = signing.Mac(key, begins_with=signing.beginning_to_sign(claim.timestamp, claim.scope))
        self._proofs[shape, head.host, select(index)] = Proof(caller, claim.seconds, tail, mac)

    def verify(self, form: str, head: RequestHead, target: Target, *, now: float) -> Caller:
        """Return the sender of a request, signed by header or query. Raises S3ErrorResponse: it is not sound."""
        claim = read_claim(head) if form == HEADER_V4 else read_query_claim(target)
        if form == HEADER_V4:
            check_skew(claim.seconds, now)
        else:
            _check_expiry(claim.seconds, target.value("X-Amz-Expires"), now)
        payload = payload_of(form, head, target)
        _check_coverage(claim, head)
        client, key = self._client_and_key(claim)
        client = proven(client, holds=_holds(key, claim, head, target, payload), what="request")
        if client.session_token or target.pairs or "x-amz-security-token" in head.index:
            check_token(client, token_of(head, target))
        if payload in STREAMS:
            seed = Seed(key, claim.timestamp, claim.scope, claim.signature)
            return Caller(form, client, payload, seed)
        caller = Caller(form, client, payload)
        if form == HEADER_V4 and not target.pairs:
            self._remember(caller, claim, key, head)
        return caller

    def verify_policy(self, fields: Mapping[str, str], policy: str) -> Client:
        """Return the client who signed an upload form's policy. Raises S3ErrorResponse: the signature does not hold."""
        if fields.get("x-amz-algorithm") != signing.ALGORITHM:
            raise invalid(f"x-amz-algorithm must be {signing.ALGORITHM}", reason="algorithm")
        words = [fields.get(f"x-amz-{name}", "") for name in ("credential", "signature", "date")]
        claim = make_claim(words[0], "host", words[1], words[2], malformed_header)
        client, key = self._client_and_key(claim)
        holds = hmac.compare_digest(signing.signature(key, policy.encode("utf-8", "surrogateescape")), claim.signature)
        return proven(client, holds=holds, what="policy")

    def _client_and_key(self, claim: SignatureClaim) -> tuple[Client | None, bytes]:
        """Return the client, if it is known, and a key: an unknown one must take as long as a bad signature."""
        client = self.clients.get(claim.access_key)
        secret = client.secret_key if client else DUMMY_SECRET
        name = (secret, claim.date, claim.region)
        key = self._keys.get(name)
        if key is None:
            key = signing.derive_key(secret, claim.date, region=claim.region, service="s3")
            if len(self._keys) >= KEY_CACHE_SIZE:
                self._keys = {}
            self._keys[name] = key
        return client, key


def proven(client: Client | None, *, holds: bool, what: str) -> Client:
    """Return the client of a signature that holds. Raises S3ErrorResponse: it does not, or nobody knows the client."""
    if client is None:
        raise forbidden("InvalidAccessKeyId", "the access key is not known here", reason="unknown_key")
    if not holds:
        raise forbidden("SignatureDoesNotMatch", f"the signature is not that of this {what}", reason="signature")
    return client


def _holds(key: bytes, claim: SignatureClaim, head: RequestHead, target: Target, payload: str) -> bool:
    """Compare in constant time; both spellings of a path name one key, both orders of equal names one query."""
    values = _signed_values(claim, head)
    canonical = head.path if head.path == target.path else signing.canonical_path(head.path)
    query = head.query or ""
    paths = (canonical,) if canonical == head.path else (canonical, head.path)
    queries = {signing.canonical_query(query), signing.canonical_query(query, by_value=False)} if query else ("",)
    form = partial(signing.canonical_request, head.method, values=values, signed=claim.signed, payload_hash=payload)
    texts = [form(path, query=text) for path in paths for text in queries]
    signatures = [signing.signature(key, signing.string_to_sign(claim.timestamp, claim.scope, text)) for text in texts]
    return any(hmac.compare_digest(expected, claim.signature) for expected in signatures)


def _signed_values(claim: SignatureClaim, head: RequestHead) -> dict[str, str]:
    index = head.index
    values = {name: index[name][0] for name in claim.signed}
    if len(index) < len(head.names):
        values |= {name: ",".join(map(signing.canonical_value, index[name])) for name in claim.signed}
    values["host"] = head.host
    return values


def check_skew(seconds: float, now: float) -> None:
    """Refuse a request that was signed long ago, or will be. Raises S3ErrorResponse: it was."""
    if abs(seconds - now) > MAX_SKEW_S:
        raise forbidden("RequestTimeTooSkewed", "the clocks differ by more than 15 minutes", reason="skew")


def _check_expiry(started: float, expires: str, now: float) -> None:
    if not re.fullmatch(r"[0-9]{1,6}", expires) or not 1 <= int(expires) <= signing.MAX_EXPIRES_S:
        raise malformed_query("X-Amz-Expires must be 1 second to 7 days")
    if started > now + MAX_SKEW_S:
        raise forbidden("AccessDenied", "Request is not valid yet", reason="skew")
    if now > started + int(expires):
        raise forbidden("AccessDenied", "Request has expired", reason="expired")


def _check_coverage(claim: SignatureClaim, head: RequestHead) -> None:
    signed = claim.signed
    if "host" not in signed:
        raise forbidden("AccessDenied", "the Host field must be signed", reason="coverage")
    refuse_unsigned(head, signed)
    dropped = head.connection.intersection(signed) - HOP_BY_HOP
    if dropped:
        detail = f"Connection names the signed header {min(dropped)}"
        raise S3ErrorResponse(400, "InvalidRequest", detail, reason="coverage")
    missing = sorted(set(signed) - head.index.keys())
    if missing:
        raise forbidden("AccessDenied", f"the signed header {missing[0]} is missing", reason="coverage")


def refuse_unsigned(head: RequestHead, signed: Collection[str]) -> None:
    """Refuse a request with a field that decides something and is not signed. Raises S3ErrorResponse: there is one."""
    unsigned = {name for name in head.index if name.startswith(DECIDING_PREFIXES)}.difference(signed)
    if unsigned:
        raise forbidden("AccessDenied", f"the header {min(unsigned)} is not signed", reason="coverage")


def payload_of(form: str, head: RequestHead, target: Target) -> str:
    """Return the payload hash that was signed. Raises S3ErrorResponse: it is missing, or not known here."""
    given = head.values("x-amz-content-sha256")
    if len(given) > 1:
        raise invalid("there is more than one x-amz-content-sha256", reason="malformed")
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
        raise not_implemented("SigV4A is not supported", reason="algorithm")
    raise invalid("x-amz-content-sha256 is no hash and no known word", reason="payload")


def token_of(head: RequestHead, target: Target) -> str:
    """Return the session token of a request, or nothing."""
    return head.value("x-amz-security-token") or target.value("X-Amz-Security-Token")


def check_token(client: Client, token: str) -> None:
    """Take no session token but the key's own. Raises S3ErrorResponse: there is another, or one is missing."""
    if not hmac.compare_digest(token.encode("utf-8", "replace"), client.session_token.encode("utf-8", "replace")):
        raise forbidden("InvalidToken", "the session token is not known here", reason="token")


# -- what a request claims -------------------------------------------------------------------

MAX_CREDENTIAL_LENGTH = 512
TIMESTAMP_LENGTH = 16
SIGNED_NAMES = re.compile(r"[0-9a-z-]+(?:;[0-9a-z-]+)*")
TIMESTAMP = re.compile(r"[0-9]{8}T[0-9]{4}[0-5][0-9]Z")
WORD = re.compile(r"(Credential|SignedHeaders|Signature)=([^,\s]+)")
AUTHORIZATION_WORDS = frozenset({"Credential", "SignedHeaders", "Signature"})


class SignatureClaim(NamedTuple):
    """The signature of a request, its credential, the headers that it says are signed, and its time; not verified."""

    access_key: str
    date: str
    region: str
    scope: str
    signed: tuple[str, ...]
    signature: str
    timestamp: str
    seconds: float


def read_claim(head: RequestHead) -> SignatureClaim:
    """Parse the Authorization field. Raises S3ErrorResponse: it is malformed."""
    given = head.values("x-amz-date")  # where it stands it counts, even if it is empty
    seconds = None if given else parse_http_date(head.value("date"))
    plain = "" if seconds is None else time.strftime(signing.TIMESTAMP_FORMAT, time.gmtime(seconds))
    timestamp = given[0] if given else plain
    value = head.value("authorization").removeprefix(signing.ALGORITHM)
    found = WORD.findall(value)
    words = dict(found)
    if (
        len(found) != len(AUTHORIZATION_WORDS)
        or words.keys() != AUTHORIZATION_WORDS
        or WORD.sub("", value).strip(" ,\t")
    ):
        raise malformed_header("the Authorization field is malformed")
    return make_claim(words["Credential"], words["SignedHeaders"], words["Signature"], timestamp, malformed_header)


def read_query_claim(target: Target) -> SignatureClaim:
    """Read the signature in a query. Raises S3ErrorResponse: it is malformed."""
    names = [name for name, _, _ in target.pairs]
    if any(names.count(name) != 1 for name in V4_PARAMETERS - {"X-Amz-Security-Token"}):
        detail = (
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, "
            "X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."
        )
        raise malformed_query(detail)
    if target.value("X-Amz-Algorithm") != signing.ALGORITHM:
        raise malformed_query(f'X-Amz-Algorithm only supports "{signing.ALGORITHM}" here')
    timestamp = target.value("X-Amz-Date")
    if read_timestamp(timestamp) is None:
        raise malformed_query("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"")
    words = [target.value(f"X-Amz-{name}") for name in ("Credential", "SignedHeaders", "Signature")]
    return make_claim(words[0], words[1], words[2], timestamp, malformed_query)


def make_claim(
    credential: str, signed_headers: str, claimed: str, timestamp: str, malformed: Callable[[str], S3ErrorResponse]
) -> SignatureClaim:
    """Return a claim of the parts of a signature; ``malformed`` makes the error of one that is none."""
    parts = credential.rsplit("/", 4)
    signed = tuple(signed_headers.split(";"))
    is_text = credential.isascii() and credential.isprintable() and len(credential) <= MAX_CREDENTIAL_LENGTH
    if not is_text or len(parts) != 5 or parts[3:] != ["s3", "aws4_request"] or not parts[0]:
        raise malformed("the credential's scope must be date/region/s3/aws4_request")
    is_list = SIGNED_NAMES.fullmatch(signed_headers) is not None and signed == tuple(sorted(set(signed)))
    if not is_list or HEX_HASH.fullmatch(claimed) is None:
        raise malformed("the signature or the list of signed headers is malformed")
    access_key, date, region = parts[:3]
    if malformed is malformed_query and date != timestamp[:8]:
        raise malformed("Invalid credential date, it is not that of X-Amz-Date")
    seconds = read_timestamp(timestamp)
    if seconds is None or date != timestamp[:8]:
        raise forbidden("AccessDenied", "a valid x-amz-date, of the scope's day, is required", reason="date")
    return SignatureClaim(access_key, date, region, "/".join(parts[1:]), signed, claimed, timestamp, seconds)


def malformed_header(detail: str) -> S3ErrorResponse:
    """Return the error of an Authorization field that cannot be read."""
    return S3ErrorResponse(400, "AuthorizationHeaderMalformed", detail, reason="malformed")


def malformed_query(detail: str) -> S3ErrorResponse:
    """Return the error of a signature in a query that cannot be read."""
    return S3ErrorResponse(400, "AuthorizationQueryParametersError", detail, reason="malformed")


def read_timestamp(text: str) -> float | None:
    """Return seconds since 1970 for ``20260122T204433Z``; None for anything else."""
    return _seconds(text) if len(text) == TIMESTAMP_LENGTH else None


@lru_cache(CACHE_SIZE)
def _seconds(text: str) -> float | None:
    try:
        return float(timegm(time.strptime(text, signing.TIMESTAMP_FORMAT))) if TIMESTAMP.fullmatch(text) else None
    except ValueError:  # a 31st of February
        return None
