"""S3 to local bytes: a hidden temporary file, checked, dated, renamed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from s3pool.errors import IntegrityError, PreconditionError, RefusedError, ReplacedError
from s3pool.hashing import new_hasher
from s3pool.model import ByteRange
from s3pool.s3.part_sizes import MIB
from s3pool.s3.responses import Known, head_of
from s3pool.transfer import attributes as stored
from s3pool.transfer.beneath import PartFile, default_mode, local_error, make_directory, sync_to_disk
from s3pool.transfer.conditions import EXISTS, why_skip_download
from s3pool.transfer.etags import iter_ranges
from s3pool.transfer.fetch import Facts, RangeIgnoredError, Source, fetch_range, fetch_whole
from s3pool.transfer.resume import NOTHING_DONE, Resumption, download_fingerprint, may_go_on
from s3pool.transfer.tasks import UNKNOWN_SIZE, Done, DownloadTask, FileStamp, ObjectStamp
from s3pool.transfer.verify import Digests, StreamCheck, WholeCheck, check_file, first_part_size, range_algorithm

if TYPE_CHECKING:
    from s3pool.transfer.engine import Engine
    from s3pool.transfer.progress import Meter

logger = logging.getLogger(__name__)

ATTEMPTS_ON_CHANGE = 2  # an object that is replaced while it is read is tried once more
RANGE_BYTES = 16 * MIB
MAX_RANGE_BYTES = 128 * MIB  # parts up to this size are fetched and hashed as they are


def download(task: DownloadTask, engine: Engine) -> Done:
    """Bring one object; a key that ends in ``/`` becomes a directory.

    Nothing is at the target's name before all bytes are there and checked.

    Raises:
        RefusedError: the name leads out of the directory, or through a link.
        IntegrityError: the bytes are not the object's. LocalFileError: they cannot be written.
    """
    if not task.relative or task.relative.endswith("/"):
        return _make_directory(task, engine)
    if skipped := why_skip_download(task, engine):
        return Done(skipped=skipped)
    for attempt in range(ATTEMPTS_ON_CHANGE):
        try:
            return _download_once(task, engine)
        except (PreconditionError, ReplacedError) as exc:
            if attempt + 1 == ATTEMPTS_ON_CHANGE:
                raise
            logger.info("%s; asking for it anew", exc)
            task = task._replace(size=UNKNOWN_SIZE, etag="")  # what the listing told is out of date
    raise AssertionError("unreachable")


def _make_directory(task: DownloadTask, engine: Engine) -> Done:
    size, read = task.size, None
    if size == UNKNOWN_SIZE:
        head = engine.client.head_object(task.bucket, task.key, version_id=task.version_id)
        size, read = head.size, ObjectStamp.of(head)
    if size:
        raise RefusedError(f"{task.source} ends in '/' and holds {size} bytes: no file can have that name")
    make_directory(task.root, task.relative)
    return Done(read=read)


def _download_once(task: DownloadTask, engine: Engine) -> Done:
    source = Source(task.bucket, task.key, task.version_id)
    known = _known_facts(task, source, engine)
    resumption = _resumption(task, known, engine)
    reuse = resumption.found.name if resumption.found is not None else ""
    part = PartFile(task.root, task.relative, registry=engine.parts, reuse=reuse, private=engine.options.preserve)
    try:
        meter = engine.progress.begin(task.target, max(known.size or 0, task.size))
        done = None
        try:
            facts = _fill(part, source, known, engine, meter, resumption=resumption)
            done = _finish(part, facts, engine)
        finally:
            meter.end(ok=done is not None)
        return done
    except OSError as exc:
        raise local_error("write", task.target, exc) from exc
    except BaseException as exc:
        if resumption.name and may_go_on(exc):
            part.keep()
            resumption.leave()
        raise
    finally:
        part.close()
        resumption.end()


def _resumption(task: DownloadTask, known: Facts, engine: Engine) -> Resumption:
    # What a run before left on the disk is only of use when it is checked.
    if known.size is None or not engine.options.verify or not _goes_by_ranges(known, engine):
        return Resumption(None, "", "")
    fingerprint = download_fingerprint(known.size, known.etag, range_bytes=_range_bytes(known.size, known, engine))
    return Resumption(engine.memory, os.path.abspath(task.target), fingerprint)


def _goes_by_ranges(known: Facts, engine: Engine) -> bool:
    return known.size is not None and known.size > engine.options.download_threshold and bool(known.etag)


def _known_facts(task: DownloadTask, source: Source, engine: Engine) -> Facts:
    """Give what decides between one stream and ranges; large objects are asked for once more."""
    if UNKNOWN_SIZE < task.size <= engine.options.download_threshold:
        return Facts(task.size, task.etag, {})
    head = engine.client.head_object(source.bucket, source.key, version_id=source.version_id, checksums=True)
    return Facts(head.size, head.etag, head.headers)


def _fill(
    part: PartFile, source: Source, known: Facts, engine: Engine, meter: Meter, *, resumption: Resumption
) -> Facts:
    if _goes_by_ranges(known, engine):
        try:
            _Ranges(part, source, known, engine=engine, meter=meter, resumption=resumption).run()
            return known
        except RangeIgnoredError:
            meter.end(ok=False)
            os.ftruncate(part.fd, 0)
    return _fill_in_order(part, source, known, engine, meter)


def _fill_in_order(part: PartFile, source: Source, known: Facts, engine: Engine, meter: Meter) -> Facts:
    check = WholeCheck() if engine.options.verify else None
    offset = 0

    def write(block: memoryview) -> None:
        nonlocal offset
        _write_at(part.fd, block, offset)
        if check is not None:
            check.update(block)
        offset += len(block)

    facts = fetch_whole(source, write=write, engine=engine, meter=meter, known=Known(known.size, known.etag))
    if check is not None and not check.check(source, etag=facts.etag, headers=facts.headers):
        check_file(part.fd, offset, what=source, etag=facts.etag, headers=facts.headers)
    return Facts(offset, facts.etag, facts.headers)


class _Ranges:
    """One large object on its way into one file, by many ranges at a time."""

    def __init__(
        self, part: PartFile, source: Source, known: Facts, *, engine: Engine, meter: Meter, resumption: Resumption
    ) -> None:
        self._part = part
        self._source = source
        self._known = known
        self._engine = engine
        self._meter = meter
        self._resumption = resumption
        self._size = known.size or 0
        self._range_bytes = _range_bytes(self._size, known, engine)
        self._algorithm = ""
        if engine.options.verify:
            self._algorithm = range_algorithm(self._size, known.etag, known.headers, range_bytes=self._range_bytes)

    def run(self) -> None:
        """Fill the file; what an earlier run has left is used when the whole proves to be right."""
        part = self._part
        name = os.fsdecode(part.name)
        done = self._resumption.begin(name, reused=part.reused)
        if part.reused:
            os.ftruncate(part.fd, self._size)
        part.preallocate(self._size)
        if done and self._goes_on(done):
            return
        if part.reused:
            self._resumption.begin(name, reused=False)
        self._fetch(NOTHING_DONE)

    def _goes_on(self, done: frozenset[int]) -> bool:
        # After a power cut the disk may hold less than was remembered.
        try:
            if self._fetch(done):
                return True
        except RangeIgnoredError:
            raise
        except IntegrityError as exc:
            logger.info("%s: what an earlier run left is of no use (%s); fetching it anew", self._source, exc)
        self._meter.advance(-self._size)
        return False

    def _fetch(self, done: frozenset[int]) -> bool:
        """Fetch all ranges but those that are done; say whether the whole could be checked."""
        places = list(iter_ranges(self._size, self._range_bytes))
        self._meter.advance(sum(place.length for place in places if place.first in done))
        digests: dict[int, bytes] = {}

        def fetch(place: ByteRange) -> None:
            digests[place.first] = self._fetch_one(place)
            self._resumption.add(place)

        left = (place for place in places if place.first not in done)
        self._engine.executor.share(
            fetch, left, limit=self._engine.part_workers, first=self._engine.part_workers_at_first
        )
        if not self._engine.options.verify:
            return False
        known = self._known
        found = Digests(self._range_bytes, self._algorithm, digests)
        return check_file(
            self._part.fd, self._size, what=self._source, etag=known.etag, headers=known.headers, digests=found
        )

    def _fetch_one(self, place: ByteRange) -> bytes:
        hasher = new_hasher(self._algorithm) if self._algorithm else None
        fetch_range(
            self._source,
            place,
            total=self._size,
            etag=self._known.etag,
            write=_writer(self._part.fd, place.first, _no_update if hasher is None else hasher.update),
            engine=self._engine,
            meter=self._meter,
        )
        return hasher.digest() if hasher is not None else b""


def _range_bytes(size: int, known: Facts, engine: Engine) -> int:
    part_size = first_part_size(size, known.etag, known.headers)
    if 0 < part_size <= MAX_RANGE_BYTES:
        return part_size
    return engine.options.part_size or RANGE_BYTES


def _no_update(_block: memoryview) -> None:
    """Take bytes of which no digest is wanted."""


def _writer(fd: int, first: int, update: Callable[[memoryview], object]) -> Callable[[memoryview], None]:
    offset = first

    def write(block: memoryview) -> None:
        nonlocal offset
        _write_at(fd, block, offset)
        update(block)
        offset += len(block)

    return write


def _write_at(fd: int, block: memoryview, offset: int) -> None:
    done = 0
    while done < len(block):
        done += os.pwrite(fd, block[done:], offset + done)


def _finish(part: PartFile, facts: Facts, engine: Engine) -> Done:
    metadata = _metadata(facts.headers)
    mtime_ns = stored.mtime_of_answer(facts.headers)
    mode = part.existing_mode()
    if mode is not None or engine.options.preserve:
        os.fchmod(part.fd, default_mode() if mode is None else mode)
    if engine.options.preserve:
        stored.restore_mode(part.fd, metadata)
    if engine.not_kept is not None:
        engine.not_kept.look_at_object(metadata)
    mtime_ns = stored.set_mtime(part.fd, mtime_ns)
    if engine.options.remove_source:
        sync_to_disk(part.fd)  # before it has its name, and that before the object goes
    if not part.commit(replace=not engine.options.no_clobber):
        return Done(skipped=EXISTS)
    done = Done(facts.size or 0, facts.etag, mtime_ns=mtime_ns)
    if not engine.options.remove_source:
        return done
    read = ObjectStamp.of(head_of({**facts.headers, "content-length": str(done.size)}))
    return done._replace(read=read, written=FileStamp.of(os.fstat(part.fd)))


def _metadata(headers: Mapping[str, str]) -> dict[str, str]:
    prefix = "x-amz-meta-"
    return {name.removeprefix(prefix): value for name, value in headers.items() if name.startswith(prefix)}


def download_to(write: Callable[[memoryview], object], source: Source, *, engine: Engine, label: str = "-") -> Done:
    """Bring one object to a stream that cannot be taken back, in order.

    The check comes after the bytes: an error then says that what was written is wrong.

    Raises:
        IntegrityError: the bytes are not the object's.
    """
    is_begun = False

    def begin(block: memoryview) -> None:
        nonlocal is_begun
        is_begun = True
        write(block)

    try:
        return _stream(begin, source, engine=engine, label=label)
    except (PreconditionError, ReplacedError):
        if is_begun:
            raise
    return _stream(write, source, engine=engine, label=label)


def _stream(write: Callable[[memoryview], object], source: Source, *, engine: Engine, label: str) -> Done:
    head = engine.client.head_object(source.bucket, source.key, version_id=source.version_id, checksums=True)
    check = StreamCheck(head.size, head.etag, head.headers) if engine.options.verify else None
    meter = engine.progress.begin(label, head.size)
    written = 0

    def hand_on(block: memoryview) -> None:
        nonlocal written
        write(block)
        if check is not None:
            check.update(block)
        written += len(block)

    ok = False
    try:
        facts = fetch_whole(source, write=hand_on, engine=engine, meter=meter, known=Known(head.size, head.etag))
        if check is not None:
            check.check(source)
        ok = True
    finally:
        meter.end(ok=ok)
    return Done(written, facts.etag)


def write_special(path: str) -> int:
    """Open a device or a pipe to write to; it is never replaced by a file.

    Raises:
        LocalFileError: the system refuses.
    """
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as exc:
        raise local_error("write", path, exc) from exc
