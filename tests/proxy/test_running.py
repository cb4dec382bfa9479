"""The proxy as a process: it listens, reloads, drains, and tells how it is."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.support.fake_s3 import Delay, Drip, FakeS3
from tests.support.proxying import GUEST_KEY, make_certificate, parse_answer, read_to_end, signed_request, stored
from tests.support.run_cli import CliRunner

DEADLINE_S = 30.0
LARGE = os.urandom(2 << 20)
TLS_FILE = str(Path(__file__).parents[1] / "support" / "tls" / "server.pem")
TLS_FLAGS = ("--tls-cert", TLS_FILE, "--tls-key", TLS_FILE)


class Process:
    """A running ``s3pool proxy``."""

    def __init__(self, child: subprocess.Popen[bytes], port: int, admin: str) -> None:
        self.child = child
        self.port = port
        self.admin = admin

    def talk(self, request: bytes, *, tls: ssl.SSLContext | None = None) -> bytes:
        """Send a request on a new connection and read to its end."""
        with self.connect(tls) as sock:
            sock.sendall(request)
            return read_to_end(sock)

    def connect(self, tls: ssl.SSLContext | None = None) -> socket.socket:
        """Open a connection."""
        sock = socket.create_connection(("127.0.0.1", self.port), DEADLINE_S)
        return tls.wrap_socket(sock, server_hostname="localhost") if tls else sock

    def signed(self, method: str, target: str, **options: Any) -> bytes:
        """Give a signed request that closes its connection."""
        return signed_request(method, target, host=f"127.0.0.1:{self.port}", close=True, **options)

    def ask_admin(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
        """Ask the admin listener."""
        try:
            with urlopen(Request(self.admin + path, method=method, headers=headers), timeout=DEADLINE_S) as answer:
                return answer.status, answer.read()
        except HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read()


@contextmanager
def running(run_cli: CliRunner, fake: FakeS3, *flags: str) -> Iterator[Process]:
    """Start a proxy and wait until it listens; ends it however the test ends."""
    # Of several processes one has the admin listener, and the others do not hear its number.
    port = free_port() if "--processes" in flags else 0
    words = ("--listen", "127.0.0.1:0", "--admin-listen", f"127.0.0.1:{port}", "--json")
    child = run_cli.start("proxy", *words, *flags, env=fake.environment)
    assert child.stderr is not None
    note: dict[str, Any] = {}
    while note.get("message") != "listening":
        line = child.stderr.readline()
        assert line, "the proxy ended before it listened"
        note = json.loads(line)
    try:
        yield Process(child, int(note["url"].rpartition(":")[2]), note["admin"])
    finally:
        end(child)


def end(child: subprocess.Popen[bytes]) -> None:
    """End a proxy that still runs; its own children end with it."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            child.kill()
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()
    child.wait()


def free_port() -> int:
    """Give a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def await_true(said: Callable[[], bool]) -> None:
    """Wait until something is so, or fail."""
    deadline = time.monotonic() + DEADLINE_S
    while not said():
        assert time.monotonic() < deadline, "it never came to be"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """Give a certificate for localhost and its key."""
    return make_certificate(tmp_path)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_admin_tells_how_it_is(run_cli: CliRunner, fake: FakeS3, processes: str) -> None:
    """Health, readiness, metrics and statistics, for one process or many."""
    with running(run_cli, fake, "--processes", processes) as proxy:
        assert 200 == parse_answer(proxy.talk(proxy.signed("GET", "/b/there"))).status
        assert 403 == parse_answer(proxy.talk(proxy.signed("GET", "/b/there", key=GUEST_KEY))).status
        stats = lambda: json.loads(proxy.ask_admin("/stats")[1])  # noqa: E731

        await_true(lambda: sum(stats()["requests"]["by_status"].values()) == 2)

        assert [(200, b"ok\n"), (200, b"ok\n")] == [proxy.ask_admin("/healthz"), proxy.ask_admin("/readyz")]
        assert (1, 1) == (stats()["requests"]["by_status"]["2xx"], stats()["requests"]["by_op"]["GetObject"])
        metrics = proxy.ask_admin("/metrics")[1].decode()
        assert 's3pool_proxy_auth_failures_total{reason="unknown_key"} 1.0' in metrics
        assert f's3pool_proxy_endpoint_up{{endpoint="{fake.endpoints[0]}"}} 1.0' in metrics
        for state, value in (("closed", 1), ("half-open", 0), ("open", 0)):
            assert f's3pool_proxy_endpoint_state{{endpoint="{fake.endpoints[0]}",state="{state}"}} {value}.0' in metrics
        assert f's3pool_proxy_endpoint_connections_total{{endpoint="{fake.endpoints[0]}",kind="stale"}} 0.0' in metrics
        asked = re.findall(r"^s3pool_proxy_endpoint_requests_total{.*} ([0-9.]+)$", metrics, re.MULTILINE)
        # On a slow machine a second node may have been asked beside the first.
        assert (3, True) == (len(asked), sum(map(float, asked)) >= 1.0)
        page = proxy.ask_admin("/stats", Accept="text/html")[1].decode()
        assert "2 requests since the start \u00b7 50.0 % refused (4xx)" in page
        assert (processes == "2", 3) == ("2 processes" in page, page.count("\u25cf up"))
        assert 404 == proxy.ask_admin("/nothing")[0]


@pytest.mark.parametrize("processes", ["1", "2"])
def test_drained_node_gets_nothing_until_it_is_back(run_cli: CliRunner, fake: FakeS3, processes: str) -> None:
    """A node can be taken out for repair without anybody noticing."""
    with running(run_cli, fake, "--processes", processes) as proxy:
        for url in fake.endpoints[:2]:
            assert 200 == proxy.ask_admin(f"/drain?endpoint={url}", "POST")[0]
        asked = lambda: [request.endpoint for request in fake.requests if request.op == "GetObject"]  # noqa: E731
        # Several processes learn of it a moment later.
        await_true(lambda: ask_until_only(proxy, fake, 2))
        assert {404} == {
            proxy.ask_admin(f"/drain{query}", "POST")[0] for query in ("?endpoint=http://other", "?endpoint=", "")
        }
        assert 403 == proxy.ask_admin(f"/undrain?endpoint={fake.endpoints[0]}", "POST", Origin="http://evil")[0]

        for url in fake.endpoints[:2]:
            proxy.ask_admin(f"/undrain?endpoint={url}", "POST")

        fake.forget()
        await_true(lambda: bool(proxy.talk(proxy.signed("GET", "/b/there"))) and len(set(asked())) == 3)


def ask_until_only(proxy: Process, fake: FakeS3, number: int) -> bool:
    """Ask several times and say whether one node alone was asked."""
    fake.forget()
    for _ in range(6):
        assert 200 == parse_answer(proxy.talk(proxy.signed("GET", "/b/there"))).status
    return {number} == {request.endpoint for request in fake.requests if request.op == "GetObject"}


@pytest.mark.parametrize("processes", ["1", "2"])
def test_download_finishes_after_sigterm(run_cli: CliRunner, fake: FakeS3, processes: str) -> None:
    """Whoever is being served is served to the end; nobody else gets in."""
    fake.store.add("b", "large", LARGE)
    fake.fault(Drip(block=1 << 18, pause_s=0.05), op="GetObject")
    with running(run_cli, fake, "--processes", processes) as proxy:
        with proxy.connect() as sock:
            sock.sendall(proxy.signed("GET", "/b/large"))
            first = sock.recv(1000)
            proxy.child.send_signal(signal.SIGTERM)
            answer = parse_answer(first + read_to_end(sock))

        assert LARGE == answer.body
        assert 143 == proxy.child.wait(DEADLINE_S)


def test_upload_finishes_after_sigterm(run_cli: CliRunner, fake: FakeS3) -> None:
    """A body that is half here is not thrown away."""
    with running(run_cli, fake) as proxy:
        request = proxy.signed("PUT", "/b/new", body=LARGE)
        with proxy.connect() as sock:
            sock.sendall(request[: 1 << 20])
            await_true(lambda: any(request.op == "PutObject" for request in fake.requests))
            proxy.child.send_signal(signal.SIGTERM)
            sock.sendall(request[1 << 20 :])
            answer = parse_answer(read_to_end(sock))

        assert (200, "close", LARGE) == (answer.status, answer.headers["connection"], stored(fake, "b", "new"))
        assert 143 == proxy.child.wait(DEADLINE_S)


def test_idle_connections_do_not_delay_the_end(run_cli: CliRunner, fake: FakeS3) -> None:
    """They have nothing to lose."""
    with running(run_cli, fake, "--idle-timeout", "1h") as proxy, proxy.connect() as sock:
        sock.sendall(b"GET /-/healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.recv(1000)

        proxy.child.send_signal(signal.SIGTERM)

        assert 143 == proxy.child.wait(DEADLINE_S)


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_exit_code_is_that_of_the_signal(
    run_cli: CliRunner, fake: FakeS3, processes: str, number: int, code: int
) -> None:
    """As for every other command."""
    with running(run_cli, fake, "--processes", processes) as proxy:
        proxy.child.send_signal(number)

        assert code == proxy.child.wait(DEADLINE_S)


def test_second_wish_to_end_is_obeyed_at_once(run_cli: CliRunner, fake: FakeS3) -> None:
    """Somebody is in a hurry, and says so a second time."""
    fake.fault(Delay(60), op="GetObject")
    with running(run_cli, fake, "--drain-timeout", "10m") as proxy, proxy.connect() as sock:
        sock.sendall(proxy.signed("GET", "/b/there"))
        await_true(lambda: any(request.op == "GetObject" for request in fake.requests))
        proxy.child.send_signal(signal.SIGTERM)
        # Copies that arrive together are one wish; a second wish comes clearly after the first.
        later = time.monotonic() + 1.5
        await_true(lambda: time.monotonic() > later)

        proxy.child.send_signal(signal.SIGTERM)

        assert 1 == proxy.child.wait(DEADLINE_S)


def test_sighup_reads_clients_anew(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """A key is handed out or taken back without a restart, and connections stay open."""
    clients = tmp_path / "clients.yaml"
    write_private(clients, "clients: []\n")
    with running(run_cli, fake, "--clients", str(clients)) as proxy, proxy.connect() as sock:
        before = parse_answer(proxy.talk(proxy.signed("GET", "/b/there", key=GUEST_KEY)))
        sock.sendall(b"GET /-/healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.recv(1000)
        entry = f"- {{access_key: {GUEST_KEY.access_key}, secret_key: {GUEST_KEY.secret_key}}}"
        write_private(clients, f"clients:\n{entry}\n")

        proxy.child.send_signal(signal.SIGHUP)

        await_true(lambda: 200 == parse_answer(proxy.talk(proxy.signed("GET", "/b/there", key=GUEST_KEY))).status)
        sock.sendall(proxy.signed("GET", "/b/there", key=GUEST_KEY))
        assert (403, 200) == (before.status, parse_answer(read_to_end(sock)).status)


def test_bad_reload_changes_nothing(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """A typing error at noon must not end the service."""
    clients = tmp_path / "clients.yaml"
    entry = f"- {{access_key: {GUEST_KEY.access_key}, secret_key: {GUEST_KEY.secret_key}}}"
    write_private(clients, f"clients:\n{entry}\n")
    with running(run_cli, fake, "--clients", str(clients)) as proxy:
        write_private(clients, "clients: {broken\n")
        proxy.child.send_signal(signal.SIGHUP)
        assert proxy.child.stderr is not None
        line = json.loads(proxy.child.stderr.readline())

        assert "the configuration was not reloaded" in line["message"]
        assert 200 == parse_answer(proxy.talk(proxy.signed("GET", "/b/there", key=GUEST_KEY))).status


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(text)


def test_tls_listener_takes_a_new_certificate(run_cli: CliRunner, fake: FakeS3, certificate: tuple[str, str]) -> None:
    """Certificates are short-lived, and the proxy is not."""
    old = ssl.create_default_context(cafile=certificate[0])
    with running(run_cli, fake, "--tls-cert", certificate[0], "--tls-key", certificate[1]) as proxy:
        first = parse_answer(proxy.talk(proxy.signed("GET", "/b/there"), tls=old))
        make_certificate(Path(certificate[0]).parent)
        new = ssl.create_default_context(cafile=certificate[0])

        proxy.child.send_signal(signal.SIGHUP)

        await_true(lambda: is_trusted(proxy, new))
        assert 200 == first.status
        assert not is_trusted(proxy, old)


def is_trusted(proxy: Process, tls: ssl.SSLContext) -> bool:
    """Say whether the listener's certificate is the one that is known."""
    try:
        return 200 == parse_answer(proxy.talk(proxy.signed("GET", "/b/there"), tls=tls)).status
    except ssl.SSLError:
        return False


def test_silent_tls_client_stops_nobody(run_cli: CliRunner, fake: FakeS3, certificate: tuple[str, str]) -> None:
    """The handshake happens in the connection's own thread."""
    tls = ssl.create_default_context(cafile=certificate[0])
    with running(run_cli, fake, "--tls-cert", certificate[0], "--tls-key", certificate[1]) as proxy, proxy.connect():
        assert 200 == parse_answer(proxy.talk(proxy.signed("GET", "/b/there"), tls=tls)).status


def test_access_log_tells_all_but_secrets(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """One JSON object a request; nothing in it would let anybody in."""
    log = tmp_path / "access.log"
    with running(run_cli, fake, "--access-log", str(log)) as proxy:
        request = proxy.signed("PUT", "/b/new", body=b"hello")
        proxy.talk(request)
        await_true(lambda: log.read_text().count("\n") == 1)

    record = json.loads(log.read_text())
    assert ("PutObject", "b", "new", 200, 1, "done") == tuple(
        record[name] for name in ("op", "bucket", "key", "status", "tries", "end")
    )
    assert len(request) == record["bytes_in"]
    signature = request.partition(b"Signature=")[2][:64].decode()
    assert signature not in log.read_text()


def test_dead_worker_is_replaced(run_cli: CliRunner, fake: FakeS3) -> None:
    """One process that dies must not take the service with it."""
    with running(run_cli, fake, "--processes", "2") as proxy:
        children = lambda: Path(f"/proc/{proxy.child.pid}/task/{proxy.child.pid}/children").read_text().split()  # noqa: E731
        if not Path(f"/proc/{proxy.child.pid}/task/{proxy.child.pid}/children").exists():
            pytest.skip("this kernel does not list a process's children")
        before = children()
        os.kill(int(before[1]), signal.SIGKILL)

        await_true(lambda: len(children()) == 3 and before[1] not in children())

        await_true(lambda: b" 200 OK" in proxy.talk(proxy.signed("GET", "/b/there")))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--auth", "open", "--listen", "0.0.0.0:0"), "--i-know-this-is-open"),
        (("--tls-cert", "x"), "--tls-cert and --tls-key belong together"),
        (("--tls-cert", "/nonexistent", "--tls-key", "/nonexistent"), "cannot use /nonexistent"),
        (
            ("--tls-cert", TLS_FILE, "--tls-key", TLS_FILE, "--tls-client-ca", "/no/ca"),
            "cannot use /no/ca: No such file",
        ),
        (("--tls-cert", TLS_FILE, "--tls-key", TLS_FILE, "--tls-client-ca", __file__), f"cannot use {__file__}: "),
        (("--clients", "/nonexistent"), "/nonexistent"),
        (("--sticky", "key"), "--sticky is no flag any more: set load_balancer.sticky in the configuration file"),
        (("--verify-body",), "--verify-body is no flag any more: set proxy.verify_body in the configuration file"),
        (("--tries=5",), "--tries is no flag any more: use --retries, or set proxy.tries"),
        (("--listen", "nonsense"), "--listen"),
        (("--access-log", "/nonexistent/log"), "cannot write the access log"),
    ],
)
def test_senseless_flags_are_refused(run_cli: CliRunner, fake: FakeS3, flags: tuple[str, ...], words: str) -> None:
    """One clear line and exit code 2, before anything listens."""
    done = run_cli("proxy", *flags, env=fake.environment)

    assert 2 == done.code
    assert words in done.err
    assert 1 == done.err.count("\n")


def test_port_in_use_is_one_clear_line(run_cli: CliRunner, fake: FakeS3) -> None:
    """The most common mistake of all."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = run_cli("proxy", "--listen", f"127.0.0.1:{other.getsockname()[1]}", env=fake.environment)

    assert 2 == done.code
    assert "cannot listen on" in done.err


def test_proxy_without_any_key_is_refused(run_cli: CliRunner, fake: FakeS3) -> None:
    """Nobody could enter."""
    done = run_cli("proxy", env={"S3_POOL": fake.environment["S3_POOL"]})

    assert 2 == done.code
    assert "nobody could enter" in done.err


def test_every_process_follows_a_name(run_cli: CliRunner, fake_s3: Callable[..., FakeS3]) -> None:
    """The workers probe no nodes, and look up the name themselves."""
    pytest.importorskip("dns", reason="the extra 'dns' is not installed")
    from tests.support.name_server import NameServer

    hosts = ["127.0.0.2", "127.0.0.3"]
    moving = fake_s3(hosts=hosts)
    moving.store.add("b", "there", b"x")
    with NameServer() as names:
        names.set("s3.test", "A", hosts[:1])
        pool = ("--endpoints", f"dns+http://s3.test:{moving.nodes[0].port}", "--resolver", names.address)
        with running(run_cli, moving, "--processes", "2", "--auth", "open", *pool) as proxy:
            statuses: set[str] = set()

            def asks_only(node: int) -> bool:
                since = len(moving.requests)
                for _ in range(20):
                    answer = proxy.talk(b"GET /b/there HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                    statuses.add(answer.split(b" ")[1].decode())
                return {node} == {request.endpoint for request in moving.requests[since:]}

            assert asks_only(0)
            names.set("s3.test", "A", hosts[1:])
            await_true(lambda: asks_only(1) and not moving.nodes[0].open_connections)

    assert {"200"} == statuses
