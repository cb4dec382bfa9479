"""One multipart upload, from Create to a Complete that was checked, or to Abort."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TYPE_CHECKING

from s3pool.errors import IntegrityError, NoEndpointError, NotFoundError, S3Error, S3PoolError, TransportError
from s3pool.model import ObjectAttributes, ObjectHead
from s3pool.transfer.checksums import algorithm_header
from s3pool.transfer.etags import COMPOSITE_ETAG, composite_etag
from s3pool.transfer.tasks import Done

if TYPE_CHECKING:
    from s3pool.body import Body
    from s3pool.model import ByteRange
    from s3pool.transfer.checksums import Seal
    from s3pool.transfer.engine import Engine

logger = logging.getLogger(__name__)

COMPLETE_ATTEMPTS = 3  # Complete is asked for again only when the upload is known to be still open
FIRST_SERVER_ERROR = 500


class MultipartUpload:
    """An open upload; as a context it is aborted when the block ends without complete().

    Parts may be put from many threads and in any order.
    """

    def __init__(self, engine: Engine, bucket: str, key: str, *, attributes: ObjectAttributes) -> None:
        self._engine = engine
        self._client = engine.client
        self.bucket = bucket
        self.key = key
        self._etags: dict[int, str] = {}
        self._checksums: dict[int, tuple[str, str]] = {}
        self._finished = False
        self.upload_id = self._client.create_multipart_upload(
            bucket, key, attributes=attributes, checksum_algorithm=algorithm_header(engine.options.checksum)
        )
        engine.uploads.add(self.upload_id, self._abort)

    @property
    def resource(self) -> str:
        """Give the target, for messages."""
        return f"s3/{self.bucket}/{self.key}"

    def put(self, number: int, body: Body, *, seal: Seal) -> None:
        """Store one part.

        Raises:
            IntegrityError: the server stored other bytes than were sent.
        """
        self._engine.check_stop()
        etag = self._client.upload_part(
            self.bucket,
            self.key,
            upload_id=self.upload_id,
            number=number,
            body=body,
            payload_hash=seal.payload_hash,
            content_md5=seal.content_md5,
            checksum=seal.checksum,
        )
        self._etags[number] = etag
        if seal.checksum is not None:
            self._checksums[number] = seal.checksum

    def copy(self, number: int, byte_range: ByteRange, *, source: tuple[str, str, str], if_match: str) -> None:
        """Make a range of another object (bucket, key, version id) one part."""
        self._engine.check_stop()
        self._etags[number] = self._client.upload_part_copy(
            self.bucket,
            self.key,
            upload_id=self.upload_id,
            number=number,
            source_bucket=source[0],
            source_key=source[1],
            source_version=source[2],
            byte_range=byte_range,
            if_match=if_match,
        )

    def complete(self, size: int) -> Done:
        """Make the object of the parts, and see to it that it is the one that was meant.

        Raises:
            IntegrityError: the object has another ETag or size.
            S3Error, TransportError: it was not made.
        """
        parts = sorted(self._etags.items())
        expected = composite_etag(etag for _, etag in parts)
        for attempt in range(COMPLETE_ATTEMPTS):
            try:
                result = self._client.complete_multipart_upload(
                    self.bucket, self.key, upload_id=self.upload_id, parts=parts, checksums=self._checksums or None
                )
                etag, version_id = result.etag, result.version_id
            except (S3Error, TransportError) as exc:
                head = self._resolve(exc, expected, size, may_ask_again=attempt + 1 < COMPLETE_ATTEMPTS)
                if head is None:
                    continue
                etag, version_id = head.etag, head.version_id
            break
        self._finish()
        return self._verified(Done(size, etag, version_id=version_id), expected)

    def _verified(self, done: Done, expected: str) -> Done:
        etag = done.etag
        if not etag:  # RGW 16 leaves it out
            head = self._client.head_object(self.bucket, self.key)
            etag = head.etag
            if head.size != done.size:
                raise IntegrityError(f"{self.resource} has {head.size} bytes, not {done.size}")
        if expected and COMPOSITE_ETAG.fullmatch(etag) and etag != expected:
            raise IntegrityError(f"{self.resource} has the ETag {etag}; its parts make {expected}")
        return Done(done.size, etag, version_id=done.version_id)

    def _resolve(self, error: S3PoolError, expected: str, size: int, *, may_ask_again: bool) -> ObjectHead | None:
        """Find out what became of a Complete without a clear answer.

        Gives the object when it is there, None when Complete may be asked for again.
        """
        if not _is_ambiguous(error):
            raise error
        logger.info("%s: no clear answer to CompleteMultipartUpload (%s); looking", self.resource, error)
        head = self._head()
        if head is not None and head.size == size and expected and head.etag == expected:
            return head
        try:
            self._client.list_parts(self.bucket, self.key, upload_id=self.upload_id)
        except NotFoundError:
            self._finish()  # nothing is left to abort
            raise error from None
        if not may_ask_again:
            raise error
        return None

    def _head(self) -> ObjectHead | None:
        try:
            return self._client.head_object(self.bucket, self.key)
        except NotFoundError:
            return None

    def _finish(self) -> None:
        self._finished = True
        self._engine.uploads.drop(self.upload_id)

    def _abort(self) -> None:
        self._client.abort_multipart_upload(self.bucket, self.key, upload_id=self.upload_id)

    def __enter__(self) -> MultipartUpload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._finished:
            return
        self._finish()
        try:
            self._abort()
        except S3PoolError as abort_error:
            logger.warning(
                "%s: an unfinished upload stays behind (%s); rm --incomplete removes it", self.resource, abort_error
            )


def _is_ambiguous(error: S3PoolError) -> bool:
    """Say whether Complete may have happened all the same."""
    if isinstance(error, NoEndpointError):
        return error.sent
    if isinstance(error, TransportError):
        return error.sent
    if isinstance(error, S3Error):
        return error.status >= FIRST_SERVER_ERROR or error.code == "NoSuchUpload"
    return False
