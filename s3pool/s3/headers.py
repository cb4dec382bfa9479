"""The headers of S3's operations: attributes out, a HEAD's answer in, and what may stand there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from s3pool.errors import ProtocolError, UsageError
from s3pool.model import (
    NO_TIME,
    ObjectAttributes,
    ObjectHead,
    Response,
    encode_key,
    encode_query,
    format_iso_time,
    whole_number,
)
from s3pool.s3.check import parse_http_date
from s3pool.s3.results import PutResult, plausible_etag

METADATA_PREFIX = "x-amz-meta-"
KMS_WITH_KEY = "aws:kms:"
KMS_TWICE = "aws:kms:dsse"  # a method, not a key
WEBSITE_REDIRECT = "x-amz-website-redirect-location"
KMS_KEY_ID = "x-amz-server-side-encryption-aws-kms-key-id"
ENCRYPTION = "x-amz-server-side-encryption"
CUSTOMER_ENCRYPTION = "x-amz-server-side-encryption-customer-algorithm"
NO_ATTRIBUTES = ObjectAttributes()
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # a header's name (RFC 9110, section 5.6.2)
FORBIDDEN_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # tab alone is allowed (RFC 9110, section 5.5)


def attribute_headers(attributes: ObjectAttributes) -> dict[str, str]:
    """Give the headers that store an object's attributes.

    Raises:
        UsageError: a name or a value cannot stand in a header, such as one with a line break.
    """
    headers = {name: _checked(name, value) for name, value in _plain_headers(attributes) if value}
    for name, value in attributes.metadata.items():
        if not TOKEN.fullmatch(name):
            raise UsageError(f"metadata {name!r} cannot be stored: a name has letters, digits and dashes")
        headers[METADATA_PREFIX + name.lower()] = _checked(f"metadata {name}", value)
    return headers


def _plain_headers(attributes: ObjectAttributes) -> Iterator[tuple[str, str]]:
    yield "content-type", attributes.content_type
    yield "cache-control", attributes.cache_control
    yield "content-disposition", attributes.content_disposition
    yield "content-encoding", attributes.content_encoding
    yield "content-language", attributes.content_language
    yield "expires", attributes.expires
    yield WEBSITE_REDIRECT, attributes.website_redirect
    yield "x-amz-storage-class", attributes.storage_class
    yield "x-amz-acl", attributes.acl
    yield "x-amz-tagging", encode_query(tuple(attributes.tags.items()))
    if attributes.sse.startswith(KMS_WITH_KEY) and attributes.sse != KMS_TWICE:
        yield "x-amz-server-side-encryption", KMS_WITH_KEY.rstrip(":")
        yield "x-amz-server-side-encryption-aws-kms-key-id", attributes.sse.removeprefix(KMS_WITH_KEY)
    else:
        yield "x-amz-server-side-encryption", attributes.sse


def _checked(name: str, value: str) -> str:
    if FORBIDDEN_IN_VALUE.search(value):
        raise UsageError(f"{name} cannot be stored: its value holds a line break or another control character")
    return value


def copy_source(bucket: str, key: str, *, version_id: str = "") -> str:
    """Give the value of x-amz-copy-source."""
    version = "?" + encode_query((("versionId", version_id),)) if version_id else ""
    return f"{bucket}/{encode_key(key)}{version}"


def copy_headers(bucket: str, key: str, *, version_id: str = "", if_match: str = "") -> dict[str, str]:
    """Give the headers that name the source of a copy, and the ETag it must have."""
    headers = {"x-amz-copy-source": copy_source(bucket, key, version_id=version_id)}
    if if_match:
        headers["x-amz-copy-source-if-match"] = quote_etag(if_match)
        # Ceph RGW looks for the condition under this name, and passes over the right one.
        headers["x-amz-copy-if-match"] = quote_etag(if_match)
    return headers


def integrity_headers(content_md5: str, checksum: tuple[str, str] | None) -> dict[str, str]:
    """Give the headers by which the server checks a body."""
    headers = {"content-md5": content_md5} if content_md5 else {}
    return headers | dict([checksum] if checksum else [])


def etag_of(headers: Mapping[str, str]) -> str:
    """Return an answer's ETag without quotes, "" when there is none.

    Proxies mark it as a weak one; what that may stand for is found out by the size.
    """
    return headers.get("etag", "").removeprefix("W/").strip('"')


def hides_digest(headers: Mapping[str, str]) -> bool:
    """Say whether an ETag beside these headers is no digest of the content: under KMS or customer keys."""
    return "kms" in headers.get(ENCRYPTION, "") or CUSTOMER_ENCRYPTION in headers


def quote_etag(etag: str) -> str:
    """Give an ETag as conditions want it, in quotes; ``*`` stays."""
    return etag if etag == "*" or etag.startswith('"') else f'"{etag}"'


def put_result(response: Response) -> PutResult:
    """Read what PUT tells of the object, or the part, that it stored.

    Raises:
        ProtocolError: there is no usable ETag.
    """
    headers = response.headers
    return PutResult(plausible_etag(etag_of(headers)), headers.get("x-amz-version-id", ""), hides_digest(headers))


def read_head(response: Response) -> ObjectHead:
    """Read what HEAD tells of an object.

    Raises:
        ProtocolError: there is no usable Content-Length or Last-Modified.
    """
    return head_of(response.headers)


def head_of(headers: Mapping[str, str]) -> ObjectHead:
    """Give what the headers of an answer tell of a whole object.

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
