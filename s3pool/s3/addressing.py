"""Where requests go: path-style or virtual-host addressing, and the names that cannot be addressed."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping

from s3pool.body import EMPTY_BODY, EMPTY_SHA256, Body, BytesBody
from s3pool.errors import UsageError
from s3pool.model import Request, encode_key

Query = tuple[tuple[str, str], ...]
NO_HEADERS: Mapping[str, str] = {}


class Addressing:
    """Builds the requests of a service, a bucket or a key.

    A bucket without a name, or a key without one, is a UsageError: ``DELETE /bucket/`` is
    not the removal of an object with an empty name but that of the bucket.
    """

    __slots__ = ("_virtual",)

    def __init__(self, *, virtual: bool = False) -> None:
        self._virtual = virtual

    def service(self, op: str, *, query: Query = ()) -> Request:
        """Give a GET of the service itself."""
        return Request("GET", "/", op, query=query, resource="s3")

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
        slowness: float = 1.0,
    ) -> Request:
        """Give a request to a bucket; ``content`` is an XML document."""
        bucket_path = _bucket_path(bucket)
        return Request(
            method,
            "/" if self._virtual else bucket_path,
            op,
            query=query,
            headers={**headers, **_content_headers(content)},
            body=BytesBody(content) if content else EMPTY_BODY,
            payload_hash=BytesBody(content).sha256() if content else EMPTY_SHA256,
            idempotent=idempotent,
            resource=f"s3/{bucket}",
            bucket_host=bucket if self._virtual else "",
            slowness=slowness,
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
        slowness: float = 1.0,
    ) -> Request:
        """Give a request to a key."""
        bucket_path = _bucket_path(bucket)
        if not key:
            raise UsageError(f"s3/{bucket} names a bucket, not an object")
        path = "/" + encode_key(key)
        return Request(
            method,
            path if self._virtual else bucket_path + path,
            op,
            query=query,
            headers=headers,
            body=body,
            payload_hash=payload_hash,
            idempotent=idempotent,
            resource=f"s3/{bucket}/{key}",
            bucket_host=bucket if self._virtual else "",
            slowness=slowness,
        )

    def small(
        self,
        method: str,
        bucket: str,
        key: str,
        *,
        op: str,
        headers: Mapping[str, str],
        body: Body = EMPTY_BODY,
        payload_hash: str = EMPTY_SHA256,
    ) -> Request:
        """Give what key() gives, at less than half the price, for who makes thousands a second."""
        bucket_path = _bucket_path(bucket)
        if not key:
            raise UsageError(f"s3/{bucket} names a bucket, not an object")
        path = f"/{encode_key(key)}"
        host = bucket if self._virtual else ""
        path = path if host else bucket_path + path
        return Request(method, path, op, (), headers, body, payload_hash, True, f"s3/{bucket}/{key}", host)

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
        slowness: float = 1.0,
    ) -> Request:
        """Give a request to a key whose body is an XML document about it."""
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
            slowness=slowness,
        )


@functools.lru_cache(maxsize=64)
def _bucket_path(bucket: str) -> str:
    if bucket in ("", ".", "..") or "/" in bucket:
        raise UsageError(f"{bucket!r} is no bucket's name")
    return "/" + encode_key(bucket)


def _content_headers(content: bytes) -> dict[str, str]:
    """Give the headers of an XML body; S3 demands Content-MD5 for some and takes it for all."""
    if not content:
        return {}
    digest = hashlib.md5(content, usedforsecurity=False).digest()
    return {"content-type": "application/xml", "content-md5": base64.b64encode(digest).decode()}
