"""Minutes of full load on the proxy while a node comes and goes: no wrong byte, and nothing left behind.

Every worker owns its keys, so it knows what each answer must be: whole objects, ranges, listings.
A request may fail while a node dies; what it brings must be right. As a command, on Ceph RGW::

    python -m tests.bench.soak_proxy [--seconds 300] [--workers 16] [--cluster DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from xml.etree import ElementTree

from s3pool.model import Credentials
from tests.support.proxying import signed_request
from tests.support.rgw import RgwCluster, free_ports

KIB, MIB = 1024, 1 << 20
BLOB = random.Random(1).randbytes(5 * MIB)
SIZES = (0, 1, 4 * KIB, 4 * KIB, 64 * KIB, 300 * KIB, 4 * MIB)
KEYS = 40
TIMEOUT_S = 60.0
START_LIMIT_S = 60.0
UP_S, DOWN_S = 12.0, 6.0  # how long the node stays, and stays away
SETTLE_S = 5.0
POLL_S = 0.1
WARM_UP = 0.2  # of the whole time: pools and caches fill, and count as base
KEY_TAG = "{http://s3.amazonaws.com/doc/2006-03-01/}Key"
MISSING = 404
ACTIONS = ("get", "get", "get", "range", "range", "put", "put", "list", "delete")


@dataclass(frozen=True)
class Usage:
    """What a proxy's processes hold."""

    rss_kib: int
    threads: int
    descriptors: int


def usage(pids: Sequence[int]) -> Usage:
    """Add up memory, threads and descriptors of processes."""
    rss = threads = descriptors = 0
    for pid in pids:
        words = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
        rss += int(words["VmRSS"].split()[0])
        threads += int(words["Threads"])
        descriptors += len(os.listdir(f"/proc/{pid}/fd"))
    return Usage(rss, threads, descriptors)


@dataclass
class Tally:
    """What all workers saw; the lists hold a line for each thing that must not be.

    ``shared`` are listings that a node gives in the same way when it is asked directly: RGW can
    lose an entry of its index when one gateway deletes a key and another at once writes it anew.
    """

    done: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    bytes_checked: int = 0


class Worker:
    """One client with a connection and keys of its own."""

    def __init__(self, port: int, bucket: str, *, keys: Credentials, number: int, tally: Tally, node: int) -> None:
        self._port = port
        self._bucket = bucket
        self._credentials = keys
        self._number = number
        self._prefix = f"w{number}"
        self._random = random.Random(number)
        self._tally = tally
        self._node = node  # the port of one that stays up
        self._stored: dict[str, bytes | None] = {}  # None: a write whose end nobody knows
        self._sock: socket.socket | None = None

    def run(self, goes_on: Callable[[int], bool]) -> None:
        """Work until told otherwise; ``goes_on`` hears how many requests there were."""
        count = 0
        while goes_on(count):
            count += 1
            action = self._random.choice(ACTIONS)
            try:
                getattr(self, f"_{action}")(self._random.randrange(KEYS))
                self._tally.done[action] += 1
            except (OSError, HTTPException, _RefusedError) as exc:
                self._tally.failed[f"{action} {type(exc).__name__} {exc}"[:60]] += 1
                self._hang_up()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _ask(self, method: str, target: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None) -> _Reply:
        request = signed_request(
            method, target, host=f"127.0.0.1:{self._port}", body=body, headers=headers, key=self._credentials
        )
        if self._sock is None:
            self._sock = socket.create_connection(("127.0.0.1", self._port), TIMEOUT_S)
        self._sock.sendall(request)
        with HTTPResponse(self._sock, method=method) as response:
            response.begin()
            content = response.read()
            if response.will_close:
                self._hang_up()
            return response.status, content

    def _path(self, number: int) -> str:
        return f"/{self._bucket}/{self._prefix}/{number:03}"

    def _put(self, number: int) -> None:
        size = self._random.choice(SIZES)
        start = self._random.randrange(len(BLOB) - size)
        key, content = self._path(number), BLOB[start : start + size]
        self._stored[key] = None
        status, _ = self._ask("PUT", key, body=content)
        _expect(status, 200)
        self._stored[key] = content

    def _delete(self, number: int) -> None:
        key = self._path(number)
        self._stored[key] = None
        status, _ = self._ask("DELETE", key)
        _expect(status, 204)
        del self._stored[key]

    def _get(self, number: int) -> None:
        key = self._path(number)
        status, content = self._ask("GET", key)
        _expect(status, 200, MISSING)
        self._judge(key, content if status == 200 else None, lambda whole: whole)

    def _range(self, number: int) -> None:
        key = self._path(number)
        whole = self._stored.get(key)
        if not whole:
            return
        first = self._random.randrange(len(whole))
        last = self._random.randrange(first, len(whole))
        status, content = self._ask("GET", key, headers={"Range": f"bytes={first}-{last}"})
        _expect(status, 206)
        self._judge(key, content, lambda stored: stored[first : last + 1])

    def _list(self, _number: int) -> None:
        found = self._keys_listed()
        must = {key for key, stored in self._stored.items() if stored is not None}
        may = set(self._stored)
        if not must <= found <= may:
            direct = Worker(
                self._node, self._bucket, keys=self._credentials, number=self._number, tally=self._tally, node=0
            )
            guilty = self._tally.shared if direct._keys_listed() == found else self._tally.wrong
            direct._hang_up()
            guilty.append(f"listing of {self._prefix}: {sorted(must - found)} {sorted(found - may)}")

    def _keys_listed(self) -> set[str]:
        status, content = self._ask("GET", f"/{self._bucket}?list-type=2&prefix={self._prefix}%2F")
        _expect(status, 200)
        return {f"/{self._bucket}/{node.text}" for node in ElementTree.fromstring(content).iter(KEY_TAG)}

    def _judge(self, key: str, content: bytes | None, cut: Callable[[bytes], bytes]) -> None:
        if key in self._stored and self._stored[key] is None:
            return
        stored = self._stored.get(key)
        expected = None if stored is None else cut(stored)
        if content != expected:
            sizes = [None if text is None else len(text) for text in (expected, content)]
            self._tally.wrong.append(f"{key}: {sizes[0]} bytes expected, {sizes[1]} came")
        self._tally.bytes_checked += len(content or b"")


class _RefusedError(Exception):
    """The answer was an error, and an honest one."""


_Reply = tuple[int, bytes]


def _expect(status: int, *wanted: int) -> None:
    if status not in wanted:
        raise _RefusedError(str(status))


def run_workers(
    ports: tuple[int, int],
    bucket: str,
    *,
    keys: Credentials,
    numbers: range,
    goes_on: Callable[[int], bool],
    tally: Tally,
) -> None:
    """Run workers in threads until ``goes_on(requests)`` says no; a number is a worker, and may run once.

    ``ports`` are the proxy's and that of a node which stays up.
    """
    port, node = ports
    threads = [
        threading.Thread(
            target=Worker(port, bucket, keys=keys, number=number, tally=tally, node=node).run, args=(goes_on,)
        )
        for number in numbers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def proxy_process(environment: Mapping[str, str], *flags: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Give the port and the process of a proxy that listens; SIGTERM ends it."""
    port = free_ports(1)[0]
    words = [sys.executable, "-m", "s3pool", "proxy", "--listen", f"127.0.0.1:{port}", "--admin-listen", "off", *flags]
    env = {"PATH": "/usr/bin:/bin", "HOME": tempfile.gettempdir(), "PYTHONPATH": os.getcwd(), **environment}
    process = subprocess.Popen(words, env=env)
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError("the proxy does not listen")
            time.sleep(POLL_S)
        yield port, process
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)


def family(pid: int) -> list[int]:
    """Give a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def flap(cluster: RgwCluster, ended: threading.Event, counts: Counter[str]) -> None:
    """Kill a gateway and start it again, until told to end."""
    while not ended.wait(UP_S):
        cluster.kill(1)
        counts["kills"] += 1
        ended.wait(DOWN_S)
        cluster.start(1)


def soak(cluster: RgwCluster, *, seconds: float, workers: int, flags: Sequence[str]) -> dict[str, object]:
    """Run it all and give the figures."""
    keys = Credentials(cluster.access_key, cluster.secret_key)
    bucket, tally, counts, ended = f"soak{os.getpid()}", Tally(), Counter[str](), threading.Event()
    with proxy_process(cluster.environment, *flags) as (port, process):
        request = signed_request("PUT", f"/{bucket}", host=f"127.0.0.1:{port}", key=keys, close=True)
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as sock:
            sock.sendall(request)
            sock.recv(KIB)
        started = time.monotonic()

        def work(numbers: range, until: float) -> None:
            run_workers(
                (port, cluster.ports[0]),
                bucket,
                keys=keys,
                numbers=numbers,
                goes_on=lambda _: time.monotonic() < until,
                tally=tally,
            )

        flapper = threading.Thread(target=flap, args=(cluster, ended, counts))
        flapper.start()
        try:
            work(range(workers), started + seconds * WARM_UP)
            time.sleep(SETTLE_S)
            before = usage(family(process.pid))
            work(range(workers, 2 * workers), started + seconds)
        finally:
            ended.set()
            flapper.join()
        time.sleep(SETTLE_S)
        after = usage(family(process.pid))
    return {
        "seconds": round(time.monotonic() - started),
        "requests": dict(tally.done),
        "refused": dict(tally.failed),
        "wrong": tally.wrong[:10],
        "wrong_total": len(tally.wrong),
        "wrong_on_the_node_too": len(tally.shared),
        "mib_checked": tally.bytes_checked // MIB,
        "kills": counts["kills"],
        "base": vars(before),
        "end": vars(after),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 when a byte was wrong."""
    parser = argparse.ArgumentParser(prog="tests.bench.soak_proxy", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--cluster", default="", help="the directory of a running RGW cluster; else one is started")
    parser.add_argument("flags", nargs="*", help="more flags of the proxy, after --")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        cluster = RgwCluster.attach(options.cluster) if options.cluster else stack.enter_context(RgwCluster.create(3))
        figures = soak(cluster, seconds=options.seconds, workers=options.workers, flags=options.flags)
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return 1 if figures["wrong_total"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
