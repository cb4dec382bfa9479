"""Temporary files: whose they are, who may read them, and when they go."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_s3 import MIB, Call, FakeS3
from tests.support.run_cli import CliResult

Run = Callable[..., CliResult]
OLD = 1_500_000_000
NOTES = [".s3pool-notes.part", ".s3pool-.part", ".s3pool-0123.part", ".s3pool-0123456789aB.part", ".s3pool-x", "a.part"]
OWN = [".s3pool-0123456789ab.part", ".s3pool-0123456789abcdef.part"]
COMMANDS = [("cp", "-r", "s3/b/p", "got"), ("sync", "s3/b/p", "got"), ("cp", "s3/b/p/k", "got/k")]


@pytest.fixture
def got(fake: FakeS3, tmp_path: Path) -> Path:
    """Return a directory with notes that look like temporary files, and two such files of a dead run."""
    fake.store.add("b", "p/k", b"kept", mtime=OLD)
    (tmp_path / "got").mkdir()
    for name in (*NOTES, *OWN):
        (tmp_path / "got" / name).write_bytes(b"mine")
    return tmp_path / "got"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_notes_of_the_user_stay_and_leftovers_go_with_a_word(call: Run, got: Path, command: tuple[str, ...]) -> None:
    """A name is s3pool's own only where it is exactly one that s3pool makes."""
    done = call(*command)
    assert done.code == 0, done.err
    assert {path.name for path in got.iterdir()} == {*NOTES, "k"}
    told = [line for line in done.err.splitlines() if "temporary file" in line]
    assert len(told) == 1, done.err
    assert "removed 2 temporary files" in told[0]
    assert "temporary file" not in call(*command).err


@pytest.mark.parametrize("command", [("cp", "-r", "got", "s3/b/q"), ("sync", "got", "s3/b/q")], ids=" ".join)
def test_notes_of_the_user_are_sent(fake: FakeS3, call: Run, got: Path, command: tuple[str, ...]) -> None:
    """What a walk leaves out is lost for whoever relies on the copy."""
    assert call(*command).code == 0
    sent = {key for key in fake.store.bodies("b") if key.startswith("q/")}
    assert sent == {f"q/{name}" for name in NOTES}


def test_notes_of_the_user_can_be_deleted_and_fetched(fake: FakeS3, call: Run, got: Path) -> None:
    """A sync sees them as any other file."""
    fake.store.add("b", f"p/{NOTES[0]}", b"theirs", mtime=OLD)
    assert call("sync", "--delete", "s3/b/p", "got").code == 0
    assert {path.name: path.read_bytes() for path in got.iterdir()} == {NOTES[0]: b"theirs", "k": b"kept"}


def test_a_pipe_of_that_name_is_nobodys(call: Run, got: Path) -> None:
    """Only a regular file can be a leftover."""
    (got / OWN[0]).unlink()
    os.mkfifo(got / OWN[0])
    assert call("cp", "s3/b/p/k", "got/k").code == 0
    assert stat.S_ISFIFO((got / OWN[0]).lstat().st_mode)


@pytest.mark.parametrize("command", [("cp", "-r", "s3/b/p", "new"), ("sync", "s3/b/p", "new")], ids=" ".join)
def test_a_key_with_the_name_of_a_temporary_file_is_refused(
    fake: FakeS3, call: Run, got: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """The next run would take the file for a leftover."""
    fake.store.add("b", f"p/d/{OWN[0]}", b"theirs", mtime=OLD)
    done = call(*command)
    assert (done.code, "s3pool's own temporary files" in done.err) == (6, True), done.err
    assert [path.name for path in (tmp_path / "new").rglob("*") if path.is_file()] == ["k"]


@pytest.mark.parametrize("size", [3, 70_000, 40 * MIB], ids=["small", "whole", "ranges"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_replaces_a_private_file_is_private_while_it_comes(
    fake: FakeS3, call: Run, tmp_path: Path, command: tuple[str, ...], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may not read the file may not read what is to be the file, either."""
    fake.store.add("b", "p/k", b"x" * size, mtime=OLD)
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "k").touch(mode=0o400)
    seen: list[int] = []
    make = os.open

    def watched(path: object, flags: int, mode: int = 0o777, **words: int) -> int:
        fd = make(path, flags, mode, **words)  # type: ignore[arg-type]
        if flags & os.O_EXCL:
            seen.append(stat.S_IMODE(os.fstat(fd).st_mode))
        return fd

    monkeypatch.setattr(os, "open", watched)
    assert call(*command).code == 0
    assert seen
    assert all(mode & 0o077 == 0 for mode in seen)
    assert stat.S_IMODE((tmp_path / "got" / "k").stat().st_mode) == 0o400


@pytest.mark.parametrize(("stored", "expected"), [("100600", 0o600), ("100640", 0o640), ("", 0o644), ("99", 0o644)])
def test_what_is_to_be_private_is_private_while_it_comes(
    fake: FakeS3, call: Run, tmp_path: Path, stored: str, expected: int
) -> None:
    """The mode is known with the first bytes at the earliest; without one the umask decides."""
    headers = {"x_amz_meta_mode": stored} if stored else {}
    fake.store.add("b", "p/k", b"x" * 70_000, mtime=OLD, **headers)
    seen: list[int] = []

    def look(_: object) -> None:
        seen.extend(stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "got").glob(".s3pool-*"))

    fake.fault(Call(look), op="GetObject", times=0)
    before = os.umask(0o022)
    try:
        assert call("cp", "--preserve", "-r", "s3/b/p", "got").code == 0
    finally:
        os.umask(before)
    assert seen == [0o600]
    assert stat.S_IMODE((tmp_path / "got" / "k").stat().st_mode) == expected


def test_the_file_of_a_living_run_is_nobody_elses(fake: FakeS3, call: Run, got: Path) -> None:
    """Whoever holds the lock on it is at work on it."""
    with (got / OWN[0]).open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for command in COMMANDS:
            assert call(*command).code == 0
        assert {path.name for path in got.iterdir()} == {*NOTES, OWN[0], "k"}
    assert call(*COMMANDS[0]).code == 0
    assert not (got / OWN[0]).exists()
