from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_s3 import FakeS3, FlipByte, internal_error
from tests.support.run_cli import CliRunner


@pytest.fixture
def run_cli(run_here: CliRunner) -> CliRunner:
    """Run commands in this process: none of these tests needs one of its own."""
    return run_here


@pytest.fixture
def fake(run_cli: CliRunner) -> Iterator[FakeS3]:
    """Give a store with the key ``k`` in ``b``, known to the commands."""
    with FakeS3(2) as server:
        server.store.add("b", "k", b"content")
        run_cli.environ.update(server.environment)
        yield server


def test_file_moves_to_s3_and_back(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """The source goes, the target is there."""
    (tmp_path / "f").write_bytes(b"mine")

    up = run_cli("mv", "f", "s3/b/n", cwd=tmp_path)
    gone = not (tmp_path / "f").exists()
    down = run_cli("mv", "s3/b/n", "back", cwd=tmp_path)

    assert (0, 0, True) == (up.code, down.code, gone)
    assert (b"mine", {"k": b"content"}) == ((tmp_path / "back").read_bytes(), fake.store.bodies("b"))
    assert "1 moved" in up.err


def test_tree_moves_inside_s3(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """Without passing through this machine."""
    for key in ("p/a", "p/d/b"):
        fake.store.add("b", key, key.encode())

    result = run_cli("mv", "-r", "s3/b/p", "s3/b/q", cwd=tmp_path)

    assert {"s3/b/p/a -> s3/b/q/a", "s3/b/p/d/b -> s3/b/q/d/b"} == set(result.lines)
    assert {"k": b"content", "q/a": b"p/a", "q/d/b": b"p/d/b"} == fake.store.bodies("b")


def test_object_stays_when_its_bytes_do_not_arrive(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """A move that lost its source would lose everything."""
    fake.fault(FlipByte(), op="GetObject")

    result = run_cli("mv", "s3/b/k", "f", cwd=tmp_path)

    assert (1, {"k": b"content"}) == (result.code, fake.store.bodies("b"))
    assert not (tmp_path / "f").exists()


def test_object_stays_when_it_cannot_be_copied(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """Also inside S3."""
    fake.fault(internal_error(), op="CopyObject", times=0)

    result = run_cli("mv", "s3/b/k", "s3/b/n", cwd=tmp_path)

    assert 0 != result.code
    assert {"k": b"content"} == fake.store.bodies("b")


def test_move_onto_itself_loses_nothing(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """The most expensive no-op of all."""
    result = run_cli("mv", "s3/b/k", "s3/b/k", cwd=tmp_path)

    assert (6, {"k": b"content"}) == (result.code, fake.store.bodies("b"))


def test_what_is_skipped_stays(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """--no-clobber moved nothing, so nothing may go."""
    (tmp_path / "k").write_bytes(b"mine")

    run_cli("mv", "-n", "k", "s3/b/", cwd=tmp_path)

    assert (b"mine", {"k": b"content"}) == ((tmp_path / "k").read_bytes(), fake.store.bodies("b"))


def test_dry_run_moves_nothing(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """It only tells."""
    result = run_cli("mv", "s3/b/k", "s3/b/n", "--dry-run", cwd=tmp_path)

    assert ("(dry run) s3/b/k -> s3/b/n\n", {"k": b"content"}) == (result.out, fake.store.bodies("b"))
