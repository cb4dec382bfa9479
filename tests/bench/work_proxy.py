"""Workloads of the proxy: GET requests from many connections, through it and through others.

All pass the same signed requests on to the same nginx. s3pool checks each signature and signs
anew; HAProxy and nginx do neither. The load comes from wrk, and its processor time is not
counted: a sample has the proxy's own, for 1000 requests or for one GiB.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.bench.checks import write_random
from tests.bench.measure import Sample, WorkError, cpu_seconds, held_bytes
from tests.bench.rounds import Contestant
from tests.bench.server import NGINX_PROXY, Server, ServerError, start_haproxy, start_nginx
from tests.bench.signing import signed_headers
from tests.bench.site import Site
from tests.bench.work_bodies import SMALL_BYTES, small_get, small_names
from tests.support.rgw import free_ports

MAIN = ("s3pool", "haproxy")
PROCESSES = 2
SMALL_CONNECTIONS = 64
LARGE_CONNECTIONS = 8
LARGE_BYTES = 64 << 20
LOAD_THREADS = 2
REQUESTS_PER_UNIT = 1000
BYTES_PER_UNIT = 1 << 30
PATIENCE_S = 30  # whole seconds, for wrk

SCRIPT = """
local requests, turn = {{}}, 0
function init(_)
{requests}
end
function request()
  turn = turn % #requests + 1
  return requests[turn]
end
function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format('RESULT {{"requests": %d, "bytes": %d, "microseconds": %d, "failed": %d, "p99_us": %d}}\\n',
    summary.requests, summary.bytes, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout, latency:percentile(99)))
end
"""
REQUEST = "  requests[#requests + 1] = wrk.format('GET', '{path}', {{{headers}}})"


class Load(NamedTuple):
    """What is asked for, and how its rate is told."""

    paths: Sequence[str]
    connections: int
    size: int
    in_bytes: bool  # the rate is bytes a second, not requests


def proxy_small(site: Site) -> list[Contestant]:
    """Ask for objects of 4 KiB, each with its own signature, from 64 connections."""
    small_get(site)  # writes the objects
    paths = [f"/small/{name}" for name in small_names(site)]
    return _contestants(site, Load(paths, SMALL_CONNECTIONS, SMALL_BYTES, in_bytes=False))


def proxy_large(site: Site) -> list[Contestant]:
    """Ask for an object of 64 MiB from 8 connections."""
    path = site.store.bucket("proxied") / "object"
    write_random(path, LARGE_BYTES)
    return _contestants(site, Load(["/proxied/object"], LARGE_CONNECTIONS, LARGE_BYTES, in_bytes=True))


def _contestants(site: Site, load: Load) -> list[Contestant]:
    starts = {"s3pool": _start_ours, "haproxy": _start_haproxy, "nginx": _start_nginx}

    def contestant(tool: str) -> Contestant:
        def measure(_number: int) -> Sample:
            with ExitStack() as stack:
                try:
                    server = stack.enter_context(starts[tool](site, load))
                except ServerError as exc:
                    raise WorkError(str(exc)) from exc
                return _measure(site, server, load)

        return Contestant(tool, measure, tool in MAIN)

    return [contestant(tool) for tool in starts if tool in site.tools]


def _start_ours(site: Site, load: Load) -> Server:
    port = free_ports(1)[0]
    words = ["--quiet", "proxy", "--processes", str(PROCESSES), "--admin-listen", "off"]
    command = [site.program("s3pool"), *words, "--listen", f"127.0.0.1:{port}"]
    return Server(command, port, log=site.root / "proxy.log", environ=site.store.environ)


def _start_haproxy(site: Site, load: Load) -> Server:
    backends = [f"127.0.0.1:{site.store.server.port}"]
    port = free_ports(1)[0]
    return start_haproxy(site.program("haproxy"), site.root / "haproxy", port, backends=backends, threads=PROCESSES)


def _start_nginx(site: Site, load: Load) -> Server:
    port = free_ports(1)[0]
    # Large answers would be written to a file when the client is the slower side.
    buffering = "off" if load.in_bytes else "on"
    block = NGINX_PROXY.format(port=port, backend=f"127.0.0.1:{site.store.server.port}", buffering=buffering)
    return start_nginx(site.program("nginx"), site.root / "nginx-proxy", port, http=block)


def _measure(site: Site, server: Server, load: Load) -> Sample:
    host = f"127.0.0.1:{server.port}"
    script = site.root / "load.lua"
    script.write_text(_script(load.paths, host))
    _check_passes(site, host, load)
    cpu_before, started = cpu_seconds(server.pid), time.perf_counter()
    result = _run_wrk(site, server.url, load, script)
    seconds, cpu_s = time.perf_counter() - started, cpu_seconds(server.pid) - cpu_before
    amount, unit = (result["bytes"], BYTES_PER_UNIT) if load.in_bytes else (result["requests"], REQUESTS_PER_UNIT)
    if result["failed"] or not amount or result["bytes"] < result["requests"] * load.size:
        raise WorkError(f"not every answer was whole: {result}")
    rate = amount / (result["microseconds"] / 1e6)
    return Sample(seconds, cpu_s * unit / amount, held_bytes(server.pid), rate)


def _script(paths: Sequence[str], host: str) -> str:
    now = time.time()
    lines = []
    for path in paths:
        headers = signed_headers(path, host=host, now=now).items()
        fields = ", ".join(f"['{name}'] = '{value}'" for name, value in headers)
        lines.append(REQUEST.format(path=path, headers=fields))
    return SCRIPT.format(requests="\n".join(lines))


def _check_passes(site: Site, host: str, load: Load) -> None:
    """Raise WorkError unless one object comes through as it is."""
    path = load.paths[-1]
    connection = http.client.HTTPConnection(host, timeout=PATIENCE_S)
    try:
        connection.request("GET", path, headers=dict(signed_headers(path, host=host, now=time.time())))
        response = connection.getresponse()
        status, body = response.status, response.read()
    except (OSError, http.client.HTTPException) as exc:
        raise WorkError(f"no answer to GET {path}: {exc}") from exc
    finally:
        connection.close()
    bucket, _, key = path[1:].partition("/")
    if status != 200 or body != (site.store.bucket(bucket) / key).read_bytes():
        raise WorkError(f"GET {path} gave {status} and {len(body)} bytes, not the object: {body[:200]!r}")


def _run_wrk(site: Site, url: str, load: Load, script: Path) -> dict[str, int]:
    words = [f"-t{LOAD_THREADS}", f"-c{load.connections}", f"-d{site.sizes.proxy_s}s", f"--timeout={PATIENCE_S}s"]
    done = subprocess.run(
        [site.program("wrk"), *words, "-s", str(script), url],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=site.sizes.proxy_s + 2 * PATIENCE_S,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            found: dict[str, int] = json.loads(line.removeprefix("RESULT "))
            return found
    raise WorkError(f"wrk ended with {done.returncode}: {done.stdout}{done.stderr}")
