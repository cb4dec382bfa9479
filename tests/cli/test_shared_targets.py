"""Two sources never share a target: the second fails with a line that names both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from s3pool.transfer import sources
from tests.support.fake_s3 import FakeS3
from tests.support.run_cli import CliResult

Run = Callable[..., CliResult]
COMMANDS = ("cp", "mv")


@pytest.fixture
def fake(fake_s3: Callable[..., FakeS3], tmp_path: Path) -> FakeS3:
    """Give two trees with one name in common, on disk and in S3."""
    fake = fake_s3(2)
    for tree, names in (("d1", ("only1", "x")), ("d2", ("only2", "x"))):
        (tmp_path / tree).mkdir()
        for name in names:
            (tmp_path / tree / name).write_bytes(f"{tree}/{name}".encode())
            fake.store.add("b", f"{tree}/{name}", f"{tree}/{name}".encode(), mtime=1000)
    fake.store.add("c", "z", b"")
    return fake


def _all_there(fake: FakeS3, tmp_path: Path) -> set[bytes]:
    """Return every content there is, in S3 or on disk."""
    on_disk = {path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    return on_disk | set(fake.store.bodies("b").values()) | set(fake.store.bodies("c").values())


CONTENTS = {b"d1/only1", b"d1/x", b"d2/only2", b"d2/x"}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("operands", "first", "second", "target"),
    [
        (("-r", "d1", "d2", "s3/c/m/"), "d1/x", "d2/x", "s3/c/m/x"),
        (("-r", "d1", "d2/x", "s3/c/m/"), "d1/x", "d2/x", "s3/c/m/x"),
        (("-r", "d1/x", "d2", "s3/c/m/"), "d1/x", "d2/x", "s3/c/m/x"),
        (("d1/x", "d2/x", "s3/c/m/"), "d1/x", "d2/x", "s3/c/m/x"),
        (("-r", "s3/b/d1/", "s3/b/d2/", "s3/c/m/"), "s3/b/d1/x", "s3/b/d2/x", "s3/c/m/x"),
        (("s3/b/d1/*", "s3/b/d2/?", "s3/c/m/"), "s3/b/d1/x", "s3/b/d2/x", "s3/c/m/x"),
        (("-r", "s3/b/d1/x", "s3/b/d2", "s3/c/m/"), "s3/b/d1/x", "s3/b/d2/x", "s3/c/m/x"),
        (("-r", "s3/b/d1/", "s3/b/d2/", "got"), "s3/b/d1/x", "s3/b/d2/x", "got/x"),
        (("s3/b/d1/*", "s3/b/d2/*", "got"), "s3/b/d1/x", "s3/b/d2/x", "got/x"),
        (("s3/b/d1/x", "s3/b/d2/x", "got/"), "s3/b/d1/x", "s3/b/d2/x", "got/x"),
        (("-r", "d1", "s3/b/d2/", "s3/c/m/"), "d1/x", "s3/b/d2/x", "s3/c/m/x"),
    ],
)
def test_second_source_of_a_target_fails_and_stays(
    call: Run,
    fake: FakeS3,
    tmp_path: Path,
    command: str,
    operands: tuple[str, ...],
    first: str,
    second: str,
    target: str,
) -> None:
    """As GNU cp has it: what was just made is not overwritten."""
    result = call(command, *operands)

    assert 1 == result.code, result.err
    assert f"{second} and {first} would both be {target}: the first one stays" in result.err
    assert f"{second} -> " not in result.out
    assert f"{first} -> {target}" in result.out
    assert _all_there(fake, tmp_path) >= CONTENTS


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("target", ["got", "s3/c/m/"])
def test_tree_and_the_key_of_its_name_do_not_share_a_target(
    call: Run, fake: FakeS3, tmp_path: Path, command: str, target: str
) -> None:
    """The key p becomes p, and so does p/p."""
    fake.store.add("b", "p", b"of the key", mtime=1000)
    fake.store.add("b", "p/p", b"of the tree", mtime=1000)

    result = call(command, "-r", "s3/b/p", target)

    assert 1 == result.code, result.err
    assert "s3/b/p/p and s3/b/p would both be" in result.err
    assert {b"of the key", b"of the tree"} <= _all_there(fake, tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("names", "code"), [(("a//k", "a/k"), 1), (("./a/k", "a/k"), 1), (("a/k", "a/k"), 0)])
def test_names_of_a_list_do_not_share_a_file(
    call: Run, fake: FakeS3, tmp_path: Path, command: str, names: tuple[str, ...], code: int
) -> None:
    """Keys that differ in their slashes need one file; a name that stands there twice is one name."""
    for name in ("a//k", "./a/k", "a/k"):
        fake.store.add("b", name, name.encode(), mtime=1000)
    (tmp_path / "list").write_text("\n".join(names))

    result = call(command, "--files-from", "list", "s3/b/", "got")

    assert code == result.code, result.err
    assert names[0].encode() == (tmp_path / "got" / "a" / "k").read_bytes()
    assert {name.encode() for name in names} <= _all_there(fake, tmp_path)


@pytest.mark.parametrize("command", [("cp", "-r"), ("mv", "-r"), ("sync",)])
def test_keys_of_one_tree_do_not_share_a_file(
    call: Run, fake: FakeS3, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Whatever brings it."""
    for key in ("t/a//k", "t/a/k"):
        fake.store.add("b", key, key.encode(), mtime=1000)

    result = call(*command, "s3/b/t/", "got")

    assert result.code in (1, 6), result.err
    assert {b"t/a//k", b"t/a/k"} <= _all_there(fake, tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_source_does_not_become_another_one_before_its_turn(
    call: Run, fake: FakeS3, tmp_path: Path, command: str
) -> None:
    """d1/x would be overwritten by x, and its content be nowhere."""
    fake.store.add("b", "x", b"top", mtime=1000)

    result = call(command, "s3/b/x", "s3/b/d1/x", "s3/b/d1/")

    assert 1 == result.code, result.err
    assert {b"top", b"d1/x"} <= set(fake.store.bodies("b").values())
    assert "s3/b/x and s3/b/d1/x would both be s3/b/d1/x" in result.err


def test_markers_of_directories_may_meet(call: Run, fake: FakeS3) -> None:
    """Both trees have the directory, and so has the target: nothing is lost."""
    for key in ("d1/sub/", "d2/sub/"):
        fake.store.add("b", key, b"", mtime=1000)
    fake.store.bucket("b").remove("d2/x", "null")

    result = call("cp", "-r", "s3/b/d1/", "s3/b/d2/", "s3/c/m/")

    assert 0 == result.code, result.err


def test_targets_beyond_memory_are_remembered_on_disk(
    call: Run, fake: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trees of millions of files cost a bounded number of bytes."""
    monkeypatch.setattr(sources, "MOST_IN_MEMORY", 3)
    for tree in ("d1", "d2"):
        for number in range(20):
            (tmp_path / tree / f"{number}").write_bytes(f"{tree}{number}".encode())

    result = call("mv", "-r", "d1", "d2", "s3/c/m/")

    assert 1 == result.code
    assert 21 == result.err.count("would both be")
    assert {*(f"{number}" for number in range(20)), "x"} == {path.name for path in (tmp_path / "d2").iterdir()}


def test_dry_run_tells_of_shared_targets(call: Run, fake: FakeS3, tmp_path: Path) -> None:
    """It is what would happen."""
    result = call("mv", "-r", "--dry-run", "d1", "d2", "s3/c/m/")

    assert (1, {"z"}) == (result.code, set(fake.store.bodies("c")))
    assert "d2/x and d1/x would both be s3/c/m/x" in result.err


@pytest.mark.parametrize("command", ["cp", "mv"])
def test_listed_names_that_are_no_files_are_refused_in_their_words(call: Run, tmp_path: Path, command: str) -> None:
    """Nothing is written here, so no line speaks of a target directory."""
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "list").write_text("../x\n/etc/x\nsub\n")

    result = call(command, "--files-from", "d/list", "d", "s3/b/t")

    assert 6 == result.code
    assert [
        "s3pool: error: d/../x: the name leads out of its directory: it holds '..'",
        "s3pool: error: /etc/x: the name leads out of its directory: it is absolute",
        "s3pool: error: d/sub is a directory, and a list names files: skipped",
    ] == result.err.splitlines()[:3]
