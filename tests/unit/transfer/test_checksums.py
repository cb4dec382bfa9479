from __future__ import annotations

import base64
import hashlib

import pytest

from s3pool.model import UNSIGNED_PAYLOAD
from s3pool.transfer import digests
from s3pool.transfer.digests import digest_bytes, sha256_is_cheaper

CONTENT = b"123456789"


def test_payload_is_signed_where_there_is_no_tls() -> None:
    """On plain HTTP the signature alone protects the bytes."""
    digests = digest_bytes(CONTENT, sign_payload=True)

    assert (hashlib.sha256(CONTENT).hexdigest(), "", None) == (
        digests.payload_hash,
        digests.content_md5,
        digests.checksum,
    )


def test_content_md5_goes_with_an_unsigned_payload() -> None:
    """Any server checks Content-MD5, also one that knows no checksums."""
    digests = digest_bytes(CONTENT, sign_payload=False)

    expected = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
    assert (UNSIGNED_PAYLOAD, expected) == (digests.payload_hash, digests.content_md5)
    assert hashlib.md5(CONTENT).hexdigest() == digests.md5_hex


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("crc32", "y/Q5Jg=="),
        ("crc32c", "4waSgw=="),
        ("crc64nvme", "rosUhgp5mIg="),
        ("sha1", base64.b64encode(hashlib.sha1(CONTENT).digest()).decode()),
        ("sha256", base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()),
    ],
)
def test_checksum_travels_in_its_own_header(name: str, expected: str) -> None:
    """The value is S3's: base64 of the digest in network order."""
    digests = digest_bytes(CONTENT, sign_payload=True, checksum=name)

    assert (f"x-amz-checksum-{name}", expected) == digests.checksum


def test_checksum_md5_is_content_md5() -> None:
    """S3 has no checksum of that name."""
    digests = digest_bytes(CONTENT, sign_payload=True, checksum="md5")

    assert digests.checksum is None
    assert digests.content_md5


def test_cheaper_digest_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A choice that changed within a run would be of no use to anybody."""
    sha256_is_cheaper.cache_clear()
    first = sha256_is_cheaper()
    monkeypatch.setattr(digests, "_best_of", lambda _act: pytest.fail("measured again"))

    assert first == sha256_is_cheaper()
    sha256_is_cheaper.cache_clear()


def test_without_md5_the_payload_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some systems forbid MD5 even where nothing depends on its strength."""
    sha256_is_cheaper.cache_clear()

    def forbidden(*_content: bytes, **_options: bool) -> None:
        raise ValueError("disabled for FIPS")

    monkeypatch.setattr(hashlib, "md5", forbidden)

    assert sha256_is_cheaper()
    sha256_is_cheaper.cache_clear()
