"""A node after the other dies and comes back while a large sync is at work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.proof import digests_of, plant, times_of
from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliRunner
from tests.support.scale import sized

MIB = 1 << 20
LARGE, MIDDLE, SMALL = sized(1, 8), sized(6, 100), sized(100, 2000)
LARGE_BYTES = sized(80, 160) * MIB
SIZES = {
    **{f"large/{number}": LARGE_BYTES + number for number in range(LARGE)},
    **{f"middle/{number:03d}": 7 * MIB + number for number in range(MIDDLE)},
    **{f"small/{number % 20}/{number:04d}": 10_000 + number for number in range(SMALL)},
}
EVERY_S = sized(4, 12) / 4  # the small run is over in seconds
ENOUGH_KILLS = sized(1, 4)
COMMAND_TIMEOUT_S = sized(240, 1500)


@contextmanager
def restarting(cluster: RgwCluster) -> Iterator[list[int]]:
    """Kill a node and start it again, every few moments another one; give those that were killed."""
    end = threading.Event()
    killed: list[int] = []

    def restart() -> None:
        while not end.wait(EVERY_S):
            index = len(killed) % len(cluster.ports)
            killed.append(index)
            cluster.kill(index)
            cluster.start(index)

    thread = threading.Thread(target=restart, name="restarts", daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        end.set()
        thread.join()


@pytest.mark.live
def test_restarting_nodes_fail_nothing(rgw: RgwCluster, run_cli: CliRunner, tmp_path: Path, bucket_name: str) -> None:
    """Both ways: exit 0, every byte in its place."""
    if not rgw.owned:
        pytest.skip("the cluster is shared with others")
    run_cli.environ.update(rgw.environment)
    source, target, remote = plant(tmp_path / "up", SIZES, seed=4), tmp_path / "down", f"s3/{bucket_name}/p"
    made = run_cli("mb", f"s3/{bucket_name}")

    with restarting(rgw) as killed:
        up = run_cli("sync", str(source), remote, timeout=COMMAND_TIMEOUT_S)
        down = run_cli("sync", remote, str(target), timeout=COMMAND_TIMEOUT_S)

    assert (0, 0, 0) == (made.code, up.code, down.code), (up.err, down.err)
    assert len(killed) >= ENOUGH_KILLS
    assert f"{len(SIZES)} copied, 0 deleted, 0 skipped, 0 failed" in up.err
    assert f"{len(SIZES)} copied, 0 deleted, 0 skipped, 0 failed" in down.err
    assert digests_of(source) == digests_of(target)
    assert times_of(source) == times_of(target)
