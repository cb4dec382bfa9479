"""What each command may load: start-up is the whole cost of a short command."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, FakeS3
from tests.support.run_cli import Report, SpyRunner

# At most so many modules of s3pool's own. A module more costs every call 0.2-0.5 ms, so that a growing
# number is looked at; which modules they are is left to the rooms.
BUDGETS: list[tuple[tuple[str, ...], int]] = [
    (("--version",), 16),
    (("--help",), 16),
    (("ls", "--help"), 27),
    (("proxy", "--help"), 21),
    (("stat", "s3/bucket/one"), 47),
    (("ls", "s3/bucket"), 52),
    (("cp", "small", "s3/bucket/up"), 80),
    (("cp", "s3/bucket/one", "down"), 80),
    (("sync", "tree", "s3/bucket/tree/"), 92),
]
# Whole rooms that are of no use to the command.
NEVER_OF_OURS: dict[str, tuple[str, ...]] = {
    "--version": ("s3pool.pool", "s3pool.s3", "s3pool.transfer", "s3pool.sync", "s3pool.proxy", "s3pool.speedtest"),
    "--help": ("s3pool.pool", "s3pool.s3", "s3pool.transfer", "s3pool.sync", "s3pool.proxy", "s3pool.speedtest"),
    "proxy": ("s3pool.pool", "s3pool.s3", "s3pool.transfer", "s3pool.sync", "s3pool.proxy.run", "s3pool.speedtest"),
    "stat": ("s3pool.transfer", "s3pool.sync", "s3pool.proxy", "s3pool.speedtest"),
    "ls": ("s3pool.transfer", "s3pool.sync", "s3pool.proxy", "s3pool.speedtest"),
    "cp": ("s3pool.proxy", "s3pool.speedtest"),
    "sync": ("s3pool.proxy", "s3pool.speedtest"),
}
# Slow to load, and of no use to these commands.
FOREIGN = (
    *("asyncio", "anycrc", "awscrt", "botocore", "difflib", "dotenv", "http.server", "multiprocessing"),
    *("prometheus_client", "requests", "requests_aws4auth", "rich", "subprocess", "uuid", "yaml"),
    *("dataclasses", "glob", "importlib.metadata", "inspect", "statistics", "xml.etree", "zipfile"),
)
PROXY = ("proxy", "--listen", "127.0.0.1:0", "--admin-listen", "off")
PROXY_FOREIGN = (
    *(
        "asyncio",
        "anycrc",
        "awscrt",
        "botocore",
        "dotenv",
        "requests",
        "requests_aws4auth",
        "rich",
        "sqlite3",
        "yaml",
    ),
    *("s3pool.cli.progress", "s3pool.cli.transfers", "s3pool.speedtest", "s3pool.sync", "s3pool.transfer"),
)


@pytest.fixture
def fake(fake_s3: Any) -> FakeS3:
    """Give a node with one object; signatures are checked, so everything signs."""
    server: FakeS3 = fake_s3(1, secrets={ACCESS_KEY: SECRET_KEY})
    server.store.add("bucket", "one", b"content")
    return server


@pytest.fixture
def spy(tmp_path: Path, fake: FakeS3) -> SpyRunner:
    """Run commands where a small file and a small tree stand."""
    (tmp_path / "small").write_bytes(b"content")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "leaf").write_bytes(b"content")
    return SpyRunner(tmp_path, fake.environment)


def new_modules(report: Report) -> set[str]:
    """Give what the command itself loaded."""
    return set(report["modules"]) - set(report["before"])


def strangers(modules: set[str], names: tuple[str, ...]) -> list[str]:
    """Give the modules of these names, or below them."""
    return sorted(
        module for module in modules if module.startswith(tuple(f"{name}." for name in names)) or module in names
    )


@pytest.mark.parametrize(("argv", "most"), BUDGETS, ids=[" ".join(argv) for argv, _ in BUDGETS])
def test_a_command_loads_no_more_than_its_own(spy: SpyRunner, argv: tuple[str, ...], most: int) -> None:
    """What a command loads costs each call its time; what it has no use for is made lazy."""
    result, report = spy.spy(*argv)
    modules = new_modules(report)
    own = {module for module in modules if module.split(".")[0] == "s3pool"}

    assert 0 == result.code, result.err
    assert [] == strangers(modules, FOREIGN + NEVER_OF_OURS[argv[0]])
    assert len(own) <= most, sorted(own)


def test_the_proxy_loads_nothing_of_other_rooms(spy: SpyRunner, tmp_path: Path) -> None:
    """Each of its processes starts anew, and holds what it loads for as long as it lives."""
    place = tmp_path / "report.json"
    process = spy.start(*PROXY, env={"SPY_REPORT": str(place)})

    first_line = process.stderr.readline()  # type: ignore[union-attr]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    modules = new_modules(json.loads(place.read_text()))

    assert first_line.startswith(b"s3pool: listening on ")
    assert [] == strangers(modules, PROXY_FOREIGN)
