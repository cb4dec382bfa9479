"""Habits of other tools, and what was not asked for, must not destroy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import Answer, FakeS3

SLURM = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "0"}
KUBERNETES = {"JOB_COMPLETION_INDEX": "1", "S3POOL_SHARD_COUNT": "4"}
CHANGING = {
    "cp": ("cp", "f", "s3/bucket/new"),
    "mv": ("mv", "f", "s3/bucket/new"),
    "sync": ("sync", "d", "s3/bucket", "--delete", "--allow-empty-source"),
    "rm": ("rm", "s3/bucket/dir/a"),
    "find": ("find", "s3/bucket", "--delete"),
    "pipe": ("pipe", "s3/bucket/new"),
    "mb": ("mb", "s3/another"),
    "rb": ("rb", "--force", "s3/bucket"),
    "speedtest": ("speedtest", "s3/bucket"),
}
CHANGES = {"PUT", "POST", "DELETE"}


@pytest.fixture
def filled(fake: FakeS3, tmp_path: Path) -> FakeS3:
    """Return a bucket with some keys, a file and an empty directory."""
    for key in ("dir/a", "dir/b", "dir-c", "k"):
        fake.store.add("bucket", key, b"1")
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_bytes(b"1")
    return fake


@pytest.mark.parametrize("flag", ["-n", "--no-clobber"])
@pytest.mark.parametrize("delete", [("--delete",), ("--delete", "--delete-excluded"), ("--delete-excluded",)])
@pytest.mark.parametrize("ends", [("d", "s3/bucket"), ("s3/bucket", "d"), ("s3/bucket/dir", "s3/bucket/k2")])
def test_n_beside_delete_is_refused(
    filled: FakeS3, call: Call, flag: str, delete: tuple[str, ...], ends: tuple[str, str]
) -> None:
    """With rsync and rclone -n rehearses; here it would have deleted."""
    result = call("sync", flag, *delete, *ends, "--allow-empty-source")

    assert (2, "") == (result.code, result.out)
    assert "--dry-run" in result.err
    assert [] == filled.ops()


@pytest.mark.parametrize("command", list(CHANGING))
def test_dry_run_is_in_the_help_of_what_changes_something(call: Call, command: str) -> None:
    """Who looks for a rehearsal finds it where the command is explained."""
    assert "--dry-run " in call(command, "--help").out


@pytest.mark.parametrize("command", ["ls", "stat", "du", "cat", "presign", "ping"])
def test_dry_run_is_not_in_the_help_of_what_only_reads(call: Call, command: str) -> None:
    """There it would be noise."""
    assert "--dry-run" not in call(command, "--help").out


@pytest.mark.parametrize("command", list(CHANGING))
def test_dry_run_changes_nothing(filled: FakeS3, call: Call, tmp_path: Path, command: str) -> None:
    """Neither here nor there."""
    before = sorted(filled.store.bodies("bucket"))

    result = call(*CHANGING[command], "--dry-run", stdin=b"x")

    assert 0 == result.code
    assert [] == [request.target for request in filled.requests if request.method in CHANGES]
    assert (before, True) == (sorted(filled.store.bodies("bucket")), (tmp_path / "f").exists())
    assert command == "speedtest" or "dry run" in result.out + result.err


@pytest.mark.parametrize(
    "flags", [(), ("--dry-run",), ("--versions",), ("--older-than", "1s"), ("--json",), ("s3/bucket/missing",)]
)
def test_prefix_without_recursion_is_no_success(filled: FakeS3, call: Call, flags: tuple[str, ...]) -> None:
    """It said "1 deleted" and deleted nothing."""
    result = call("rm", "s3/bucket/dir", *flags)

    assert 3 == result.code
    assert "there is no such key, but there are keys below it: -r deletes them" in result.err
    assert 4 == len(filled.store.bodies("bucket"))


def test_key_beside_keys_below_it_is_deleted(filled: FakeS3, call: Call) -> None:
    """It is there, so that is what was meant."""
    filled.store.add("bucket", "dir", b"1")

    result = call("rm", "s3/bucket/dir")

    assert (0, "Deleted: s3/bucket/dir\n") == (result.code, result.out)
    assert ["dir-c", "dir/a", "dir/b", "k"] == sorted(filled.store.bodies("bucket"))


def test_missing_key_stays_no_error(filled: FakeS3, call: Call) -> None:
    """Nothing is below `di`, and `dir-c` not below `dir-`."""
    assert [0, 0] == [call("rm", "s3/bucket/di").code, call("rm", "s3/bucket/dir-").code]


def test_delete_marker_is_no_key(fake: FakeS3, call: Call) -> None:
    """What a listing hides lies below nothing."""
    call("mb", "s3/versioned", "--versioning")
    fake.store.add("versioned", "dir/a", b"1")
    call("rm", "s3/versioned/dir/a")

    assert 0 == call("rm", "s3/versioned/dir").code


@pytest.mark.parametrize("refusal", [Answer(403, "AccessDenied", "no"), Answer(400, "InvalidRequest", "SSE-C")])
def test_who_may_only_delete_deletes(filled: FakeS3, call: Call, refusal: Answer) -> None:
    """The look is a courtesy: keys that may not read, and objects that need a key, are deleted as before."""
    for op in ("HeadObject", "GetObject"):
        filled.fault(refusal, op=op, times=0)

    result = call("rm", "s3/bucket/k")

    assert (0, "Deleted: s3/bucket/k\n") == (result.code, result.out)
    assert "k" not in filled.store.bodies("bucket")


def test_others_go_on_beside_a_prefix(filled: FakeS3, call: Call) -> None:
    """One mistake does not stop the rest."""
    result = call("rm", "s3/bucket/dir", "s3/bucket/k")

    assert (3, "Deleted: s3/bucket/k\n") == (result.code, result.out)


def test_listed_names_are_not_looked_at(filled: FakeS3, call: Call) -> None:
    """They come from a listing, a thousand in one request."""
    result = call("rm", "--stdin", stdin=b"s3/bucket/dir/a\ns3/bucket/dir/b\n")

    assert (0, ["DeleteObjects"]) == (result.code, [op for op in filled.ops() if op != "ListBuckets"])


@pytest.mark.parametrize("environ", [SLURM, KUBERNETES], ids=["slurm", "kubernetes"])
@pytest.mark.parametrize(
    ("words", "left"),
    [
        (("rm", "-r", "--force", "s3/bucket/dir"), 2),
        (("find", "s3/bucket", "--delete"), 0),
        (("cp", "-r", "s3/bucket/dir", "s3/bucket/copy"), 6),
        (("mv", "-r", "s3/bucket/dir", "s3/bucket/moved"), 4),
        (("sync", "s3/bucket/dir", "s3/bucket/copy"), 6),
    ],
)
def test_environment_of_a_job_array_divides_nothing_unasked(
    filled: FakeS3, call: Call, environ: dict[str, str], words: tuple[str, ...], left: int
) -> None:
    """A script that was written for one machine must not do a quarter of its work."""
    result = call("-q", *words, env=environ)

    assert (0, left) == (result.code, len(filled.store.bodies("bucket")))
