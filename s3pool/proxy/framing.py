"""How request bodies are framed: by Content-Length, in HTTP's chunked coding, and in aws-chunked with its signatures.

All give through ``readinto`` the bytes that are meant to be stored; nothing of a signed chunk is given before its
signature held.

Source: RFC 9112 section 7.1; Amazon S3 API Reference, "Signature calculations: transferring
payload in multiple chunks" and "... including trailing headers".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable

from s3pool.body import CHECKSUM_PREFIX, EMPTY_SHA256, Hasher, new_hasher
from s3pool.proxy.auth import Seed
from s3pool.proxy.errors import S3ErrorResponse, malformed, slow_down
from s3pool.proxy.limits import ByteBudget
from s3pool.proxy.request import FIELD_LINE, RequestHead
from s3pool.proxy.stream import ClientStream
from s3pool.s3.signing import signature

# Characters of each checksum in base64.
CHARACTERS = {
    **dict.fromkeys(("crc32", "crc32c"), 8),
    **dict.fromkeys(("crc64nvme", "xxhash64", "xxhash3"), 12),
    **dict.fromkeys(("md5", "xxhash128"), 24),
    "sha1": 28,
    "sha256": 44,
    "sha512": 88,
}
UNKNOWN_HERE = frozenset({"xxhash64", "xxhash3", "xxhash128"})  # which nothing that is installed computes


def checksum_for(header: str) -> Hasher | None:
    """Return a hasher for a checksum header, None where only the node has it. Raises S3ErrorResponse: it is none."""
    name = header.removeprefix(CHECKSUM_PREFIX)
    if name not in CHARACTERS or not header.startswith(CHECKSUM_PREFIX):
        detail = "The value specified in the x-amz-trailer header is not supported"
        raise S3ErrorResponse(400, "InvalidRequest", detail, closes=True)
    return None if name in UNKNOWN_HERE else new_hasher(name)


MAX_LINE_BYTES = 4096
MAX_CHUNK_BYTES = 16 << 20  # a signed chunk is kept whole until its signature is known
MAX_TRAILER_BYTES = 8192
FIRST_CHUNK_BYTES = 16 * 1024  # doubled whenever it is full
FREE_BYTES = 64 * 1024  # of a connection's buffers that are not counted
BLOCK_BYTES = 64 * 1024
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]{0,256})?")
AWS_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;chunk-signature=([0-9a-f]{64}))?")
TRAILER_SIGNATURE = "x-amz-trailer-signature"
TRAILER_FIELD = re.compile(rb"([A-Za-z0-9-]{1,64})[ \t]*:[ \t]*([\x21-\x7e]*)")
OWN_CHUNK_BYTES = 1 << 20  # what boto3 sends

Read = Callable[[memoryview], int]


class LengthReader:
    """A body framed by Content-Length."""

    def __init__(self, source: ClientStream, length: int) -> None:
        self._source = source
        self.left = length

    @property
    def is_done(self) -> bool:
        """Return whether the whole body was taken from the connection."""
        return self.left == 0

    @property
    def can_splice(self) -> bool:
        """Return whether the rest of the body is plain bytes on the connection's socket."""
        return self._source.can_splice

    def splice(self, pipe: int, limit: int) -> int:
        """Splice received bytes into a pipe; only where ``can_splice`` is true."""
        count = self._source.splice(pipe, min(limit, self.left))
        self.left -= count
        return count

    def readinto(self, view: memoryview) -> int:
        """Fill part of the buffer; 0 at the end."""
        if not self.left:
            return 0
        count = self._source.readinto(view[: self.left])
        self.left -= count
        return count


class ChunkedReader:
    """A body in HTTP's chunked coding; trailer fields are read and dropped."""

    def __init__(self, source: ClientStream) -> None:
        self._source = source
        self._left = 0
        self._is_first = True
        self.is_done = False

    def readinto(self, view: memoryview) -> int:
        """Fill part of the buffer; 0 after the last chunk. Raises S3ErrorResponse: the coding is broken."""
        if self.is_done:
            return 0
        if not self._left and not self._next_chunk():
            return 0
        count = self._source.readinto(view[: self._left])
        self._left -= count
        return count

    def _next_chunk(self) -> bool:
        if not self._is_first and self._source.read_line(0):
            raise malformed("a chunk does not end where it said")
        self._is_first = False
        size = CHUNK_SIZE.fullmatch(self._source.read_line(MAX_LINE_BYTES))
        if size is None:
            raise malformed("a chunk's size is malformed")
        self._left = int(size[1], 16)
        if self._left:
            return True
        self._drop_trailer()
        self.is_done = True
        return False

    def _drop_trailer(self) -> None:
        left = MAX_TRAILER_BYTES
        while line := self._source.read_line(MAX_LINE_BYTES):
            left -= len(line)
            if left < 0:
                raise malformed("the trailer is too long")
            if FIELD_LINE.fullmatch(line) is None:
                raise malformed("a trailer line is malformed; a name has letters, digits and hyphens only")


Reader = LengthReader | ChunkedReader


def reader_for(head: RequestHead, stream: ClientStream) -> Reader:
    """Return a reader for the request's body."""
    return ChunkedReader(stream) if head.length is None else LengthReader(stream, head.length)


class _Buffered:
    """Lines and bytes out of a reader that knows only readinto."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._buffer = memoryview(bytearray(BLOCK_BYTES))
        self._rest = b""

    def line(self, what: str) -> bytes:
        """Return a line without its end; some clients end lines with a lone LF."""
        while (end := self._rest.find(b"\n")) < 0:
            if len(self._rest) > MAX_LINE_BYTES:
                raise _bad_stream(f"{what} is too long")
            count = self._read(self._buffer)
            if not count:
                raise _bad_stream(f"the body ends before {what}")
            self._rest += self._buffer[:count]
        line, self._rest = self._rest[:end], self._rest[end + 1 :]
        return line.removesuffix(b"\r")

    def push_back(self, line: bytes) -> None:
        self._rest = line + b"\r\n" + self._rest

    def readinto(self, view: memoryview) -> int:
        """Fill part of the buffer; return 0 at the end of the content."""
        if not self._rest:
            return self._read(view)
        count = min(len(self._rest), len(view))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def expect_end(self) -> None:
        rest = self._rest
        while len(rest) <= 2 and (count := self._read(self._buffer)):
            rest += self._buffer[:count]
        if rest not in (b"", b"\r\n"):
            raise _bad_stream("something follows the last chunk")


class AwsChunkedReader:
    """The decoded bytes of an aws-chunked body.

    ``seed`` starts the chain of signatures, None for the unsigned form. ``trailer`` is the announced checksum's name,
    or nothing; after the end ``checksum`` holds the verified value. A signed form without a seed is one whose signer
    nobody knows: then lengths and checksums are all that is checked.
    """

    def __init__(
        self,
        read: Read,
        *,
        length: int,
        seed: Seed | None,
        trailer: str = "",
        is_signed: bool = False,
        memory: ByteBudget | None = None,
    ) -> None:
        self._source = _Buffered(read)
        self.length = length
        self._seed = seed
        self._previous = seed.signature if seed else ""
        self._trailer = trailer
        self._is_signed = is_signed
        self._hasher = checksum_for(trailer) if trailer else None
        self._chunk = memoryview(b"")  # a verified chunk, not yet given
        self._buffer = bytearray()  # for signed chunks, one after the other
        self._memory = memory
        self._reserved = 0
        self._left = 0  # of an unsigned chunk
        self._given = 0
        self._is_first = True
        self.checksum = ""
        self.is_done = False

    def readinto(self, view: memoryview) -> int:
        """Fill part of the buffer; 0 after the last chunk, when everything was right.

        Raises S3ErrorResponse: a signature, a checksum or a length is not what it should be.
        """
        while not self.is_done:
            count = self._take(view)
            if count:
                self._given += count
                if self._hasher is not None:
                    self._hasher.update(view[:count])
                # The last byte is held back until all behind it is verified: with it, a node has the
                # whole object and stores it.
                while self._given == self.length and not self.is_done:
                    self._next_chunk()
                return count
            self._next_chunk()
        return 0

    def _take(self, view: memoryview) -> int:
        if not self._left:
            count = min(len(self._chunk), len(view))
            view[:count] = self._chunk[:count]
            self._chunk = self._chunk[count:]
            return count
        count = self._source.readinto(view[: self._left])
        if not count:
            raise _bad_stream("the body ends inside a chunk")
        self._left -= count
        return count

    def _next_chunk(self) -> None:
        if not self._is_first and self._source.line("a chunk's end"):
            raise _bad_stream("a chunk does not end where it said")
        self._is_first = False
        line = AWS_CHUNK.fullmatch(self._source.line("a chunk's size"))
        if line is None or bool(line[2]) != self._is_signed:
            raise _bad_stream("a chunk's line is malformed")
        size = int(line[1], 16)
        if self._given + size > self.length:
            raise _bad_stream("there are more bytes than x-amz-decoded-content-length says")
        if self._is_signed:
            self._read_signed(size, (line[2] or b"").decode())
        else:
            self._left = size
        if not size:
            self._finish()

    def _read_signed(self, size: int, claimed: str) -> None:
        if size > MAX_CHUNK_BYTES:
            raise S3ErrorResponse(400, "InvalidRequest", "a signed chunk is larger than 16 MiB", closes=True)
        self._chunk, filled = memoryview(b""), 0  # which lets the buffer grow
        while filled < size:
            if filled == len(self._buffer):
                self._grow(min(max(FIRST_CHUNK_BYTES, filled), size - filled))
            with memoryview(self._buffer) as view, view[filled:size] as rest:
                count = self._source.readinto(rest)
            if not count:
                raise _bad_stream("the body ends inside a chunk")
            filled += count
        chunk = memoryview(self._buffer)[:size]
        if self._seed is not None:
            covered = f"{EMPTY_SHA256}\n{hashlib.sha256(chunk).hexdigest()}"
            self._check(self._seed, "AWS4-HMAC-SHA256-PAYLOAD", covered, claimed)
        self._chunk = chunk

    def _grow(self, count: int) -> None:
        """Enlarge the buffer once it is full, so that an announced size alone costs nothing."""
        if self._memory is not None and len(self._buffer) + count > FREE_BYTES:
            if not self._memory.take(count):
                raise slow_down("there is no room for so large a chunk; try again", closes=True)
            self._reserved += count
        self._buffer.extend(bytes(count))

    def release(self) -> None:
        """Free the memory; harmless when called twice."""
        if self._memory is not None:
            self._memory.give_back(self._reserved)
        self._reserved, self._chunk, self._buffer = 0, memoryview(b""), bytearray()

    def _check(self, seed: Seed, algorithm: str, covered: str, claimed: str) -> None:
        text = f"{algorithm}\n{seed.timestamp}\n{seed.scope}\n{self._previous}\n{covered}"
        self._previous = signature(seed.key, text.encode())
        if not hmac.compare_digest(self._previous, claimed):
            detail = "a chunk's signature is wrong"
            raise S3ErrorResponse(403, "SignatureDoesNotMatch", detail, closes=True, reason="chunk")

    def _finish(self) -> None:
        if self._given != self.length:
            detail = "fewer bytes than x-amz-decoded-content-length says"
            raise S3ErrorResponse(400, "IncompleteBody", detail, closes=True)
        self._read_trailer()
        self.is_done = True

    def _read_trailer(self) -> None:
        fields: list[tuple[str, str]] = []
        claimed = ""
        left = MAX_TRAILER_BYTES
        while line := self._source.line("the trailer's end"):
            left -= len(line)
            if left < 0:
                raise _bad_stream("the trailer is too long")
            field = TRAILER_FIELD.fullmatch(line.rstrip(b" \t"))
            if field is None:
                raise _bad_trailer()
            name, value = field[1].decode().lower(), field[2].decode()
            if name == TRAILER_SIGNATURE and self._is_signed:
                claimed = value
                break
            fields.append((name, value))
            if len(fields) == 1 and self._is_signed and self._trailer:
                # minio-go writes an empty line between the trailer and its signature.
                what = "the trailer's signature"
                self._source.push_back(self._source.line(what) or self._source.line(what))
        self._source.expect_end()
        self._check_trailer(fields, claimed)

    def _check_trailer(self, fields: list[tuple[str, str]], claimed: str) -> None:
        expected = [self._trailer] if self._trailer else []
        if [name for name, _ in fields] != expected:
            raise _bad_trailer()
        if self._seed is not None and self._is_signed and self._trailer:
            covered = "".join(f"{name}:{value}\n" for name, value in fields)
            digest = hashlib.sha256(covered.encode()).hexdigest()
            self._check(self._seed, "AWS4-HMAC-SHA256-TRAILER", digest, claimed)
        if self._trailer:
            self.checksum = fields[0][1]
            if len(self.checksum) != CHARACTERS[self._trailer.removeprefix(CHECKSUM_PREFIX)]:
                detail = f"Value for {self._trailer} trailing header is invalid."
                raise S3ErrorResponse(400, "InvalidRequest", detail, closes=True)
        if self._hasher is not None:
            computed = base64.b64encode(self._hasher.digest()).decode()
            if not hmac.compare_digest(computed, self.checksum):
                raise S3ErrorResponse(400, "BadDigest", f"the {self._trailer} does not match the body", closes=True)


class RechunkedBody:
    """A body in chunks of our own; ``length`` is its framed size in bytes."""

    def __init__(self, content: AwsChunkedReader, *, length: int, trailer: str) -> None:
        self._content = content
        self._left = length  # content that is still to be framed
        self._chunk_left = 0
        self._trailer = trailer
        self._line = b""  # framing that is to be given next
        self._is_ended = False
        self.length = rechunked_length(length, trailer)

    def readinto(self, view: memoryview) -> int:
        """Fill part of the buffer; 0 at the end. Raises S3ErrorResponse: the content is not what was announced."""
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
        self._chunk_left = min(self._left, OWN_CHUNK_BYTES)
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


def rechunked_length(length: int, trailer: str) -> int:
    """Return the framed size of a body; the trailer names a checksum, or is empty."""
    whole, rest = divmod(length, OWN_CHUNK_BYTES)
    total = length + whole * (len(b"%x" % OWN_CHUNK_BYTES) + 4) + ((len(b"%x" % rest) + 4) if rest else 0)
    if not trailer:
        return total + len(b"0\r\n\r\n")
    size = CHARACTERS[trailer.removeprefix(CHECKSUM_PREFIX)]
    return total + len(b"0\r\n:\r\n\r\n") + len(trailer) + size


def _bad_trailer() -> S3ErrorResponse:
    detail = "The request contained trailing data that was not well-formed or did not conform to our published schema."
    return S3ErrorResponse(400, "MalformedTrailerError", detail, closes=True, reason="chunk")


def _bad_stream(detail: str) -> S3ErrorResponse:
    detail = f"the aws-chunked body is malformed: {detail}"
    return S3ErrorResponse(400, "IncompleteBody", detail, closes=True, reason="chunk")
