"""The operations on buckets, on their listings, and on uploads in parts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from s3pool.body import Body
from s3pool.dialect import (
    CHECKSUM_ALGORITHM,
    CHECKSUM_TYPE,
    COPY_MATCH,
    HIDES_BELOW,
    LISTS_V1,
    is_minio,
    is_refusal,
    is_seaweedfs,
    without,
)
from s3pool.errors import NotFoundError, ProtocolError, S3Error
from s3pool.location import name_bytes
from s3pool.model import BucketInfo, ByteRange, Endpoint, ListPage, ObjectAttributes, PartInfo, Request, Response
from s3pool.record import replace
from s3pool.s3 import documents
from s3pool.s3.documents import UploadId, UploadPage
from s3pool.s3.operation import (
    LIST_FACTOR,
    SLOW_FACTOR,
    Operation,
    Operations,
    Pending,
    Sender,
    Steps,
    block_on,
    body_of,
    integrity_headers,
    nothing,
    stepwise,
)
from s3pool.s3.pages import check_names, check_page, parse_list_page, parse_uploads_page, parse_versions_page
from s3pool.s3.requests import MAX_KEYS, NO_ATTRIBUTES, Query, attribute_headers, copy_headers
from s3pool.s3.responses import PutResult, parse_copy_result

T = TypeVar("T")
MAX_BUCKET_PAGES = 10_000  # of a thousand buckets each, where no server has a tenth of these

MAX_LISTED_PARTS = 100_000  # S3 has 10,000, and servers that are told so a few times that


class ListingStats:
    """The listings of one client; safe in any thread.

    ``requests`` counts requests, each once however often the pool tried it; ``names`` the names
    that the listings yielded; ``needed`` the full pages that these fit on.
    """

    def __init__(self) -> None:
        # Guards all below; held for additions only.
        self._lock = threading.Lock()
        self.requests = self.names = self.needed = 0

    @property
    def extra(self) -> int:
        """Count the requests beyond those that were needed."""
        return max(0, self.requests - self.needed)

    def add(self, requests: int, names: int, needed: int) -> None:
        """Count requests that are made, and what listings took."""
        with self._lock:
            self.requests += requests
            self.names += names
            self.needed += needed

    def add_listing(self, names: int) -> None:
        """Count a listing that ended, by the names it gave; one of nothing needs a request, too."""
        self.add(0, names, -(-names // MAX_KEYS) or 1)

    def measure(self, items: Iterator[T], count: Callable[[T], int]) -> Iterator[T]:
        """Yield the items of one listing, and count their names when it ends or is left."""
        names = 0
        try:
            for item in items:
                names += count(item)
                yield item
        finally:
            self.add_listing(names)


class BucketOperations(Operations):
    """The operations on buckets and their listings."""

    def __init__(self, transport: Sender, *, addressing: str = "path", region: str = "us-east-1") -> None:
        super().__init__(transport, addressing=addressing, region=region)
        self.lists = ListingStats()

    def list_buckets(self, *, only: Endpoint | None = None) -> tuple[BucketInfo, ...]:
        """List all buckets of the key."""
        buckets: list[BucketInfo] = []
        token, followed = "", {""}
        while True:
            query = (("continuation-token", token),) if token else ()
            request = self._address.service("ListBuckets", query=query)
            page, next_token = self._ask(
                request, lambda response: documents.parse_buckets(body_of(response)), only=only
            )
            buckets.extend(page)
            if not next_token:
                return tuple(buckets)
            if next_token in followed or len(followed) > MAX_BUCKET_PAGES:
                raise ProtocolError("the server stopped advancing while it listed buckets")
            token = next_token
            followed.add(token)

    def head_bucket(self, bucket: str, *, only: Endpoint | None = None) -> Mapping[str, str]:
        """Return the headers that a bucket answers with. Raises NotFoundError: there is no such bucket."""
        request = self._address.bucket("HEAD", bucket, "HeadBucket")
        return self._ask(request, lambda response: response.headers, only=only)

    def create_bucket(self, bucket: str, *, lock: bool = False) -> None:
        """Create a bucket in the client's region, with object lock when asked."""
        headers = {"x-amz-bucket-object-lock-enabled": "true"} if lock else {}
        content = documents.build_create_bucket(self._region)
        request = self._address.bucket(
            "PUT", bucket, "CreateBucket", headers=headers, content=content, idempotent=False
        )
        self._ask(request, nothing)

    def delete_bucket(self, bucket: str) -> None:
        """Delete an empty bucket."""
        self._ask(self._address.bucket("DELETE", bucket, "DeleteBucket", idempotent=False), nothing)

    def get_versioning(self, bucket: str) -> str:
        """Return "Enabled", "Suspended", or "" for a bucket that never kept versions."""
        request = self._address.bucket("GET", bucket, "GetBucketVersioning", query=(("versioning", ""),))
        return self._ask(request, lambda response: documents.parse_versioning(body_of(response)))

    def put_versioning(self, bucket: str, *, enabled: bool) -> None:
        """Enable or suspend versions."""
        content, query = documents.build_versioning(enabled=enabled), (("versioning", ""),)
        self._ask(self._address.bucket("PUT", bucket, "PutBucketVersioning", query=query, content=content), nothing)

    def list_objects_page(
        self,
        bucket: str,
        *,
        prefix: str = "",
        delimiter: str = "",
        start_after: str = "",
        token: str = "",
        max_keys: int = MAX_KEYS,
        only: Endpoint | None = None,
    ) -> ListPage:
        """List one page; a token goes before ``start_after``.

        Servers that do not know ListObjectsV2 are asked in the manner of V1, from then on at once; their tokens are
        markers.

        Raises ProtocolError: no node gave a complete page.
        """
        query = _page_query(prefix, delimiter, max_keys)
        list_v1 = partial(self._list_v1, bucket, query, marker=token or start_after, only=only)
        if self.dialect.knows(LISTS_V1):
            return list_v1()
        position = ("continuation-token", token) if token else ("start-after", start_after)
        request = self._list_request(bucket, "ListObjectsV2", (("list-type", "2"), *query, position))
        try:
            page = self._ask(request, self._reader(prefix, delimiter), only=only)
        except S3Error as exc:
            if not is_refusal(exc):
                raise
            try:
                page = list_v1()
            except S3Error:  # what V1 refuses as well was not V2's fault
                raise exc from None
            self.dialect.learn(LISTS_V1)
            return page
        if page.v1:
            self.dialect.learn(LISTS_V1)
        # V1 does not know where V2's words wanted it to start.
        return list_v1() if page.v1 and position[1] else page

    def begin_objects_page(
        self, bucket: str, *, prefix: str = "", delimiter: str = "", start_after: str = ""
    ) -> Pending[ListPage] | None:
        """Ask for a page as list_objects_page does, without waiting for it.

        Returns None when no connection is free, or the server only knows V1. The caller must check the answer's ``v1``.
        """
        if self.dialect.knows(LISTS_V1):
            return None
        query = _page_query(prefix, delimiter, MAX_KEYS)
        request = self._list_request(
            bucket, "ListObjectsV2", (("list-type", "2"), *query, ("start-after", start_after))
        )
        pending = Pending(self.sender, request, self._reader(prefix, delimiter))
        return pending if pending.begin() else None

    def _list_v1(self, bucket: str, query: Query, *, marker: str, only: Endpoint | None) -> ListPage:
        request = self._list_request(bucket, "ListObjects", (*query, ("marker", marker)))
        asked = dict(query)
        parse = partial(parse_list_page, v1=True)
        return self._ask(request, self._reader(asked["prefix"], asked["delimiter"], parse), only=only)

    @stepwise
    def list_versions_page(
        self,
        bucket: str,
        *,
        prefix: str = "",
        delimiter: str = "",
        key_marker: str = "",
        version_id_marker: str = "",
        max_keys: int = MAX_KEYS,
    ) -> Steps[ListPage]:
        """List one page of versions and delete markers, newest first within a key."""
        query = _page_query(prefix, delimiter, max_keys)
        query = ("versions", ""), *query, ("key-marker", key_marker), ("version-id-marker", version_id_marker)
        request = self._list_request(bucket, "ListObjectVersions", query)
        return (yield from self._asked(request, self._reader(prefix, delimiter, parse_versions_page, repeats=True)))

    def list_uploads_page(
        self,
        bucket: str,
        *,
        prefix: str = "",
        key_marker: str = "",
        upload_id_marker: str = "",
        only: Endpoint | None = None,
    ) -> UploadPage:
        """List one page of the multipart uploads that are neither completed nor aborted."""
        # No encoding-type here: RGW would encode the keys and not say so.
        query = (
            ("uploads", ""),
            ("prefix", prefix),
            ("max-uploads", str(MAX_KEYS)),
            ("key-marker", key_marker),
            ("upload-id-marker", upload_id_marker),
        )
        request = self._list_request(bucket, "ListMultipartUploads", query)

        def read(response: Response) -> UploadPage:
            page = parse_uploads_page(body_of(response))
            check_names([name_bytes(upload.key) for upload in page.uploads], name_bytes(prefix))
            return replace(page, is_partial=is_minio(response.headers))

        return self._ask(request, read, only=only)

    def _list_request(self, bucket: str, op: str, query: Query) -> Request:
        """Build and count a listing; empty parameters are left out, but for the one that names the operation."""
        self.lists.add(1, 0, 0)
        kept = tuple(pair for pair in query if pair[1] or pair[0] in ("versions", "uploads"))
        return self._address.bucket("GET", bucket, op, query=kept, timeout_factor=LIST_FACTOR)

    def _reader(
        self,
        prefix: str,
        delimiter: str,
        parse: Callable[[bytes], ListPage] = parse_list_page,
        *,
        repeats: bool = False,
    ) -> Callable[[Response], ListPage]:
        """Return what reads and checks a page, and notes on it the servers that are not asked like all others."""

        def read(response: Response) -> ListPage:
            page = parse(body_of(response))
            page = check_page(page, prefix=prefix, delimiter=delimiter, repeats=repeats)
            if is_minio(response.headers):
                self.dialect.learn(HIDES_BELOW)
                return replace(page, is_minio=True)
            return replace(page, skips_subtrees=True) if is_seaweedfs(response.headers) else page

        return read


def _page_query(prefix: str, delimiter: str, max_keys: int) -> Query:
    return ("prefix", prefix), ("delimiter", delimiter), ("max-keys", str(max_keys)), ("encoding-type", "url")


def _created(response: Response) -> UploadId:
    upload_id = UploadId(documents.parse_initiate(body_of(response)))
    upload_id.algorithm = response.headers.get(CHECKSUM_ALGORITHM, "")
    return upload_id


class MultipartOperations(Operations):
    """Create, fill, complete and abort uploads in parts."""

    def create_multipart_upload(
        self,
        bucket: str,
        key: str,
        *,
        attributes: ObjectAttributes | Mapping[str, str] = NO_ATTRIBUTES,
        checksum_algorithm: str = "",
        checksum_type: str = "",
        may_decline: bool = False,
    ) -> UploadId:
        """Begin an upload in parts and return its id; it lives until completed or aborted.

        Every part has to come with a checksum of the algorithm, when one is named. The type is
        COMPOSITE, FULL_OBJECT, or the algorithm's own; servers that know neither pass over it.
        One that ``may_decline`` is not asked again to keep checksums when it does not.
        """
        headers = attribute_headers(attributes)
        if checksum_algorithm:
            headers[CHECKSUM_ALGORITHM] = checksum_algorithm
        if checksum_type:
            headers[CHECKSUM_TYPE] = checksum_type
        request = self._address.key(
            "POST", bucket, key, "CreateMultipartUpload", query=(("uploads", ""),), headers=headers, idempotent=False
        )
        # A second upload without parts is swept like any other that was begun and left.
        request = replace(request, is_harmless_twice=True)

        def creating(asked: Request) -> Operation[UploadId]:
            asked = asked if CHECKSUM_ALGORITHM in asked.headers else without(asked, CHECKSUM_TYPE)
            return Operation(self.sender, asked, _created)

        if not may_decline:
            return creating(request).run()
        upload_id = block_on(self._optional(CHECKSUM_ALGORITHM, request, creating))
        if not upload_id.algorithm:
            self.dialect.learn(CHECKSUM_ALGORITHM)
        return upload_id

    def upload_part(
        self,
        bucket: str,
        key: str,
        *,
        upload_id: str,
        number: int,
        body: Body,
        payload_hash: str,
        content_md5: str = "",
        checksum: tuple[str, str] | None = None,
    ) -> PutResult:
        """Store one part; the same number again replaces it."""
        query = (("partNumber", str(number)), ("uploadId", upload_id))
        headers = integrity_headers(content_md5, checksum)
        request = self._address.key(
            "PUT", bucket, key, "UploadPart", query=query, headers=headers, body=body, payload_hash=payload_hash
        )
        return block_on(self._store(replace(request, may_come_late=True), bucket))

    def upload_part_copy(
        self,
        bucket: str,
        key: str,
        *,
        upload_id: str,
        number: int,
        source_bucket: str,
        source_key: str,
        byte_range: ByteRange,
        source_version: str = "",
        if_match: str = "",
    ) -> str:
        """Make a range of another object one part, inside the storage, and return its ETag."""
        query = (("partNumber", str(number)), ("uploadId", upload_id))
        headers = copy_headers(source_bucket, source_key, version_id=source_version, if_match=if_match)
        headers["x-amz-copy-source-range"] = byte_range.header
        request = self._address.key(
            "PUT", bucket, key, "UploadPartCopy", query=query, headers=headers, timeout_factor=SLOW_FACTOR
        )

        def copying(asked: Request) -> Operation[str]:
            return Operation(self.sender, asked, lambda reply: parse_copy_result(body_of(reply), part=True)[0])

        return block_on(self._optional(COPY_MATCH, request, copying))

    def complete_multipart_upload(
        self,
        bucket: str,
        key: str,
        *,
        upload_id: str,
        parts: Sequence[tuple[int, str]],
        checksums: Mapping[int, tuple[str, str]] | None = None,
    ) -> PutResult:
        """Make one object of parts, given as number and ETag in the order of their numbers.

        ``checksums`` maps part numbers to the checksum headers they were uploaded with. A lost answer is not tried
        again: whether the object exists is for the caller to find out. The ETag is "" where the server leaves it out.
        """
        request = self._address.key_document(
            "POST",
            bucket,
            key,
            "CompleteMultipartUpload",
            query=(("uploadId", upload_id),),
            content=documents.build_complete(parts, checksums=checksums),
            idempotent=False,
            timeout_factor=SLOW_FACTOR,
        )

        def read(reply: Response) -> PutResult:
            return PutResult(documents.parse_complete(body_of(reply)), reply.headers.get("x-amz-version-id", ""))

        return self._ask(request, read)

    def abort_multipart_upload(self, bucket: str, key: str, *, upload_id: str) -> None:
        """Drop an upload and its parts; one that is gone already is no error."""
        request = self._address.key("DELETE", bucket, key, "AbortMultipartUpload", query=(("uploadId", upload_id),))
        try:
            self._ask(request, nothing)
        except NotFoundError as exc:
            if exc.code != "NoSuchUpload":
                raise

    def list_parts(self, bucket: str, key: str, *, upload_id: str) -> tuple[PartInfo, ...]:
        """List all stored parts of an upload, by number, over as many pages as there are."""
        parts: list[PartInfo] = []
        marker = 0
        while True:
            query = (("uploadId", upload_id), *((("part-number-marker", str(marker)),) if marker else ()))
            request = self._address.key("GET", bucket, key, "ListParts", query=query, timeout_factor=LIST_FACTOR)
            page, next_marker, truncated = self._ask(request, lambda response: documents.parse_parts(body_of(response)))
            parts.extend(page)
            if not truncated:
                return tuple(parts)
            if next_marker <= marker or not page or len(parts) > MAX_LISTED_PARTS:
                raise ProtocolError(f"{request.resource}: the server stopped advancing while it listed parts")
            marker = next_marker
