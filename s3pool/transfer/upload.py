"""Local bytes to S3: one file, in one piece or in parts, or a stream of unknown length."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from itertools import chain

from s3pool.body import BytesBody, FileSlice
from s3pool.errors import IntegrityError, PreconditionError, RefusedError
from s3pool.model import ByteRange, ObjectAttributes
from s3pool.record import dataclass, replace
from s3pool.s3.part_sizes import MIB, choose_part_size, iter_part_ranges
from s3pool.transfer import attributes as stored
from s3pool.transfer.beneath import local_error
from s3pool.transfer.checksums import Seal, algorithm_header, check_stored, seal, seal_bytes
from s3pool.transfer.conditions import EXISTS, why_skip_upload
from s3pool.transfer.engine import Engine
from s3pool.transfer.multipart import MultipartUpload, not_stuck
from s3pool.transfer.pacing import MeteredSlice
from s3pool.transfer.progress import Meter
from s3pool.transfer.resume import upload_fingerprint
from s3pool.transfer.sourcefiles import SourceFiles
from s3pool.transfer.streamparts import StreamPart, StreamParts, part_size_at
from s3pool.transfer.tasks import Done, FileStamp, UploadTask

IN_MEMORY_BYTES = 1 * MIB  # smaller files are read once, hashed and sent from memory
ATTEMPTS_ON_CHANGE = 2  # a source that changes while it is read is tried once more
STREAM_WORKERS = 4


class ChangedError(IntegrityError):
    """The source is not any more what it was when reading began."""


@dataclass(frozen=True, slots=True)
class _Source:
    """An open file and what it was when it was opened."""

    fd: int
    path: str
    facts: os.stat_result

    @property
    def size(self) -> int:
        return self.facts.st_size

    def check_unchanged(self) -> None:
        now = os.fstat(self.fd)
        if (now.st_size, now.st_mtime_ns) != (self.facts.st_size, self.facts.st_mtime_ns):
            raise ChangedError(f"{self.path} changed while it was read; it was not stored")


def upload(task: UploadTask, engine: Engine) -> Done:
    """Store one file; a source that changes meanwhile is tried once more.

    Raises:
        ChangedError: it changed again. RefusedError: it is no regular file.
        LocalFileError: it cannot be read.
    """
    for attempt in range(ATTEMPTS_ON_CHANGE):
        try:
            return _upload_once(task, engine)
        except ChangedError:
            if attempt + 1 == ATTEMPTS_ON_CHANGE:
                raise
    raise AssertionError("unreachable")


def _upload_once(task: UploadTask, engine: Engine) -> Done:
    source = _open(task, engine.options.links)
    try:
        if skipped := why_skip_upload(task, source.facts.st_mtime_ns, engine):
            return Done(skipped=skipped)
        meter = engine.progress.begin(task.target, source.size)
        done = None
        try:
            done = _send(task, source, engine, meter)
        finally:
            meter.end(ok=done is not None)
        return done._replace(mtime_ns=source.facts.st_mtime_ns, sent=FileStamp.of(source.facts))
    finally:
        os.close(source.fd)


def _open(task: UploadTask, links: str) -> _Source:
    files = SourceFiles(links)
    try:
        fd = files.open(task)
    except OSError as exc:
        raise local_error("read", task.path, exc) from exc
    finally:
        files.close()
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode):
        os.close(fd)
        raise RefusedError(f"{task.path} is no regular file: skipped")
    return _Source(fd, task.path, facts)


def mtime_of_file(task: UploadTask, links: str) -> int:
    """Return a file's modification time in nanoseconds.

    Raises:
        LocalFileError: it cannot be read.
    """
    source = _open(task, links)
    os.close(source.fd)
    return source.facts.st_mtime_ns


def _send(task: UploadTask, source: _Source, engine: Engine, meter: Meter) -> Done:
    if engine.not_kept is not None:
        engine.not_kept.look_at_file(source.fd, source.path)
    given = stored.for_file(engine.options.attributes, task.path, source.facts, preserve=engine.options.preserve)
    try:
        if source.size <= IN_MEMORY_BYTES:
            return _put_from_memory(task, source, engine, meter, given)
        if source.size <= engine.options.upload_threshold:
            return _put_from_file(task, source, engine, meter, given)
        return not_stuck(lambda: _put_parts(task, source, engine, meter, given), lambda: meter.advance(-source.size))
    except OSError as exc:
        raise local_error("read", source.path, exc) from exc
    except PreconditionError:
        if not engine.options.no_clobber:
            raise
        return Done(skipped=EXISTS)


def _put_from_memory(
    task: UploadTask, source: _Source, engine: Engine, meter: Meter, attributes: ObjectAttributes
) -> Done:
    content = _read_all(source)
    source.check_unchanged()
    options = engine.options
    sealed = seal_bytes(content, sign_payload=options.sign_payload, checksum=options.checksum)
    done = _put(task, BytesBody(content), engine, attributes, sealed)
    meter.advance(len(content))
    return done


def _read_all(source: _Source) -> bytes:
    pieces = []
    offset = 0
    while block := os.pread(source.fd, source.size + 1 - offset, offset):
        pieces.append(block)
        offset += len(block)
        if offset > source.size:
            break
    if offset != source.size:
        raise ChangedError(f"{source.path} changed while it was read; it was not stored")
    return b"".join(pieces)


def _put_from_file(
    task: UploadTask, source: _Source, engine: Engine, meter: Meter, attributes: ObjectAttributes
) -> Done:
    body = FileSlice(source.fd, length=source.size)
    sealed = _seal_slice(body, source, engine)
    # The server checks the bytes against the seal, so what it stores is what was just read.
    return _put(task, MeteredSlice(body, meter, engine.check_stop), engine, attributes, sealed)


def _seal_slice(body: FileSlice, source: _Source, engine: Engine) -> Seal:
    def feed(update: Callable[[memoryview], object]) -> None:
        def watched(block: memoryview) -> None:
            engine.check_stop()
            update(block)

        body.feed(watched)

    try:
        sealed = seal(feed, sign_payload=engine.options.sign_payload, checksum=engine.options.checksum)
    except IntegrityError as exc:
        raise ChangedError(f"{source.path} changed while it was read; it was not stored") from exc
    source.check_unchanged()
    return sealed


def _put(
    task: UploadTask, body: BytesBody | MeteredSlice, engine: Engine, attributes: ObjectAttributes, sealed: Seal
) -> Done:
    result = engine.client.put_object(
        task.bucket,
        task.key,
        body,
        payload_hash=sealed.payload_hash,
        attributes=attributes,
        content_md5=sealed.content_md5,
        checksum=sealed.checksum,
        if_none_match=engine.options.no_clobber,
    )
    if "kms" not in attributes.sse:
        check_stored(task.target, result, sealed)
    return Done(body.length, result.etag, version_id=result.version_id)


def _put_parts(task: UploadTask, source: _Source, engine: Engine, meter: Meter, attributes: ObjectAttributes) -> Done:
    part_size = choose_part_size(source.size, engine.options.part_size)
    attributes = replace(attributes, metadata=dict(attributes.metadata) | {stored.PART_SIZE: str(part_size)})
    ranges = enumerate(iter_part_ranges(source.size, part_size), start=1)
    fingerprint = _fingerprint(source, part_size, engine, attributes)
    with MultipartUpload(engine, task.bucket, task.key, attributes=attributes, fingerprint=fingerprint) as target:

        def put_part(numbered: tuple[int, ByteRange]) -> None:
            number, place = numbered
            body = FileSlice(source.fd, offset=place.first, length=place.length)
            if target.has(number, body):
                meter.advance(place.length)
                return
            sealed = _seal_slice(body, source, engine)
            target.put(number, MeteredSlice(body, meter, engine.check_stop), seal=sealed)

        engine.executor.share(put_part, ranges, limit=engine.part_workers)
        source.check_unchanged()
        return target.complete(source.size)


def _fingerprint(source: _Source, part_size: int, engine: Engine, attributes: ObjectAttributes) -> str:
    """Give what tells an unfinished upload of the same."""
    return upload_fingerprint(
        source.size,
        source.facts.st_mtime_ns,
        part_size=part_size,
        attributes=attributes,
        checksum=algorithm_header(engine.options.checksum),
    )


# -- streams -------------------------------------------------------------------------------


def upload_stream(read: Callable[[int], bytes], bucket: str, *, key: str, engine: Engine) -> Done:
    """Store a stream of unknown length; ``read`` is a blocking file's ``read``.

    A stream that is shorter than a part is stored in one piece; otherwise a few parts at a
    time are held in memory. Nothing is stored when reading fails.
    """
    options = engine.options
    given = options.attributes
    if not given.content_type:
        given = replace(given, content_type=stored.guess_content_type(key))
    parts = StreamParts(read, part_size=options.part_size, check_stop=engine.check_stop)
    stream = iter(parts)
    first = next(stream, StreamPart(1, b""))
    meter = engine.progress.begin(f"s3/{bucket}/{key}", 0)
    done = None
    try:
        if len(first.content) < part_size_at(0, options.part_size):
            done = _put_stream_whole(first.content, (bucket, key), engine, meter, given)
        else:
            done = _put_stream_parts(
                parts, chain((first,), stream), place=(bucket, key), engine=engine, meter=meter, attributes=given
            )
    finally:
        meter.end(ok=done is not None)
    return done


def _put_stream_whole(
    content: bytes | bytearray, place: tuple[str, str], engine: Engine, meter: Meter, attributes: ObjectAttributes
) -> Done:
    options = engine.options
    sealed = seal_bytes(content, sign_payload=options.sign_payload, checksum=options.checksum)
    task = UploadTask("-", *place, len(content))
    try:
        done = _put(task, BytesBody(content), engine, attributes, sealed)
    except PreconditionError:
        if not options.no_clobber:
            raise
        return Done(skipped=EXISTS)
    meter.advance(len(content))
    return done


def _put_stream_parts(
    parts: StreamParts,
    stream: Iterator[StreamPart],
    *,
    place: tuple[str, str],
    engine: Engine,
    meter: Meter,
    attributes: ObjectAttributes,
) -> Done:
    options = engine.options
    sizes: dict[int, int] = {}
    with MultipartUpload(engine, *place, attributes=attributes) as target:

        def put_part(part: StreamPart) -> None:
            try:
                sealed = seal_bytes(part.content, sign_payload=options.sign_payload, checksum=options.checksum)
                target.put(part.number, BytesBody(part.content), seal=sealed)
                sizes[part.number] = len(part.content)
            finally:
                parts.done(part)
            meter.advance(sizes[part.number])

        limit = options.part_workers or min(STREAM_WORKERS, engine.part_workers)
        engine.executor.share(put_part, stream, limit=limit)
        return target.complete(sum(sizes.values()))
