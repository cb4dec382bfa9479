"""A node that falls silent after it has answered: its connections stay, and no byte comes any more."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_s3 import Call, Exchange, FakeS3
from tests.support.proxying import RunningProxy, checking_fake
from tests.support.run_cli import CliRunner

OBJECTS = 60
LOST_S = 3.0  # that one silent node may cost
NOISE_S = 10.0  # of a machine that has other work
RECOVERY_S = 60.0
AWAY_S = 0.9  # a read that waited for the silent node took longer
# What is run, the operation at which a node falls silent, and how many of them were before.
CASES = {
    "cat": (("cat", *(f"s3/b/p/{number:03}" for number in range(30))), "GetObject", 5),
    "ls": (("ls", "-r", "--jobs", "1", "s3/many"), "ListObjectsV2", 3),
    "cp -r down": (("cp", "-r", "s3/b/p", "down"), "GetObject", 10),
    "cp -r up": (("cp", "-r", "tree", "s3/b/up"), "PutObject", 10),
    "sync": (("sync", "s3/b/p", "down"), "GetObject", 10),
    "rm -r": (("rm", "-r", "--force", "s3/many"), "DeleteObjects", 2),
}


def fall_silent(exchange: Exchange) -> None:
    """Let a node answer this request, late, and none of those that came after it."""
    exchange.body()
    exchange.node.black_hole()
    exchange.node.ended.wait(1.0)


@pytest.mark.parametrize(("case", "nodes"), [*((case, 2) for case in CASES), ("cat", 3), ("cp -r up", 3)])
def test_command_loses_seconds(
    fake_s3: Callable[..., FakeS3], run_cli: CliRunner, tmp_path: Path, case: str, nodes: int
) -> None:
    """With two nodes every second read would begin at the silent one, for the whole command."""
    words, op, nth = CASES[case]
    fake = fake_s3(nodes)
    (tmp_path / "tree").mkdir()
    for number in range(OBJECTS):
        fake.store.add("b", f"p/{number:03}", b"0123456789")
        (tmp_path / "tree" / str(number)).write_bytes(b"0123456789")
    for number in range(4000 if "many" in words[-1] else 1):
        fake.store.add("many", f"{number:05}", b"")
    fake.fault(Call(fall_silent), op=op, nth=nth)

    started = time.monotonic()
    result = run_cli("--stats", "--json", "--health-interval", "300", *words, env=fake.environment, cwd=tmp_path)
    seconds = time.monotonic() - started

    assert 0 == result.code, result.err
    assert seconds < LOST_S + NOISE_S, result.err
    rows = [json.loads(line) for line in result.err.splitlines() if line.startswith('{"type":"stats"')]
    assert case == "ls" or any(row["failures"] or row["state"] != "closed" for row in rows), rows


@pytest.mark.parametrize(("nodes", "interval_s"), [(2, 1.0), (3, 300.0)], ids=["2, probed", "3, not probed"])
def test_proxy_loses_seconds_and_has_the_node_back(nodes: int, interval_s: float) -> None:
    """Whether or not a health thread looks, and whatever else the node's last answers were."""
    with checking_fake(nodes) as fake:
        fake.store.add("b", "k", b"0123456789")
        with RunningProxy(fake.endpoints, read_timeout_s=60.0, options={"health_interval_s": interval_s}) as proxy:

            def read() -> float:
                started = time.monotonic()
                assert 200 == proxy.ask("GET", "/b/k", close=True).status
                return time.monotonic() - started

            for _ in range(2 * nodes):
                read()
            fake.nodes[0].black_hole()
            waits = [read() for _ in range(30)]
            failures = [row["failures"] for row in proxy.stats()["endpoints"]]
            fake.nodes[0].start()
            before, began = len(fake.requests), time.monotonic()
            while not any(each.endpoint == 0 and each.op == "GetObject" for each in fake.requests[before:]):
                read()
                assert time.monotonic() - began < RECOVERY_S

    assert sum(waits) < LOST_S + NOISE_S
    assert max(waits[-10:]) < AWAY_S, waits
    assert failures[0] > 0 == sum(failures[1:])
