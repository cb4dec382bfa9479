"""What all clients share: places at the nodes, connections, and how much each may have of the rest."""

from __future__ import annotations

import os
import re
import resource
import select
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from s3pool.errors import ConfigError
from s3pool.proxy import run
from s3pool.proxy.errors import S3ErrorResponse
from s3pool.proxy.limits import Limits, RateMeter, Rule
from tests.proxy.test_running import await_true, running
from tests.support.fake_s3 import FakeS3
from tests.support.proxying import GUEST_KEY, POOL_KEY, RunningProxy, checking_fake, parse_answer, stored
from tests.support.run_cli import CliRunner
from tests.support.upload_form import post, signed_form

GUEST = {"access_key": GUEST_KEY.access_key, "secret_key": GUEST_KEY.secret_key}
LARGE = os.urandom(12 << 20)
CONNECTIONS = 9  # to the one node: one is for probes
SMALL = b"0123456789"
TLS_FILE = str(Path(__file__).parents[1] / "support" / "tls" / "server.pem")


@contextmanager
def proxy_with(nodes: int = 1, **settings: Any) -> Iterator[tuple[FakeS3, RunningProxy]]:
    """Give a proxy with few connections to a node, for two clients."""
    entry = {**GUEST, **settings.pop("guest", {})}
    with checking_fake(nodes) as fake:
        fake.store.add("b", "large", LARGE)
        fake.store.add("b", "small", SMALL)
        proxy = RunningProxy(fake.endpoints, clients=[entry], read_timeout_s=20.0, slot_wait="300ms", **settings)
        proxy.config = proxy.config.replace(max_connections=CONNECTIONS)
        proxy.proxy.reload()
        with proxy:
            yield fake, proxy


def begin(proxy: RunningProxy, stack: ExitStack, request: bytes) -> socket.socket:
    """Send something on a connection that ends with the test and takes next to nothing."""
    sock = stack.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(20)
    sock.connect(("127.0.0.1", proxy.port))
    sock.sendall(request)
    return sock


def seats(proxy: RunningProxy) -> int:
    """Return the number of places that are taken."""
    return proxy.proxy.opened.gateway.forwarder.slots.taken


# -- places at the nodes -------------------------------------------------------------------------


def test_slow_readers_of_one_client_leave_places_to_others() -> None:
    """A hundred of them blocked everybody for a minute, and then made it 503."""
    with proxy_with() as (_, proxy), ExitStack() as stack:
        for _ in range(4 * CONNECTIONS):
            begin(proxy, stack, proxy.signed("GET", "/b/large", key=GUEST_KEY))
        await_true(lambda: seats(proxy) >= 4)
        answers = [proxy.ask("GET", "/b/small") for _ in range(3)]
        refused = proxy.ask("GET", "/b/small", key=GUEST_KEY)

        assert [SMALL] * 3 == [answer.body for answer in answers]
        assert (503, "SlowDown", "1") == (refused.status, refused.code, refused.headers["retry-after"])
        text = proxy.proxy.metrics.render({}).decode()
        assert re.search(rf'limited_total{{bucket="",client="{GUEST_KEY.access_key}",limit="slots"}} [1-9]', text)


def test_slow_writers_of_one_client_leave_places_to_others() -> None:
    """Their bodies are too large to be kept."""
    with proxy_with(replay_buffer=1000) as (_, proxy), ExitStack() as stack:
        head = proxy.signed("PUT", "/b/slow", payload="UNSIGNED-PAYLOAD", key=GUEST_KEY)
        for _ in range(4 * CONNECTIONS):
            begin(proxy, stack, head.replace(b"content-length: 0", b"content-length: 9000000") + b"slow")
        await_true(lambda: seats(proxy) >= 4)

        assert SMALL == proxy.ask("GET", "/b/small").body
        assert 200 == proxy.ask("PUT", "/b/new", body=b"new").status


def test_small_bodies_are_read_before_a_node_is_asked() -> None:
    """However slowly they come, they hold nothing that others need."""
    with proxy_with() as (fake, proxy), ExitStack() as stack:
        head = proxy.signed("PUT", "/b/slow", payload="UNSIGNED-PAYLOAD")
        head = head.replace(b"content-length: 0", b"content-length: 1000")
        socks = [begin(proxy, stack, head + b"x" * 999) for _ in range(4 * CONNECTIONS)]
        await_true(lambda: len(socks) <= proxy.proxy.connections)
        answer = proxy.ask("GET", "/b/small")
        await_true(lambda: seats(proxy) == 0)
        before = fake.ops().count("PutObject")
        socks[0].sendall(b"x")
        status = socks[0].recv(100)

        assert (SMALL, 0) == (answer.body, before)
        assert status.startswith(b"HTTP/1.1 200 ")
        assert 1000 == len(stored(fake, "b", "slow") or b"")


def test_places_come_back() -> None:
    """After answers, errors, and clients that went away."""
    with proxy_with() as (_, proxy):
        with ExitStack() as stack:
            for _ in range(3):
                begin(proxy, stack, proxy.signed("GET", "/b/large"))
            await_true(lambda: seats(proxy) == 3)
        for method, target in [("GET", "/b/small"), ("GET", "/b/none"), ("HEAD", "/b/small"), ("DELETE", "/b/x")]:
            proxy.ask(method, target)

        await_true(lambda: seats(proxy) == 0)


def test_client_that_takes_too_little_is_dropped() -> None:
    """It held a node and a thread for as long as it took a byte a minute."""
    with proxy_with(least_speed="100MiB", speed_window="300ms") as (_, proxy), ExitStack() as stack:
        sock = begin(proxy, stack, proxy.signed("GET", "/b/large"))
        await_true(lambda: seats(proxy) == 1)
        stopped = threading.Event()

        def sip() -> None:
            while not stopped.wait(0.02):
                try:
                    sock.recv(4096)
                except OSError:
                    return

        sipping = threading.Thread(target=sip, daemon=True)
        sipping.start()
        await_true(lambda: seats(proxy) == 0)
        stopped.set()
        sipping.join()


# -- memory --------------------------------------------------------------------------------------


def chunk_head(proxy: RunningProxy, size: int) -> bytes:
    """Return the head of an upload that is one signed chunk, and the chunk's line."""
    headers = {"x-amz-decoded-content-length": str(size), "content-encoding": "aws-chunked"}
    payload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    head = proxy.signed("PUT", "/b/chunks", payload=payload, headers=headers)
    head = head.replace(b"content-length: 0", b"content-length: %d" % (size + 1000))
    return head + b"%x;chunk-signature=" % size + b"0" * 64 + b"\r\n"


@pytest.mark.parametrize("kind", ["chunks", "bodies", "without a length"])
def test_memory_grows_with_what_has_arrived(kind: str) -> None:
    """500 bytes on each of 100 connections took 1.7 GiB."""
    size = 16 << 20
    with proxy_with() as (_, proxy), ExitStack() as stack:
        plain = proxy.signed("PUT", "/b/k", payload="UNSIGNED-PAYLOAD")
        head = {
            "chunks": chunk_head(proxy, size),
            "bodies": plain.replace(b"content-length: 0", b"content-length: %d" % size),
            "without a length": plain.replace(b"content-length: 0", b"transfer-encoding: chunked") + b"1000000\r\n",
        }[kind]
        for _ in range(4):
            begin(proxy, stack, head + b"x" * 500)
        sock = begin(proxy, stack, head)
        sock.sendall(b"x" * 1_000_000)
        await_true(lambda: proxy.stats()["replay_memory"]["used"] > 400_000)

        assert proxy.stats()["replay_memory"]["used"] < 3_000_000
    assert 0 == proxy.stats()["replay_memory"]["used"]


def test_budget_is_of_all_buffers_together() -> None:
    """Who finds it used up is told to come again, or goes without a second try."""
    with proxy_with(replay_memory="1MiB") as (fake, proxy), ExitStack() as stack:
        sock = begin(proxy, stack, chunk_head(proxy, 4 << 20))
        sock.sendall(b"x" * (3 << 20))
        refused = parse_answer(sock.recv(1000))
        body = os.urandom(3 << 20)
        answer = proxy.ask("PUT", "/b/plain", body=body)

        assert (503, "SlowDown") == (refused.status, refused.code)
        assert (200, body) == (answer.status, stored(fake, "b", "plain"))


# -- connections ---------------------------------------------------------------------------------


def test_idle_connections_make_room() -> None:
    """A thousand without a key ended the service, the health check included."""
    with proxy_with(max_clients=20) as (_, proxy), ExitStack() as stack:
        for number in range(90):
            begin(proxy, stack, b"GET / HTTP/1.1\r\nHost: " if number % 2 else b"")
            if not number % 30:
                assert SMALL == proxy.ask("GET", "/b/small").body
        healthy = parse_answer(proxy.talk(b"GET /-/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))

        assert (200, b"ok\n") == (healthy.status, healthy.body)
        assert SMALL == proxy.ask("GET", "/b/small").body
        assert proxy.proxy.connections <= 20 + 32


def test_burst_of_connections_is_no_reason_to_refuse_one() -> None:
    """Those that are told to make room need a moment: a client that came then was told 503."""
    with proxy_with(max_clients=20) as (_, proxy), ExitStack() as stack:
        socks = [begin(proxy, stack, b"") for _ in range(600)]

        assert SMALL == proxy.ask("GET", "/b/small").body
        assert {b""} == {sock.recv(12) for sock in socks[:400]}  # and not HTTP/1.1 503


def test_handshakes_that_never_begin_make_room() -> None:
    """With TLS a connection without one holds a thread, too."""
    tls = dict.fromkeys(("tls_cert", "tls_key"), TLS_FILE)
    with proxy_with(max_clients=20, **tls) as (_, proxy), ExitStack() as stack:
        for _ in range(60):
            begin(proxy, stack, b"")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        for target in (b"/-/healthz", b"/-/healthz"):
            with socket.create_connection(("127.0.0.1", proxy.port), 20) as sock, context.wrap_socket(sock) as secured:
                secured.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert b"200 OK" in secured.recv(1000)


def test_connection_of_a_known_client_stays_before_strangers() -> None:
    """A flood of new connections closed those that were kept by clients at work: the longest idle ones."""
    with proxy_with(max_clients=4) as (_, proxy), ExitStack() as stack:
        kept = begin(proxy, stack, proxy.signed("GET", "/b/small"))
        answer = kept.recv(10_000)
        for _ in range(40):
            begin(proxy, stack, b"")
        await_true(lambda: proxy.proxy.connections <= 5)
        kept.sendall(proxy.signed("GET", "/b/small"))

        assert answer.startswith(b"HTTP/1.1 200 ")
        assert kept.recv(10_000).startswith(b"HTTP/1.1 200 ")


def test_health_is_told_when_all_are_at_work() -> None:
    """Nobody else gets in, and is told so."""
    with proxy_with(max_clients=3) as (_, proxy), ExitStack() as stack:
        for _ in range(3):
            begin(proxy, stack, proxy.signed("GET", "/b/large"))
        await_true(lambda: seats(proxy) == 3)
        healthy = parse_answer(proxy.talk(b"GET /-/healthz HTTP/1.1\r\nHost: x\r\n\r\n"))
        refused = proxy.ask("GET", "/b/small")

        assert (200, 503, "1") == (healthy.status, refused.status, refused.headers["retry-after"])


def at_work(proxy: RunningProxy) -> int:
    """Return how many requests have begun and not ended."""
    found = re.search(r"s3pool_proxy_in_flight\S* ([0-9]+)", proxy.proxy.metrics.render({}).decode())
    return int(found[1]) if found else 0


@pytest.mark.parametrize(
    ("framing", "headers", "kind"),
    [
        (b"content-length: 1000", {}, "bodies"),
        (b"content-length: 9000000", {}, "slots"),
        (b"content-length: 1000", {"expect": "100-continue"}, "bodies"),
        (b"transfer-encoding: chunked", {}, "bodies"),
    ],
)
def test_slow_bodies_of_one_client_leave_connections_to_others(
    framing: bytes, headers: dict[str, str], kind: str
) -> None:
    """All that there are would be too many, of small bodies as well.

    A small body or one of unknown length is read before a node is asked: the bound of bodies under way (12 of 16
    connections) ends that. A large one passes through to a node, and of their connections there are fewer (6 of 8).
    """
    with proxy_with(max_clients=16) as (_, proxy), ExitStack() as stack:
        for _ in range(20):
            head = proxy.signed("PUT", "/b/slow", payload="UNSIGNED-PAYLOAD", key=GUEST_KEY, headers=headers)
            before = at_work(proxy)
            sock = begin(proxy, stack, head.replace(b"content-length: 0", framing))
            await_true(lambda now=before, sock=sock: at_work(proxy) > now or bool(select.select([sock], [], [], 0)[0]))

        for _ in range(3):
            assert SMALL == proxy.ask("GET", "/b/small").body
            assert 200 == proxy.ask("PUT", "/b/new", body=b"new").status
        await_true(lambda: ("", kind) in limited(proxy))


def test_limit_of_descriptors_is_raised_at_the_start(run_cli: CliRunner, fake: FakeS3) -> None:
    """The usual soft limit of 1,024 is for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        with running(run_cli, fake) as proxy:
            limits = Path(f"/proc/{proxy.child.pid}/limits").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert re.search(rf"Max open files +{hard} ", limits)


def test_descriptors_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes, health and refusals have theirs, however many clients there are."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    seats = run.slots_within(400)
    clients = run.clients_within(5000, seats)

    assert 100 < seats < 130
    assert clients + run.PER_SLOT * seats + run.OWN <= 1024
    assert clients >= 500


# -- limits --------------------------------------------------------------------------------------


def limited(proxy: RunningProxy) -> dict[tuple[str, str], int]:
    """Return how many requests were beyond which limit of the guest."""
    text = proxy.proxy.metrics.render({}).decode()
    found = re.findall(r'limited_total{bucket="(.*)",client="(\w+)",limit="(\w+)"} ([0-9]+)', text)
    return {(bucket, limit): int(count) for bucket, client, limit, count in found if client == GUEST_KEY.access_key}


def test_requests_per_second_are_limited() -> None:
    """The guest's; nobody else's."""
    with proxy_with(guest={"limits": {"requests": "1/s"}}) as (_, proxy):
        started = time.monotonic()
        answers = [proxy.ask("GET", "/b/small", key=GUEST_KEY) for _ in range(10)]
        seconds = time.monotonic() - started
        others = {proxy.ask("GET", "/b/small", key=POOL_KEY).status for _ in range(10)}

        good = sum(answer.status == 200 for answer in answers)
        assert 1 <= good <= 1 + seconds
        refused = next(answer for answer in answers if answer.status != 200)
        assert (503, "SlowDown", "1") == (refused.status, refused.code, refused.headers["retry-after"])
        assert {200} == others
        assert {("", "requests"): 10 - good} == limited(proxy)


def test_requests_at_once_are_limited() -> None:
    """And come back with their ends."""
    with proxy_with(guest={"limits": {"in_flight": 2}}) as (_, proxy):
        with ExitStack() as stack:
            for _ in range(2):
                begin(proxy, stack, proxy.signed("GET", "/b/large", key=GUEST_KEY))
            await_true(lambda: seats(proxy) == 2)
            assert 503 == proxy.ask("GET", "/b/small", key=GUEST_KEY).status
        await_true(lambda: seats(proxy) == 0)

        assert SMALL == proxy.ask("GET", "/b/small", key=GUEST_KEY).body


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_bytes_per_second_are_limited(method: str) -> None:
    """A transfer is held back, not broken off; it takes as long as its bytes allow. What is posted is a form."""
    with proxy_with(guest={"limits": {"bytes": "1MiB/s"}}) as (fake, proxy):
        body = os.urandom(1 << 20)
        fake.store.add("b", "million", body if method == "GET" else b"")
        started = time.monotonic()
        if method == "POST":
            answer = post(proxy, signed_form({"key": "million"}, key=GUEST_KEY), body)
        else:
            answer = proxy.ask(method, "/b/million", key=GUEST_KEY, body=body if method == "PUT" else b"")
        seconds = time.monotonic() - started

        assert answer.status in (200, 204)
        assert body == (answer.body if method == "GET" else stored(fake, "b", "million"))
        assert seconds > 0.7


def test_buckets_have_limits_of_their_own() -> None:
    """Each that matches the pattern, for one client or for all."""
    settings = {"guest": {"bucket_limits": {"lo*": {"requests": 0.1}}}, "bucket_limits": {"all": {"requests": 0.1}}}
    with proxy_with(**settings) as (fake, proxy):
        for bucket in ("logs", "lots", "other", "all"):
            fake.store.add(bucket, "k", SMALL)
        guest = {bucket: [proxy.ask("GET", f"/{bucket}/k", key=GUEST_KEY).status for _ in range(2)]
                 for bucket in ("logs", "lots", "other")}  # fmt: skip
        pool = [proxy.ask("GET", "/logs/k").status for _ in range(2)]
        both = [proxy.ask("GET", "/all/k", key=key).status for key in (GUEST_KEY, POOL_KEY)]
        # RGW takes these for the same bucket: of no tenant, and of the key's own.
        tenants = {proxy.ask("GET", f"/{name}/k", key=GUEST_KEY).status for name in (":logs", "acme:logs", "%3Alogs")}

        assert {503} == tenants
        assert {"logs": [200, 503], "lots": [200, 503], "other": [200, 200]} == guest
        assert ([200, 200], [200, 503]) == (pool, both)
        assert {("lo*", "requests"): 5} == limited(proxy)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"requests": "fast"}, "limits: requests must be a rate such as 100/s, not 'fast'"),
        ({"requests": -1}, "limits: requests must be a rate such as 100/s, not -1"),
        ({"bytes": True}, "limits: bytes must be a rate such as 10MiB/s, not True"),
        ({"in_flight": 0}, "limits: in_flight must be a whole number from 1 on"),
        ({"speed": 1}, "limits: unknown key speed; there are: requests, bytes, in_flight"),
        ([], "limits: must be a map with requests, bytes, in_flight"),
    ],
)
def test_unfit_limits_are_one_line(limits: object, words: str) -> None:
    """Before anything starts."""
    with pytest.raises(ConfigError) as caught:
        RunningProxy(["http://127.0.0.1:1"], clients=[{**GUEST, "limits": limits}])

    assert str(caught.value).endswith(words)


RATE = 400.0
SECONDS = 2.0


def hammer(meter: RateMeter, number: int, results: int) -> None:
    """Ask for as much as can be had, as one process of several, and tell how much that was."""
    meter.be_process(number)
    rule = Rule("client", Limits(requests=RATE, in_flight=1000), "")
    until, count = time.monotonic() + SECONDS, 0
    while time.monotonic() < until:
        try:
            meter.admit([rule]).end()
            count += 1
        except S3ErrorResponse:
            continue
    os.write(results, f"{count}\n".encode())
    os._exit(0)


def test_rates_are_exact_over_processes() -> None:
    """To five in a hundred, whoever gets how much of it."""
    meter = RateMeter()
    receiving, sending = os.pipe()
    started = time.monotonic()
    children = []
    for number in range(3):
        child = os.fork()
        if not child:
            hammer(meter, number, sending)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    seconds = time.monotonic() - started
    os.close(sending)
    with os.fdopen(receiving) as lines:
        total = sum(int(line) for line in lines)

    assert 0.95 * RATE * SECONDS <= total <= 1.05 * RATE * max(seconds, SECONDS)


def test_bytes_are_exact() -> None:
    """With a clock of the test's own: what is charged is paid off at the rate."""
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    meter = RateMeter(now=lambda: now[0], sleep=sleep)
    rule = Rule("client", Limits(bytes=1000.0), "")
    for _ in range(100):
        ticket = meter.admit([rule])
        ticket.charge(500)
        ticket.end()

    assert 50.0 == pytest.approx(now[0] - 100.0, rel=0.05)


def test_dead_process_leaves_nothing_in_flight() -> None:
    """Its number is taken by the one that is started in its place."""
    meter = RateMeter()
    rule = Rule("client", Limits(in_flight=1), "")
    meter.be_process(3)
    meter.admit([rule])
    meter.be_process(3)

    meter.admit([rule]).end()


def test_limit_is_one_for_all_processes(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """Whichever of them a connection comes to; a reload gives nothing away. The next request is due in days."""
    clients = tmp_path / "clients.yaml"
    clients.write_text(
        f"clients:\n  - access_key: {GUEST_KEY.access_key}\n    secret_key: {GUEST_KEY.secret_key}\n"
        f"    limits: {{requests: 0.000001/s}}\n"
    )
    clients.chmod(0o600)
    with running(run_cli, fake, "--processes", "3", "--clients", str(clients)) as proxy:
        statuses = []
        for number in range(60):
            answer = parse_answer(proxy.talk(proxy.signed("GET", "/b/there", key=GUEST_KEY)))
            statuses.append(answer.status)
            if number == 30:
                proxy.child.send_signal(signal.SIGHUP)

    assert [200, *[503] * 59] == statuses
