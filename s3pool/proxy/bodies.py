"""A client's request body on its way to a node: passed on, unpacked or collected, and kept for a second try."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import tempfile

from s3pool.body import CHECKSUM_PREFIX, EMPTY_BODY, EMPTY_SHA256, Body, BytesBody, FileSlice, Sink
from s3pool.errors import IntegrityError
from s3pool.pool.http1 import NodeConnection
from s3pool.proxy.auth import (
    ANONYMOUS,
    HEX_HASH,
    SIGNED_STREAM,
    SIGNED_STREAM_TRAILER,
    UNSIGNED_STREAM_TRAILER,
    Admitted,
)
from s3pool.proxy.errors import ClientGoneError, S3ErrorResponse, slow_down
from s3pool.proxy.framing import CHARACTERS, AwsChunkedReader, LengthReader, Read, Reader, RechunkedBody, reader_for
from s3pool.proxy.limits import SPARE_BYTES, Buffers, ByteBudget
from s3pool.proxy.operations import S3Operation
from s3pool.proxy.relay import SPLICE_FROM_BYTES, open_pipe, takes_splice
from s3pool.proxy.request import Field, RequestHead
from s3pool.proxy.settings import ProxySettings
from s3pool.proxy.stream import ClientStream
from s3pool.record import dataclass
from s3pool.units import MIB

BLOCK_BYTES = 256 * 1024
FIRST_KEPT_BYTES = 64 * 1024  # doubled up to 1 MiB with what has arrived
FIRST_BLOCK_BYTES = 8 * 1024  # doubled whenever it comes full: slow clients by the hundred stay small
CONTINUE_LIMIT_S = 1.0  # a node that ignores Expect must not cost more (RFC 9110, 10.1.1)


class HashCheck:
    """The bytes of a reader, the last of them only when the SHA-256 of all is the signed one.

    ``length`` is None where the reader's own end tells. A node that gets less than was announced stores nothing.
    """

    def __init__(self, read: Read, expected: str, *, length: int | None) -> None:
        self._read = read
        self._expected = expected
        self._left = length
        self._hash = hashlib.sha256()

    def readinto(self, view: memoryview) -> int:
        """Fill part of the buffer; 0 at the end. Raises S3ErrorResponse: the body is not the one that was signed."""
        count = self._read(view)
        self._hash.update(view[:count])
        if self._left is not None:
            self._left -= count
        is_end = not count if self._left is None else not self._left
        if is_end and not hmac.compare_digest(self._hash.hexdigest(), self._expected):
            raise self.mismatch()
        return count

    @staticmethod
    def mismatch() -> S3ErrorResponse:
        """Return the answer to a body that is not the one that was signed."""
        detail = "The provided 'x-amz-content-sha256' header does not match what was computed."
        return S3ErrorResponse(400, "XAmzContentSHA256Mismatch", detail, closes=True, reason="payload")


class ClientBody:
    """A body that is read from a client while it is sent.

    With ``keeps`` every byte is kept, so that another node can have them again, as long as ``memory`` has room for what
    arrives. Without, it can be sent again while nothing was read. ``mover`` is the reader behind ``read``, given where
    the kernel may move the bytes past this process. ``buffers`` lends the memory, until ``drop``.
    ``waits_for_continue`` says that the node was told to expect a body and is the one to ask for it.
    """

    def __init__(self, read: Read, *, length: int, keeps: bool, buffers: Buffers, memory: ByteBudget) -> None:
        self._read = read
        self._keeps = keeps
        self.mover: LengthReader | None = None
        self.waits_for_continue = False
        self._buffers = buffers
        self._memory = memory
        self._blocks: list[tuple[bytearray, int]] = []  # what is kept: buffers, and how much of each is filled
        self._reserved = 0
        self._taken = 0  # bytes read from the client
        self.length = length
        self.replays = 0

    @property
    def rewindable(self) -> bool:
        """Return whether all bytes that were read can be sent again."""
        return self._keeps or not self._taken

    def rewind(self) -> None:
        """Go back to the first byte. Raises IntegrityError: bytes were read and not kept."""
        if not self.rewindable:
            raise IntegrityError("a client's body cannot be sent twice")
        if self._taken:
            self.replays += 1

    def prefetch(self) -> bool:
        """Read the whole body into memory, only for one that keeps; False when there is no room for all of it."""
        while self._taken < self.length and self._take_kept():
            continue
        return self._taken == self.length

    def send(self, sink: Sink) -> None:
        """Write the kept bytes, then the rest. Raises ClientGoneError, S3ErrorResponse: it is not what was signed."""
        if self.waits_for_continue and isinstance(sink, NodeConnection):
            sink.await_leave(CONTINUE_LIMIT_S)
        if not self._keeps:
            self._send_streamed(sink)
            return
        place = sent = 0
        while True:
            buffer, filled = self._blocks[place] if place < len(self._blocks) else (b"x", 0)
            if sent < filled:
                with memoryview(buffer) as view, view[sent:filled] as rest:
                    sink.write(rest)
                sent = filled
            elif sent == len(buffer):
                place, sent = place + 1, 0
            elif self._taken == self.length or not self._take_kept():
                break
        self._send_streamed(sink)

    def drop(self) -> None:
        """Free the kept bytes; the body cannot be sent again."""
        blocks, self._blocks = self._blocks, []
        self._keeps = False
        for buffer, _ in blocks:
            self._buffers.give_back(buffer)
        self._memory.give_back(self._reserved)
        self._reserved = 0

    def _take_kept(self) -> bool:
        """Keep more of the body; False when there is no room, and from then on nothing more is kept."""
        if not self._keeps:
            return False
        if not self._blocks or self._blocks[-1][1] == len(self._blocks[-1][0]):
            size = min(max(FIRST_KEPT_BYTES, self._taken), MIB, self.length - self._taken)
            if not self._memory.take(size):
                self._keeps = False
                return False
            self._reserved += size
            self._blocks.append((self._buffers.take(size), 0))
        buffer, filled = self._blocks[-1]
        with memoryview(buffer) as view, view[filled : filled + self.length - self._taken] as rest:
            count = self._fill(rest)
        self._blocks[-1] = buffer, filled + count
        self._taken += count
        return True

    def _send_streamed(self, sink: Sink) -> None:
        buffer = memoryview(bytearray(min(FIRST_BLOCK_BYTES, self.length - self._taken)))
        while self._taken < self.length:
            count = self._fill(buffer[: min(self.length - self._taken, len(buffer))])
            self._taken += count
            sink.write(buffer[:count])
            self._splice(sink)
            if count == len(buffer) < BLOCK_BYTES:
                buffer = memoryview(bytearray(2 * count))

    def _splice(self, sink: Sink) -> None:
        """Let the kernel move the rest of a large body; nothing where it cannot."""
        left = self.length - self._taken
        if self.mover is None or left < SPLICE_FROM_BYTES or not self.mover.can_splice or not takes_splice(sink):
            return
        made = open_pipe()
        if made is None:
            return
        with made as pipe:
            while self._taken < self.length:
                # What was taken of the client cannot be sent again, wherever it is now.
                count = pipe.push(self.mover.splice, sink, self.length - self._taken)
                self._taken += count

    def _fill(self, view: memoryview) -> int:
        count = self._read(view)
        if not count:
            raise ClientGoneError("the client's body is shorter than it said")
        return count


MEMORY_BYTES = 1 << 20  # what stays in memory of each


class Spooled:
    """A body that was read whole, into memory or a file, and the room that it takes until it is closed."""

    def __init__(
        self, memory: ByteBudget, disk: ByteBudget, directory: str, *, limit: int | None, too_large: S3ErrorResponse
    ) -> None:
        self._memory, self._disk = memory, disk
        self._limit = limit
        self._too_large = too_large
        self._file = tempfile.SpooledTemporaryFile(dir=directory or None)  # noqa: SIM115 closed by close()
        self._in_memory = self._on_disk = 0
        self.length = 0

    def add(self, block: memoryview) -> None:
        """Take more bytes. Raises S3ErrorResponse: they are too many, or the disk is full."""
        self.length += len(block)
        if self._limit is not None and self.length > self._limit:
            detail = "Your proposed upload exceeds the maximum allowed size"
            raise S3ErrorResponse(400, "EntityTooLarge", detail, closes=True)
        try:
            if self._on_disk or not self._has_memory():
                self._reserve()
                self._file.rollover()
            self._file.write(block)
            self._file.flush()
        except OSError as exc:
            raise slow_down(f"there is no room for this body: {exc.strerror}", closes=True) from exc

    def _has_memory(self) -> bool:
        """Reserve memory for the bytes received; return False when there is none."""
        more = max(self.length - self._in_memory, 0)
        if self.length > MEMORY_BYTES or not self._memory.take(more):
            return False
        self._in_memory += more
        return True

    def _reserve(self) -> None:
        if self.length > self._disk.size:
            raise self._too_large
        if not self._disk.take(self.length - self._on_disk):
            raise slow_down("there is no room for this body now; try again", closes=True)
        self._on_disk = self.length

    @property
    def body(self) -> Body:
        """Return the body, good until this is closed."""
        self._file.seek(0)
        return FileSlice(self._file.fileno(), length=self.length) if self._on_disk else BytesBody(self._file.read())

    def close(self) -> None:
        """Free the room; harmless when called twice."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._memory.give_back(self._in_memory)
        self._disk.give_back(self._on_disk)
        self._in_memory = self._on_disk = 0


DECODED_LENGTH = re.compile(r"[0-9]{1,15}")
PASS = "pass"
SMALL_BODY_BYTES = 256 * 1024
BODY_NEEDED = frozenset({"PutObject", "UploadPart", "AppendObject"})  # nodes do not take silence for an empty one


@dataclass(slots=True)
class RequestBody:
    """A body ready for a node. ``reader`` tells when the client's bytes are all taken.

    ``expects_continue`` says that the node is told to expect it, and sent it only when it says so.
    ``is_rechunked`` that it goes in the aws-chunked form, with a trailer and without signatures.
    """

    body: Body = EMPTY_BODY
    reader: Reader | None = None
    length: int | None = None
    extra: tuple[Field, ...] = ()
    is_rechunked: bool = False
    decoder: AwsChunkedReader | None = None
    expects_continue: bool = False
    spooled: Spooled | None = None

    def release(self) -> None:
        """Free the room that the body was promised."""
        if isinstance(self.body, ClientBody):
            self.body.drop()
        if self.decoder is not None:
            self.decoder.release()
        if self.spooled is not None:
            self.spooled.close()


class BodyLoader:
    """Makes bodies ready; one for all requests of a configuration."""

    def __init__(self, settings: ProxySettings) -> None:
        self._settings = settings
        self.budget = ByteBudget(settings.replay_memory)
        self.disk = ByteBudget(settings.spool_limit)
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
            load.release()
            raise
        return load

    def _keeps(self, operation: S3Operation, length: int) -> bool:
        return operation.partial and length <= self._settings.replay_buffer and self.budget.has(length)

    def _decoded(self, admitted: Admitted, reader: Reader) -> RequestBody:
        decoder, trailer = _decoder(admitted, reader, self.budget), _trailer_of(admitted)
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
        limit = self.disk.size
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
        framed = RechunkedBody(decoder, length=decoder.length, trailer=_trailer_of(admitted))
        body = self._client_body(admitted, framed.readinto, framed.length)
        return RequestBody(body, reader, framed.length, is_rechunked=True, decoder=decoder)

    def collected(
        self, read: Read, reader: Reader, *, limit: int | None = None, too_large: S3ErrorResponse | None = None
    ) -> RequestBody:
        """Read a body until ``read`` gives 0, of ``limit`` bytes at most, into memory or a file.

        Raises S3ErrorResponse: it is too large (``too_large``), or there is no room now. ClientGoneError: it broke off.
        """
        detail = f"a body of more than {self.disk.size} bytes needs a Content-Length"
        refusal = too_large or S3ErrorResponse(411, "MissingContentLength", detail, closes=True)
        spooled = Spooled(self.budget, self.disk, self._settings.spool_dir, limit=limit, too_large=refusal)
        try:
            block = memoryview(bytearray(FIRST_BLOCK_BYTES))
            while count := read(block):
                spooled.add(block[:count])
                if count == len(block) < BLOCK_BYTES:
                    block = memoryview(bytearray(2 * count))
        except BaseException:
            spooled.close()
            raise
        return RequestBody(spooled.body, reader, spooled.length, spooled=spooled)


def _with_checksum(load: RequestBody, trailer: str) -> RequestBody:
    """Return a body that was read to its end, with the checksum behind it as a field of the head."""
    if load.decoder is not None and load.decoder.checksum:
        load.extra = ((trailer, load.decoder.checksum),)
    return load


def _can_rechunk(admitted: Admitted) -> bool:
    """Return whether the head tells the framed size of the body."""
    is_known = DECODED_LENGTH.fullmatch(admitted.head.value("x-amz-decoded-content-length")) is not None
    trailer = _trailer_of(admitted).removeprefix(CHECKSUM_PREFIX)
    is_unsigned = admitted.caller.payload == UNSIGNED_STREAM_TRAILER
    return is_unsigned and is_known and (not trailer or trailer in CHARACTERS)


def _decoder(admitted: Admitted, reader: Reader, memory: ByteBudget) -> AwsChunkedReader:
    payload = admitted.caller.payload
    return AwsChunkedReader(
        reader.readinto,
        length=_decoded_length(admitted.head),
        seed=admitted.caller.seed,
        trailer=_trailer_of(admitted),
        is_signed=payload in (SIGNED_STREAM, SIGNED_STREAM_TRAILER),
        memory=memory,
    )


def _decoded_length(head: RequestHead) -> int:
    text = head.value("x-amz-decoded-content-length")
    if DECODED_LENGTH.fullmatch(text) is None or len(head.values("x-amz-decoded-content-length")) > 1:
        detail = "x-amz-decoded-content-length is missing or malformed"
        raise S3ErrorResponse(411, "MissingContentLength", detail, closes=True)
    return int(text)


def _trailer_of(admitted: Admitted) -> str:
    """Return the name of the checksum that follows the body, or nothing."""
    if admitted.caller.payload not in (SIGNED_STREAM_TRAILER, UNSIGNED_STREAM_TRAILER):
        return ""
    return admitted.head.value("x-amz-trailer").strip().lower()
