from __future__ import annotations

import os
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


def test_links_to_files_are_followed_and_links_to_directories_reported(tmp_path: Path) -> None:
    """The default takes what is certainly meant, and says what it leaves."""
    make(tmp_path, "real/a")
    (tmp_path / "file").symlink_to("real/a")
    (tmp_path / "dir").symlink_to("real")

    walk = Walk(str(tmp_path))

    assert ["file", "real/a"] == names_of(walk)
    assert ["dir/"] == [problem.relative for problem in problems_of(walk)]
    assert isinstance(problems_of(walk)[0].error, RefusedError)


def test_links_skip_leaves_all_links_without_a_word(tmp_path: Path) -> None:
    """Who asks for it knows."""
    make(tmp_path, "real/a")
    (tmp_path / "file").symlink_to("real/a")
    (tmp_path / "dir").symlink_to("real")

    walk = Walk(str(tmp_path), links="skip")

    assert ["real/a"] == names_of(walk)
    assert [] == problems_of(walk)


def test_links_follow_walks_into_directories_and_stops_at_loops(tmp_path: Path) -> None:
    """A link to its own parent must not become forty levels of copies."""
    make(tmp_path, "real/a")
    (tmp_path / "dir").symlink_to("real")
    (tmp_path / "real/loop").symlink_to("..")

    walk = Walk(str(tmp_path), links="follow")

    assert ["dir/a", "real/a"] == names_of(walk)
    assert ["dir/loop/", "real/loop/"] == [problem.relative for problem in problems_of(walk)]


def test_broken_link_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    """One broken link must not stop a backup."""
    make(tmp_path, "a", "z")
    (tmp_path / "broken").symlink_to("nowhere")

    walk = Walk(str(tmp_path))

    assert ["a", "z"] == names_of(walk)
    assert ["broken"] == [problem.relative for problem in problems_of(walk)]
    assert isinstance(problems_of(walk)[0].error, RefusedError)


def test_pipes_are_skipped_with_a_word(tmp_path: Path) -> None:
    """Reading a pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe")

    problems = problems_of(Walk(str(tmp_path)))

    assert ["a pipe"] == [problem.error.message.split(" is ")[1].split(":")[0] for problem in problems]


def test_name_that_is_not_utf8_fails_alone(tmp_path: Path) -> None:
    """No key can hold it; the others must not suffer."""
    make(tmp_path, "a")
    with open(os.path.join(os.fsencode(tmp_path), b"bad\xff"), "wb"):
        pass

    walk = Walk(str(tmp_path))

    assert ["a"] == names_of(walk)
    assert [LocalFileError] == [type(problem.error) for problem in problems_of(walk)]


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
