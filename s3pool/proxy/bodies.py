"""A client's request body, kept in memory or on disk so that a retry can resend it."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import tempfile
import threading
from collections.abc import Callable
from typing import Protocol

from s3pool.body import Body, BytesBody, FileSlice, Sink
from s3pool.errors import IntegrityError
from s3pool.pool.http1 import NodeConnection
from s3pool.pool.splice import SPLICE_FROM_BYTES, open_pipe, takes_splice
from s3pool.proxy.errors import ClientGoneError, S3ErrorResponse, slow_down
from s3pool.proxy.limits import ByteBudget
from s3pool.units import MIB

SPARE_BYTES = 64 << 20  # of buffers that wait for their next use
MIN_SPARE_BYTES = 128 * 1024  # smaller ones come from the heap, which keeps them itself
MAX_WASTE = 2  # a spare buffer may be so many times as large as what is wanted


class Buffers:
    """Large buffers that are used again: fresh memory costs as much as filling it."""

    def __init__(self, size: int) -> None:
        # Guards the two below; held for a look.
        self._lock = threading.Lock()
        self._spare: list[bytearray] = []
        self._room = size

    def take(self, length: int) -> bytearray:
        """Return a buffer of at least that length, with arbitrary content."""
        with self._lock:
            for number, buffer in enumerate(self._spare):
                if length <= len(buffer) <= MAX_WASTE * length:
                    self._room += len(buffer)
                    return self._spare.pop(number)
        return bytearray(length)

    def give_back(self, buffer: bytearray) -> None:
        """Return a buffer for reuse."""
        with self._lock:
            if MIN_SPARE_BYTES <= len(buffer) <= self._room:
                self._spare.append(buffer)
                self._room -= len(buffer)


BLOCK_BYTES = 256 * 1024
FIRST_KEPT_BYTES = 64 * 1024  # doubled up to 1 MiB with what has arrived
FIRST_BLOCK_BYTES = 8 * 1024  # doubled whenever it comes full: slow clients by the hundred stay small
CONTINUE_LIMIT_S = 1.0  # a node that ignores Expect must not cost more (RFC 9110, 10.1.1)

Read = Callable[[memoryview], int]


class Lines(Protocol):
    """A source that gives both bytes and lines."""

    def readinto(self, view: memoryview) -> int:
        """Fill part of the buffer."""

    def read_line(self, limit: int) -> bytes:
        """Return the next line, without its CRLF."""


class LengthReader:
    """A body framed by Content-Length."""

    def __init__(self, source: Lines, length: int) -> None:
        self._source = source
        self.left = length

    @property
    def is_done(self) -> bool:
        """Return whether the whole body was taken from the connection."""
        return self.left == 0

    @property
    def can_splice(self) -> bool:
        """Return whether the rest of the body is plain bytes on the connection's socket."""
        return bool(getattr(self._source, "can_splice", False))

    def splice(self, pipe: int, limit: int) -> int:
        """Splice received bytes into a pipe; only where ``can_splice`` is true."""
        count: int = self._source.splice(pipe, min(limit, self.left))  # type: ignore[attr-defined]
        self.left -= count
        return count

    def readinto(self, view: memoryview) -> int:
        """Fill part of the buffer; 0 at the end."""
        if not self.left:
            return 0
        count = self._source.readinto(view[: self.left])
        self.left -= count
        return count


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


class Spool:
    """Where such bodies are kept; one for all requests of a process."""

    def __init__(self, memory: ByteBudget, disk: ByteBudget, *, directory: str = "") -> None:
        self.memory = memory
        self.disk = disk
        self.directory = directory or None

    def collect(self, read: Read, *, limit: int | None = None, too_large: S3ErrorResponse | None = None) -> Spooled:
        """Read a body until ``read`` gives 0, of ``limit`` bytes at most; the caller closes what comes back.

        Raises S3ErrorResponse: it is too large (``too_large``), or there is no room now. ClientGoneError: it broke off.
        """
        detail = f"a body of more than {self.disk.size} bytes needs a Content-Length"
        refusal = too_large or S3ErrorResponse(411, "MissingContentLength", detail, closes=True)
        spooled = Spooled(self, limit=limit, too_large=refusal)
        try:
            block = memoryview(bytearray(FIRST_BLOCK_BYTES))
            while count := read(block):
                spooled.add(block[:count])
                if count == len(block) < BLOCK_BYTES:
                    block = memoryview(bytearray(2 * count))
        except BaseException:
            spooled.close()
            raise
        return spooled


class Spooled:
    """One body, and the room that it takes until it is closed."""

    def __init__(self, spool: Spool, *, limit: int | None, too_large: S3ErrorResponse) -> None:
        self._spool = spool
        self._limit = limit
        self._too_large = too_large
        self._file = tempfile.SpooledTemporaryFile(dir=spool.directory)  # noqa: SIM115 closed by close()
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
        if self.length > MEMORY_BYTES or not self._spool.memory.take(more):
            return False
        self._in_memory += more
        return True

    def _reserve(self) -> None:
        if self.length > self._spool.disk.size:
            raise self._too_large
        if not self._spool.disk.take(self.length - self._on_disk):
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
        self._spool.memory.give_back(self._in_memory)
        self._spool.disk.give_back(self._on_disk)
        self._in_memory = self._on_disk = 0
