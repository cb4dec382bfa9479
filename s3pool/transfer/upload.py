"""Local bytes to S3: one file, in one piece or in parts, or a stream of unknown length."""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from s3pool.body import BytesBody, FileSlice
from s3pool.dialect import OWN_ETAGS
from s3pool.errors import IntegrityError, PreconditionError, RefusedError, StoppedError
from s3pool.model import ByteRange, ObjectAttributes
from s3pool.record import replace
from s3pool.s3.operation import Steps, block_on, in_worker
from s3pool.s3.requests import MAX_OBJECT_BYTES, MAX_PARTS, METADATA_PREFIX, MIB, choose_part_size, iter_part_ranges
from s3pool.s3.responses import PutResult
from s3pool.transfer.context import EXISTS, NULL_METER, Meter, MeteredSlice, TransferContext, why_skip
from s3pool.transfer.digests import PART_SIZE, BodyDigests, algorithm_header, check_stored, digest_body, digest_bytes
from s3pool.transfer.metadata import FileHeaders, guess_content_type
from s3pool.transfer.multipart import MultipartUpload, retry_if_held
from s3pool.transfer.resume import fingerprint_of
from s3pool.transfer.safe_path import local_error
from s3pool.transfer.tasks import IN_WINDOW_BYTES, Done, FileStamp, UploadTask
from s3pool.transfer.walk import DIRECTORY_TYPE, NotKept

STREAM_PART_BYTES = 8 * MIB  # of the first parts: each is held in memory until it is stored
# From which part on the parts have at least which size: 10,000 parts then hold 5 TiB, whatever
# the first ones had, and a stream of up to 8 GiB is held in parts of 8 MiB.
LARGER_PARTS = ((1000, 32 * MIB), (1500, 128 * MIB), (2000, 648 * MIB))
STREAM_MEMORY_BYTES = 256 * MIB  # of the parts in flight; one that is larger goes alone
WAKE_S = 0.5  # how long a wait for memory lasts before it looks whether the run was stopped


def part_size_at(number: int, first_size: int = 0) -> int:
    """Return the size of a part by its place in the stream, counted from 0."""
    return max(first_size or STREAM_PART_BYTES, *(size for start, size in LARGER_PARTS if number >= start), 0)


class StreamUpload:
    """An object whose bytes come one after the other, from one thread, and nobody knows how many.

    Parts are stored by workers; where there is no room for another one, the thread that brings it stores one itself.
    What has begun is ended by complete() or abort(). ``limit`` is how many parts are stored at a time.
    """

    def __init__(
        self, context: TransferContext, bucket: str, key: str, *, limit: int, meter: Meter = NULL_METER
    ) -> None:
        given = context.options.attributes
        self._attributes = given if given.content_type else replace(given, content_type=guess_content_type(key))
        self._context, self._place, self._meter = context, (bucket, key), meter
        self._limit = limit
        self._multipart: MultipartUpload | None = None
        # Guards the two sums; never held while a part is stored.
        self._change = threading.Condition()
        self._unstored = self._in_flight = 0  # parts; bytes
        self._waiting: deque[tuple[int, bytes | bytearray]] = deque()  # parts that nobody has begun to store
        self._error: BaseException | None = None
        self._size = self._count = 0

    @property
    def part_size(self) -> int:
        """Return the size that the next part should have."""
        return part_size_at(self._count, self._context.options.part_size)

    def await_room(self) -> None:
        """Wait until there is memory for another part. Raises what an earlier one failed of."""
        self._store_until(self._has_room)
        if self._error is not None:
            raise self._error

    def _has_room(self) -> bool:
        if self._error is not None or not self._unstored:
            return True
        return self._unstored < self._limit and self._in_flight + self.part_size <= STREAM_MEMORY_BYTES

    def send(self, content: bytes | bytearray) -> None:
        """Have the next part stored. Raises what an earlier one failed of.

        RefusedError: the stream has more than an object can hold.
        """
        self._size += len(content)
        if self._size > MAX_OBJECT_BYTES or self._count >= MAX_PARTS:
            raise RefusedError("the stream is longer than 5 TiB, and no object can be")
        if self._multipart is None:
            self._multipart = MultipartUpload(self._context, *self._place, attributes=self._attributes)
        self.await_room()
        self._count += 1
        with self._change:
            self._waiting.append((self._count, content))
            self._unstored += 1
            self._in_flight += len(content)
        del content  # or it would live as long as the next one is waited for
        self._context.executor.submit(self._try_next, first=True)

    def _store_until(self, is_enough: Callable[[], bool]) -> None:
        """Store parts that no worker has begun, then wait for those that are being stored."""
        while not is_enough():
            if not self._try_next():
                with self._change:
                    self._change.wait_for(is_enough, WAKE_S)
                self._context.check_stop()

    def _try_next(self) -> bool:
        """Store a part that waits; False when none does. Never raises, for a worker."""
        try:
            number, content = self._waiting.popleft()
        except IndexError:
            return False
        size, upload = len(content), self._multipart
        try:
            if self._error is None and upload is not None:
                upload.put(number, BytesBody(content), digests=self._context.digest(content, upload.checksum))
                self._meter.advance(size)
        except BaseException as exc:  # noqa: BLE001 - raised again in the thread that brings the parts
            self._error = self._error or exc
        del content
        with self._change:
            self._unstored -= 1
            self._in_flight -= size
            self._change.notify_all()
        return True

    def _await_all(self) -> None:
        self._store_until(lambda: not self._unstored)

    def complete(self, rest: bytes | bytearray) -> Done:
        """Store the last bytes and make the object; of a short stream they are all, and go in one piece."""
        if self._multipart is None:
            return self._put_whole(rest)
        if rest:
            self.send(rest)
        del rest
        self._await_all()
        self.await_room()
        return self._multipart.complete(self._size)

    def _put_whole(self, content: bytes | bytearray) -> Done:
        task = UploadTask("-", *self._place, len(content))
        digests = self._context.digest(content)
        done = block_on(_put(task, BytesBody(content), self._context, self._attributes, digests))
        self._meter.advance(done.size)
        return done

    def abort(self, error: BaseException) -> None:
        """Store nothing: wait for what has begun and abort it."""
        self._error = self._error or error
        with suppress(StoppedError):
            self._await_all()
        if self._multipart is not None:
            self._multipart.__exit__(type(error), error, None)


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


class _Source(NamedTuple):
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
    try:
        return (yield from _upload_once(task, context))
    except ChangedError:
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
    digests = digest_bytes(content, sign_payload=context.options.sign_payload, checksum=context.options.checksum)
    done = yield from _put(task, BytesBody(content), context, headers, digests, facts=source.facts)
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
        return retry_if_held(lambda: _put_parts(task, source, context, meter, headers), meter)
    except OSError as exc:
        raise local_error("read", source.path, exc) from exc
    except PreconditionError:
        if not options.no_clobber:
            raise
        return Done(skipped=EXISTS)


def _read_all(source: _Source) -> bytes:
    size = source.size
    try:
        content = os.read(source.fd, size + 1)
        while 0 < len(content) < size and (block := os.read(source.fd, size + 1 - len(content))):
            content += block
        source.check_unchanged()
    except OSError as exc:
        raise local_error("read", source.path, exc) from exc
    if len(content) != size:
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
    task: UploadTask, source: _Source, context: TransferContext, meter: Meter, headers: dict[str, str]
) -> Done:
    part_size = choose_part_size(source.size, context.options.part_size)
    headers = headers | {METADATA_PREFIX + PART_SIZE: str(part_size)}
    ranges = enumerate(iter_part_ranges(source.size, part_size), start=1)
    fingerprint = fingerprint_of(
        source.size, source.facts.st_mtime_ns, part_size, repr(headers), algorithm_header(context.options.checksum)
    )
    with MultipartUpload(context, task.bucket, task.key, attributes=headers, fingerprint=fingerprint) as target:

        def put_part(numbered: tuple[int, ByteRange]) -> None:
            number, place = numbered
            body = FileSlice(source.fd, offset=place.first, length=place.length)
            if target.has(number, body):
                meter.advance(place.length)
                return
            digests = _digest_slice(body, source, context, target.checksum)
            target.put(number, MeteredSlice(body, meter, context.check_stop), digests=digests)

        context.share_parts(put_part, ranges)
        source.check_unchanged()
        return target.complete(source.size)


def upload_stream(read: Callable[[int], bytes], bucket: str, *, key: str, context: TransferContext) -> Done:
    """Store a stream of unknown length; ``read`` is a blocking file's ``read``.

    A stream that is shorter than a part is stored in one piece; otherwise a few parts at a
    time are held in memory. Nothing is stored when reading fails.
    """
    limit = context.options.part_workers or min(STREAM_WORKERS, context.part_workers)
    with context.metered(f"s3/{bucket}/{key}", 0) as meter:
        upload = StreamUpload(context, bucket, key, limit=limit, meter=meter)
        try:
            while len(content := read_exactly(read, size := upload.part_size)) == size:
                upload.send(content)
                del content
                upload.await_room()
            return upload.complete(content)
        except BaseException as exc:
            upload.abort(exc)
            raise


def store_directories(kept: NotKept, context: TransferContext) -> None:
    """Store the empty directories of a run that are not there yet, as objects whose names end in a slash."""
    digests = context.digest(b"")
    headers = FileHeaders(replace(context.options.attributes, content_type=DIRECTORY_TYPE), preserve=True)
    for task in kept.directories:
        context.check_stop()
        if context.client.exists(task.bucket, task.key):
            continue
        attributes = headers.of(task.path, os.stat(task.path))
        context.client.put_object(
            task.bucket, task.key, BytesBody(b""), payload_hash=digests.payload_hash, attributes=attributes
        )
