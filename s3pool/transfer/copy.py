"""S3 to S3 inside one pool: the bytes never come here. From another pool see ``across``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3pool.errors import IntegrityError, RefusedError, S3Error
from s3pool.model import ByteRange, ObjectHead
from s3pool.record import replace
from s3pool.s3.operation import Steps, block_on, in_worker
from s3pool.s3.requests import choose_part_size, iter_part_ranges
from s3pool.s3.responses import hides_digest
from s3pool.transfer.attributes import TAG_COUNT, kept_by_request, merge_for_copy, tags_of_source
from s3pool.transfer.context import NO_ATTRIBUTES, why_skip
from s3pool.transfer.digests import PART_SIZE, is_md5_etag
from s3pool.transfer.multipart import MultipartUpload, retry_if_held
from s3pool.transfer.tasks import IN_WINDOW_BYTES, CopyTask, Done, ObjectStamp

if TYPE_CHECKING:
    from s3pool.transfer.context import Meter, TransferContext

# Ceph RGW 16 copies nothing that a customer's key encrypts, misreads that of a part's source, and sees no new one.
NOT_IMPLEMENTED, UNCOPIED = 501, frozenset((("UploadPartCopy", "InvalidArgument"), ("CopyObject", "InvalidRequest")))
COPY_PART_BYTES = 1 << 30  # parts of a copy move no bytes here, so a few large ones do


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
    # Also for what CopyObject forgets, such as a website's redirect.
    source = context.source.client
    head = yield from source.head_object.steps(task.source_bucket, task.source_key, version_id=task.version_id)
    tags = given.tags
    if not tags and given != NO_ATTRIBUTES:  # RGW 16 forgets them then; a copy in place leaves none to read later
        tags = yield from tags_of_source(task, head, context.source.client)
    try:
        done = yield from _copy_inside(task, head, context)
    except S3Error as exc:
        is_keyed = context.source is not context and (exc.op, exc.code) in UNCOPIED
        if exc.status != NOT_IMPLEMENTED and not is_keyed:
            raise
        return (yield from _copy_by_way_of_here(task, context))
    if tags and not given.tags:
        copied = yield from context.client.head_object.steps(task.bucket, task.key)
        if copied.headers.get(TAG_COUNT, "0") != "0":
            tags = {}
    if tags:
        yield from context.client.put_tags.steps(task.bucket, task.key, tags)
    return done._replace(read=ObjectStamp.of(head))


def _copy_by_way_of_here(task: CopyTask, context: TransferContext) -> Steps[Done]:
    from s3pool.transfer.cross_pool_copy import copy_across

    yield from in_worker()
    return copy_across(task, context)


def _copy_inside(task: CopyTask, head: ObjectHead, context: TransferContext) -> Steps[Done]:
    if head.size <= IN_WINDOW_BYTES:
        done = yield from _copy_whole(task, head, context)
        context.progress.whole(head.size)
        return done
    yield from in_worker()
    with context.metered(task.target, head.size) as meter:
        if head.size > context.options.copy_threshold:
            return retry_if_held(lambda: _copy_parts(task, head, context, meter), lambda: meter.advance(-head.size))
        done = yield from _copy_whole(task, head, context)
        meter.advance(head.size)
        return done


def _copy_whole(task: CopyTask, head: ObjectHead, context: TransferContext) -> Steps[Done]:
    given = context.options.attributes
    kept = kept_by_request(head, in_bucket=task.source_bucket == task.bucket)
    result = yield from context.client.copy_object.steps(
        task.bucket,
        task.key,
        source_bucket=task.source_bucket,
        source_key=task.source_key,
        source_version=task.version_id,
        attributes=merge_for_copy(given, head) if given != NO_ATTRIBUTES else None,
        if_match=head.etag,
        replace_tags=bool(given.tags),
        kept=kept,
    )
    is_plain = is_md5_etag(head.etag) and is_md5_etag(result.etag) and not (given.sse or result.opaque)
    if is_plain and head.etag != result.etag and not hides_digest(head.headers):
        raise IntegrityError(f"{task.target} has the ETag {result.etag}, its source {head.etag}")
    return Done(head.size, result.etag, version_id=result.version_id)


def _copy_parts(task: CopyTask, head: ObjectHead, context: TransferContext, meter: Meter) -> Done:
    given = context.options.attributes
    part_size = choose_part_size(head.size, context.options.part_size or COPY_PART_BYTES)
    # What CopyObject would have taken over by itself.
    merged, kept = merge_for_copy(given, head), kept_by_request(head, in_bucket=task.source_bucket == task.bucket)
    attributes = replace(
        merged,
        tags=given.tags or block_on(tags_of_source(task, head, context.source.client)),
        metadata=dict(merged.metadata) | {PART_SIZE: str(part_size)},
        storage_class=merged.storage_class or kept.storage_class,
        sse=merged.sse or kept.sse,
    )
    source = (task.source_bucket, task.source_key, task.version_id)
    with MultipartUpload(context, task.bucket, task.key, attributes=attributes, checksum="") as target:

        def copy_part(numbered: tuple[int, ByteRange]) -> None:
            number, place = numbered
            target.copy(number, place, source=source, if_match=head.etag)
            meter.advance(place.length)

        ranges = enumerate(iter_part_ranges(head.size, part_size), start=1)
        context.share_parts(copy_part, ranges)
        return target.complete(head.size)
