"""--preserve keeps what an object can hold, and tells what it cannot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import FakeS3

UP = {"cp": ("cp", "-r"), "mv": ("mv", "-r", "--exclude", "linked"), "sync": ("sync",)}


@pytest.fixture
def tree(fake: FakeS3, tmp_path: Path) -> Path:
    """Return a tree with everything that an object cannot be."""
    fake.store.add("b", "other")
    root = tmp_path / "tree"
    (root / "empty" / "deeper").mkdir(parents=True)
    (root / "bare").mkdir(mode=0o711)
    (root / "file").write_bytes(b"1")
    (root / "hard").write_bytes(b"2")
    os.link(root / "hard", root / "linked")
    (root / "link").symlink_to("file")
    return root


def kept(fake: FakeS3) -> dict[str, bytes]:
    """Return what was stored below the target."""
    return {key[2:]: body for key, body in fake.store.bodies("b").items() if key.startswith("t/")}


@pytest.mark.parametrize("command", ["cp", "sync"])
def test_uploads_keep_empty_directories_and_count_the_rest(fake: FakeS3, call: Call, tree: Path, command: str) -> None:
    """As s3cmd and rclone store them: objects whose names end in a slash."""
    result = call(*UP[command], "--preserve", "tree", "s3/b/t")

    assert 0 == result.code
    assert ["bare/", "empty/deeper/", "file", "hard", "link", "linked"] == sorted(kept(fake))
    marker = fake.store.buckets["b"].current("t/bare/")
    assert marker is not None
    assert (b"", "0040711") == (marker.body, marker.headers["x-amz-meta-mode"])
    assert "s3pool: not kept: 1 symbolic link (stored as the file), 2 hard links (stored as files)\n" in result.err


@pytest.mark.parametrize("command", list(UP))
def test_links_that_are_skipped_are_counted(fake: FakeS3, call: Call, tree: Path, command: str) -> None:
    """To files and to directories; without --preserve nobody asked for them."""
    (tree / "way").symlink_to("empty")
    hard_links = 1 if command == "mv" else 2

    silent = call(*UP[command], "--links", "skip", "--dry-run", "tree", "s3/b/t")
    result = call(*UP[command], "--links", "skip", "--preserve", "--json", "tree", "s3/b/t")

    assert (0, False) == (result.code, "not kept" in silent.err)
    counts = {
        "skipped_links": 2,
        "links": 0,
        "hard_links": hard_links,
        "attributes": 0,
        "directories": 0,
    }
    assert counts == result.records[-1]["not_kept"]


@pytest.mark.parametrize("command", ["cp", "sync"])
def test_extended_attributes_are_counted(fake: FakeS3, call: Call, tree: Path, command: str) -> None:
    """Where the file system has them."""
    (tree / "link").unlink()
    try:
        os.setxattr(tree / "file", "user.note", b"1")
    except OSError:
        pytest.skip("this file system has no extended attributes")

    result = call(*UP[command], "--preserve", "tree", "s3/b/t")

    assert "1 file's extended attributes" in result.err


def test_directories_come_back(fake: FakeS3, call: Call, tree: Path, tmp_path: Path) -> None:
    """The other way round, and a second run finds nothing to do."""
    call("sync", "--preserve", "tree", "s3/b/t")

    again = call("sync", "--preserve", "--delete", "tree", "s3/b/t")
    down = call("sync", "--preserve", "s3/b/t", "back")

    assert (0, 0) == (again.code, down.code)
    assert {"bare/", "empty/deeper/"} <= set(kept(fake))
    assert (tmp_path / "back" / "empty" / "deeper").is_dir()
    assert (tmp_path / "back" / "bare").is_dir()


def test_a_dry_run_stores_no_directory(fake: FakeS3, call: Call, tree: Path) -> None:
    """It only tells."""
    call("cp", "-r", "--preserve", "--dry-run", "tree", "s3/b/t")

    assert {} == kept(fake)


@pytest.mark.parametrize("command", [("cp", "-r"), ("sync",)])
def test_downloads_read_what_s3cmd_stored(fake: FakeS3, call: Call, tmp_path: Path, command: tuple[str, ...]) -> None:
    """Its mode and owner stand in one header."""
    attributes = f"uid:{os.getuid()}/gname:x/uname:y/gid:{os.getgid()}/mode:33152/mtime:1000000000/md5:aa/ctime:1"
    fake.store.add("b", "t/f", b"1").headers["x-amz-meta-s3cmd-attrs"] = attributes

    result = call(*command, "--preserve", "s3/b/t", "back")

    facts = (tmp_path / "back" / "f").stat()
    assert (0, 0o100600) == (result.code, facts.st_mode)


@pytest.mark.parametrize("headers", [{"x-amz-meta-mode": "0120777"}, {"x-amz-meta-s3cmd-attrs": "mode:41471"}])
def test_downloads_count_links_that_others_stored(
    fake: FakeS3, call: Call, tmp_path: Path, headers: dict[str, str]
) -> None:
    """They come as files with the name of where they led."""
    fake.store.add("b", "t/l", b"where").headers |= headers

    result = call("cp", "-r", "--preserve", "s3/b/t", "back")

    assert (0, b"where") == (result.code, (tmp_path / "back" / "l").read_bytes())
    assert "s3pool: not kept: 1 symbolic link (stored as the file)\n" in result.err


def test_plain_runs_say_nothing(fake: FakeS3, call: Call, tree: Path) -> None:
    """Who does not ask for everything is not told what is missing."""
    result = call("cp", "-r", "tree", "s3/b/t")

    assert (0, False) == (result.code, "not kept" in result.err)
    assert ["file", "hard", "link", "linked"] == sorted(kept(fake))
