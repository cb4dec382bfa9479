"""--checksum on every way bytes go up: in one piece, in parts, as a stream."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from s3pool.hashing import CHECKSUMS, new_hasher
from tests.cli.conftest import Call
from tests.support.fake_s3 import MIB, FakeS3

PART = 5 * MIB
LARGE = PART + 1000
CRCS = ("crc32", "crc32c", "crc64nvme")


@pytest.fixture(autouse=True)
def _bucket(fake: FakeS3) -> None:
    """Have an empty bucket ``b``."""
    fake.store.add("b", "x")
    fake.store.bucket("b").remove("x", "null")


def value_of(name: str, content: bytes) -> str:
    """Give a checksum as S3 writes it."""
    hasher = new_hasher(name)
    hasher.update(memoryview(content))
    return base64.b64encode(hasher.digest()).decode()


def stored(fake: FakeS3, name: str) -> str:
    """Give the checksum that the server keeps of the object."""
    version = fake.store.bucket("b").current("k")
    assert version is not None
    return version.headers.get(f"x-amz-checksum-{name}", "")


@pytest.mark.parametrize("name", CHECKSUMS)
def test_one_piece_carries_its_checksum(call: Call, fake: FakeS3, tmp_path: Path, name: str) -> None:
    """The server compares it, and keeps it for whoever downloads."""
    (tmp_path / "f").write_bytes(b"123456789")

    result = call("cp", "f", "s3/b/k", "--checksum", name)

    assert (0, "") == (result.code, "".join(line for line in result.err.splitlines() if "WARN" in line))
    assert value_of(name, b"123456789") == stored(fake, name)


@pytest.mark.parametrize("way", ["cp", "pipe"])
@pytest.mark.parametrize("name", CHECKSUMS)
def test_parts_carry_theirs(call: Call, fake: FakeS3, tmp_path: Path, name: str, way: str) -> None:
    """CRCs make one of the whole content, which any download can check; the others one of the parts'."""
    content = os.urandom(LARGE)
    (tmp_path / "f").write_bytes(content)
    words = ("--part-size", "5MiB", "--checksum", name)

    up = call("cp", "f", "s3/b/k", *words) if way == "cp" else call("pipe", "s3/b/k", *words, stdin=content)
    down = call("cp", "s3/b/k", "back")

    pieces = [base64.b64decode(value_of(name, piece)) for piece in (content[:PART], content[PART:])]
    expected = value_of(name, content) if name in CRCS else value_of(name, b"".join(pieces)) + "-2"
    assert (0, 0, expected) == (up.code, down.code, stored(fake, name))
    assert content == (tmp_path / "back").read_bytes()


@pytest.mark.parametrize("way", ["cp", "pipe", "sync"])
def test_md5_is_sent_where_it_was_not(call: Call, fake: FakeS3, tmp_path: Path, way: str) -> None:
    """On plain HTTP the signature covers a SHA-256, so Content-MD5 is one more."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "k").write_bytes(b"x")
    words = {"cp": ("cp", "d/k", "s3/b/k", "--checksum", "md5"), "pipe": ("pipe", "s3/b/k", "--checksum", "md5")}

    result = call(*words.get(way, ("sync", "d", "s3/b/", "--upload-checksum", "md5")), stdin=b"x")

    sent = [request.headers.get("content-md5") for request in fake.requests if request.op == "PutObject"]
    assert (0, [value_of("md5", b"x")]) == (result.code, sent)
