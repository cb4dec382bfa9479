"""Downloads against what the server tells of the content beside its ETag."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from s3pool.errors import IntegrityError
from s3pool.hashing import CHECKSUMS, new_hasher
from s3pool.transfer.context import TransferContext
from s3pool.transfer.digests import PART_SIZE, Digests, check_file
from s3pool.transfer.download import download_to
from s3pool.transfer.object_reader import Source
from s3pool.transfer.tasks import Done, DownloadTask
from tests.support.fake_s3 import MIB, FakeS3, FlipByte
from tests.support.fake_s3.wire import flip
from tests.support.transfers import download
from tests.unit.transfer.conftest import Make

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
