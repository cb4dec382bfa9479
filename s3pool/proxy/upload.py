"""A client's request body on its way to a node, kept for a second try where it is small."""

from __future__ import annotations

import threading
from collections.abc import Callable

from s3pool.body import Sink
from s3pool.errors import IntegrityError
from s3pool.proxy.denial import ClientGoneError

MIB = 1 << 20
REPLAY_BYTES = 16 * MIB  # covers the parts of all clients in their default settings
REPLAY_MEMORY_BYTES = 256 * MIB  # for all requests of a process together
BLOCK_BYTES = 256 * 1024

Read = Callable[[memoryview], int]


class Budget:
    """Memory that all requests share; who finds it empty goes without."""

    def __init__(self, size: int) -> None:
        # Guards the number below; held for one addition.
        self._lock = threading.Lock()
        self._left = size
        self.size = size

    @property
    def used(self) -> int:
        """Give the bytes in use."""
        return self.size - self._left

    def take(self, count: int) -> bool:
        """Ask for so many bytes; False when they are not there."""
        with self._lock:
            if count > self._left:
                return False
            self._left -= count
            return True

    def give_back(self, count: int) -> None:
        """Return what was taken."""
        with self._lock:
            self._left += count


class ClientBody:
    """A body that is read from a client while it is sent.

    With ``keeps`` every byte is kept, so that another node can have them again; the memory
    was asked for before. Without, it can be sent again while nothing was read.
    ``before_read`` is called once, before the first byte is asked of the client.
    """

    def __init__(self, read: Read, *, length: int, keeps: bool, before_read: Callable[[], None]) -> None:
        self._read = read
        self._before_read: Callable[[], None] | None = before_read
        self._keeps = keeps
        self._kept = memoryview(b"")
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

    def prefetch(self) -> None:
        """Read the whole body into memory; only for one that keeps."""
        while not self.is_read:
            self._take_kept()

    def send(self, sink: Sink) -> None:
        """Write what is kept, then the rest as the client sends it.

        Raises:
            ClientGoneError: the client hung up. Denial: its body is not what it signed.
        """
        if not self._keeps:
            self._send_streamed(sink)
            return
        sent = 0
        while sent < self.length:
            if sent == self._taken:
                self._take_kept()
            block = self._kept[sent : min(self._taken, sent + MIB)]
            sink.write(block)
            sent += len(block)

    def _take_kept(self) -> None:
        if not self._taken:
            self._kept = memoryview(bytearray(self.length))
        self._taken += self._fill(self._kept[self._taken : self._taken + MIB])

    def _send_streamed(self, sink: Sink) -> None:
        buffer = memoryview(bytearray(min(BLOCK_BYTES, max(self.length, 1))))
        while self._taken < self.length:
            count = self._fill(buffer[: min(self.length - self._taken, len(buffer))])
            self._taken += count
            sink.write(buffer[:count])

    def _fill(self, view: memoryview) -> int:
        if self._before_read is not None:
            ready, self._before_read = self._before_read, None
            ready()
        count = self._read(view)
        if not count:
            raise ClientGoneError("the client's body is shorter than it said")
        return count
