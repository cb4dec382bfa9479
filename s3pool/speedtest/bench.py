"""A speed test: four phases on the pool and on single nodes, the bytes that they send, and three ways to list."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from s3pool.body import EMPTY_BODY, Body, BytesBody, Sink
from s3pool.errors import (
    AccessDeniedError,
    NotFoundError,
    ProtocolError,
    S3Error,
    S3PoolError,
    StoppedError,
    TransportError,
)
from s3pool.location import S3Path
from s3pool.model import UNSIGNED_PAYLOAD, Endpoint, ListMode, ListPage, Response
from s3pool.record import dataclass, replace
from s3pool.s3.client import S3Client
from s3pool.s3.key_ranges import CAUTIOUS_JOBS
from s3pool.s3.list_all import list_objects, list_pages, list_versions, on_one_node
from s3pool.speedtest.measure import (
    Measurement,
    NothingLeftError,
    Observer,
    Samples,
    Work,
    Workload,
    result_of,
    rows_of,
    total_of,
)
from s3pool.transfer.context import TransferContext
from s3pool.transfer.executor import BoundedExecutor
from s3pool.transfer.runner import run_deletes
from s3pool.transfer.tasks import DeleteTask, Outcome

UPLOAD, DOWNLOAD, LIST, DELETE = PHASES = ("upload", "download", "list", "delete")
MARK = ".s3pool-speedtest-"  # begins the name of every prefix of ours
NAME_BYTES = 6
NUMBER_DIGITS = 8
MAX_OBJECTS = 200_000  # then names are used again, so that neither memory nor the store runs full
READ_BYTES = 1 << 18  # one reused buffer of this size for each lane
DELETERS = 4  # batches under way at once
BASE_BYTES = 1 << 20  # of randomness, from the operating system; everything else is made of it
PIECE_BYTES = 1 << 18  # what is in memory of one body at a time
STAMP_BYTES = 16
TABLES = 64  # so many pieces pass until a substitution comes again: 16 MiB, far beyond a compressor's view
BYTE_VALUES = 256
OFFSET_STEP = 4093  # a prime: the pieces of objects begin at ever other places of the base
ONE, ROTATION, PARALLEL = "one connection", "rotation", "parallel"


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What to do. Duration is that of each run, in seconds; size in bytes."""

    duration_s: float
    size: int
    concurrency: int
    phases: tuple[str, ...] = PHASES
    alone: tuple[Endpoint, ...] = ()  # the nodes that are tested one by one as well
    left_out: tuple[tuple[str, str], ...] = ()  # nodes that are not, and why


def new_prefix(path: S3Path) -> S3Path:
    """Return a new, unused prefix below a path."""
    return path.join(f"{MARK}{os.urandom(NAME_BYTES).hex()}/")


class Bench:
    """One speed test below one prefix; it writes there and nowhere else.

    The client must send through the observer. ``stop`` ends it from outside; whoever runs it cleans up afterwards.
    """

    def __init__(
        self, client: S3Client, observer: Observer, place: S3Path, *, plan: BenchPlan, endpoints: Sequence[Endpoint]
    ) -> None:
        self._client, self._observer = client, observer
        self._place, self._plan = place, plan
        self._endpoints = tuple(map(str, endpoints))
        self.stop = threading.Event()
        self.lost = 0  # requests that were never answered: what they do may come later
        self._source = RandomSource(plan.size, check=self._check)
        # Guards the next number; held for one addition.
        self._lock = threading.Lock()
        self._next = 0
        self._stored: dict[int, None] = {}  # the numbers of what is there
        self._load: Workload | None = None
        self._buffers: dict[int, memoryview] = {}

    def phases(self) -> Iterator[tuple[str, tuple[Measurement, ...]]]:
        """Run phase after phase, and give the rows of each when it is over.

        Raises S3PoolError: not one object could be stored; there is nothing to go on with.
        """
        for phase in self._plan.phases:
            if phase == UPLOAD or self._stored:
                yield phase, tuple(self._rows(phase))

    def _rows(self, phase: str) -> Iterator[Measurement]:
        targets: list[Endpoint | None] = [None, *self._plan.alone]
        stored = list(self._stored)
        for index, only in enumerate(targets):
            # What one run deletes is gone for the next: each gets a part of its own.
            numbers = stored[index :: len(targets)] if phase == DELETE else stored
            act = self._operation(phase, only, numbers)
            load, seconds = self._run(act)
            if only is None:
                yield from rows_of(load.tallies, phase, endpoints=self._endpoints, seconds=seconds)
                if phase == UPLOAD and not load.succeeded and load.first_error is not None:
                    raise load.first_error
            else:
                yield result_of(total_of(load.tallies), phase, endpoint=str(only), alone=True, seconds=seconds)
        for endpoint, why in self._plan.left_out:
            yield result_of(Samples(why), phase, endpoint=endpoint, alone=True, seconds=0.0)

    def _run(self, act: Callable[[int], Work]) -> tuple[Workload, float]:
        load = Workload(
            act, self._observer, concurrency=self._plan.concurrency, duration_s=self._plan.duration_s, stop=self.stop
        )
        self._load = load
        try:
            return load, load.run()
        finally:
            self.lost += load.alive

    # -- operations ------------------------------------------------------------------------

    def _operation(self, phase: str, only: Endpoint | None, numbers: Sequence[int]) -> Callable[[int], Work]:
        if phase == UPLOAD:
            return lambda _: self._upload(only)
        if phase == DOWNLOAD:
            return lambda lane: self._download(lane, random.choice(numbers), only)
        if phase == LIST:
            return lambda _: self._list(only)
        left = iter(numbers)
        return lambda _: self._delete(left, only)

    def key(self, number: int) -> str:
        """Return the key of an object."""
        return f"{self._place.key}{number:0{NUMBER_DIGITS}}"

    def _upload(self, only: Endpoint | None) -> Work:
        with self._lock:
            number = self._next % MAX_OBJECTS
            self._next += 1
        # The bytes mean nothing to anybody: their digest would only measure this machine.
        self._client.put_object(
            self._place.bucket, self.key(number), self._source.body(number), payload_hash=UNSIGNED_PAYLOAD, only=only
        )
        self._stored[number] = None
        return Work(self._plan.size, 1)

    def _download(self, lane: int, number: int, only: Endpoint | None) -> Work:
        with self._client.get_object(self._place.bucket, self.key(number), only=only) as response:
            count = self._drain(response, self._buffer(lane))
        if count != self._plan.size:
            endpoint = str(response.endpoint)
            message = f"GetObject {self._place.bucket}/{self.key(number)} at {endpoint}: {count} bytes came"
            raise ProtocolError(f"{message}, {self._plan.size} were stored", endpoint=endpoint)
        return Work(count, 1)

    def _buffer(self, lane: int) -> memoryview:
        if lane not in self._buffers:
            self._buffers[lane] = memoryview(bytearray(max(1, min(READ_BYTES, self._plan.size))))
        return self._buffers[lane]

    def _drain(self, response: Response, buffer: memoryview) -> int:
        total = 0
        while count := response.readinto(buffer):
            total += count
            self._check()
        return total

    def _check(self) -> None:
        """Take notice that bytes moved, and end this transfer when the test is to end."""
        if self.stop.is_set():
            raise StoppedError("stopped before the end")
        if self._load is not None:
            self._load.moved()

    def _list(self, only: Endpoint | None) -> Work:
        page = self._client.list_objects_page(self._place.bucket, prefix=self._place.key, only=only)
        self._client.lists.add_listing(len(page.objects))
        return Work(0, len(page.objects))

    def _delete(self, left: Iterator[int], only: Endpoint | None) -> Work:
        with self._lock:
            number = next(left, None)
        if number is None:
            raise NothingLeftError
        self._client.delete_object(self._place.bucket, self.key(number), only=only)
        self._stored.pop(number, None)
        return Work(0, 1)


def check_bucket(client: S3Client, bucket: str) -> None:
    """See to it that the bucket is there, before anything is measured.

    Raises NotFoundError: it is not. S3PoolError: nobody can say.
    """
    try:
        client.head_bucket(bucket)
    except NotFoundError as exc:
        exc.is_of_target = True
        raise
    except AccessDeniedError:
        # A key may be allowed to write below a prefix and nothing else.
        return


@dataclass(frozen=True, slots=True)
class PrefixRemoval:
    """What was removed, and what could not be. ``error`` is the last reason, or nothing.

    ``versioned`` says that the bucket keeps versions, which a plain removal only hides.
    """

    removed: int = 0
    failed: int = 0
    error: str = ""
    versioned: bool = False


def remove_all(client: S3Client, place: S3Path) -> PrefixRemoval:
    """Remove every object, version and marker below a place; failures are told, not raised."""
    versioned = _has_versions(client, place.bucket)
    error = ""

    def note(outcome: Outcome) -> None:
        nonlocal error
        error = _why(outcome.error) if outcome.error is not None else error

    found = (list_versions if versioned else list_objects)(client, place.bucket, prefix=place.key)
    context = TransferContext(client, executor=BoundedExecutor(DELETERS))
    try:
        removals = (DeleteTask(place.bucket, info.key, info.version_id) for info in found)
        summary = run_deletes(removals, context, on_outcome=note, is_fatal=lambda _: False)
    finally:
        context.executor.close()
    error = error or (_why(summary.stopped_by) if summary.stopped_by is not None else "")
    return PrefixRemoval(summary.deleted, summary.failed, error, versioned)


def _has_versions(client: S3Client, bucket: str) -> bool:
    try:
        return bool(client.get_versioning(bucket))
    except S3PoolError:
        # Not every server knows the question, and not every key may ask it.
        return False


def _why(error: Exception) -> str:
    return f"{error.code} {error.detail}".strip() if isinstance(error, S3Error) and error.detail else str(error)


def describe(removal: PrefixRemoval, place: S3Path, *, lost: int = 0) -> Sequence[str]:
    """Return what could not be removed and how to remove it; nothing when all is clean."""
    versions = " --versions" if removal.versioned else ""
    advice = f"s3pool rm -r{versions} --force {place.text} removes what is there"
    words = []
    if removal.failed:
        words.append(f"objects of the test that could not be removed: {removal.failed}: {removal.error}; {advice}")
    elif removal.error:
        words.append(f"what the test left could not be listed: {removal.error}; {advice}")
    if lost:
        words.append(f"requests of the test that were not answered and may still store something: {lost}; {advice}")
    return words


# -- what is sent --------------------------------------------------------------------------


class RandomSource:
    """Makes bodies of one size; the same number always gives the same bytes.

    Small ones are a part of the base, at a place of their own. Large ones are made piece by piece while they are sent;
    each piece is written with another substitution of bytes, so that no two of them have anything in common. All begin
    with a stamp of their own. ``check`` is called before each piece; what it raises ends the sending.
    """

    def __init__(self, size: int, *, check: Callable[[], None] = lambda: None) -> None:
        self.size = size
        self._check = check
        self._base = os.urandom(BASE_BYTES)
        count = TABLES if size > PIECE_BYTES else 0
        self._tables = [bytes(random.sample(range(BYTE_VALUES), BYTE_VALUES)) for _ in range(count)]

    def body(self, number: int) -> Body:
        """Return the body of object ``number``; it can be sent again."""
        if not self.size:
            return EMPTY_BODY
        if self.size <= PIECE_BYTES:
            return BytesBody(self._plain(number, self.size))
        return GeneratedBody(lambda index, count: self.piece(number, index=index, count=count), self.size, self._check)

    def piece(self, number: int, *, index: int, count: int) -> bytes:
        """Return ``count`` bytes of a large body, from the piece with this index."""
        table = self._tables[(number + index) % TABLES]
        return self._plain(number * TABLES + index, count).translate(table)

    def _plain(self, number: int, count: int) -> bytes:
        stamp = (number.to_bytes(STAMP_BYTES // 2, "big") + self._base[: STAMP_BYTES // 2])[:count]
        start = number * OFFSET_STEP % (BASE_BYTES - PIECE_BYTES)
        return stamp + self._base[start + len(stamp) : start + count]


class GeneratedBody:
    """A body that is made while it is sent, piece by piece."""

    __slots__ = ("_check", "_piece", "length")

    rewindable = True

    def __init__(self, piece: Callable[[int, int], bytes], length: int, check: Callable[[], None]) -> None:
        self._piece = piece
        self._check = check
        self.length = length

    def rewind(self) -> None:
        """Stay where it is: every sending makes the pieces anew."""

    def send(self, sink: Sink) -> None:
        """Write all pieces, unless the check raises: a server keeps nothing of a cut body."""
        for index, start in enumerate(range(0, self.length, PIECE_BYTES)):
            self._check()
            sink.write(self._piece(index, min(PIECE_BYTES, self.length - start)))


# -- ways to list --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way:
    """How one way of listing did. ``complete`` says that it came to the end in time.

    ``factor`` is how many times faster it was than the first way; ``endpoint`` is where one connection went, ``jobs``
    the number of requests at once, 0 when the listing chose; ``requests`` were made for it in all.
    """

    name: str
    objects: int
    pages: int
    seconds: float
    complete: bool
    factor: float = 1.0
    endpoint: str = ""
    jobs: int = 1
    requests: int = 0

    @property
    def objects_per_s(self) -> float:
        """Return objects a second."""
        return self.objects / self.seconds if self.seconds else 0.0


def compare_listings(
    client: S3Client,
    path: S3Path,
    *,
    endpoints: Sequence[Endpoint],
    jobs: Sequence[int],
    limit_s: float,
    drop_idle: Callable[[], None] = lambda: None,
) -> Iterator[Way]:
    """List a prefix in one way after the other, each for at most ``limit_s`` seconds.

    The ways are one connection to the first node that answers, rotation, and one parallel listing for each of ``jobs``.
    ``drop_idle`` closes kept connections before each: where connections are throttled a way would have to wait for what
    the one before it did.

    Raises S3PoolError: the prefix cannot be listed.
    """
    first = _on_one_node(client, path, endpoints=endpoints, limit_s=limit_s)
    yield first

    def measured(name: str, pages: Iterable[ListPage], *, jobs: int = 1) -> Way:
        drop_idle()
        way = _measure(client, name, pages, limit_s=limit_s, jobs=jobs)
        return replace(way, factor=way.objects_per_s / first.objects_per_s if first.objects_per_s else 0.0)

    ahead = client.begin_objects_page
    yield measured(ROTATION, list_pages(client, path.bucket, prefix=path.tree_prefix, ahead=ahead))
    for number in jobs:
        mode = ListMode(number, ordered=False, most_jobs=CAUTIOUS_JOBS)
        yield measured(PARALLEL, list_pages(client, path.bucket, prefix=path.tree_prefix, mode=mode), jobs=number)


def _on_one_node(client: S3Client, path: S3Path, *, endpoints: Sequence[Endpoint], limit_s: float) -> Way:
    """List on the first node that lives, over the one connection that the pool keeps to it."""
    for endpoint in endpoints:
        pages = list_pages(on_one_node(client, endpoint), path.bucket, prefix=path.tree_prefix)
        try:
            return _measure(client, ONE, pages, limit_s=limit_s, endpoint=str(endpoint))
        except TransportError:
            if endpoint is endpoints[-1]:
                raise
    raise ValueError("a pool without endpoints")


def _measure(
    client: S3Client, name: str, pages: Iterable[ListPage], *, limit_s: float, endpoint: str = "", jobs: int = 1
) -> Way:
    started, before = time.monotonic(), client.lists.requests
    objects = count = 0
    complete = True
    for page in pages:
        objects += len(page.objects)
        count += 1
        if page.truncated and time.monotonic() - started >= limit_s:
            complete = False
            break
    seconds, requests = time.monotonic() - started, client.lists.requests - before
    return Way(name, objects, count, seconds, complete, endpoint=endpoint, jobs=jobs, requests=requests)
