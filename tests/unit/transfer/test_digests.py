"""What tells bytes apart: ETags, checksums that travel and that servers keep, and downloads held against them."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import pytest

from s3pool.body import CHECKSUMS, new_hasher
from s3pool.errors import IntegrityError
from s3pool.model import UNSIGNED_PAYLOAD
from s3pool.s3.requests import iter_ranges
from s3pool.transfer.context import TransferContext
from s3pool.transfer.digests import (
    PART_SIZE,
    Digests,
    ServerChecksum,
    check_file,
    composite_etag,
    digest_bytes,
    is_md5_etag,
    likely_part_sizes,
    part_count_of,
    server_checksum,
    sha256_is_cheaper,
    whole_checksum,
)
from s3pool.transfer.download import download_to
from s3pool.transfer.object_reader import Source
from s3pool.transfer.tasks import Done, DownloadTask
from tests.support.fake_s3 import MIB, FakeS3, FlipByte
from tests.support.fake_s3.wire import flip
from tests.support.transfers import download
from tests.unit.transfer.conftest import Make


def test_composite_etag_is_the_md5_of_the_parts_md5s() -> None:
    """S3's way to name an object of parts."""
    parts = [hashlib.md5(text).digest() for text in (b"one", b"two")]

    etag = composite_etag(part.hex() for part in parts)

    assert f"{hashlib.md5(parts[0] + parts[1]).hexdigest()}-2" == etag


def test_composite_etag_of_foreign_parts_is_unknown() -> None:
    """Under customer keys a part's ETag is no MD5, and nothing can be computed."""
    assert "" == composite_etag(["0" * 32, "something"])


@pytest.mark.parametrize(
    ("etag", "is_md5", "count"),
    [
        ("0" * 32, True, 0),
        ("0" * 32 + "-7", False, 7),
        ("0" * 31, False, 0),
        ("", False, 0),
        ("0" * 32 + "-0", False, 0),
    ],
)
def test_etag_tells_what_it_is(etag: str, is_md5: bool, count: int) -> None:
    """Only what has the form is compared."""
    assert (is_md5, count) == (is_md5_etag(etag), part_count_of(etag))


def test_ranges_cover_every_byte_once() -> None:
    """The last one is shorter."""
    ranges = [(place.first, place.last) for place in iter_ranges(25, 10)]

    assert [(0, 9), (10, 19), (20, 24)] == ranges


@pytest.mark.parametrize(("size", "count", "part_size"), [(20 * MIB, 3, 8 * MIB), (100 * MIB, 2, 50 * MIB)])
def test_part_sizes_of_known_clients_are_tried(size: int, count: int, part_size: int) -> None:
    """The number of parts leaves few sizes that are in use somewhere."""
    assert part_size in set(likely_part_sizes(size, count))


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


def test_cheaper_digest_is_measured_once() -> None:
    """A choice that changed within a run would be of no use to anybody."""
    sha256_is_cheaper.cache_clear()

    assert sha256_is_cheaper() == sha256_is_cheaper()
    assert 1 == sha256_is_cheaper.cache_info().misses


def test_without_md5_the_payload_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some systems forbid MD5 even where nothing depends on its strength."""
    sha256_is_cheaper.cache_clear()

    def forbidden(*_content: bytes, **_options: bool) -> None:
        raise ValueError("disabled for FIPS")

    monkeypatch.setattr(hashlib, "md5", forbidden)

    assert sha256_is_cheaper()
    sha256_is_cheaper.cache_clear()


CRC32 = bytes.fromhex("cbf43926")
SHA1 = bytes.fromhex("f7c3bc1d808e04732adf679965ccc34ca7ae3441")


def told(name: str, value: str, kind: str = "") -> dict[str, str]:
    """Give the headers of an answer that tells a checksum."""
    return {f"x-amz-checksum-{name}": value} | ({"x-amz-checksum-type": kind} if kind else {})


@pytest.mark.parametrize("kind", ["", "FULL_OBJECT"])
def test_checksum_of_the_content_is_found(kind: str) -> None:
    """Servers that are older than the type tell none."""
    headers = told("crc32", "y/Q5Jg==", kind)

    assert ServerChecksum("crc32", CRC32) == server_checksum(headers) == whole_checksum(headers)


@pytest.mark.parametrize("kind", ["", "COMPOSITE"])
def test_checksum_of_parts_is_none_of_the_content(kind: str) -> None:
    """It is told apart by its suffix."""
    headers = told("sha1", f"{base64.b64encode(SHA1).decode()}-17", kind)

    assert ServerChecksum("sha1", SHA1, 17) == server_checksum(headers)
    assert whole_checksum(headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-amz-checksum-type": "FULL_OBJECT"},
        told("crc32", ""),
        told("crc32", "y/Q5"),
        told("crc32", "y/Q5Jg==-0"),
        told("crc32", "y/Q5Jg==-"),
        told("crc32", "y/Q5Jg=="[:-1]),
        told("crc32", "not base64!"),
        told("crc32", "y/Q5Jg==-2", "FULL_OBJECT"),
        told("crc32", "y/Q5Jg==", "COMPOSITE"),
        told("md5", "y/Q5Jg=="),
    ],
)
def test_what_is_no_checksum_is_left_out(headers: dict[str, str]) -> None:
    """An answer with nonsense is checked by the ETag, as one without is."""
    assert server_checksum(headers) is None


PART = 5 * MIB
LARGE = 3 * PART + 17


def put(fake: FakeS3, content: bytes) -> None:
    """Store the object in one piece."""
    fake.store.add("b", "k", content)


def fetch(root: Path, context: TransferContext, *, relative: str = "f", size: int = -1) -> Done:
    """Bring the object."""
    return download(DownloadTask("b", "k", str(root), relative, size), context)


def tell(fake: FakeS3, **checksums: str) -> None:
    """Have the server tell checksums of the object, right or wrong."""
    version = fake.store.bucket("b").current("k")
    assert version is not None
    version.headers.update({name.replace("_", "-"): value for name, value in checksums.items()})


def hide_etag(fake: FakeS3) -> None:
    """Give the object an ETag that is no digest, as encryption does."""
    version = fake.store.bucket("b").current("k")
    assert version is not None
    version.etag = "opaque" + version.etag[32:]


def value_of(name: str, content: bytes) -> str:
    """Give a checksum as S3 writes it."""
    hasher = new_hasher(name)
    hasher.update(memoryview(content))
    return base64.b64encode(hasher.digest()).decode()


@pytest.mark.parametrize("name", CHECKSUMS)
@pytest.mark.parametrize(("size", "workers"), [(0, 0), (100, 0), (LARGE, 2)])
def test_server_checksum_stands_in_for_the_etag(
    fake: FakeS3, make_context: Make, tmp_path: Path, name: str, size: int, workers: int
) -> None:
    """In one stream and in ranges, the bytes of which are not read again for a CRC."""
    content = os.urandom(size)
    put(fake, content)
    hide_etag(fake)
    tell(fake, **{f"x-amz-checksum-{name}": value_of(name, content)})

    fetch(tmp_path, make_context(workers=workers, part_size=PART))

    assert content == (tmp_path / "f").read_bytes()


@pytest.mark.parametrize("name", CHECKSUMS)
@pytest.mark.parametrize("opaque", [True, False])
@pytest.mark.parametrize(("size", "workers"), [(100, 0), (LARGE, 2)])
def test_server_checksum_of_other_bytes_fails(
    fake: FakeS3, make_context: Make, tmp_path: Path, name: str, opaque: bool, size: int, workers: int
) -> None:
    """A byte that flipped before the ETag was made is found as well as one on the wire."""
    content = os.urandom(size)
    put(fake, content)
    if opaque:
        hide_etag(fake)
    tell(fake, **{f"x-amz-checksum-{name}": value_of(name, flip(content, size // 2))})
    (tmp_path / "f").write_bytes(b"old")

    with pytest.raises(IntegrityError, match=f"have the {name.upper()} .* the object has"):
        fetch(tmp_path, make_context(workers=workers, part_size=PART))

    assert (["f"], b"old") == (os.listdir(tmp_path), (tmp_path / "f").read_bytes())


@pytest.mark.parametrize("name", ["crc32", "sha256"])
def test_checksum_of_parts_is_made_of_the_parts(fake: FakeS3, make_context: Make, tmp_path: Path, name: str) -> None:
    """Where the ETag is no digest, and the sizes of the parts are known or usual."""
    content = os.urandom(LARGE)
    put(fake, content)
    hide_etag(fake)
    pieces = [content[first : first + PART] for first in range(0, LARGE, PART)]
    joined = b"".join(base64.b64decode(value_of(name, piece)) for piece in pieces)
    tell(fake, **{f"x-amz-checksum-{name}": f"{value_of(name, joined)}-{len(pieces)}"})
    tell(fake, **{"x-amz-checksum-type": "COMPOSITE", f"x-amz-meta-{PART_SIZE}": str(PART)})

    fetch(tmp_path, make_context(part_size=PART))
    fake.fault(FlipByte(at=50), op="GetObject")
    with pytest.raises(IntegrityError, match=f"{name.upper()} .*-{len(pieces)}"):
        fetch(tmp_path, make_context(part_size=PART), relative="g")

    assert (["f"], content) == (os.listdir(tmp_path), (tmp_path / "f").read_bytes())


def test_checksum_is_asked_for_where_it_covers_the_whole(fake: FakeS3, make_context: Make, tmp_path: Path) -> None:
    """Once for each object: a range has none of its own."""
    put(fake, os.urandom(LARGE))

    fetch(tmp_path, make_context(part_size=PART))
    fetch(tmp_path, make_context(), relative="g", size=LARGE)

    asked = [
        (request.op, "range" in request.headers)
        for request in fake.requests
        if request.headers.get("x-amz-checksum-mode") == "ENABLED"
    ]
    assert [("HeadObject", False), ("GetObject", False)] == asked


def test_ranges_of_an_earlier_run_are_checked_too(fake: FakeS3, make_context: Make, tmp_path: Path) -> None:
    """A file some of whose ranges were fetched before is read again where nothing is known of them."""
    content = os.urandom(LARGE)
    path = tmp_path / "f"
    path.write_bytes(content)
    headers = {"x-amz-checksum-crc32": value_of("crc32", content)}
    known = Digests(PART, "crc32", {0: base64.b64decode(value_of("crc32", content[:PART]))})
    wrong = Digests(PART, "crc32", {0: bytes(4)})

    with path.open("rb") as file:
        assert check_file(file.fileno(), LARGE, what="it", etag="opaque", headers=headers, digests=known)
        with pytest.raises(IntegrityError, match="CRC32"):
            check_file(file.fileno(), LARGE, what="it", etag="opaque", headers=headers, digests=wrong)


@pytest.mark.parametrize("name", ["crc32", "sha256"])
def test_stream_is_checked_by_the_server_checksum(fake: FakeS3, make_context: Make, name: str) -> None:
    """In order any of them can be made on the way."""
    content = os.urandom(LARGE)
    put(fake, content)
    hide_etag(fake)
    tell(fake, **{f"x-amz-checksum-{name}": value_of(name, content)})
    received = bytearray()

    download_to(received.extend, Source("b", "k"), context=make_context())
    fake.fault(FlipByte(at=MIB), op="GetObject")
    with pytest.raises(IntegrityError, match=name.upper()):
        download_to(lambda block: None, Source("b", "k"), context=make_context())

    assert content == bytes(received)
