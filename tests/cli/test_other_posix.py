"""s3pool on a POSIX system that is not Linux: slower perhaps, and otherwise the same."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import boto_of
from tests.support.fake_s3 import MIB, FakeS3
from tests.support.run_cli import ROOT, CliRunner

SIZES = {"a": 0, "b/c": 100, "b/d": 3 * MIB, "big": 20 * MIB}


class PosixRunner(CliRunner):
    """Runs the command line without what Linux alone has."""

    def command(self, *argv: str) -> list[str]:
        """Return the command line."""
        return [sys.executable, str(ROOT / "tests" / "support" / "other_posix.py"), *argv]


@pytest.fixture
def run(fake: FakeS3, tmp_path: Path) -> PosixRunner:
    """Return a runner whose pool is a fake with an empty bucket."""
    fake.store.add("b", "x")
    fake.store.bucket("b").remove("x", "null")
    home = tmp_path / "home"
    home.mkdir()
    for name, size in SIZES.items():
        (home / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "tree" / name).write_bytes(name.encode()[:1] * size)
    return PosixRunner(home, fake.environment)


@pytest.mark.parametrize(
    "words",
    [
        ("cp", "-r", "tree", "s3/b/t"),
        ("cp", "-r", "--preserve", "tree", "s3/b/t"),
        ("sync", "tree", "s3/b/t"),
        ("cp", "-r", "--processes", "2", "tree", "s3/b/t"),
        ("cp", "-r", "--bwlimit", "100M", "tree", "s3/b/t"),
    ],
    ids=" ".join,
)
def test_trees_go_there_and_back(run: PosixRunner, words: tuple[str, ...]) -> None:
    """Up, listed, counted, found, down, the same; and once more with nothing to do."""
    results = [
        run(*words),
        run("ls", "-r", "s3/b/t/"),
        run("du", "s3/b/t"),
        run("find", "s3/b/t", "--larger", "1M"),
        run("cp", "-r", "s3/b/t", "back"),
        run("sync", "s3/b/t", "back"),
        run("sync", "--checksum", "s3/b/t", "back"),
        run("mv", "-r", "s3/b/t", "s3/b/u"),
        run("rm", "-r", "--force", "s3/b/u"),
    ]

    assert [] == [(result.argv, result.err) for result in results if result.code or "Traceback" in result.err]
    assert SIZES == {
        str(path.relative_to(run.home / "back")): path.stat().st_size
        for path in (run.home / "back").rglob("*")
        if path.is_file()
    }


@contextmanager
def proxy_of(run: PosixRunner, *words: str) -> Iterator[str]:
    """Run a proxy; the URL at which it listens."""
    process = run.start("--json", "proxy", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", *words)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            record = json.loads(line)
            if record.get("message") == "listening":
                yield record["url"]
                break
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert 143 == process.returncode


def test_proxy_serves(run: PosixRunner, fake: FakeS3) -> None:
    """Small and large bodies, both ways, by threads where there is no epoll."""
    with proxy_of(run) as url:
        client = boto_of({**fake.environment, "S3_POOL": url})
        for key, size in SIZES.items():
            client.put_object(Bucket="b", Key=key, Body=b"x" * size)

        lengths = {key: len(client.get_object(Bucket="b", Key=key)["Body"].read()) for key in SIZES}
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="b")["Contents"]]
        client.close()

    assert SIZES == lengths
    assert sorted(SIZES) == keys


def test_several_processes_of_the_proxy_are_refused_in_one_line(run: PosixRunner) -> None:
    """Without SO_REUSEPORT they cannot share a port."""
    result = run("proxy", "--listen", "127.0.0.1:0", "--processes", "2", timeout=60)

    assert 2 == result.code
    assert 1 == len([line for line in result.err.splitlines() if "error" in line])
    assert "Traceback" not in result.err
