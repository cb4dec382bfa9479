"""Local bytes to S3: one file, in one piece or in parts, or a stream of unknown length."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import chain

from s3pool.body import BytesBody, FileSlice
from s3pool.dialect import OWN_ETAGS
from s3pool.errors import IntegrityError, PreconditionError, RefusedError
from s3pool.model import ByteRange, ObjectAttributes
from s3pool.record import dataclass, replace
from s3pool.s3.documents import PutResult
from s3pool.s3.exchange import Steps, block_on, in_worker
from s3pool.s3.part_sizes import MAX_OBJECT_BYTES, MAX_PARTS, MIB, choose_part_size, iter_part_ranges
from s3pool.transfer.attributes import DIRECTORY_TYPE, PART_SIZE, NotKept, for_file, guess_content_type
from s3pool.transfer.context import EXISTS, Meter, MeteredSlice, TransferContext, why_skip
from s3pool.transfer.digests import BodyDigests, algorithm_header, check_stored, digest_body, digest_bytes
from s3pool.transfer.multipart import MultipartUpload, retry_if_held
from s3pool.transfer.resume import fingerprint_of
from s3pool.transfer.safe_path import local_error
from s3pool.transfer.tasks import IN_WINDOW_BYTES, Done, FileStamp, UploadTask

STREAM_PART_BYTES = 8 * MIB  # of the first parts: each is held in memory until it is stored
# From which part on the parts have at least which size: 10,000 parts then hold 5 TiB, whatever
# the first ones had, and a stream of up to 8 GiB is held in parts of 8 MiB.
LARGER_PARTS = ((1000, 32 * MIB), (1500, 128 * MIB), (2000, 648 * MIB))
STREAM_MEMORY_BYTES = 256 * MIB  # of the parts in flight; one that is larger goes alone
WAKE_S = 0.5  # how long a wait for memory lasts before it looks whether the run was stopped


def part_size_at(number: int, first_size: int = 0) -> int:
    """Return the size of a part by its place in the stream, counted from 0."""
    return max(first_size or STREAM_PART_BYTES, *(size for start, size in LARGER_PARTS if number >= start), 0)


class StreamPart:
    """One part; it lets go of its bytes when it is done, whoever may still hold it."""

    __slots__ = ("content", "number")

    def __init__(self, number: int, content: bytes | bytearray) -> None:
        self.number = number
        self.content = content


class StreamParts:
    """The parts of a stream, numbered from 1, for several workers to take in turn.

    ``read`` is a blocking file's ``read``. Taking one waits until there is memory for it: each is to be given back with
    done() when it is stored, or failed. ``check_stop`` raises when the run is to end.
    """

    def __init__(
        self, read: Callable[[int], bytes], *, part_size: int = 0, check_stop: Callable[[], None] = lambda: None
    ) -> None:
        self._read = read
        self._part_size = part_size
        self._check_stop = check_stop
        # Guards the bytes in flight; never held while the stream is read.
        self._room = threading.Condition()
        self._in_flight = 0

    def __iter__(self) -> Iterator[StreamPart]:
        """Yield the parts.

        Raises RefusedError: the stream has more than an object can hold. LocalFileError: it cannot be read.
        """
        total = 0
        for number in range(MAX_PARTS):
            size = part_size_at(number, self._part_size)
            with self._room:
                while self._in_flight and self._in_flight + size > STREAM_MEMORY_BYTES:
                    self._room.wait(WAKE_S)
                    self._check_stop()
                self._in_flight += size
            content = read_exactly(self._read, size)
            self._give_back(size - len(content))
            if not content:
                return
            total += len(content)
            if total > MAX_OBJECT_BYTES:
                break
            yield StreamPart(number + 1, content)
            del content  # or it would live as long as the wait for the next one
        if total > MAX_OBJECT_BYTES or self._read(1):
            raise RefusedError("the stream is longer than 5 TiB, and no object can be")

    def done(self, part: StreamPart) -> None:
        """Let go of a part."""
        size, part.content = len(part.content), b""
        self._give_back(size)

    def _give_back(self, size: int) -> None:
        with self._room:
            self._in_flight -= size
            self._room.notify_all()


def read_exactly(read: Callable[[int], bytes], size: int) -> bytes | bytearray:
    """Read until the size or the end is reached: a pipe gives less than it was asked for.

    Raises LocalFileError: the stream cannot be read.
    """
    try:
        first = read(size)
        if len(first) == size or not first:
            return first
        pieces = bytearray(first)
        while len(pieces) < size and (block := read(size - len(pieces))):
            pieces += block
    except OSError as exc:
        raise local_error("read", "the stream", exc) from exc
    return pieces  # not copied once more: it may be large


IN_MEMORY_BYTES = 1 * MIB  # smaller files are read once, hashed and sent from memory
STREAM_WORKERS = 4

Attributes = ObjectAttributes | Mapping[str, str]  # or the headers that store them


class ChangedError(IntegrityError):
    """The source is not any more what it was when reading began."""


@dataclass(frozen=True, slots=True)
class _Source:
    fd: int
    path: str
    facts: os.stat_result

    @property
    def size(self) -> int:
        return self.facts.st_size

    def check_unchanged(self) -> None:
        now = os.fstat(self.fd)
        if (now.st_size, now.st_mtime_ns) != (self.facts.st_size, self.facts.st_mtime_ns):
            raise _changed(self.path)


def _changed(path: str) -> ChangedError:
    return ChangedError(f"{path} changed while it was read; it was not stored")


def upload(task: UploadTask, context: TransferContext) -> Steps[Done]:
    """Store one file; a source that changes meanwhile is tried once more.

    Raises ChangedError: it changed again. RefusedError: it is no regular file. LocalFileError: it cannot be read.
    """
    with suppress(ChangedError):
        return (yield from _upload_once(task, context))
    return (yield from _upload_once(task, context))


def _upload_once(task: UploadTask, context: TransferContext) -> Steps[Done]:
    if context.is_conditional and (skipped := (yield from why_skip(task, context, mtime_of_file(task, context)))):
        return Done(skipped=skipped)
    source = _open(task, context)
    try:
        if source.size > IN_WINDOW_BYTES:
            return (yield from _upload_open(task, source, context))
        content, headers = _read_all(source), _headers(task, source, context)
    finally:
        os.close(source.fd)
    # Nothing is open while the answer is waited for: there may be hundreds of such uploads.
    done = yield from _put(task, BytesBody(content), context, headers, context.digest(content), facts=source.facts)
    context.progress.whole(done.size)
    return done


def _upload_open(task: UploadTask, source: _Source, context: TransferContext) -> Steps[Done]:
    yield from in_worker()
    with context.metered(task.target, source.size) as meter:
        done = yield from _send(task, source, context, meter)
    return done._replace(mtime_ns=source.facts.st_mtime_ns, sent=FileStamp.of(source.facts))


def _open(task: UploadTask, context: TransferContext) -> _Source:
    try:
        fd = context.local.sources.open(task)
    except OSError as exc:
        raise local_error("read", task.path, exc) from exc
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode):
        os.close(fd)
        raise RefusedError(f"{task.path} is no regular file: skipped")
    return _Source(fd, task.path, facts)


def mtime_of_file(task: UploadTask, context: TransferContext) -> int:
    """Return a file's modification time in nanoseconds. Raises LocalFileError: it cannot be read."""
    source = _open(task, context)
    os.close(source.fd)
    return source.facts.st_mtime_ns


def _headers(task: UploadTask, source: _Source, context: TransferContext) -> dict[str, str]:
    if context.not_kept is not None:
        context.not_kept.look_at_file(source.fd, source.path)
    return context.file_headers.of(task.path, source.facts)


def _send(task: UploadTask, source: _Source, context: TransferContext, meter: Meter) -> Steps[Done]:
    headers, options = _headers(task, source, context), context.options
    try:
        if source.size <= IN_MEMORY_BYTES:
            content = _read_all(source)
            done = yield from _put(task, BytesBody(content), context, headers, context.digest(content))
            meter.advance(done.size)
            return done
        if source.size <= options.upload_threshold:
            # The server checks the bytes against the digests, so what it stores is what was just read.
            part = FileSlice(source.fd, length=source.size)
            digests = _digest_slice(part, source, context, context.checksum_of(part.length))
            body = MeteredSlice(part, meter, context.check_stop)
            return (yield from _put(task, body, context, headers, digests))
        given = for_file(options.attributes, task.path, source.facts, preserve=options.preserve)
        return retry_if_held(
            lambda: _put_parts(task, source, context, meter, given), lambda: meter.advance(-source.size)
        )
    except OSError as exc:
        raise local_error("read", source.path, exc) from exc
    except PreconditionError:
        if not options.no_clobber:
            raise
        return Done(skipped=EXISTS)


def _read_all(source: _Source) -> bytes:
    try:
        content = os.read(source.fd, source.size + 1)
        while 0 < len(content) < source.size and (block := os.read(source.fd, source.size + 1 - len(content))):
            content += block
        source.check_unchanged()
    except OSError as exc:
        raise local_error("read", source.path, exc) from exc
    if len(content) != source.size:
        raise _changed(source.path)
    return content


def _digest_slice(body: FileSlice, source: _Source, context: TransferContext, checksum: str) -> BodyDigests:
    def feed(update: Callable[[memoryview], object]) -> None:
        def watched(block: memoryview) -> None:
            context.check_stop()
            update(block)

        body.feed(watched)

    try:
        digests = digest_body(feed, sign_payload=context.options.sign_payload, checksum=checksum)
    except IntegrityError as exc:
        raise _changed(source.path) from exc
    source.check_unchanged()
    return digests


def _put(
    task: UploadTask,
    body: BytesBody | MeteredSlice,
    context: TransferContext,
    attributes: Attributes,
    digests: BodyDigests,
    *,
    facts: os.stat_result | None = None,
) -> Steps[Done]:
    """Store a body, of a file with these facts; where no object may be replaced, one that is there stays."""
    options = context.options
    mtime_ns, stamp = (None, None) if facts is None else (facts.st_mtime_ns, FileStamp.of(facts))
    try:
        result = yield from context.client.put_object.steps(
            task.bucket,
            task.key,
            body,
            payload_hash=digests.payload_hash,
            attributes=attributes,
            content_md5=digests.content_md5,
            checksum=digests.checksum,
            may_decline=not options.checksum,
            if_none_match=options.no_clobber,
        )
    except PreconditionError:
        if not options.no_clobber:
            raise
        return Done(0, "", mtime_ns, skipped=EXISTS, sent=stamp)
    if digests.md5_hex and result.etag != digests.md5_hex and "kms" not in options.attributes.sse:
        yield from _check_stored(task, result, digests, context, body.length)
    return Done(body.length, result.etag, mtime_ns, result.version_id, sent=stamp)


def _check_stored(
    task: UploadTask, result: PutResult, digests: BodyDigests, context: TransferContext, size: int
) -> Steps[None]:
    """Hold an ETag against what was sent; where they differ, what is stored decides."""
    dialect = context.client.dialect
    try:
        check_stored(task.target, result, digests)
    except IntegrityError:
        if dialect.knows(OWN_ETAGS):
            return
        response = yield from context.client.get_object.steps(
            task.bucket, task.key, version_id=result.version_id, read_bytes=size
        )
        with response:
            if digest_bytes(response.preload(), sign_payload=False).md5_hex != digests.md5_hex:
                raise
        dialect.prove_own_etags()


def _put_parts(
    task: UploadTask, source: _Source, context: TransferContext, meter: Meter, attributes: ObjectAttributes
) -> Done:
    part_size = choose_part_size(source.size, context.options.part_size)
    attributes = replace(attributes, metadata=dict(attributes.metadata) | {PART_SIZE: str(part_size)})
    ranges = enumerate(iter_part_ranges(source.size, part_size), start=1)
    fingerprint = fingerprint_of(
        source.size, source.facts.st_mtime_ns, part_size, repr(attributes), algorithm_header(context.options.checksum)
    )
    with MultipartUpload(context, task.bucket, task.key, attributes=attributes, fingerprint=fingerprint) as target:

        def put_part(numbered: tuple[int, ByteRange]) -> None:
            number, place = numbered
            body = FileSlice(source.fd, offset=place.first, length=place.length)
            if target.has(number, body):
                meter.advance(place.length)
                return
            digests = _digest_slice(body, source, context, target.checksum)
            target.put(number, MeteredSlice(body, meter, context.check_stop), digests=digests)

        context.executor.share(put_part, ranges, limit=context.part_workers)
        source.check_unchanged()
        return target.complete(source.size)


def upload_stream(read: Callable[[int], bytes], bucket: str, *, key: str, context: TransferContext) -> Done:
    """Store a stream of unknown length; ``read`` is a blocking file's ``read``.

    A stream that is shorter than a part is stored in one piece; otherwise a few parts at a
    time are held in memory. Nothing is stored when reading fails.
    """
    options = context.options
    given = options.attributes
    if not given.content_type:
        given = replace(given, content_type=guess_content_type(key))
    parts = StreamParts(read, part_size=options.part_size, check_stop=context.check_stop)
    stream = iter(parts)
    first = next(stream, StreamPart(1, b""))
    content = first.content
    with context.metered(f"s3/{bucket}/{key}", 0) as meter:
        if len(content) >= part_size_at(0, options.part_size):
            del content  # or the part would live as long as the upload
            return _put_stream_parts(parts, chain((first,), stream), (bucket, key), (context, meter), given)
        task = UploadTask("-", bucket, key, len(content))
        done = block_on(_put(task, BytesBody(content), context, given, context.digest(content)))
        meter.advance(done.size)
        return done


def _put_stream_parts(
    parts: StreamParts,
    stream: Iterator[StreamPart],
    place: tuple[str, str],
    means: tuple[TransferContext, Meter],
    attributes: ObjectAttributes,
) -> Done:
    context, meter = means
    sizes: dict[int, int] = {}
    with MultipartUpload(context, *place, attributes=attributes) as target:

        def put_part(part: StreamPart) -> None:
            try:
                digests = context.digest(part.content, target.checksum)
                target.put(part.number, BytesBody(part.content), digests=digests)
                sizes[part.number] = len(part.content)
            finally:
                parts.done(part)
            meter.advance(sizes[part.number])

        limit = context.options.part_workers or min(STREAM_WORKERS, context.part_workers)
        context.executor.share(put_part, stream, limit=limit)
        return target.complete(sum(sizes.values()))


def store_directories(kept: NotKept, context: TransferContext) -> None:
    """Store the empty directories of a run that are not there yet, as objects whose names end in a slash."""
    digests = context.digest(b"")
    for task in kept.directories:
        context.check_stop()
        if context.client.exists(task.bucket, task.key):
            continue
        given = replace(context.options.attributes, content_type=DIRECTORY_TYPE)
        attributes = for_file(given, task.path, os.stat(task.path), preserve=True)
        context.client.put_object(
            task.bucket, task.key, BytesBody(b""), payload_hash=digests.payload_hash, attributes=attributes
        )
