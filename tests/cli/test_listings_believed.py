"""A listing is believed only when it holds together: servers that ignore what they were asked, in every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import Endless, FakeS3, tell_lie
from tests.support.fake_s3.store import Upload

KEYS = ("a", "d/x", "d/y/z", "e/x", "z")
BELOW = "a listing below 'd/"
LISTERS = {
    "cat": ("cat", "s3/b/d/*"),
    "cp": ("cp", "-r", "s3/b/d/", "out/"),
    "cp in S3": ("cp", "-r", "s3/b/d/", "s3/b/copy/"),
    "du": ("du", "s3/b/d/"),
    "find": ("find", "s3/b/d"),
    "find --delete": ("find", "s3/b/d", "--delete"),
    "ls": ("ls", "s3/b/d/"),
    "ls -r": ("ls", "-r", "s3/b/d/"),
    "ls --versions": ("ls", "-r", "--versions", "s3/b/d/"),
    "ls --uploads": ("ls", "--incomplete", "s3/b/d/"),
    "mv": ("mv", "-r", "s3/b/d/", "out/"),
    "rm": ("rm", "-rf", "s3/b/d/"),
    "rm --all-versions": ("rm", "-rf", "--versions", "s3/b/d/"),
    "rm --uploads": ("rm", "-rf", "--incomplete", "s3/b/d/"),
    "sync": ("sync", "s3/b/d/", "out/"),
    "sync --delete": ("sync", "--delete", "s3/b/d/", "out/"),
    "sync --delete up": ("sync", "--delete", "out/", "s3/b/d/"),
}
# Some list one page after another whatever is asked for.
ENDLESS: list[tuple[str, tuple[str, ...]]] = [
    (name, ()) for name in LISTERS if name not in ("cat", "mv", "cp", "cp in S3")
]
ENDLESS += [(name, ("--jobs", "4")) for name, _ in ENDLESS if name not in ("ls", "ls --uploads", "rm --uploads")]


@pytest.fixture
def world(fake: FakeS3, tmp_path: Path) -> FakeS3:
    """Have some objects and uploads of which a part is asked for, and files that are in none of them."""
    for key in KEYS:
        fake.store.add("b", key, b"content")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "own").write_bytes(b"own")
    return fake


@pytest.mark.parametrize("lister", [name for name in LISTERS if "uploads" not in name])
def test_keys_beside_the_prefix_end_the_command(call: Call, world: FakeS3, tmp_path: Path, lister: str) -> None:
    """A server that ignores ``prefix`` lists the whole bucket as the directory that is to be deleted."""
    tell_lie(world, "ignores-prefix")

    result = call(*LISTERS[lister], "--retries", "1")

    assert result.code not in (0, 6), result.err
    assert BELOW in result.err
    assert set(KEYS) == set(world.store.bodies("b"))
    assert ["own"] == [path.name for path in (tmp_path / "out").rglob("*")]


@pytest.mark.parametrize("lister", ["ls --uploads", "rm --uploads"])
def test_uploads_beside_the_prefix_end_the_command(call: Call, world: FakeS3, lister: str) -> None:
    """They would be aborted."""
    begin_upload(world, "a")
    tell_lie(world, "ignores-prefix")

    result = call(*LISTERS[lister], "--retries", "1")

    assert result.code not in (0, 6), result.err
    assert BELOW in result.err
    assert 1 == len(world.store.bucket("b").uploads)


@pytest.mark.parametrize("lister", [name for name in LISTERS if "uploads" not in name])
def test_one_node_that_ignores_the_prefix_is_passed_over(call: Call, world: FakeS3, lister: str) -> None:
    """It is the node that is ill; another one lists what was asked for."""
    before = set(world.store.bodies("b"))
    tell_lie(world, "ignores-prefix", endpoint=0)

    result = call(*LISTERS[lister])

    assert 0 == result.code, result.err
    assert before - set(world.store.bodies("b")) <= {"d/x", "d/y/z"}


@pytest.mark.parametrize("words", [("ls", "s3/b/"), ("ls", "s3/b/d/")])
def test_names_behind_the_delimiter_end_the_command(call: Call, world: FakeS3, words: tuple[str, ...]) -> None:
    """A whole tree would pass for one directory."""
    tell_lie(world, "ignores-delimiter")

    result = call(*words, "--retries", "1")

    assert 5 == result.code
    assert "so the server ignored it" in result.err


@pytest.mark.parametrize("words", [("ls", "s3/b/", "--max-keys", "2"), ("ls", "-r", "s3/b/", "--max-keys", "2")])
def test_more_names_than_asked_for_are_not_shown(call: Call, world: FakeS3, words: tuple[str, ...]) -> None:
    """More than was asked for is no lie about the bucket: it is cut."""
    tell_lie(world, "ignores-max-keys")

    result = call(*words)

    assert (0, 2) == (result.code, len(result.lines))


@pytest.mark.parametrize("lie", ["endless", "endless-repeats"])
@pytest.mark.parametrize(("lister", "jobs"), ENDLESS)
def test_endless_listing_ends_in_an_error(
    call: Call, world: FakeS3, tmp_path: Path, lister: str, lie: str, jobs: tuple[str, ...]
) -> None:
    """Pages with new tokens and nothing new; nothing is deleted for what such a listing does not have."""
    begin_upload(world, "d/up")
    tell_lie(world, lie)

    result = call(*LISTERS[lister], *jobs)

    assert 1 == result.code, result.err
    assert "stopped advancing while it listed s3/b" in result.err
    assert (tmp_path / "out" / "own").exists()
    if lister == "sync --delete up":
        assert set(KEYS) <= set(world.store.bodies("b"))


def begin_upload(fake: FakeS3, key: str) -> None:
    """Have an upload that was begun."""
    fake.store.bucket("b").uploads["u1"] = Upload("u1", key, 0.0, {}, {}, "STANDARD")


def test_some_empty_pages_are_no_end(call: Call, world: FakeS3) -> None:
    """A server that passes over what was deleted may have nothing to show for a while."""
    world.fault(Endless(), op="ListObjectsV2", times=30)

    result = call("ls", "-r", "s3/b/")

    assert (0, list(KEYS)) == (result.code, [line.split()[-1] for line in result.lines])
