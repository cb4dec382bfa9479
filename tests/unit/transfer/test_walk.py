from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from s3pool.errors import LocalFileError, LocalNotFoundError, RefusedError
from s3pool.filters import NameFilter
from s3pool.transfer.walk import LocalFiles, Unusable, Walk


def make(root: Path, *names: str) -> None:
    """Make files."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")


def names_of(walk: Walk) -> list[str]:
    """Give the relative names of the files."""
    return [name for found in walk if isinstance(found, LocalFiles) for name in found.names]


def problems_of(walk: Walk) -> list[Unusable]:
    """Give what cannot be sent."""
    return [found for found in walk if isinstance(found, Unusable)]


def test_files_come_in_the_byte_order_of_their_keys(tmp_path: Path) -> None:
    """A merge with a listing needs one order: `a-b` stands before `a/b`, `a0` behind it."""
    make(tmp_path, "a/b", "a-b", "a0", "Z", "é", "a/c/d", "a/c.d")

    names = names_of(Walk(str(tmp_path)))

    assert ["Z", "a-b", "a/b", "a/c.d", "a/c/d", "a0", "é"] == names
    assert sorted(names, key=str.encode) == names


def test_temporary_files_of_downloads_are_left_alone(tmp_path: Path) -> None:
    """What another run is writing is nobody's source."""
    make(tmp_path, "a", ".s3pool-0123456789ab.part")

    assert ["a"] == names_of(Walk(str(tmp_path)))


def test_filter_prunes_directories_that_cannot_matter(tmp_path: Path) -> None:
    """An excluded directory is not even looked at: what is wrong in it is nobody's concern."""
    make(tmp_path, "keep/a", "skip/b")
    (tmp_path / "skip/broken").symlink_to("nowhere")

    walk = Walk(str(tmp_path), names=NameFilter([("exclude", "skip/*")]))

    assert ["keep/a"] == names_of(walk)
    assert [] == problems_of(walk)


@pytest.mark.parametrize(
    ("links", "names", "reported"),
    [
        ("files", ["file", "real/a"], ["dir/", "real/loop/"]),  # what is certainly meant, and what is left is told
        ("skip", ["real/a"], []),  # who asks for it knows
        ("follow", ["dir/a", "file", "real/a"], ["dir/loop/", "real/loop/"]),
    ],
)
def test_links_are_taken_by_their_rule(tmp_path: Path, links: str, names: list[str], reported: list[str]) -> None:
    """A link to its own parent must not become forty levels of copies."""
    make(tmp_path, "real/a")
    (tmp_path / "file").symlink_to("real/a")
    (tmp_path / "dir").symlink_to("real")
    (tmp_path / "real/loop").symlink_to("..")

    walk = Walk(str(tmp_path), links=links)

    assert names == names_of(walk)
    assert reported == [problem.relative for problem in problems_of(walk)]
    assert {RefusedError} >= {type(problem.error) for problem in problems_of(walk)}


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (lambda path: os.symlink("nowhere", path), RefusedError, "is a broken link: skipped"),
        (os.mkfifo, RefusedError, "is a pipe: skipped"),  # reading it would wait for ever
        (lambda path: os.close(os.open(path + b"\xff", os.O_CREAT)), LocalFileError, "is not UTF-8"),
    ],
)
def test_what_cannot_be_sent_is_told_and_the_rest_goes_on(
    tmp_path: Path, spoil: Callable[[bytes], object], kind: type[Exception], words: str
) -> None:
    """One bad name must not stop a backup."""
    make(tmp_path, "a", "z")
    spoil(os.fsencode(tmp_path / "bad"))

    walk = Walk(str(tmp_path))

    assert ["a", "z"] == names_of(walk)
    (problem,) = problems_of(walk)
    assert (kind, True) == (type(problem.error), words in problem.error.message)


def test_missing_root_is_not_found(tmp_path: Path) -> None:
    """An unmounted source is an error, not an empty tree."""
    with pytest.raises(LocalNotFoundError):
        list(Walk(str(tmp_path / "missing")))


def test_size_and_time_come_with_the_file(tmp_path: Path) -> None:
    """Sync compares with them."""
    make(tmp_path, "a")
    os.utime(tmp_path / "a", ns=(1, 1_500_000_000_123_456_789))

    (found,) = Walk(str(tmp_path))

    assert LocalFiles(["a"], [1], [1_500_000_000_123_456_789], os.fsencode(tmp_path / "_")[:-1]) == found
