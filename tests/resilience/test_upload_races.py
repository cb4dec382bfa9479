"""A tree that somebody else changes while it is sent: nothing from outside of it may go along."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path

import pytest

from tests.support.fake_s3 import Call, FakeS3
from tests.support.run_cli import CliRunner

AT_FDCWD, RENAME_EXCHANGE = -100, 2
FILES = 400
SECRET = b"secret"
SWAPS_AT_LEAST = 50
COMMANDS = {"cp": ("cp", "-r"), "sync": ("sync",), "mv": ("mv", "-r"), "preserving": ("cp", "-r", "--preserve")}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a tree with a directory of many files, and a twin of that directory outside."""
    for place, content in (("tree/z", b"own"), ("outside", SECRET)):
        directory = tmp_path / place
        directory.mkdir(parents=True)
        for number in range(FILES):
            (directory / f"{number:04}").write_bytes(content.ljust(10))
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    return tmp_path / "tree"


def leaks(fake: FakeS3) -> list[str]:
    """Return the keys that hold what lies outside of the tree."""
    return [key for key, body in fake.store.bodies("b").items() if body.startswith(SECRET)]


def exchange(one: Path, other: Path) -> None:
    """Give two things each other's name at once: for no moment is either name missing."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges names at once")
@pytest.mark.parametrize("links", ["skip", "files"])
@pytest.mark.parametrize("command", list(COMMANDS))
def test_directory_that_becomes_a_link_is_not_followed(
    run_cli: CliRunner, fake_s3: object, tree: Path, command: str, links: str
) -> None:
    """It was a directory when its names were read, and is a link when its files are opened."""
    with FakeS3(2) as fake:
        fake.store.add("b", "other")

        def swap(_exchange: object) -> None:
            exchange(tree / "z", tree.parent / "link")

        fake.fault(Call(swap), op="PutObject")

        result = run_cli(*COMMANDS[command], "--links", links, str(tree), "s3/b/t", env=fake.environment)

        assert [] == leaks(fake)
        # What was sent before, a move cannot delete any more: that is a failure. What is opened in the
        # directory itself, which is held open from file to file, is sent.
        is_refused = "symbolic link" in result.err
        assert result.code == (1 if command == "mv" else 6 if is_refused else 0), result.err
        assert FILES == len(list((tree.parent / "outside").iterdir()))


def test_file_that_becomes_a_link_is_not_followed(run_cli: CliRunner, tree: Path) -> None:
    """Where links are skipped there is none to a file, either."""
    with FakeS3(2) as fake:
        fake.store.add("b", "other")

        def swap(_exchange: object) -> None:
            for path in sorted((tree / "z").iterdir())[FILES // 2 :]:
                link = tree.parent / "new-link"
                link.symlink_to(tree.parent / "outside" / path.name)
                link.replace(path)  # for no moment is the name missing

        fake.fault(Call(swap), op="PutObject")

        result = run_cli("cp", "-r", "--links", "skip", str(tree), "s3/b/t", env=fake.environment)

        assert [] == leaks(fake)
        assert 6 == result.code


@pytest.mark.parametrize("command", ["cp", "sync"])
def test_swapping_without_end_leaks_nothing(run_cli: CliRunner, tree: Path, command: str) -> None:
    """Whatever moment is met."""
    swaps, is_over = 0, threading.Event()

    def swap_without_end() -> None:
        nonlocal swaps
        own, aside, link = (os.fspath(path) for path in (tree / "z", tree.parent / "aside", tree.parent / "link"))
        while not is_over.is_set():
            os.rename(own, aside)
            os.rename(link, own)
            os.rename(own, link)
            os.rename(aside, own)
            swaps += 1
            is_over.wait(0.001)

    with FakeS3(2) as fake:
        fake.store.add("b", "other")
        thread = threading.Thread(target=swap_without_end)
        thread.start()
        try:
            for number in range(8):
                run_cli(*COMMANDS[command], "--links", "skip", str(tree), f"s3/b/t{number}", env=fake.environment)
                if leaks(fake):
                    break
        finally:
            is_over.set()
            thread.join()

        assert [] == leaks(fake)
        assert swaps > SWAPS_AT_LEAST


@pytest.mark.parametrize("command", ["cp", "sync"])
def test_links_that_are_asked_for_are_followed(run_cli: CliRunner, tree: Path, command: str) -> None:
    """Through directories with --links follow, and to files without a word."""
    (tree / "file").symlink_to(tree.parent / "outside" / "0000")
    (tree / "all").symlink_to(tree.parent / "outside")
    with FakeS3(2) as fake:
        fake.store.add("b", "other")

        followed = run_cli(*COMMANDS[command], "--links", "follow", str(tree), "s3/b/t", env=fake.environment)
        files = run_cli(*COMMANDS[command], str(tree), "s3/b/u", env=fake.environment)

        assert (0, 6) == (followed.code, files.code)
        assert FILES + 1 == len([key for key in leaks(fake) if key.startswith("t/")])
        assert ["u/file"] == [key for key in leaks(fake) if key.startswith("u/")]
