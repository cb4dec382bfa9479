"""mv on a real cluster: names that mean one object, another writer, versions, parts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliRunner

MIB = 1 << 20
AGAIN = b"put by another client"


@pytest.fixture
def bucket(rgw: RgwCluster, run_cli: CliRunner, bucket_name: str) -> Iterator[str]:
    """Give a bucket, and the profile ``same``: the cluster by another host name."""
    run_cli.environ.update(rgw.environment)
    assert 0 == run_cli("mb", f"s3/{bucket_name}").code
    environment = rgw.environment
    config = run_cli.home / ".s3pool" / "config.yaml"
    config.parent.mkdir()
    config.write_text(
        f"profiles:\n  same: {{endpoints: '{environment['S3_POOL'].replace('127.0.0.1', 'localhost')}',"
        f" access_key: {environment['AWS_ACCESS_KEY_ID']}, secret_key: '{environment['AWS_SECRET_ACCESS_KEY']}'}}\n"
    )
    config.chmod(0o600)
    yield bucket_name
    run_cli("rb", "--force", f"s3/{bucket_name}")


def _put(run_cli: CliRunner, place: str, content: bytes) -> None:
    assert 0 == run_cli("pipe", f"s3/{place}", stdin=content).code


def _get(run_cli: CliRunner, place: str) -> bytes:
    result = run_cli("cat", f"s3/{place}")
    assert 0 == result.code, result.err
    return result.stdout


@pytest.mark.live
@pytest.mark.parametrize(
    ("flags", "size"),
    [
        (("--metadata", "x=1"), 7),
        (("--metadata", "x=1", "--part-size", "5M"), 11 * MIB),
        (("--source-profile", "same"), 7),
        (("--source-profile", "same"), 17 * MIB),
    ],
)
@pytest.mark.parametrize("tenant", [":", ""])
def test_object_that_is_moved_onto_itself_stays(
    run_cli: CliRunner, bucket: str, flags: tuple[str, ...], size: int, tenant: str
) -> None:
    """RGW knows a bucket by its tenant's name, too, and a cluster has many addresses."""
    content = os.urandom(size)
    _put(run_cli, f"{bucket}/al/k", content)

    result = run_cli("mv", *flags, f"s3/{bucket}/al/k", f"s3/{tenant}{bucket}/al/k")

    assert result.code in (1, 6), result.err
    assert content == _get(run_cli, f"{bucket}/al/k")


@pytest.mark.live
@pytest.mark.parametrize("flags", [(), ("--source-profile", "same")])
@pytest.mark.parametrize("tenant", [":", ""])
def test_trees_inside_each_other_are_refused(
    run_cli: CliRunner, bucket: str, flags: tuple[str, ...], tenant: str
) -> None:
    """By whatever names: the move would eat itself, the sync its source."""
    for key in ("p/1", "p/2", "p/q/3"):
        _put(run_cli, f"{bucket}/{key}", key.encode())
    before = run_cli("ls", "-r", f"s3/{bucket}").out

    moved = run_cli("mv", "-r", *flags, f"s3/{bucket}/p", f"s3/{tenant}{bucket}/p/r")
    synced = run_cli("sync", "--delete", *flags, f"s3/{bucket}/p/q", f"s3/{tenant}{bucket}/p")

    assert (2, 2) == (moved.code, synced.code), moved.err + synced.err
    assert before == run_cli("ls", "-r", f"s3/{bucket}").out


@pytest.mark.live
@pytest.mark.parametrize("target", ["got", "s3/{bucket}/n"])
def test_object_that_another_client_puts_meanwhile_stays(
    run_cli: CliRunner, bucket: str, tmp_path: Path, target: str
) -> None:
    """8 MB on a slow line leave much time for others; a copy across profiles comes through this machine."""
    _put(run_cli, f"{bucket}/k", os.urandom(8 * MIB))
    flags = ("--source-profile", "same") if target != "got" else ()
    place = target.format(bucket=bucket)

    with run_cli.start("mv", "--bwlimit", "4M", *flags, f"s3/{bucket}/k", place, cwd=tmp_path) as move:
        with pytest.raises(subprocess.TimeoutExpired):
            move.wait(0.8)  # it is at it for two seconds
        _put(run_cli, f"{bucket}/k", AGAIN)
        code = move.wait(60)

    if code == 0:  # it began late, or saw it and began anew: then this is what was moved; or it had ended before
        moved = (tmp_path / "got").read_bytes() if target == "got" else _get(run_cli, f"{bucket}/n")
        assert AGAIN == moved or AGAIN == _get(run_cli, f"{bucket}/k")
    else:
        assert (1, AGAIN) == (code, _get(run_cli, f"{bucket}/k"))


@pytest.mark.live
def test_large_file_moves_up_down_and_across(run_cli: CliRunner, bucket: str, tmp_path: Path) -> None:
    """RGW 16 completes an upload without an ETag: HEAD is the proof."""
    content = os.urandom(33 * MIB)
    (tmp_path / "f").write_bytes(content)
    steps = (
        ("f", f"s3/{bucket}/a"),
        (f"s3/{bucket}/a", f"s3/{bucket}/b"),
        ("--part-size", "5M", f"s3/{bucket}/b", f"s3/{bucket}/c"),
        ("--source-profile", "same", f"s3/{bucket}/c", f"s3/{bucket}/d"),
        (f"s3/{bucket}/d", "back"),
    )

    for step in steps:
        result = run_cli("mv", *step, cwd=tmp_path)
        assert 0 == result.code, result.err

    assert content == (tmp_path / "back").read_bytes()
    assert not (tmp_path / "f").exists()
    assert "" == run_cli("ls", "-r", f"s3/{bucket}").out


@pytest.mark.live
def test_versions_are_hidden_not_destroyed(run_cli: CliRunner, bucket: str) -> None:
    """What mv takes away, a bucket with versions keeps."""
    versioned = f"{bucket}-v"
    assert 0 == run_cli("mb", "--versioning", f"s3/{versioned}").code
    try:
        _put(run_cli, f"{versioned}/k", b"content")
        onto_itself = run_cli("mv", "--metadata", "x=1", f"s3/{versioned}/k", f"s3/:{versioned}/k")
        moved = run_cli("mv", f"s3/{versioned}/k", f"s3/{versioned}/n")
        versions = run_cli("ls", "--versions", "--json", f"s3/{versioned}/k").out

        assert (1, 0) == (onto_itself.code, moved.code), onto_itself.err + moved.err
        assert b"content" == _get(run_cli, f"{versioned}/n")
        assert 3 == len(versions.splitlines())
    finally:
        run_cli("rb", "--force", f"s3/{versioned}")
