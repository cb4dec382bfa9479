"""What each command may load: start-up is the whole cost of a short command."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, FakeS3
from tests.support.run_cli import Report, SpyRunner

FRAME = {
    "s3pool.cli",
    "s3pool.cli.exit_codes",
    "s3pool.cli.main",
    "s3pool.cli.output",
    "s3pool.cli.parser",
    "s3pool.errors",
}
VALUES = {"s3pool.body", "s3pool.location", "s3pool.model", "s3pool.record", "s3pool.units"}
LS_WORDS = {f"s3pool.cli.{name}" for name in ("lines", "records", "rows", "selection")} | {"s3pool.shard"}
CONFIG = {
    *("s3pool.cli.commands", "s3pool.cli.context", "s3pool.cli.logs", "s3pool.config"),
    *(f"s3pool.config_{name}" for name in ("options", "sources", "values", "yaml")),
}
POOL = {
    f"s3pool.{name}"
    for name in (
        *("pool", "pool.balancer", "pool.breaker", "pool.call", "pool.connection", "pool.exchange", "pool.greeting"),
        *("pool.heads", "pool.patience", "pool.retry", "pool.stats", "pool.throttle", "pool.transport", "pool.wire"),
        *("pool.wirebody", "session"),
    )
}
S3 = {
    f"s3pool.s3.{name}"
    for name in (
        *("addressing", "bucket_operations", "check", "client", "exchange", "fields", "headers", "pages", "results"),
        *("multipart_operations", "signing_key", "sigv4", "tally", "xml", "xmltree"),
    )
} | {"s3pool.s3"}
ONE_REQUEST = FRAME | VALUES | CONFIG | POOL | S3
LISTING = {f"s3pool.s3.{name}" for name in ("columns", "fastpage", "listing", "trees")}

# Where whole rooms belong to a command, they are counted; elsewhere each module is named.
TRANSFER_ROOMS = ("s3pool.transfer.",)
SYNC_ROOMS = ("s3pool.transfer.", "s3pool.sync.", "s3pool.s3.")
PROXY_ROOMS = ("s3pool.proxy.",)
TRANSFER = {
    "s3pool.pool.arrival",
    "s3pool.pool.inflight",
    "s3pool.transfer",
    "s3pool.sync",
    "s3pool.filters",
    "s3pool.hashing",
    "s3pool.shard",
} | {
    f"s3pool.cli.{name}" for name in ("attributes", "bars", "helpers", "selection", "sharding", "transfers", "workers")
}
CP = {f"s3pool.sync.{name}" for name in ("compare", "route", "state", "unfinished")} | {
    *("s3pool.cli.commands.cp", "s3pool.cli.copying", "s3pool.s3.multipart", "s3pool.s3.signedhead"),
}

BUDGETS: list[tuple[tuple[str, ...], set[str], tuple[str, ...]]] = [
    (("--version",), FRAME, ()),
    (("--help",), FRAME, ()),
    (("ls", "--help"), FRAME | VALUES | LS_WORDS | {"s3pool.cli.commands", "s3pool.cli.commands.ls"}, ()),
    (("proxy", "--help"), FRAME | {"s3pool.cli.commands", "s3pool.cli.commands.proxy"}, ()),
    (("stat", "s3/bucket/one"), ONE_REQUEST | {"s3pool.cli.commands.stat", "s3pool.cli.records"}, ()),
    (
        ("ls", "s3/bucket"),
        ONE_REQUEST | LISTING | LS_WORDS | {f"s3pool.cli.{name}" for name in ("commands.ls", "pagelines")},
        (),
    ),
    (("cp", "small", "s3/bucket/up"), ONE_REQUEST | LISTING | TRANSFER | CP, TRANSFER_ROOMS),
    (("cp", "s3/bucket/one", "down"), ONE_REQUEST | LISTING | TRANSFER | CP, TRANSFER_ROOMS),
    (("sync", "tree", "s3/bucket/tree/"), ONE_REQUEST | TRANSFER | {"s3pool.cli.commands.sync"}, SYNC_ROOMS),
]
# Slow to load, and of no use to these commands.
FOREIGN = (
    *("asyncio", "anycrc", "awscrt", "botocore", "difflib", "dotenv", "http.server", "multiprocessing"),
    *("prometheus_client", "requests", "requests_aws4auth", "rich", "shtab", "subprocess", "uuid", "yaml"),
    *("dataclasses", "glob", "inspect", "statistics", "xml.etree"),
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
        "shtab",
        "sqlite3",
        "yaml",
    ),
    *("s3pool.cli.bars", "s3pool.cli.transfers", "s3pool.speedtest", "s3pool.sync", "s3pool.transfer"),
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


@pytest.mark.parametrize(("argv", "allowed", "rooms"), BUDGETS, ids=[" ".join(argv) for argv, _, _ in BUDGETS])
def test_a_command_loads_no_more_than_its_own(
    spy: SpyRunner, argv: tuple[str, ...], allowed: set[str], rooms: tuple[str, ...]
) -> None:
    """A module that slips into this list costs every call its time; then it is put here knowingly, or made lazy."""
    result, report = spy.spy(*argv)
    modules = new_modules(report)
    own = {module for module in modules if module.split(".")[0] == "s3pool" and not module.startswith(rooms or "/")}

    assert 0 == result.code, result.err
    assert [] == sorted(own - allowed - {"s3pool"})
    assert [] == strangers(modules, FOREIGN)


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
