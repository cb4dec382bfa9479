"""What every transfer shares: the client, the options, the workers, the word to stop."""

from __future__ import annotations

import logging
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from s3pool.body import CHEAP, READ_BLOCK_BYTES, FileSlice, Sink, has_machine_code
from s3pool.dialect import CHECKSUM_ALGORITHM
from s3pool.errors import NotFoundError, S3PoolError, StoppedError
from s3pool.model import ByteRange, ObjectAttributes, parse_iso_time
from s3pool.record import dataclass
from s3pool.s3.operation import Steps
from s3pool.s3.requests import MAX_SINGLE_PUT_BYTES, MIB, NO_ATTRIBUTES
from s3pool.s3.responses import UNKNOWN, Known
from s3pool.transfer.digests import BodyDigests, digest_bytes
from s3pool.transfer.executor import BoundedExecutor
from s3pool.transfer.metadata import STORED_TOLERANCE_NS, FileHeaders, mtime_of
from s3pool.transfer.object_reader import ObjectReader, Source
from s3pool.transfer.part_file import PartRegistry
from s3pool.transfer.resume import NO_MEMORY
from s3pool.transfer.safe_path import LastDirectory, SourceFiles, stat_below
from s3pool.transfer.tasks import CopyTask, DownloadTask, UploadTask
from s3pool.units import NANO

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client
    from s3pool.transfer.tasks import Task
    from s3pool.transfer.walk import NotKept

logger = logging.getLogger(__name__)

MULTIPART_THRESHOLD_BYTES = 16 * MIB  # larger files go in parts
OFFERED_BYTES = 1 * MIB
RANGES_THRESHOLD_BYTES = 32 * MIB  # larger objects come in ranges

Part = TypeVar("Part")


class Meter:
    """The progress of one transfer; this one counts nothing. Called from worker threads."""

    def advance(self, count: int) -> None:
        """Count bytes; a negative count takes back what must be sent again."""

    def end(self, *, ok: bool) -> None:
        """Finish; a transfer that failed takes its bytes back."""


class Progress:
    """The progress of a run; this one shows nothing."""

    def found(self, size: int) -> None:
        """Count one more transfer that the run will make."""

    def begin(self, label: str, size: int) -> Meter:  # noqa: ARG002 - as those that show it
        """Start one transfer of size bytes."""
        return NULL_METER

    def whole(self, size: int) -> None:
        """Count one transfer that was made in one go."""

    def all_found(self) -> None:
        """Note that the totals will not grow any more."""


NULL_METER = Meter()


class MeteredSlice:
    """A part of an open file, sent a block at a time.

    What was counted is taken back when the body is rewound for another attempt.
    """

    __slots__ = ("_check_stop", "_meter", "_sent", "_slice", "length")

    rewindable = True

    def __init__(self, part: FileSlice, meter: Meter, check_stop: Callable[[], None]) -> None:
        self._slice, self._meter, self._check_stop = part, meter, check_stop
        self._sent = 0
        self.length = part.length

    def rewind(self) -> None:
        """Take back what was counted; positioned reads need nothing more."""
        if self._sent:
            self._meter.advance(-self._sent)
            self._sent = 0

    def send(self, sink: Sink) -> None:
        """Send the range in blocks."""
        self.rewind()
        while self._sent < self.length:
            self._check_stop()
            count = min(READ_BLOCK_BYTES, self.length - self._sent)
            sink.send_file(self._slice.fd, self._slice.offset + self._sent, count)
            self._sent += count
            self._meter.advance(count)


# -- what all transfers share -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """What the user wants of every transfer of a run.

    ``attributes`` holds only what was given. ``part_size`` in bytes and ``part_workers``: 0
    means that each transfer chooses. ``sign_payload`` is for endpoints without TLS. Without
    ``verify`` the length is all that is checked of a download.
    """

    attributes: ObjectAttributes = NO_ATTRIBUTES
    part_size: int = 0
    part_workers: int = 0
    checksum: str = ""
    no_clobber: bool = False
    update: bool = False
    preserve: bool = False
    remove_source: bool = False
    sign_payload: bool = True
    verify: bool = True
    ignore_archived: bool = False
    expects_short: bool = False  # objects of unknown size are asked for as if they were short
    bypass_governance: bool = False  # deletes remove versions that a retention in governance mode holds
    links: str = "files"  # a rule of Walk

    @property
    def upload_threshold(self) -> int:
        """The size above which a file goes in parts."""
        return self.part_size or MULTIPART_THRESHOLD_BYTES

    @property
    def download_threshold(self) -> int:
        """The size above which an object comes in ranges."""
        return self.part_size or RANGES_THRESHOLD_BYTES

    @property
    def copy_threshold(self) -> int:
        """The size above which a copy is made of parts.

        CopyObject is one request, and on many servers it moves no bytes at all: parts are
        for what it cannot do, or for who asks for them.
        """
        return min(self.part_size or MAX_SINGLE_PUT_BYTES, MAX_SINGLE_PUT_BYTES)


class TransferContext:
    """The means of a run. Safe for many threads.

    ``why_not`` is asked by the worker before each transfer; what it gives is why the transfer is not needed, "" when
    it is. ``in_question`` tells beforehand whether answering takes requests or the reading of files. With a
    ``memory`` large transfers that are cut short are left as they are, for a later run to go on with. ``source`` is
    the context of another pool, the sources of copies being there; without one they are in this pool.
    """

    def __init__(
        self,
        client: S3Client,
        *,
        options: TransferOptions | None = None,
        executor: BoundedExecutor | None = None,
        progress: Progress | None = None,
        source: TransferContext | None = None,
    ) -> None:
        self.client = client
        self.source = source or self
        self.is_cross_pool = source is not None  # but for one of the same pool, whose requests have another key
        self.options = options or TransferOptions()
        self.is_conditional = self.options.no_clobber or self.options.update  # the target is missing or older
        self.executor = executor or BoundedExecutor(0)
        self.progress = progress or Progress()
        self.parts = PartRegistry()
        self.uploads = UploadRegistry()
        self.stop: threading.Event = source.stop if source is not None else threading.Event()
        self.why_not: Callable[[Task], str] | None = None
        self.in_question: Callable[[Task], bool] | None = None
        self.memory = NO_MEMORY
        self.not_kept: NotKept | None = None  # where everything is to be kept
        self.merged_spellings: dict[frozenset[str], bool] = {}  # whether the target takes such keys for plain ones
        self.spelling_owners: dict[str, str] = {}  # of keys that are usual at the target, and unusual at the source
        # Held while the store is asked, which happens once for each kind of spelling.
        self.spellings_lock = threading.Lock()
        self.synced: set[tuple[str | bytes, ...]] = set()  # local directories whose names are on the disk
        self.links: dict[tuple[int, int], list[int]] = {}  # by inode: the ctimes that removals of its names made
        # Guards links, from the look at a file to its removal.
        self.links_lock = threading.Lock()
        self.local = ThreadMeans(self.options.links)
        self.file_headers = FileHeaders(self.options.attributes, preserve=self.options.preserve)

    @property
    def part_workers(self) -> int:
        """The number of workers that may help with one large transfer."""
        return self.options.part_workers or max(1, self.executor.workers)

    def share_parts(
        self, work: Callable[[Part], None], parts: Iterable[Part], *, limit: int = 0, bulky: bool = False
    ) -> None:
        """Do work over the parts of one transfer in this thread and idle workers; errors are raised here.

        ``limit`` is another number of workers than all that may help. ``bulky`` parts keep a processor busy: few begin,
        unless the user told how many.
        """
        is_told = self.options.part_workers > 0
        self.executor.share(work, parts, limit=limit or self.part_workers, bulky=bulky and not is_told)

    def check_stop(self) -> None:
        """End this transfer when the run is to end. Raises StoppedError: it is."""
        if self.stop.is_set():
            raise StoppedError("stopped before the end")

    def reader(self, source: Source, known: Known = UNKNOWN, *, span: ByteRange | None = None) -> ObjectReader:
        """Return what reads an object, or a range of it, through the thread's one buffer, until the run is to end."""
        buffer = self.local.buffer
        return ObjectReader(self.client, source, known=known, span=span, check_stop=self.check_stop, buffer=buffer)

    @contextmanager
    def metered(self, label: str, size: int) -> Iterator[Meter]:
        """Show the progress of one transfer; its bytes are taken back when it fails."""
        meter = self.progress.begin(label, size)
        ok = False
        try:
            yield meter
            ok = True
        finally:
            meter.end(ok=ok)

    def checksum_of(self, size: int) -> str:
        """Return the checksum that an object in one piece goes with: the option's, or a CRC that a server may decline.

        It spares later downloads an MD5; of less than OFFERED_BYTES that is less than loading what computes the CRC.
        """
        if self.options.checksum or size <= OFFERED_BYTES or self.client.dialect.knows(CHECKSUM_ALGORITHM):
            return self.options.checksum
        return CHEAP if has_machine_code() else ""

    def digest(self, content: bytes | bytearray, checksum: str | None = None) -> BodyDigests:
        """Return the digests of a body in memory, as the options want them."""
        checksum = self.checksum_of(len(content)) if checksum is None else checksum
        return digest_bytes(content, sign_payload=self.options.sign_payload, checksum=checksum)


class ThreadMeans(threading.local):
    """What each thread of a run keeps for itself, from one transfer to the next."""

    def __init__(self, links: str) -> None:
        self.sources = SourceFiles(links)
        self.target = LastDirectory(create=True)
        self._buffer: memoryview | None = None

    def buffer(self) -> memoryview:
        """Return the thread's one buffer; whoever asks next in this thread gets it too."""
        if self._buffer is None:
            self._buffer = memoryview(bytearray(READ_BLOCK_BYTES))
        return self._buffer


class UploadRegistry(dict[str, Callable[[], object]]):
    """How to abort the multipart uploads that are open now, by their ids; each change of it is atomic."""

    def abort_all(self, within_s: float) -> None:
        """Abort what is left, and was not ended meanwhile by its worker; wait for that no longer than a time."""
        if left := [abort for upload_id in tuple(self) if (abort := self.pop(upload_id, None))]:
            thread = threading.Thread(target=_abort_each, args=(left,), name="s3pool-abort", daemon=True)
            thread.start()
            thread.join(within_s)


def _abort_each(aborts: list[Callable[[], object]]) -> None:
    for abort in aborts:
        try:
            abort()
        except S3PoolError as exc:
            logger.warning("an unfinished upload stays behind (%s); rm --incomplete removes it", exc)


EXISTS = "it exists"
NOT_NEWER = "the source is not newer"


def why_skip(task: UploadTask | DownloadTask | CopyTask, context: TransferContext, mtime_ns: int = 0) -> Steps[str]:
    """Return why --no-clobber or --update leaves a transfer out, "" otherwise; ``mtime_ns`` is of a file to be sent."""
    if not context.is_conditional:
        return ""
    if isinstance(task, DownloadTask):
        return (yield from _why_skip_download(task, context))
    try:
        target = yield from context.client.head_object.steps(task.bucket, task.key)
    except NotFoundError as exc:
        if exc.code == "NoSuchBucket":
            raise
        return ""
    if context.options.no_clobber:
        return EXISTS
    if isinstance(task, UploadTask):
        return "" if mtime_ns > mtime_of(target) + STORED_TOLERANCE_NS else NOT_NEWER
    modified, place = task.last_modified, (task.source_bucket, task.source_key)
    if not modified:
        source = yield from context.source.client.head_object.steps(*place, version_id=task.version_id)
        modified = source.last_modified
    return "" if parse_iso_time(modified) > target.mtime else NOT_NEWER


def _why_skip_download(task: DownloadTask, context: TransferContext) -> Steps[str]:
    local = stat_below(task.root, task.relative)
    if local is None or not (context.options.no_clobber or stat.S_ISREG(local.st_mode)):
        return ""
    if context.options.no_clobber:
        return EXISTS
    # A file that s3pool wrote has the stored time, which only a HEAD tells. Last-Modified is
    # never before it in a sane world, so an older one decides without asking.
    if task.last_modified and parse_iso_time(task.last_modified) * NANO <= local.st_mtime_ns:
        return NOT_NEWER
    head = yield from context.client.head_object.steps(task.bucket, task.key, version_id=task.version_id)
    return "" if mtime_of(head) > local.st_mtime_ns + STORED_TOLERANCE_NS else NOT_NEWER
