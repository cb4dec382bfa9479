"""S3 to S3 from another pool: through this machine's memory, never its disk."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable

from s3pool.body import Body, BytesBody, Sink
from s3pool.errors import IntegrityError, PreconditionError, ReplacedError, S3Error, S3PoolError, TransportError
from s3pool.hashing import CRC_BYTES, new_hasher
from s3pool.model import UNSIGNED_PAYLOAD, ByteRange, ObjectAttributes, ObjectHead
from s3pool.record import dataclass, replace
from s3pool.s3.operation import block_on
from s3pool.s3.requests import (
    MAX_PART_BYTES,
    MAX_PARTS,
    MIB,
    MIN_PART_BYTES,
    choose_part_size,
    count_parts,
    iter_part_ranges,
)
from s3pool.s3.responses import Known, head_of
from s3pool.transfer.attributes import merge_for_copy, tags_of_source
from s3pool.transfer.context import EXISTS, Meter, TransferContext
from s3pool.transfer.digests import (
    PART_SIZE,
    BodyDigests,
    StreamCheck,
    algorithm_header,
    certain_part_size,
    check_digests,
    compare_checksum,
    composite_etag,
    digest_body,
    etag_tells_content,
    first_part_size,
    is_md5_etag,
    server_checksum,
)
from s3pool.transfer.multipart import MultipartUpload, retry_if_held
from s3pool.transfer.object_reader import Source
from s3pool.transfer.resume import fingerprint_of
from s3pool.transfer.tasks import UNKNOWN_SIZE, CopyTask, Done, ObjectStamp


class SourceError(S3PoolError):
    """The source failed while a request to the target was under way; ``error`` says how.

    It is no error of transport, so that the target's node is not blamed for it, and the
    request is not tried again elsewhere: the source was asked often enough.
    """

    def __init__(self, message: str, *, error: S3PoolError | None = None) -> None:
        super().__init__(message)
        self.error = error


class _SinkError(Exception):
    """The target failed; it must not be taken for a cut of the source's answer."""

    def __init__(self, error: TransportError) -> None:
        super().__init__(error.message)
        self.error = error


class SourceBody:
    """A range of an object, bound to its ETag, read through the worker's one buffer.

    To rewind it is to ask the source for the range again. A source that is cut is asked for the rest. ``md5`` is that
    of the bytes which passed by. With ``wanted_md5`` the last bytes are held back unless all have that digest: the
    target then stores nothing. ``digest`` is made as ``checksum`` says, the name of one of S3's. ``before`` is a hash
    of what goes before the range, for ``whole`` to go on with.
    """

    rewindable = True

    def __init__(
        self,
        copying: CrossPoolCopy,
        place: ByteRange,
        *,
        wanted_md5: str = "",
        before: hashlib._Hash | None = None,
        checksum: str = "",
    ) -> None:
        self._copying, self._place, self._wanted_md5 = copying, place, wanted_md5
        self._before, self._checksum = before, checksum
        self.length = place.length
        self._sent = 0
        self._begin()

    def _begin(self) -> None:
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.whole = self._before.copy() if self._before is not None else None
        self.digest = new_hasher(self._checksum) if self._checksum else None

    def rewind(self) -> None:
        """Begin anew: take back what was counted and hashed."""
        self._copying.meter.advance(-self._sent)
        self._sent = 0
        self._begin()

    def send(self, sink: Sink) -> None:
        """Pass the range on as it arrives.

        Raises SourceError: the source does not give it. IntegrityError: it gives other bytes.
        """
        try:
            self.feed(lambda block: self._pass_on(block, sink))
        except _SinkError as failed:
            raise failed.error from failed

    def feed(self, write: Callable[[memoryview], object]) -> None:
        """Hand the range to a hasher, and send nothing; raises SourceError as send() does."""
        self.rewind()
        head = self._copying.head

        def take(block: memoryview) -> None:
            for hasher in (self.md5, self.whole, self.digest):
                if hasher is not None:
                    hasher.update(block)
            write(block)

        try:
            known, source = Known(head.size, head.etag), self._copying.context.source
            block_on(source.reader(self._copying.source, known, span=self._place).read(take))
        except (TransportError, S3Error, ReplacedError) as exc:
            raise SourceError(exc.message, error=exc) from exc

    def _pass_on(self, block: memoryview, sink: Sink) -> None:
        wanted, found = self._wanted_md5, self.md5.hexdigest() if self._wanted_md5 else ""
        if found != wanted and self._sent + len(block) == self.length:
            what = f"{self._copying.source}: the bytes that arrived have the MD5 {found}"
            raise IntegrityError(f"{what}, the object has {wanted}")
        try:
            sink.write(block)
        except TransportError as exc:
            raise _SinkError(exc) from exc
        self._sent += len(block)
        self._copying.meter.advance(len(block))


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
        return Source(self.task.source_bucket, self.task.source_key, self.task.version_id)

    @property
    def has_md5(self) -> bool:
        """Whether the source's ETag is the MD5 of its bytes in their order."""
        return is_md5_etag(self.head.etag) and etag_tells_content(self.head.etag, self.head.headers)

    def attributes(self) -> ObjectAttributes:
        """Return the attributes that CopyObject would have kept, and the user's own."""
        given = self.context.options.attributes
        tags = given.tags or block_on(tags_of_source(self.task, self.head, self.context.source.client))
        return replace(merge_for_copy(given, self.head), tags=tags)

    def read_first(self, body: SourceBody) -> BodyDigests:
        """Read a body once more than it is sent, for digests that have to go ahead of it."""
        # Content-MD5 is what every server compares. A signature would need a digest as well.
        return digest_body(body.feed, sign_payload=False, checksum=self.context.options.checksum)


def copy_in_parts(copying: CrossPoolCopy) -> Done:
    """Copy an object in parts, many at a time where its ETag is made of parts.

    A plain MD5 is of the bytes in their order: only parts taken one after the other can be held against it.

    Raises IntegrityError: what arrived is not the source, or not what was stored. SourceError: the source failed, or
    was replaced.
    """
    return retry_if_held(lambda: _copy_in_parts(copying), lambda: copying.meter.advance(-copying.head.size))


def _copy_in_parts(copying: CrossPoolCopy) -> Done:
    task, head, context = copying.task, copying.head, copying.context
    wanted = context.options.part_size
    # The source's own size of parts, where it is known: then the ETags agree.
    part_size = 0 if wanted else first_part_size(head.size, head.etag, head.headers)
    if not MIN_PART_BYTES <= part_size <= MAX_PART_BYTES or count_parts(head.size, part_size) > MAX_PARTS:
        part_size = choose_part_size(head.size, wanted)
    attributes = copying.attributes()
    attributes = replace(attributes, metadata=dict(attributes.metadata) | {PART_SIZE: str(part_size)})
    fingerprint = ""  # where Complete wants the checksums of all parts, which ListParts may not tell
    if not algorithm_header(context.options.checksum):
        fingerprint = fingerprint_of(head.size, head.etag, part_size, repr(attributes))
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
        context.share_parts(parts.put, ranges, limit=1 if parts.is_in_order else 0, bulky=True)
        parts.check(part_size)
        return target.complete(head.size)


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
        self.is_in_order = self._whole is not None  # a digest of all bytes takes the parts one after the other
        self._must_read = self.is_in_order or bool(self._checksum)
        # Under KMS no ETag tells what is stored: the server has to compare, by digests that go ahead.
        self._reads_first = bool(options.checksum) or "kms" in options.attributes.sse

    def put(self, numbered: tuple[int, ByteRange]) -> None:
        number, place = numbered
        body = SourceBody(self._copying, place, before=self._whole, checksum=self._checksum)
        stored = self._target.stored_etag(number, place.length)
        if stored and self._must_read:  # whether it has the bytes of the source, as far as ETags can tell
            self._copying.read_first(body)
            stored = stored if body.md5.hexdigest() == stored else ""
        if stored:
            self._target.keep(number)
            self._copying.meter.advance(place.length)
            self._digests[number] = stored
        else:
            self._send(number, body)
            self._digests[number] = body.md5.hexdigest()
        self._whole = body.whole
        if body.digest is not None:
            self._checksums[number] = body.digest.digest(), place.length

    def _send(self, number: int, body: SourceBody) -> None:
        if self._reads_first:
            self._target.put(number, body, digests=self._copying.read_first(body))
            return
        etag = self._target.put(number, body, digests=STREAMED)
        if etag == body.md5.hexdigest():
            return
        # A byte was changed on its way, or ETags are no digests there (KMS). The server can tell.
        logger.info("%s: part %d has the ETag %s, not its MD5; sending it again", self._target.resource, number, etag)
        md5 = base64.b64encode(body.md5.digest()).decode()
        told = BodyDigests(UNSIGNED_PAYLOAD, md5, md5_hex=body.md5.hexdigest())
        self._reads_first = self._target.put(number, body, digests=told) != body.md5.hexdigest()

    def check(self, part_size: int) -> None:
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

    Nothing is at the target's name before all bytes are there and checked. A source that is replaced meanwhile is tried
    once more.

    Raises ReplacedError: it was replaced again. IntegrityError: bytes changed on their way.
    """
    from s3pool.transfer.proofs import check_spelling

    check_spelling(task, context)
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
    with context.metered(task.target, max(0, task.size)) as meter:
        try:
            return _copy(task, context, meter)
        except SourceError as exc:
            if isinstance(exc.error, (PreconditionError, ReplacedError)):
                raise ReplacedError(f"{task.source} was replaced while it was read") from None
            raise exc.error or exc from None


def _copy(task: CopyTask, context: TransferContext, meter: Meter) -> Done:
    options = context.options
    head = None if UNKNOWN_SIZE < task.size <= IN_MEMORY_BYTES else _head(task, context)
    if head is None or head.size <= IN_MEMORY_BYTES:
        try:
            known = Known(task.size, task.etag) if head is None else Known(head.size, head.etag)
            return _copy_from_memory(task, known, context, meter)
        except _TooLargeError:
            head = _head(task, context)
    copying = CrossPoolCopy(task, head, context, meter)
    if not copying.has_md5 or head.size > IN_ONE_PIECE_BYTES or 0 < options.part_size < head.size:
        return copy_in_parts(copying)._replace(read=ObjectStamp.of(head))
    # An object of a known MD5 is passed on while it arrives; the MD5 goes ahead, for the target to compare.
    body = SourceBody(copying, ByteRange(0, head.size - 1), wanted_md5=head.etag)
    digests = BodyDigests(UNSIGNED_PAYLOAD, base64.b64encode(bytes.fromhex(head.etag)).decode())
    if options.checksum:
        digests = copying.read_first(body)
    return _put(copying, body, digests)._replace(read=ObjectStamp.of(head))


def _copy_from_memory(task: CopyTask, known: Known, context: TransferContext, meter: Meter) -> Done:
    buffer = bytearray()

    def take(block: memoryview) -> None:
        if len(buffer) + len(block) > IN_MEMORY_BYTES:
            raise _TooLargeError
        buffer.extend(block)

    source = Source(task.source_bucket, task.source_key, task.version_id)
    reader = context.source.reader(source, known)
    try:
        block_on(reader.read(take))
    except PreconditionError as exc:
        raise ReplacedError(f"{task.source} was replaced while it was read") from exc
    content, facts = bytes(buffer), reader.facts
    check = StreamCheck(len(content), facts.etag, facts.headers)
    check.update(memoryview(content))
    check.check(task.source)
    head = head_of({**facts.headers, "content-length": str(len(content))})
    done = _put(CrossPoolCopy(task, head, context, meter), BytesBody(content), context.digest(content))
    meter.advance(done.size)
    return done._replace(read=ObjectStamp.of(head))


def _put(copying: CrossPoolCopy, body: Body, digests: BodyDigests) -> Done:
    task, options, etag = copying.task, copying.context.options, copying.head.etag
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
    can_tell = copying.has_md5 and is_md5_etag(result.etag) and not (options.attributes.sse or result.opaque)
    if can_tell and result.etag != etag:
        raise IntegrityError(f"{task.target} has the ETag {result.etag}, its source {etag}")
    return Done(body.length, result.etag, version_id=result.version_id)
