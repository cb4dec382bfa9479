"""An aws-chunked body put into chunks of our own, so that its length is known before it is read.

Clients that send Transfer-Encoding: chunked around aws-chunked say how long the content is,
but not how long its framing is, and nodes want a Content-Length.
"""

from __future__ import annotations

from s3pool.proxy.checksum import CHARACTERS, CHECKSUM_PREFIX
from s3pool.proxy.chunked import AwsChunkedReader

CHUNK_BYTES = 1 << 20  # what boto3 sends


class Reframed:
    """The framed bytes of what a reader gives; ``length`` is their number."""

    def __init__(self, content: AwsChunkedReader, *, length: int, trailer: str) -> None:
        self._content = content
        self._left = length  # content that is still to be framed
        self._chunk_left = 0
        self._trailer = trailer
        self._line = b""  # framing that is to be given next
        self._is_ended = False
        self.length = framed_length(length, trailer)

    def readinto(self, view: memoryview) -> int:
        """Fill part of the buffer; 0 at the end.

        Raises:
            Denial: the content is not what was announced.
        """
        if not self._line and not self._chunk_left:
            self._next_line()
        if self._line:
            count = min(len(self._line), len(view))
            view[:count] = self._line[:count]
            self._line = self._line[count:]
            return count
        if not self._chunk_left:
            return 0
        count = self._content.readinto(view[: self._chunk_left])
        self._chunk_left -= count
        self._left -= count
        if not self._chunk_left:
            self._line = b"\r\n"
        return count

    def _next_line(self) -> None:
        if self._is_ended:
            return
        self._chunk_left = min(self._left, CHUNK_BYTES)
        if self._chunk_left:
            self._line = b"%x\r\n" % self._chunk_left
            return
        self._is_ended = True
        if not self._content.is_done:  # an empty body has only an end
            self._content.readinto(memoryview(bytearray(1)))
        self._line = b"0\r\n"
        if self._trailer:
            self._line += f"{self._trailer}:{self._content.checksum}\r\n".encode()
        self._line += b"\r\n"


def framed_length(length: int, trailer: str) -> int:
    """Return the size of a content with its framing; the trailer is a checksum of S3's, or empty."""
    whole, rest = divmod(length, CHUNK_BYTES)
    total = length + whole * (len(b"%x" % CHUNK_BYTES) + 4) + ((len(b"%x" % rest) + 4) if rest else 0)
    if not trailer:
        return total + len(b"0\r\n\r\n")
    size = CHARACTERS[trailer.removeprefix(CHECKSUM_PREFIX)]
    return total + len(b"0\r\n:\r\n\r\n") + len(trailer) + size
