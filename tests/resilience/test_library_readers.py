"""A program that reads many objects through the library while gateways die and stop."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

import s3pool
from tests.support.fake_s3 import MIB, FakeS3
from tests.support.rgw import RgwCluster

OBJECTS, READERS = 400, 8
FACTOR = 3.0  # of the median, that the slowest of a hundred may take
SPARE_S = 4.0  # what a busy machine adds to it
LATE_S = 25.0  # such reads lose the test, and are not waited for when there are more than one in a hundred


def read_all(pool: s3pool.Pool, bucket: str, count: int, *, at: dict[int, Callable[[], object]]) -> list[float]:
    """Read objects by several threads, with what happens when so many were begun; give the seconds of each."""
    taken = iter(range(count))
    lock = threading.Lock()
    times: list[float] = []

    def work() -> None:
        while True:
            with lock:
                number = next(taken, None)
            if number is None:
                return
            if number in at:
                at[number]()
            started = time.monotonic()
            with pool.open(f"s3://{bucket}/{number}") as stream:
                content = stream.read()
            times.append(time.monotonic() - started)
            assert str(number).encode() == content[: len(str(number))]
            assert sum(each > LATE_S for each in times) <= count // 100, sorted(times)[-READERS:]

    with ThreadPoolExecutor(READERS) as threads:
        for job in [threads.submit(work) for _ in range(READERS)]:
            job.result()
    return sorted(times)


def test_readers_do_not_feel_dead_and_silent_nodes(fake_s3: Callable[..., FakeS3]) -> None:
    """No exception, and hardly a read that waits."""
    fake = fake_s3(4)
    for number in range(OBJECTS):
        fake.store.add("b", str(number), str(number).encode() + b"x" * 1024)
    at = {OBJECTS // 4: fake.nodes[0].kill, OBJECTS // 2: fake.nodes[1].black_hole}

    with s3pool.connect(endpoints=list(fake.endpoints), access_key="any", secret_key="any") as pool:
        times = read_all(pool, "b", OBJECTS, at=at)

    assert OBJECTS == len(times)
    # Each reader may be caught once by each of the two; the tests' patience with silent nodes is long.
    assert times[-2 * READERS - 1] <= FACTOR * statistics.median(times) + SPARE_S


@pytest.mark.live
def test_readers_do_not_feel_gateways_that_are_killed_and_stopped(rgw: RgwCluster, bucket_name: str) -> None:
    """The same with real gateways; S3POOL_READ_OBJECTS=2000 is the long form."""
    if not rgw.owned:
        pytest.skip("the cluster is shared with others")
    count = int(os.environ.get("S3POOL_READ_OBJECTS", "400"))
    words = rgw.environment
    keys = {"access_key": words["AWS_ACCESS_KEY_ID"], "secret_key": words["AWS_SECRET_ACCESS_KEY"]}
    with s3pool.connect(endpoints=words["S3_POOL"], **keys) as pool:
        pool.client.create_bucket(bucket_name)
        for number in range(count):
            with pool.open(f"s3://{bucket_name}/{number}", "wb") as out:
                out.write(str(number).encode().ljust(MIB, b"."))
        try:
            at = {count // 4: lambda: rgw.kill(1), count // 2: lambda: rgw.freeze(2)}
            times = read_all(pool, bucket_name, count, at=at)
        finally:
            rgw.thaw(2)
            rgw.start(1)

    median, slow = statistics.median(times), times[int(count * 0.99)]
    print(f"{count} reads: median {median:.4f} s, p99 {slow:.4f} s, slowest {times[-1]:.2f} s")
    assert count == len(times)
    assert slow <= FACTOR * median + SPARE_S
