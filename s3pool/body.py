"""Bodies: where their bytes come from and go to, and how fast these move."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import time
from collections.abc import Callable
from typing import Protocol

from s3pool.errors import IntegrityError

READ_BLOCK_BYTES = 1 << 18  # a worker's whole body memory is one reused buffer of this size; it fits a core's cache
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
BURST_S = 0.1  # credit that a limit of speed saves up, in seconds of the rate
SPEED_WEIGHT = 0.3  # share of the newest body in the moving average of a node's speed


class Sink(Protocol):
    """Where a body is written: a connection, plain or TLS."""

    def write(self, block: bytes | bytearray | memoryview) -> None:
        """Send all of the block."""

    def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send count bytes of an open file from offset on; fails if the file ends early."""


class Body(Protocol):
    """The body of a request; its length in bytes is known before sending."""

    @property
    def length(self) -> int:
        """Return the number of bytes that send() will write."""

    @property
    def rewindable(self) -> bool:
        """Return whether the whole body can be sent again after rewind()."""

    def rewind(self) -> None:
        """Go back to the first byte, so that another attempt sends the same bytes."""

    def send(self, sink: Sink) -> None:
        """Write the whole body."""


class BytesBody:
    """A body held in memory."""

    __slots__ = ("content",)

    rewindable = True

    def __init__(self, content: bytes | bytearray = b"") -> None:
        self.content = content

    @property
    def length(self) -> int:
        """Return the number of bytes."""
        return len(self.content)

    def rewind(self) -> None:
        """Do nothing: memory has no position."""

    def send(self, sink: Sink) -> None:
        """Write the content in one piece."""
        if self.content:
            sink.write(self.content)

    def sha256(self) -> str:
        """Return the hex digest that SigV4 signs."""
        return hashlib.sha256(self.content).hexdigest() if self.content else EMPTY_SHA256


class FileSlice:
    """A range of an open file, sent with sendfile where the connection allows it.

    The descriptor belongs to the caller and must stay open. Only positioned reads are
    used, so many slices may share one descriptor over many threads.
    """

    __slots__ = ("fd", "length", "offset")

    rewindable = True

    def __init__(self, fd: int, *, offset: int = 0, length: int) -> None:
        self.fd = fd
        self.offset = offset
        self.length = length

    def rewind(self) -> None:
        """Do nothing: positioned reads have no position to reset."""

    def send(self, sink: Sink) -> None:
        """Send the range; raises IntegrityError when the file has become shorter."""
        if self.length:
            sink.send_file(self.fd, self.offset, self.length)

    def feed(self, update: Callable[[memoryview], object]) -> None:
        """Pass the range to a hasher block by block, through one buffer.

        Raises IntegrityError: the file ended before the range did.
        """
        buffer = memoryview(bytearray(min(READ_BLOCK_BYTES, self.length)))
        offset, left = self.offset, self.length
        while left:
            count = os.preadv(self.fd, [buffer[: min(left, READ_BLOCK_BYTES)]], offset)
            if count == 0:
                raise IntegrityError(f"the file became {left} bytes shorter while it was read")
            update(buffer[:count])
            offset += count
            left -= count


EMPTY_BODY = BytesBody()


class _Md5Sink:
    def __init__(self) -> None:
        self.md5 = hashlib.md5(usedforsecurity=False)

    def write(self, block: bytes | bytearray | memoryview) -> None:
        self.md5.update(block)

    def send_file(self, fd: int, offset: int, count: int) -> None:
        FileSlice(fd, offset=offset, length=count).feed(self.md5.update)


def md5_base64(body: Body) -> str:
    """Return what Content-MD5 says of a body that can be read again."""
    sink = _Md5Sink()
    body.send(sink)
    body.rewind()
    return base64.b64encode(sink.md5.digest()).decode()


class Throttle:
    """Hold all transfers together at a rate in bytes per second, received ones at ``down``; 0 is no limit."""

    def __init__(
        self,
        rate: int,
        *,
        down: int | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._down = None if down is None else Throttle(down, now=now, sleep=sleep)
        self._now = now
        self._sleep = sleep
        # Guards the schedule; the waiting itself happens outside of it.
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, count: int) -> None:
        """Wait until count bytes fit into the rate: every caller books a slot of its own at the end of the line."""
        if not self._rate:
            return
        with self._lock:
            now = self._now()
            self._free_at = max(self._free_at, now - BURST_S) + count / self._rate
            wait = self._free_at - now
        if wait > 0:
            self._sleep(wait)

    def take_received(self, count: int) -> None:
        """Wait until count bytes that were received fit into their rate."""
        (self._down or self).take(count)


class BodySpeed:
    """How fast a node takes bodies and sends them: bytes per second of waiting, 0.0 while that is unknown."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.sent = self.received = 0.0

    def note(self, count: int, waited_s: float, *, is_read: bool) -> None:
        """Note a body that has moved whole."""
        speed = count / max(waited_s, 1e-6)
        old = self.of(is_read=is_read)
        self.set(old + SPEED_WEIGHT * (speed - old) if old else speed, is_read=is_read)

    def of(self, *, is_read: bool) -> float:
        """Return the speed of the bodies of answers, or of requests."""
        return self.received if is_read else self.sent

    def set(self, speed: float, *, is_read: bool) -> None:
        """Forget what was known."""
        if is_read:
            self.received = speed
        else:
            self.sent = speed
