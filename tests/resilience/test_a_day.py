"""All that can happen to nodes in one day, during one sync and under steady load of a proxy."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dns", reason="the name server needs dnspython")

from tests.support.name_server import NameServer
from tests.support.proof import digest_of
from tests.support.proxying import proxy_process
from tests.support.relay import Relay
from tests.support.rgw import RgwCluster, missing_tools
from tests.support.run_cli import CliRunner
from tests.support.scripted import SLOW_DOWN, ScriptedServer

# ``make day`` has 2 GiB and 200 requests a second.
MIBS = int(os.environ.get("S3POOL_DAY_MIB", "100"))
RATE = int(os.environ.get("S3POOL_DAY_RATE", "40"))
LARGE_BYTES, SMALL_BYTES = 40 << 20, 64 << 10  # half of the bytes are of each kind
LAG_S = 0.3  # of each piece, where a gateway answers in milliseconds
NAME = "_s3._tcp.day.test"
STOPPED, KILLED, SLOW, ADDED, REMOVED = 1, 2, 3, 4, 5  # gateways; 0 has a quiet day
SENDERS = 8
PUTS = 4  # each so many-th request
OBJECTS = 50
GRACE_S = 30.0  # on a machine that has other work
LIMIT_S = 600.0


class Load:
    """Requests at an even rate through a proxy: reads without retries, writes with those that boto3 has."""

    def __init__(self, url: str, keys: dict[str, str], bucket: str) -> None:
        import boto3
        from botocore.config import Config

        def client(**more: Any) -> Any:
            config = Config(s3={"addressing_style": "path"}, max_pool_connections=SENDERS, **more)
            return boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=config, **keys)

        self._reader, self._writer = client(retries={"total_max_attempts": 1}), client()
        self._bucket = bucket
        self._ended = threading.Event()
        self.failures: list[str] = []
        self.count, self.longest_s = 0, 0.0
        for number in range(OBJECTS):
            self._put(number)
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(SENDERS)]

    def _put(self, number: int) -> None:
        self._writer.put_object(Bucket=self._bucket, Key=f"load/{number % OBJECTS}", Body=b"%d" % number * 1000)

    def _get(self, number: int) -> None:
        self._reader.get_object(Bucket=self._bucket, Key=f"load/{number % OBJECTS}")["Body"].read()

    def _work(self, sender: int) -> None:
        due = time.monotonic()
        for number in itertools.count(sender):
            due += SENDERS / RATE
            if self._ended.wait(max(0.0, due - time.monotonic())):
                return
            started = time.monotonic()
            act = self._put if number % PUTS == 0 else self._get
            try:
                act(number)
            except Exception as exc:  # noqa: BLE001 - whatever the SDK raises
                self.failures.append(f"{act.__name__}: {exc}")
            self.count += 1
            self.longest_s = max(self.longest_s, time.monotonic() - started)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


class Day:
    """A cluster of six, a name that stands for its nodes, and what befalls them."""

    def __init__(self, cluster: RgwCluster, names: NameServer, slow: Relay, refusing: ScriptedServer) -> None:
        self._cluster, self._names, self._slow = cluster, names, slow
        self._refusing_port = refusing.endpoint.port
        self._timers: list[threading.Timer] = []
        self.environ = {**cluster.environment, "S3_POOL": f"srv+http://{NAME}", "S3POOL_RESOLVER": names.address}
        names.set("node.test", "A", ["127.0.0.1"])
        self._tell(without={ADDED})

    def _tell(self, *, without: set[int], more: tuple[int, ...] = ()) -> None:
        ports = [self._slow.port if index == SLOW else port for index, port in enumerate(self._cluster.ports)]
        present = [port for index, port in enumerate(ports) if index not in without]
        self._names.set(NAME, "SRV", [f"0 10 {port} node.test." for port in (*present, *more)])

    def begin(self, healthy_s: float) -> None:
        """Let it all happen within the time that a sync takes."""
        refusing = (self._refusing_port,)

        def slow() -> None:
            self._slow.lag_s = LAG_S

        acts = (
            (0.05, lambda: self._tell(without={ADDED}, more=refusing)),
            (0.1, slow),
            (0.2, lambda: self._cluster.freeze(STOPPED)),
            (0.35, lambda: self._tell(without=set(), more=refusing)),
            (0.5, lambda: self._cluster.kill(KILLED)),
            (0.6, lambda: self._tell(without={REMOVED}, more=refusing)),
        )
        self._timers = [threading.Timer(share * healthy_s, act) for share, act in acts]
        for timer in self._timers:
            timer.start()

    def end(self) -> None:
        """Have an end, whatever happened."""
        for timer in self._timers:
            timer.join()
        self._slow.lag_s = 0.0
        self._cluster.thaw(STOPPED)


@pytest.fixture
def day() -> Iterator[Day]:
    """Return a day that begins well."""
    if missing_tools():
        pytest.skip("RGW is not installed")
    with ExitStack() as stack:
        cluster = stack.enter_context(RgwCluster.create(6))
        slow = stack.enter_context(Relay(cluster.endpoints[SLOW]))
        yield Day(cluster, stack.enter_context(NameServer()), slow, stack.enter_context(ScriptedServer((SLOW_DOWN,))))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a directory with small and large files."""
    made = tmp_path / "tree"
    made.mkdir()
    half = (MIBS << 20) // 2
    for number in range(max(1, half // LARGE_BYTES)):
        (made / f"large{number}").write_bytes(os.urandom(1 << 20) * (LARGE_BYTES >> 20))
    for number in range(half // SMALL_BYTES):
        (made / f"small{number:05}").write_bytes(os.urandom(SMALL_BYTES))
    return made


@pytest.mark.live
def test_a_day_on_which_all_happens(day: Day, tree: Path, run_cli: CliRunner, tmp_path: Path) -> None:
    """A node each is stopped, killed, slow, refusing, new and taken away: the work goes on."""
    keys = {f"aws_{name}": day.environ[f"AWS_{name.upper()}"] for name in ("access_key_id", "secret_access_key")}
    assert 0 == run_cli("mb", "s3/day", env=day.environ).code
    with proxy_process(day.environ, str(tmp_path)) as (url, _), Load(url, keys, "day") as load:

        def run(target: str) -> tuple[int, str, float]:
            started = time.monotonic()
            up = run_cli("sync", "tree", f"s3/day/{target}", env=day.environ, cwd=tmp_path, timeout=LIMIT_S)
            down = run_cli("sync", f"s3/day/{target}", target, env=day.environ, cwd=tmp_path, timeout=LIMIT_S)
            return max(up.code, down.code), up.err + down.err, time.monotonic() - started

        _, _, healthy_s = run("calm")
        quiet_s, load.longest_s = load.longest_s, 0.0
        day.begin(healthy_s)
        try:
            code, err, seconds = run("rough")
        finally:
            day.end()

    print(
        f"{MIBS} MiB up and down: {healthy_s:.1f} s, on a rough day {seconds:.1f} s, {seconds / healthy_s:.2f} times; "
        f"{load.count} requests, longest {quiet_s:.1f} and {load.longest_s:.1f} s"
    )
    assert (0, []) == (code, load.failures), err
    assert {path.name: digest_of(path) for path in tree.iterdir()} == {
        path.name: digest_of(path) for path in (tmp_path / "rough").iterdir() if path.name[0] != "."
    }
    assert seconds < 1.5 * healthy_s + GRACE_S
