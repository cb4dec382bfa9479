from __future__ import annotations

import base64
import hashlib

import pytest

from s3pool.errors import UsageError
from s3pool.model import UNSIGNED_PAYLOAD
from s3pool.transfer import checksums
from s3pool.transfer.checksums import check_algorithm, new_hasher, seal_bytes

CONTENT = b"123456789"


def test_payload_is_signed_where_there_is_no_tls() -> None:
    """On plain HTTP the signature alone protects the bytes."""
    sealed = seal_bytes(CONTENT, sign_payload=True)

    assert (hashlib.sha256(CONTENT).hexdigest(), "", None) == (sealed.payload_hash, sealed.content_md5, sealed.checksum)


def test_content_md5_goes_with_an_unsigned_payload() -> None:
    """Any server checks Content-MD5, also one that knows no checksums."""
    sealed = seal_bytes(CONTENT, sign_payload=False)

    expected = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
    assert (UNSIGNED_PAYLOAD, expected) == (sealed.payload_hash, sealed.content_md5)
    assert hashlib.md5(CONTENT).hexdigest() == sealed.md5_hex


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("crc32", "y/Q5Jg=="),
        ("sha1", base64.b64encode(hashlib.sha1(CONTENT).digest()).decode()),
        ("sha256", base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()),
    ],
)
def test_checksum_travels_in_its_own_header(name: str, expected: str) -> None:
    """The value is S3's: base64 of the digest in network order."""
    sealed = seal_bytes(CONTENT, sign_payload=True, checksum=name)

    assert (f"x-amz-checksum-{name}", expected) == sealed.checksum


def test_checksum_md5_is_content_md5() -> None:
    """S3 has no checksum of that name."""
    sealed = seal_bytes(CONTENT, sign_payload=True, checksum="md5")

    assert sealed.checksum is None
    assert sealed.content_md5


def test_checksum_without_its_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain Python would be slower than the network, so the user is told what to install."""

    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(checksums, "import_module", missing)

    with pytest.raises(UsageError, match="pip install"):
        check_algorithm("crc32c")


def test_checksum_of_a_library_is_fed_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries differ in their names only."""

    class Library:
        @staticmethod
        def crc64nvme(block: bytes, value: int) -> int:
            return value * 256 + sum(block)

    monkeypatch.setattr(checksums, "import_module", lambda name: Library)
    hasher = new_hasher("crc64nvme")

    hasher.update(memoryview(b"\x01"))
    hasher.update(memoryview(b"\x02"))

    assert (0x0102).to_bytes(8, "big") == hasher.digest()
