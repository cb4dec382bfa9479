"""Bodies: where their bytes come from and go to, how fast these move, and their checksums."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Protocol

from s3pool.errors import ConfigError, IntegrityError

READ_BLOCK_BYTES = 1 << 18  # a worker's whole body memory is one reused buffer of this size; it fits a core's cache
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
BURST_S = 0.1  # credit that a limit of speed saves up, in seconds of the rate
SPEED_WEIGHT = 0.3  # share of the newest body in the moving average of a node's speed
CHECKSUM_PREFIX = "x-amz-checksum-"
CHECKSUMS = ("crc64nvme", "crc32c", "crc32", "sha256", "sha1")  # all that S3 has a header for
CHEAP = "crc64nvme"  # in machine code a twentieth of a SHA-256, and of the whole content whatever the parts
CRC_BYTES = {"crc32": 4, "crc32c": 4, "crc64nvme": 8}  # the length of a value
MODELS = {"crc32": "CRC32", "crc32c": "CRC32C", "crc64nvme": "CRC64-NVME"}  # names in the catalogue of CRCs

CrcFunction = Callable[[memoryview, int], int]


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


class Hasher(Protocol):
    """The interface that hashlib's objects share with CrcHasher."""

    def update(self, block: memoryview, /) -> object:
        """Add bytes."""

    def digest(self) -> bytes:
        """Return the digest of all bytes so far."""


class CrcHasher:
    """A CRC with the interface of a hash."""

    __slots__ = ("_function", "_size", "_value")

    def __init__(self, name: str) -> None:
        self._function: CrcFunction = zlib.crc32 if name == "crc32" else _model(name).calc
        self._size = CRC_BYTES[name]
        self._value = 0

    def update(self, block: memoryview, /) -> None:
        """Add bytes."""
        self._value = self._function(block, self._value)

    def digest(self) -> bytes:
        """Return the value in network byte order."""
        return self._value.to_bytes(self._size, "big")


def new_hasher(name: str) -> Hasher:
    """Return a hasher for one of S3's checksums, or for md5."""
    return CrcHasher(name) if name in CRC_BYTES else hashlib.new(name, usedforsecurity=False)


def combine(name: str, pieces: Iterable[tuple[bytes, int]]) -> bytes:
    """Return the CRC of a whole from the digests and lengths of its pieces, in order."""
    model = _model(name)
    value = 0  # the CRC of nothing
    for digest, length in pieces:
        value = model.combine(value, int.from_bytes(digest, "big"), length)
    return int(value).to_bytes(CRC_BYTES[name], "big")


def has_machine_code() -> bool:
    """Return whether CRCs cost next to nothing here."""
    try:
        return _model("crc64nvme") is not None
    except ConfigError:
        return False


@cache
def _model(name: str) -> Any:
    # Imported late: loading takes 10 to 20 ms, and most commands need no CRC.
    try:
        import anycrc
    except ImportError as exc:  # the one file that runs with Python alone has no machine code
        raise ConfigError(f"{name} needs the package anycrc, which is not here: pip install anycrc") from exc

    return anycrc.Model(MODELS[name])
