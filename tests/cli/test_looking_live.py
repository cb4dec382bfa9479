"""head, tree, diff, check, run, undo, restore and the removal of versions, on MinIO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from tests.cli.conftest import boto_of
from tests.support.real_servers import MinioCluster
from tests.support.run_cli import CliResult, CliRunner

pytestmark = pytest.mark.live


@pytest.fixture
def environment() -> Iterator[Mapping[str, str]]:
    """Run MinIO."""
    if MinioCluster.find() is None:
        pytest.skip(MinioCluster.missing())
    with MinioCluster(4) as cluster:
        yield cluster.environment


def test_looking_comparing_and_the_past(environment: Mapping[str, str], run_cli: CliRunner, bucket_name: str) -> None:
    """One walk over a bucket with versions and locks: what each command says, and what boto3 finds."""
    place, home = f"s3/{bucket_name}", run_cli.home

    def call(*words: str, stdin: str = "", code: int = 0) -> CliResult:
        result = run_cli(*words, env=environment, stdin=stdin.encode())
        assert code == result.code, (words, result.out, result.err)
        return result

    (home / "d" / "e").mkdir(parents=True)
    (home / "d" / "a").write_text("one\ntwo\nthree\n")
    (home / "d" / "e" / "b").write_text("b")
    call("mb", "--lock", bucket_name)
    call("cp", "-r", "d", f"{place}/d")
    assert "one\ntwo\n" == call("head", "-n", "2", f"{place}/d/a").out
    assert "one\nt" == call("head", "-c", "5", f"{place}/d/a").out
    assert [f"{place}/d", "├─ a", "└─ e/", "   └─ b"] == call("tree", "-f", f"{place}/d").lines
    assert "" == call("diff", "d", f"{place}/d").out
    (home / "d" / "e" / "b").write_text("B")
    (home / "d" / "new").write_text("n")
    assert {"= a", "! e/b", "< new"} == set(call("check", "d", f"{place}/d", code=1).lines)
    assert "all agree" in call("check", "--nodes", place).err

    lines = f"cp d/new {place}/d/new\ncp d/e/b {place}/d/e/b\nrm {place}/d/a\nnonsense\n"
    ran = call("run", "-", stdin=lines, code=2)
    assert "4 lines, 1 failed" in ran.err
    assert [f"{place}/d/e/b", f"{place}/d/new"] == call("find", f"{place}/d").lines
    call("undo", f"{place}/d/a", "--since", "1h", "--dry-run")
    client = boto_of(environment)
    marker = client.list_object_versions(Bucket=bucket_name, Prefix="d/a")["DeleteMarkers"][0]["VersionId"]
    call("rm", "--version-id", marker, f"{place}/d/a")
    assert b"one\ntwo\nthree\n" == client.get_object(Bucket=bucket_name, Key="d/a")["Body"].read()

    call("restore", f"{place}/d/a", code=1)
    call("retention", "set", "governance", "1d", f"{place}/d/a")
    version = client.head_object(Bucket=bucket_name, Key="d/a")["VersionId"]
    kept = run_cli("rm", "--version-id", version, f"{place}/d/a", env=environment)
    assert kept.code in (1, 4)  # MinIO says that the request is invalid, RGW that it is denied
    assert "a retention or a legal hold keeps this version" in kept.err
    call("rm", "--version-id", version, "--bypass-governance", f"{place}/d/a")
    assert "d/a" not in {each["Key"] for each in client.list_objects_v2(Bucket=bucket_name)["Contents"]}
