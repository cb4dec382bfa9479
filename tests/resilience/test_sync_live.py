"""What sync says of two sides holds on real nodes too: pairs of one age, odd times, uploads that were left."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliRunner

MIB = 1 << 20

pytestmark = pytest.mark.live


@pytest.fixture
def bucket(rgw: RgwCluster, run_cli: CliRunner, bucket_name: str) -> Iterator[str]:
    """Return a bucket of its own, which goes with the test."""
    run_cli.environ.update(rgw.environment)
    assert run_cli("mb", bucket_name).code == 0
    try:
        yield bucket_name
    finally:
        run_cli("rb", "--force", "--yes", bucket_name)


def test_an_edit_of_one_size_right_after_a_copy_is_found(run_cli: CliRunner, bucket: str) -> None:
    """No record, and times that are two seconds apart at the most."""
    source = run_cli.home / "up"
    source.mkdir()
    for number in range(20):
        (source / f"k{number}").write_bytes(b"old!")
    assert run_cli("cp", "-r", "up", f"s3/{bucket}/p").code == 0
    (source / "k7").write_bytes(b"new!")
    now = time.time()
    for path in source.iterdir():
        os.utime(path, (now, now))
    first = run_cli("sync", "--json", "up", f"s3/{bucket}/p").records[-1]
    assert (first["copied"], first["looked_at"]) == (1, 20)
    second = run_cli("sync", "--json", "up", f"s3/{bucket}/p").records[-1]
    assert (second["copied"], second["looked_at"]) == (0, 0)
    assert run_cli("cat", f"s3/{bucket}/p/k7").stdout == b"new!"


def test_times_that_no_clock_has_are_read_and_kept_in_sync(run_cli: CliRunner, bucket: str) -> None:
    """RGW stores whatever it is told as metadata."""
    (run_cli.home / "f").write_bytes(b"kept")
    for number, told in enumerate(("9" * 30, "nan", "9999999999", "-99999999999", "5.123456789")):
        stored = run_cli("cp", "--metadata", f"mtime={told}", "f", f"s3/{bucket}/p/{number}")
        assert stored.code == 0, stored.err
    for flags in ((), ("--exact-timestamps",), ("--checksum",)):
        done = run_cli("sync", *flags, f"s3/{bucket}/p", "down")
        again = run_cli("sync", *flags, "--json", f"s3/{bucket}/p", "down")
        assert (done.code, again.code, again.records[-1]["copied"]) == (0, 0, 0), (flags, done.err, again.err)
    assert {path.read_bytes() for path in (run_cli.home / "down").iterdir()} == {b"kept"}


def test_what_a_killed_stream_left_goes_with_the_next_one(run_cli: CliRunner, bucket: str) -> None:
    """Parts of an upload that nobody ends are paid for."""
    words = ("pipe", f"s3/{bucket}/k", "--part-size", "5M")
    process = run_cli.start(*words, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(bytes(12 * MIB))
    process.stdin.flush()
    while not run_cli("ls", "--incomplete", f"s3/{bucket}").lines:
        pass
    process.kill()
    process.communicate()
    assert run_cli(*words, stdin=b"small").code == 0
    assert run_cli("ls", "--incomplete", f"s3/{bucket}").lines == []
    assert run_cli("cat", f"s3/{bucket}/k").stdout == b"small"


def test_a_source_that_is_not_there_is_not_found(run_cli: CliRunner, bucket: str) -> None:
    """Neither the prefix nor the bucket, and the target keeps what it has."""
    kept = Path(run_cli.home / "down")
    kept.mkdir()
    (kept / "k").write_bytes(b"kept")
    for source in (f"s3/{bucket}/missing", f"s3/{bucket}-none/p"):
        assert run_cli("sync", "--delete", source, "down").code == 3
    assert (kept / "k").read_bytes() == b"kept"
