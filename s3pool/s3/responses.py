"""Whether the answer to a GET or HEAD of an object is the storage's own, and of the object that is known.

Between a client and a node stand gateways and proxies that answer for it: a page that says
"down for maintenance" with status 200 must not become the object, and neither must a body
that was cut or decompressed on its way and got a Content-Length that matches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from s3pool.dialect import name_limit_hint
from s3pool.errors import (
    CREDENTIAL_CODES,
    AccessDeniedError,
    IntegrityError,
    NotFoundError,
    PreconditionError,
    ProtocolError,
    ReplacedError,
    S3Error,
    ThrottledError,
    TransportError,
)
from s3pool.model import NO_TIME, ByteRange, ObjectHead, Response, format_iso_time, whole_number
from s3pool.record import dataclass
from s3pool.s3.documents import MAX_ERROR_BYTES, bare_etag, iso_millis, parse_error, read_root, told_region
from s3pool.s3.requests import METADATA_PREFIX
from s3pool.units import parse_http_date, word_set

MILLISECONDS = 1000
FIRST_BAD_STATUS = 300
UNPRINTABLE = r"[\x00-\x20\x7f-\x9f\u2028\u2029]+"
MAX_DETAIL_LENGTH = 500  # a message is one line; some servers write pages

NULL_VERSION = "null"  # the version of a bucket that keeps none; some servers leave it out
GONE_CODES = frozenset(("NoSuchKey", "NoSuchVersion"))  # what is not there needs no deletion
NOT_NAMED = ("NotDeleted", "the server named neither an error nor a deletion of it")
PLAUSIBLE_ETAG = re.compile(r"[!-;=?-~]+")  # visible ASCII without angle brackets

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
DENIED_CODES = CREDENTIAL_CODES | word_set("AccessDenied AccountProblem AllAccessDisabled InvalidSecurity NotSignedUp")
DENIED_CODES |= {"XAdminUserNotFound"}  # versitygw's word for an unknown key, with status 404
# What 403 says as well, and no other keys would change.
NOT_DENIED_CODES = word_set("InvalidObjectState InsufficientStorage ObjectLocked TooManyBuckets")
THROTTLING_CODES = word_set(
    "BandwidthLimitExceeded RequestLimitExceeded RequestThrottled Throttling ThrottlingException TooManyRequests"
)

# What servers say of a version that may not go yet, with AccessDenied (RGW, AWS, versitygw) or InvalidRequest (MinIO).
LOCKED = re.compile(r"WORM.protected|object.lock|protected by (?:a )?(?:legal hold|retention)", re.IGNORECASE)
LOCK_ADVICE = "a retention or a legal hold keeps this version; it goes when that has ended"

Check = Callable[[Response], None]


class PutResult(NamedTuple):
    """A stored object: its ETag without quotes; "" only after a Complete, where the server left it out.

    ``version_id`` is "" in a bucket that keeps no versions. With ``opaque`` the ETag is no
    digest of the bytes, though it may look like one: so it is under KMS and customer keys.
    """

    etag: str
    version_id: str = ""
    opaque: bool = False


@dataclass(frozen=True, slots=True)
class DeleteFailure:
    """One key of a batch that was not deleted, and why."""

    key: str
    version_id: str
    code: str
    detail: str
    request_id: str = ""
    endpoint: str = ""


class DeleteReply(NamedTuple):
    """What a server told of a batch: the errors, and the keys that it named as deleted."""

    failures: tuple[DeleteFailure, ...]
    deleted: frozenset[str]

    def failures_of(self, asked: Iterable[tuple[str, str]]) -> tuple[DeleteFailure, ...]:
        """Return one failure for each pair of key and version id that was not deleted.

        An error is matched by its key first, because servers spell the version as "null", as
        nothing, or as the one that they met: with several versions of a key asked for, an error
        that names none of them counts for all. An error of an unknown key counts for the whole
        batch. A reply that names what was deleted, though it was asked not to, names all of that.
        """
        versions: dict[str, list[str]] = {}
        for key, version_id in asked:
            versions.setdefault(key, []).append(version_id)
        found: dict[tuple[str, str], DeleteFailure] = {}
        gone: set[tuple[str, str]] = set()
        for failure in self.failures:
            meant = _pairs_meant(failure, versions)
            if failure.code in GONE_CODES and failure.key in versions:
                gone.update(meant)
                continue
            for pair in meant:
                found.setdefault(pair, DeleteFailure(*pair, failure.code, failure.detail))
        for key in versions.keys() - self.deleted if self.deleted else ():
            for pair in {(key, version_id) for version_id in versions[key]} - gone:
                found.setdefault(pair, DeleteFailure(*pair, *NOT_NAMED))
        return tuple(found.values())


def _pairs_meant(failure: DeleteFailure, versions: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    if failure.key not in versions:
        return [(key, version_id) for key, ids in versions.items() for version_id in ids]
    ids, told = versions[failure.key], failure.version_id
    meant = [one for one in ids if one == told] or [one for one in ids if {one, told} <= {"", NULL_VERSION}]
    return [(failure.key, version_id) for version_id in meant or ids]


def parse_delete_result(body: bytes) -> DeleteReply:
    """Read which keys of a batch were deleted, and which were not."""
    root = read_root(body, "DeleteResult")
    texts = ([entry.text_of(name) for name in ("Key", "VersionId", "Code", "Message")] for entry in root.all("Error"))
    failures = tuple(DeleteFailure(*each) for each in texts)
    return DeleteReply(failures, frozenset(entry.text_of("Key") for entry in root.all("Deleted")))


def error_from(response: Response, *, op: str, resource: str) -> S3Error:
    """Build the exception for an answer that is an error; reads its body.

    An answer with a status below 300 is one of those that fail after the status was sent.
    """
    headers, body, status = response.headers, b"", response.status
    is_read = False
    with suppress(TransportError):
        if is_read := response.read_ahead(MAX_ERROR_BYTES):
            body = response.body or b""
    if not is_read:  # the status says enough, and a cut or endless error text must not become another error
        response.close()
    code, detail, _, request_id = parse_error(body)
    if status < FIRST_BAD_STATUS:
        status = STATUS_OF_LATE_ERRORS.get(code, status)
    is_head = op.startswith("Head")
    if not code and status == 404 and is_head:
        code = "NoSuchKey" if resource.count("/") > 1 else "NoSuchBucket"
    code = code or CODES.get(status, f"HTTP{status}")
    limit = name_limit_hint(response, code, resource)
    kind = S3Error if limit else _class_for(status, code=code, detail=detail, is_head=is_head)
    detail, region = _one_line(detail), headers.get("x-amz-bucket-region", "")
    if response.status in (301, 307) and region:
        detail = f"{detail} (the bucket is in region {_one_line(region)})".strip()
    error = kind(
        status,
        _one_line(code),
        detail=detail,
        resource=resource,
        request_id=_one_line(request_id or headers.get("x-amz-request-id", "")),
        endpoint=str(response.endpoint),
        op=op,
        retry_after_s=_retry_after(response),
        server_time=parse_http_date(headers.get("date", "")),
        region=told_region(status, headers, body),
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


def _class_for(status: int, *, code: str, detail: str, is_head: bool) -> type[S3Error]:
    # A 503 to HEAD cannot name its reason. Load is the kinder guess: the node keeps its place.
    is_load = status == 503 and (is_head or "reduce your request rate" in detail.lower())
    if is_load or status == 429 or code.startswith("SlowDown") or code in THROTTLING_CODES:
        return ThrottledError
    if LOCKED.search(detail):
        return S3Error
    is_other = code in NOT_DENIED_CODES or code.endswith("QuotaExceeded")
    if code in DENIED_CODES or (status in (401, 403) and not is_other):
        return AccessDeniedError
    if status == 404 or code in ("NoSuchBucket", "NoSuchKey", "NoSuchUpload", "NoSuchVersion"):
        return NotFoundError
    if status in (304, 412) or code in ("ConditionalRequestConflict", "PreconditionFailed"):
        return PreconditionError
    return S3Error


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


def _one_line(text: str) -> str:
    return re.sub(UNPRINTABLE, " ", text[: 2 * MAX_DETAIL_LENGTH]).strip()[:MAX_DETAIL_LENGTH]


ENCRYPTION = "x-amz-server-side-encryption"
CUSTOMER_ENCRYPTION = "x-amz-server-side-encryption-customer-algorithm"

PARTIAL = 206
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
# Every store names its requests, or itself, in a header of its own; Garage has an ETag as no web server makes it.
STORES_ETAG = re.compile(r'"[0-9a-f]{32}(-[0-9]{1,5})?"')
SIGNS_OF_STORES = ("x-amz", "x-goog-", "x-oss-", "x-obs-", "x-cos-", "x-rgw-", "x-minio-")


def etag_of(headers: Mapping[str, str]) -> str:
    """Return an answer's ETag without quotes, "" when there is none.

    Proxies mark it as weak; whether the body is the object is then checked by its size.
    """
    return headers.get("etag", "").removeprefix("W/").strip('"')


def hides_digest(headers: Mapping[str, str]) -> bool:
    """Return whether the ETag is no digest of the content, as under KMS or customer keys."""
    return "kms" in headers.get(ENCRYPTION, "") or CUSTOMER_ENCRYPTION in headers


def plausible_etag(etag: str) -> str:
    """Return the ETag, without quotes, of something that was stored, which every S3 tells."""
    if not PLAUSIBLE_ETAG.fullmatch(etag):
        raise ProtocolError("the answer has no usable ETag: nothing proves that anything was stored")
    return etag


def put_result(response: Response) -> PutResult:
    """Read the result of a PUT of an object or a part."""
    headers = response.headers
    return PutResult(plausible_etag(etag_of(headers)), headers.get("x-amz-version-id", ""), hides_digest(headers))


def parse_copy_result(body: bytes, *, part: bool = False) -> tuple[str, str]:
    """Read the ETag and the time of modification of a copied object or part."""
    fields = read_root(body, "CopyPartResult" if part else "CopyObjectResult").fields()
    return plausible_etag(bare_etag(fields.get("ETag", ""))), iso_millis(fields.get("LastModified", ""))


def metadata_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata that headers tell, by their bare names."""
    start = len(METADATA_PREFIX)
    return {name[start:]: value for name, value in headers.items() if name.startswith(METADATA_PREFIX)}


def head_of(headers: Mapping[str, str]) -> ObjectHead:
    """Return what the headers of an answer say of a whole object."""
    length = whole_number(headers.get("content-length", ""))
    told = headers.get("last-modified", "")
    if length is None or not told:
        raise ProtocolError("the answer to HEAD tells no size or no time of modification")
    modified = parse_http_date(told)
    return ObjectHead(
        length,
        NO_TIME if modified is None else format_iso_time(modified),
        etag_of(headers),
        headers.get("content-type", ""),
        headers.get("x-amz-storage-class") or "STANDARD",
        headers.get("x-amz-version-id", ""),
        metadata=metadata_of(headers),
        headers=headers,
    )


class Known(NamedTuple):
    """Size and ETag of an object by a listing or HEAD; None and "" where they are unknown."""

    size: int | None = None
    etag: str = ""


UNKNOWN = Known()


def check_content(op: str, resource: str, *, known: Known = UNKNOWN, byte_range: ByteRange | None = None) -> Check:
    """Return the check of an answer to GetObject: it raises for all but the object's own bytes.

    The check raises ProtocolError for an answer that is not a store's, so that another node is asked, and ReplacedError
    for another object than the known one. It reads no body but that of an error.
    """

    def check(response: Response) -> None:
        if response.status >= FIRST_BAD_STATUS:
            raise error_from(response, op=op, resource=resource)
        fault = stranger_in(response, etag=known.etag)
        if fault:
            endpoint = str(response.endpoint)
            raise ProtocolError(f"{op} {resource} at {endpoint}: {fault}", endpoint=endpoint)
        check_known(response, resource, known)
        length = response.length
        if response.status == PARTIAL and byte_range is not None and length not in (None, byte_range.length):
            raise ReplacedError(f"{resource}: {response.endpoint} sent {length} bytes of {byte_range.length}")

    return check


def read_object_head(response: Response) -> ObjectHead:
    """Return the result of a HEAD of an object, checked to be a store's."""
    fault = stranger_in(response)
    if fault:
        raise ProtocolError(fault)
    return head_of(response.headers)


def stranger_in(response: Response, *, etag: str = "") -> str:
    """Return why an answer to GET or HEAD of an object is none of a store, "" when it may be one.

    An HTML page with an ETag is an object when the ETag is the known one, or when the answer
    carries a header as only stores send it.
    """
    headers = response.headers
    if "etag" not in headers:
        return f"the answer has the status {response.status} and no ETag, so it is none of S3"
    is_known = (bool(etag) and etag_of(headers) == etag) or STORES_ETAG.fullmatch(headers["etag"]) is not None
    is_page = headers.get("content-type", "").startswith("text/html")
    if is_page and not is_known and not any(name.startswith(SIGNS_OF_STORES) for name in headers):
        return "the answer is a web page and not the object"
    return ""


def check_known(response: Response, resource: str, known: Known) -> None:
    """Raise ReplacedError where the answer tells another ETag or size than the known ones."""
    etag = etag_of(response.headers)
    if known.etag and etag != known.etag:
        raise ReplacedError(f"{resource} was replaced while it was read: its ETag is {etag}, not {known.etag}")
    size = total_of(response)
    if None not in (known.size, size) and size != known.size:
        is_same = "of the same object" if known.etag else "now"
        raise ReplacedError(f"{resource}: {response.endpoint} sends {size} bytes {is_same}, not {known.size}")


def range_of(response: Response, what: object) -> tuple[int, int]:
    """Return the first byte and the end (exclusive) of the range that an answer is.

    Raises IntegrityError: the answer does not tell.
    """
    told = CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
    if told is None:
        raise IntegrityError(f"{what}: {response.endpoint} sent a part without saying which")
    return int(told[1]), int(told[2]) + 1


def total_of(response: Response) -> int | None:
    """Return the size of the whole object as the answer tells it; None when it does not."""
    if response.status != PARTIAL:
        return response.length
    match = CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
    return int(match[3]) if match is not None and match[3] != "*" else None
