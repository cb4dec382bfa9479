"""The CRCs of S3 in plain Python, and how the CRC of a whole is made of those of its parts.

All of them are reflected, begin with ones and end inverted, so a polynomial and a width say
everything. The register is treated as what it is, a polynomial over GF(2): to pass n zero
bytes is to multiply by x^8n.

Source: Koopman, "Cyclic redundancy codes"; NVM Express, NVM Command Set, section 5.2.1.3.4;
zlib, crc32_combine().
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

BYTE_BITS = 8
BYTE_VALUES = 1 << BYTE_BITS
WORD = struct.Struct("<Q")  # what one step of the tables takes
LANES = 1024  # a large block is cut into so many pieces that advance side by side
MIN_LANE_BYTES = 16  # below this putting the lanes together costs more than they save

Tables = tuple[Sequence[int], ...]


class Kind(NamedTuple):
    """What tells one CRC from another; the polynomial is reflected."""

    polynomial: int
    bits: int

    @property
    def size(self) -> int:
        """Give the length of a value in bytes."""
        return self.bits // BYTE_BITS

    @property
    def mask(self) -> int:
        """Give the register full of ones."""
        return (1 << self.bits) - 1


KINDS = {
    "crc32": Kind(0xEDB88320, 32),
    "crc32c": Kind(0x82F63B78, 32),
    "crc64nvme": Kind(0x9A6C9329AC4BC9B5, 64),
}


def update(kind: Kind, block: memoryview | bytes, value: int = 0) -> int:
    """Give the CRC of what ``value`` is the CRC of, followed by a block."""
    view = memoryview(block)
    register = value ^ kind.mask
    while (lane_bytes := _lane_bytes(len(view))) >= MIN_LANE_BYTES:
        taken = LANES * lane_bytes
        register = _pass_lanes(kind, bytes(view[:taken]), register)
        view = view[taken:]
    return _pass_words(kind, view, register) ^ kind.mask


def combine(kind: Kind, first: int, second: int, *, second_bytes: int) -> int:
    """Give the CRC of two pieces in a row from the CRC of each and the second's length."""
    return _multiply(kind, _power(kind, second_bytes), first) ^ second


def _multiply(kind: Kind, left: int, right: int) -> int:
    """Multiply two polynomials modulo the CRC's; the highest bit is x^0."""
    product = 0
    bit = 1 << (kind.bits - 1)
    while left:
        if left & bit:
            product ^= right
            left ^= bit
        bit >>= 1
        right = (right >> 1) ^ kind.polynomial if right & 1 else right >> 1
    return product


@lru_cache(maxsize=64)
def _power(kind: Kind, count: int) -> int:
    """Give x to the power of 8 times count."""
    result = 1 << (kind.bits - 1)
    square = 1 << (kind.bits - 1 - BYTE_BITS)
    while count:
        if count & 1:
            result = _multiply(kind, result, square)
        square = _multiply(kind, square, square)
        count >>= 1
    return result


# -- a few bytes: one word at a time -------------------------------------------------------


def _pass_words(kind: Kind, view: memoryview, register: int) -> int:
    cut = len(view) - len(view) % WORD.size
    one, two, three, four, five, six, seven, eight = _word_tables(kind)
    for (word,) in WORD.iter_unpack(view[:cut]):
        a, b, c, d, e, f, g, h = (register ^ word).to_bytes(WORD.size, "little")
        register = one[a] ^ two[b] ^ three[c] ^ four[d] ^ five[e] ^ six[f] ^ seven[g] ^ eight[h]
    for byte in view[cut:]:
        register = eight[(register ^ byte) & 0xFF] ^ (register >> BYTE_BITS)
    return register


@cache
def _word_tables(kind: Kind) -> Tables:
    """Give, for each byte of a word, what it becomes when the whole word has passed."""
    tables = [_byte_table(kind)]
    for _ in range(WORD.size - 1):
        tables.append([tables[0][value & 0xFF] ^ (value >> BYTE_BITS) for value in tables[-1]])
    return tuple(reversed(tables))


@cache
def _byte_table(kind: Kind) -> Sequence[int]:
    table = list(range(BYTE_VALUES))
    for _ in range(BYTE_BITS):
        table = [(value >> 1) ^ (kind.polynomial if value & 1 else 0) for value in table]
    return table


# -- many bytes: many lanes at a time ------------------------------------------------------
# A loop over bytes is what makes Python slow. Here one step advances a thousand registers by
# one byte: byte k of all registers is one string, bytes.translate() looks all of them up, and
# XOR of strings is XOR of large integers.


def _lane_bytes(count: int) -> int:
    """Give how long the lanes of so many bytes are: a power of two, so that few tables are made."""
    return 1 << (count // LANES).bit_length() >> 1


def _pass_lanes(kind: Kind, block: bytes, register: int) -> int:
    lane_bytes = len(block) // LANES
    tables = _translations(kind)
    planes = [0] * kind.size
    for position in range(lane_bytes):
        column = int.from_bytes(block[position::lane_bytes], "little")
        if position < kind.size:
            # To begin with a register is to begin with zero and XOR it into the first bytes.
            column ^= (register >> (BYTE_BITS * position)) & 0xFF
        index = (planes[0] ^ column).to_bytes(LANES, "little")
        looked_up = [int.from_bytes(index.translate(table), "little") for table in tables]
        planes = [plane ^ found for plane, found in zip((*planes[1:], 0), looked_up, strict=True)]
    return _join_lanes(kind, planes, lane_bytes)


def _join_lanes(kind: Kind, planes: Sequence[int], lane_bytes: int) -> int:
    registers = bytearray(LANES * WORD.size)
    for number, plane in enumerate(planes):
        registers[number :: WORD.size] = plane.to_bytes(LANES, "little")
    one, two, three, four, five, six, seven, eight = _leap_tables(kind, lane_bytes)
    register = 0
    for (lane,) in WORD.iter_unpack(registers):
        a, b, c, d, e, f, g, h = register.to_bytes(WORD.size, "little")
        register = one[a] ^ two[b] ^ three[c] ^ four[d] ^ five[e] ^ six[f] ^ seven[g] ^ eight[h] ^ lane
    return register


@cache
def _translations(kind: Kind) -> Sequence[bytes]:
    """Give the byte table cut into one table for each byte of its values."""
    table = _byte_table(kind)
    return [bytes((value >> shift) & 0xFF for value in table) for shift in range(0, kind.bits, BYTE_BITS)]


@cache
def _leap_tables(kind: Kind, count: int) -> Tables:
    """Give, for each byte of a register, what it becomes when count zero bytes have passed."""
    factor = _power(kind, count)
    tables = []
    for shift in range(0, WORD.size * BYTE_BITS, BYTE_BITS):
        table = [0]
        for bit in range(BYTE_BITS):
            leap = _multiply(kind, factor, 1 << (shift + bit)) if shift < kind.bits else 0
            table += [value ^ leap for value in table]
        tables.append(table)
    return tuple(tables)
