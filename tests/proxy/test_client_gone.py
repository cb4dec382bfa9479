"""A client that goes away while its request waits, wherever that is: the request is given up, and logged as such."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.proxy.test_running import await_true
from tests.support.fake_s3 import Delay, Drip, FakeS3, Hang, slow_down
from tests.support.proxying import (
    RunningProxy,
    arrived,
    checking_fake,
    parse_answer,
    signed_request,
    stored,
)

TLS_FILE = str(Path(__file__).parents[1] / "support" / "tls" / "server.pem")
BODY = b"b" * 100_000
LARGE = b"l" * (1 << 20)
PATIENCE_S = 300.0  # a test that has to wait for a time limit fails


class Case(NamedTuple):
    """A request, what makes it wait, and how many requests for it reach nodes."""

    method: str
    target: str
    arrivals: int
    body: bytes = b""
    fault: Any = None
    nodes: int = 1
    connections: int = 100


CASES = {
    "GET waits for an answer": Case("GET", "/b/there", 1, fault=Hang()),
    "GET waits for two nodes": Case("GET", "/b/there", 2, fault=Hang(), nodes=2),
    "PUT waits for an answer": Case("PUT", "/b/new", 1, BODY, Hang()),
    "PUT waits for one of two nodes": Case("PUT", "/b/new", 1, BODY, Hang(), nodes=2),
    "POST waits for an answer": Case("POST", "/b/new?uploads", 1, fault=Hang()),
    "POST waits for what the proxy asks": Case(
        "POST", "/b?delete", 0, b"<Delete><Object><Key>there</Key></Object></Delete>", Hang()
    ),
    "GET waits between tries": Case("GET", "/b/there", 1, fault=slow_down(25)),
    "PUT waits between tries": Case("PUT", "/b/new", 1, BODY, slow_down(25)),
    "GET waits for its body": Case("GET", "/b/large", 1, fault=Drip(block=300_000, pause_s=PATIENCE_S)),
    "GET waits for a slot": Case("GET", "/b/there", 0, connections=1),
    "PUT waits for a slot": Case("PUT", "/b/new", 0, BODY, connections=1),
}


@contextmanager
def waiting(case: Case, log: Path, **settings: Any) -> Iterator[tuple[FakeS3, RunningProxy]]:
    """Yield nodes of which none answers, and a proxy that waits for long."""
    with checking_fake(case.nodes) as fake:
        fake.store.add("b", "there", b"0123456789")
        fake.store.add("b", "large", LARGE)
        proxy = RunningProxy(
            fake.endpoints, read_timeout_s=PATIENCE_S, access_log=str(log), slot_wait=f"{PATIENCE_S:g}s", **settings
        )
        proxy.config = proxy.config.replace(max_connections=case.connections)
        proxy.proxy.reload()
        with proxy:
            assert 200 == proxy.ask("GET", "/b/there", close=True).status
            fake.requests.clear()
            yield fake, proxy


def gone(proxy: RunningProxy) -> int:
    """Return how many clients the metrics say are gone."""
    lines = proxy.proxy.metrics.render({}).decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("s3pool_proxy_client_gone_total{"))


@pytest.mark.parametrize("tls", [{}, {"tls_cert": TLS_FILE, "tls_key": TLS_FILE}], ids=["plain", "tls"])
@pytest.mark.parametrize("name", CASES)
def test_request_of_a_client_that_went_away_is_given_up(name: str, tls: dict[str, str], tmp_path: Path) -> None:
    """It held a place for minutes, took effect after all, and was logged as done."""
    case, log = CASES[name], tmp_path / "log"
    with waiting(case, log, **tls) as (fake, proxy):
        others = proxy.connect() if case.connections == 1 else None
        if others is not None:
            fake.fault(Hang(), op="HeadObject", times=0)
            others.sendall(proxy.signed("HEAD", "/b/there"))
            await_true(lambda: ["HeadObject"] == arrived(fake))
            fake.requests.clear()
        if case.fault is not None:
            fake.fault(case.fault, times=0)
        with proxy.connect() as sock:
            sock.sendall(proxy.signed(case.method, case.target, body=case.body))
            await_true(lambda: case.arrivals <= len(arrived(fake)))
            if case.target == "/b/large":
                sock.recv(1 << 20)
            end(sock)

        await_true(lambda: 1 == gone(proxy) and "client gone" == ends(log)[-1])

        assert case.arrivals == len(arrived(fake))
        assert stored(fake, "b", "new") is None
        if others is not None:
            end(others)
            await_true(lambda: 2 == gone(proxy))


def ends(log: Path) -> list[str]:
    """Return how the requests of an access log ended."""
    return [json.loads(line)["end"] for line in log.read_text().splitlines()]


def end(sock: socket.socket) -> None:
    """Close a connection as a process does that ends: no word of TLS, and nothing is read any more."""
    raw = socket.socket(fileno=sock.detach()) if isinstance(sock, ssl.SSLSocket) else sock
    raw.close()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_client_that_ended_its_side_alone_gets_its_answer(fake: FakeS3, version: str) -> None:
    """It has said all that it had to say, and reads."""
    fake.fault(Delay(1.6), op="PutObject")

    with RunningProxy(fake.endpoints, read_timeout_s=PATIENCE_S) as proxy:
        request = signed_request("PUT", "/b/new", host=proxy.host, body=BODY)
        received = proxy.talk(request.replace(b"HTTP/1.1", b"HTTP/" + version.encode()))

    assert (200, BODY) == (parse_answer(received, "PUT").status, stored(fake, "b", "new"))
    assert (version == "1.1") == received.startswith(b"HTTP/1.1 100 ")
