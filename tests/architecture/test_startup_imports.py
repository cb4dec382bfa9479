from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, FakeS3
from tests.support.run_cli import CliResult, Report, SpyRunner

NEVER = (
    "asyncio",
    "concurrent.futures",
    "dataclasses",  # as s3pool.record has them
    "dotenv",
    "http.server",
    "inspect",
    "multiprocessing",
    "prometheus_client",
    "rich",
    "sqlite3",
    "yaml",
)
# Not needed before the first request: words about the program itself are free of the network.
NETWORK = ("requests", "requests_aws4auth", "ssl", "urllib3")
WITHOUT_NETWORK = [("--version",), ("--help",), ("ls", "--help"), ("cp", "--help"), ("config",)]
WITH_ONE_THREAD = [
    ("ls",),
    ("ls", "s3/bucket"),
    ("ls", "-r", "s3/bucket/"),
    ("ls", "--json", "-l", "s3/bucket/dir/"),
    ("stat", "s3/bucket/dir/one"),
    ("stat", "s3/bucket"),
    ("du", "s3/bucket"),
    ("find", "s3/bucket", "--name", "*one*"),
    ("find", "s3/bucket", "--larger", "1"),
    ("mb", "s3/fresh"),
    ("rb", "s3/empty"),
]
TURNS_ON_A_BUSY_MACHINE = 5


@pytest.fixture
def fake(fake_s3: Any) -> FakeS3:
    """Give three nodes with a little in them; signatures are checked, so everything signs."""
    server: FakeS3 = fake_s3(3, secrets={ACCESS_KEY: SECRET_KEY})
    for key in ("dir/one", "dir/two", "three"):
        server.store.add("bucket", key, b"content")
    server.store.add("empty", "gone")
    server.store.buckets["empty"].versions.clear()
    return server


def run_spied(tmp_path: Path, fake: FakeS3, argv: tuple[str, ...]) -> tuple[CliResult, Report]:
    """Run one command line; give its result and the spy's report."""
    return SpyRunner(tmp_path, fake.environment).spy(*argv)


def loaded(report: Report, names: tuple[str, ...]) -> list[str]:
    """Give which of these modules a command loaded."""
    return [name for name in names if name in set(report["modules"]) - set(report["before"])]


@pytest.mark.parametrize("argv", WITH_ONE_THREAD, ids=" ".join)
def test_looking_starts_no_thread(tmp_path: Path, fake: FakeS3, argv: tuple[str, ...]) -> None:
    """Short commands live in one thread and load only what they need."""
    result, report = run_spied(tmp_path, fake, argv)

    assert (0, b"") == (result.code, result.stderr)
    # A node that is silent for a second, as on a loaded machine, is probed beside the wait.
    assert [] == [name for name in report["threads"] if name != "s3pool-suspicion"]
    assert [] == loaded(report, NEVER)


@pytest.mark.parametrize("argv", WITHOUT_NETWORK, ids=" ".join)
def test_words_about_itself_need_no_network(tmp_path: Path, fake: FakeS3, argv: tuple[str, ...]) -> None:
    """They are what a shell's completion and a person's first look wait for."""
    result, report = run_spied(tmp_path, fake, argv)

    assert (0, b"") == (result.code, result.stderr)
    assert [] == loaded(report, NEVER + NETWORK)
    assert [] == fake.ops()


def test_configuration_file_loads_yaml(tmp_path: Path, fake: FakeS3) -> None:
    """The spy sees what is loaded: YAML is, when there is something to read."""
    (tmp_path / "c.yaml").write_text("region: eu-1\n")

    result, report = run_spied(tmp_path, fake, ("config", "--config", str(tmp_path / "c.yaml")))

    assert 0 == result.code
    assert ["yaml"] == loaded(report, NEVER)


def test_listing_walks_over_the_nodes_in_one_thread(tmp_path: Path, fake: FakeS3) -> None:
    """Every page goes to the next node, on as many connections as there are nodes."""
    for number in range(5):
        fake.store.add("bucket", f"more/{number}")
    fake.quirks.short_pages = 1

    asked: list[tuple[int, int]] = []
    for _ in range(TURNS_ON_A_BUSY_MACHINE):  # where a page that is late may be asked for twice
        fake.forget()
        result, report = run_spied(tmp_path, fake, ("ls", "-r", "s3/bucket"))
        asked = [(request.endpoint, request.connection) for request in fake.requests]
        if 8 == len(asked):
            break

    assert (0, 8, []) == (result.code, len(result.lines), report["threads"])
    assert {0, 1, 2} == {endpoint for endpoint, _ in asked}
    assert 3 == len(set(asked))
    assert all(before[0] != after[0] for before, after in itertools.pairwise(asked))


def test_spy_sees_threads(tmp_path: Path, fake: FakeS3) -> None:
    """A bulk copy has workers: the count above is not blind."""
    result, report = run_spied(tmp_path, fake, ("cp", "-r", "s3/bucket", str(tmp_path / "down"), "--workers", "2"))

    assert 0 == result.code, result.err
    assert report["threads"]
    assert ["concurrent.futures"] == loaded(report, ("concurrent.futures",))
