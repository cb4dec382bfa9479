from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pool.crc import KINDS, LANES, MIN_LANE_BYTES, combine, update

LANE_SIZES = [LANES * MIN_LANE_BYTES + extra for extra in (-1, 0, 1)]
SIZES = [0, 1, 7, 8, 9, 15, 16, 17, *LANE_SIZES, 5 * LANES * MIN_LANE_BYTES + 3]


def noise(size: int) -> bytes:
    """Give bytes without a pattern, the same in every run."""
    return random.Random(size).randbytes(size)


def bit_by_bit(name: str, content: bytes) -> int:
    """Give a CRC straight from its definition."""
    kind = KINDS[name]
    value = kind.mask
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (kind.polynomial if value & 1 else 0)
    return value ^ kind.mask


@pytest.mark.parametrize(
    ("name", "expected"), [("crc32", 0xCBF43926), ("crc32c", 0xE3069283), ("crc64nvme", 0xAE8B14860A799888)]
)
def test_check_string_has_the_published_value(name: str, expected: int) -> None:
    """What every catalogue of CRCs gives for 123456789."""
    assert expected == update(KINDS[name], b"123456789")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_has_the_values_of_its_rfc(content: bytes, expected: int) -> None:
    """RFC 3720, appendix B.4."""
    assert expected == update(KINDS["crc32c"], content)


@pytest.mark.parametrize(
    ("content", "expected"), [(bytes(4096), 0x6482D367EB22B64E), (b"\xff" * 4096, 0xC0DDBA7302ECA3AC)]
)
def test_crc64nvme_has_the_values_of_its_standard(content: bytes, expected: int) -> None:
    """NVM Command Set Specification, figure of 64b CRC test cases."""
    assert expected == update(KINDS["crc64nvme"], content)


@pytest.mark.parametrize("size", SIZES)
def test_every_way_through_agrees_with_zlib(size: int) -> None:
    """Words, lanes and the seam between them are one function; only crc32 has an oracle everywhere."""
    content = noise(size)

    assert zlib.crc32(content) == update(KINDS["crc32"], content)


@pytest.mark.parametrize("name", ["crc32c", "crc64nvme"])
@pytest.mark.parametrize("size", [*LANE_SIZES, 1 << 20])
def test_lanes_agree_with_machine_code(name: str, size: int) -> None:
    """The library that is used where it is installed gives the same."""
    native = pytest.importorskip("awscrt.checksums")
    content = noise(size)

    assert getattr(native, name)(content) == update(KINDS[name], content)


@pytest.mark.parametrize("name", KINDS)
def test_lanes_agree_with_the_definition(name: str) -> None:
    """Also where no library is installed."""
    content = noise(LANES * MIN_LANE_BYTES + 9)

    assert bit_by_bit(name, content) == update(KINDS[name], memoryview(content))


@given(content=st.binary(max_size=200), cut=st.integers(0, 200), name=st.sampled_from(sorted(KINDS)))
def test_parts_make_the_whole(content: bytes, cut: int, name: str) -> None:
    """Fed in two blocks, or computed apart and combined."""
    kind = KINDS[name]
    first, second = content[:cut], content[cut:]

    whole = bit_by_bit(name, content)

    assert whole == update(kind, second, update(kind, first))
    assert whole == combine(kind, update(kind, first), update(kind, second), second_bytes=len(second))


@pytest.mark.parametrize("name", KINDS)
def test_register_crosses_into_lanes(name: str) -> None:
    """A large block goes on where a small one ended."""
    kind = KINDS[name]
    content = noise(LANES * MIN_LANE_BYTES + 5)

    assert update(kind, content) == update(kind, content[5:], update(kind, content[:5]))
