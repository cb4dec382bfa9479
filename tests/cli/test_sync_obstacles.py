"""A key x against a directory x/ in a sync, and the other way round."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import Answer, FakeS3

DELETE = ("--delete", "--max-delete", "none")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give a target with a directory of the name that a key will have."""
    (tmp_path / "t" / "x" / "deep" / "empty").mkdir(parents=True)
    (tmp_path / "t" / "x" / "deep" / "old").write_bytes(b"old")
    return tmp_path / "t"


def files_of(tree: Path) -> dict[str, bytes]:
    """Give what is in a directory."""
    return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def test_directory_in_the_way_is_one_clear_line_and_the_rest_goes_on(call: Call, fake: FakeS3, tree: Path) -> None:
    """Nothing is fetched for it, and it says what to do."""
    fake.store.add("b", "x", b"new")
    fake.store.add("b", "y", b"y")

    result = call("sync", "s3/b", "t")

    assert 1 == result.code
    lines = [line for line in result.err.splitlines() if "error" in line]
    assert ["s3pool: error: cannot write t/x: a directory has that name; remove or rename it, or give --delete,"] == [
        line[: line.index(" which")] for line in lines
    ]
    assert {"x/deep/old": b"old", "y": b"y"} == files_of(tree)
    assert ["y"] == [request.key for request in fake.requests if request.op == "GetObject"]


def test_directory_whose_content_is_deleted_makes_room(call: Call, fake: FakeS3, tree: Path) -> None:
    """What the key replaces goes with the deletes, and the key comes after them."""
    fake.store.add("b", "x", b"new")
    fake.store.add("b", "y", b"y")

    result = call("sync", *DELETE, "s3/b", "t")
    again = call("sync", *DELETE, "s3/b", "t")

    assert (0, 0) == (result.code, again.code), result.err
    assert {"x": b"new", "y": b"y"} == files_of(tree)
    assert "2 copied, 1 deleted, 0 skipped, 0 failed" in result.err
    assert "0 copied, 0 deleted, 0 skipped" in again.err


def test_empty_directory_makes_room(call: Call, fake: FakeS3, tree: Path) -> None:
    """There is nothing in it that could be lost."""
    (tree / "x" / "deep" / "old").unlink()
    fake.store.add("b", "x", b"new")

    result = call("sync", *DELETE, "s3/b", "t")

    assert (0, {"x": b"new"}) == (result.code, files_of(tree)), result.err


def test_file_in_the_way_of_a_directory_makes_room(call: Call, fake: FakeS3, tmp_path: Path) -> None:
    """The other way round."""
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "x").write_bytes(b"old")
    fake.store.add("b", "x/deep/new", b"new")

    kept = call("sync", "s3/b", "t")
    replaced = call("sync", *DELETE, "s3/b", "t")

    assert (1, 0) == (kept.code, replaced.code), replaced.err
    assert "cannot write t/x/deep/new: a file is where a directory has to be; remove or rename it" in kept.err
    assert {"x/deep/new": b"new"} == files_of(tmp_path / "t")


def test_what_the_filters_exclude_stays_in_the_way(call: Call, fake: FakeS3, tree: Path) -> None:
    """Excluded means untouched: the key fails, the rest is done."""
    fake.store.add("b", "x", b"new")
    fake.store.add("b", "y", b"y")

    result = call("sync", *DELETE, "--exclude", "x/*", "s3/b", "t")

    assert 1 == result.code
    assert "cannot write t/x: a directory has that name; remove or rename it\n" in result.err
    assert {"x/deep/old": b"old", "y": b"y"} == files_of(tree)


def test_deletes_that_are_held_back_leave_all_as_it_is(call: Call, fake: FakeS3, tree: Path) -> None:
    """Another transfer failed: nothing is deleted, and so nothing makes room."""
    fake.store.add("b", "x", b"new")
    fake.store.add("b", "y", b"y")
    fake.fault(Answer(403, "AccessDenied"), op="GetObject", key="y", times=0)

    result = call("sync", *DELETE, "s3/b", "t")

    assert 1 == result.code
    assert "nothing was deleted" in result.err
    assert "cannot write t/x: a directory has that name" in result.err
    assert {"x/deep/old": b"old"} == files_of(tree)


def test_dry_run_changes_nothing(call: Call, fake: FakeS3, tree: Path) -> None:
    """It tells both: what would go, and what would come in its place."""
    fake.store.add("b", "x", b"new")

    result = call("sync", "--dry-run", *DELETE, "s3/b", "t")

    assert 0 == result.code
    assert "s3/b/x -> t/x" in result.out
    assert {"x/deep/old": b"old"} == files_of(tree)
    assert (tree / "x" / "deep" / "empty").is_dir()


def test_link_in_a_hollow_directory_is_not_followed(call: Call, fake: FakeS3, tree: Path, tmp_path: Path) -> None:
    """What it points to is none of ours, and so is the link."""
    (tree / "x" / "deep" / "old").unlink()
    (tmp_path / "elsewhere" / "empty").mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere", tree / "x" / "link")
    fake.store.add("b", "x", b"new")

    result = call("sync", *DELETE, "s3/b", "t")

    assert 1 == result.code
    assert (tmp_path / "elsewhere" / "empty").is_dir()
    assert (tree / "x" / "link").is_symlink()


def test_cp_names_the_directory_in_the_way(call: Call, fake: FakeS3, tree: Path) -> None:
    """Nothing is ever deleted by cp: the line says what has to be done."""
    fake.store.add("b", "p/x", b"new")
    fake.store.add("b", "p/y", b"y")

    result = call("cp", "-r", "s3/b/p", "t")

    assert 1 == result.code
    assert "cannot write x: a directory has that name; remove or rename it" in result.err
    assert {"x/deep/old": b"old", "y": b"y"} == files_of(tree)
