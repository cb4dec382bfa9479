"""Recompute what a client signed, on the bytes as they came, before its body is read.

Every check is made against the request that will be acted on. Because the proxy signs again,
anything that it let through unsigned would come out signed: so every x-amz-* header must be
covered, and Host, too.

Source: Amazon S3 API Reference, "Authenticating Requests (AWS Signature Version 4)".
"""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from s3pool.body import EMPTY_SHA256
from s3pool.model import UNSIGNED_PAYLOAD
from s3pool.proxy.clients import Client
from s3pool.proxy.denial import Denial, forbidden
from s3pool.proxy.head import HOP_BY_HOP, RequestHead, connection_words
from s3pool.proxy.operations import DIALECTS
from s3pool.proxy.target import Target
from s3pool.record import dataclass, field
from s3pool.s3.signing import (
    ALGORITHM,
    MAX_EXPIRES_S,
    TIMESTAMP_FORMAT,
    canonical_path,
    canonical_query,
    canonical_request,
    derive_key,
    signature,
    string_to_sign,
)

MAX_SKEW_S = 15 * 60  # what AWS and RGW allow
KEY_CACHE_SIZE = 1024
MAX_CREDENTIAL_LENGTH = 512
HEX_HASH = re.compile(r"[0-9a-f]{64}")
HEX_SIGNATURE = re.compile(r"[0-9a-f]{64}")
SIGNED_NAMES = re.compile(r"[0-9a-z-]+(?:;[0-9a-z-]+)*")
# time.strptime takes fifty times as long, and this is read twice in every request.
TIMESTAMP = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z")
WORD = re.compile(r"(Credential|SignedHeaders|Signature)=([^,\s]+)")
AUTHORIZATION_WORDS = frozenset({"Credential", "SignedHeaders", "Signature"})
SIGNED_STREAM = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_STREAM_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_STREAM_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
STREAMS = frozenset({SIGNED_STREAM, SIGNED_STREAM_TRAILER, UNSIGNED_STREAM_TRAILER})
ASYMMETRIC_PREFIX = "AWS4-ECDSA-P256-SHA256"
# The query parameters that carry a signature; they never reach a node.
V4_PARAMETERS = frozenset(
    {
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-SignedHeaders",
        "X-Amz-Signature",
        "X-Amz-Security-Token",
    }
)
V2_PARAMETERS = frozenset({"AWSAccessKeyId", "Signature", "Expires"})
V2_HEADERS = frozenset({"content-type", "content-md5"})
DUMMY_SECRET = "no such key"
# Fields by which a node decides something. RGW reads those of other dialects as x-amz-*, MinIO has its own.
DECIDING_PREFIXES = ("x-amz-", *DIALECTS)

HEADER_V4, QUERY_V4, HEADER_V2, QUERY_V2, ANONYMOUS = "header-v4", "query-v4", "header-v2", "query-v2", "anonymous"


@dataclass(frozen=True, slots=True)
class Seed:
    """What the signatures of a body's chunks go on from."""

    key: bytes = field(repr=False)
    timestamp: str
    scope: str
    signature: str


@dataclass(frozen=True, slots=True)
class Caller:
    """A request whose signature held, or an anonymous one (``client`` is None).

    ``payload`` is the value of x-amz-content-sha256 that was signed.
    """

    form: str
    client: Client | None = None
    payload: str = UNSIGNED_PAYLOAD
    seed: Seed | None = None

    @property
    def access_key(self) -> str:
        """Give the access key, or nothing for anonymous."""
        return self.client.access_key if self.client else ""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says about its own signature."""

    access_key: str
    date: str
    region: str
    signed: tuple[str, ...]
    signature: str
    timestamp: str

    @property
    def scope(self) -> str:
        """Give the credential's scope."""
        return f"{self.date}/{self.region}/s3/aws4_request"


def form_of(head: RequestHead, target: Target) -> str:
    """Say how a request is signed.

    Raises:
        Denial: in more than one way, or in one that is not known here.
    """
    names = target.names
    authorizations = head.values("authorization")
    forms = []
    if authorizations:
        forms.append(_header_form(authorizations))
    if names & {"X-Amz-Algorithm", "X-Amz-Signature", "X-Amz-Credential"}:
        forms.append(QUERY_V4)
    if names >= {"AWSAccessKeyId", "Signature"}:
        forms.append(QUERY_V2)
    if len(forms) > 1:
        raise Denial(400, "InvalidArgument", "only one way of signing may be used", reason="two_forms")
    return forms[0] if forms else ANONYMOUS


def _header_form(values: Sequence[str]) -> str:
    if len(values) > 1:
        raise Denial(400, "InvalidArgument", "there is more than one Authorization field", reason="two_forms")
    if values[0].startswith(ALGORITHM + " "):
        return HEADER_V4
    if values[0].startswith("AWS "):
        return HEADER_V2
    if values[0].startswith(ASYMMETRIC_PREFIX):
        raise Denial(501, "NotImplemented", "SigV4A is not supported", reason="algorithm")
    raise Denial(400, "InvalidArgument", "this kind of Authorization is not supported", reason="algorithm")


class Verifier:
    """Checks signatures of Version 4 for a set of clients; safe for many threads."""

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self._clients = clients
        self._keys: dict[tuple[str, str, str], bytes] = {}

    def verify(self, form: str, head: RequestHead, target: Target, *, now: float) -> Caller:
        """Check a request signed by header or query, and give who sent it.

        Raises:
            Denial: the signature does not hold, or does not cover what it must.
        """
        claim = read_claim(head) if form == HEADER_V4 else _read_query(target)
        if form == HEADER_V4:
            check_skew(claim.timestamp, now)
        else:
            _check_expiry(claim.timestamp, target.value("X-Amz-Expires"), now)
        payload = payload_of(form, head, target)
        _check_coverage(claim, head)
        client = self._clients.get(claim.access_key)
        key = self._key(client.secret_key if client else DUMMY_SECRET, claim)
        holds = self._holds(key, claim, head, payload)
        if client is None:
            raise forbidden("InvalidAccessKeyId", "the access key is not known here", reason="unknown_key")
        if not holds:
            raise forbidden("SignatureDoesNotMatch", "the signature is not that of this request", reason="signature")
        check_token(client, head, target)
        return Caller(form, client, payload, Seed(key, claim.timestamp, claim.scope, claim.signature))

    def verify_policy(self, fields: Mapping[str, str], policy: str) -> Client:
        """Check the signature of an upload form's policy, and give whose it is.

        Raises:
            Denial: the signature does not hold.
        """
        if fields.get("x-amz-algorithm") != ALGORITHM:
            raise Denial(400, "InvalidArgument", f"x-amz-algorithm must be {ALGORITHM}", reason="algorithm")
        claim = _claim(
            fields.get("x-amz-credential", ""),
            "host",
            fields.get("x-amz-signature", ""),
            fields.get("x-amz-date", ""),
            _malformed_header,
        )
        client = self._clients.get(claim.access_key)
        key = self._key(client.secret_key if client else DUMMY_SECRET, claim)
        holds = hmac.compare_digest(signature(key, policy.encode("utf-8", "surrogateescape")), claim.signature)
        if client is None:
            raise forbidden("InvalidAccessKeyId", "the access key is not known here", reason="unknown_key")
        if not holds:
            raise forbidden("SignatureDoesNotMatch", "the signature is not that of this policy", reason="signature")
        return client

    def _key(self, secret: str, claim: Claim) -> bytes:
        name = (secret, claim.date, claim.region)
        key = self._keys.get(name)
        if key is None:
            key = derive_key(secret, claim.date, region=claim.region, service="s3")
            if len(self._keys) >= KEY_CACHE_SIZE:
                self._keys = {}
            self._keys[name] = key
        return key

    def _holds(self, key: bytes, claim: Claim, head: RequestHead, payload: str) -> bool:
        """Compare in constant time; both spellings of a path name one key, both orders of equal names one query."""
        spellings = dict.fromkeys((canonical_path(head.path), head.path))
        query = head.query or ""
        orders = (
            (True, False)
            if "&" in query and canonical_query(query) != canonical_query(query, by_value=False)
            else (True,)
        )
        signatures = [
            self._sign(key, claim, head, path=path, payload=payload, by_value=by_value)
            for path in spellings
            for by_value in orders
        ]
        return any(hmac.compare_digest(expected, claim.signature) for expected in signatures)

    @staticmethod
    def _sign(key: bytes, claim: Claim, head: RequestHead, *, path: str, payload: str, by_value: bool) -> str:
        index = {**head.index, "host": (head.host,)}
        fields = [(name, value) for name in claim.signed for value in index[name]]
        canonical = canonical_request(
            head.method,
            path,
            query=head.query or "",
            headers=fields,
            signed=claim.signed,
            payload_hash=payload,
            by_value=by_value,
        )
        return signature(key, string_to_sign(claim.timestamp, claim.scope, canonical))


def read_claim(head: RequestHead) -> Claim:
    """Give what a request's Authorization field says about its signature.

    Raises:
        Denial: it is malformed.
    """
    value = head.value("authorization").removeprefix(ALGORITHM)
    found = WORD.findall(value)
    words = dict(found)
    if len(found) != len(words) or words.keys() != AUTHORIZATION_WORDS or WORD.sub("", value).strip(" ,\t"):
        raise _malformed_header("the Authorization field is malformed")
    given = head.values("x-amz-date")  # where it stands it counts, even if it is empty
    timestamp = given[0] if given else _from_http_date(head.value("date"))
    return _claim(words["Credential"], words["SignedHeaders"], words["Signature"], timestamp, _malformed_header)


def _from_http_date(text: str) -> str:
    try:
        return time.strftime(TIMESTAMP_FORMAT, time.gmtime(parsedate_to_datetime(text).timestamp()))
    except (TypeError, ValueError, IndexError, OverflowError):
        return ""


def _read_query(target: Target) -> Claim:
    names = [name for name, _, _ in target.pairs]
    if any(names.count(name) != 1 for name in V4_PARAMETERS - {"X-Amz-Security-Token"}):
        detail = (
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, "
            "X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."
        )
        raise _malformed_query(detail)
    if target.value("X-Amz-Algorithm") != ALGORITHM:
        raise _malformed_query(f'X-Amz-Algorithm only supports "{ALGORITHM}" here')
    timestamp = target.value("X-Amz-Date")
    if read_timestamp(timestamp) is None:
        raise _malformed_query("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"")
    credential = target.value("X-Amz-Credential")
    return _claim(
        credential, target.value("X-Amz-SignedHeaders"), target.value("X-Amz-Signature"), timestamp, _malformed_query
    )


def _claim(
    credential: str,
    signed_headers: str,
    claimed: str,
    timestamp: str,
    malformed: Callable[[str], Denial],
) -> Claim:
    parts = credential.rsplit("/", 4)
    signed = tuple(signed_headers.split(";"))
    is_text = credential.isascii() and credential.isprintable() and len(credential) <= MAX_CREDENTIAL_LENGTH
    if not is_text or len(parts) != 5 or parts[3:] != ["s3", "aws4_request"] or not parts[0]:
        raise malformed("the credential's scope must be date/region/s3/aws4_request")
    is_list = SIGNED_NAMES.fullmatch(signed_headers) is not None and signed == tuple(sorted(set(signed)))
    if HEX_SIGNATURE.fullmatch(claimed) is None or not is_list:
        raise malformed("the signature or the list of signed headers is malformed")
    if malformed is _malformed_query and parts[1] != timestamp[:8]:
        raise malformed("Invalid credential date, it is not that of X-Amz-Date")
    if read_timestamp(timestamp) is None or parts[1] != timestamp[:8]:
        raise forbidden("AccessDenied", "a valid x-amz-date, of the scope's day, is required", reason="date")
    return Claim(parts[0], parts[1], parts[2], signed, claimed, timestamp)


def _malformed_header(detail: str) -> Denial:
    return Denial(400, "AuthorizationHeaderMalformed", detail, reason="malformed")


def _malformed_query(detail: str) -> Denial:
    return Denial(400, "AuthorizationQueryParametersError", detail, reason="malformed")


def echoed(head: RequestHead, target: Target) -> frozenset[str]:
    """Return the parameters that only repeat a header which Version 2 signs, as boto3 adds them to its URLs."""
    return frozenset(
        name
        for name in target.names
        if (name in V2_HEADERS or name.startswith("x-amz-"))
        and [*head.values(name)] == [value for other, value in target.parameters if other == name]
    )


def read_timestamp(text: str) -> float | None:
    """Give seconds since 1970 for ``20260122T204433Z``; None for anything else."""
    found = TIMESTAMP.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = map(int, found.groups())
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


def check_skew(timestamp: str, now: float) -> None:
    """Refuse a request from too far away in time.

    Raises:
        Denial: its clock and ours differ by more than 15 minutes.
    """
    if abs((read_timestamp(timestamp) or 0.0) - now) > MAX_SKEW_S:
        raise forbidden("RequestTimeTooSkewed", "the clocks differ by more than 15 minutes", reason="skew")


def _check_expiry(timestamp: str, expires: str, now: float) -> None:
    if not re.fullmatch(r"[0-9]{1,6}", expires) or not 1 <= int(expires) <= MAX_EXPIRES_S:
        detail = "X-Amz-Expires must be 1 second to 7 days"
        raise _malformed_query(detail)
    started = read_timestamp(timestamp) or 0.0
    if started > now + MAX_SKEW_S:
        raise forbidden("AccessDenied", "Request is not valid yet", reason="skew")
    if now > started + int(expires):
        raise forbidden("AccessDenied", "Request has expired", reason="expired")


def _check_coverage(claim: Claim, head: RequestHead) -> None:
    present = head.index.keys()
    if "host" not in claim.signed:
        raise forbidden("AccessDenied", "the Host field must be signed", reason="coverage")
    refuse_unsigned(head, claim.signed)
    dropped = connection_words(head.fields).intersection(claim.signed) - HOP_BY_HOP
    if dropped:
        raise Denial(400, "InvalidRequest", f"Connection names the signed header {min(dropped)}", reason="coverage")
    missing = sorted(set(claim.signed) - present)
    if missing:
        raise forbidden("AccessDenied", f"the signed header {missing[0]} is missing", reason="coverage")


def refuse_unsigned(head: RequestHead, signed: Collection[str]) -> None:
    """Refuse a request with a field that decides something and is not signed.

    Raises:
        Denial: there is one.
    """
    unsigned = sorted({name for name in head.index if name.startswith(DECIDING_PREFIXES)}.difference(signed))
    if unsigned:
        raise forbidden("AccessDenied", f"the header {unsigned[0]} is not signed", reason="coverage")


def payload_of(form: str, head: RequestHead, target: Target) -> str:
    """Give what the signature says of the body.

    Raises:
        Denial: it says nothing although there is a body, or what is not known here.
    """
    given = head.values("x-amz-content-sha256")
    if len(given) > 1:
        raise Denial(400, "InvalidArgument", "there is more than one x-amz-content-sha256", reason="malformed")
    payload = given[0] if given else target.value("X-Amz-Content-Sha256")
    if not payload and form == HEADER_V4:
        if head.length != 0:
            detail = "Missing required header for this request: x-amz-content-sha256"
            raise Denial(400, "InvalidRequest", detail, reason="payload")
        return EMPTY_SHA256
    payload = payload or UNSIGNED_PAYLOAD
    if payload.startswith(f"STREAMING-{ASYMMETRIC_PREFIX}"):
        raise Denial(501, "NotImplemented", "SigV4A is not supported", reason="algorithm")
    if payload != UNSIGNED_PAYLOAD and payload not in STREAMS and HEX_HASH.fullmatch(payload) is None:
        raise Denial(400, "InvalidArgument", "x-amz-content-sha256 is no hash and no known word", reason="payload")
    return payload


def check_token(client: Client, head: RequestHead, target: Target) -> None:
    """Take no session token but the one that belongs to the key.

    Raises:
        Denial: there is another, or one is missing.
    """
    token = head.value("x-amz-security-token") or target.value("X-Amz-Security-Token")
    if not hmac.compare_digest(token.encode("utf-8", "replace"), client.session_token.encode("utf-8", "replace")):
        raise forbidden("InvalidToken", "the session token is not known here", reason="token")
