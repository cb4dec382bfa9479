"""Filters by size, age and lists of globs: the same for cp, mv, sync, rm and find."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import FakeS3

OLD, NEW = 1_000_000_000.0, 1_700_000_000.0
SIZES = {"old-large": 3000, "old-small": 10, "new-large": 3000, "new-small": 10}
FILTERS = {
    "--larger 1K": {"old-large", "new-large"},
    "--smaller 1K": {"old-small", "new-small"},
    "--older-than 2010-01-01": {"old-large", "old-small"},
    "--newer-than 2010-01-01": {"new-large", "new-small"},
    "--larger 1K --newer-than 2010-01-01": {"new-large"},
    "--larger 1K --exclude new*": {"old-large"},
    "--include-from globs": {"old-small", "new-small"},
    "--exclude-from globs": {"old-large", "new-large"},
    "--exclude * --include-from globs --exclude old*": {"new-small"},
}


@pytest.fixture
def trees(fake: FakeS3, tmp_path: Path) -> Path:
    """Give the same four names in S3, below s3/b/p, and in a directory d; a list of globs; an empty bucket t."""
    (tmp_path / "d").mkdir()
    for name, size in SIZES.items():
        mtime = OLD if name.startswith("old") else NEW
        fake.store.add("b", f"p/{name}", b"x" * size, mtime=mtime)
        (tmp_path / "d" / name).write_bytes(b"x" * size)
        os.utime(tmp_path / "d" / name, (mtime, mtime))
    (tmp_path / "globs").write_text("# what is small\n\n*-small\n")
    fake.store.add("t", "untouched")
    return tmp_path


@pytest.mark.parametrize("flags", FILTERS)
def test_filters_choose_what_is_worked_on(fake: FakeS3, call: Call, trees: Path, flags: str) -> None:
    """Up, down, inside, as a sync, by a list, as a removal, and one by one."""
    words, wanted = flags.split(), FILTERS[flags]
    (trees / "list").write_text("\n".join(SIZES))

    codes = [
        call("cp", "-r", *words, "d", "s3/t/up").code,
        call("cp", "-r", *words, "s3/b/p", "down").code,
        call("cp", *words, "s3/b/p/*", "s3/t/glob/").code,
        call("sync", *words, "s3/b/p", "s3/t/inside").code,
        call("sync", *words, "d", "s3/t/synced").code,
        call("cp", *words, "--files-from", "list", "s3/b/p", "s3/t/listed").code,
        call("cp", *words, "--files-from", "list", "d", "s3/t/files").code,
        *(call("cp", *words, f"d/{name}", f"s3/b/p/{name}", "s3/t/single/").code for name in SIZES),
    ]
    trees_made: dict[str, set[str]] = {}
    for key in fake.store.bodies("t"):
        trees_made.setdefault(key.split("/")[0], set()).add(key.split("/")[-1])
    removed = call("rm", "-r", "--force", *words, "s3/b/p")

    assert {0} == {*codes[:7], removed.code}
    assert wanted == set(os.listdir(trees / "down"))
    assert {"up", "glob", "inside", "synced", "listed", "files", "single"} == trees_made.keys() - {"untouched"}
    assert [wanted] * 7 == [names for tree, names in trees_made.items() if tree != "untouched"]
    assert SIZES.keys() - wanted == {key[2:] for key in fake.store.bodies("b")}


@pytest.mark.parametrize("flags", ["--larger 1K", "--older-than 2010-01-01"])
def test_mv_leaves_what_is_left_out(fake: FakeS3, call: Call, trees: Path, flags: str) -> None:
    """At both ends of the way."""
    call("mv", "-r", *flags.split(), "s3/b/p", "down")
    call("mv", "-r", *flags.split(), "d", "s3/t/up")

    left = SIZES.keys() - FILTERS[flags]
    assert (left, left) == ({key[2:] for key in fake.store.bodies("b")}, set(os.listdir(trees / "d")))


@pytest.mark.parametrize("direction", ["up", "down", "inside"])
@pytest.mark.parametrize("more", [(), ("--delete-excluded",)], ids=["", "delete-excluded"])
def test_excluded_is_untouched_on_both_sides(
    fake: FakeS3, call: Call, tmp_path: Path, direction: str, more: tuple[str, ...]
) -> None:
    """By the source's size a pair is left alone; what only the target has is, by its own."""
    sides = {
        "source": {"small": 10, "large": 3000},
        "target": {"small": 4000, "large": 4000, "extra-s": 10, "extra-l": 3000},
    }
    for side, names in sides.items():
        (tmp_path / side).mkdir()
        for name, size in names.items():
            fake.store.add("b", f"{side}/{name}", b"x" * size, mtime=OLD)
            (tmp_path / side / name).write_bytes(b"x" * size)
    source, target = {"up": ("source", "s3/b/target"), "down": ("s3/b/source", "target")}.get(
        direction, ("s3/b/source", "s3/b/target")
    )

    result = call("sync", "--delete", *more, "--larger", "1K", "--max-delete", "none", source, target)
    again = call("sync", "--delete", *more, "--larger", "1K", "--max-delete", "none", source, target)

    found = {path.name: path.stat().st_size for path in (tmp_path / "target").iterdir()}
    if direction != "down":
        found = {key[7:]: len(body) for key, body in fake.store.bodies("b").items() if key.startswith("target/")}
    assert (0, 0) == (result.code, again.code)
    assert ({"large": 3000} if more else {"small": 4000, "large": 3000, "extra-s": 10}) == found
    assert "0 copied, 0 deleted" in again.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("cp --exclude-from none s3/b/p d", "cannot read the globs in none: no such file or directory"),
        ("cp --larger 1K - s3/b/k", "filters choose among names: - to s3/b/k is one stream"),
        ("rm --incomplete --larger 1 s3/b/p/", "--larger and --smaller are for objects"),
        ("sync --older-than soon d s3/b/p", "soon"),
        ("cp --larger big d s3/b/p", "--larger"),
    ],
)
def test_filters_that_make_no_sense_are_refused(fake: FakeS3, call: Call, words: str, message: str) -> None:
    """Before anything is asked, exit code 2."""
    result = call(*words.split())

    assert (2, "") == (result.code, result.out)
    assert message in result.err
    assert [] == [request for request in fake.requests if request.method != "HEAD"]
