"""The signature that a request claims to have, read strictly, and not yet verified.

Source: Amazon S3 API Reference, "Authenticating Requests (AWS Signature Version 4)".
"""

from __future__ import annotations

import re
import time
from calendar import timegm
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

from s3pool.proxy.errors import S3ErrorResponse, forbidden
from s3pool.proxy.request import CACHE_SIZE, RequestHead, Target
from s3pool.record import dataclass
from s3pool.s3.signing import ALGORITHM, TIMESTAMP_FORMAT
from s3pool.units import parse_http_date, word_set

MAX_CREDENTIAL_LENGTH = 512
HEX_SIGNATURE = re.compile(r"[0-9a-f]{64}")
TIMESTAMP_LENGTH = 16
SIGNED_NAMES = re.compile(r"[0-9a-z-]+(?:;[0-9a-z-]+)*")
TIMESTAMP = re.compile(r"[0-9]{8}T[0-9]{4}[0-5][0-9]Z")
WORD = re.compile(r"(Credential|SignedHeaders|Signature)=([^,\s]+)")
AUTHORIZATION_WORDS = frozenset({"Credential", "SignedHeaders", "Signature"})
# The query parameters that carry a signature; they never reach a node.
V4_PARAMETERS = word_set(
    "X-Amz-Algorithm X-Amz-Credential X-Amz-Date X-Amz-Expires X-Amz-SignedHeaders X-Amz-Signature X-Amz-Security-Token"
)


@dataclass(frozen=True, slots=True)
class Credential:
    """The credential that a request names, and the headers that it says are signed."""

    access_key: str
    date: str
    region: str
    scope: str
    signed: tuple[str, ...]


class SignatureClaim(NamedTuple):
    """The signature of a request with its credential and time, not yet verified."""

    credential: Credential
    signature: str
    timestamp: str
    seconds: float


def read_claim(head: RequestHead) -> SignatureClaim:
    """Parse the Authorization field. Raises S3ErrorResponse: it is malformed."""
    given = head.values("x-amz-date")  # where it stands it counts, even if it is empty
    seconds = None if given else parse_http_date(head.value("date"))
    plain = "" if seconds is None else time.strftime(TIMESTAMP_FORMAT, time.gmtime(seconds))
    timestamp = given[0] if given else plain
    words = _authorization_words(head.value("authorization"))
    if words.keys() != AUTHORIZATION_WORDS:
        raise malformed_header("the Authorization field is malformed")
    return make_claim(words["Credential"], words["SignedHeaders"], words["Signature"], timestamp, malformed_header)


def _authorization_words(value: str) -> Mapping[str, str]:
    """Return the words of an Authorization field, or an empty map if it is malformed."""
    value = value.removeprefix(ALGORITHM)
    found = WORD.findall(value)
    words = dict(found)
    return {} if len(found) != len(words) or WORD.sub("", value).strip(" ,\t") else words


def read_query_claim(target: Target) -> SignatureClaim:
    """Read the signature in a query. Raises S3ErrorResponse: it is malformed."""
    names = [name for name, _, _ in target.pairs]
    if any(names.count(name) != 1 for name in V4_PARAMETERS - {"X-Amz-Security-Token"}):
        detail = (
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, "
            "X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."
        )
        raise malformed_query(detail)
    if target.value("X-Amz-Algorithm") != ALGORITHM:
        raise malformed_query(f'X-Amz-Algorithm only supports "{ALGORITHM}" here')
    timestamp = target.value("X-Amz-Date")
    if read_timestamp(timestamp) is None:
        raise malformed_query("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"")
    credential = target.value("X-Amz-Credential")
    return make_claim(
        credential, target.value("X-Amz-SignedHeaders"), target.value("X-Amz-Signature"), timestamp, malformed_query
    )


def make_claim(
    credential: str, signed_headers: str, claimed: str, timestamp: str, malformed: Callable[[str], S3ErrorResponse]
) -> SignatureClaim:
    """Return a claim of the parts of a signature; ``malformed`` makes the error of one that is none."""
    found = _read_credential(credential, signed_headers, malformed)
    if HEX_SIGNATURE.fullmatch(claimed) is None:
        raise malformed("the signature or the list of signed headers is malformed")
    if malformed is malformed_query and found.date != timestamp[:8]:
        raise malformed("Invalid credential date, it is not that of X-Amz-Date")
    seconds = read_timestamp(timestamp)
    if seconds is None or found.date != timestamp[:8]:
        raise forbidden("AccessDenied", "a valid x-amz-date, of the scope's day, is required", reason="date")
    return SignatureClaim(found, claimed, timestamp, seconds)


def _read_credential(credential: str, signed_headers: str, malformed: Callable[[str], S3ErrorResponse]) -> Credential:
    parts = credential.rsplit("/", 4)
    signed = tuple(signed_headers.split(";"))
    is_text = credential.isascii() and credential.isprintable() and len(credential) <= MAX_CREDENTIAL_LENGTH
    if not is_text or len(parts) != 5 or parts[3:] != ["s3", "aws4_request"] or not parts[0]:
        raise malformed("the credential's scope must be date/region/s3/aws4_request")
    if SIGNED_NAMES.fullmatch(signed_headers) is None or signed != tuple(sorted(set(signed))):
        raise malformed("the signature or the list of signed headers is malformed")
    return Credential(parts[0], parts[1], parts[2], "/".join(parts[1:]), signed)


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
        return float(timegm(time.strptime(text, TIMESTAMP_FORMAT))) if TIMESTAMP.fullmatch(text) else None
    except ValueError:  # a 31st of February
        return None
