"""A client's request body on its way to a node, kept for a second try where it is small."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from s3pool.body import Sink
from s3pool.errors import IntegrityError
from s3pool.pool.http1 import Wire
from s3pool.pool.splice import open_pipe, takes_splice
from s3pool.proxy.budget import Budget, Buffers
from s3pool.proxy.chunked import LengthReader
from s3pool.proxy.denial import ClientGoneError, Denial
from s3pool.units import MIB

BLOCK_BYTES = 256 * 1024
FIRST_KEPT_BYTES = 64 * 1024  # doubled up to 1 MiB with what has arrived
FIRST_BLOCK_BYTES = 8 * 1024  # doubled whenever it comes full: slow clients by the hundred stay small
LEAVE_LIMIT_S = 1.0  # a node that ignores Expect must not cost more (RFC 9110, 10.1.1)
SPLICE_FROM_BYTES = 1 << 20  # for less a pipe costs more than it saves

Read = Callable[[memoryview], int]


class HashGuard:
    """The bytes of a reader, the last of them only when the SHA-256 of all is the signed one.

    ``length`` is None where the reader's own end tells. A node that gets less than was
    announced stores nothing.
    """

    def __init__(self, read: Read, expected: str, *, length: int | None) -> None:
        self._read = read
        self._expected = expected
        self._left = length
        self._hash = hashlib.sha256()

    def readinto(self, view: memoryview) -> int:
        """Fill part of the buffer; 0 at the end.

        Raises:
            Denial: the body is not the one that was signed.
        """
        count = self._read(view)
        self._hash.update(view[:count])
        if self._left is not None:
            self._left -= count
        is_end = not count if self._left is None else not self._left
        if is_end and not hmac.compare_digest(self._hash.hexdigest(), self._expected):
            raise self.mismatch()
        return count

    @staticmethod
    def mismatch() -> Denial:
        """Give the answer to a body that is not the one that was signed."""
        detail = "The provided 'x-amz-content-sha256' header does not match what was computed."
        return Denial(400, "XAmzContentSHA256Mismatch", detail, closes=True, reason="payload")


class ClientBody:
    """A body that is read from a client while it is sent.

    With ``keeps`` every byte is kept, so that another node can have them again, as long as
    ``memory`` has room for what arrives. Without, it can be sent again while nothing was read.
    ``before_read`` is called once, before the first byte is asked of the client. ``mover`` is
    the reader behind ``read``, given where the kernel may move the bytes past this process.
    ``buffers`` lends the memory, until ``drop``.
    ``awaits_leave`` says that the node was told to expect a body and is the one to ask for it.
    """

    def __init__(
        self,
        read: Read,
        *,
        length: int,
        keeps: bool,
        before_read: Callable[[], None],
        mover: LengthReader | None = None,
        awaits_leave: bool = False,
        buffers: Buffers | None = None,
        memory: Budget | None = None,
    ) -> None:
        self._read = read
        self._before_read: Callable[[], None] | None = before_read
        self._keeps = keeps
        self._mover = mover
        self.awaits_leave = awaits_leave
        self._buffers = buffers
        self._memory = memory
        self._blocks: list[tuple[bytearray, int]] = []  # what is kept: buffers, and how much of each is filled
        self._reserved = 0
        self._taken = 0  # bytes read from the client
        self.length = length
        self.replays = 0

    @property
    def rewindable(self) -> bool:
        """Say whether all bytes that were read can be sent again."""
        return self._keeps or not self._taken

    @property
    def is_read(self) -> bool:
        """Say whether the client's body was taken to its end."""
        return self._taken == self.length

    def rewind(self) -> None:
        """Go back to the first byte.

        Raises:
            IntegrityError: bytes were read and not kept.
        """
        if not self.rewindable:
            raise IntegrityError("a client's body cannot be sent twice")
        if self._taken:
            self.replays += 1

    def prefetch(self) -> bool:
        """Read the whole body into memory, only for one that keeps; False when there is no room for all of it."""
        while not self.is_read and self._take_kept():
            continue
        return self.is_read

    def send(self, sink: Sink) -> None:
        """Write what is kept, then the rest as the client sends it.

        Raises:
            ClientGoneError: the client hung up. Denial: its body is not what it signed.
        """
        if self.awaits_leave and isinstance(sink, Wire):
            sink.await_leave(LEAVE_LIMIT_S)
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
            elif self.is_read or not self._take_kept():
                break
        if not self.is_read:
            self._send_streamed(sink)

    def drop(self) -> None:
        """Let go of what is kept: nobody sends this body again."""
        blocks, self._blocks = self._blocks, []
        self._keeps = False
        if self._buffers is not None:
            for buffer, _ in blocks:
                self._buffers.give_back(buffer)
        if self._memory is not None:
            self._memory.give_back(self._reserved)
        self._reserved = 0

    def _take_kept(self) -> bool:
        """Keep more of the body; False when there is no room, and from then on nothing more is kept."""
        if not self._keeps:
            return False
        if not self._blocks or self._blocks[-1][1] == len(self._blocks[-1][0]):
            size = min(max(FIRST_KEPT_BYTES, self._taken), MIB, self.length - self._taken)
            if self._memory is not None and not self._memory.take(size):
                self._keeps = False
                return False
            self._reserved += size
            self._blocks.append((self._buffers.take(size) if self._buffers else bytearray(size), 0))
        buffer, filled = self._blocks[-1]
        with memoryview(buffer) as view, view[filled : filled + self.length - self._taken] as rest:
            count = self._fill(rest)
        self._blocks[-1] = buffer, filled + count
        self._taken += count
        return True

    def _send_streamed(self, sink: Sink) -> None:
        buffer = memoryview(bytearray(FIRST_BLOCK_BYTES))
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
        if self._mover is None or left < SPLICE_FROM_BYTES or not self._mover.can_splice or not takes_splice(sink):
            return
        made = open_pipe()
        if made is None:
            return
        with made as pipe:
            while self._taken < self.length:
                # What was taken of the client cannot be sent again, wherever it is now.
                count = pipe.push(self._mover.splice, sink, self.length - self._taken)
                self._taken += count

    def _fill(self, view: memoryview) -> int:
        if self._before_read is not None:
            ready, self._before_read = self._before_read, None
            ready()
        count = self._read(view)
        if not count:
            raise ClientGoneError("the client's body is shorter than it said")
        return count
