"""What requests are made of: path-style or virtual-host addresses, and the headers of operations."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping

from s3pool.body import EMPTY_BODY, EMPTY_SHA256, Body, BytesBody
from s3pool.errors import UsageError
from s3pool.model import ObjectAttributes, Request, encode_key, encode_query
from s3pool.units import word_set

Query = tuple[tuple[str, str], ...]
NO_HEADERS: Mapping[str, str] = {}

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


class Addressing:
    """Builds the requests of a service, a bucket or a key.

    A bucket without a name, or a key without one, is a UsageError: ``DELETE /bucket/`` is
    not the removal of an object with an empty name but that of the bucket.
    """

    __slots__ = ("_virtual", "extra")

    def __init__(self, *, virtual: bool = False) -> None:
        self._virtual = virtual
        self.extra: ExtraHeaders | None = None

    def _with_extra(self, op: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        return headers if self.extra is None else {**headers, **self.extra.of(op)}

    def service(self, op: str, *, query: Query = ()) -> Request:
        """Return a GET of the service itself."""
        return Request("GET", "/", op, query=query, headers=self._with_extra(op, NO_HEADERS), resource="s3")

    def bucket(
        self,
        method: str,
        bucket: str,
        op: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] = NO_HEADERS,
        content: bytes = b"",
        idempotent: bool = True,
        timeout_factor: float = 1.0,
    ) -> Request:
        """Return a request to a bucket; ``content`` is an XML document."""
        bucket_path = _bucket_path(bucket)
        return Request(
            method,
            "/" if self._virtual else bucket_path,
            op,
            query=query,
            headers=self._with_extra(op, {**headers, **_content_headers(content)}),
            body=BytesBody(content) if content else EMPTY_BODY,
            payload_hash=BytesBody(content).sha256() if content else EMPTY_SHA256,
            idempotent=idempotent,
            resource=f"s3/{bucket}",
            bucket_host=bucket if self._virtual else "",
            timeout_factor=timeout_factor,
        )

    def key(
        self,
        method: str,
        bucket: str,
        key: str,
        op: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] = NO_HEADERS,
        body: Body = EMPTY_BODY,
        payload_hash: str = EMPTY_SHA256,
        idempotent: bool = True,
        timeout_factor: float = 1.0,
    ) -> Request:
        """Return a request to a key."""
        bucket_path = _bucket_path(bucket)
        if not key:
            raise UsageError(f"s3/{bucket} names a bucket, not an object")
        path, host = ("/", bucket) if self._virtual else (bucket_path + "/", "")
        resource = f"s3/{bucket}/{key}"
        if self.extra is not None:
            headers = self._with_extra(op, headers)
        # By position: one is made for each small object, and thirteen names take longer than their values.
        return Request(
            method, path + encode_key(key), op, query, headers, body, payload_hash, idempotent, resource, host,
            timeout_factor,
        )  # fmt: skip

    def key_document(
        self,
        method: str,
        bucket: str,
        key: str,
        op: str,
        *,
        content: bytes,
        query: Query,
        idempotent: bool = True,
        timeout_factor: float = 1.0,
    ) -> Request:
        """Return a request to a key whose body is an XML document about it."""
        body = BytesBody(content)
        return self.key(
            method,
            bucket,
            key,
            op,
            query=query,
            headers=_content_headers(content),
            body=body,
            payload_hash=body.sha256(),
            idempotent=idempotent,
            timeout_factor=timeout_factor,
        )


@functools.lru_cache(maxsize=64)
def _bucket_path(bucket: str) -> str:
    if bucket in ("", ".", "..") or "/" in bucket:
        raise UsageError(f"{bucket!r} is no bucket's name")
    return "/" + encode_key(bucket)


def _content_headers(content: bytes) -> dict[str, str]:
    """Return the headers of an XML body; S3 demands Content-MD5 for some and takes it for all."""
    if not content:
        return {}
    digest = hashlib.md5(content, usedforsecurity=False).digest()
    return {"content-type": "application/xml", "content-md5": base64.b64encode(digest).decode()}


def attribute_headers(attributes: ObjectAttributes) -> dict[str, str]:
    """Return the headers that store an object's attributes.

    Raises UsageError: a name or a value cannot stand in a header, such as one with a line break.
    """
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


def integrity_headers(content_md5: str, checksum: tuple[str, str] | None) -> dict[str, str]:
    """Return the headers by which the server checks a body."""
    headers = {"content-md5": content_md5} if content_md5 else {}
    return headers | dict([checksum] if checksum else [])


def quote_etag(etag: str) -> str:
    """Return an ETag as conditions want it, in quotes; ``*`` stays."""
    return etag if etag == "*" or etag.startswith('"') else f'"{etag}"'
