"""Bytes of one object off the wire, in order, going on where a connection was cut."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

from s3pool.errors import IntegrityError, ReplacedError, TransportError
from s3pool.model import ByteRange, Response
from s3pool.record import dataclass
from s3pool.s3.responses import CONTENT_RANGE, PARTIAL, UNKNOWN, Known, etag_of
from s3pool.transfer.engine import MAX_RESUMES, Engine
from s3pool.transfer.progress import Meter

logger = logging.getLogger(__name__)

Write = Callable[[memoryview], object]


class RangeIgnoredError(IntegrityError):
    """The server sent the whole object where a range was asked for."""


@dataclass(frozen=True, slots=True)
class Source:
    """One object, or one version of it, in S3."""

    bucket: str
    key: str
    version_id: str = ""

    def __str__(self) -> str:
        return f"s3/{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the answer said about the object."""

    size: int | None
    etag: str
    headers: Mapping[str, str]


def fetch_range(
    source: Source, place: ByteRange, *, total: int, etag: str, write: Write, engine: Engine, meter: Meter
) -> None:
    """Fetch one range of an object of a known size and ETag.

    Raises:
        RangeIgnoredError: the server does not do ranges.
        PreconditionError, ReplacedError: the object is not any more the one with this ETag and size.
        IntegrityError: the server sent another range than was asked for.
    """
    known = Known(total, etag)
    _Reader(source, write, engine=engine, meter=meter, known=known, first=place.first, last=place.last).run()


def fetch_whole(source: Source, *, write: Write, engine: Engine, meter: Meter, known: Known = UNKNOWN) -> Facts:
    """Fetch a whole object in order, and return what the first answer said about it.

    A connection that is cut is followed by a request for the rest, bound to the same ETag.

    Raises:
        PreconditionError, ReplacedError: the object is not, or not any more, the known one.
    """
    reader = _Reader(source, write, engine=engine, meter=meter, known=known, first=0, last=None)
    facts = reader.run()
    if facts is None:
        raise AssertionError("a reader that ended has seen an answer")
    return facts


class _Reader:
    """One pass over a range or a whole object, over as many answers as it takes."""

    def __init__(
        self,
        source: Source,
        write: Write,
        *,
        engine: Engine,
        meter: Meter,
        known: Known,
        first: int,
        last: int | None,
    ) -> None:
        self._source = source
        self._write = write
        self._engine = engine
        self._meter = meter
        self._ranged = last is not None
        self._next = first
        self._last = last
        self._facts: Facts | None = None
        self._known = known

    def run(self) -> Facts | None:
        cuts = 0
        while True:
            before = self._next
            try:
                self._read_one_answer()
                return self._facts
            except TransportError as exc:
                cuts = 0 if self._next > before else cuts + 1
                # Without an ETag the rest might be another object's.
                if cuts > MAX_RESUMES or self._engine.stop.is_set() or (self._next and not self._known.etag):
                    raise
                logger.info("%s: cut at byte %d (%s); going on from there", self._source, self._next, exc)

    def _read_one_answer(self) -> None:
        self._engine.check_stop()
        with self._ask() as response:
            skip = self._check(response)
            for block in self._blocks(response):
                rest = block[min(skip, len(block)) :]
                skip -= len(block) - len(rest)
                self._take(rest)
        self._check_end()

    def _blocks(self, response: Response) -> Iterator[memoryview]:
        """Yield the body through the thread's one buffer, as it comes in."""
        buffer = self._engine.buffer()
        while count := response.readinto(buffer):
            self._engine.check_stop()
            yield buffer[:count]

    def _take(self, block: memoryview) -> None:
        if not len(block):
            return
        if self._last is not None and self._next + len(block) > self._last + 1:
            raise ReplacedError(
                f"{self._source}: the answer goes on beyond the {self._last + 1} bytes that were asked for;"
                " the server may send compressed objects decompressed, which are not the objects"
            )
        self._write(block)
        self._next += len(block)
        self._meter.advance(len(block))

    def _ask(self) -> Response:
        source = self._source
        last = self._last if self._last is not None else None
        byte_range = None
        if self._ranged or self._next:
            if last is None:
                raise IntegrityError(f"{source}: the connection was cut, and the server never told the size")
            byte_range = ByteRange(self._next, last)
        return self._engine.client.get_object(
            source.bucket,
            source.key,
            byte_range=byte_range,
            if_match=self._known.etag if byte_range is not None else "",
            version_id=source.version_id,
            checksums=byte_range is None,
            known=self._known,
        )

    def _check(self, response: Response) -> int:
        """Hold the range of the answer against what was asked for; return how many bytes of it to skip."""
        asked_for_range = self._ranged or self._next > 0
        if not asked_for_range:
            self._note_facts(response)
            return 0
        if response.status != PARTIAL:
            if response.length is None:
                raise IntegrityError(f"{self._source}: {response.endpoint} ignores Range, and tells no size")
            if self._ranged:
                raise RangeIgnoredError(f"{self._source}: {response.endpoint} ignores Range")
            return self._next
        self._check_content_range(response)
        return 0

    def _note_facts(self, response: Response) -> None:
        if self._facts is None:
            size = self._known.size if response.length is None else response.length
            etag = etag_of(response.headers)
            self._facts = Facts(size, etag, response.headers)
            self._known = Known(size, etag)
            self._last = size - 1 if size is not None else None

    def _check_content_range(self, response: Response) -> None:
        told = response.headers.get("content-range", "")
        match = CONTENT_RANGE.fullmatch(told)
        if match is None or (int(match[1]), int(match[2])) != (self._next, self._last):
            asked = f"asked {response.endpoint} for bytes {self._next}-{self._last}"
            raise IntegrityError(f"{self._source}: {asked}, got {told or 'no Content-Range'}")

    def _check_end(self) -> None:
        if self._last is not None and self._next != self._last + 1:
            raise IntegrityError(f"{self._source}: {self._last + 1 - self._next} bytes are missing at the end")
