"""Files that a flag names are never destroyed, whatever they are."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import FakeS3

WORDS = ("sync", "d", "s3/b/t")


@pytest.fixture
def filled(fake: FakeS3, tmp_path: Path) -> FakeS3:
    """Return a source and a bucket."""
    fake.store.add("b", "other")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"1")
    return fake


@pytest.mark.parametrize("content", [b"precious", b"4711\n", b"s3pool-lock\n", b"\0", b"# HELP x\n"])
@pytest.mark.parametrize("flag", ["--lock", "--metrics-file"])
@pytest.mark.parametrize("way", ["itself", "link"])
def test_file_of_somebody_else_is_left_alone(
    filled: FakeS3, call: Call, tmp_path: Path, flag: str, content: bytes, way: str
) -> None:
    """It was cut to nothing, or replaced."""
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "link").symlink_to("file")
    before = os.lstat(tmp_path / "file")

    result = call(*WORDS, flag, "file" if way == "itself" else "link")

    assert 2 == result.code
    assert flag in result.err
    assert content == (tmp_path / "file").read_bytes()
    assert before.st_ino == os.lstat(tmp_path / "file").st_ino
    assert (tmp_path / "link").is_symlink()
    assert ["other"] == list(filled.store.bodies("b"))


@pytest.mark.parametrize("flag", ["--lock", "--metrics-file"])
@pytest.mark.parametrize("kind", ["pipe", "directory", "device", "dangling link", "link to a device"])
def test_what_is_no_file_is_left_alone(filled: FakeS3, call: Call, tmp_path: Path, flag: str, kind: str) -> None:
    """A device node that was replaced is gone for everybody."""
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        if os.geteuid() != 0:
            pytest.skip("only root makes devices")
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    else:
        path.symlink_to("/dev/null" if "device" in kind else tmp_path / "nowhere")
    before = os.lstat(path)

    result = call(*WORDS, flag, "x")

    after = os.lstat(path)
    assert 2 == result.code
    assert flag in result.err
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert not (tmp_path / "nowhere").exists()
    assert ["other"] == list(filled.store.bodies("b"))


def test_source_is_no_lock(filled: FakeS3, call: Call, tmp_path: Path) -> None:
    """An empty file of the source stays empty, and is copied so."""
    (tmp_path / "d" / "empty").touch()

    result = call(*WORDS, "--lock", "d/empty")

    assert 0 == result.code
    assert b"" == filled.store.bodies("b")["t/empty"]
    assert 0 == (tmp_path / "d" / "empty").stat().st_size


def test_own_files_serve_again(filled: FakeS3, call: Call, tmp_path: Path) -> None:
    """The lock stays and is taken again, the metrics are replaced."""
    words = (*WORDS, "--lock", "run.lock", "--metrics-file", "run.prom")

    codes = [call(*words).code for _ in range(3)]

    assert [0, 0, 0] == codes
    assert (tmp_path / "run.lock").read_text().startswith("s3pool-lock ")
    assert (tmp_path / "run.prom").read_text().startswith("# HELP s3pool_sync_")


@pytest.mark.parametrize("content", [b"", b"# HELP s3pool_sync_last_run_timestamp_seconds x\n"])
def test_metrics_replace_what_is_empty_or_their_own(filled: FakeS3, call: Call, tmp_path: Path, content: bytes) -> None:
    """As a collector's directory has them."""
    (tmp_path / "run.prom").write_bytes(content)

    assert 0 == call(*WORDS, "--metrics-file", "run.prom").code
    assert b"s3pool_sync_exit_code" in (tmp_path / "run.prom").read_bytes()
