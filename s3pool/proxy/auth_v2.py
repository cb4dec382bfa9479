"""Signature Version 2, which some clients still use for presigned URLs.

It covers a fixed set of sub-resources and no other part of the query; that is why it can be switched off.

Source: Amazon S3 Developer Guide, "Signing and Authenticating REST Requests".
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Mapping

from s3pool.model import UNSIGNED_PAYLOAD
from s3pool.proxy import auth
from s3pool.proxy.clients import Client
from s3pool.proxy.errors import S3ErrorResponse, forbidden, invalid
from s3pool.proxy.operations import EXACT_QUERIES, V2_PARAMETERS
from s3pool.proxy.request import RequestHead, Target
from s3pool.s3.signing import canonical_value
from s3pool.units import parse_http_date, word_set

SIGNED_PARAMETERS = word_set(
    "acl accelerate append cors delete encryption legal-hold lifecycle location logging notification object-lock "
    "partNumber policy position publicAccessBlock replication requestPayment response-cache-control "
    "response-content-disposition response-content-encoding response-content-language response-content-type "
    "response-expires restore retention select tagging torrent uploadId uploads versionId versioning versions "
    "website"
)
# Version 2 does not know these either, and they only say how much is listed. Whatever else stands in a query,
# anybody can have added, and some node may obey it.
HARMLESS = frozenset(word for _, allowed in EXACT_QUERIES.values() for word in allowed.split())
COVERED = SIGNED_PARAMETERS | V2_PARAMETERS | HARMLESS | {"list-type", "select-type", "x-id"}
V2_HEADERS = frozenset({"content-type", "content-md5"})
AUTHORIZATION = re.compile(r"AWS ([^:\s]+):([A-Za-z0-9+/=]+)")


def verify_v2(
    form: str, head: RequestHead, target: Target, *, clients: Mapping[str, Client], bucket_host: str, now: float
) -> auth.Caller:
    """Return the sender of a request. Raises S3ErrorResponse: the signature does not hold, or its time is over."""
    _check_coverage(target, echoed(head, target) if form == auth.QUERY_V2 else frozenset())
    auth.refuse_unsigned(head, [name for name in head.index if name.startswith("x-amz-")])
    if form == auth.HEADER_V2:
        access_key, claimed, date = _read_header(head, now)
    else:
        access_key, claimed, date = target.value("AWSAccessKeyId"), target.value("Signature"), target.value("Expires")
        if re.fullmatch(r"[0-9]{1,12}", date) is None:
            raise forbidden("AccessDenied", "Expires must be seconds since 1970", reason="malformed")
        if now > int(date):
            raise forbidden("AccessDenied", "Request has expired", reason="expired")
    text = string_to_sign(head, target, date=date, bucket_host=bucket_host)
    client = check_signature(clients.get(access_key), text, claimed, what="request")
    auth.check_token(client, auth.token_of(head, target))
    if head.value("x-amz-content-sha256") in auth.STREAMS:
        raise S3ErrorResponse(400, "InvalidRequest", "chunk signatures need Signature Version 4", reason="payload")
    return auth.Caller(form, client, UNSIGNED_PAYLOAD)


def check_signature(client: Client | None, text: bytes, claimed: str, *, what: str) -> Client:
    """Return the client of a signature that holds. Raises S3ErrorResponse: it does not, or nobody knows the client."""
    secret = client.secret_key if client else auth.DUMMY_SECRET
    expected = base64.b64encode(hmac.digest(secret.encode(), text, "sha1"))
    return auth.proven(client, holds=hmac.compare_digest(expected, claimed.encode("utf-8", "replace")), what=what)


def not_accepted() -> S3ErrorResponse:
    """Return the response where Version 2 is switched off."""
    detail = "Signature Version 2 is not accepted here. Please use AWS4-HMAC-SHA256."
    return S3ErrorResponse(400, "InvalidRequest", detail, reason="sigv2")


def echoed(head: RequestHead, target: Target) -> frozenset[str]:
    """Return the parameters that repeat a signed header, as boto3 adds them to V2 URLs."""
    fields = [name for name in target.names if name in V2_HEADERS or name.startswith("x-amz-")]
    values = {name: [value for other, value in target.parameters if other == name] for name in fields}
    return frozenset(name for name in fields if [*head.values(name)] == values[name])


def _check_coverage(target: Target, repeated: frozenset[str]) -> None:
    names = [name for name, _, _ in target.pairs]
    if target.names - COVERED - repeated or any(names.count(name) > 1 for name in SIGNED_PARAMETERS):
        raise forbidden("AccessDenied", "Signature Version 2 does not cover this query", reason="coverage")
    # They are signed decoded: what follows an & in a value must not read like the next of them.
    inner = (piece for name, value in target.parameters if name in SIGNED_PARAMETERS for piece in value.split("&")[1:])
    if any(piece.partition("=")[0] in SIGNED_PARAMETERS for piece in inner):
        detail = "Signature Version 2 cannot tell this parameter from two"
        raise forbidden("AccessDenied", detail, reason="coverage")


def _read_header(head: RequestHead, now: float) -> tuple[str, str, str]:
    match = AUTHORIZATION.fullmatch(head.value("authorization"))
    if match is None:
        raise invalid("the Authorization field is malformed", reason="malformed")
    given = head.values("x-amz-date")  # where it stands it counts, even if it is empty
    text = given[0] if given else head.value("date")
    stamp = parse_http_date(text)
    if stamp is None or stamp < 0:  # no date, or one before 1970
        raise forbidden("AccessDenied", "a valid Date or x-amz-date is required", reason="date")
    auth.check_skew(stamp, now)
    return match[1], match[2], "" if given else head.value("date")


def string_to_sign(head: RequestHead, target: Target, *, date: str, bucket_host: str = "") -> bytes:
    """Return the string to sign; ``date`` is the Date field or the URL's Expires."""
    amz: dict[str, str] = {}
    for raw_name, value in head.fields:
        name = raw_name.lower()
        if name.startswith("x-amz-"):
            amz[name] = f"{amz[name]},{canonical_value(value)}" if name in amz else canonical_value(value)
    lines = [head.method, head.value("content-md5"), head.value("content-type"), date]
    lines += [f"{name}:{amz[name]}" for name in sorted(amz)]
    resource = f"/{bucket_host}{head.path}" if bucket_host else head.path
    chosen = sorted(name for name in target.names if name in SIGNED_PARAMETERS)
    # A parameter without a value stands bare in what is signed, with or without "=" on the wire.
    words = [f"{name}={value}" if (value := target.value(name)) else name for name in chosen]
    query = f"?{'&'.join(words)}" if words else ""
    return "\n".join([*lines, resource + query]).encode("utf-8", "surrogateescape")
