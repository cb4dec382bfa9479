"""What is stored beside the bytes: by a flag of its own, on every way, and kept by copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import MIB, FakeS3, Quirks
from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliRunner

FLAGS = {
    "--cache-control": ("cache-control", "no-store"),
    "--content-encoding": ("content-encoding", "gzip"),
    "--content-disposition": ("content-disposition", 'attachment; filename="a.txt"'),
    "--content-language": ("content-language", "de"),
    "--expires": ("expires", "Thu, 31 Dec 2026 00:00:00 GMT"),
    "--website-redirect": ("x-amz-website-redirect-location", "/elsewhere"),
    "--content-type": ("content-type", "text/x-own"),
}
WORDS = tuple(word for flag, (_, value) in FLAGS.items() for word in (flag, value))
STORED = dict(FLAGS.values())
WAYS = {
    "cp": (("cp", "d/small", "s3/b/k"), "k"),
    "cp -r": (("cp", "-r", "d", "s3/b/t"), "t/small"),
    "cp in parts": (("cp", "large", "s3/b/k"), "k"),
    "mv": (("mv", "d/small", "s3/b/k"), "k"),
    "sync": (("sync", "d", "s3/b/t"), "t/small"),
    "pipe": (("pipe", "s3/b/k"), "k"),
    "pipe in parts": (("pipe", "--part-size", "5M", "s3/b/k"), "k"),
    "cp of a stream": (("cp", "-", "s3/b/k"), "k"),
    "copy": (("cp", "s3/b/plain", "s3/b/k"), "k"),
    "copy of a tree": (("cp", "-r", "s3/b/tree", "s3/b/t"), "t/small"),
    "copy in place": (("cp", "s3/b/plain", "s3/b/plain"), "plain"),
    "copy in parts": (("cp", "--part-size", "5M", "s3/b/large", "s3/b/k"), "k"),
    "move": (("mv", "s3/b/plain", "s3/b/k"), "k"),
    "sync of objects": (("sync", "s3/b/tree", "s3/b/t"), "t/small"),
}


@pytest.fixture
def filled(fake: FakeS3, tmp_path: Path) -> FakeS3:
    """Return files and objects, small and large."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "small").write_bytes(b"1")
    (tmp_path / "large").write_bytes(bytes(17 * MIB))
    for key, body in (("plain", b"1"), ("tree/small", b"1"), ("large", bytes(6 * MIB))):
        fake.store.add("b", key, body)
    return fake


def stored(fake: FakeS3, key: str) -> dict[str, str]:
    """Return what is stored beside a key's bytes."""
    version = fake.store.buckets["b"].current(key)
    assert version is not None
    return {name: value for name, value in version.headers.items() if name in STORED}


@pytest.mark.parametrize("way", list(WAYS))
def test_flags_are_stored_on_every_way(filled: FakeS3, call: Call, way: str) -> None:
    """In one piece, in parts, from a stream, inside the storage."""
    (command, *rest), key = WAYS[way]

    result = call(command, *WORDS, *rest, stdin=bytes(6 * MIB if "parts" in way else 1))

    assert 0 == result.code
    assert stored(filled, key) == STORED


@pytest.mark.parametrize("way", [way for way in WAYS if way.startswith(("copy", "move", "sync of"))])
@pytest.mark.parametrize("flags", [(), ("--metadata", "x=y"), ("--storage-class", "STANDARD_IA")])
def test_copies_keep_what_no_flag_replaces(filled: FakeS3, call: Call, way: str, flags: tuple[str, ...]) -> None:
    """A website's redirect, which CopyObject itself forgets, and the tags."""
    (command, source, *rest), key = WAYS[way]
    words = (*flags, source, *rest) if flags or "in place" not in way else ("--acl", "private", source, *rest)
    for version in (filled.store.buckets["b"].current(name) for name in ("plain", "tree/small", "large")):
        assert version is not None
        version.headers.update(STORED)
        version.tags.update(a="1")

    result = call(command, *words)

    version = filled.store.buckets["b"].current(key)
    assert version is not None
    assert (0, {"a": "1"}) == (result.code, version.tags)
    assert stored(filled, key) == STORED
    assert ("y" if "x=y" in flags else None) == version.headers.get("x-amz-meta-x")


@pytest.mark.parametrize("way", ["copy", "copy of a tree", "copy in place", "copy in parts", "move"])
def test_copies_keep_the_storage_class(filled: FakeS3, call: Call, way: str) -> None:
    """It costs money when it changes unasked; what was archived and restored is stored anew."""
    (command, *rest), key = WAYS[way]
    for name in ("plain", "tree/small", "large"):
        version = filled.store.buckets["b"].current(name)
        assert version is not None
        version.storage_class = "STANDARD_IA"

    result = call(command, "--metadata", "x=y", *rest)

    version = filled.store.buckets["b"].current(key)
    assert version is not None
    assert (0, "STANDARD_IA") == (result.code, version.storage_class)


def test_copies_between_pools_keep_redirects(fake_s3: object, filled: FakeS3, call: Call, tmp_path: Path) -> None:
    """Small ones and those in parts."""
    other = FakeS3(1, quirks=Quirks())
    try:
        for key, size in (("small", 1), ("middle", 2 * MIB), ("large", 17 * MIB)):
            other.store.add("o", key, bytes(size)).headers.update(STORED)
        text = f"profiles: {{other: {{endpoints: '{other.endpoints[0]}', access_key: a, secret_key: s}}}}"
        (tmp_path / ".s3pool").mkdir()
        (tmp_path / ".s3pool" / "config.yaml").write_text(text)
        (tmp_path / ".s3pool" / "config.yaml").chmod(0o600)

        result = call("cp", "-r", "--part-size", "5M", "--source-profile", "other", "s3/o", "s3/b/t")

        assert 0 == result.code
        assert [STORED] * 3 == [stored(filled, f"t/{key}") for key in ("small", "middle", "large")]
    finally:
        other.stop()


@pytest.mark.parametrize(
    ("name", "flag"),
    [(name.title(), flag) for flag, (name, _) in FLAGS.items()]
    + [("x-amz-acl", "--acl"), ("X-Amz-Storage-Class", "--storage-class"), ("x-amz-tagging", "--tags")],
)
@pytest.mark.parametrize("command", [("cp", "d/small"), ("mv", "d/small"), ("sync", "d"), ("pipe",)])
def test_metadata_takes_no_system_header(
    filled: FakeS3, call: Call, command: tuple[str, ...], name: str, flag: str
) -> None:
    """It silently became metadata of the user's own, which no browser looks at."""
    result = call(*command, "s3/b/k", "--metadata", f"{name}=x")

    assert 2 == result.code
    assert flag in result.err
    assert [] == filled.ops()


@pytest.mark.parametrize("name", ["x-amz-meta-a", "x-amz-unknown", "Content-Length", "ETag", "Last-Modified"])
def test_metadata_takes_no_name_of_s3(filled: FakeS3, call: Call, name: str) -> None:
    """None of them would mean what it says."""
    assert 2 == call("cp", "d/small", "s3/b/k", "--metadata", f"{name}=x").code


@pytest.mark.parametrize(
    ("words", "stored_value"),
    [
        (("--expires", "2026-12-31"), "Thu, 31 Dec 2026 00:00:00 GMT"),
        (("--expires", "2026-12-31T12:30:00Z"), "Thu, 31 Dec 2026 12:30:00 GMT"),
        (("--expires", "0"), "0"),
    ],
)
def test_expiry_is_stored_as_browsers_read_it(
    filled: FakeS3, call: Call, words: tuple[str, ...], stored_value: str
) -> None:
    """Also when it is given as a date."""
    assert 0 == call("cp", *words, "d/small", "s3/b/k").code
    assert stored_value == stored(filled, "k")["expires"]


@pytest.mark.parametrize(
    "words",
    [
        ("--expires", "soon"),
        ("--expires", "7d"),
        ("--website-redirect", "elsewhere"),
        ("--website-redirect", "javascript:alert(1)"),
        ("--cache-control", "a\r\nx: y"),
        ("--content-language", "ä\n"),
    ],
)
def test_values_that_make_no_sense_are_refused(filled: FakeS3, call: Call, words: tuple[str, ...]) -> None:
    """Before anything is sent."""
    assert 2 == call("cp", *words, "d/small", "s3/b/k").code
    assert "k" not in filled.store.bodies("b")


@pytest.mark.parametrize("flag", [*FLAGS, "--metadata", "--acl", "--tags", "--storage-class", "--sse"])
@pytest.mark.parametrize("command", [("cp", "s3/b/plain", "out"), ("sync", "s3/b/tree", "out")])
def test_downloads_say_that_they_have_no_place_for_them(
    filled: FakeS3, call: Call, command: tuple[str, ...], flag: str
) -> None:
    """One script may copy both ways; what it asks for in vain is told."""
    values = {"--metadata": "x=y", "--acl": "private", "--tags": "a=1", "--sse": "AES256", "--storage-class": "X"}
    value = values.get(flag) or FLAGS[flag][1]

    result = call(*command, flag, value)

    assert 0 == result.code
    assert f"s3pool: warning: {flag}: without effect, because out is not in S3\n" in result.err


@pytest.mark.live
@pytest.mark.parametrize("part_size", [(), ("--part-size", "5M")])
@pytest.mark.parametrize("target", ["k", "other"])
def test_copies_on_rgw_keep_everything(
    rgw: RgwCluster, run_cli: CliRunner, bucket_name: str, part_size: tuple[str, ...], target: str
) -> None:
    """In place RGW 16 forgets the tags when metadata is replaced, and in parts those that it was told."""
    run_cli.environ.update(rgw.environment)
    place, goal = f"s3/{bucket_name}/k", f"s3/{bucket_name}/{target}"
    run_cli("mb", f"s3/{bucket_name}")
    try:
        run_cli("pipe", *WORDS, "--tags", "a=1", "--metadata", "old=1", place, stdin=bytes(6 * MIB))
        plain = run_cli("cp", place, f"{place}2")

        result = run_cli("cp", *part_size, "--metadata", "x=y", place, goal)

        assert (0, 0) == (plain.code, result.code)
        for url, metadata in ((f"{place}2", "old"), (goal, "x")):
            headers = run_cli("stat", "--json", url).records[0]["headers"]
            assert STORED == {name: headers.get(name) for name in STORED}
            assert "1" == headers["x-amz-tagging-count"]
            assert f"x-amz-meta-{metadata}" in headers
    finally:
        run_cli("rb", "--force", "--yes", f"s3/{bucket_name}")
