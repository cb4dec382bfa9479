"""Turn error responses of S3 into exceptions."""

from __future__ import annotations

import re
from collections.abc import Callable

from s3pool.errors import (
    CREDENTIAL_CODES,
    AccessDeniedError,
    NotFoundError,
    PreconditionError,
    S3Error,
    ThrottledError,
    TransportError,
)
from s3pool.model import Response, whole_number
from s3pool.s3.dialect import name_limit_hint
from s3pool.s3.documents import MAX_ERROR_BYTES, DeleteFailure, parse_error, told_region
from s3pool.units import parse_http_date

MILLISECONDS = 1000
FIRST_BAD_STATUS = 300
UNPRINTABLE = r"[\x00-\x20\x7f-\x9f\u2028\u2029]+"
MAX_DETAIL_LENGTH = 500  # a message is one line; some servers write pages

# What a status means where no body says it: after HEAD, or from something that is not S3.
CODES = {
    301: "PermanentRedirect",
    304: "NotModified",
    307: "TemporaryRedirect",
    400: "BadRequest",
    401: "AccessDenied",
    403: "AccessDenied",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    411: "MissingContentLength",
    412: "PreconditionFailed",
    413: "EntityTooLarge",
    416: "InvalidRange",
    429: "TooManyRequests",
    500: "InternalError",
    501: "NotImplemented",
    502: "BadGateway",
    503: "ServiceUnavailable",
    504: "GatewayTimeout",
}
# What a code inside an answer with status 200 would have been as a status.
STATUS_OF_LATE_ERRORS = {"InternalError": 500, "ServiceUnavailable": 503, "SlowDown": 503}
# Codes that speak of the keys or of what they may do, whatever the status.
DENIED_CODES = CREDENTIAL_CODES | {
    "AccessDenied",
    "AccountProblem",
    "AllAccessDisabled",
    "InvalidSecurity",
    "NotSignedUp",
    "XAdminUserNotFound",  # versitygw's word for an unknown key, with status 404
}
# What 403 says as well, and no other keys would change.
NOT_DENIED_CODES = frozenset(("InvalidObjectState", "InsufficientStorage", "ObjectLocked", "TooManyBuckets"))
THROTTLING_CODES = frozenset(
    (
        "BandwidthLimitExceeded",
        "RequestLimitExceeded",
        "RequestThrottled",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    )
)

# What servers say of a version that may not go yet, with AccessDenied (RGW, AWS, versitygw) or InvalidRequest (MinIO).
LOCKED = re.compile(r"WORM.protected|object.lock|protected by (?:a )?(?:legal hold|retention)", re.IGNORECASE)
LOCK_ADVICE = "a retention or a legal hold keeps this version; it goes when that has ended"

Check = Callable[[Response], None]


def check_response(op: str, resource: str) -> Check:
    """Return the check of one operation, which raises for every status but 2xx.

    The check reads the body of an error and leaves that of a success on the wire. It raises
    S3Error, or one of its subclasses where the status or the code has one.
    """

    def check(response: Response) -> None:
        if response.status >= FIRST_BAD_STATUS:
            raise error_from(response, op=op, resource=resource)

    return check


def error_from(response: Response, *, op: str, resource: str) -> S3Error:
    """Build the exception for an answer that is an error; reads its body.

    An answer with a status below 300 is one of those that fail after the status was sent.
    """
    body, status = _body_of(response), response.status
    code, detail, _, request_id = parse_error(body)
    if status < 300:
        status = STATUS_OF_LATE_ERRORS.get(code, status)
    is_head = op.startswith("Head")
    code = code or _code_for(status, resource=resource, is_head=is_head)
    limit = name_limit_hint(response, code, resource)
    kind = S3Error if limit else _class_for(status, code=code, detail=detail, is_head=is_head)
    error = kind(
        status,
        _one_line(code),
        detail=_with_region(_one_line(detail), response),
        resource=resource,
        request_id=_one_line(request_id or response.headers.get("x-amz-request-id", "")),
        endpoint=str(response.endpoint),
        op=op,
        retry_after_s=_retry_after(response),
        server_time=parse_http_date(response.headers.get("date", "")),
        region=told_region(status, response.headers, body),
        final=bool(limit),
    )
    error.hint = limit or _lock_hint(error)
    return error


def error_of_failure(failure: DeleteFailure, bucket: str) -> S3Error:
    """Return the exception of one key that a batch did not delete, as of a request of its own."""
    status = STATUS_OF_LATE_ERRORS.get(failure.code, 403 if failure.code in DENIED_CODES else 200)
    version = f" (version {failure.version_id})" if failure.version_id else ""
    error = _class_for(status, code=failure.code, detail=failure.detail, is_head=False)(
        status,
        _one_line(failure.code) or "Error",
        detail=_one_line(failure.detail),
        resource=f"s3/{bucket}/{failure.key}{version}",
        request_id=_one_line(failure.request_id),
        endpoint=failure.endpoint,
        op="DeleteObjects",
    )
    error.hint = _lock_hint(error)
    return error


def _lock_hint(error: S3Error) -> str:
    """Return what to do about a version that is locked, "" for any other error: no other keys would help."""
    return LOCK_ADVICE if LOCKED.search(error.detail) else ""


def _body_of(response: Response) -> bytes:
    try:
        if response.read_ahead(MAX_ERROR_BYTES):
            return response.body or b""
    except TransportError:
        pass
    # The status says enough, and a cut or endless error text must not become another error.
    response.close()
    return b""


def _code_for(status: int, *, resource: str, is_head: bool) -> str:
    if status == 404 and is_head:
        return "NoSuchKey" if resource.count("/") > 1 else "NoSuchBucket"
    return CODES.get(status, f"HTTP{status}")


def _class_for(status: int, *, code: str, detail: str, is_head: bool) -> type[S3Error]:
    if _is_throttling(status, code=code, detail=detail, is_head=is_head):
        return ThrottledError
    if LOCKED.search(detail):
        return S3Error
    if code in DENIED_CODES or (status in (401, 403) and not _is_no_denial(code)):
        return AccessDeniedError
    if status == 404 or code in ("NoSuchBucket", "NoSuchKey", "NoSuchUpload", "NoSuchVersion"):
        return NotFoundError
    if status in (304, 412) or code in ("ConditionalRequestConflict", "PreconditionFailed"):
        return PreconditionError
    return S3Error


def _is_no_denial(code: str) -> bool:
    return code in NOT_DENIED_CODES or code.endswith("QuotaExceeded")


def _is_throttling(status: int, *, code: str, detail: str, is_head: bool) -> bool:
    if status == 429 or code.startswith("SlowDown") or code in THROTTLING_CODES:
        return True
    # A 503 to HEAD cannot name its reason. Load is the kinder guess: the node keeps its place.
    return status == 503 and (is_head or "reduce your request rate" in detail.lower())


def _retry_after(response: Response) -> float | None:
    precise = whole_number(response.headers.get("x-amz-retry-after", ""))
    if precise is not None:
        return precise / MILLISECONDS
    text = response.headers.get("retry-after", "")
    seconds = whole_number(text)
    if seconds is not None:
        return float(seconds)
    until, now = parse_http_date(text), parse_http_date(response.headers.get("date", ""))
    return max(0.0, until - now) if until is not None and now is not None else None


def _with_region(detail: str, response: Response) -> str:
    region = response.headers.get("x-amz-bucket-region", "")
    if response.status not in (301, 307) or not region:
        return detail
    return f"{detail} (the bucket is in region {_one_line(region)})".strip()


def _one_line(text: str) -> str:
    return re.sub(UNPRINTABLE, " ", text[: 2 * MAX_DETAIL_LENGTH]).strip()[:MAX_DETAIL_LENGTH]
