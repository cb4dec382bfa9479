"""S3 to local bytes: a hidden temporary file, checked, dated, renamed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from s3pool.body import new_hasher
from s3pool.errors import IntegrityError, LocalNotFoundError, PreconditionError, RefusedError, ReplacedError
from s3pool.model import ByteRange, Response
from s3pool.s3.operation import Steps, block_on, in_worker
from s3pool.s3.requests import MIB, NO_HEADERS, iter_ranges
from s3pool.s3.responses import Known, etag_of, head_of, metadata_of
from s3pool.transfer import metadata as stored
from s3pool.transfer.context import EXISTS, why_skip
from s3pool.transfer.digests import (
    Digests,
    StreamCheck,
    check_file,
    check_in_order,
    check_small,
    first_part_size,
    range_algorithm,
)
from s3pool.transfer.object_reader import Facts, ObjectReader, RangeIgnoredError, Source
from s3pool.transfer.part_file import PartFile
from s3pool.transfer.resume import NO_MEMORY, NOTHING_DONE, Resumption, fingerprint_of, may_go_on
from s3pool.transfer.safe_path import default_mode, local_error, make_directory, sync_to_disk
from s3pool.transfer.tasks import IN_WINDOW_BYTES, UNKNOWN_SIZE, Done, DownloadTask, FileStamp, ObjectStamp

if TYPE_CHECKING:
    from s3pool.transfer.context import Meter, TransferContext

logger = logging.getLogger(__name__)

ATTEMPTS_ON_CHANGE = 2  # an object that is replaced while it is read is tried once more
ATTEMPTS_ON_SWEEP = 3  # to write a small file; a run sweeps each directory once
RANGE_BYTES = 16 * MIB
MAX_RANGE_BYTES = 128 * MIB  # parts up to this size are fetched and hashed as they are


def download(task: DownloadTask, context: TransferContext) -> Steps[Done]:
    """Bring one object; a key that ends in ``/`` becomes a directory.

    Nothing is at the target's name before all bytes are there and checked.

    Raises RefusedError: the name leads out of the directory, or through a link. IntegrityError: the bytes are not the
    object's. LocalFileError: they cannot be written.
    """
    if not task.relative or task.relative.endswith("/"):
        return (yield from _make_directory(task, context))
    if context.is_conditional and (skipped := (yield from why_skip(task, context))):
        return Done(skipped=skipped)
    for attempt in range(ATTEMPTS_ON_CHANGE):
        try:
            return (yield from _download_once(task, context))
        except (PreconditionError, ReplacedError) as exc:
            if attempt + 1 == ATTEMPTS_ON_CHANGE:
                raise
            logger.info("%s; asking for it anew", exc)
            task = task._replace(size=UNKNOWN_SIZE, etag="")  # what the listing told is out of date
    raise AssertionError("unreachable")


def _make_directory(task: DownloadTask, context: TransferContext) -> Steps[Done]:
    size, read = task.size, None
    if size == UNKNOWN_SIZE:
        head = yield from context.client.head_object.steps(task.bucket, task.key, version_id=task.version_id)
        size, read = head.size, ObjectStamp.of(head)
    if size:
        raise RefusedError(f"{task.source} ends in '/' and holds {size} bytes: no file can have that name")
    make_directory(task.root, task.relative)
    return Done(read=read)


def _download_once(task: DownloadTask, context: TransferContext) -> Steps[Done]:
    source = Source(task.bucket, task.key, task.version_id)
    options = context.options
    if task.size == UNKNOWN_SIZE and options.expects_short and not options.remove_source:  # a move needs more facts
        response = yield from context.reader(source).ask(read_bytes=IN_WINDOW_BYTES)
        if response.body is not None:
            return _write_whole(task, source, response, context)
        response.close()
    if UNKNOWN_SIZE < task.size <= options.download_threshold:
        known = Facts(task.size, task.etag, NO_HEADERS)
    else:  # what decides between one stream and ranges
        head = yield from context.client.head_object.steps(
            task.bucket, task.key, version_id=task.version_id, checksums=True
        )
        known = Facts(head.size, head.etag, head.headers)
    reader = context.reader(source, Known(known.size, known.etag))
    if known.size is None or known.size > IN_WINDOW_BYTES:
        yield from in_worker()
        return (yield from _fill_long(task, known, context, reader, None))
    response = yield from reader.ask(read_bytes=IN_WINDOW_BYTES)
    if response.body is None:
        return (yield from _fill_long(task, known, context, reader, response))
    if options.remove_source:
        yield from in_worker()  # a move waits for the disk
    return _write_whole(task, source, response, context)


def _goes_by_ranges(known: Facts, context: TransferContext) -> bool:
    return known.size is not None and known.size > context.options.download_threshold and bool(known.etag)


def _write_whole(task: DownloadTask, source: Source, response: Response, context: TransferContext) -> Done:
    context.check_stop()
    content = response.preload()
    facts = Facts(len(content), etag_of(response.headers), response.headers)

    for left in reversed(range(ATTEMPTS_ON_SWEEP)):
        part = None
        try:
            part = _part_for(task, context, brief=True)
            _write_at(part.fd, memoryview(content), 0)
            if context.options.verify and not check_small(content, source, etag=facts.etag, headers=facts.headers):
                check_file(part.fd, len(content), what=source, etag=facts.etag, headers=facts.headers)
            done = _finish(part, facts, context, part.mode)
            break
        except LocalNotFoundError:  # another run has swept the temporary file away, or its directory
            if not left:
                raise
        except OSError as exc:
            raise local_error("write", task.target, exc) from exc
        finally:
            if part is not None:
                part.close()
    context.progress.whole(done.size)
    return done


def _part_for(task: DownloadTask, context: TransferContext, *, brief: bool = False, reuse: str = "") -> PartFile:
    return PartFile(
        task.root,
        task.relative,
        registry=context.parts,
        directory=context.local.target,
        reuse=reuse,
        private=context.options.preserve,
        brief=brief,
    )


def _fill_long(
    task: DownloadTask, known: Facts, context: TransferContext, reader: ObjectReader, response: Response | None
) -> Steps[Done]:
    """Fill a file for as long as it takes, from a response that has begun if there is one."""
    resumption = _resumption(task, known, context)
    reuse = resumption.found.name if resumption.found is not None else ""
    part = None
    try:
        part = _part_for(task, context, reuse=reuse)
        with context.metered(task.target, max(known.size or 0, task.size)) as meter:
            facts = known
            by_ranges = response is None and _goes_by_ranges(known, context)
            if not (by_ranges and _Ranges(part, reader.source, known, context, how=(meter, resumption)).fill()):
                facts = yield from _fill_in_order(part, task, reader, context, meter=meter, response=response)
            if context.options.remove_source:
                yield from in_worker()
            return _finish(part, facts, context, part.existing_mode())
    except OSError as exc:
        raise local_error("write", task.target, exc) from exc
    except BaseException as exc:
        if part is not None and resumption.name and may_go_on(exc):
            part.keep()
            resumption.name = ""
        raise
    finally:
        if part is not None:
            part.close()
        elif response is not None:
            response.close()
        resumption.end()


def _resumption(task: DownloadTask, known: Facts, context: TransferContext) -> Resumption:
    # What a run before left on the disk is only of use when it is checked.
    if known.size is None or not context.options.verify or not _goes_by_ranges(known, context):
        return Resumption(NO_MEMORY)
    fingerprint = fingerprint_of(known.size, known.etag, _range_bytes(known.size, known, context))
    return Resumption(context.memory, os.path.abspath(task.target), fingerprint)


def _fill_in_order(
    part: PartFile,
    task: DownloadTask,
    reader: ObjectReader,
    context: TransferContext,
    *,
    meter: Meter,
    response: Response | None,
) -> Steps[Facts]:
    check: StreamCheck | None = None
    offset = 0

    def write(block: memoryview) -> None:
        nonlocal check, offset
        if not offset and context.options.verify:
            facts = reader.facts
            check = check_in_order(facts.size, facts.etag, facts.headers)
        _write_at(part.fd, block, offset)
        if check is not None:
            check.update(block)
        offset += len(block)
        meter.advance(len(block))

    yield from reader.read(write, response)
    facts = reader.facts
    if context.options.verify and not (check is not None and check.check(task.source)):
        check_file(part.fd, offset, what=task.source, etag=facts.etag, headers=facts.headers)
    return Facts(offset, facts.etag, facts.headers)


class _Ranges:
    def __init__(
        self, part: PartFile, source: Source, known: Facts, context: TransferContext, *, how: tuple[Meter, Resumption]
    ) -> None:
        self._part, self._source, self._known = part, source, known
        self._context, (self._meter, self._resumption) = context, how
        self._size = known.size or 0
        self._range_bytes = _range_bytes(self._size, known, context)
        self._algorithm = ""
        if context.options.verify:
            self._algorithm = range_algorithm(self._size, known.etag, known.headers, range_bytes=self._range_bytes)

    def fill(self) -> bool:
        """Fill the file by many ranges at a time; False where the server does not do ranges."""
        try:
            self._fill()
        except RangeIgnoredError:
            self._meter.end(ok=False)
            os.ftruncate(self._part.fd, 0)
            return False
        return True

    def _fill(self) -> None:
        """What an earlier run has left is used when the whole proves to be right."""
        part = self._part
        name = os.fsdecode(part.name)
        done = self._resumption.begin(name, reused=part.reused)
        if part.reused:
            os.ftruncate(part.fd, self._size)
        part.preallocate(self._size)
        if done:  # after a power cut the disk may hold less than was remembered
            try:
                if self._fetch(done):
                    return
            except RangeIgnoredError:
                raise
            except IntegrityError as exc:
                logger.info("%s: what an earlier run left is of no use (%s); fetching it anew", self._source, exc)
            self._meter.advance(-self._size)
        if part.reused:
            self._resumption.begin(name, reused=False)
        self._fetch(NOTHING_DONE)

    def _fetch(self, done: frozenset[int]) -> bool:
        """Fetch all ranges but those that are done; return whether the whole could be checked."""
        places, known, context = list(iter_ranges(self._size, self._range_bytes)), self._known, self._context
        self._meter.advance(sum(place.length for place in places if place.first in done))
        digests: dict[int, bytes] = {}

        def fetch(place: ByteRange) -> None:
            digests[place.first] = self._fetch_one(place)
            self._resumption.add(place)

        left = (place for place in places if place.first not in done)
        context.share_parts(fetch, left, bulky=True)
        if not context.options.verify:
            return False
        found, told = Digests(self._range_bytes, self._algorithm, digests), (known.etag, known.headers)
        return check_file(self._part.fd, self._size, what=self._source, etag=told[0], headers=told[1], digests=found)

    def _fetch_one(self, place: ByteRange) -> bytes:
        hasher = new_hasher(self._algorithm) if self._algorithm else None
        offset = place.first

        def write(block: memoryview) -> None:
            nonlocal offset
            _write_at(self._part.fd, block, offset)
            if hasher is not None:
                hasher.update(block)
            offset += len(block)
            self._meter.advance(len(block))

        known = Known(self._size, self._known.etag)
        block_on(self._context.reader(self._source, known, span=place).read(write))
        return hasher.digest() if hasher is not None else b""


def _range_bytes(size: int, known: Facts, context: TransferContext) -> int:
    part_size = first_part_size(size, known.etag, known.headers)
    if 0 < part_size <= MAX_RANGE_BYTES:
        return part_size
    return context.options.part_size or RANGE_BYTES


def _write_at(fd: int, block: memoryview, offset: int) -> None:
    done = 0
    while done < len(block):
        done += os.pwrite(fd, block[done:], offset + done)


def _finish(part: PartFile, facts: Facts, context: TransferContext, mode: int | None) -> Done:
    options, headers = context.options, facts.headers
    if mode is not None or options.preserve:
        os.fchmod(part.fd, default_mode() if mode is None else mode)
    if options.preserve:
        stored.restore_mode(part.fd, metadata_of(headers))
    if context.not_kept is not None:
        context.not_kept.look_at_object(metadata_of(headers))
    mtime_ns = stored.set_mtime(part.fd, stored.mtime_of_answer(headers))
    if options.remove_source:
        sync_to_disk(part.fd)  # before it has its name, and that before the object goes
    if not part.commit(replace=not options.no_clobber):
        return Done(skipped=EXISTS)
    done = Done(facts.size or 0, facts.etag, mtime_ns)
    if not options.remove_source:
        return done
    read = ObjectStamp.of(head_of({**headers, "content-length": str(done.size)}))
    return done._replace(read=read, written=FileStamp.of(os.fstat(part.fd)))


def download_to(
    write: Callable[[memoryview], object], source: Source, *, context: TransferContext, label: str = "-"
) -> Done:
    """Bring one object to a stream that cannot be taken back, in order.

    The check comes after the bytes: an error then says that what was written is wrong.

    Raises IntegrityError: the bytes are not the object's.
    """
    head = context.client.head_object(source.bucket, source.key, version_id=source.version_id)
    with context.metered(label, head.size) as meter:
        written = 0

        def hand_on(block: memoryview) -> None:
            nonlocal written
            write(block)
            written += len(block)
            meter.advance(len(block))

        reader = context.reader(source, Known(head.size, head.etag))
        reader.copy_to(hand_on, verify=context.options.verify)
    return Done(written, reader.facts.etag)
