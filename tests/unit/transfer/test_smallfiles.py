"""Small files are written as the general way writes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3pool.transfer.beneath import PartRegistry
from s3pool.transfer.smallfiles import SmallFiles

PRIVATE = 0o600


@pytest.fixture
def small_files() -> Iterator[SmallFiles]:
    """Give a writer, and close what it has open."""
    writer = SmallFiles(PartRegistry())
    yield writer
    writer.close()


def mode_of(path: Path) -> int:
    """Give the permission bits."""
    return path.stat().st_mode & 0o777


def test_replaced_file_keeps_its_mode(small_files: SmallFiles, tmp_path: Path) -> None:
    """What was private stays private."""
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / "f").chmod(PRIVATE)

    is_written = small_files.write(str(tmp_path), "f", b"new", mtime_ns=None)

    assert is_written
    assert (b"new", PRIVATE) == ((tmp_path / "f").read_bytes(), mode_of(tmp_path / "f"))


def test_file_keeps_its_mode_in_a_directory_that_was_empty_at_first(small_files: SmallFiles, tmp_path: Path) -> None:
    """Only what this writer has put there since it entered is known to be new."""
    small_files.write(str(tmp_path), "a/f", b"old", mtime_ns=None)
    small_files.write(str(tmp_path), "b/f", b"other", mtime_ns=None)
    (tmp_path / "a" / "f").chmod(PRIVATE)

    small_files.write(str(tmp_path), "a/f", b"new", mtime_ns=None)

    assert (b"new", PRIVATE) == ((tmp_path / "a" / "f").read_bytes(), mode_of(tmp_path / "a" / "f"))


def test_directory_that_cannot_be_read_is_written_to(
    small_files: SmallFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drop box lets nobody see what is in it."""
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / "f").chmod(PRIVATE)

    def denied(_: object) -> object:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(os, "scandir", denied)

    small_files.write(str(tmp_path), "f", b"new", mtime_ns=None)

    assert (b"new", PRIVATE) == ((tmp_path / "f").read_bytes(), mode_of(tmp_path / "f"))
