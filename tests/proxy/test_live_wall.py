"""What the proxy verified is what the node did: thousands of requests that try to make a difference.

S3POOL_WALL_SECONDS makes it longer than a quarter of a minute for each of the six, and
S3POOL_WALL_SEED another run; ``make wall`` runs three quarters of an hour.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3pool.model import Credentials
from tests.support.proxying import GUEST_KEY, LIVE_TIMEOUT_S, RunningProxy
from tests.support.real_servers import Deployment, MinioCluster, VersityCluster
from tests.support.rgw import RgwCluster
from tests.support.wall import Generator, Store, Watch

SECONDS = float(os.environ.get("S3POOL_WALL_SECONDS", "15"))
SEED = int(os.environ.get("S3POOL_WALL_SEED", "1"))
GUEST = {"access_key": GUEST_KEY.access_key, "secret_key": GUEST_KEY.secret_key, "backend": "pool"}
NEW_UPLOAD_EVERY = 100


@pytest.fixture(scope="module")
def minio() -> Iterator[Deployment]:
    """Return a MinIO deployment; without the program the test is skipped."""
    yield from running(MinioCluster, 4)


@pytest.fixture(scope="module")
def versitygw() -> Iterator[Deployment]:
    """Return two versitygw processes; without the program the test is skipped."""
    yield from running(VersityCluster, 2)


def running(kind: type[Deployment], nodes: int) -> Iterator[Deployment]:
    """Run servers where they are installed."""
    if kind.find() is None:
        pytest.skip(kind.missing())
    with kind(nodes) as deployment:
        yield deployment


@pytest.fixture(params=["rgw", "minio", "versitygw"])
def cluster(request: pytest.FixtureRequest) -> RgwCluster | Deployment:
    """Return each of the real servers in turn."""
    found: RgwCluster | Deployment = request.getfixturevalue(request.param)
    return found


@pytest.mark.live
@pytest.mark.parametrize("reads_only", [False, True], ids=["some buckets", "reading only"])
def test_nothing_gets_past_the_proxy(cluster: RgwCluster | Deployment, tmp_path: Path, reads_only: bool) -> None:
    """No answer tells of the canaries, nothing changes that was not believed to, no admin door opens."""
    tag = f"wall{os.getpid()}{'r' if reads_only else 'b'}"
    root = Credentials(cluster.access_key, cluster.secret_key)
    store = Store(cluster.endpoints[0], root, f"a{tag}", f"s{tag}")
    log = tmp_path / "log"
    limits: dict[str, object] = {"read_only": True} if reads_only else {"buckets": [f"[!s]*{tag}*"]}
    settings = {"clients": [{**GUEST, **limits}], "access_log": str(log), "read_timeout_s": LIVE_TIMEOUT_S}
    store.fill()
    try:
        with RunningProxy(cluster.endpoints, credentials=root, **settings) as proxy:  # type: ignore[arg-type]
            watch = Watch(proxy, store, log, reads_only=reads_only)
            attack(Generator(SEED, store.allowed, store.secret), watch, store)
    finally:
        store.clear()


def attack(generator: Generator, watch: Watch, store: Store) -> None:
    """Send attempts until the time is over; the first that gets past ends it."""
    until, number = time.monotonic() + SECONDS, 0
    while time.monotonic() < until:
        if number % NEW_UPLOAD_EVERY == 0:
            generator.upload_ids = [store.begin_upload()]
        attempt = generator.next()
        wrong = watch.send(attempt)
        assert not wrong, f"seed {SEED}, attempt {number}: {attempt}\nbelieved {watch.records[-1]}\n{wrong}"
        number += 1
    print(f"{number} attempts, {sum(watch.passed.values())} passed: {dict(sorted(watch.passed.items()))}")
    assert {"GetObject", "HeadObject"} <= watch.passed.keys(), (
        "nothing passed: the attempts are not signed as they should"
    )
