"""Whether the answer to a GET or HEAD of an object is the storage's own, and of the object that is known.

Between a client and a node stand gateways and proxies that answer for it: a page that says
"down for maintenance" with status 200 must not become the object, and neither must a body
that was cut or decompressed on its way and got a Content-Length that matches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from s3pool.errors import ProtocolError, ReplacedError
from s3pool.model import NO_TIME, ByteRange, ObjectHead, Response, format_iso_time, whole_number
from s3pool.s3.documents import PutResult, plausible_etag
from s3pool.s3.errors import check_response
from s3pool.s3.requests import METADATA_PREFIX
from s3pool.units import parse_http_date

ENCRYPTION = "x-amz-server-side-encryption"
CUSTOMER_ENCRYPTION = "x-amz-server-side-encryption-customer-algorithm"

PARTIAL = 206
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
# Every store names its requests, or itself, in a header of its own.
SIGNS_OF_STORES = ("x-amz", "x-goog-", "x-oss-", "x-obs-", "x-cos-", "x-rgw-", "x-minio-")


def etag_of(headers: Mapping[str, str]) -> str:
    """Return an answer's ETag without quotes, "" when there is none.

    Proxies mark it as weak; whether the body is the object is then checked by its size.
    """
    return headers.get("etag", "").removeprefix("W/").strip('"')


def hides_digest(headers: Mapping[str, str]) -> bool:
    """Return whether the ETag is no digest of the content, as under KMS or customer keys."""
    return "kms" in headers.get(ENCRYPTION, "") or CUSTOMER_ENCRYPTION in headers


def put_result(response: Response) -> PutResult:
    """Read the result of a PUT of an object or a part.

    Raises:
        ProtocolError: there is no usable ETag.
    """
    headers = response.headers
    return PutResult(plausible_etag(etag_of(headers)), headers.get("x-amz-version-id", ""), hides_digest(headers))


def head_of(headers: Mapping[str, str]) -> ObjectHead:
    """Return what the headers of an answer say of a whole object.

    Raises:
        ProtocolError: there is no usable Content-Length or Last-Modified.
    """
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
        metadata=_metadata(headers),
        headers=headers,
    )


def _metadata(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name.removeprefix(METADATA_PREFIX): value for name, value in headers.items() if name.startswith(METADATA_PREFIX)
    }


class Known(NamedTuple):
    """Size and ETag of an object by a listing or HEAD; None and "" where they are unknown."""

    size: int | None = None
    etag: str = ""


UNKNOWN = Known()


def check_content(
    op: str, resource: str, *, known: Known = UNKNOWN, byte_range: ByteRange | None = None
) -> Callable[[Response], None]:
    """Return the check of an answer to GetObject: it raises for all but the object's own bytes.

    The check raises ProtocolError for an answer that is not a store's, so that another node is
    asked, and ReplacedError for another object than the known one. It reads no body.
    """
    check_status = check_response(op, resource)

    def check(response: Response) -> None:
        check_status(response)
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
    """Return the result of a HEAD of an object, checked to be a store's.

    Raises:
        ProtocolError: the answer is none of a store, or tells no size or time.
    """
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
    if headers.get("content-type", "").startswith("text/html") and not _is_of_store(headers, etag):
        return "the answer is a web page and not the object"
    return ""


def _is_of_store(headers: Mapping[str, str], etag: str) -> bool:
    return bool(etag and etag_of(headers) == etag) or any(name.startswith(SIGNS_OF_STORES) for name in headers)


def check_known(response: Response, resource: str, known: Known) -> None:
    """Raise ReplacedError where the answer tells another ETag or size than the known ones."""
    etag = etag_of(response.headers)
    if known.etag and etag != known.etag:
        raise ReplacedError(f"{resource} was replaced while it was read: its ETag is {etag}, not {known.etag}")
    size = total_of(response)
    if None not in (known.size, size) and size != known.size:
        is_same = "of the same object" if known.etag else "now"
        raise ReplacedError(f"{resource}: {response.endpoint} sends {size} bytes {is_same}, not {known.size}")


def total_of(response: Response) -> int | None:
    """Return the size of the whole object as the answer tells it; None when it does not."""
    if response.status != PARTIAL:
        return response.length
    match = CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
    return int(match[3]) if match is not None and match[3] != "*" else None
