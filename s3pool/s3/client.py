"""S3Client: one method per S3 operation, typed, on top of anything that can send."""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from s3pool.body import Body
from s3pool.dialect import BATCH_DELETE, CHECKSUM_MODE, COPY_MATCH, DELETE_MATCH, is_refusal
from s3pool.errors import NotFoundError, PreconditionError, S3Error, TransportError
from s3pool.model import ByteRange, Endpoint, ObjectAttributes, ObjectHead, Request, Response
from s3pool.record import replace
from s3pool.s3.buckets import BucketOperations, MultipartOperations
from s3pool.s3.documents import UploadPage as UploadPage
from s3pool.s3.documents import build_delete, build_tags, is_xml_text, parse_tags
from s3pool.s3.operation import SLOW_FACTOR, Opening, Operation, Steps, body_of, integrity_headers, nothing, stepwise
from s3pool.s3.operation import Sender as Sender
from s3pool.s3.requests import MAX_KEYS, NO_ATTRIBUTES, Query, attribute_headers, copy_headers, quote_etag
from s3pool.s3.responses import (
    UNKNOWN,
    Known,
    check_content,
    hides_digest,
    parse_copy_result,
    parse_delete_result,
    read_object_head,
)
from s3pool.s3.responses import DeleteFailure as DeleteFailure
from s3pool.s3.responses import PutResult as PutResult

T = TypeVar("T")
BAD_REQUEST = 400
BYPASS_GOVERNANCE = {"x-amz-bypass-governance-retention": "true"}
ENABLED = "ENABLED"
WEAK = "W/"  # a weak ETag matches no If-Match (RFC 9110, section 13.1.1)
CANNOT_KEEP = "this server cannot keep an object that comes meanwhile: leave -n out where it may be replaced"


class S3Client(BucketOperations, MultipartOperations):
    """S3's operations as methods; no state beyond its settings, safe in any thread.

    Every method may raise S3Error (or a subclass) for an error of the storage and TransportError when no endpoint gave
    a whole answer. A missing bucket name or key is a UsageError, for without them the request would mean another thing.
    """

    def _checksum_mode(self, is_wanted: bool) -> dict[str, str]:
        """Return the header that asks for checksums of the content; none for a server that refuses it."""
        return {CHECKSUM_MODE: ENABLED} if is_wanted and not self.dialect.knows(CHECKSUM_MODE) else {}

    @stepwise
    def head_object(
        self, bucket: str, key: str, *, version_id: str = "", checksums: bool = False, only: Endpoint | None = None
    ) -> Steps[ObjectHead]:
        """Ask for everything about an object but its bytes, with ``checksums`` also for those of its content.

        Raises NotFoundError: there is no such key, or its newest version is a delete marker.
        """
        query, headers = _version_query(version_id), self._checksum_mode(checksums)
        request = self._address.key("HEAD", bucket, key, "HeadObject", query=query, headers=headers)
        make = partial(Operation, self.sender, read=read_object_head, only=only)
        try:
            return (yield from self._optional(CHECKSUM_MODE, request, make))
        except S3Error as exc:
            if exc.status != BAD_REQUEST:
                raise
        # The answer to HEAD has no place for a word such as ExpiredToken: GET tells why.
        response = yield from self.get_object.steps(bucket, key, byte_range=ByteRange(0, 0), version_id=version_id)
        response.close()
        return (yield from self._asked(request, read_object_head, only=only))  # with keys that came since

    @stepwise
    def find_object(
        self, bucket: str, key: str, *, version_id: str = "", checksums: bool = False
    ) -> Steps[ObjectHead | None]:
        """Return what HEAD tells of an object; None where there is none."""
        try:
            return (yield from self.head_object.steps(bucket, key, version_id=version_id, checksums=checksums))
        except NotFoundError:
            return None

    def exists(self, bucket: str, key: str) -> bool:
        """Return whether there is an object."""
        return self.find_object(bucket, key) is not None

    def has_keys(self, bucket: str, prefix: str) -> bool:
        """Return whether there is a key that begins with a prefix."""
        return bool(self.list_objects_page(bucket, prefix=prefix, max_keys=1).objects)

    @stepwise
    def get_object(
        self,
        bucket: str,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: str = "",
        version_id: str = "",
        range_header: str = "",
        checksums: bool = False,
        known: Known = UNKNOWN,
        read_bytes: int = 0,
        only: Endpoint | None = None,
    ) -> Steps[Response]:
        """Open an object; the caller reads and closes the response.

        ``range_header`` is a Range header's value for ranges that ByteRange cannot express. The caller checks that the
        answer is the range that was asked for. With ``checksums`` the server may tell those of the content in the
        answer's headers. A body of up to ``read_bytes`` is read already.

        Raises ReplacedError: the answer is of another object than the ``known`` one.
        """
        headers = self._checksum_mode(checksums)
        if byte_range is not None or range_header:
            headers["range"] = byte_range.header if byte_range is not None else range_header
        if if_match:
            headers["if-match"] = quote_etag(if_match)
        request = self._address.key("GET", bucket, key, "GetObject", query=_version_query(version_id), headers=headers)
        check = check_content(request.op, request.resource, known=known, byte_range=byte_range)

        def opening(asked: Request) -> Operation[Response]:
            return Opening(self.sender, asked, check, read_bytes=read_bytes, only=only)

        if CHECKSUM_MODE in headers:
            return (yield from self._optional(CHECKSUM_MODE, request, opening))
        response: Response = yield opening(request)
        return response

    @stepwise
    def put_object(
        self,
        bucket: str,
        key: str,
        body: Body,
        *,
        payload_hash: str,
        attributes: ObjectAttributes | Mapping[str, str] = NO_ATTRIBUTES,
        content_md5: str = "",
        checksum: tuple[str, str] | None = None,
        may_decline: bool = False,
        if_none_match: bool = False,
        only: Endpoint | None = None,
    ) -> Steps[PutResult]:
        """Store an object in one piece; with ``if_none_match`` an existing one stays, which is a PreconditionError.

        ``attributes`` may be their headers, ``checksum`` is the name and value of a header, which a server that refuses
        it ``may_decline``. After a lost answer HEAD tells what is there: a second try would take the success of the
        first for somebody else's object. Raises UsageError: an attribute cannot stand in a header.
        """
        headers = attribute_headers(attributes) if isinstance(attributes, ObjectAttributes) else dict(attributes)
        if content_md5 or checksum or if_none_match:
            headers |= integrity_headers(content_md5, checksum) | ({"if-none-match": "*"} if if_none_match else {})
        request = self._address.key(
            "PUT", bucket, key, "PutObject", headers=headers, body=body, payload_hash=payload_hash,
            idempotent=not if_none_match,
        )  # fmt: skip
        optional = checksum[0] if checksum and may_decline else ""
        try:
            return (yield from self._store(request, bucket, only=only, optional=optional))
        except TransportError as exc:
            if not (if_none_match and exc.sent and body.rewindable):
                raise
            found = yield from self._put_found(bucket, key, content_md5)
            return found or (yield from self._store(request, bucket, only=only))
        except S3Error as exc:
            if if_none_match and is_refusal(exc):
                exc.hint = CANNOT_KEEP
            raise

    def _put_found(self, bucket: str, key: str, content_md5: str) -> Steps[PutResult | None]:
        """Return what a PUT without an answer has stored; None where nothing is there."""
        head = yield from self.find_object.steps(bucket, key)
        if head is None:
            return None
        if content_md5 and head.etag == a2b_base64(content_md5).hex():
            return PutResult(head.etag, head.version_id)
        raise PreconditionError(412, "PreconditionFailed", resource=f"s3/{bucket}/{key}", op="PutObject")

    @stepwise
    def delete_object(
        self,
        bucket: str,
        key: str,
        *,
        version_id: str = "",
        if_match: str = "",
        bypass_governance: bool = False,
        only: Endpoint | None = None,
    ) -> Steps[None]:
        """Delete an object or one version of it; one that is not there is no error.

        ``if_match`` is the ETag it must have, for servers that look; a lost answer is then not tried again, for another
        object may have come since. With ``bypass_governance`` a retention in governance mode does not hold a version,
        for those who may do that.

        Raises PreconditionError: it has another ETag.
        """
        headers = dict(BYPASS_GOVERNANCE) if bypass_governance else {}
        if if_match and not if_match.startswith(WEAK):
            headers[DELETE_MATCH] = quote_etag(if_match)
        query, is_free = _version_query(version_id), not if_match
        request = self._address.key(
            "DELETE", bucket, key, "DeleteObject", query=query, headers=headers, idempotent=is_free
        )
        make = partial(Operation, self.sender, read=nothing, only=only)
        try:
            yield from self._optional(DELETE_MATCH, request, make)
        except NotFoundError as exc:
            if exc.code not in ("NoSuchKey", "NoSuchVersion"):
                raise

    def delete_objects(
        self, bucket: str, keys: Sequence[tuple[str, str]], *, bypass_governance: bool = False
    ) -> tuple[DeleteFailure, ...]:
        """Delete up to 1000 pairs of key and version id ("" for none); return what failed.

        Keys that XML cannot hold are deleted one by one, and so are all where servers know no batches.
        """
        if len(keys) > MAX_KEYS:
            raise ValueError(f"a batch holds at most {MAX_KEYS} keys, not {len(keys)}")
        if self.dialect.knows(BATCH_DELETE):
            return tuple(self._delete_singly(bucket, keys, bypass_governance))
        batch = [pair for pair in keys if is_xml_text(pair[0])]
        failures = self._delete_batch(bucket, batch, bypass_governance) if batch else ()
        others = (pair for pair in keys if not is_xml_text(pair[0]))
        return failures + tuple(self._delete_singly(bucket, others, bypass_governance))

    def _delete_batch(
        self, bucket: str, keys: Sequence[tuple[str, str]], bypass_governance: bool
    ) -> tuple[DeleteFailure, ...]:
        headers, content = BYPASS_GOVERNANCE if bypass_governance else {}, build_delete(keys)
        query = (("delete", ""),)
        request = self._address.bucket(
            "POST", bucket, "DeleteObjects", query=query, headers=headers, content=content, timeout_factor=SLOW_FACTOR
        )

        def read(response: Response) -> tuple[DeleteFailure, ...]:
            failures = parse_delete_result(body_of(response)).failures_of(keys)
            request_id, endpoint = response.headers.get("x-amz-request-id", ""), str(response.endpoint)
            return tuple(replace(failure, request_id=request_id, endpoint=endpoint) for failure in failures)

        try:
            return self._ask(request, read)
        except S3Error as exc:
            if not is_refusal(exc):
                raise
            refusal = exc
        first, *others = keys
        try:
            self.delete_object(bucket, first[0], version_id=first[1], bypass_governance=bypass_governance)
        except S3Error:
            raise refusal from None
        self.dialect.learn(BATCH_DELETE)
        return tuple(self._delete_singly(bucket, others, bypass_governance))

    def _delete_singly(
        self, bucket: str, keys: Iterable[tuple[str, str]], bypass_governance: bool
    ) -> Iterator[DeleteFailure]:
        for key, version_id in keys:
            try:
                self.delete_object(bucket, key, version_id=version_id, bypass_governance=bypass_governance)
            except S3Error as exc:
                yield DeleteFailure(key, version_id, exc.code, exc.detail, exc.request_id, exc.endpoint)

    @stepwise
    def copy_object(
        self,
        bucket: str,
        key: str,
        *,
        source_bucket: str,
        source_key: str,
        source_version: str = "",
        attributes: ObjectAttributes | None = None,
        if_match: str = "",
        replace_tags: bool = False,
        kept: ObjectAttributes = NO_ATTRIBUTES,
    ) -> Steps[PutResult]:
        """Copy an object inside the storage.

        Without ``attributes`` the source's are kept, with them all are replaced; tags are
        kept unless ``replace_tags``. ``if_match`` is an ETag the source must have. ``kept`` is
        what the storage takes over in neither case, unless it is given.
        """
        headers = copy_headers(source_bucket, source_key, version_id=source_version, if_match=if_match)
        headers["x-amz-metadata-directive"] = "COPY" if attributes is None else "REPLACE"
        stored = attribute_headers(kept) | attribute_headers(attributes or NO_ATTRIBUTES)
        if replace_tags:
            headers["x-amz-tagging-directive"] = "REPLACE"
        else:
            stored.pop("x-amz-tagging", None)
        request = self._address.key(
            "PUT", bucket, key, "CopyObject", headers=headers | stored, timeout_factor=SLOW_FACTOR
        )
        make = partial(Operation, self.sender, read=_copy_result)
        return (yield from self._optional(COPY_MATCH, request, make))

    @stepwise
    def get_tags(self, bucket: str, key: str, *, version_id: str = "") -> Steps[dict[str, str]]:
        """Return an object's tags."""
        query = (("tagging", ""), *_version_query(version_id))
        request = self._address.key("GET", bucket, key, "GetObjectTagging", query=query)
        try:
            return (yield from self._asked(request, lambda response: parse_tags(body_of(response))))
        except NotFoundError as exc:
            if exc.code != "NoSuchTagSet":
                raise
            return {}

    @stepwise
    def put_tags(self, bucket: str, key: str, tags: Mapping[str, str], *, version_id: str = "") -> Steps[None]:
        """Replace an object's tags."""
        query = (("tagging", ""), *_version_query(version_id))
        request = self._address.key_document(
            "PUT", bucket, key, "PutObjectTagging", query=query, content=build_tags(tags)
        )
        yield from self._asked(request, nothing)

    def request_for_presign(self, method: str, bucket: str, key: str, *, version_id: str = "") -> Request:
        """Return the request that a presigned URL of an object stands for."""
        return self._address.key(method, bucket, key, f"{method.capitalize()}Object", query=_version_query(version_id))


def _version_query(version_id: str) -> Query:
    return (("versionId", version_id),) if version_id else ()


def _copy_result(response: Response) -> PutResult:
    etag, _ = parse_copy_result(body_of(response))
    return PutResult(etag, response.headers.get("x-amz-version-id", ""), hides_digest(response.headers))
