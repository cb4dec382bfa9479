"""S3 to S3 from another pool: through this machine's memory, never its disk."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from s3pool.body import BytesBody
from s3pool.errors import IntegrityError, PreconditionError, ReplacedError, S3PoolError
from s3pool.model import ByteRange
from s3pool.record import replace
from s3pool.s3.part_sizes import MIB
from s3pool.s3.responses import Known, head_of
from s3pool.transfer.acrossparts import copy_in_parts
from s3pool.transfer.crossing import STREAMED, Crossing, source_of
from s3pool.transfer.digests import Seal, is_md5_etag, seal_bytes
from s3pool.transfer.fetch import Facts, fetch_whole
from s3pool.transfer.progress import NULL_METER
from s3pool.transfer.skip_rules import EXISTS
from s3pool.transfer.sourcebody import SourceError
from s3pool.transfer.tasks import UNKNOWN_SIZE, CopyTask, Done, ObjectStamp
from s3pool.transfer.verify import StreamCheck

if TYPE_CHECKING:
    from s3pool.body import Body
    from s3pool.model import ObjectHead
    from s3pool.transfer.context import Engine
    from s3pool.transfer.progress import Meter

IN_MEMORY_BYTES = 1 * MIB  # smaller objects are one GET, checked in memory, and one PUT
IN_ONE_PIECE_BYTES = 256 * MIB  # larger ones go in parts, so that a retry repeats no more than one
ATTEMPTS_ON_CHANGE = 2  # an object that is replaced while it is read is tried once more


class _TooLargeError(Exception):
    """The object has outgrown memory since it was listed."""


def copy_across(task: CopyTask, engine: Engine) -> Done:
    """Copy one object from the pool of ``engine.source``; what CopyObject keeps is kept.

    Nothing is at the target's name before all bytes are there and checked. A source that is
    replaced meanwhile is tried once more.

    Raises:
        ReplacedError: it was replaced again. IntegrityError: bytes changed on their way.
    """
    engine.spellings.check(task, engine)
    for attempt in range(ATTEMPTS_ON_CHANGE):
        try:
            return _copy_once(task, engine)
        except ReplacedError:
            if attempt + 1 == ATTEMPTS_ON_CHANGE:
                raise
            task = replace(task, size=UNKNOWN_SIZE, etag="")  # what the listing told is out of date
    raise AssertionError("unreachable")


def _head(task: CopyTask, engine: Engine) -> ObjectHead:
    client = engine.source.client
    return client.head_object(task.source_bucket, task.source_key, version_id=task.version_id, checksums=True)


def _copy_once(task: CopyTask, engine: Engine) -> Done:
    meter = engine.progress.begin(task.target, max(0, task.size))
    done = None
    try:
        done = _copy(task, engine, meter)
    except SourceError as exc:
        raise _trouble_of(task, exc) from None
    finally:
        meter.end(ok=done is not None)
    return done


def _copy(task: CopyTask, engine: Engine, meter: Meter) -> Done:
    head = None if UNKNOWN_SIZE < task.size <= IN_MEMORY_BYTES else _head(task, engine)
    if head is None or head.size <= IN_MEMORY_BYTES:
        try:
            known = Known(task.size, task.etag) if head is None else Known(head.size, head.etag)
            return _copy_from_memory(task, known, engine, meter)
        except _TooLargeError:
            head = _head(task, engine)
    crossing = Crossing(task, head, engine, meter)
    done = _copy_in_one_piece(crossing) if _goes_in_one_piece(crossing) else copy_in_parts(crossing)
    return done._replace(read=ObjectStamp.of(head))


def _trouble_of(task: CopyTask, error: SourceError) -> S3PoolError:
    """Give the error of the source itself."""
    return _replaced(task) if isinstance(error.error, (PreconditionError, ReplacedError)) else error.error or error


def _replaced(task: CopyTask) -> ReplacedError:
    return ReplacedError(f"{task.source} was replaced while it was read")


# -- small objects -------------------------------------------------------------------------


def _copy_from_memory(task: CopyTask, known: Known, engine: Engine, meter: Meter) -> Done:
    content, facts = _fetch(task, known, engine)
    check = StreamCheck(len(content), facts.etag, facts.headers)
    check.update(memoryview(content))
    check.check(task.source)
    head = head_of({**facts.headers, "content-length": str(len(content))})
    options = engine.options
    sealed = seal_bytes(content, sign_payload=options.sign_payload, checksum=options.checksum)
    done = _put(Crossing(task, head, engine, meter), BytesBody(content), sealed)
    meter.advance(done.size)
    return done._replace(read=ObjectStamp.of(head))


def _fetch(task: CopyTask, known: Known, engine: Engine) -> tuple[bytes, Facts]:
    content = bytearray()

    def take(block: memoryview) -> None:
        if len(content) + len(block) > IN_MEMORY_BYTES:
            raise _TooLargeError
        content.extend(block)

    try:
        facts = fetch_whole(source_of(task), write=take, engine=engine.source, meter=NULL_METER, known=known)
    except PreconditionError as exc:
        raise _replaced(task) from exc
    return bytes(content), facts


# -- larger ones with a known MD5 ----------------------------------------------------------


def _goes_in_one_piece(crossing: Crossing) -> bool:
    size, part_size = crossing.head.size, crossing.engine.options.part_size
    return crossing.has_md5 and size <= IN_ONE_PIECE_BYTES and not 0 < part_size < size


def _copy_in_one_piece(crossing: Crossing) -> Done:
    """Pass an object on while it arrives; its MD5 goes ahead, for the target to compare."""
    etag = crossing.head.etag
    body = crossing.body(ByteRange(0, crossing.head.size - 1), wanted_md5=etag)
    if crossing.engine.options.checksum:
        return _put(crossing, body, crossing.read_first(body))
    return _put(crossing, body, replace(STREAMED, content_md5=base64.b64encode(bytes.fromhex(etag)).decode()))


def _put(crossing: Crossing, body: Body, sealed: Seal) -> Done:
    task, options = crossing.task, crossing.engine.options
    try:
        result = crossing.engine.client.put_object(
            task.bucket,
            task.key,
            body,
            payload_hash=sealed.payload_hash,
            attributes=crossing.attributes(),
            content_md5=sealed.content_md5,
            checksum=sealed.checksum,
            if_none_match=options.no_clobber,
        )
    except PreconditionError:
        if not options.no_clobber:
            raise
        return Done(skipped=EXISTS)
    if (
        crossing.has_md5
        and is_md5_etag(result.etag)
        and result.etag != crossing.head.etag
        and not options.attributes.sse
        and not result.opaque
    ):
        raise IntegrityError(f"{task.target} has the ETag {result.etag}, its source {crossing.head.etag}")
    return Done(body.length, result.etag, version_id=result.version_id)
