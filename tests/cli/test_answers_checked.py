"""What a GET brings is held against what the listing or HEAD told, in every command that reads."""

from __future__ import annotations

import base64
import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from s3pool.body import new_hasher
from tests.cli.conftest import Call
from tests.support.fake_s3 import ACCESS_KEY, MIB, SECRET_KEY, FakeS3, FlipByte, WrongETag, tell_lie
from tests.support.fake_s3 import Call as Hook
from tests.support.fake_s3.store import Version
from tests.support.run_cli import CliResult

SMALL, LARGE = os.urandom(100), os.urandom(40 * MIB)
READERS = ("cp", "cp -r", "cp stdout", "sync", "cat", "cat glob", "mv", "mv -r", "across", "across -r")
LARGE_READERS = ("cp", "cp stdout", "cat", "sync", "across")
CASES = [pytest.param(reader, SMALL, id=f"{reader}, small") for reader in READERS] + [
    pytest.param(reader, LARGE, id=f"{reader}, large") for reader in LARGE_READERS
]
PACKED = gzip.compress(b"x" * 6000)


@pytest.fixture
def there(fake: FakeS3, tmp_path: Path) -> Iterator[FakeS3]:
    """Have the objects in a pool of two nodes, which is the profile ``far`` beside the pool of ``fake``."""
    fake.store.add("b", "x")
    with FakeS3(2) as server:
        config = tmp_path / ".s3pool" / "config.yaml"
        config.parent.mkdir()
        keys = f"access_key: {ACCESS_KEY}, secret_key: {SECRET_KEY}"
        config.write_text(f"profiles:\n  far: {{endpoints: [{', '.join(server.endpoints)}], {keys}}}\n")
        config.chmod(0o600)
        yield server


def words_of(reader: str) -> tuple[str, ...]:
    """Return the command line that reads ``s3/b/d/k`` in one way."""
    crossing = ("--source-profile", "far", "--retries", "1")
    near = ("--retries", "1")
    return {
        "cp": ("cp", *near, "s3/b/d/k", "out/k"),
        "cp -r": ("cp", *near, "-r", "s3/b/d/", "out/"),
        "cp stdout": ("cp", *near, "s3/b/d/k", "-"),
        "sync": ("sync", *near, "s3/b/d/", "out/"),
        "cat": ("cat", *near, "s3/b/d/k"),
        "cat glob": ("cat", *near, "s3/b/d/*"),
        "mv": ("mv", *near, "s3/b/d/k", "out/k"),
        "mv -r": ("mv", *near, "-r", "s3/b/d/", "out/"),
        "across": ("mv", *crossing, "s3/b/d/k", "s3/b/out/k"),
        "across -r": ("mv", *crossing, "-r", "s3/b/d/", "s3/b/out/"),
    }[reader]


def read(call: Call, reader: str, there: FakeS3) -> CliResult:
    """Run a reader; all but the copies across have the pool ``there`` as their own."""
    return call(*words_of(reader), env={} if reader.startswith("across") else there.environment)


def brought(reader: str, out: bytes, fake: FakeS3, tmp_path: Path) -> bytes | None:
    """Return what a reader left at its target, None for nothing."""
    if reader.startswith("cat") or reader == "cp stdout":
        return out
    if reader.startswith("across"):
        return fake.store.bodies("b").get("out/k")
    target = tmp_path / "out" / "k"
    return target.read_bytes() if target.exists() else None


@pytest.mark.parametrize("lie", ["html", "html-etag", "no-etag"])
@pytest.mark.parametrize(("reader", "content"), CASES)
def test_a_node_that_is_no_store_is_passed_over(
    call: Call, fake: FakeS3, there: FakeS3, tmp_path: Path, reader: str, content: bytes, lie: str
) -> None:
    """One gateway of two answers every GET for the store; HEAD and LIST are right, so it counts as in service."""
    there.store.add("b", "d/k", content)
    (tmp_path / "out").mkdir()
    tell_lie(there, lie, endpoint=0)

    result = read(call, reader, there)

    assert (0, True) == (result.code, content == brought(reader, result.stdout, fake, tmp_path)), result.err


@pytest.mark.parametrize("lie", ["html", "html-etag", "no-etag"])
@pytest.mark.parametrize(("reader", "content"), CASES)
def test_nothing_is_stored_where_no_node_is_a_store(
    call: Call, fake: FakeS3, there: FakeS3, tmp_path: Path, reader: str, content: bytes, lie: str
) -> None:
    """The page is not the object, and the source stays."""
    there.store.add("b", "d/k", content)
    (tmp_path / "out").mkdir()
    tell_lie(there, lie)

    result = read(call, reader, there)

    assert result.code not in (0, 6), result.err
    assert brought(reader, result.stdout, fake, tmp_path) in (None, b"")
    assert "d/k" in there.store.bodies("b")
    assert "no ETag" in result.err or "web page" in result.err


@pytest.mark.parametrize(("reader", "content"), CASES)
def test_half_a_body_is_not_the_object(
    call: Call, fake: FakeS3, there: FakeS3, tmp_path: Path, reader: str, content: bytes
) -> None:
    """Its Content-Length matches, and its ETag is made of parts of which nobody knows the sizes."""
    stored(there, content, etag="0123456789abcdef0123456789abcdef-3")
    (tmp_path / "out").mkdir()
    tell_lie(there, "half-body")

    result = read(call, reader, there)

    assert result.code not in (0, 6), result.err
    assert "d/k" in there.store.bodies("b")
    if "cat" not in reader:
        assert brought(reader, result.stdout, fake, tmp_path) in (None, b"")


@pytest.mark.parametrize("reader", READERS)
def test_decompressed_object_is_not_the_object(
    call: Call, fake: FakeS3, there: FakeS3, tmp_path: Path, reader: str
) -> None:
    """Some stores unpack gzip on the way: in chunks, so that only the listed size tells."""
    stored(there, PACKED, etag="1" * 32 + "-1", content_encoding="gzip")
    (tmp_path / "out").mkdir()
    tell_lie(there, "decompressed")

    result = read(call, reader, there)

    assert result.code not in (0, 6), result.err
    assert "d/k" in there.store.bodies("b")
    if reader != "cat":
        assert brought(reader, result.stdout, fake, tmp_path) in (None, b"")


@pytest.mark.parametrize(("reader", "content"), [case for case in CASES if case.values[0] != "cat"])
def test_object_that_was_replaced_is_fetched_once_more(
    call: Call, fake: FakeS3, there: FakeS3, tmp_path: Path, reader: str, content: bytes
) -> None:
    """Another writer comes between the listing, or HEAD, and the first GET: the new object is had whole."""
    stored(there, content, etag="2" * 32 + "-2")
    (tmp_path / "out").mkdir()
    new = content[:-1] + b"!"
    there.fault(Hook(lambda _: there.store.add("b", "d/k", new)), op="GetObject")

    result = read(call, reader, there)

    if not reader.startswith("mv"):  # whether mv may delete the new one is not asked here
        assert (0, True) == (result.code, new == brought(reader, result.stdout, fake, tmp_path)), result.err


@pytest.mark.parametrize(("reader", "content"), [case for case in CASES if case.values[0] != "cat"])
def test_object_that_is_never_the_listed_one_fails(
    call: Call, fake: FakeS3, there: FakeS3, tmp_path: Path, reader: str, content: bytes
) -> None:
    """Once more with fresh facts, and then it is a failure."""
    there.store.add("b", "d/k", content)
    (tmp_path / "out").mkdir()
    there.fault(WrongETag("3" * 32), op="GetObject", times=0)

    result = read(call, reader, there)

    assert (1, True) == (result.code, "d/k was replaced while it was read" in result.err)
    assert "d/k" in there.store.bodies("b")
    assert brought(reader, result.stdout, fake, tmp_path) in (None, b"")


@pytest.mark.parametrize("name", ["crc32c", "crc64nvme"])
@pytest.mark.parametrize(("reader", "content"), CASES)
def test_flipped_byte_fails_where_only_a_checksum_tells(
    call: Call, fake: FakeS3, there: FakeS3, tmp_path: Path, reader: str, content: bytes, name: str
) -> None:
    """Under KMS, and on servers whose ETags are no MD5s, the checksum that is told decides."""
    checksum = {f"x_amz_checksum_{name}": value_of(name, content)}
    stored(there, content, etag="no-md5", x_amz_server_side_encryption="aws:kms", **checksum)
    (tmp_path / "out").mkdir()
    there.fault(FlipByte(at=50), op="GetObject", times=0)

    result = read(call, reader, there)

    assert 1 == result.code, result.err
    assert name.upper() in result.err
    assert "d/k" in there.store.bodies("b")


def stored(fake: FakeS3, content: bytes, *, etag: str, **headers: str) -> Version:
    """Store ``b/d/k`` with an ETag that tells nothing."""
    version = fake.store.add("b", "d/k", content, **headers)
    version.etag = etag
    return version


def value_of(name: str, content: bytes) -> str:
    """Return a checksum as S3 writes it."""
    hasher = new_hasher(name)
    hasher.update(memoryview(content))
    return base64.b64encode(hasher.digest()).decode()


@pytest.mark.parametrize("hook", ["html", "no-etag"])
def test_head_of_no_store_is_no_head(call: Call, fake: FakeS3, hook: str) -> None:
    """A page has a length and a time as well."""
    fake.store.add("b", "k", b"content")
    tell_lie(fake, hook, op="HeadObject", endpoint=0)

    results = [call("stat", "s3/b/k") for _ in range(3)]

    assert [0] * 3 == [result.code for result in results]
    assert all("7 B" in result.out or " 7" in result.out for result in results)


def test_html_object_of_a_store_is_an_object(call: Call, fake: FakeS3, tmp_path: Path) -> None:
    """Web pages may well be kept in a store."""
    fake.store.add("b", "index.html", b"<html></html>", content_type="text/html")

    result = call("cat", "s3/b/index.html")

    assert (0, b"<html></html>") == (result.code, result.stdout)


RangeCase = Callable[[FakeS3], None]


@pytest.mark.parametrize("words", [("--range", "2-5"), ("--range", "-4")])
def test_cat_of_a_range_asks_elsewhere(call: Call, fake: FakeS3, words: tuple[str, ...]) -> None:
    """The first bytes of a page are not those of the object."""
    fake.store.add("b", "k", b"0123456789")
    tell_lie(fake, "html", endpoint=0)

    result = call("cat", *words, "s3/b/k")

    assert (0, b"2345" if words[1] == "2-5" else b"6789") == (result.code, result.stdout)
