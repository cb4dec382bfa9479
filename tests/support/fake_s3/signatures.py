"""Checks SigV4 with botocore as the oracle: another hand than the one that signed."""

from __future__ import annotations

import calendar
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPMessage
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.support.fake_s3.store import S3Fault
from tests.support.fake_s3.wire import Exchange

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"


@dataclass(frozen=True)
class Claim:
    """What a request says about its signature."""

    access_key: str
    date: str
    region: str
    service: str
    signed: tuple[str, ...]
    signature: str
    stamp: str
    payload_hash: str
    expires_s: int | None = None


def check_signature(exchange: Exchange, secrets: Mapping[str, str], *, now: float) -> None:
    """Raise the error that S3 would answer with, or return."""
    claim = read_claim(exchange)
    if claim.access_key not in secrets:
        raise S3Fault(403, "InvalidAccessKeyId", "The access key you provided does not exist in our records.")
    if claim.expires_s is not None and now > read_stamp(claim.stamp) + claim.expires_s:
        raise S3Fault(403, "AccessDenied", "Request has expired")
    missing = {"host"} - set(claim.signed)
    if missing:
        raise S3Fault(403, "AccessDenied", f"not signed: {missing}")
    expected = expected_signature(exchange, claim, secrets[claim.access_key])
    if not hmac.compare_digest(expected, claim.signature):
        raise S3Fault(
            403, "SignatureDoesNotMatch", "The request signature we calculated does not match the one you provided."
        )


def check_region(exchange: Exchange, region: str, *, tells: str) -> None:
    """Raise what servers answer to a request that is signed for another region, told in one of their ways."""
    claim = read_claim(exchange)
    if claim.region == region:
        return
    given, wanted = (f"{claim.date}/{name}/s3/aws4_request" for name in (claim.region, region))
    messages = {
        "message": f"Authorization header malformed, unexpected scope: '{given}', expected: '{wanted}'",
        "minio": f"The authorization header is malformed; the region is wrong; expecting '{region}'.",
    }
    message = messages.get(tells, "Authorization header malformed")
    fault = S3Fault(400, "AuthorizationHeaderMalformed", message)
    if tells == "header":
        fault.headers["x-amz-bucket-region"] = region
    if tells == "minio":
        fault.headers["x-minio-error-desc"] = f'"{message}"'
    fault.region = region if tells == "element" else ""
    raise fault


def check_payload(exchange: Exchange) -> None:
    """Compare the signed hash with the body that came."""
    claimed = exchange.headers.get("x-amz-content-sha256", UNSIGNED)
    if len(claimed) == 64 and hashlib.sha256(exchange.body()).hexdigest() != claimed:
        raise S3Fault(400, "XAmzContentSHA256Mismatch", "The provided hash does not match what was computed.")


def read_stamp(stamp: str) -> float:
    """Read ``20260122T204433Z``; raises AccessDenied."""
    try:
        return calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        raise S3Fault(403, "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header") from None


def read_claim(exchange: Exchange) -> Claim:
    """Read the Authorization header, or the query of a presigned URL."""
    query = dict(parse_qsl(exchange.target.partition("?")[2], keep_blank_values=True))
    if "X-Amz-Signature" in query:
        words = {"Credential": query["X-Amz-Credential"], "SignedHeaders": query["X-Amz-SignedHeaders"]}
        words["Signature"] = query["X-Amz-Signature"]
        payload_hash = exchange.headers.get("x-amz-content-sha256", UNSIGNED)
        return _claim(words, query["X-Amz-Date"], payload_hash, int(query["X-Amz-Expires"]))
    scheme, _, rest = exchange.headers.get("authorization", "").partition(" ")
    if scheme != ALGORITHM:
        raise S3Fault(403, "AccessDenied", "Access Denied")
    words = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    payload_hash = exchange.headers.get("x-amz-content-sha256", "")
    if not payload_hash:
        raise S3Fault(400, "InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    return _claim(words, exchange.headers.get("x-amz-date", ""), payload_hash, None)


def _claim(words: dict[str, str], stamp: str, payload_hash: str, expires_s: int | None) -> Claim:
    try:
        access_key, date, region, service, _ = words["Credential"].rsplit("/", 4)
        signed = tuple(words["SignedHeaders"].split(";"))
        return Claim(access_key, date, region, service, signed, words["Signature"], stamp, payload_hash, expires_s)
    except (KeyError, ValueError):
        raise S3Fault(400, "AuthorizationHeaderMalformed") from None


def expected_signature(exchange: Exchange, claim: Claim, secret: str) -> str:
    """Let botocore compute what the signature has to be, from what stands on the wire."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    class Oracle(S3SigV4Auth):  # type: ignore[misc]
        def headers_to_sign(self, request: Any) -> HTTPMessage:
            chosen = HTTPMessage()
            for name in claim.signed:
                for value in (value for other, value in exchange.lines if other == name):
                    chosen[name] = value
            return chosen

        def payload(self, request: Any) -> str:
            return claim.payload_hash

        def canonical_request(self, request: Any) -> str:
            # The path stands on the wire as it was signed; botocore must not look at it again.
            path, _, query = exchange.target.partition("?")
            pairs = sorted(pair if "=" in pair else pair + "=" for pair in query.split("&") if pair)
            kept = (pair for pair in pairs if not pair.startswith("X-Amz-Signature="))
            headers = self.headers_to_sign(request)
            signed = self.signed_headers(headers)
            parts = (
                request.method,
                path,
                "&".join(kept),
                self.canonical_headers(headers) + "\n",
                signed,
                claim.payload_hash,
            )
            return "\n".join(parts)

    oracle = Oracle(Credentials(claim.access_key, secret), claim.service, claim.region)
    request = AWSRequest(method=exchange.method, url=f"http://{urlsplit(exchange.node.url).netloc}/")
    request.context["timestamp"] = claim.stamp
    text = oracle.string_to_sign(request, oracle.canonical_request(request))
    return str(oracle.signature(text, request))
