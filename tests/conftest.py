"""Fixtures for all tests: servers, clock, command line. Nothing leaves loopback."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import settings

from s3pool.model import Endpoint
from s3pool.pool import node
from tests.support.clock import Clock
from tests.support.fake_s3 import FakeS3
from tests.support.guard import stay_home
from tests.support.moto_fleet import MotoFleet
from tests.support.real_servers import CLUSTERS, Deployment
from tests.support.rgw import RgwCluster, missing_tools
from tests.support.run_cli import CliRunner
from tests.support.server_faults import NOW_AND_THEN, fault_of

stay_home()
# A shell lets what it starts with "&" ignore SIGINT, and nohup SIGHUP. What the tests start would inherit that.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)
# A machine that is busy elsewhere makes no example wrong. Where CI is set, the examples are the same each time.
settings.register_profile("patient", parent=settings(), deadline=None)
settings.load_profile("patient")

# Nor is a node silent that such a machine keeps waiting. (Commands in processes of their own judge as ever.)
node.DELAYS = node.Delays(unproven_s=3.0, failure_s=3.0, early_s=3.0, suspect_s=3.0)

# Long proofs, for `make test-long`: nodes that die and freeze, memory, real clients and shells, many connections,
# servers that lie or speak a dialect, all divisions of a job, and what waits for real time.
LONG = (
    "tests/resilience/",
    *(f"tests/proxy/test_{name}.py" for name in ("client_gone", "client_matrix", "fair_share", "interim_answers")),
    *(f"tests/proxy/test_{name}.py" for name in ("many_connections", "running")),
    *(f"tests/cli/test_{name}.py" for name in ("hostile_answers", "listing_by_ranges", "listings_believed")),
    *(f"tests/cli/test_{name}.py" for name in ("other_posix", "shards_command", "speedtest", "answers_checked")),
    *(f"tests/cli/test_{name}.py" for name in ("completion", "dialects", "documents", "moving_here", "orderly_ends")),
    *(f"tests/cli/test_{name}.py" for name in ("plans", "refusals")),
    "tests/unit/s3/test_scheduler_requests.py",
)
LONG_BESIDES = "[moto]"  # that another server than the fake keeps the contract


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the long proofs by where they stand; expect to fail what the real server is known to do otherwise."""
    server = os.environ.get("S3POOL_LIVE_SERVER", "rgw")
    for item in items:
        if item.nodeid.startswith(LONG) or LONG_BESIDES in item.nodeid:
            item.add_marker(pytest.mark.long)
        where = "minio" if item.nodeid.endswith("[minio]") else server  # whatever the other tests run on
        if item.get_closest_marker("live") and (fault := fault_of(where, item.nodeid)):
            item.add_marker(pytest.mark.xfail(reason=f"{where}: {fault}", strict=NOW_AND_THEN not in fault))


FakeFactory = Callable[..., FakeS3]
_bucket_numbers = itertools.count(1)


@pytest.fixture
def fake_s3() -> Iterator[FakeFactory]:
    """Make fakes: ``fake_s3(3, quirks=...)`` is one store behind three addresses."""
    made: list[FakeS3] = []

    def make(endpoints: int = 1, **options: object) -> FakeS3:
        made.append(FakeS3(endpoints, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for fake in made:
        fake.stop()


@pytest.fixture
def endpoints(fake_s3: FakeFactory) -> tuple[Endpoint, ...]:
    """Give three addresses of one empty fake."""
    return tuple(Endpoint.parse(url) for url in fake_s3(3).endpoints)


@pytest.fixture
def clock() -> Clock:
    """Give a clock that only the test turns."""
    return Clock()


@pytest.fixture
def run_cli(tmp_path: Path) -> CliRunner:
    """Run s3pool in a process of its own: ``run_cli("ls", "s3/b", env=fake.environment)``."""
    home = tmp_path / "home"
    home.mkdir()
    return CliRunner(home)


@pytest.fixture
def bucket_name() -> str:
    """Give a bucket name that no other test of any run uses."""
    return f"t{os.getpid()}-{next(_bucket_numbers)}-{os.urandom(4).hex()}"


@pytest.fixture(scope="session")
def moto() -> Iterator[MotoFleet]:
    """Give three moto endpoints on one store, shared by all tests: use buckets of your own."""
    with MotoFleet(3) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def rgw() -> Iterator[RgwCluster | Deployment]:
    """Give a real cluster, shared by all tests: use buckets of your own.

    It is RGW, or the server that S3POOL_LIVE_SERVER names. S3POOL_TEST_RGW_DIR names an RGW that
    runs already. Without the server the test is skipped, unless S3POOL_REQUIRE_LIVE is 1: then it fails.
    """
    yield from _cluster(os.environ)


def _cluster(environ: Mapping[str, str]) -> Iterator[RgwCluster | Deployment]:
    server = environ.get("S3POOL_LIVE_SERVER", "rgw")
    if server != "rgw":
        kind = CLUSTERS[server]
        if kind.find() is None and environ.get("S3POOL_REQUIRE_LIVE") != "1":
            pytest.skip(kind.missing())
        with kind() as deployment:
            yield deployment
        return
    running = environ.get("S3POOL_TEST_RGW_DIR")
    if running:
        yield RgwCluster.attach(running)
        return
    if missing_tools() and environ.get("S3POOL_REQUIRE_LIVE") != "1":
        pytest.skip(f"RGW is not installed: no {', '.join(missing_tools())}")
    with RgwCluster.create(4) as cluster:
        yield cluster
