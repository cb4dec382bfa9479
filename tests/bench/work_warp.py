"""MinIO's load generator warp on a real server: directly, and through s3pool's proxy, sidekick and HAProxy.

warp spreads its requests over all nodes itself when nothing stands between. It says what it did in a
file that ``warp analyze`` reads. A sample has the proxy's own processor time, for 1000 requests; what warp
uploads before and deletes afterwards is in it, for all alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime

from tests.bench.measure import Sample, WorkError, cpu_seconds, held_bytes
from tests.bench.rounds import Contestant
from tests.bench.server import Server, ServerError, start_haproxy
from tests.bench.site import Site
from tests.bench.targets import OURS, PASSTHROUGH
from tests.support.rgw import free_ports

PROCESSES = 2
CONNECTIONS = 16
OBJECTS = 200  # that lie there before GET and mixed
OBJECT_SIZE = "1MiB"
REQUESTS_PER_UNIT = 1000
SPARE_S = 120.0  # for what warp uploads before, and deletes afterwards
OWN_FLAGS: Mapping[str, Sequence[str]] = {
    OURS: ("--processes", str(PROCESSES)),
    "s3pool, one process": (),
    PASSTHROUGH: ("--processes", str(PROCESSES), "--auth", "passthrough"),
    "s3pool passthrough, one process": ("--auth", "passthrough"),
}
DIRECT = "direct"
PEERS = ("sidekick", "haproxy")


def warp(kind: str) -> Callable[[Site], list[Contestant]]:
    """Return the workload of one of warp's kinds: get, put or mixed."""

    def enter(site: Site) -> list[Contestant]:
        def contestant(name: str) -> Contestant:
            return Contestant(name, lambda _number: _sample(site, kind, name))

        peers = [name for name in PEERS if name in site.tools]
        return [contestant(name) for name in (*OWN_FLAGS, *peers, DIRECT)]

    return enter


def _sample(site: Site, kind: str, name: str) -> Sample:
    if name == DIRECT:
        hosts = ",".join(url.partition("//")[2] for url in site.cluster.endpoints)
        return _run(site, kind, hosts, server=None)
    with ExitStack() as stack:
        try:
            server = stack.enter_context(_start(site, name))
        except ServerError as exc:
            raise WorkError(str(exc)) from exc
        return _run(site, kind, f"127.0.0.1:{server.port}", server=server)


def _start(site: Site, name: str) -> Server:
    port, cluster = free_ports(1)[0], site.cluster
    if name == "haproxy":
        backends = [url.partition("//")[2] for url in cluster.endpoints]
        return start_haproxy(site.program(name), site.root / name, port, backends=backends, threads=PROCESSES)
    listen = f"127.0.0.1:{port}"
    if name == "sidekick":
        words = [site.program(name), "--quiet", "--address", listen, "--health-path", cluster.ready_path]
        words.append(",".join(cluster.endpoints))
    else:
        words = [site.program("s3pool"), "--quiet", "proxy", "--listen", listen, "--admin-listen", "off"]
        words += OWN_FLAGS[name]
    return Server(words, port, log=site.root / "warp-proxy.log", environ=cluster.environ)


def _run(site: Site, kind: str, hosts: str, *, server: Server | None) -> Sample:
    environ, results = site.cluster.environ, site.root / "warp"
    keys = ["--access-key", environ["AWS_ACCESS_KEY_ID"], "--secret-key", environ["AWS_SECRET_ACCESS_KEY"]]
    words = ["--host", hosts, *keys, "--bucket", "warp", "--lookup", "path", "--no-color", "--benchdata", str(results)]
    words += ["--concurrent", str(CONNECTIONS), "--obj.size", OBJECT_SIZE, "--duration", f"{site.sizes.proxy_s}s"]
    if kind != "put":
        words += ["--objects", str(OBJECTS)]
    cpu_before, started = cpu_seconds(server.pid) if server else 0.0, time.perf_counter()
    _ask_warp(site, kind, *words)
    seconds = time.perf_counter() - started
    total = json.loads(_ask_warp(site, "analyze", "--no-color", "--json", f"{results}.json.zst"))["total"]
    requests = total["total_requests"]
    if total["total_errors"] or not requests:
        raise WorkError(f"{total['total_errors']} of {requests} requests failed: {total['first_errors']}")
    rate = requests / (_when(total["end_time"]) - _when(total["start_time"]))
    if server is None:
        return Sample(seconds, 0.0, 0, rate)
    cpu_s = cpu_seconds(server.pid) - cpu_before
    return Sample(seconds, cpu_s * REQUESTS_PER_UNIT / requests, held_bytes(server.pid), rate)


def _ask_warp(site: Site, *words: str) -> str:
    environ = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(site.home)}
    done = subprocess.run(
        [site.program("warp"), *words],
        env=environ,
        cwd=site.root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=site.sizes.proxy_s + SPARE_S,
        check=False,
    )
    if done.returncode:
        raise WorkError(f"warp {words[0]} ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done.stdout


def _when(text: str) -> float:
    """Return the seconds of a time that has nanoseconds, which are more than datetime reads."""
    return datetime.fromisoformat(f"{text[:26].rstrip('Z')}+00:00").timestamp()
