from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator

import pytest

from s3pool import hashing
from s3pool.hashing import CHECKSUMS, CrcHasher, combine, is_fast, new_hasher, warn_if_slow

DIGESTS = {
    "crc32": "cbf43926",
    "crc32c": "e3069283",
    "crc64nvme": "ae8b14860a799888",
    "sha1": "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
    "sha256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
}


def forget() -> None:
    """Empty what is remembered for a process."""
    hashing._native.cache_clear()
    warn_if_slow.cache_clear()


@pytest.fixture(params=["native", "plain"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Have the library installed, or not."""
    if request.param == "plain":
        monkeypatch.setitem(sys.modules, "awscrt", None)
    else:
        pytest.importorskip("awscrt")
    forget()
    yield request.param
    forget()


@pytest.mark.parametrize("name", CHECKSUMS)
def test_check_string_has_the_published_value(name: str, library: str) -> None:
    """With the library and without, in one block or in two."""
    hasher = new_hasher(name)
    hasher.update(memoryview(b"12345"))
    hasher.update(memoryview(bytearray(b"6789")))

    assert DIGESTS[name] == hasher.digest().hex()


def test_md5_is_a_hash_too() -> None:
    """It travels in a header of its own, and is made in the same way."""
    hasher = new_hasher("md5")
    hasher.update(memoryview(b"x"))

    assert hashlib.md5(b"x").digest() == hasher.digest()


def test_only_rarer_crcs_are_ever_slow(library: str) -> None:
    """Both zlib and hashlib are everywhere."""
    slow = [name for name in (*CHECKSUMS, "md5") if not is_fast(name)]

    assert ([] if library == "native" else ["crc64nvme", "crc32c"]) == slow


def test_old_library_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """crc64nvme came later than the rest of it."""

    class Old:
        @staticmethod
        def crc32c(block: memoryview, value: int) -> int:
            return value + len(block)

    monkeypatch.setitem(sys.modules, "awscrt", type("awscrt", (), {"checksums": Old}))
    forget()

    assert (True, False) == (is_fast("crc32c"), is_fast("crc64nvme"))
    forget()


def test_slowness_is_told_once(library: str, caplog: pytest.LogCaptureFixture) -> None:
    """One line that says what to install, however many objects follow."""
    with caplog.at_level(logging.WARNING):
        for name in ("", "crc32", "crc32c", "crc32c"):
            warn_if_slow(name)

    expected = ["crc32c is computed in plain Python here, which is slow: pip install 's3pool[checksums]' helps"]
    assert ([] if library == "native" else expected) == caplog.messages


@pytest.mark.parametrize("name", ["crc32", "crc32c", "crc64nvme"])
@pytest.mark.parametrize("pieces", [[], [b""], [b"1234", b"", b"56", b"789"]])
def test_digests_of_pieces_make_that_of_the_whole(name: str, pieces: list[bytes]) -> None:
    """An object in parts has one checksum without being read twice."""
    digests = [(digest_of(name, piece), len(piece)) for piece in pieces]

    assert digest_of(name, b"".join(pieces)) == combine(name, digests)


def digest_of(name: str, content: bytes) -> bytes:
    """Give a CRC in network order."""
    hasher = CrcHasher(name)
    hasher.update(memoryview(content))
    return hasher.digest()
