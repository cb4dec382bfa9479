"""Random bodies: different, incompressible, the same when sent again, small in memory."""

from __future__ import annotations

import lzma
import zlib

import pytest

from s3pool.body import Body
from s3pool.errors import StoppedError
from s3pool.speedtest.bench import PIECE_BYTES, RandomSource

SIZES = [1, 15, 16, 17, 4096, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES - 7]


LOOKS_FAR_BACK = {"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 22}


class Gathering:
    """A sink that keeps what is written."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []

    def write(self, block: bytes | bytearray | memoryview) -> None:
        self.blocks.append(bytes(block))

    def send_file(self, fd: int, offset: int, count: int) -> None:
        raise AssertionError("no file is sent")


def content(body: Body) -> bytes:
    """Send a body and give its bytes."""
    sink = Gathering()
    body.send(sink)
    return b"".join(sink.blocks)


@pytest.mark.parametrize("size", SIZES)
def test_body_has_the_size_and_can_be_sent_again(size: int) -> None:
    """Another attempt sends the same bytes to another node."""
    body = RandomSource(size).body(3)

    first = content(body)
    body.rewind()

    assert (size, size) == (body.length, len(first))
    assert first == content(body)
    assert body.rewindable


def test_no_bytes_are_an_empty_body() -> None:
    """Objects without content measure requests alone."""
    assert b"" == content(RandomSource(0).body(1))


@pytest.mark.parametrize("size", [4096, 3 * PIECE_BYTES])
def test_no_two_objects_are_alike(size: int) -> None:
    """A store that keeps equal blocks once must get no discount."""
    source = RandomSource(size)

    contents = [content(source.body(number)) for number in range(20)]

    assert 20 == len({part[:4096] for part in contents})


@pytest.mark.parametrize("size", [PIECE_BYTES, 6 * PIECE_BYTES])
def test_it_cannot_be_compressed(size: int) -> None:
    """Not even by who looks back over the whole object."""
    text = content(RandomSource(size).body(7))

    assert len(zlib.compress(text, 6)) >= size
    assert len(lzma.compress(text, filters=[LOOKS_FAR_BACK])) >= size


def test_large_body_is_made_in_pieces() -> None:
    """Memory does not grow with the size of the objects."""
    sink = Gathering()

    RandomSource(10 * PIECE_BYTES + 5).body(0).send(sink)

    assert [PIECE_BYTES] * 10 + [5] == [len(block) for block in sink.blocks]


def test_check_ends_a_sending() -> None:
    """An interrupt must not wait for a large object; the server keeps nothing of a cut one."""
    sink = Gathering()
    answers = iter([None, None])

    def check() -> None:
        if next(answers, "stop"):
            raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        RandomSource(5 * PIECE_BYTES, check=check).body(0).send(sink)

    assert 2 == len(sink.blocks)
