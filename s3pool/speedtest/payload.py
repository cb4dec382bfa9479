"""Objects of random bytes: each is another one, none can be compressed, and they cost little."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from s3pool.body import EMPTY_BODY, Body, BytesBody, Sink

BASE_BYTES = 1 << 20  # of randomness, from the operating system; everything else is made of it
PIECE_BYTES = 1 << 18  # what is in memory of one body at a time
STAMP_BYTES = 16
TABLES = 64  # so many pieces pass until a substitution comes again: 16 MiB, far beyond a compressor's view
BYTE_VALUES = 256
OFFSET_STEP = 4093  # a prime: the pieces of objects begin at ever other places of the base


class RandomSource:
    """Makes bodies of one size; the same number always gives the same bytes.

    Small ones are a part of the base, at a place of their own. Large ones are made piece by
    piece while they are sent; each piece is written with another substitution of bytes, so
    that no two of them have anything in common. All begin with a stamp of their own.
    ``check`` is called before each piece; what it raises ends the sending.
    """

    def __init__(self, size: int, *, check: Callable[[], None] = lambda: None) -> None:
        self.size = size
        self._check = check
        self._base = os.urandom(BASE_BYTES)
        self._tables = _make_tables() if size > PIECE_BYTES else ()

    def body(self, number: int) -> Body:
        """Return the body of object ``number``; it can be sent again."""
        if not self.size:
            return EMPTY_BODY
        if self.size <= PIECE_BYTES:
            return BytesBody(self._plain(number, self.size))
        return GeneratedBody(lambda index, count: self.piece(number, index=index, count=count), self.size, self._check)

    def piece(self, number: int, *, index: int, count: int) -> bytes:
        """Return ``count`` bytes of a large body, from the piece with this index."""
        table = self._tables[(number + index) % TABLES]
        return self._plain(number * TABLES + index, count).translate(table)

    def _plain(self, number: int, count: int) -> bytes:
        stamp = (number.to_bytes(STAMP_BYTES // 2, "big") + self._base[: STAMP_BYTES // 2])[:count]
        start = number * OFFSET_STEP % (BASE_BYTES - PIECE_BYTES)
        return stamp + self._base[start + len(stamp) : start + count]


class GeneratedBody:
    """A body that is made while it is sent, piece by piece."""

    __slots__ = ("_check", "_piece", "length")

    rewindable = True

    def __init__(self, piece: Callable[[int, int], bytes], length: int, check: Callable[[], None]) -> None:
        self._piece = piece
        self._check = check
        self.length = length

    def rewind(self) -> None:
        """Stay where it is: every sending makes the pieces anew."""

    def send(self, sink: Sink) -> None:
        """Write all pieces, unless the check raises: a server keeps nothing of a cut body."""
        for index, start in enumerate(range(0, self.length, PIECE_BYTES)):
            self._check()
            sink.write(self._piece(index, min(PIECE_BYTES, self.length - start)))


def _make_tables() -> tuple[bytes, ...]:
    values = list(range(BYTE_VALUES))
    tables = []
    for _ in range(TABLES):
        random.shuffle(values)
        tables.append(bytes(values))
    return tuple(tables)
