from __future__ import annotations

import hashlib
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pool.body import CHECKSUMS, CRC_BYTES, CrcHasher, combine, new_hasher

DIGESTS = {
    "crc32": "cbf43926",
    "crc32c": "e3069283",
    "crc64nvme": "ae8b14860a799888",
    "sha1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
    "sha256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
}


@pytest.mark.parametrize("name", CHECKSUMS)
def test_check_string_has_the_published_value(name: str) -> None:
    """What every catalogue gives for 123456789, in two blocks, read-only or not."""
    hasher = new_hasher(name)
    hasher.update(memoryview(b"12345"))
    hasher.update(memoryview(bytearray(b"6789")))

    assert DIGESTS[name] == hasher.digest().hex()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("crc32c", bytes(32), "8a9136aa"),
        ("crc32c", b"\xff" * 32, "62a8ab43"),
        ("crc32c", bytes(range(32)), "46dd794e"),
        ("crc64nvme", bytes(4096), "6482d367eb22b64e"),
        ("crc64nvme", b"\xff" * 4096, "c0ddba7302eca3ac"),
    ],
)
def test_crcs_have_the_values_of_their_standards(name: str, content: bytes, expected: str) -> None:
    """RFC 3720, appendix B.4; NVM Command Set, section 5.2.1.3.5."""
    assert expected == digest_of(name, content).hex()


@pytest.mark.parametrize("name", ["crc32c", "crc64nvme"])
@pytest.mark.parametrize("size", [1, 63, 4097, 1_000_003])
def test_another_library_agrees(name: str, size: int) -> None:
    """AWS's own, on sizes around those where machine code changes its ways."""
    native = pytest.importorskip("awscrt.checksums")
    content = random.Random(size).randbytes(size)

    assert getattr(native, name)(content) == int.from_bytes(digest_of(name, content), "big")


def test_crc32_is_that_of_zlib() -> None:
    """Which is everywhere."""
    assert zlib.crc32(b"x") == int.from_bytes(digest_of("crc32", b"x"), "big")


def test_md5_is_a_hash_too() -> None:
    """It travels in a header of its own, and is made in the same way."""
    hasher = new_hasher("md5")
    hasher.update(memoryview(b"x"))

    assert hashlib.md5(b"x").digest() == hasher.digest()


@given(pieces=st.lists(st.binary(max_size=99), max_size=5), name=st.sampled_from(sorted(CRC_BYTES)))
def test_digests_of_pieces_make_that_of_the_whole(pieces: list[bytes], name: str) -> None:
    """An object in parts has one checksum without being read twice."""
    digests = [(digest_of(name, piece), len(piece)) for piece in pieces]

    assert digest_of(name, b"".join(pieces)) == combine(name, digests)


def digest_of(name: str, content: bytes) -> bytes:
    """Return a CRC in network order."""
    hasher = CrcHasher(name)
    hasher.update(memoryview(content))
    return hasher.digest()
