"""Read objects in order, or spans of them, through the failure of any node."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from s3pool.errors import IntegrityError, PreconditionError, ReplacedError, TransportError, UsageError
from s3pool.location import S3Path
from s3pool.model import ByteRange, Response
from s3pool.record import dataclass
from s3pool.s3.responses import CONTENT_RANGE, PARTIAL, UNKNOWN, Known, etag_of, total_of
from s3pool.transfer.verify import StreamCheck

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20
RANGE = re.compile(r"(?:bytes=)?([0-9]{1,18})-([0-9]{0,18})|(?:bytes=)?-([0-9]{1,18})")

Take = Callable[[memoryview], bool]  # takes the next bytes, and returns whether more are wanted


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
    """Read ``0-99``, ``100-`` or ``-100``, with or without ``bytes=``.

    Raises:
        UsageError: it is none of these.
    """
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
    """Reads an object, or a span of it, in order; after a cut, continues from another node.

    ``retries`` is the number of cuts without a byte of progress that it goes on after.

    ``_place`` is the offset in the object of the next byte to write, ``_end`` the offset one behind the last.
    """

    def __init__(
        self,
        client: S3Client,
        path: S3Path,
        *,
        retries: int,
        span: Span | None = None,
        version_id: str = "",
        known: Known = UNKNOWN,
    ) -> None:
        self.path = path
        self._client = client
        self._retries = retries
        self._span = span
        self._version_id = version_id
        self._place = 0
        self._end = 0
        self._known = known
        self._check: StreamCheck | None = None

    def copy_to(self, take: Take) -> None:
        """Hand over the bytes until no more are wanted; all of them are checked at the end.

        Raises:
            IntegrityError: the object changed on the way, or the bytes are not the object's.
            TransportError: it was cut too often without a byte of progress.
        """
        try:
            response = self._open()
        except ReplacedError as exc:
            logger.info("%s; asking for it anew", exc)
            self._known = self._head()
            response = self._open()
        failures = 0
        while True:
            before = self._place
            try:
                with response:
                    if not self._drain(response, take):
                        return
                break
            except TransportError as exc:
                failures = 1 if self._place > before else failures + 1
                if failures > self._retries:
                    what = f"GetObject {self.path.text}: cut at byte {self._place}: {exc}"
                    raise type(exc)(what, endpoint=exc.endpoint, sent=exc.sent) from exc
                logger.warning("%s: cut at byte %d (%s); going on from there", self.path.text, self._place, exc)
            response = self._reopen()
        # Without a checksum or MD5 to compare the size and the ETag are asked for again.
        if self._check is not None and not self._check.check(self.path.text) and self._head() != self._known:
            raise ReplacedError(f"{self.path.text} is not what was written: its size or ETag is another one")

    def _open(self) -> Response:
        header = self._span.header if self._span else ""
        response = self._client.get_object(
            self.path.bucket,
            self.path.key,
            range_header=header,
            version_id=self._version_id,
            checksums=self._span is None,
            known=self._known,
        )
        size = total_of(response)
        self._known = Known(self._known.size if size is None else size, etag_of(response.headers))
        if response.status == PARTIAL:
            self._place, self._end = self._content_range(response)
            if self._span is not None and size is not None and self._span.within(size) != (self._place, self._end):
                response.close()
                raise IntegrityError(f"{self.path.text}: {response.endpoint} sent another range than was asked for")
            return response
        if response.length is None:
            response.close()
            raise IntegrityError(f"{self.path.text}: {response.endpoint} does not tell its length")
        size = self._end = response.length
        if self._span is None:
            self._check = StreamCheck(size, self._known.etag, response.headers)
            return response
        # A server that does not support ranges sends everything.
        first, self._end = self._span.within(size)
        self._skip_to(first, response)
        return response

    def _reopen(self) -> Response:
        """Request the rest, from another node first, if the object is still the same."""
        try:
            response = self._client.get_object(
                self.path.bucket,
                self.path.key,
                byte_range=ByteRange(self._place, self._end - 1),
                if_match=self._known.etag,
                version_id=self._version_id,
                known=self._known,
            )
        except (PreconditionError, ReplacedError) as exc:
            raise IntegrityError(f"{self.path.text} changed while it was read, at byte {self._place}") from exc
        if response.status != PARTIAL:
            target, self._place = self._place, 0
            self._skip_to(target, response)
        elif self._content_range(response)[0] != self._place:
            response.close()
            raise IntegrityError(f"{self.path.text}: {response.endpoint} sent another range than was asked for")
        return response

    def _drain(self, response: Response, take: Take) -> bool:
        for block in response.iter_blocks(BLOCK_BYTES):
            useful = block[: self._end - self._place]
            is_wanted = take(useful)
            self._place += len(useful)
            if self._check is not None:
                self._check.update(useful)
            if not is_wanted:
                return False
            if self._place >= self._end:
                break
        if self._place < self._end:
            raise TransportError(f"{response.endpoint} ended the body at byte {self._place} of {self._end}")
        return True

    def _skip_to(self, target: int, response: Response) -> None:
        buffer = memoryview(bytearray(BLOCK_BYTES))
        while self._place < target:
            count = response.readinto(buffer[: min(BLOCK_BYTES, target - self._place)])
            if not count:
                raise IntegrityError(f"{self.path.text} ended at byte {self._place}, before {target}")
            self._place += count

    def _content_range(self, response: Response) -> tuple[int, int]:
        match = CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
        if match is None:
            response.close()
            raise IntegrityError(f"{self.path.text}: {response.endpoint} sent a part without saying which")
        return int(match[1]), int(match[2]) + 1

    def _head(self) -> Known:
        head = self._client.head_object(self.path.bucket, self.path.key, version_id=self._version_id)
        return Known(head.size, head.etag)
