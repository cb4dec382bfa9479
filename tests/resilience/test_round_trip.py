"""A tree with sizes around every threshold goes up and comes down again, byte by byte."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.proof import Judge, attempts, digests_of, plant, times_of
from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliRunner
from tests.support.scale import sized

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
FILES = sized(200, 2000)
# Blocks, what is sent from memory, the smallest part, thresholds of uploads and downloads, one and two parts.
THRESHOLDS = [KIB, 64 * KIB, MIB, 5 * MIB, 8 * MIB, 16 * MIB, 32 * MIB]
LARGEST = sized(33 * MIB, GIB)
COMMAND_TIMEOUT_S = sized(120, 900)


def sizes() -> dict[str, int]:
    """Give names and sizes: nothing, one byte, every threshold and its neighbours, odd names, small ones."""
    around = [threshold + step for threshold in THRESHOLDS for step in (-1, 0, 1)]
    chosen = [0, 1, *around, LARGEST]
    names = {f"around/{number:02d}-{size}": size for number, size in enumerate(chosen)}
    odd = ["a b", "a+b", "ü/ß", "a%2Fb", "-", "a;b", "deep/er/and/deeper", "q?x=1&y", "'quoted' \"too\""]
    names.update({f"odd/{name}": 10 + number for number, name in enumerate(odd)})
    rest = FILES - len(names)
    names.update({f"small/{number % 40:02d}/{number:04d}": number * 7 % 20_000 for number in range(rest)})
    return names


@pytest.fixture
def judge(rgw: RgwCluster, run_cli: CliRunner, bucket_name: str) -> Iterator[Judge]:
    """Give a bucket of its own, seen by another client."""
    run_cli.environ.update(rgw.environment)
    assert 0 == run_cli("mb", f"s3/{bucket_name}").code
    yield Judge(rgw, bucket_name)
    run_cli("rb", "--force", f"s3/{bucket_name}")


@pytest.mark.live
def test_a_tree_comes_back_as_it_went(judge: Judge, run_cli: CliRunner, tmp_path: Path, bucket_name: str) -> None:
    """Bytes, metadata and times; a second sync either way copies nothing, and asks about nothing."""
    source, target, remote = plant(tmp_path / "up", sizes(), seed=3), tmp_path / "down", f"s3/{bucket_name}/p"
    flags = ("--log-level", "debug", "--metadata", "origin=here")

    def sync(*words: str) -> bytes:
        result = run_cli("sync", *words, *flags, timeout=COMMAND_TIMEOUT_S)
        assert 0 == result.code, result.err[-2000:]
        return result.stderr

    sent = sync(str(source), remote)
    fetched = sync(remote, str(target))
    again = [sync(*pair) for pair in ((str(source), remote), (remote, str(target)), (str(target), remote))]
    elsewhere = run_cli("sync", str(target), remote, *flags, env={"XDG_STATE_HOME": str(tmp_path / "no-state")})

    truth = digests_of(source)
    assert FILES == len(truth)
    assert truth == digests_of(target)
    assert times_of(source) == times_of(target)
    assert truth == judge.digests("p/")
    assert {("here", f"{os.stat(source / name).st_mtime_ns / 10**9:.9f}"[:-3]) for name in ["odd/a b"]} == {
        (facts["Metadata"]["origin"], facts["Metadata"]["mtime"][:-3]) for facts in [judge.head("p/odd/a b")]
    }
    assert all(b" 0 failed" in log for log in (sent, fetched))
    assert [set()] * 3 == [set(attempts(log)) - {"ListObjectsV2"} for log in again]
    assert {"ListObjectsV2"} == set(attempts(elsewhere.stderr))
    assert [] == judge.uploads()
