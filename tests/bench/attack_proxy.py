"""Attack a proxy with all that once stopped it, and measure what another client sees of that.

The node, the attackers and the client are processes of their own. As a command::

    python -m tests.bench.attack_proxy [--seconds 15] [--scale 1.0]

It prints a table, and exits with 1 when a bound is broken.
"""

from __future__ import annotations

import argparse
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.bench.soak_proxy import family, proxy_process, usage
from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, FakeS3
from tests.support.proxying import GUEST_KEY, signed_request

MIB = 1 << 20
SLOW_UPLOADS, SLOW_DOWNLOADS, IDLE, CHUNK_STREAMS, FORMS = 500, 100, 1100, 100, 20
CONNECT_S, TICK_S, TIMEOUT_S = 10.0, 1.0, 30.0
FACTOR = 3.0  # the client's p99 may be so many times its quiet one
LEAST_S = 0.02  # quicker than this nobody needs
HEALTH_S = 0.1
MEMORY_MIB = 300  # beside the budget that is stated
REPLAY_MIB = 64
CLIENTS = f"""clients:
  - access_key: {GUEST_KEY.access_key}
    secret_key: {GUEST_KEY.secret_key}
    backend: pool
"""


# -- the attackers -------------------------------------------------------------------------------


def upload(host: str, length: int) -> bytes:
    """Return the beginning of an upload that never ends."""
    head = signed_request("PUT", "/b/slow", host=host, payload="UNSIGNED-PAYLOAD", key=GUEST_KEY)
    return head.replace(b"content-length: 0", b"content-length: %d" % length) + b"x" * 500


def chunk_stream(host: str) -> bytes:
    """Return the beginning of a signed chunk of 16 MiB."""
    headers = {"x-amz-decoded-content-length": str(16 * MIB), "content-encoding": "aws-chunked"}
    payload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    head = signed_request("PUT", "/b/chunks", host=host, payload=payload, headers=headers, key=GUEST_KEY)
    head = head.replace(b"content-length: 0", b"content-length: %d" % (16 * MIB + 200))
    return head + b"1000000;chunk-signature=" + b"0" * 64 + b"\r\n" + b"x" * 500


def form(host: str) -> bytes:
    """Return a form, by nobody, whose tags once took seconds to read."""
    tags = b"<Tagging>&#1;" + b"<![CDATA[" * 3_000
    body = b'--x\r\nContent-Disposition: form-data; name="key"\r\n\r\nk\r\n'
    body += b'--x\r\nContent-Disposition: form-data; name="tagging"\r\n\r\n' + tags + b"\r\n"
    body += b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--x--\r\n'
    head = f"POST /b HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def beginnings(host: str, scale: float) -> Iterator[bytes]:
    """Yield what each attacker sends first."""
    numbers = [round(scale * count) for count in (IDLE, SLOW_UPLOADS, SLOW_DOWNLOADS, CHUNK_STREAMS, FORMS)]
    idle, uploads, downloads, streams, forms = numbers
    for _ in range(idle):
        yield b""
    for number in range(uploads):
        yield upload(host, 100_000 if number % 2 else 64 * MIB)
    for _ in range(downloads):
        yield signed_request("GET", "/b/large", host=host, key=GUEST_KEY)
    for _ in range(streams):
        yield chunk_stream(host)
    for _ in range(forms):
        yield form(host)


def attack(port: int, scale: float) -> None:
    """Keep all connections under way, a byte a second each; who is thrown out comes back."""
    host = f"127.0.0.1:{port}"
    firsts = list(beginnings(host, scale))
    socks: dict[int, socket.socket | None] = dict.fromkeys(range(len(firsts)))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        until = time.monotonic() + TICK_S
        for number, first in enumerate(firsts):
            sock = socks[number]
            if sock is None:
                socks[number] = open_attack(port, first)
            elif not go_on(sock, is_upload=first.startswith(b"PUT")):
                sock.close()
                socks[number] = None
        time.sleep(max(until - time.monotonic(), 0.05))


def open_attack(port: int, first: bytes) -> socket.socket | None:
    """Open one connection; None when that cannot be now."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(CONNECT_S)
    try:
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        if first:
            sock.send(first)
    except OSError:
        sock.close()
        return None
    return sock


def go_on(sock: socket.socket, *, is_upload: bool) -> bool:
    """Send or take one byte; False when the connection has ended."""
    try:
        if is_upload:
            sock.send(b"x")
        return bool(sock.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


# -- the client ----------------------------------------------------------------------------------


def small_get(port: int) -> Callable[[], None]:
    """Return what asks for a small object, over a connection that is kept."""
    host = f"127.0.0.1:{port}"
    kept: list[socket.socket] = []

    def ask() -> None:
        if not kept:
            kept.append(socket.create_connection(("127.0.0.1", port), TIMEOUT_S))
        try:
            kept[0].sendall(signed_request("GET", "/b/small", host=host))
            answer = kept[0].recv(65536)
        except OSError:
            answer = b""
        if not answer.startswith(b"HTTP/1.1 200 "):
            kept.pop().close()
            raise ValueError(answer[:100])

    return ask


def health(port: int) -> None:
    """Ask for the health on a new connection."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as sock:
        sock.sendall(b"GET /-/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = sock.recv(1000)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise ValueError(answer[:100])


class Figures:
    """What the client saw during one phase."""

    def __init__(self) -> None:
        self.gets: list[float] = []
        self.healths: list[float] = []
        self.failures: list[str] = []
        self.rss_mib = 0.0

    def measure(self, port: int, pid: int, seconds: float) -> Figures:
        """Ask without a pause."""
        ask = small_get(port)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for _ in range(20):
                self._time(ask, self.gets)
            self._time(lambda: health(port), self.healths)
            self.rss_mib = max(self.rss_mib, usage(family(pid)).rss_kib / 1024)
        return self

    def _time(self, act: Callable[[], None], into: list[float]) -> None:
        started = time.monotonic()
        try:
            act()
        except (OSError, ValueError) as exc:
            self.failures.append(str(exc))
        into.append(time.monotonic() - started)


def p99(seconds: Sequence[float]) -> float:
    """Return what one in a hundred exceeds."""
    return sorted(seconds)[int(len(seconds) * 0.99)]


# -- both ----------------------------------------------------------------------------------------


@contextmanager
def helper(*words: str) -> Iterator[str]:
    """Run this module as another process; give its first line."""
    command = [sys.executable, "-m", "tests.bench.attack_proxy", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None:
            raise AssertionError("a pipe was asked for")
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def serve_node() -> None:
    """Be a node with a small and a large object until killed."""
    with FakeS3(2) as fake:
        fake.store.add("b", "small", b"x" * 1024)
        fake.store.add("b", "large", b"x" * (64 * MIB))
        sys.stdout.write(",".join(fake.endpoints) + "\n")
        sys.stdout.flush()
        while True:
            time.sleep(3600)


def run(*, seconds: float, scale: float, flags: Sequence[str] = ()) -> tuple[Figures, Figures, Figures]:
    """Measure before, during and after the attack."""
    with ExitStack() as stack:
        urls = stack.enter_context(helper("--node"))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        clients = directory / "clients.yaml"
        clients.write_text(CLIENTS)
        clients.chmod(0o600)
        environment = {
            "S3_POOL": urls,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }
        config = directory / "config.yaml"
        config.write_text(f"proxy: {{replay_memory: {REPLAY_MIB}MiB}}\n")
        words = ("--config", str(config), "--clients", str(clients), "--anonymous", "pass", *flags)
        port, process = stack.enter_context(proxy_process(environment, *words))
        quiet = Figures().measure(port, process.pid, seconds / 3)
        with helper("--attack", str(port), "--scale", str(scale)):
            time.sleep(2 * TICK_S)
            during = Figures().measure(port, process.pid, seconds)
        time.sleep(TICK_S)
        after = Figures().measure(port, process.pid, seconds / 3)
    return quiet, during, after


def judge(quiet: Figures, during: Figures) -> list[str]:
    """Return what is out of bounds."""
    bad = []
    if p99(during.gets) > max(FACTOR * p99(quiet.gets), LEAST_S):
        bad.append(f"p99 is more than {FACTOR:g} times the quiet one")
    if p99(during.healths) > HEALTH_S:
        bad.append(f"health takes more than {HEALTH_S * 1000:.0f} ms")
    if during.rss_mib > MEMORY_MIB + REPLAY_MIB:
        bad.append(f"memory is more than {MEMORY_MIB} MiB beside the {REPLAY_MIB} MiB that are stated")
    if during.failures:
        bad.append(f"{len(during.failures)} requests failed: {during.failures[0]}")
    return bad


def table(rows: Sequence[tuple[str, Figures]]) -> str:
    """Return the figures as text."""
    lines = [f"{'':8} {'GETs':>7} {'median ms':>10} {'p99 ms':>8} {'health p99 ms':>14} {'failed':>7} {'MiB':>6}"]
    for name, row in rows:
        median = sorted(row.gets)[len(row.gets) // 2]
        lines.append(
            f"{name:8} {len(row.gets):7} {median * 1000:10.1f} {p99(row.gets) * 1000:8.1f} "
            f"{p99(row.healths) * 1000:14.1f} {len(row.failures):7} {row.rss_mib:6.0f}"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="tests.bench.attack_proxy", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--scale", type=float, default=1.0, help="a part of all attackers")
    parser.add_argument("--node", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--attack", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help="more flags of the proxy, after --")
    options = parser.parse_args(arguments)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.node:
        serve_node()
    if options.attack:
        attack(options.attack, options.scale)
    quiet, during, after = run(seconds=options.seconds, scale=options.scale, flags=options.flags)
    sys.stdout.write(table([("quiet", quiet), ("attack", during), ("after", after)]))
    bad = judge(quiet, during)
    sys.stdout.writelines(f"out of bounds: {line}\n" for line in bad)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
