"""S3Client: one method per S3 operation, typed, on top of anything that can send."""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from s3pool.body import Body
from s3pool.errors import NotFoundError, PreconditionError, S3Error, TransportError
from s3pool.model import ByteRange, Endpoint, ObjectAttributes, ObjectHead, Request, Response
from s3pool.s3.documents import DeleteFailure as DeleteFailure
from s3pool.s3.documents import PutResult as PutResult
from s3pool.s3.documents import UploadPage as UploadPage
from s3pool.s3.documents import build_delete, build_tags, parse_copy_result, parse_delete_result, parse_tags
from s3pool.s3.exchange import SLOW_FACTOR, Opening, Steps, body_of, nothing, stepwise
from s3pool.s3.exchange import Sender as Sender
from s3pool.s3.operations import NOT_UNDERSTOOD, BucketOperations, MultipartOperations
from s3pool.s3.part_sizes import MAX_KEYS
from s3pool.s3.requests import NO_ATTRIBUTES, Query, attribute_headers, copy_headers, integrity_headers, quote_etag
from s3pool.s3.responses import UNKNOWN, Known, check_content, hides_digest, put_result, read_object_head
from s3pool.s3.xml import is_xml_text

T = TypeVar("T")
BAD_REQUEST = 400
BYPASS_GOVERNANCE = {"x-amz-bypass-governance-retention": "true"}
CHECKSUM_MODE = "x-amz-checksum-mode"  # without it S3 keeps a stored checksum to itself
ENABLED = "ENABLED"
WEAK = "W/"  # a weak ETag matches no If-Match (RFC 9110, section 13.1.1)


class S3Client(BucketOperations, MultipartOperations):
    """S3's operations as methods; no state beyond its settings, safe in any thread.

    Every method may raise S3Error (or a subclass) for an error of the storage and
    TransportError when no endpoint gave a whole answer. A missing bucket name or key is a
    UsageError, for without them the request would mean another thing.
    """

    @stepwise
    def head_object(
        self, bucket: str, key: str, *, version_id: str = "", checksums: bool = False, only: Endpoint | None = None
    ) -> Steps[ObjectHead]:
        """Ask for everything about an object but its bytes, with ``checksums`` also for those of its content.

        Raises:
            NotFoundError: there is no such key, or its newest version is a delete marker.
        """
        query = _version_query(version_id)
        headers = {CHECKSUM_MODE: ENABLED} if checksums else {}
        request = self._address.key("HEAD", bucket, key, "HeadObject", query=query, headers=headers)
        try:
            return (yield from self._asked(request, read_object_head, only=only))
        except S3Error as exc:
            if exc.status == BAD_REQUEST:
                yield from self._raise_reason(bucket, key, version_id)
                return (yield from self._asked(request, read_object_head, only=only))  # with keys that came since
            raise

    def _raise_reason(self, bucket: str, key: str, version_id: str) -> Steps[None]:
        """Ask by GET why HEAD was a bad request: its answer has no place for a word such as ExpiredToken.

        Raises:
            S3Error: GET was refused as well, and told why.
        """
        response = yield from self.get_object.steps(bucket, key, byte_range=ByteRange(0, 0), version_id=version_id)
        response.close()

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

        ``range_header`` is a Range header's value for ranges that ByteRange cannot express.
        The caller checks that the answer is the range that was asked for. With
        ``checksums`` the server may tell those of the content in the answer's headers. A body of
        up to ``read_bytes`` is read already.

        Raises:
            ReplacedError: the answer is of another object than the ``known`` one.
        """
        headers = {CHECKSUM_MODE: ENABLED} if checksums else {}
        if byte_range is not None or range_header:
            headers["range"] = byte_range.header if byte_range is not None else range_header
        if if_match:
            headers["if-match"] = quote_etag(if_match)
        request = self._address.key("GET", bucket, key, "GetObject", query=_version_query(version_id), headers=headers)
        check = check_content(request.op, request.resource, known=known, byte_range=byte_range)
        response: Response = yield Opening(self._transport, request, check, read_bytes=read_bytes, only=only)
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
        if_none_match: bool = False,
        only: Endpoint | None = None,
    ) -> Steps[PutResult]:
        """Store an object in one piece.

        ``attributes`` may be the headers that attribute_headers() makes of them. ``checksum`` is
        the name and value of an x-amz-checksum header. With ``if_none_match`` an existing object
        stays. After a lost answer HEAD tells what is there now: a second try at once would take
        the success of the first for somebody else's object.

        Raises:
            PreconditionError: ``if_none_match`` was set and the object exists.
            UsageError: an attribute cannot stand in a header.
        """
        headers = attribute_headers(attributes) if isinstance(attributes, ObjectAttributes) else dict(attributes)
        if content_md5 or checksum:
            headers |= integrity_headers(content_md5, checksum)
        if if_none_match:
            headers["if-none-match"] = "*"
        request = self._address.key(
            "PUT",
            bucket,
            key,
            "PutObject",
            headers=headers,
            body=body,
            payload_hash=payload_hash,
            idempotent=not if_none_match,
        )
        try:
            return (yield from self._asked(request, put_result, only=only))
        except TransportError as exc:
            if not (if_none_match and exc.sent and body.rewindable):
                raise
            found = yield from self._put_found(bucket, key, content_md5)
            return found or (yield from self._asked(request, put_result, only=only))

    def _put_found(self, bucket: str, key: str, content_md5: str) -> Steps[PutResult | None]:
        """Return what a PUT without an answer has stored; None where nothing is there.

        Raises:
            PreconditionError: another object is there.
        """
        try:
            head = yield from self.head_object.steps(bucket, key)
        except NotFoundError:
            return None
        if content_md5 and head.etag == a2b_base64(content_md5).hex():
            return PutResult(head.etag, head.version_id)
        raise PreconditionError(412, "PreconditionFailed", resource=f"s3/{bucket}/{key}", op="PutObject")

    @property
    def sender(self) -> Sender:
        """The transport that carries the requests."""
        return self._transport

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

        ``if_match`` is the ETag it must have, for servers that look; a lost answer is then not
        tried again, for another object may have come since. With ``bypass_governance`` a retention
        in governance mode does not hold a version, for those who may do that.

        Raises:
            PreconditionError: it has another ETag.
        """
        is_bound = bool(if_match) and not if_match.startswith(WEAK) and not self._ignores_delete_conditions
        request = self._address.key(
            "DELETE",
            bucket,
            key,
            "DeleteObject",
            query=_version_query(version_id),
            headers={
                **({"if-match": quote_etag(if_match)} if is_bound else {}),
                **(BYPASS_GOVERNANCE if bypass_governance else {}),
            },
            idempotent=not if_match,
        )
        try:
            yield from self._asked(request, nothing, only=only)
        except NotFoundError as exc:
            if exc.code not in ("NoSuchKey", "NoSuchVersion"):
                raise
        except S3Error as exc:
            if not is_bound or exc.code not in NOT_UNDERSTOOD.get(exc.status, ()):
                raise
            self._ignores_delete_conditions = True
            yield from self.delete_object.steps(
                bucket,
                key,
                version_id=version_id,
                if_match=if_match,
                bypass_governance=bypass_governance,
                only=only,
            )

    def delete_objects(
        self, bucket: str, keys: Sequence[tuple[str, str]], *, bypass_governance: bool = False
    ) -> tuple[DeleteFailure, ...]:
        """Delete up to 1000 pairs of key and version id ("" for none); return what failed.

        Keys that XML cannot hold are deleted one by one.
        """
        if len(keys) > MAX_KEYS:
            raise ValueError(f"a batch holds at most {MAX_KEYS} keys, not {len(keys)}")
        batch = [pair for pair in keys if is_xml_text(pair[0])]
        failures = self._delete_batch(bucket, batch, bypass_governance) if batch else ()
        others = (pair for pair in keys if not is_xml_text(pair[0]))
        return failures + tuple(self._delete_singly(bucket, others, bypass_governance))

    def _delete_batch(
        self, bucket: str, keys: Sequence[tuple[str, str]], bypass_governance: bool
    ) -> tuple[DeleteFailure, ...]:
        request = self._address.bucket(
            "POST",
            bucket,
            "DeleteObjects",
            query=(("delete", ""),),
            headers=BYPASS_GOVERNANCE if bypass_governance else {},
            content=build_delete(keys),
            timeout_factor=SLOW_FACTOR,
        )
        return self._ask(request, lambda response: parse_delete_result(body_of(response))).failures_of(keys)

    def _delete_singly(
        self, bucket: str, keys: Iterable[tuple[str, str]], bypass_governance: bool
    ) -> Iterator[DeleteFailure]:
        for key, version_id in keys:
            try:
                self.delete_object(bucket, key, version_id=version_id, bypass_governance=bypass_governance)
            except S3Error as exc:
                yield DeleteFailure(key, version_id, exc.code, exc.detail)

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
        return (yield from self._asked(request, _copy_result))

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
