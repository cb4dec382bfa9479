"""What lies in an archive cannot be read: it is told, and need not stop all else for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import MIB, Answer, FakeS3

DOWN = {
    "cp": ("cp", "-r", "s3/b/t", "down"),
    "mv": ("mv", "-r", "s3/b/t", "down"),
    "sync": ("sync", "s3/b/t", "down", "--delete"),
    "copy": ("cp", "-r", "s3/b/t", "s3/b/copy"),
    "move": ("mv", "-r", "s3/b/t", "s3/b/copy"),
    "sync of objects": ("sync", "s3/b/t", "s3/b/copy", "--delete"),
}
LINE = "s3pool: s3/b/t/{} was left out: it is archived"


@pytest.fixture
def filled(fake: FakeS3, tmp_path: Path) -> FakeS3:
    """Return a tree of which a small and a large object are archived, and targets with something to delete."""
    for key, size in (("a", 1), ("b", 1), ("large", 33 * MIB)):
        fake.store.add("b", f"t/{key}", bytes(size))
    fake.store.add("b", "copy/old", b"1")
    (tmp_path / "down").mkdir()
    (tmp_path / "down" / "old").write_bytes(b"1")
    refusal = Answer(403, "InvalidObjectState", "The operation is not valid for the object's storage class")
    for key in ("t/b", "t/large"):
        fake.fault(refusal, op="GetObject", key=key, times=0)
    for key in ("copy/b", "copy/large"):
        fake.fault(refusal, op="CopyObject", key=key, times=0)
    return fake


@pytest.mark.parametrize("run", list(DOWN))
def test_archived_objects_fail_with_advice(filled: FakeS3, call: Call, tmp_path: Path, run: str) -> None:
    """Nobody may take the copy for whole, and nothing is deleted for its sake."""
    result = call(*DOWN[run])

    assert 1 == result.code
    assert 2 == result.err.count("--ignore-archived")
    assert "2 failed" in result.err
    assert (tmp_path / "down" / "old").exists()
    assert {"copy/old", "t/b", "t/large"} <= set(filled.store.bodies("b"))


@pytest.mark.parametrize("run", list(DOWN))
def test_archived_objects_are_left_out_when_asked(filled: FakeS3, call: Call, tmp_path: Path, run: str) -> None:
    """Each with a line; the deletes of a sync come about, and a source stays."""
    result = call(*DOWN[run], "--ignore-archived")

    assert 0 == result.code
    assert [1, 1] == [result.err.count(LINE.format(name)) for name in ("b", "large")]
    assert "2 skipped" in result.err
    assert {"t/b", "t/large"} <= set(filled.store.bodies("b"))
    if run == "sync":
        assert ["a"] == sorted(path.name for path in (tmp_path / "down").iterdir())
    if run == "sync of objects":
        assert "copy/old" not in filled.store.bodies("b")


def test_archived_objects_are_counted_in_json(filled: FakeS3, call: Call) -> None:
    """With an object for each."""
    result = call("--json", *DOWN["cp"], "--ignore-archived")

    assert (0, 2, 0) == (result.code, result.records[-1]["skipped"], result.records[-1]["failed"])
    assert 2 == result.err.count('"type":"note"')


def test_restored_objects_come_with_the_next_run(filled: FakeS3, call: Call, tmp_path: Path) -> None:
    """What was left out is not remembered as in sync."""
    call(*DOWN["sync"], "--ignore-archived")
    filled.script.clear()

    result = call(*DOWN["sync"], "--ignore-archived")

    assert 0 == result.code
    assert ["a", "b", "large"] == sorted(path.name for path in (tmp_path / "down").iterdir())


def test_reading_an_archived_object_says_what_to_do(filled: FakeS3, call: Call) -> None:
    """Also where no flag leaves it out."""
    result = call("cat", "s3/b/t/b")

    assert 1 == result.code
    assert "restore it first" in result.err
