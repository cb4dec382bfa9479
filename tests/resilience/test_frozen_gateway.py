"""One of four gateways freezes in the middle of a command: its connections stay, and nothing comes."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliRunner

FILES, FILE_BYTES = 1500, 20_000
LARGE_BYTES = 200_000_000
FROZEN = 1
WHEN = 0.4  # of the healthy time
REPEATABLE_S, OTHERS_S = 3.0, 10.0  # that a frozen node may cost
NOISE = 1.5  # times the healthy time, on a machine that has other work
TIMEOUT_S = 300.0  # of a healthy run
LONGEST = 3  # times what a run with a frozen node may cost: then it is waited for no longer
# What is run, and what it may cost.
CASES = {
    "many up": (("cp", "-r", "many", "s3/{b}/up"), REPEATABLE_S),
    "many down": (("cp", "-r", "s3/{b}/many", "down"), REPEATABLE_S),
    "one up": (("cp", "large", "s3/{b}/large-up"), OTHERS_S),
    "one down": (("cp", "s3/{b}/large", "large-down"), REPEATABLE_S),
    "tree removed": (("rm", "-r", "--force", "s3/{b}/gone-{n}/"), OTHERS_S),
}


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with many small files and a large one."""
    place = tmp_path_factory.mktemp("frozen")
    (place / "many").mkdir()
    content = os.urandom(FILE_BYTES)
    for number in range(FILES):
        (place / "many" / f"{number:04d}").write_bytes(content)
    (place / "large").write_bytes(os.urandom(1 << 20) * (LARGE_BYTES >> 20))
    return place


@pytest.fixture(name="gateways")
def _gateways(rgw: RgwCluster) -> Iterator[RgwCluster]:
    """Return a cluster of which every gateway goes on in the end."""
    if not rgw.owned:
        pytest.skip("the cluster is shared with others")
    yield rgw
    rgw.thaw(FROZEN)


@pytest.mark.live
@pytest.mark.parametrize("case", CASES)
def test_a_gateway_that_freezes_costs_seconds(
    gateways: RgwCluster, run_cli: CliRunner, place: Path, bucket_name: str, case: str
) -> None:
    """Nobody waits a minute for a node of which it is known that it answers nobody."""
    words, grace_s = CASES[case]
    env = gateways.environment
    prepare = [("mb", f"s3/{bucket_name}")]
    if "down" in case:
        prepare += [("cp", "-r", "many", f"s3/{bucket_name}/many"), ("cp", "large", f"s3/{bucket_name}/large")]
    if "removed" in case:
        prepare += [("cp", "-r", "many", f"s3/{bucket_name}/gone-{run}/") for run in range(2)]
    for argv in prepare:
        assert 0 == run_cli(*argv, env=env, cwd=place).code

    def run(number: int, timeout_s: float = TIMEOUT_S) -> float:
        shutil.rmtree(place / "down", ignore_errors=True)
        started = time.monotonic()
        result = run_cli(
            *(word.format(b=bucket_name, n=number) for word in words), env=env, cwd=place, timeout=timeout_s
        )
        assert 0 == result.code, result.err
        return time.monotonic() - started

    healthy = run(0)
    allowed_s = NOISE * healthy + grace_s
    timer = threading.Timer(WHEN * healthy, gateways.freeze, [FROZEN])
    timer.start()
    try:
        seconds = run(1, LONGEST * allowed_s)
    finally:
        timer.cancel()
        gateways.thaw(FROZEN)

    print(f"{case}: healthy {healthy:.1f} s, with a frozen node {seconds:.1f} s")
    run_cli("rb", "--force", f"s3/{bucket_name}", env=env)
    assert seconds < allowed_s
