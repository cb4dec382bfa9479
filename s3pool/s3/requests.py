"""What requests are made of: the headers of operations, S3's limits, and the parts of an upload."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping

from s3pool.errors import UsageError
from s3pool.model import ByteRange, ObjectAttributes, encode_key, encode_query
from s3pool.units import word_set

Query = tuple[tuple[str, str], ...]
NO_HEADERS: Mapping[str, str] = {}

MAX_KEYS = 1000  # of a page of ListObjectsV2, and of a DeleteObjects
MIB = 1 << 20
MIN_PART_BYTES = 5 * MIB  # smaller parts are refused, but for the last one
MAX_PART_BYTES = 5 << 30
MAX_PARTS = 10_000
MAX_OBJECT_BYTES = 5 << 40
MAX_SINGLE_PUT_BYTES = 5 << 30  # PutObject and CopyObject in one piece
DEFAULT_PART_BYTES = 16 * MIB

METADATA_PREFIX = "x-amz-meta-"
KMS_WITH_KEY = "aws:kms:"
KMS_TWICE = "aws:kms:dsse"  # a method, not a key
WEBSITE_REDIRECT = "x-amz-website-redirect-location"
KMS_KEY_ID = "x-amz-server-side-encryption-aws-kms-key-id"
ATTRIBUTE_HEADERS = (
    *((name.replace("_", "-"), name) for name in ("content_type", "cache_control", "content_disposition")),
    *((name.replace("_", "-"), name) for name in ("content_encoding", "content_language", "expires")),
    (WEBSITE_REDIRECT, "website_redirect"),
    *((f"x-amz-{name.replace('_', '-')}", name) for name in ("storage_class", "acl")),
)
NO_ATTRIBUTES = ObjectAttributes()
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # a header's name (RFC 9110, section 5.6.2)
FORBIDDEN_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # tab alone is allowed (RFC 9110, section 5.5)


# What the bytes of an object are read or written by, and where they come from another one.
KEYED_OPS = word_set("CopyObject CreateMultipartUpload GetObject HeadObject PutObject UploadPart UploadPartCopy")
COPY_OPS = frozenset(("CopyObject", "UploadPartCopy"))


class ExtraHeaders:
    """Headers of every request of a client, and those of a customer's key where an operation needs it."""

    __slots__ = ("_copying", "_keyed", "_plain")

    def __init__(self, plain: Mapping[str, str], key: bytes = b"", *, source_key: bytes = b"") -> None:
        self._plain = plain
        self._keyed = {**plain, **_customer_key("x-amz-server-side-encryption-customer", key)}
        source = _customer_key("x-amz-copy-source-server-side-encryption-customer", source_key)
        self._copying = {**self._keyed, **source}

    @property
    def names(self) -> frozenset[str]:
        """The names of those that every request has."""
        return frozenset(self._plain)

    def of(self, op: str) -> Mapping[str, str]:
        """Return the headers of an operation."""
        if op not in KEYED_OPS:
            return self._plain
        return self._copying if op in COPY_OPS else self._keyed


def _customer_key(prefix: str, key: bytes) -> dict[str, str]:
    if not key:
        return {}
    digest = base64.b64encode(hashlib.md5(key, usedforsecurity=False).digest()).decode()
    return {
        f"{prefix}-algorithm": "AES256",
        f"{prefix}-key": base64.b64encode(key).decode(),
        f"{prefix}-key-md5": digest,
    }


def attribute_headers(attributes: ObjectAttributes | Mapping[str, str]) -> dict[str, str]:
    """Return the headers that store an object's attributes, which may be these headers already.

    Raises UsageError: a name or a value cannot stand in a header, such as one with a line break.
    """
    if not isinstance(attributes, ObjectAttributes):
        return dict(attributes)
    headers = {name: _checked(name, value) for name, value in _plain_headers(attributes) if value}
    for name, value in attributes.metadata.items():
        if not TOKEN.fullmatch(name):
            raise UsageError(f"metadata {name!r} cannot be stored: a name has letters, digits and dashes")
        headers[METADATA_PREFIX + name.lower()] = _checked(f"metadata {name}", value)
    return headers


def _plain_headers(attributes: ObjectAttributes) -> Iterator[tuple[str, str]]:
    yield from ((name, getattr(attributes, field)) for name, field in ATTRIBUTE_HEADERS)
    yield "x-amz-tagging", encode_query(tuple(attributes.tags.items()))
    encryption, key = attributes.sse, ""
    if encryption.startswith(KMS_WITH_KEY) and encryption != KMS_TWICE:
        encryption, key = KMS_WITH_KEY.rstrip(":"), encryption.removeprefix(KMS_WITH_KEY)
    yield "x-amz-server-side-encryption", encryption
    yield KMS_KEY_ID, key


def _checked(name: str, value: str) -> str:
    if FORBIDDEN_IN_VALUE.search(value):
        raise UsageError(f"{name} cannot be stored: its value holds a line break or another control character")
    return value


def copy_headers(bucket: str, key: str, *, version_id: str = "", if_match: str = "") -> dict[str, str]:
    """Return the headers that name the source of a copy, and the ETag it must have."""
    version = "?" + encode_query((("versionId", version_id),)) if version_id else ""
    headers = {"x-amz-copy-source": f"{bucket}/{encode_key(key)}{version}"}
    if if_match:
        headers["x-amz-copy-source-if-match"] = quote_etag(if_match)
        # Ceph RGW reads the condition under this name, and ignores the right one.
        headers["x-amz-copy-if-match"] = quote_etag(if_match)
    return headers


def quote_etag(etag: str) -> str:
    """Return an ETag as conditions want it, in quotes; ``*`` stays."""
    return etag if etag == "*" or etag.startswith('"') else f'"{etag}"'


def choose_part_size(size: int, wanted: int = 0) -> int:
    """Return the size of the parts for an object of ``size`` bytes.

    It is the wanted size, or the default for 0, as long as 10,000 parts suffice; else the next whole MiB with which
    they do. An object of up to 5 TiB always fits.

    Raises UsageError: the object is larger than 5 TiB, or the wanted size is outside 5 MiB..5 GiB.

    Source: Amazon S3 User Guide, "Multipart upload limits".
    """
    if size > MAX_OBJECT_BYTES:
        raise UsageError(f"an object has at most 5 TiB; this one would have {size} bytes")
    if wanted:
        _check_part_size(wanted)
    part_size = wanted or DEFAULT_PART_BYTES
    if size <= part_size * MAX_PARTS:
        return part_size
    smallest = -(-size // MAX_PARTS)
    return -(-smallest // MIB) * MIB


def iter_part_ranges(size: int, part_size: int) -> Iterator[ByteRange]:
    """Cut an object into consecutive part ranges.

    Sizes are bytes. Yields ceil(size / part_size) ranges in offset order, the last one possibly shorter; nothing at all
    when size is 0.

    Raises UsageError: part_size is outside 5 MiB..5 GiB, or more than 10,000 parts result.

    Source: Amazon S3 User Guide, "Multipart upload limits".
    """
    _check_part_size(part_size)
    if not may_cut(size, part_size):
        raise UsageError(f"{size} bytes in parts of {part_size} are more than {MAX_PARTS:,} parts; take larger parts")
    return iter_ranges(size, part_size)  # a generator itself would raise only at its first use


def iter_ranges(size: int, length: int) -> Iterator[ByteRange]:
    """Cut size bytes into ranges of any length, the last one possibly shorter."""
    return (ByteRange(first, min(first + length, size) - 1) for first in range(0, size, length))


def may_cut(size: int, part_size: int) -> bool:
    """Return whether S3 takes an object in parts of a size."""
    return MIN_PART_BYTES <= part_size <= MAX_PART_BYTES and count_parts(size, part_size) <= MAX_PARTS


def count_parts(size: int, part_size: int) -> int:
    """Return the number of parts: size divided by part size, rounded up."""
    return -(-size // part_size)


def _check_part_size(part_size: int) -> None:
    if not MIN_PART_BYTES <= part_size <= MAX_PART_BYTES:
        raise UsageError(f"a part has 5 MiB to 5 GiB, not {part_size} bytes")
