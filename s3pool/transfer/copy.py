"""S3 to S3: inside one pool the bytes never come here; from another pool through memory, never by the disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

from s3pool.body import CRC_BYTES, Body, BytesBody, Sink, new_hasher
from s3pool.errors import (
    IntegrityError,
    PreconditionError,
    RefusedError,
    ReplacedError,
    S3Error,
    S3PoolError,
    TransportError,
)
from s3pool.model import UNSIGNED_PAYLOAD, ByteRange, ObjectAttributes, ObjectHead
from s3pool.record import dataclass, replace
from s3pool.s3.operation import Steps, block_on, in_worker
from s3pool.s3.requests import MIB, NO_ATTRIBUTES, choose_part_size, iter_part_ranges, may_cut
from s3pool.s3.responses import Known, PutResult, head_of
from s3pool.transfer.context import EXISTS, Meter, TransferContext, why_skip
from s3pool.transfer.digests import (
    PART_SIZE,
    BodyDigests,
    StreamCheck,
    algorithm_header,
    certain_part_size,
    check_digests,
    checksum_text,
    compare_checksum,
    composite_etag,
    digest_body,
    etag_tells_content,
    first_part_size,
    is_md5_etag,
    server_checksum,
)
from s3pool.transfer.metadata import TAG_COUNT, kept_by_request, merge_for_copy, tags_of_source
from s3pool.transfer.multipart import MultipartUpload, retry_if_held
from s3pool.transfer.object_reader import Source
from s3pool.transfer.resume import fingerprint_of
from s3pool.transfer.tasks import IN_WINDOW_BYTES, UNKNOWN_SIZE, CopyTask, Done, ObjectStamp

logger = logging.getLogger(__name__)

# Ceph RGW 16 copies nothing that a customer's key encrypts, misreads that of a part's source, and sees no new one.
NOT_IMPLEMENTED, UNCOPIED = 501, frozenset((("UploadPartCopy", "InvalidArgument"), ("CopyObject", "InvalidRequest")))
COPY_PART_BYTES = 1 << 30  # parts of a copy move no bytes here, so a few large ones do
IN_MEMORY_BYTES = 1 * MIB  # smaller objects of another pool are one GET, checked in memory, and one PUT
IN_ONE_PIECE_BYTES = 256 * MIB  # larger ones go in parts, so that a retry repeats no more than one
STREAMED = BodyDigests(UNSIGNED_PAYLOAD)  # of a body whose digest is known when it is gone


def copy(task: CopyTask, context: TransferContext, *, is_repeated: bool = False) -> Steps[Done]:
    """Copy one object, its metadata and tags kept where the options give no others.

    ``is_repeated`` makes a copy that was just made once more, though the target is newer by now.

    Raises RefusedError: source and target are the same. IntegrityError: the copy has another ETag.
    """
    given = context.options.attributes
    is_same = not context.is_cross_pool and (task.source_bucket, task.source_key) == (task.bucket, task.key)
    changes = given != NO_ATTRIBUTES or task.version_id or context.source is not context  # with another key, that is
    if is_same and (context.options.remove_source or not changes):
        raise RefusedError(f"{task.source} and {task.target} are the same object")
    if not is_repeated and (skipped := (yield from why_skip(task, context))):
        return Done(skipped=skipped)
    if context.is_cross_pool:
        return (yield from _copy_by_way_of_here(task, context))
    source, tags = context.source.client, given.tags
    # Also for what CopyObject forgets, such as a website's redirect.
    head = yield from source.head_object.steps(task.source_bucket, task.source_key, version_id=task.version_id)
    if not tags and given != NO_ATTRIBUTES:  # RGW 16 forgets them then; a copy in place leaves none to read later
        tags = yield from tags_of_source(task, head, source)
    try:
        done = yield from _copy_inside(task, head, context)
    except S3Error as exc:
        is_keyed = context.source is not context and (exc.op, exc.code) in UNCOPIED
        if exc.status != NOT_IMPLEMENTED and not is_keyed:
            raise
        return (yield from _copy_by_way_of_here(task, context))
    if tags and not given.tags:
        copied = yield from context.client.head_object.steps(task.bucket, task.key)
        tags = tags if copied.headers.get(TAG_COUNT, "0") == "0" else {}
    if tags:
        yield from context.client.put_tags.steps(task.bucket, task.key, tags)
    return done._replace(read=ObjectStamp.of(head))


def _copy_by_way_of_here(task: CopyTask, context: TransferContext) -> Steps[Done]:
    yield from in_worker()
    return _copy_across(task, context)


def _copy_inside(task: CopyTask, head: ObjectHead, context: TransferContext) -> Steps[Done]:
    if head.size <= IN_WINDOW_BYTES:
        done = yield from _copy_whole(task, head, context)
        context.progress.whole(head.size)
        return done
    yield from in_worker()
    with context.metered(task.target, head.size) as meter:
        if head.size > context.options.copy_threshold:
            return retry_if_held(lambda: _copy_parts(task, head, context, meter), meter)
        done = yield from _copy_whole(task, head, context)
        meter.advance(head.size)
        return done


def _copy_whole(task: CopyTask, head: ObjectHead, context: TransferContext) -> Steps[Done]:
    given = context.options.attributes
    result = yield from context.client.copy_object.steps(
        task.bucket,
        task.key,
        source_bucket=task.source_bucket,
        source_key=task.source_key,
        source_version=task.version_id,
        attributes=merge_for_copy(given, head) if given != NO_ATTRIBUTES else None,
        if_match=head.etag,
        replace_tags=bool(given.tags),
        kept=kept_by_request(task, head),
    )
    return _stored(task, head, result, context)


def _has_md5(head: ObjectHead) -> bool:
    """Return whether an ETag is the MD5 of the bytes in their order."""
    return is_md5_etag(head.etag) and etag_tells_content(head.etag, head.headers)


def _stored(task: CopyTask, head: ObjectHead, result: PutResult, context: TransferContext) -> Done:
    can_tell = is_md5_etag(result.etag) and not (context.options.attributes.sse or result.opaque) and _has_md5(head)
    if can_tell and result.etag != head.etag:
        raise IntegrityError(f"{task.target} has the ETag {result.etag}, its source {head.etag}")
    return Done(head.size, result.etag, version_id=result.version_id, read=ObjectStamp.of(head))


def _copy_parts(task: CopyTask, head: ObjectHead, context: TransferContext, meter: Meter) -> Done:
    part_size = choose_part_size(head.size, context.options.part_size or COPY_PART_BYTES)
    # What CopyObject would have taken over by itself.
    merged, kept = _attributes(task, head, context, part_size), kept_by_request(task, head)
    attributes = replace(merged, storage_class=merged.storage_class or kept.storage_class, sse=merged.sse or kept.sse)
    source = (task.source_bucket, task.source_key, task.version_id)
    with MultipartUpload(context, task.bucket, task.key, attributes=attributes, checksum="") as target:

        def copy_part(numbered: tuple[int, ByteRange]) -> None:
            number, place = numbered
            target.copy(number, place, source=source, if_match=head.etag)
            meter.advance(place.length)

        context.share_parts(copy_part, enumerate(iter_part_ranges(head.size, part_size), start=1))
        return target.complete(head.size)


def _attributes(task: CopyTask, head: ObjectHead, context: TransferContext, part_size: int = 0) -> ObjectAttributes:
    """Return the attributes that CopyObject would have kept, the user's own, and the size of the parts if there are."""
    given = context.options.attributes
    merged = merge_for_copy(given, head)
    tags = given.tags or block_on(tags_of_source(task, head, context.source.client))
    told = {PART_SIZE: str(part_size)} if part_size else {}
    return replace(merged, tags=tags, metadata={**merged.metadata, **told})


# -- from another pool ---------------------------------------------------------------------


def _copy_across(task: CopyTask, context: TransferContext) -> Done:
    """Copy one object from the pool of ``context.source``; what CopyObject keeps is kept.

    Nothing is at the target's name before all bytes are there and checked. A source that is replaced meanwhile is tried
    once more.
    """
    from s3pool.transfer.proofs import check_spelling

    check_spelling(task, context)
    try:
        return _copy_once(task, context)
    except ReplacedError:  # what the listing told is out of date
        return _copy_once(replace(task, size=UNKNOWN_SIZE, etag=""), context)


def _copy_once(task: CopyTask, context: TransferContext) -> Done:
    with context.metered(task.target, max(0, task.size)) as meter:
        try:
            return _copy_measured(task, context, meter)
        except _SourceError as exc:
            if isinstance(exc.error, (PreconditionError, ReplacedError)):
                raise ReplacedError(f"{task.source} was replaced while it was read") from None
            raise exc.error from None


def _copy_measured(task: CopyTask, context: TransferContext, meter: Meter) -> Done:
    options, client = context.options, context.source.client
    if UNKNOWN_SIZE < task.size <= IN_MEMORY_BYTES:
        return _copy_from_memory(task, Known(task.size, task.etag), context, meter)
    head = client.head_object(task.source_bucket, task.source_key, version_id=task.version_id, checksums=True)
    if head.size <= IN_MEMORY_BYTES:
        return _copy_from_memory(task, Known(head.size, head.etag), context, meter)
    copying = _Across(task, head, context, meter)
    if not _has_md5(copying.head) or head.size > IN_ONE_PIECE_BYTES or 0 < options.part_size < head.size:
        return retry_if_held(lambda: _copy_parts_across(copying), meter)._replace(read=ObjectStamp.of(head))
    # An object of a known MD5 is passed on while it arrives; the MD5 goes ahead, for the target to compare.
    body = _SourceBody(copying, ByteRange(0, head.size - 1), wanted_md5=head.etag)
    ahead = BodyDigests(UNSIGNED_PAYLOAD, checksum_text(bytes.fromhex(head.etag)))
    return _put(task, head, context, body, copying.read_first(body) if options.checksum else ahead)


def _copy_from_memory(task: CopyTask, known: Known, context: TransferContext, meter: Meter) -> Done:
    buffer = bytearray()
    reader = context.source.reader(Source(task.source_bucket, task.source_key, task.version_id), known)
    try:
        block_on(reader.read(buffer.extend))
    except PreconditionError as exc:
        raise ReplacedError(f"{task.source} was replaced while it was read") from exc
    content, facts = bytes(buffer), reader.facts
    check = StreamCheck(len(content), facts.etag, facts.headers)
    check.update(memoryview(content))
    check.check(task.source)
    head = head_of({**facts.headers, "content-length": str(len(content))})
    done = _put(task, head, context, BytesBody(content), context.digest(content))
    meter.advance(done.size)
    return done


def _put(task: CopyTask, head: ObjectHead, context: TransferContext, body: Body, digests: BodyDigests) -> Done:
    try:
        result = context.client.put_object(
            task.bucket,
            task.key,
            body,
            payload_hash=digests.payload_hash,
            attributes=_attributes(task, head, context),
            content_md5=digests.content_md5,
            checksum=digests.checksum,
            if_none_match=context.options.no_clobber,
        )
    except PreconditionError:
        if not context.options.no_clobber:
            raise
        return Done(skipped=EXISTS)
    return _stored(task, head, result, context)


class _SourceError(S3PoolError):
    """The source failed, of ``error``, while a request to the target was under way.

    It is no error of transport: the target's node is not to blame, and the source was asked often enough.
    """

    def __init__(self, error: S3PoolError) -> None:
        super().__init__(error.message)
        self.error = error


class _SinkError(Exception):
    """The target failed, of what ``args`` holds; it must not be taken for a cut of the source's answer."""


@dataclass(frozen=True, slots=True)
class _Across:
    """One object on its way from the pool of ``context.source``, as HEAD told it there."""

    task: CopyTask
    head: ObjectHead
    context: TransferContext
    meter: Meter

    @property
    def source(self) -> Source:
        return Source(self.task.source_bucket, self.task.source_key, self.task.version_id)

    def read_first(self, body: _SourceBody) -> BodyDigests:
        """Read a body once more than it is sent, for digests that have to go ahead of it."""
        # Content-MD5 is what every server compares. A signature would need a digest as well.
        return digest_body(body.feed, sign_payload=False, checksum=self.context.options.checksum)


class _SourceBody:
    """A range of an object, bound to its ETag, read through the worker's one buffer.

    To rewind it is to ask the source for the range again. A source that is cut is asked for the rest. ``md5`` is that
    of the bytes which passed by. With ``wanted_md5`` the last bytes are held back unless all have that digest: the
    target then stores nothing. ``digest`` is made as ``checksum`` says, the name of one of S3's. ``before`` is a hash
    of what goes before the range, for ``whole`` to go on with.
    """

    rewindable = True

    def __init__(
        self,
        copying: _Across,
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
        self.rewind()

    def rewind(self) -> None:
        """Begin anew: take back what was counted and hashed."""
        self._copying.meter.advance(-self._sent)
        self._sent = 0
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.whole = self._before.copy() if self._before is not None else None
        self.digest = new_hasher(self._checksum) if self._checksum else None

    def send(self, sink: Sink) -> None:
        """Pass the range on as it arrives.

        Raises _SourceError: the source does not give it. IntegrityError: it gives other bytes.
        """
        try:
            self.feed(lambda block: self._pass_on(block, sink))
        except _SinkError as failed:
            raise failed.args[0] from failed

    def feed(self, write: Callable[[memoryview], object]) -> None:
        """Hand the range to a hasher, and send nothing; raises _SourceError as send() does."""
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
            raise _SourceError(exc) from exc

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


def _copy_parts_across(copying: _Across) -> Done:
    """Copy an object in parts, many at a time where its ETag is made of parts.

    A plain MD5 is of the bytes in their order: only parts taken one after the other can be held against it.
    """
    task, head, context = copying.task, copying.head, copying.context
    wanted, checksum = context.options.part_size, context.options.checksum
    # The source's own size of parts, where it is known: then the ETags agree.
    part_size = 0 if wanted else first_part_size(head.size, head.etag, head.headers)
    if not may_cut(head.size, part_size):
        part_size = choose_part_size(head.size, wanted)
    attributes = _attributes(task, head, context, part_size)
    fingerprint = ""  # where Complete wants the checksums of all parts, which ListParts may not tell
    if not algorithm_header(checksum):
        fingerprint = fingerprint_of(head.size, head.etag, part_size, repr(attributes))
    ranges = enumerate(iter_part_ranges(head.size, part_size), start=1)
    with MultipartUpload(
        context, task.bucket, task.key, attributes=attributes, fingerprint=fingerprint, checksum=checksum
    ) as target:
        parts = _Parts(copying, target)
        context.share_parts(parts.put, ranges, limit=1 if parts.is_in_order else 0, bulky=True)
        parts.check(part_size)
        return target.complete(head.size)


class _Parts:
    """The parts of one object, and the digests of what arrived for them; for several workers."""

    def __init__(self, copying: _Across, target: MultipartUpload) -> None:
        options, self._copying, self._target = copying.context.options, copying, target
        self._digests: dict[int, str] = {}
        self._checksums: dict[int, tuple[bytes, int]] = {}  # digests of the parts, and their lengths
        self._told = told = server_checksum(copying.head.headers)
        by_parts = told is not None and (told.parts > 0 or told.algorithm in CRC_BYTES)
        self._checksum = told.algorithm if told is not None and by_parts else ""  # made of each part
        of_whole = "md5" if _has_md5(copying.head) else told.algorithm if told is not None and not by_parts else ""
        self._whole = hashlib.new(of_whole, usedforsecurity=False) if of_whole else None
        self.is_in_order = self._whole is not None  # a digest of all bytes takes the parts one after the other
        self._must_read = self.is_in_order or bool(self._checksum)
        # Under KMS no ETag tells what is stored: the server has to compare, by digests that go ahead.
        self._reads_first = bool(options.checksum) or "kms" in options.attributes.sse

    def put(self, numbered: tuple[int, ByteRange]) -> None:
        number, place = numbered
        body = _SourceBody(self._copying, place, before=self._whole, checksum=self._checksum)
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

    def _send(self, number: int, body: _SourceBody) -> None:
        if self._reads_first:
            self._target.put(number, body, digests=self._copying.read_first(body))
            return
        etag = self._target.put(number, body, digests=STREAMED)
        if etag == body.md5.hexdigest():
            return
        # A byte was changed on its way, or ETags are no digests there (KMS). The server can tell.
        logger.info("%s: part %d has the ETag %s, not its MD5; sending it again", self._target.resource, number, etag)
        told = BodyDigests(UNSIGNED_PAYLOAD, checksum_text(body.md5.digest()), md5_hex=body.md5.hexdigest())
        self._reads_first = self._target.put(number, body, digests=told) != body.md5.hexdigest()

    def check(self, part_size: int) -> None:
        head, source = self._copying.head, self._copying.source
        if self._told is not None and self._checksum:
            digests = [digest for _, digest in sorted(self._checksums.items())]
            check_digests(source, self._told, digests, part_size=part_size, head=head)
        elif self._told is not None and self._whole is not None and not _has_md5(head):
            compare_checksum(source, self._told, self._whole.digest())
        if not etag_tells_content(head.etag, head.headers):
            return
        if self._whole is not None:
            found, is_certain = self._whole.hexdigest(), True
        else:
            found = composite_etag(digest for _, digest in sorted(self._digests.items()))
            is_certain = certain_part_size(head.size, head.etag, head.headers) == part_size
        if found != head.etag and is_certain:
            raise IntegrityError(f"{source}: the bytes that arrived do not make its ETag {head.etag}")
        if found != head.etag:
            logger.info("%s: parts of %d bytes cannot be held against its ETag", source, part_size)
