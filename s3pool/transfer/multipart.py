"""One multipart upload, from Create to a Complete that was checked, or to Abort."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from s3pool.body import CHEAP, READ_BLOCK_BYTES, has_machine_code, new_hasher
from s3pool.dialect import OWN_ETAGS, makes_own_etags
from s3pool.errors import IntegrityError, NotFoundError, S3Error, S3PoolError, TransportError, may_have_acted
from s3pool.location import S3Path
from s3pool.model import ByteRange, ObjectAttributes, ObjectHead
from s3pool.transfer.digests import (
    COMPOSITE_ETAG,
    algorithm_header,
    check_stored,
    composite_etag,
    digest_body,
    type_header,
)
from s3pool.transfer.metadata import TAG_COUNT
from s3pool.transfer.resume import ANNOUNCED, abort_announced, announcement, may_go_on
from s3pool.transfer.tasks import Done

if TYPE_CHECKING:
    from s3pool.body import Body, FileSlice
    from s3pool.model import PartInfo
    from s3pool.s3.documents import UploadId
    from s3pool.transfer.context import Meter, TransferContext
    from s3pool.transfer.digests import BodyDigests

logger = logging.getLogger(__name__)

CREATE_ATTEMPTS = 4  # each on another node; what a lost answer leaves behind is looked for at the end
COMPLETE_ATTEMPTS = 3  # Complete is asked for again only when the upload is known to be still open
# RGW's words where a node holds the lock of an upload: one that died in the middle keeps it for ten minutes.
IN_PROGRESS = "completion is already in progress"


class HeldUploadError(S3PoolError):
    """A node began to complete the upload and does not end it; a new upload would not be held up."""

    def __init__(self, message: str, *, size: int, abandon: Callable[[], object]) -> None:
        super().__init__(message)
        self.size, self.abandon = size, abandon


def retry_if_held(make: Callable[[], Done], meter: Meter) -> Done:
    """Make an object by an upload of its own, and again by another one where the first is stuck.

    The first one is aborted when the object is there: until then it may yet be completed, and a completion and an
    abort must not meet.
    """
    try:
        return make()
    except HeldUploadError as stuck:
        logger.warning("%s; sending it anew", stuck)
        meter.advance(-stuck.size)
        done = make()
        stuck.abandon()
        return done


class MultipartUpload:
    """An open upload; as a context it is aborted when the block ends without complete().

    Parts may be put from many threads and in any order. With a fingerprint, and a context that has a memory, an
    unfinished upload of an earlier run is taken up again, and one that is cut short is left for the next; without one
    an upload is remembered only to be cleaned up by the next run, should this one be killed. ``checksum`` is what
    every part has to be put with; when it is not given the option's, or a cheap CRC where the server keeps it.
    """

    def __init__(
        self,
        context: TransferContext,
        bucket: str,
        key: str,
        *,
        attributes: ObjectAttributes | Mapping[str, str],
        fingerprint: str = "",
        checksum: str | None = None,
    ) -> None:
        self._context = context
        self.checksum = context.options.checksum if checksum is None else checksum
        self._offer = CHEAP if checksum is None and not self.checksum and has_machine_code() else ""
        self._client = context.client
        self._place = bucket, key
        self._etags: dict[int, str] = {}
        self._sizes: dict[int, int] = {}
        self._checksums: dict[int, tuple[str, str]] = {}
        given = attributes if isinstance(attributes, ObjectAttributes) else context.options.attributes
        self._tags = given.tags
        self._finished = False
        self._memory = context.memory
        self._resumes = bool(fingerprint) and context.memory.resumes
        self._stored: dict[int, PartInfo] = {}
        self._lost = ""  # the announcement of an upload that may exist beside this one
        self.upload_id = self._find(fingerprint) or self._create(attributes, fingerprint)

    def _find(self, fingerprint: str) -> str:
        """Return the id of an unfinished upload that is still there, and learn its parts."""
        if not self._resumes:
            return ""
        upload_id = self._memory.find_upload(*self._place, fingerprint)
        if not upload_id and self._offer:
            upload_id = self._memory.find_upload(*self._place, fingerprint + self._offer)
            self.checksum = self._offer if upload_id else ""
        if not upload_id:
            return ""
        try:
            parts = self._client.list_parts(*self._place, upload_id=upload_id)
        except NotFoundError:
            self._memory.end_upload(upload_id)
            self.checksum = "" if self._offer else self.checksum
            return ""
        self._stored = {part.number: part for part in parts}
        return upload_id

    def _create(self, attributes: ObjectAttributes | Mapping[str, str], fingerprint: str) -> str:
        word = self._announce()
        upload_id = self._create_surely(attributes, word)
        if self._offer and upload_id.algorithm.lower() == self._offer:
            self.checksum, fingerprint = self._offer, fingerprint + self._offer * bool(fingerprint)
        if not self._resumes:
            self._context.uploads[upload_id] = self._abort
        self._memory.begin_upload(*self._place, upload_id=upload_id, fingerprint=fingerprint)
        if not self._lost:
            self._memory.end_upload(word)
        return upload_id

    def _create_surely(self, attributes: ObjectAttributes | Mapping[str, str], word: str) -> UploadId:
        """Create an upload, again where the answer was lost: only an orphan without parts may come of it."""
        for attempt in range(1, CREATE_ATTEMPTS + 1):
            try:
                return self._client.create_multipart_upload(
                    *self._place,
                    attributes=attributes,
                    checksum_algorithm=algorithm_header(self._offer or self.checksum),
                    checksum_type=type_header(self._offer or self.checksum),
                    may_decline=bool(self._offer),
                )
            except (S3Error, TransportError) as exc:
                if not may_have_acted(exc):
                    raise
                self._lost = word
                if attempt == CREATE_ATTEMPTS:
                    self._abort_lost()
                    raise
                logger.info("%s: no clear answer to CreateMultipartUpload (%s); asking again", self.resource, exc)
                if self._context.stop.is_set():
                    self._abort_lost()
                    self._context.check_stop()
        raise AssertionError("the last attempt returns or raises")

    def _abort_lost(self) -> None:
        if self._lost and self._abort_announced(self._lost):
            self._lost = ""

    def _announce(self) -> str:
        """Remember that an upload is about to be created; look for those that runs were killed at."""
        word = announcement()
        while lost := self._memory.find_upload(*self._place, ANNOUNCED):
            self._abort_announced(lost)
        self._memory.begin_upload(*self._place, upload_id=word, fingerprint=ANNOUNCED)
        return word

    def _abort_announced(self, word: str) -> bool:
        """Abort what answers that were lost have left; whatever cannot be done now, the next run does."""
        try:
            abort_announced(self._client, word, *self._place)
        except S3PoolError as exc:
            logger.info("%s: what a lost answer left cannot be looked for now: %s", self.resource, exc)
            return False
        self._memory.end_upload(word)
        return True

    def has(self, number: int, body: FileSlice) -> bool:
        """Return whether a part is there since an earlier run, with these very bytes."""
        etag = self.stored_etag(number, body.length)
        if not etag:
            return False
        digests = digest_body(body.feed, sign_payload=False, checksum=self.checksum)
        if etag == digests.md5_hex:
            self._note(number, etag, body.length, digests)
        return etag == digests.md5_hex

    def _note(self, number: int, etag: str, size: int, digests: BodyDigests) -> None:
        self._etags[number], self._sizes[number] = etag, size
        if digests.checksum is not None:
            self._checksums[number] = digests.checksum

    def stored_etag(self, number: int, length: int) -> str:
        """Return the ETag of a part that is there since an earlier run; "" for none of this length."""
        part = self._stored.get(number)
        return part.etag if part is not None and part.size == length else ""

    def keep(self, number: int) -> None:
        """Make a part that is there since an earlier run one of the object."""
        self._etags[number], self._sizes[number] = self._stored[number].etag, self._stored[number].size

    @property
    def resource(self) -> str:
        """The target, for messages."""
        return S3Path(*self._place).text

    def put(self, number: int, body: Body, *, digests: BodyDigests) -> str:
        """Store one part, and give its ETag. Raises IntegrityError: the server stored other bytes than were sent."""
        self._context.check_stop()
        try:
            result = self._client.upload_part(
                *self._place,
                upload_id=self.upload_id,
                number=number,
                body=body,
                payload_hash=digests.payload_hash,
                content_md5=digests.content_md5,
                checksum=digests.checksum,
            )
        except NotFoundError as exc:
            raise _explained(exc) from exc
        if "kms" not in self._context.options.attributes.sse and not self._client.dialect.knows(OWN_ETAGS):
            check_stored(f"{self.resource}, part {number},", result, digests)
        self._note(number, result.etag, body.length, digests)
        return result.etag

    def copy(self, number: int, byte_range: ByteRange, *, source: tuple[str, str, str], if_match: str) -> None:
        """Make a range of another object (bucket, key, version id) one part."""
        self._context.check_stop()
        self._sizes[number] = byte_range.length
        self._etags[number] = self._client.upload_part_copy(
            *self._place,
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

        Raises IntegrityError: the object has another ETag or size. S3Error, TransportError: it was not made.
        """
        parts = sorted(self._etags.items())
        expected = composite_etag(etag for _, etag in parts)
        for attempt in range(COMPLETE_ATTEMPTS):
            try:
                result = self._client.complete_multipart_upload(
                    *self._place, upload_id=self.upload_id, parts=parts, checksums=self._checksums or None
                )
                etag, version_id = result.etag, result.version_id
            except (S3Error, TransportError) as exc:
                head = self._resolve(exc, expected, size, may_ask_again=attempt + 1 < COMPLETE_ATTEMPTS)
                if head is None:
                    continue
                etag, version_id = head.etag, head.version_id
            break
        self._finish()
        done = self._verified(Done(size, etag, version_id=version_id), expected)
        # RGW 16 forgets the tags that an upload began with.
        if self._tags and self._client.head_object(*self._place).headers.get(TAG_COUNT, "0") == "0":
            self._client.put_tags(*self._place, self._tags)
        return done

    def _verified(self, done: Done, expected: str) -> Done:
        etag = done.etag
        if not etag:  # RGW 16 leaves it out
            head = self._client.head_object(*self._place)
            etag = head.etag
            if head.size != done.size:
                raise IntegrityError(f"{self.resource} has {head.size} bytes, not {done.size}")
        if expected and COMPOSITE_ETAG.fullmatch(etag) and etag != expected and not self._proves_right(done):
            raise IntegrityError(f"{self.resource} has the ETag {etag}; its parts make {expected}")
        return Done(done.size, etag, version_id=done.version_id)

    def _proves_right(self, done: Done) -> bool:
        """Return whether an object with an ETag of the server's own is made of the parts, by reading it back.

        Where the server is known to make such ETags, size and the checks of the parts are proof enough.
        """
        head = self._client.head_object(*self._place, version_id=done.version_id)
        if head.size != done.size:
            return False
        if self._client.dialect.knows(OWN_ETAGS) or makes_own_etags(head.headers):
            return True
        first = 0
        for number, etag in sorted(self._etags.items()):
            part, md5 = ByteRange(first, first + self._sizes[number] - 1), new_hasher("md5")
            with self._client.get_object(*self._place, byte_range=part, version_id=done.version_id) as response:
                for block in response.iter_blocks(READ_BLOCK_BYTES):
                    self._context.check_stop()
                    md5.update(block)
            if md5.digest().hex() != etag:
                return False
            first = part.last + 1
        self._client.dialect.prove_own_etags()
        return first == done.size

    def _resolve(self, error: S3PoolError, expected: str, size: int, *, may_ask_again: bool) -> ObjectHead | None:
        """Find out what became of a Complete without a clear answer.

        Gives the object when it is there, None when Complete may be asked for again.
        """
        if not (may_have_acted(error) or getattr(error, "code", "") == "NoSuchUpload"):
            raise error
        logger.info("%s: no clear answer to CompleteMultipartUpload (%s); looking", self.resource, error)
        with contextlib.suppress(NotFoundError):
            head = self._client.head_object(*self._place)
            if head.size == size and expected and head.etag == expected:
                return head
        try:
            self._client.list_parts(*self._place, upload_id=self.upload_id)
        except NotFoundError:
            self._finish()  # nothing is left to abort
            raise _explained(error) from None
        if not may_ask_again:
            raise self._stuck(error) if isinstance(error, S3Error) and IN_PROGRESS in error.detail else error
        return None

    def _stuck(self, error: S3PoolError) -> HeldUploadError:
        self._forget()  # neither is it to be aborted now, nor to be taken up again
        message = f"{error}; the upload is left alone (rm --incomplete removes it later)"
        return HeldUploadError(message, size=sum(self._sizes.values()), abandon=partial(self._abort, warns=True))

    def _forget(self) -> None:
        self._finished = True
        self._context.uploads.pop(self.upload_id, None)
        self._memory.end_upload(self.upload_id)

    def _finish(self) -> None:
        self._forget()
        self._abort_lost()

    def __enter__(self) -> MultipartUpload:
        return self

    def __exit__(self, _kind: object, exc: BaseException | None, _trace: object) -> None:
        if not (self._finished or (self._resumes and may_go_on(exc))) and self._abort(warns=True):
            self._finish()

    def _abort(self, *, warns: bool = False) -> bool:
        try:
            self._client.abort_multipart_upload(*self._place, upload_id=self.upload_id)
        except S3PoolError as exc:
            if not warns:
                raise
            # Without an upload it was completed in the end, with the same bytes.
            if not isinstance(exc, NotFoundError):
                text = "%s: an unfinished upload stays behind (%s); rm --incomplete removes it"
                logger.warning(text, self.resource, exc)
            return False
        return True


def _explained(error: S3PoolError) -> S3PoolError:
    if not (isinstance(error, S3Error) and error.code == "NoSuchUpload"):
        return error
    detail = "somebody else has ended this upload; the same command sends the object anew"
    return S3Error(
        error.status, error.code, detail=detail, resource=error.resource, endpoint=error.endpoint, op=error.op
    )
