"""Bytes of one object off the wire, in order, going on where a connection was cut."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

from s3pool.errors import IntegrityError, ReplacedError, TransportError
from s3pool.model import ByteRange, Response
from s3pool.record import dataclass
from s3pool.s3.exchange import Steps, block_on
from s3pool.s3.responses import CONTENT_RANGE, PARTIAL, UNKNOWN, Known, etag_of
from s3pool.transfer.context import MAX_RESUMES, Meter, TransferContext

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
    source: Source, place: ByteRange, *, total: int, etag: str, write: Write, context: TransferContext, meter: Meter
) -> None:
    """Fetch one range of an object of a known size and ETag, in this thread.

    Raises:
        RangeIgnoredError: the server does not do ranges.
        PreconditionError, ReplacedError: the object is not any more the one with this ETag and size.
        IntegrityError: the server sent another range than was asked for.
    """
    block_on(Fetch(source, context=context, known=Known(total, etag), place=place).read(write, meter))


def fetch_whole(
    source: Source, *, write: Write, context: TransferContext, meter: Meter, known: Known = UNKNOWN
) -> Facts:
    """Fetch a whole object in order, in this thread, and return what the first answer said about it.

    A connection that is cut is followed by a request for the rest, bound to the same ETag.

    Raises:
        PreconditionError, ReplacedError: the object is not, or not any more, the known one.
    """
    return block_on(Fetch(source, context=context, known=known).read(write, meter))


class Fetch:
    """One pass over a whole object, or a range of it, over as many answers as it takes."""

    def __init__(
        self, source: Source, *, context: TransferContext, known: Known, place: ByteRange | None = None
    ) -> None:
        self._source = source
        self._context = context
        self._ranged = place is not None
        self._next = place.first if place is not None else 0
        self._last = place.last if place is not None else None
        self._facts: Facts | None = None
        self._known = known

    @property
    def facts(self) -> Facts:
        """What the first answer said about the whole object."""
        if self._facts is None:
            return Facts(self._known.size, self._known.etag, {})
        return self._facts

    def read(self, write: Write, meter: Meter, first: Response | None = None) -> Steps[Facts]:
        """Read the content, from the ``first`` response on if there is one, and ask again where it is cut.

        It blocks while bytes come in.
        """
        cuts = 0
        response = first
        while True:
            before = self._next
            try:
                if response is None:
                    response = yield from self.ask()
                with response:
                    self._read_answer(response, write, meter)
                break
            except TransportError as exc:
                response = None
                cuts = 0 if self._next > before else cuts + 1
                # Without an ETag the rest might be another object's.
                if cuts > MAX_RESUMES or self._context.stop.is_set() or (self._next and not self._known.etag):
                    raise
                logger.info("%s: cut at byte %d (%s); going on from there", self._source, self._next, exc)
        if self._last is not None and self._next != self._last + 1:
            raise IntegrityError(f"{self._source}: {self._last + 1 - self._next} bytes are missing at the end")
        return self.facts

    def _read_answer(self, response: Response, write: Write, meter: Meter) -> None:
        skip = self._check(response)
        for block in self._blocks(response):
            rest = block[min(skip, len(block)) :]
            skip -= len(block) - len(rest)
            if self._last is not None and self._next + len(rest) > self._last + 1 and len(rest):
                raise ReplacedError(
                    f"{self._source}: the answer goes on beyond the {self._last + 1} bytes that were asked for;"
                    " the server may send compressed objects decompressed, which are not the objects"
                )
            if len(rest):
                write(rest)
                self._next += len(rest)
                meter.advance(len(rest))

    def _blocks(self, response: Response) -> Iterator[memoryview]:
        """Yield the body through the thread's one buffer, as it comes in."""
        if response.body is not None:
            yield memoryview(response.body)
            return
        buffer = self._context.local.buffer()
        while count := response.readinto(buffer):
            self._context.check_stop()
            yield buffer[:count]

    def ask(self, *, read_bytes: int = 0) -> Steps[Response]:
        """Ask for what has not come yet; a body of up to ``read_bytes`` is read already."""
        self._context.check_stop()
        source = self._source
        byte_range = None
        if self._ranged or self._next:
            if self._last is None:
                raise IntegrityError(f"{source}: the connection was cut, and the server never told the size")
            byte_range = ByteRange(self._next, self._last)
        return self._context.client.get_object.steps(
            source.bucket,
            source.key,
            byte_range=byte_range,
            if_match=self._known.etag if byte_range is not None else "",
            version_id=source.version_id,
            checksums=byte_range is None,
            known=self._known,
            read_bytes=read_bytes,
        )

    def _check(self, response: Response) -> int:
        """Hold the range of the answer against what was asked for; return how many bytes of it to skip."""
        if not (self._ranged or self._next):
            if self._facts is None:
                size = self._known.size if response.length is None else response.length
                self._facts = Facts(size, etag_of(response.headers), response.headers)
                self._known = Known(size, self._facts.etag)
                self._last = size - 1 if size is not None else None
            return 0
        if response.status != PARTIAL:
            if response.length is None:
                raise IntegrityError(f"{self._source}: {response.endpoint} ignores Range, and tells no size")
            if self._ranged:
                raise RangeIgnoredError(f"{self._source}: {response.endpoint} ignores Range")
            return self._next
        told = response.headers.get("content-range", "")
        match = CONTENT_RANGE.fullmatch(told)
        if match is None or (int(match[1]), int(match[2])) != (self._next, self._last):
            asked = f"asked {response.endpoint} for bytes {self._next}-{self._last}"
            raise IntegrityError(f"{self._source}: {asked}, got {told or 'no Content-Range'}")
        return 0
