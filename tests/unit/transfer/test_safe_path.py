"""Names that keys cannot leave their directory by, and keys that would need the same file."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from s3pool.errors import LocalFileError, LocalNotFoundError, RefusedError
from s3pool.transfer.part_file import PartFile, PartRegistry, remove_orphan
from s3pool.transfer.safe_path import (
    KeyMapper,
    is_part_name,
    make_directory,
    open_root,
    remove_file,
    split_relative,
    stat_below,
)


@pytest.mark.parametrize("relative", ["../x", "a/../../x", "a/..", "..", "/abs", "//abs", ".", "a/.", "a\0b"])
def test_names_that_no_file_may_have_are_refused(relative: str) -> None:
    """A key decides nothing about files outside of the target directory."""
    with pytest.raises(RefusedError):
        split_relative(relative)


@pytest.mark.parametrize(
    ("relative", "expected"),
    [
        ("a", ([], b"a")),
        ("a/b", ([b"a"], b"b")),
        ("a//b", ([b"a"], b"b")),
        ("a/./b", ([b"a"], b"b")),
        ("a/", ([b"a"], b"")),
        ("..a/b..", ([b"..a"], b"b..")),
        ("\udcff", ([], b"\xff")),
    ],
)
def test_names_are_cut_as_the_file_system_reads_them(relative: str, expected: tuple[list[bytes], bytes]) -> None:
    """Empty and dot components do not exist on disk."""
    assert expected == split_relative(relative)


def write(root: Path, relative: str, content: bytes, *, replace: bool = True) -> bool:
    """Write a file as a download does."""
    part = PartFile(str(root), relative, registry=PartRegistry())
    try:
        os.write(part.fd, content)
        return part.commit(replace=replace)
    finally:
        part.close()


def test_committed_file_has_its_name_and_leaves_nothing_else(tmp_path: Path) -> None:
    """The temporary name ends with the transfer."""
    write(tmp_path, "a/b/c", b"new")

    assert b"new" == (tmp_path / "a/b/c").read_bytes()
    assert ["c"] == os.listdir(tmp_path / "a/b")


def test_uncommitted_file_leaves_nothing_and_the_old_one(tmp_path: Path) -> None:
    """A failed download must not touch what was there."""
    (tmp_path / "a").write_bytes(b"old")
    part = PartFile(str(tmp_path), "a", registry=PartRegistry())
    os.write(part.fd, b"half")

    part.close()

    assert ["a"] == os.listdir(tmp_path)
    assert b"old" == (tmp_path / "a").read_bytes()


def test_commit_without_replace_leaves_the_one_that_is_there(tmp_path: Path) -> None:
    """--no-clobber holds even when the file came meanwhile."""
    (tmp_path / "a").write_bytes(b"old")

    committed = write(tmp_path, "a", b"new", replace=False)

    assert not committed
    assert b"old" == (tmp_path / "a").read_bytes()
    assert ["a"] == os.listdir(tmp_path)


def test_commit_over_a_directory_fails(tmp_path: Path) -> None:
    """A directory is never replaced by a file."""
    (tmp_path / "a").mkdir()

    with pytest.raises(LocalFileError, match="cannot write a"):
        write(tmp_path, "a", b"new")

    assert ["a"] == os.listdir(tmp_path)


def test_link_at_the_target_is_replaced_not_followed(tmp_path: Path) -> None:
    """A key must not write where a link points."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"safe")
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").symlink_to(outside)

    write(root, "a", b"new")

    assert b"safe" == outside.read_bytes()
    assert not (root / "a").is_symlink()


@pytest.mark.parametrize("target", ["elsewhere", "missing"])
def test_link_on_the_way_is_refused(tmp_path: Path, target: str) -> None:
    """A link inside the target directory leads out of it."""
    (tmp_path / "elsewhere").mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / target)

    with pytest.raises(RefusedError, match="symbolic link link"):
        write(root, "link/a", b"new")

    assert [] == os.listdir(tmp_path / "elsewhere")


def test_link_that_the_user_named_is_followed(tmp_path: Path) -> None:
    """The target directory itself is the user's own word."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    write(tmp_path / "link", "a", b"new")

    assert b"new" == (tmp_path / "real/a").read_bytes()


def test_file_on_the_way_is_an_error(tmp_path: Path) -> None:
    """The keys x and x/y cannot both be files."""
    (tmp_path / "x").write_bytes(b"")

    with pytest.raises(LocalFileError, match="x is a file"):
        write(tmp_path, "x/y", b"new")


def test_root_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    """Nothing can lie below a file."""
    (tmp_path / "x").write_bytes(b"")

    with pytest.raises(LocalFileError, match="not a directory"):
        open_root(str(tmp_path / "x"))


def test_registry_removes_what_is_left(tmp_path: Path) -> None:
    """An interrupt that cannot wait for the workers still leaves no temporary file."""
    registry = PartRegistry()
    part = PartFile(str(tmp_path), "a", registry=registry)

    registry.discard_all()

    assert [] == os.listdir(tmp_path)
    part.close()


def test_part_files_are_known_by_their_names(tmp_path: Path) -> None:
    """Walks leave alone what another run is writing."""
    part = PartFile(str(tmp_path), "a", registry=PartRegistry())

    names = os.listdir(os.fsencode(tmp_path))

    assert [True] == [is_part_name(name) for name in names]
    part.close()


def test_forked_processes_write_side_by_side(tmp_path: Path) -> None:
    """Workers of multiprocessing and of data loaders are forks of a process that has the library loaded."""
    for _ in range(3):  # each makes the name that this process would make next, and is killed
        child = os.fork()
        if not child:
            try:
                PartFile(str(tmp_path), "a", registry=PartRegistry())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    left = len(os.listdir(tmp_path))

    part = PartFile(str(tmp_path), "a", registry=PartRegistry())

    assert (3, 4) == (left, len(os.listdir(tmp_path)))
    part.close()


def test_existing_mode_is_that_of_the_file_to_be_replaced(tmp_path: Path) -> None:
    """A private file stays private when its content is replaced."""
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "a").chmod(0o600)
    part = PartFile(str(tmp_path), "a", registry=PartRegistry())

    mode = part.existing_mode()

    assert 0o600 == mode
    part.close()


def test_directories_are_made_below_the_root(tmp_path: Path) -> None:
    """A key that ends in a slash becomes a directory."""
    make_directory(str(tmp_path / "root"), "a/b/")

    assert (tmp_path / "root/a/b").is_dir()


def test_remove_takes_the_file_and_forgives_a_missing_one(tmp_path: Path) -> None:
    """A removal that another run was faster with is done."""
    (tmp_path / "a").write_bytes(b"")

    remove_file(str(tmp_path), "a")
    remove_file(str(tmp_path), "a")
    remove_file(str(tmp_path), "no/such")

    assert [] == os.listdir(tmp_path)


def test_remove_refuses_to_follow_a_link(tmp_path: Path) -> None:
    """What lies behind a link is not in the target directory."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a").write_bytes(b"safe")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(RefusedError):
        remove_file(str(tmp_path / "root"), "link/a")

    assert (tmp_path / "elsewhere/a").exists()


def test_stat_below_gives_the_link_itself(tmp_path: Path) -> None:
    """Whether a target exists is asked about its name, not about what it points to."""
    (tmp_path / "link").symlink_to("nowhere")

    found = stat_below(str(tmp_path), "link")

    assert found is not None
    assert stat_below(str(tmp_path), "missing") is None


def test_missing_directory_of_a_source_is_not_found(tmp_path: Path) -> None:
    """A source that is missing has an exit code of its own."""
    with pytest.raises(LocalNotFoundError):
        open_root(str(tmp_path / "missing"), create=False)


def test_orphans_are_swept_and_files_in_use_are_not(tmp_path: Path) -> None:
    """A run that was killed holds no lock any more; one that works does."""
    orphan = tmp_path / ".s3pool-0123456789ab.part"
    orphan.write_bytes(b"dead")
    part = PartFile(str(tmp_path), "a", registry=PartRegistry())
    name = os.path.join(os.fsencode(tmp_path), part.name)

    swept = (remove_orphan(os.fsencode(orphan)), remove_orphan(name), remove_orphan(b"/nowhere/at/all"))

    assert (4, None, None) == swept
    assert part.commit()
    part.close()
    assert ["a"] == os.listdir(tmp_path)


def test_a_file_that_is_swept_before_it_is_claimed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may walk by in the very moment between the two."""
    flock, swept = fcntl.flock, list[bool]()

    def late(fd: int, how: int) -> None:
        if not swept:
            swept.append(True)
            (found,) = tmp_path.iterdir()
            found.unlink()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)

    part = PartFile(str(tmp_path), "a", registry=PartRegistry())

    assert [True] == swept
    assert part.commit()
    part.close()
    assert ["a"] == os.listdir(tmp_path)


def test_a_kept_file_is_opened_again_unless_it_is_in_use(tmp_path: Path) -> None:
    """Two runs must not write to one temporary file."""
    registry = PartRegistry()
    first = PartFile(str(tmp_path), "a", registry=registry)
    name = os.fsdecode(first.name)
    os.write(first.fd, b"half")
    busy = PartFile(str(tmp_path), "a", registry=registry, reuse=name)
    busy.close()
    first.keep()
    first.close()

    again = PartFile(str(tmp_path), "a", registry=registry, reuse=name)
    content = os.pread(again.fd, 10, 0)
    missing = PartFile(str(tmp_path), "b", registry=registry, reuse=".s3pool-ffffffffffff.part")

    assert (False, True, False) == (busy.reused, again.reused, missing.reused)
    assert b"half" == content
    again.close()
    missing.close()
    assert [] == os.listdir(tmp_path)


@pytest.mark.parametrize(("free", "reserved"), [(400_000, []), (80_000, [40_000]), (30_000, None)])
def test_scarce_space_is_reserved_before_a_byte_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, reserved: list[int] | None
) -> None:
    """Somebody else might take it; where there is plenty, ext4 has three times the work with reserved space."""
    done: list[int] = []

    def reserve(_fd: int, offset: int, size: int) -> None:
        if size > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done.append(offset + size)

    monkeypatch.setattr(os, "fstatvfs", lambda _fd: SimpleNamespace(f_bavail=free // 4096, f_frsize=4096))
    monkeypatch.setattr(os, "posix_fallocate", reserve)
    part = PartFile(str(tmp_path), "a", registry=PartRegistry())

    if reserved is None:
        with pytest.raises(LocalFileError, match="cannot reserve space for a: No space left on device"):
            part.preallocate(40_000)
    else:
        part.preallocate(40_000)
        assert reserved == done
        assert done or os.fstat(part.fd).st_size == 40_000

    part.close()


def refused(keys: list[str]) -> list[str]:
    """Give the keys of a sorted listing that the mapper refuses."""
    mapper = KeyMapper(lambda bucket, key: key in keys)
    found = []
    for key in sorted(keys, key=str.encode):
        try:
            mapper.check("b", "", key)
        except RefusedError:
            found.append(key)
    return found


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["a", "b/c", "b-c", "b/d"], []),
        (["a//b", "a/b"], ["a/b"]),
        (["a/./b", "a//b", "a/b"], ["a//b", "a/b"]),
        (["a/+b", "a//+b"], ["a//+b"]),
        (["a//b"], []),
        (["x", "x-y", "x/y", "x0"], ["x/y"]),
        (["x", "x/y/z", "x/y"], ["x/y", "x/y/z"]),
        (["x/", "x/y"], []),
        (["x", "x/"], ["x/"]),
        (["../a", "b"], ["../a"]),
    ],
)
def test_keys_that_cannot_have_their_own_file_are_refused(keys: list[str], expected: list[str]) -> None:
    """The first of two keys for one file stays, whichever spelling comes first."""
    assert expected == refused(keys)


def test_memory_does_not_grow_with_plain_keys() -> None:
    """A listing may have a billion of them."""
    mapper = KeyMapper(lambda bucket, key: False)

    for number in range(1000):
        mapper.check("b", "", f"dir/{number:05}")

    assert (0, 1) == (len(mapper._unusual), len(mapper._above))


def test_another_listing_starts_anew() -> None:
    """Two sources are two orders."""
    mapper = KeyMapper(lambda bucket, key: False)
    mapper.check("b", "p/", "x")

    mapper.restart()

    mapper.check("b", "q/", "x/y")


def refused_in_blocks(keys: list[str], random: Random) -> list[str]:
    """Give the keys that are refused when they come many at once."""
    mapper = KeyMapper(lambda bucket, key: key in keys)
    left, found = sorted(keys, key=str.encode), []
    while left:
        count = random.randint(1, 8)
        block, left = left[:count], left[count:]
        if mapper.check_all(block):
            continue
        for key in block:
            try:
                mapper.check("b", "", key)
            except RefusedError:
                found.append(key)
    return found


def test_many_keys_at_once_are_judged_as_one_by_one() -> None:
    """The short way must not let a key pass that the long way refuses, wherever a block ends."""
    random = Random(7)
    for _ in range(2000):
        letters = random.choice(("ab/", "ab/.", "ab-/", "a/\0."))
        keys = list({"".join(random.choices(letters, k=random.randint(1, 5))) for _ in range(random.randint(1, 25))})

        assert refused(keys) == refused_in_blocks(keys, random)


def test_plain_keys_go_the_short_way() -> None:
    """A listing of a million of them must not be taken in hand one by one."""
    mapper = KeyMapper(lambda bucket, key: False)

    assert mapper.check_all(["a", "a-b", "b/c.d", "b/..d", "b/.d", "c/d/e"])
    assert not mapper.check_all(["c/d/e/f", "c/x"])
