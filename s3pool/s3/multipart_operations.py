"""The operations on uploads in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from s3pool.body import Body
from s3pool.errors import NotFoundError, ProtocolError
from s3pool.model import ByteRange, ObjectAttributes, PartInfo, Response
from s3pool.s3.addressing import Query
from s3pool.s3.exchange import LIST_SLOWNESS, SLOW_SLOWNESS, Operations, body_of, nothing
from s3pool.s3.headers import NO_ATTRIBUTES, attribute_headers, copy_headers, integrity_headers, put_result
from s3pool.s3.results import PutResult
from s3pool.s3.xml import build_complete, parse_complete, parse_copy_result, parse_initiate, parse_parts

MAX_LISTED_PARTS = 100_000  # S3 has 10,000, and servers that are told so a few times that


class MultipartOperations(Operations):
    """Create, fill, complete and abort uploads in parts."""

    def create_multipart_upload(
        self,
        bucket: str,
        key: str,
        *,
        attributes: ObjectAttributes = NO_ATTRIBUTES,
        checksum_algorithm: str = "",
        checksum_type: str = "",
    ) -> str:
        """Begin an upload in parts and give its id; it lives until completed or aborted.

        Every part has to come with a checksum of the algorithm, when one is named. The type is
        COMPOSITE, FULL_OBJECT, or the algorithm's own; servers that know neither pass over it.
        """
        headers = attribute_headers(attributes)
        if checksum_algorithm:
            headers["x-amz-checksum-algorithm"] = checksum_algorithm
        if checksum_type:
            headers["x-amz-checksum-type"] = checksum_type
        request = self._address.key(
            "POST", bucket, key, "CreateMultipartUpload", query=(("uploads", ""),), headers=headers, idempotent=False
        )
        return self._ask(request, lambda response: parse_initiate(body_of(response)))

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
        request = self._address.key(
            "PUT",
            bucket,
            key,
            "UploadPart",
            query=_part_query(upload_id, number),
            headers=integrity_headers(content_md5, checksum),
            body=body,
            payload_hash=payload_hash,
        )
        return self._ask(request, put_result)

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
        """Make a range of another object one part, inside the storage, and give its ETag."""
        headers = copy_headers(source_bucket, source_key, version_id=source_version, if_match=if_match)
        headers["x-amz-copy-source-range"] = byte_range.header
        request = self._address.key(
            "PUT",
            bucket,
            key,
            "UploadPartCopy",
            query=_part_query(upload_id, number),
            headers=headers,
            slowness=SLOW_SLOWNESS,
        )
        return self._ask(request, lambda response: parse_copy_result(body_of(response), part=True)[0])

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

        ``checksums`` maps part numbers to the checksum headers they were uploaded with. A lost
        answer is not tried again: whether the object exists is for the caller to find out.
        The ETag is "" where the server leaves it out.
        """
        request = self._address.key_document(
            "POST",
            bucket,
            key,
            "CompleteMultipartUpload",
            query=(("uploadId", upload_id),),
            content=build_complete(parts, checksums=checksums),
            idempotent=False,
            slowness=SLOW_SLOWNESS,
        )
        return self._ask(request, _complete_result)

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
            request = self._address.key("GET", bucket, key, "ListParts", query=query, slowness=LIST_SLOWNESS)
            page, next_marker, truncated = self._ask(request, lambda response: parse_parts(body_of(response)))
            parts.extend(page)
            if not truncated:
                return tuple(parts)
            if next_marker <= marker or not page or len(parts) > MAX_LISTED_PARTS:
                raise ProtocolError(f"{request.resource}: the server stopped advancing while it listed parts")
            marker = next_marker


def _part_query(upload_id: str, number: int) -> Query:
    return (("partNumber", str(number)), ("uploadId", upload_id))


def _complete_result(response: Response) -> PutResult:
    return PutResult(parse_complete(body_of(response)), response.headers.get("x-amz-version-id", ""))
