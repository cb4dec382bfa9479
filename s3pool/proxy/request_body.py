"""The body of an admitted request, made ready for a node: passed on, unpacked, or collected."""

from __future__ import annotations

import os
import re

from s3pool.body import EMPTY_BODY, EMPTY_SHA256, Body
from s3pool.proxy.auth import ANONYMOUS, HEX_HASH, SIGNED_STREAM, SIGNED_STREAM_TRAILER, UNSIGNED_STREAM_TRAILER, Caller
from s3pool.proxy.bodies import SPARE_BYTES, Buffers, ClientBody, HashCheck, LengthReader, Read, Spool, Spooled
from s3pool.proxy.chunked import CHARACTERS, CHECKSUM_PREFIX, AwsChunkedReader, ChunkedReader
from s3pool.proxy.errors import S3ErrorResponse
from s3pool.proxy.forward import Fields
from s3pool.proxy.limits import ByteBudget
from s3pool.proxy.operations import S3Operation
from s3pool.proxy.request import RequestHead, Target
from s3pool.proxy.settings import ProxySettings
from s3pool.proxy.stream import ClientStream
from s3pool.record import dataclass
from s3pool.s3.signing import Signer

CHUNK_BYTES = 1 << 20  # what boto3 sends


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


def rechunked_length(length: int, trailer: str) -> int:
    """Return the framed size of a body; the trailer names a checksum, or is empty."""
    whole, rest = divmod(length, CHUNK_BYTES)
    total = length + whole * (len(b"%x" % CHUNK_BYTES) + 4) + ((len(b"%x" % rest) + 4) if rest else 0)
    if not trailer:
        return total + len(b"0\r\n\r\n")
    size = CHARACTERS[trailer.removeprefix(CHECKSUM_PREFIX)]
    return total + len(b"0\r\n:\r\n\r\n") + len(trailer) + size


DECODED_LENGTH = re.compile(r"[0-9]{1,15}")
PASS = "pass"
SMALL_BODY_BYTES = 256 * 1024
BODY_NEEDED = frozenset({"PutObject", "UploadPart", "AppendObject"})  # nodes do not take silence for an empty one

Reader = LengthReader | ChunkedReader


@dataclass(slots=True)  # not frozen: one is made for every request
class Admitted:
    """An admitted request: its target, its sender, its operation and its signer.

    ``decodes`` says that the body comes in the aws-chunked form and leaves it here,
    ``is_form`` that it is an upload form, and who sent it is not known yet.
    """

    head: RequestHead
    target: Target
    caller: Caller
    operation: S3Operation
    signer: Signer | None
    decodes: bool = False
    is_form: bool = False


@dataclass(slots=True)
class RequestBody:
    """A body ready for a node. ``reader`` tells when the client's bytes are all taken.

    ``expects_continue`` says that the node is told to expect it, and sent it only when it says so.
    ``is_rechunked`` that it goes in the aws-chunked form, with a trailer and without signatures.
    """

    body: Body = EMPTY_BODY
    reader: Reader | None = None
    length: int | None = None
    extra: Fields = ()
    is_rechunked: bool = False
    decoder: AwsChunkedReader | None = None
    expects_continue: bool = False
    spooled: Spooled | None = None


class BodyLoader:
    """Makes bodies ready; one for all requests of a configuration."""

    def __init__(self, settings: ProxySettings) -> None:
        self._settings = settings
        self.budget = ByteBudget(settings.replay_memory)
        self.spool = Spool(self.budget, ByteBudget(settings.spool_limit), directory=settings.spool_dir)
        self.takes_trailers = settings.trailers == PASS  # the nodes do, as far as is known
        self._buffers = Buffers(min(SPARE_BYTES, settings.replay_memory))

    def load(self, admitted: Admitted, stream: ClientStream) -> RequestBody:
        """Return the body for a node; one without a length is read here. Raises S3ErrorResponse: it cannot be taken."""
        head, payload = admitted.head, admitted.caller.payload
        guards = self._settings.verify_body and HEX_HASH.fullmatch(payload) is not None
        if head.length == 0:
            return self._empty(admitted, guards=guards)
        reader = reader_for(head, stream)
        if admitted.decodes:
            return self._decoded(admitted, reader)
        read: Read = HashCheck(reader.readinto, payload, length=head.length).readinto if guards else reader.readinto
        if head.length is not None:
            return self._streamed(admitted, read, reader, length=head.length)
        if _can_rechunk(admitted):
            return self._rechunked(admitted, reader, _decoder(admitted, reader, self.budget))
        return self.collected(read, reader)

    @staticmethod
    def _empty(admitted: Admitted, *, guards: bool) -> RequestBody:
        head, caller, has_length = admitted.head, admitted.caller, "content-length" in admitted.head.index
        if admitted.signer is not None and caller.is_framed:
            # Even an empty content has a last chunk: without it nothing says that it is all.
            raise S3ErrorResponse(400, "IncompleteBody", "the aws-chunked body is missing", reason="chunk")
        if not has_length and admitted.operation.name in BODY_NEEDED:  # it would empty the object
            detail = "You must provide the Content-Length HTTP header."
            raise S3ErrorResponse(411, "MissingContentLength", detail, closes=True)
        if guards and caller.payload != EMPTY_SHA256:
            raise HashCheck.mismatch()
        return RequestBody(length=0 if has_length or head.method in ("PUT", "POST") else None)

    def _streamed(self, admitted: Admitted, read: Read, reader: Reader, *, length: int) -> RequestBody:
        mover = reader if read == reader.readinto and isinstance(reader, LengthReader) else None
        # Where the node is the one to judge, it is to do so before the body is asked for.
        asks = admitted.head.expects_continue and (admitted.signer is None or admitted.caller.form == ANONYMOUS)
        body = self._client_body(admitted, read, length)
        body.mover, body.waits_for_continue = mover, asks
        load = RequestBody(body, reader, length, expects_continue=asks)
        return load if asks else self._prefetched(load, body)

    def _client_body(self, admitted: Admitted, read: Read, length: int) -> ClientBody:
        keeps = self._keeps(admitted.operation, length)
        return ClientBody(read, length=length, keeps=keeps, buffers=self._buffers, memory=self.budget)

    def _prefetched(self, load: RequestBody, body: ClientBody) -> RequestBody:
        """Read a small body before a node is asked: however slowly it comes, it holds nothing that others need."""
        try:
            if body.length <= SMALL_BODY_BYTES:
                body.prefetch()
        except BaseException:
            self.release(load)
            raise
        return load

    def _keeps(self, operation: S3Operation, length: int) -> bool:
        return operation.partial and length <= self._settings.replay_buffer and self.budget.has(length)

    def _decoded(self, admitted: Admitted, reader: Reader) -> RequestBody:
        decoder, trailer = _decoder(admitted, reader, self.budget), trailer_of(admitted)
        length = decoder.length
        if not length:
            decoder.readinto(memoryview(bytearray(1)))
            return _with_checksum(RequestBody(EMPTY_BODY, reader, length, decoder=decoder), trailer)
        if trailer and self.takes_trailers and not self._keeps(admitted.operation, length):
            return self._rechunked(admitted, reader, decoder)
        if trailer:
            return self._checked(decoder, reader, trailer)
        body = self._client_body(admitted, decoder.readinto, length)
        return self._prefetched(RequestBody(body, reader, length, decoder=decoder), body)

    def _checked(self, decoder: AwsChunkedReader, reader: Reader, trailer: str) -> RequestBody:
        """Read the whole body to learn its checksum, which must stand in the head."""
        limit = self.spool.disk.size
        detail = f"a body of more than {limit} bytes with a checksum behind it needs a larger proxy.spool_limit here"
        too_large = S3ErrorResponse(400, "EntityTooLarge", detail, closes=True)
        try:
            load = self.collected(decoder.readinto, reader, too_large=too_large)
        finally:
            decoder.release()  # what it held is in the spool
        load.decoder = decoder
        return _with_checksum(load, trailer)

    def _rechunked(self, admitted: Admitted, reader: Reader, decoder: AwsChunkedReader) -> RequestBody:
        """Put the body into chunks of known total length, and keep its trailer."""
        framed = RechunkedBody(decoder, length=decoder.length, trailer=trailer_of(admitted))
        body = self._client_body(admitted, framed.readinto, framed.length)
        return RequestBody(body, reader, framed.length, is_rechunked=True, decoder=decoder)

    def collected(
        self, read: Read, reader: Reader, *, limit: int | None = None, too_large: S3ErrorResponse | None = None
    ) -> RequestBody:
        """Read a body of unknown length into memory or a file. Raises S3ErrorResponse: there is no room for it."""
        spooled = self.spool.collect(read, limit=limit, too_large=too_large)
        return RequestBody(spooled.body, reader, spooled.length, spooled=spooled)

    def release(self, load: RequestBody) -> None:
        """Free the room that a body was promised."""
        if isinstance(load.body, ClientBody):
            load.body.drop()
        if load.decoder is not None:
            load.decoder.release()
        if load.spooled is not None:
            load.spooled.close()


def _with_checksum(load: RequestBody, trailer: str) -> RequestBody:
    """Return a body that was read to its end, with the checksum behind it as a field of the head."""
    if load.decoder is not None and load.decoder.checksum:
        load.extra = ((trailer, load.decoder.checksum),)
    return load


def _can_rechunk(admitted: Admitted) -> bool:
    """Return whether the head tells the framed size of the body."""
    is_known = DECODED_LENGTH.fullmatch(admitted.head.value("x-amz-decoded-content-length")) is not None
    trailer = trailer_of(admitted).removeprefix(CHECKSUM_PREFIX)
    is_unsigned = admitted.caller.payload == UNSIGNED_STREAM_TRAILER
    return is_unsigned and is_known and (not trailer or trailer in CHARACTERS)


def reader_for(head: RequestHead, stream: ClientStream) -> Reader:
    """Return a reader for the request's body."""
    return ChunkedReader(stream) if head.length is None else LengthReader(stream, head.length)


def _decoder(admitted: Admitted, reader: Reader, memory: ByteBudget) -> AwsChunkedReader:
    payload = admitted.caller.payload
    return AwsChunkedReader(
        reader.readinto,
        length=_decoded_length(admitted.head),
        seed=admitted.caller.seed,
        trailer=trailer_of(admitted),
        is_signed=payload in (SIGNED_STREAM, SIGNED_STREAM_TRAILER),
        memory=memory,
    )


def _decoded_length(head: RequestHead) -> int:
    text = head.value("x-amz-decoded-content-length")
    if DECODED_LENGTH.fullmatch(text) is None or len(head.values("x-amz-decoded-content-length")) > 1:
        detail = "x-amz-decoded-content-length is missing or malformed"
        raise S3ErrorResponse(411, "MissingContentLength", detail, closes=True)
    return int(text)


def trailer_of(admitted: Admitted) -> str:
    """Return the name of the checksum that follows the body, or nothing."""
    if admitted.caller.payload not in (SIGNED_STREAM_TRAILER, UNSIGNED_STREAM_TRAILER):
        return ""
    return admitted.head.value("x-amz-trailer").strip().lower()


MAX_DOCUMENT_BYTES = 2 << 20  # a thousand long keys, with room for their escapes


class DocumentSink:
    """Takes a body that names buckets into memory, to be looked at before a node has a byte of it."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, block: bytes | bytearray | memoryview) -> None:
        """Keep the block. Raises S3ErrorResponse: the document is larger than any that S3 knows."""
        self.content += block
        if len(self.content) > MAX_DOCUMENT_BYTES:
            raise S3ErrorResponse(400, "MaxMessageLengthExceeded", "the document is too large", closes=True)

    def send_file(self, fd: int, offset: int, count: int) -> None:
        """Keep a range of a file."""
        self.write(os.pread(fd, min(count, MAX_DOCUMENT_BYTES + 1), offset))
