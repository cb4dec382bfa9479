"""Copies between a real cluster and another pool, both ways."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_s3 import ACCESS_KEY, MIB, SECRET_KEY, FakeS3
from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliRunner

SIZES = {"empty": 0, "small": 1, "middle": 2 * MIB + 1, "threshold": 16 * MIB, "large": 40 * MIB + 7}


@pytest.mark.live
def test_tree_goes_from_a_cluster_to_another_pool_and_back(
    rgw: RgwCluster, fake_s3: Callable[..., FakeS3], run_cli: CliRunner, tmp_path: Path, bucket_name: str
) -> None:
    """Streamed bodies, their digests and tags are what a real server has its own opinion of."""
    fake = fake_s3(2, secrets={ACCESS_KEY: SECRET_KEY})
    fake.store.add("there", "x")
    profiles = tmp_path / "config.yaml"
    profiles.write_text("profiles:\n" + _profile("cluster", rgw.environment) + _profile("other", fake.environment))
    profiles.chmod(0o600)
    tree = tmp_path / "tree"
    tree.mkdir()
    for name, size in SIZES.items():
        (tree / name).write_bytes(os.urandom(size))

    def run(*argv: str, profile: str) -> int:
        result = run_cli("--config", str(profiles), "--profile", profile, *argv, cwd=tmp_path)
        assert 0 == result.code, result.err
        return result.code

    run("mb", f"s3/{bucket_name}", profile="cluster")
    run("cp", "-r", "--tags", "a=1&b=2", "--metadata", "k=v", "tree", f"s3/{bucket_name}/up", profile="cluster")
    run("cp", "-r", "--source-profile", "cluster", f"s3/{bucket_name}/up", "s3/there/p", profile="other")
    run("sync", "--source-profile", "other", "s3/there/p", f"s3/{bucket_name}/back", profile="cluster")
    run("cp", "-r", f"s3/{bucket_name}/back", "back", profile="cluster")

    for name in SIZES:
        copied = fake.store.bucket("there").current(f"p/{name}")
        assert copied is not None
        assert _digest(tree / name) == hashlib.sha256(copied.body).hexdigest() == _digest(tmp_path / "back" / name)
        assert (tree / name).stat().st_mtime_ns == (tmp_path / "back" / name).stat().st_mtime_ns
        assert ("v", {"a": "1", "b": "2"}) == (copied.headers["x-amz-meta-k"], copied.tags)


def _profile(name: str, environment: dict[str, str]) -> str:
    return (
        f"  {name}: {{endpoints: '{environment['S3_POOL']}', access_key: {environment['AWS_ACCESS_KEY_ID']},"
        f" secret_key: '{environment['AWS_SECRET_ACCESS_KEY']}'}}\n"
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
