"""Parts of a stream: their sizes up to the limits of S3, and how many are held at a time."""

from __future__ import annotations

import threading

import pytest

from s3pool.errors import LocalFileError, RefusedError, StoppedError
from s3pool.s3.part_sizes import MAX_OBJECT_BYTES, MAX_PART_BYTES, MAX_PARTS, MIB, MIN_PART_BYTES
from s3pool.transfer import upload
from s3pool.transfer.upload import StreamPart, StreamParts, part_size_at

JOIN_S = 10.0


@pytest.mark.parametrize("first_size", [0, MIN_PART_BYTES, MAX_PART_BYTES])
def test_ten_thousand_parts_hold_the_largest_object(first_size: int) -> None:
    """Nobody knows at the start how long a stream will be."""
    sizes = [part_size_at(number, first_size) for number in range(MAX_PARTS)]

    assert sum(sizes) >= MAX_OBJECT_BYTES
    assert sizes == sorted(sizes)
    assert (first_size or 8 * MIB) == sizes[0]


def test_largest_part_is_bounded() -> None:
    """It is what a stream of terabytes takes of the memory."""
    assert 648 * MIB == part_size_at(MAX_PARTS - 1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all limits small."""
    monkeypatch.setattr(upload, "STREAM_PART_BYTES", 4)
    monkeypatch.setattr(upload, "LARGER_PARTS", ((3, 16),))
    monkeypatch.setattr(upload, "STREAM_MEMORY_BYTES", 8)


class Endless:
    """A stream that counts what was read of it."""

    def __init__(self) -> None:
        self.taken = 0

    def read(self, size: int) -> bytes:
        self.taken += size
        return bytes(size)


@pytest.mark.usefixtures("small")
def test_no_more_is_read_than_there_is_memory_for() -> None:
    """Four workers with parts of hundreds of MiB each would end in the swap."""
    source = Endless()
    parts = StreamParts(source.read)
    stream = iter(parts)
    first, second = next(stream), next(stream)
    found: list[StreamPart] = []
    waiting = threading.Thread(target=lambda: found.append(next(stream)))

    waiting.start()
    before = source.taken
    parts.done(first)
    waiting.join(JOIN_S)

    assert (8, 12) == (before, source.taken)
    assert ([3], 2, b"") == ([part.number for part in found], second.number, first.content)


@pytest.mark.usefixtures("small")
def test_part_that_is_larger_than_the_memory_goes_alone() -> None:
    """It waits for all others, not for ever."""
    parts = StreamParts(Endless().read)
    sizes = []
    for part in parts:
        sizes.append(len(part.content))
        parts.done(part)
        if part.number == 5:
            break

    assert [4, 4, 4, 16, 16] == sizes


@pytest.mark.usefixtures("small")
def test_wait_for_memory_ends_with_the_run() -> None:
    """Nobody gives back what a worker that was told to stop has."""

    def check_stop() -> None:
        raise StoppedError("stopped")

    stream = iter(StreamParts(Endless().read, check_stop=check_stop))
    next(stream)
    next(stream)

    with pytest.raises(StoppedError):
        next(stream)


def test_stream_beyond_the_largest_object_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Better said here than by a server after terabytes more."""
    monkeypatch.setattr(upload, "STREAM_PART_BYTES", 4)
    monkeypatch.setattr(upload, "MAX_OBJECT_BYTES", 10)

    with pytest.raises(RefusedError, match="longer than 5 TiB"):
        list(StreamParts(Endless().read))


def test_read_error_is_told() -> None:
    """The pipe's other end may lie on a disk that fails."""

    def read(_: int) -> bytes:
        raise OSError(5, "Input/output error")

    with pytest.raises(LocalFileError, match="cannot read the stream"):
        list(StreamParts(read))
