"""S3 to S3 from another pool: through this machine's memory, never its disk."""

from __future__ import annotations

import base64
import hashlib
import logging
from typing import TYPE_CHECKING

from s3pool.body import BytesBody
from s3pool.errors import IntegrityError, PreconditionError, ReplacedError, S3PoolError
from s3pool.hashing import CRC_BYTES
from s3pool.model import UNSIGNED_PAYLOAD, ByteRange, ObjectAttributes
from s3pool.record import dataclass, replace
from s3pool.s3.exchange import block_on
from s3pool.s3.part_sizes import (
    MAX_PART_BYTES,
    MAX_PARTS,
    MIB,
    MIN_PART_BYTES,
    choose_part_size,
    count_parts,
    iter_part_ranges,
)
from s3pool.s3.responses import Known, head_of
from s3pool.transfer.attributes import PART_SIZE, merge_for_copy, tags_of_source
from s3pool.transfer.context import NULL_METER
from s3pool.transfer.cross_pool_body import SourceBody, SourceError
from s3pool.transfer.digests import (
    BodyDigests,
    algorithm_header,
    composite_etag,
    digest_body,
    digest_bytes,
    is_md5_etag,
    server_checksum,
)
from s3pool.transfer.fetch import Facts, Source, fetch_whole
from s3pool.transfer.multipart import MultipartUpload, retry_if_held
from s3pool.transfer.resume import copy_fingerprint
from s3pool.transfer.skip_rules import EXISTS
from s3pool.transfer.tasks import UNKNOWN_SIZE, CopyTask, Done, ObjectStamp
from s3pool.transfer.verify import (
    StreamCheck,
    certain_part_size,
    check_digests,
    compare_checksum,
    etag_tells_content,
    first_part_size,
)

if TYPE_CHECKING:
    from s3pool.body import Body
    from s3pool.model import ObjectAttributes, ObjectHead
    from s3pool.transfer.context import Meter, TransferContext

logger = logging.getLogger(__name__)

STREAMED = BodyDigests(UNSIGNED_PAYLOAD)  # of a body whose digest is known when it is gone


@dataclass(frozen=True, slots=True)
class CrossPoolCopy:
    """One object on its way from the pool of ``context.source``, as HEAD told it there."""

    task: CopyTask
    head: ObjectHead
    context: TransferContext
    meter: Meter

    @property
    def source(self) -> Source:
        """The place the bytes come from."""
        return source_of(self.task)

    @property
    def has_md5(self) -> bool:
        """Whether the source's ETag is the MD5 of its bytes in their order."""
        return is_md5_etag(self.head.etag) and etag_tells_content(self.head.etag, self.head.headers)

    def attributes(self) -> ObjectAttributes:
        """Return the attributes that CopyObject would have kept, and the user's own."""
        given = self.context.options.attributes
        tags = given.tags or block_on(tags_of_source(self.task, self.head, self.context.source.client))
        return replace(merge_for_copy(given, self.head), tags=tags)

    def body(
        self, place: ByteRange, *, wanted_md5: str = "", before: hashlib._Hash | None = None, checksum: str = ""
    ) -> SourceBody:
        """Return a range as the body of a request; ``checksum`` names one more digest to make of it."""
        return SourceBody(
            self.source,
            place,
            Facts(self.head.size, self.head.etag, self.head.headers),
            context=self.context.source,
            meter=self.meter,
            wanted_md5=wanted_md5,
            before=before,
            checksum=checksum,
        )

    def read_first(self, body: SourceBody) -> BodyDigests:
        """Read a body once more than it is sent, for digests that have to go ahead of it."""
        # Content-MD5 is what every server compares. A signature would need a digest as well.
        return digest_body(body.feed, sign_payload=False, checksum=self.context.options.checksum)


def source_of(task: CopyTask) -> Source:
    """Return the place the bytes of a copy come from."""
    return Source(task.source_bucket, task.source_key, task.version_id)


def copy_in_parts(copying: CrossPoolCopy) -> Done:
    """Copy an object in parts, many at a time where its ETag is made of parts.

    A plain MD5 is of the bytes in their order: only parts taken one after the other can be held against it.

    Raises:
        IntegrityError: what arrived is not the source, or not what was stored.
        SourceError: the source failed, or was replaced.
    """
    return retry_if_held(lambda: _copy_in_parts(copying), lambda: copying.meter.advance(-copying.head.size))


def _copy_in_parts(copying: CrossPoolCopy) -> Done:
    task, head, context = copying.task, copying.head, copying.context
    part_size = choose_parts(head, context.options.part_size)
    attributes = copying.attributes()
    attributes = replace(attributes, metadata=dict(attributes.metadata) | {PART_SIZE: str(part_size)})
    fingerprint = _fingerprint(copying, part_size, attributes)
    ranges = enumerate(iter_part_ranges(head.size, part_size), start=1)
    with MultipartUpload(
        context,
        task.bucket,
        task.key,
        attributes=attributes,
        fingerprint=fingerprint,
        checksum=context.options.checksum,
    ) as target:
        parts = _Parts(copying, target)
        context.executor.share(parts.put, ranges, limit=1 if parts.is_in_order else context.part_workers)
        parts.check(part_size)
        return target.complete(head.size)


def choose_parts(head: ObjectHead, wanted: int) -> int:
    """Choose the size of the parts: the source's own where it is known, for then the ETags agree."""
    own = 0 if wanted else first_part_size(head.size, head.etag, head.headers)
    if MIN_PART_BYTES <= own <= MAX_PART_BYTES and count_parts(head.size, own) <= MAX_PARTS:
        return own
    return choose_part_size(head.size, wanted)


def _fingerprint(copying: CrossPoolCopy, part_size: int, attributes: ObjectAttributes) -> str:
    if algorithm_header(copying.context.options.checksum):
        return ""  # Complete wants the checksums of all parts, and ListParts may not tell them
    head = copying.head
    return copy_fingerprint(head.size, head.etag, part_size=part_size, attributes=attributes)


class _Parts:
    """The parts of one object, and the digests of what arrived for them; for several workers."""

    def __init__(self, copying: CrossPoolCopy, target: MultipartUpload) -> None:
        options = copying.context.options
        self._copying = copying
        self._target = target
        self._digests: dict[int, str] = {}
        self._checksums: dict[int, tuple[bytes, int]] = {}  # digests of the parts, and their lengths
        self._told = told = server_checksum(copying.head.headers)
        by_parts = told is not None and (told.parts > 0 or told.algorithm in CRC_BYTES)
        self._checksum = told.algorithm if told is not None and by_parts else ""  # made of each part
        self._whole = hashlib.md5(usedforsecurity=False) if copying.has_md5 else None
        if self._whole is None and told is not None and not by_parts:
            self._whole = hashlib.new(told.algorithm, usedforsecurity=False)
        # Under KMS no ETag tells what is stored: the server has to compare, by digests that go ahead.
        self._reads_first = bool(options.checksum) or "kms" in options.attributes.sse

    @property
    def is_in_order(self) -> bool:
        """Whether a digest of all bytes is made, which takes the parts one after the other."""
        return self._whole is not None

    def put(self, numbered: tuple[int, ByteRange]) -> None:
        """Store one part, unless an earlier run did."""
        number, place = numbered
        body = self._copying.body(place, before=self._whole, checksum=self._checksum)
        stored = self._target.stored_etag(number, place.length)
        if stored and self._is_of_use(stored, body):
            self._target.keep(number)
            self._copying.meter.advance(place.length)
            self._digests[number] = stored
        else:
            self._send(number, body)
            self._digests[number] = body.md5.hexdigest()
        self._whole = body.whole
        if body.digest is not None:
            self._checksums[number] = body.digest.digest(), place.length

    def _is_of_use(self, stored: str, body: SourceBody) -> bool:
        """Return whether a stored part has the bytes of the source, as far as ETags can tell."""
        if self._whole is None and not self._checksum:
            return True
        self._copying.read_first(body)
        return body.md5.hexdigest() == stored

    def _send(self, number: int, body: SourceBody) -> None:
        if self._reads_first:
            self._target.put(number, body, digests=self._copying.read_first(body))
            return
        etag = self._target.put(number, body, digests=STREAMED)
        md5 = body.md5
        if etag == md5.hexdigest():
            return
        # A byte was changed on its way, or ETags are no digests there (KMS). The server can tell.
        logger.info("%s: part %d has the ETag %s, not its MD5; sending it again", self._target.resource, number, etag)
        told = replace(STREAMED, content_md5=base64.b64encode(md5.digest()).decode(), md5_hex=md5.hexdigest())
        self._reads_first = self._target.put(number, body, digests=told) != body.md5.hexdigest()

    def check(self, part_size: int) -> None:
        """Hold what arrived against the source's ETag, as far as that tells."""
        head = self._copying.head
        if self._told is not None and self._checksum:
            digests = [digest for _, digest in sorted(self._checksums.items())]
            check_digests(self._copying.source, self._told, digests, part_size=part_size, head=head)
        elif self._told is not None and self._whole is not None and not self._copying.has_md5:
            compare_checksum(self._copying.source, self._told, self._whole.digest())
        if not etag_tells_content(head.etag, head.headers):
            return
        if self._whole is not None:
            found, is_certain = self._whole.hexdigest(), True
        else:
            found = composite_etag(digest for _, digest in sorted(self._digests.items()))
            is_certain = certain_part_size(head.size, head.etag, head.headers) == part_size
        if found == head.etag:
            return
        if is_certain:
            raise IntegrityError(f"{self._copying.source}: the bytes that arrived do not make its ETag {head.etag}")
        logger.info("%s: parts of %d bytes cannot be held against its ETag", self._copying.source, part_size)


IN_MEMORY_BYTES = 1 * MIB  # smaller objects are one GET, checked in memory, and one PUT
IN_ONE_PIECE_BYTES = 256 * MIB  # larger ones go in parts, so that a retry repeats no more than one
ATTEMPTS_ON_CHANGE = 2  # an object that is replaced while it is read is tried once more


class _TooLargeError(Exception):
    """The object has outgrown memory since it was listed."""


def copy_across(task: CopyTask, context: TransferContext) -> Done:
    """Copy one object from the pool of ``context.source``; what CopyObject keeps is kept.

    Nothing is at the target's name before all bytes are there and checked. A source that is
    replaced meanwhile is tried once more.

    Raises:
        ReplacedError: it was replaced again. IntegrityError: bytes changed on their way.
    """
    context.spellings.check(task, context.client, source=context.source.client, is_move=context.options.remove_source)
    for attempt in range(ATTEMPTS_ON_CHANGE):
        try:
            return _copy_once(task, context)
        except ReplacedError:
            if attempt + 1 == ATTEMPTS_ON_CHANGE:
                raise
            task = replace(task, size=UNKNOWN_SIZE, etag="")  # what the listing told is out of date
    raise AssertionError("unreachable")


def _head(task: CopyTask, context: TransferContext) -> ObjectHead:
    client = context.source.client
    return client.head_object(task.source_bucket, task.source_key, version_id=task.version_id, checksums=True)


def _copy_once(task: CopyTask, context: TransferContext) -> Done:
    meter = context.progress.begin(task.target, max(0, task.size))
    done = None
    try:
        done = _copy(task, context, meter)
    except SourceError as exc:
        raise _trouble_of(task, exc) from None
    finally:
        meter.end(ok=done is not None)
    return done


def _copy(task: CopyTask, context: TransferContext, meter: Meter) -> Done:
    head = None if UNKNOWN_SIZE < task.size <= IN_MEMORY_BYTES else _head(task, context)
    if head is None or head.size <= IN_MEMORY_BYTES:
        try:
            known = Known(task.size, task.etag) if head is None else Known(head.size, head.etag)
            return _copy_from_memory(task, known, context, meter)
        except _TooLargeError:
            head = _head(task, context)
    copying = CrossPoolCopy(task, head, context, meter)
    done = _copy_in_one_piece(copying) if _goes_in_one_piece(copying) else copy_in_parts(copying)
    return done._replace(read=ObjectStamp.of(head))


def _trouble_of(task: CopyTask, error: SourceError) -> S3PoolError:
    """Return the error of the source itself."""
    return _replaced(task) if isinstance(error.error, (PreconditionError, ReplacedError)) else error.error or error


def _replaced(task: CopyTask) -> ReplacedError:
    return ReplacedError(f"{task.source} was replaced while it was read")


# -- small objects -------------------------------------------------------------------------


def _copy_from_memory(task: CopyTask, known: Known, context: TransferContext, meter: Meter) -> Done:
    content, facts = _fetch(task, known, context)
    check = StreamCheck(len(content), facts.etag, facts.headers)
    check.update(memoryview(content))
    check.check(task.source)
    head = head_of({**facts.headers, "content-length": str(len(content))})
    options = context.options
    digests = digest_bytes(content, sign_payload=options.sign_payload, checksum=options.checksum)
    done = _put(CrossPoolCopy(task, head, context, meter), BytesBody(content), digests)
    meter.advance(done.size)
    return done._replace(read=ObjectStamp.of(head))


def _fetch(task: CopyTask, known: Known, context: TransferContext) -> tuple[bytes, Facts]:
    content = bytearray()

    def take(block: memoryview) -> None:
        if len(content) + len(block) > IN_MEMORY_BYTES:
            raise _TooLargeError
        content.extend(block)

    try:
        facts = fetch_whole(source_of(task), write=take, context=context.source, meter=NULL_METER, known=known)
    except PreconditionError as exc:
        raise _replaced(task) from exc
    return bytes(content), facts


# -- larger ones with a known MD5 ----------------------------------------------------------


def _goes_in_one_piece(copying: CrossPoolCopy) -> bool:
    size, part_size = copying.head.size, copying.context.options.part_size
    return copying.has_md5 and size <= IN_ONE_PIECE_BYTES and not 0 < part_size < size


def _copy_in_one_piece(copying: CrossPoolCopy) -> Done:
    """Pass an object on while it arrives; its MD5 goes ahead, for the target to compare."""
    etag = copying.head.etag
    body = copying.body(ByteRange(0, copying.head.size - 1), wanted_md5=etag)
    if copying.context.options.checksum:
        return _put(copying, body, copying.read_first(body))
    return _put(copying, body, replace(STREAMED, content_md5=base64.b64encode(bytes.fromhex(etag)).decode()))


def _put(copying: CrossPoolCopy, body: Body, digests: BodyDigests) -> Done:
    task, options = copying.task, copying.context.options
    try:
        result = copying.context.client.put_object(
            task.bucket,
            task.key,
            body,
            payload_hash=digests.payload_hash,
            attributes=copying.attributes(),
            content_md5=digests.content_md5,
            checksum=digests.checksum,
            if_none_match=options.no_clobber,
        )
    except PreconditionError:
        if not options.no_clobber:
            raise
        return Done(skipped=EXISTS)
    if (
        copying.has_md5
        and is_md5_etag(result.etag)
        and result.etag != copying.head.etag
        and not options.attributes.sse
        and not result.opaque
    ):
        raise IntegrityError(f"{task.target} has the ETag {result.etag}, its source {copying.head.etag}")
    return Done(body.length, result.etag, version_id=result.version_id)
