"""Read one object, or a span of it, in order, over as many answers of as many nodes as it takes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from s3pool.body import READ_BLOCK_BYTES
from s3pool.errors import IntegrityError, PreconditionError, ReplacedError, TransportError, UsageError
from s3pool.model import ByteRange, Response
from s3pool.record import dataclass
from s3pool.s3.operation import Steps, block_on
from s3pool.s3.responses import PARTIAL, UNKNOWN, Known, etag_of, range_of, total_of
from s3pool.transfer.digests import StreamCheck

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client

logger = logging.getLogger(__name__)

MAX_RESUMES = 5  # how often a body may be cut without a byte of progress
RANGE = re.compile(r"(?:bytes=)?([0-9]{1,18})-([0-9]{0,18})|(?:bytes=)?-([0-9]{1,18})")

Take = Callable[[memoryview], object]  # takes the next bytes; False: no more are wanted


class RangeIgnoredError(IntegrityError):
    """The server sent the whole object where a range was asked for."""


class Source(NamedTuple):
    """One object, or one version of it, in S3."""

    bucket: str
    key: str
    version_id: str = ""

    def __str__(self) -> str:
        return f"s3/{self.bucket}/{self.key}"


class Facts(NamedTuple):
    """What an answer said about the whole object."""

    size: int | None
    etag: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Span:
    """What --range asks for: first to last byte, the rest from first, or the last ``suffix`` ones."""

    first: int = 0
    last: int | None = None
    suffix: int | None = None

    @property
    def header(self) -> str:
        """Return the value of a Range header."""
        if self.suffix is not None:
            return f"bytes=-{self.suffix}"
        return f"bytes={self.first}-{'' if self.last is None else self.last}"

    def within(self, size: int) -> tuple[int, int]:
        """Return the first byte and the end (exclusive) of the span in an object of ``size`` bytes."""
        if self.suffix is not None:
            return max(0, size - self.suffix), size
        return min(self.first, size), size if self.last is None else min(self.last + 1, size)


def parse_range(text: str) -> Span:
    """Read ``0-99``, ``100-`` or ``-100``, with or without ``bytes=``. Raises UsageError: it is none of these."""
    match = RANGE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"bad range {text!r}: write 0-99, 100- or -100")
    if match[3] is not None:
        if not int(match[3]):  # servers differ here: an error on AWS, the whole object on RGW
            raise UsageError(f"bad range {text!r}: it asks for no byte")
        return Span(suffix=int(match[3]))
    span = Span(int(match[1]), int(match[2]) if match[2] else None)
    if span.last is not None and span.last < span.first:
        raise UsageError(f"bad range {text!r}: it ends before it begins")
    return span


class ObjectReader:
    """Reads an object, or a span of it, in order; lives in one thread at a time.

    Nothing need be known of the object: the first answer tells its size, in ``facts``, and the ETag that all others
    must have. After a cut the rest is asked for, of another node first, unless ``retries`` cuts brought no byte. A
    server that does no ranges must not be asked for a ByteRange; a Span is then cut out of the whole.
    """

    def __init__(
        self,
        client: S3Client,
        source: Source,
        *,
        known: Known = UNKNOWN,
        span: Span | ByteRange | None = None,
        retries: int = MAX_RESUMES,
        check_stop: Callable[[], None] = lambda: None,
        buffer: Callable[[], memoryview] = lambda: memoryview(bytearray(READ_BLOCK_BYTES)),
    ) -> None:
        self.source = source
        self.facts = Facts(known.size, known.etag, {})
        self._client, self._known, self._span, self._retries = client, known, span, retries
        self._check_stop, self._buffer = check_stop, buffer
        self._place: tuple[int, int | None] | None = None  # first byte and end (exclusive), once an answer told them
        self._next = 0  # the offset in the object of the next byte

    def ask(self, *, read_bytes: int = 0) -> Steps[Response]:
        """Ask for what has not come yet; a body of up to ``read_bytes`` is read already.

        Raises PreconditionError, ReplacedError: the object is not, or not any more, the known one.
        """
        self._check_stop()
        span = self._span
        if self._place is not None and (span is not None or self._next):
            if (end := self._place[1]) is None:
                raise IntegrityError(f"{self.source}: the connection was cut, and the server never told the size")
            span = ByteRange(self._next, end - 1)
        is_exact = isinstance(span, ByteRange)
        return self._client.get_object.steps(
            self.source.bucket,
            self.source.key,
            byte_range=span if isinstance(span, ByteRange) else None,
            range_header="" if is_exact or span is None else span.header,
            if_match=self._known.etag if is_exact else "",
            version_id=self.source.version_id,
            checksums=span is None,
            known=self._known,
            read_bytes=read_bytes,
        )

    def read(self, take: Take, first: Response | None = None) -> Steps[bool]:
        """Hand over the bytes, from the ``first`` response on if there is one; return whether all were wanted.

        It blocks while bytes come in.

        Raises RangeIgnoredError: the server does not do ranges. PreconditionError, ReplacedError: the object is not any
        more the one of the first answer. IntegrityError: the server sent another range than was asked for.
        """
        cuts, response = 0, first
        while True:
            before = self._next
            try:
                if response is None:
                    response = yield from self.ask()
                with response:
                    return self._drain(response, take)
            except TransportError as exc:
                response = None
                cuts = 1 if self._next > before else cuts + 1
                # Without an ETag the rest might be another object's.
                if cuts > self._retries or (self._has_begun and not self._known.etag):
                    raise
                logger.info("%s: cut at byte %d (%s); going on from there", self.source, self._next, exc)

    def copy_to(self, take: Take, *, verify: bool = True) -> None:
        """Hand over the bytes as they come until no more are wanted; all of them are checked at the end.

        Raises IntegrityError: the object changed on the way, or the bytes are not the object's. TransportError: it was
        cut too often without a byte of progress.
        """
        try:
            first = block_on(self.ask())
        except ReplacedError as exc:
            logger.info("%s; asking for it anew", exc)
            self._known = self._head()
            first = block_on(self.ask())
        size = total_of(first)
        if first.length is None:
            first.close()
            raise IntegrityError(f"{self.source}: {first.endpoint} does not tell its length")
        check = None
        if verify and self._span is None:
            check = StreamCheck(size or 0, etag_of(first.headers), first.headers)

        def pass_on(block: memoryview) -> object:
            if check is not None:
                check.update(block)
            return take(block)

        try:
            is_whole = block_on(self.read(pass_on, first))
        except TransportError as exc:
            what = f"GetObject {self.source}: cut at byte {self._next}: {exc}"
            raise type(exc)(what, endpoint=exc.endpoint, sent=exc.sent) from exc
        except (PreconditionError, ReplacedError) as exc:
            raise IntegrityError(f"{self.source} changed while it was read, at byte {self._next}") from exc
        # Without a checksum or MD5 to compare the size and the ETag are asked for again.
        if is_whole and check is not None and not check.check(self.source) and self._head() != self._known:
            raise ReplacedError(f"{self.source} is not what was written: its size or ETag is another one")

    def _head(self) -> Known:
        head = self._client.head_object(self.source.bucket, self.source.key, version_id=self.source.version_id)
        return Known(head.size, head.etag)

    @property
    def _has_begun(self) -> bool:
        return self._place is not None and self._next > self._place[0]

    def _drain(self, response: Response, take: Take) -> bool:
        skip = self._check(response)
        if self._known.etag:
            response.may_break_off()
        end = self._place[1] if self._place is not None else None
        for block in self._blocks(response):
            rest = block[min(skip, len(block)) :]
            skip -= len(block) - len(rest)
            if end is not None and self._next + len(rest) > end and len(rest):
                if self._span is None or response.status == PARTIAL:
                    raise ReplacedError(
                        f"{self.source}: the answer goes on beyond the {end} bytes that were asked for;"
                        " the server may send compressed objects decompressed, which are not the objects"
                    )
                rest = rest[: end - self._next]  # of a server that sent the whole
            if len(rest):
                is_wanted = take(rest) is not False
                self._next += len(rest)
                if not is_wanted:
                    return False
            if self._next == end and response.status != PARTIAL and self._span is not None:
                break
        if end is not None and self._next < end:
            raise TransportError(f"{response.endpoint} ended the body at byte {self._next} of {end}")
        return True

    def _blocks(self, response: Response) -> Iterator[memoryview]:
        if response.body is not None:
            yield memoryview(response.body)
            return
        buffer = self._buffer()
        while count := response.readinto(buffer):
            self._check_stop()
            yield buffer[:count]

    def _check(self, response: Response) -> int:
        """Hold the range of an answer against what was asked for; return how many bytes of it to skip."""
        told = range_of(response, self.source) if response.status == PARTIAL else None
        if self._place is None:
            size = total_of(response)
            size = self._known.size if size is None else size
            self.facts = Facts(size, etag_of(response.headers), response.headers)
            self._known = Known(size, self.facts.etag)
            self._place = self._wanted(size, told)
            self._next = self._place[0]
            wanted = self._place
        else:
            wanted = self._next, self._place[1]
        if told is None:
            if isinstance(self._span, ByteRange):
                raise RangeIgnoredError(f"{self.source}: {response.endpoint} ignores Range")
            if wanted[0] and response.length is None:
                raise IntegrityError(f"{self.source}: {response.endpoint} ignores Range, and tells no size")
            return wanted[0]
        if told != wanted:
            got = response.headers["content-range"]
            asked = f"asked {response.endpoint} for bytes {wanted[0]}-{(wanted[1] or 0) - 1}"
            raise IntegrityError(f"{self.source}: {asked}, got {got}")
        return 0

    def _wanted(self, size: int | None, told: tuple[int, int] | None) -> tuple[int, int | None]:
        if isinstance(self._span, ByteRange):
            return self._span.first, self._span.last + 1
        if self._span is None:
            return 0, size
        return self._span.within(size) if size is not None else told or (0, None)
