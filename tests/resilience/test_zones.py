"""Nodes in two zones: requests stay at home while home is well, and nothing fails when it dies."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, Die, FakeS3
from tests.support.proxying import RunningProxy
from tests.support.run_cli import CliRunner

HERE, THERE = range(3), range(3, 6)
FILES = 300
IMPATIENT = {"POOL_CONNECT_TIMEOUT": "1", "S3POOL_ZONE": "here"}


@pytest.fixture
def fake(fake_s3: object) -> FakeS3:
    """Give six nodes with a bucket."""
    made: FakeS3 = fake_s3(6, secrets={ACCESS_KEY: SECRET_KEY})  # type: ignore[operator]
    made.store.add("b", "there", b"0123456789" * 100)
    return made


def zoned(fake: FakeS3) -> list[str]:
    """Give the endpoints, half of them in each zone."""
    return [f"{node.url};zone={'here' if node.index in HERE else 'there'}" for node in fake.nodes]


def served(fake: FakeS3) -> Counter[int]:
    """Give how many requests of clients each node got."""
    return Counter(request.endpoint for request in fake.requests if request.op not in ("Health", "ListBuckets"))


def fill(root: Path) -> Path:
    """Write many small files."""
    root.mkdir()
    for number in range(FILES):
        (root / f"f{number:03d}").write_bytes(b"%d" % number * 50)
    return root


def test_command_stays_in_its_zone(fake: FakeS3, run_cli: CliRunner, tmp_path: Path) -> None:
    """Traffic between zones is slow, or costs money; the counters of each node tell of it."""
    environ = {**fake.environment, **IMPATIENT, "S3_POOL": ",".join(zoned(fake))}

    result = run_cli("cp", "-r", "--stats", "--json", str(fill(tmp_path / "tree")), "s3/b/t", env=environ)

    rows = [json.loads(line) for line in result.err.splitlines() if '"stats"' in line]
    counts = served(fake)
    assert (0, FILES) == (result.code, len(fake.store.bodies("b")) - 1)
    assert sum(counts[node] for node in THERE) < 0.05 * counts.total()
    assert min(counts[node] for node in HERE) > 0
    assert [row["requests"] for row in rows if row.get("endpoint") in fake.endpoints] == [counts[n] for n in range(6)]


def test_nothing_fails_when_the_zone_dies(fake: FakeS3, run_cli: CliRunner, tmp_path: Path) -> None:
    """All of its nodes, each in the middle of a request: the rest of the run goes to the other zone."""
    environ = {**fake.environment, **IMPATIENT, "S3_POOL": ",".join(zoned(fake))}
    for node in HERE:
        fake.fault(Die(), op="PutObject", endpoint=node, nth=30)

    result = run_cli("sync", str(fill(tmp_path / "tree")), "s3/b/t", env=environ)

    assert (0, FILES) == (result.code, len(fake.store.bodies("b")) - 1), result.err
    assert min(served(fake)[node] for node in THERE) > 0


def test_proxy_stays_in_its_zone_and_leaves_it_when_it_dies(fake: FakeS3) -> None:
    """Its clients see no error."""
    with RunningProxy(zoned(fake), options={"zone": "here"}) as proxy, ThreadPoolExecutor(8) as readers:

        def read(_: int) -> int:
            return proxy.ask("GET", "/b/there").status

        at_home = set(readers.map(read, range(200)))
        counts = served(fake)
        for node in HERE:
            fake.nodes[node].kill()
        away = set(readers.map(read, range(200)))
        shown = {row["endpoint"]: row["zone"] for row in proxy.stats()["endpoints"]}

    assert ({200}, {200}) == (at_home, away)
    assert sum(counts[node] for node in THERE) < 0.05 * counts.total()
    assert {"here", "there"} == set(shown.values())


def test_zone_without_endpoints_is_told(fake: FakeS3, run_cli: CliRunner) -> None:
    """It may be a slip of the pen; the pool works all the same."""
    environ = {**fake.environment, "S3_POOL": ",".join(zoned(fake)), "S3POOL_ZONE": "hare"}

    result = run_cli("cat", "s3/b/there", env=environ)

    assert 0 == result.code
    line = "s3pool: warning: environment S3POOL_ZONE: no endpoint is in the zone hare; there are: here, there"
    assert [line] == result.err.splitlines()
