"""A stream cut into parts: few enough for 5 TiB, and few enough at a time for the memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from s3pool.errors import RefusedError
from s3pool.s3.part_sizes import MAX_OBJECT_BYTES, MAX_PARTS, MIB
from s3pool.transfer.safe_path import local_error

STREAM_PART_BYTES = 8 * MIB  # of the first parts: each is held in memory until it is stored
# From which part on the parts have at least which size: 10,000 parts then hold 5 TiB, whatever
# the first ones had, and a stream of up to 8 GiB is held in parts of 8 MiB.
LARGER_PARTS = ((1000, 32 * MIB), (1500, 128 * MIB), (2000, 648 * MIB))
STREAM_MEMORY_BYTES = 256 * MIB  # of the parts in flight; one that is larger goes alone
WAKE_S = 0.5  # how long a wait for memory lasts before it looks whether the run was stopped


def part_size_at(number: int, first_size: int = 0) -> int:
    """Return the size of a part by its place in the stream, counted from 0."""
    size = first_size or STREAM_PART_BYTES
    return max([size, *(larger for start, larger in LARGER_PARTS if number >= start)])


class StreamPart:
    """One part; it lets go of its bytes when it is done, whoever may still hold it."""

    __slots__ = ("content", "number")

    def __init__(self, number: int, content: bytes | bytearray) -> None:
        self.number = number
        self.content = content


class StreamParts:
    """The parts of a stream, numbered from 1, for several workers to take in turn.

    ``read`` is a blocking file's ``read``. Taking one waits until there is memory for it:
    each is to be given back with done() when it is stored, or failed. ``check_stop`` raises
    when the run is to end.
    """

    def __init__(
        self, read: Callable[[int], bytes], *, part_size: int = 0, check_stop: Callable[[], None] = lambda: None
    ) -> None:
        self._read = read
        self._part_size = part_size
        self._check_stop = check_stop
        # Guards the bytes in flight; never held while the stream is read.
        self._room = threading.Condition()
        self._in_flight = 0

    def __iter__(self) -> Iterator[StreamPart]:
        """Yield the parts.

        Raises:
            RefusedError: the stream has more than an object can hold.
            LocalFileError: it cannot be read.
        """
        total = 0
        for number in range(MAX_PARTS):
            size = part_size_at(number, self._part_size)
            self._take(size)
            content = read_exactly(self._read, size)
            self._give_back(size - len(content))
            if not content:
                return
            total += len(content)
            if total > MAX_OBJECT_BYTES:
                break
            yield StreamPart(number + 1, content)
            del content  # or it would live as long as the wait for the next one
        if total > MAX_OBJECT_BYTES or self._read(1):
            raise RefusedError("the stream is longer than 5 TiB, and no object can be")

    def done(self, part: StreamPart) -> None:
        """Let go of a part."""
        size, part.content = len(part.content), b""
        self._give_back(size)

    def _take(self, size: int) -> None:
        with self._room:
            while self._in_flight and self._in_flight + size > STREAM_MEMORY_BYTES:
                self._room.wait(WAKE_S)
                self._check_stop()
            self._in_flight += size

    def _give_back(self, size: int) -> None:
        with self._room:
            self._in_flight -= size
            self._room.notify_all()


def read_exactly(read: Callable[[int], bytes], size: int) -> bytes | bytearray:
    """Read until the size or the end is reached: a pipe gives less than it was asked for.

    Raises:
        LocalFileError: the stream cannot be read.
    """
    try:
        first = read(size)
        if len(first) == size or not first:
            return first
        pieces = bytearray(first)
        while len(pieces) < size and (block := read(size - len(pieces))):
            pieces += block
    except OSError as exc:
        raise local_error("read", "the stream", exc) from exc
    return pieces  # not copied once more: it may be large
