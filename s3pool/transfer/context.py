"""What every transfer shares: the client, the options, the workers, the word to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from s3pool.body import READ_BLOCK_BYTES, FileSlice, Sink
from s3pool.errors import S3PoolError, StoppedError
from s3pool.model import ObjectAttributes
from s3pool.record import dataclass
from s3pool.s3.part_sizes import MAX_SINGLE_PUT_BYTES, MIB
from s3pool.transfer.attributes import FileHeaders
from s3pool.transfer.part_file import PartRegistry
from s3pool.transfer.safe_path import LastDirectory, SourceFiles
from s3pool.transfer.target_names import Spellings
from s3pool.transfer.workers import BoundedExecutor

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client
    from s3pool.transfer.not_kept import NotKept
    from s3pool.transfer.resume import Memory
    from s3pool.transfer.tasks import Task

logger = logging.getLogger(__name__)

NO_ATTRIBUTES = ObjectAttributes()
MULTIPART_THRESHOLD_BYTES = 16 * MIB  # larger files go in parts
RANGES_THRESHOLD_BYTES = 32 * MIB  # larger objects come in ranges
MAX_RESUMES = 5  # how often a body may be cut without a byte of progress


# -- progress: meters are called from worker threads ------------------------------------------


class Meter(Protocol):
    """The progress of one transfer."""

    def advance(self, count: int) -> None:
        """Count bytes; a negative count takes back what must be sent again."""

    def end(self, *, ok: bool) -> None:
        """Finish; a transfer that failed takes its bytes back."""


class Progress(Protocol):
    """The progress of a run."""

    def found(self, size: int) -> None:
        """Count one more transfer that the run will make."""

    def begin(self, label: str, size: int) -> Meter:
        """Start one transfer of size bytes."""

    def whole(self, size: int) -> None:
        """Count one transfer that was made in one go."""

    def all_found(self) -> None:
        """Note that the totals will not grow any more."""


class NullMeter:
    """Count nothing."""

    def advance(self, count: int) -> None:
        """Ignore the bytes."""

    def end(self, *, ok: bool) -> None:
        """Ignore the end."""


class NullProgress:
    """Show nothing."""

    def found(self, size: int) -> None:
        """Ignore the transfer."""

    def begin(self, label: str, size: int) -> Meter:  # noqa: ARG002 - the protocol's names
        """Return a meter that counts nothing."""
        return NULL_METER

    def whole(self, size: int) -> None:
        """Ignore the transfer."""

    def all_found(self) -> None:
        """Ignore the end of the listing."""


NULL_METER = NullMeter()


class MeteredSlice:
    """A part of an open file, sent a block at a time.

    What was counted is taken back when the body is rewound for another attempt.
    """

    __slots__ = ("_check_stop", "_meter", "_sent", "_slice", "length")

    rewindable = True

    def __init__(self, part: FileSlice, meter: Meter, check_stop: Callable[[], None]) -> None:
        self._slice = part
        self._meter = meter
        self._check_stop = check_stop
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
        self.options = options or TransferOptions()
        self.executor = executor or BoundedExecutor(0)
        self.progress = progress or NullProgress()
        self.parts = PartRegistry()
        self.uploads = UploadRegistry()
        self.stop: threading.Event = source.stop if source is not None else threading.Event()
        self.why_not: Callable[[Task], str] | None = None
        self.in_question: Callable[[Task], bool] | None = None
        self.memory: Memory | None = None
        self.not_kept: NotKept | None = None  # where everything is to be kept
        self.spellings = Spellings()
        self.synced: set[tuple[str | bytes, ...]] = set()  # local directories whose names are on the disk
        self.links: dict[tuple[int, int], list[int]] = {}  # by inode: the ctimes that removals of its names made
        # Guards links, from the look at a file to its removal.
        self.links_lock = threading.Lock()
        self.local = ThreadMeans(self.options.links)
        self.file_headers = FileHeaders(self.options.attributes, preserve=self.options.preserve)

    @property
    def is_cross_pool(self) -> bool:
        """Whether copies come from another pool."""
        return self.source is not self

    @property
    def part_workers(self) -> int:
        """The number of workers that may help with one large transfer."""
        return self.options.part_workers or max(1, self.executor.workers)

    @property
    def part_workers_at_first(self) -> int:
        """How many workers begin a large transfer whose bytes cost work here; 0 for all."""
        return 0 if self.options.part_workers else self.executor.first

    @property
    def is_conditional(self) -> bool:
        """Whether a transfer is made only when its target is missing or older."""
        return self.options.no_clobber or self.options.update

    def check_stop(self) -> None:
        """End this transfer when the run is to end.

        Raises:
            StoppedError: it is.
        """
        if self.stop.is_set():
            raise StoppedError("stopped before the end")


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


class UploadRegistry:
    """How to abort the multipart uploads that are open now."""

    def __init__(self) -> None:
        # Guards the map; aborting happens outside of it.
        self._lock = threading.Lock()
        self._open: dict[str, Callable[[], None]] = {}

    def add(self, upload_id: str, abort: Callable[[], None]) -> None:
        """Remember an upload that was created."""
        with self._lock:
            self._open[upload_id] = abort

    def drop(self, upload_id: str) -> None:
        """Forget an upload that was completed or aborted."""
        with self._lock:
            self._open.pop(upload_id, None)

    def abort_all(self, within_s: float) -> None:
        """Abort what is left, and wait for that no longer than a time."""
        with self._lock:
            left = list(self._open.values())
            self._open.clear()
        if left:
            thread = threading.Thread(target=_abort_each, args=(left,), name="s3pool-abort", daemon=True)
            thread.start()
            thread.join(within_s)


def _abort_each(aborts: list[Callable[[], None]]) -> None:
    for abort in aborts:
        try:
            abort()
        except S3PoolError as exc:
            logger.warning("an unfinished upload stays behind (%s); rm --incomplete removes it", exc)
