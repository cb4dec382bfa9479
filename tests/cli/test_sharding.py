"""--shard: one meaning in every command that works on many keys."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_s3 import FakeS3
from tests.support.hostile import EVERY_CHARACTER_KEYS, HOSTILE_KEYS
from tests.support.run_cli import CliResult

Call = Callable[..., CliResult]
SHARDS = 3
# Names that are the same for a file and for a key.
PLAIN = sorted(
    {"a", "b", "top", "d/e", "d/e/f/g", "ü", "new\nline", *(f"d{n % 3}/file-{n:02d}" for n in range(40))} - {"d/e"}
)
HOSTILE = [*HOSTILE_KEYS, *EVERY_CHARACTER_KEYS]
NOTE = "shard 1/3 by SLURM_ARRAY_TASK_ID; --shard 0/1 takes everything"


def slurm(index: int, count: int = SHARDS) -> dict[str, str]:
    """Give what Slurm sets in a task of an array that counts from 0."""
    return {
        "SLURM_ARRAY_TASK_ID": str(index),
        "SLURM_ARRAY_TASK_COUNT": str(count),
        "SLURM_ARRAY_TASK_MIN": "0",
        "SLURM_ARRAY_TASK_MAX": str(count - 1),
        "SLURM_ARRAY_TASK_STEP": "1",
    }


def store(fake: FakeS3, names: list[str], prefix: str = "p/") -> None:
    """Store one byte under each name."""
    for name in names:
        fake.store.add("b", prefix + name, b"x")


def keys_of(records: list[dict[str, object]]) -> list[str]:
    """Give the keys of object records below p/."""
    return [str(record["key"])[2:] for record in records]


def below(urls: list[str], base: str) -> list[str]:
    """Give names below a place, of the paths that records have."""
    return sorted(url.removeprefix(base) for url in urls)


@pytest.mark.parametrize("index", range(SHARDS))
def test_all_commands_agree_on_what_a_shard_holds(call: Call, fake: FakeS3, tmp_path: Path, index: int) -> None:
    """What ``find --shard`` shows is what the others copy, count and delete, wherever the target is."""
    store(fake, PLAIN)
    flag = ("--shard", f"{index}/{SHARDS}")

    found = sorted(keys_of(call("find", "s3/b/p", *flag, "--json").records))
    usage = call("du", "s3/b/p", *flag, "--json").records
    copied = call("cp", "-r", "s3/b/p", "s3/b/elsewhere/deep", *flag, "--json").records
    synced = call("sync", "s3/b/p", "there", *flag, "--json").records
    uploaded = call("sync", "there", "s3/b/up", *flag, "--json").records
    removed = call("rm", "-r", "--force", "s3/b/p", *flag, "--json").records

    assert 0 < len(found) < len(PLAIN)
    assert [len(found)] == [record["objects"] for record in usage]
    assert found == below([r["target"] for r in copied if r["type"] == "copy"], "s3/b/elsewhere/deep/")
    assert found == below([r["source"] for r in synced if r["type"] == "copy"], "s3/b/p/")
    assert found == below([r["target"] for r in uploaded if r["type"] == "copy"], "s3/b/up/")
    assert found == below([r["url"] for r in removed if r["type"] == "delete"], "s3/b/p/")


@pytest.mark.parametrize("command", [("sync",), ("cp", "-r")])
def test_uploads_take_the_names_that_a_search_finds(
    call: Call, fake: FakeS3, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """A file and the object that it becomes are of one shard, whatever the prefix."""
    store(fake, PLAIN)
    for name in PLAIN:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(b"x")

    for index in range(SHARDS):
        flag = ("--shard", f"{index}/{SHARDS}")
        found = sorted(keys_of(call("find", "s3/b/p", *flag, "--json").records))
        done = call(*command, "tree", f"s3/b/up-{index}", *flag, "--json").records
        assert found == below([r["target"] for r in done if r["type"] == "copy"], f"s3/b/up-{index}/")


@pytest.mark.parametrize(
    "words",
    [
        ("sync", "s3/b/p", "out"),
        ("cp", "-r", "s3/b/p", "out"),
        ("cp", "s3/b/p/*", "out/"),
        ("cp", "s3/b/p", "out", "--files-from", "names"),
        ("rm", "-r", "--force", "s3/b/p"),
        ("rm", "s3/b/p/*"),
        ("rm", "--prefix", "--force", "s3/b/p"),
        ("rm", "--stdin"),
        ("find", "s3/b/p"),
        ("du", "s3/b/p"),
    ],
)
def test_auto_takes_the_share_of_the_environment(
    call: Call, fake: FakeS3, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """What was taken is said, once."""
    names = [name for name in PLAIN if "\n" not in name]
    store(fake, names)
    (tmp_path / "names").write_text("\n".join(names))
    listed = "\n".join(f"s3/b/p/{name}" for name in names).encode()

    shares, notes = [], []
    for index in range(SHARDS):
        result = call(*words, "--shard", "auto", "--json", env=slurm(index), stdin=listed)
        assert 0 == result.code
        done = [record for record in result.records if record["type"] != "summary"]
        shares.append(done[0]["objects"] if words[0] == "du" else len(done))
        notes.append(result.err.count(f"shard {index}/{SHARDS} by SLURM_ARRAY_TASK_ID"))

    assert len(names) == sum(shares)
    assert all(0 < share < len(names) for share in shares)
    assert [1] * SHARDS == notes


@pytest.mark.parametrize(
    ("words", "done"),
    [
        (("cp", "s3/b/p/a", "out"), "s3/b/p/a -> out"),
        (("rm", "s3/b/p/a"), "Deleted: s3/b/p/a"),
        (("rm", "--versions", "s3/b/p/a"), "Deleted: s3/b/p/a"),
        (("find", "s3/b/p/a"), "s3/b/p/a"),
        (("du", "s3/b/p/a"), "Total objects: 1"),
    ],
)
def test_one_named_object_is_never_divided(call: Call, fake: FakeS3, words: tuple[str, ...], done: str) -> None:
    """A script in a job array that fetches one object needs it on every machine."""
    for index in range(SHARDS):
        store(fake, ["a"])

        result = call(*words, "--shard", "auto", env=slurm(index))

        assert (0, done) == (result.code, result.lines[0][: len(done)])


def test_the_flag_divides_named_objects_too(call: Call, fake: FakeS3) -> None:
    """Who writes it means it, for whatever stands beside it."""
    store(fake, ["a", "b", "c", "d"])
    operands = [f"s3/b/p/{name}" for name in "abcd"]

    shares = [call("rm", *operands, "--shard", f"{n}/{SHARDS}").lines for n in range(SHARDS)]

    assert 4 == sum(map(len, shares))
    assert {} == fake.store.bodies("b")


def test_the_share_is_told_on_stderr(call: Call, fake: FakeS3) -> None:
    """Nobody takes a part for the whole; --quiet and the flag itself need no such word."""
    store(fake, PLAIN)

    told = call("find", "s3/b/p", "--shard", "auto", env=slurm(1))
    quiet = call("--quiet", "find", "s3/b/p", "--shard", "auto", env=slurm(1))
    asked = call("find", "s3/b/p", "--shard", "1/3", env=slurm(0))
    everything = call("find", "s3/b/p", "--shard", "0/1", env=slurm(1))

    assert f"s3pool: {NOTE}\n" == told.err
    assert ("", "", "") == (quiet.err, asked.err, everything.err)
    assert told.out == quiet.out == asked.out
    assert len(PLAIN) == len(everything.lines)


@pytest.mark.parametrize(
    "words",
    [
        ("sync", "s3/b/p", "out"),
        ("cp", "-r", "s3/b/p", "out"),
        ("rm", "-r", "--force", "s3/b/p"),
        ("find", "s3/b/p"),
        ("du", "s3/b/p"),
    ],
)
def test_auto_without_a_job_array_is_refused_before_anything_is_done(
    call: Call, fake: FakeS3, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """A script that was written for an array must not do all the work N times."""
    store(fake, ["a"])
    fake.forget()

    result = call(*words, "--shard", "auto")

    assert 2 == result.code
    assert "neither a Slurm array nor an indexed Kubernetes job" in result.err
    assert [] == fake.ops()
    assert not os.path.exists(tmp_path / "out")


def test_a_stream_cannot_be_divided(call: Call, fake: FakeS3) -> None:
    """The flag would be without meaning, and be taken for one."""
    store(fake, ["a"])

    result = call("cp", "-", "s3/b/k", "--shard", "0/2", stdin=b"x")

    assert 2 == result.code
    assert "--shard" in result.err
