"""How fast listings are on a fleet that throttles: s3pool's three ways, other clients beside it.

``make bench-list`` starts a Ceph RGW cluster and the fleet before it, stores empty objects,
lists them and prints the table. Other clients take part where they are installed; they know
one node only, and list a part of the objects, for they take three seconds for each page.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from s3pool.body import EMPTY_BODY, EMPTY_SHA256
from s3pool.cli.formats import table
from s3pool.config.load import load_config
from s3pool.location import S3Path
from s3pool.session import Session, open_session
from s3pool.speedtest.bench import remove_all
from tests.bench.throttling_fleet import ThrottlingFleet
from tests.bench.tools import find
from tests.support.rgw import RgwCluster

OBJECTS = 50_000
NODES = 30
LANES = 16
DIGITS = 6
SOME_OBJECTS = 10_000  # what the other clients list of many
LIMIT_S = 1800.0
PREFIX = "bench/"
HEADER = ("client", "nodes", "objects", "seconds", "objects/s", "factor")
NUMBERS = frozenset(range(1, 6))


@dataclass(frozen=True)
class Row:
    """One measurement."""

    client: str
    nodes: int
    objects: int
    seconds: float

    @property
    def rate(self) -> float:
        """Give objects a second."""
        return self.objects / self.seconds if self.seconds else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="tests.bench.bench_list", description=__doc__)
    parser.add_argument("--objects", type=int, default=OBJECTS, help="how many to list (50000)")
    parser.add_argument("--nodes", type=int, default=NODES, help="of the fleet (30)")
    parser.add_argument("--dead", type=int, default=0, help="so many of them refuse connections")
    parser.add_argument("--silent", type=int, default=0, help="so many accept and never answer")
    parser.add_argument("--rgw", default="", metavar="DIR", help="a running cluster, instead of one of our own")
    parser.add_argument("--json", default="", metavar="FILE", help="write the rows there as well")
    options = parser.parse_args(arguments)
    with (
        _cluster(options.rgw) as cluster,
        _filled(cluster, options.objects) as bucket,
        ThrottlingFleet(cluster.endpoints, nodes=options.nodes, dead=options.dead, silent=options.silent) as fleet,
        tempfile.TemporaryDirectory() as home,
    ):
        environ = _environ(cluster, fleet, home)
        rows = [*_ours(bucket, environ, options.nodes), *_others(bucket, environ, fleet, options.objects)]
    _print(rows)
    if options.json:
        Path(options.json).write_text(json.dumps([{**vars(row), "objects_per_s": row.rate} for row in rows], indent=1))
    return 0


@contextmanager
def _cluster(root: str) -> Iterator[RgwCluster]:
    if root:
        yield RgwCluster.attach(root)
        return
    say("starting Ceph RGW")
    with RgwCluster.create(4) as cluster:
        yield cluster


@contextmanager
def _filled(cluster: RgwCluster, count: int) -> Iterator[str]:
    """Give a bucket with so many empty objects; it is removed in the end."""
    config = load_config({}, environ=cluster.environment, cwd="", home="/nonexistent")
    bucket = f"bench-list-{os.getpid()}"
    with open_session(config) as session:
        session.client.create_bucket(bucket)
        try:
            say(f"storing {count} objects in s3/{bucket}")
            _store(session, bucket, count)
            yield bucket
        finally:
            say("removing them")
            remove_all(session.client, S3Path(bucket))
            session.client.delete_bucket(bucket)


def _store(session: Session, bucket: str, count: int) -> None:
    numbers = itertools.count()
    failures: list[Exception] = []
    lock = threading.Lock()

    def store(_lane: int) -> None:
        while not failures:
            with lock:
                number = next(numbers)
            if number >= count:
                return
            try:
                key = f"{PREFIX}{number:0{DIGITS}}"
                session.client.put_object(bucket, key, EMPTY_BODY, payload_hash=EMPTY_SHA256)
            except Exception as exc:  # noqa: BLE001 - raised again below
                failures.append(exc)

    lanes = [threading.Thread(target=store, args=(number,)) for number in range(LANES)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    if failures:
        raise failures[0]


def _environ(cluster: RgwCluster, fleet: ThrottlingFleet, home: str) -> dict[str, str]:
    return {
        **{name: os.environ[name] for name in ("PATH", "PYTHONPATH", "PYENV_ROOT") if name in os.environ},
        **cluster.environment,
        "HOME": home,
        "S3_POOL": ",".join(fleet.endpoints),
        "S3POOL_INSECURE_TLS": "1",
        "AWS_REGION": "us-east-1",
        "PYTHONWARNINGS": "ignore",
    }


def _ours(bucket: str, environ: Mapping[str, str], nodes: int) -> Iterator[Row]:
    program = find("s3pool")
    say(f"{program}: one connection, rotation, parallel")
    command = [program, "--json", "speedtest", "--list", "--duration", f"{LIMIT_S:g}"]
    text, _ = _run([*command, f"s3/{bucket}/{PREFIX}"], environ)
    for record in map(json.loads, text.splitlines()):
        name = f"{record['way']}, {record['jobs']} jobs" if record["jobs"] > 1 else record["way"]
        used = nodes if record["endpoint"] == "all" else 1
        yield Row(f"s3pool, {name}", used, record["objects"], record["seconds"])


def _others(bucket: str, environ: Mapping[str, str], fleet: ThrottlingFleet, objects: int) -> Iterator[Row]:
    url = fleet.endpoints[-1]
    prefix = PREFIX + "0" * (DIGITS - len(str(SOME_OBJECTS)) + 1) if objects > SOME_OBJECTS else PREFIX
    place = f"{bucket}/{prefix}"
    remote = f":s3,provider=Ceph,env_auth=true,endpoint='{url}':{bucket}/{PREFIX}"
    chosen = ["--include", f"/{prefix.removeprefix(PREFIX)}*"] if prefix != PREFIX else []
    commands = {
        "s5cmd": ["s5cmd", "--no-verify-ssl", "--endpoint-url", url, "ls", f"s3://{place}*"],
        "rclone": ["rclone", "lsf", "-R", "--no-check-certificate", "--config", os.devnull, *chosen, remote],
        "aws": ["aws", "--no-verify-ssl", "--endpoint-url", url, "s3", "ls", "--recursive", f"s3://{place}"],
    }
    for name, command in commands.items():
        if shutil.which(name, path=environ["PATH"]) is None:
            say(f"{name} is not installed")
            continue
        say(name)
        text, seconds = _run(command, environ)
        yield Row(f"{name}, one node", 1, len(text.splitlines()), seconds)


def _run(command: Sequence[str], environ: Mapping[str, str]) -> tuple[str, float]:
    started = time.monotonic()
    done = subprocess.run(
        command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * LIMIT_S, check=False
    )
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout, time.monotonic() - started


def _print(rows: Sequence[Row]) -> None:
    slowest = rows[0].rate

    def factor(row: Row) -> str:
        return f"{row.rate / slowest:.1f}x"

    cells = [
        (
            row.client,
            str(row.nodes),
            str(row.objects),
            f"{row.seconds:.2f}",
            f"{row.rate:.0f}",
            f"{row.rate / slowest:.1f}x",
        )
        for row in rows
    ]
    print("\n".join(table(HEADER, cells, right=NUMBERS)))


def say(text: str) -> None:
    """Tell on stderr what goes on."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
