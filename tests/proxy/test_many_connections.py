"""Hundreds of clients that do nothing, or next to nothing, beside one that works.

S3POOL_TEST_IDLE makes them more: the tests take a thousand as well.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.bench.soak_proxy import Usage, usage
from tests.proxy.test_running import Process, await_true, running
from tests.support.fake_s3 import FakeS3
from tests.support.proxying import parse_answer
from tests.support.run_cli import CliRunner

IDLE = int(os.environ.get("S3POOL_TEST_IDLE", "150"))
SLOW = IDLE // 5
LIMIT_KIB = 100  # of memory for each connection
LARGE = os.urandom(8 << 20)
FLAGS = ("--max-clients", "4000", "--idle-timeout", "5m")
SECTION = "proxy: {header_timeout: 5m}\n"


@pytest.fixture
def proxy(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> Iterator[Process]:
    """Give a warm proxy and a large object behind it."""
    fake.store.add("b", "large", LARGE)
    config = tmp_path / "config.yaml"
    config.write_text(SECTION)
    with running(run_cli, fake, "--config", str(config), *FLAGS) as started:
        for _ in range(20):
            started.talk(started.signed("GET", "/b/there"))
        yield started


def settled(proxy: Process, base: Usage) -> bool:
    """Say whether threads and descriptors are back; a few connections to nodes may stay open."""
    now = usage([proxy.child.pid])
    return now.threads <= base.threads and now.descriptors <= base.descriptors + 3


def begin(proxy: Process, stack: ExitStack, request: bytes) -> socket.socket:
    """Open a connection that ends with the test, and send something."""
    sock = stack.enter_context(proxy.connect())
    sock.sendall(request)
    return sock


def judge(proxy: Process, base: Usage, count: int) -> None:
    """Hold the memory against the limit, and let a healthy client work."""
    extra = usage([proxy.child.pid]).rss_kib - base.rss_kib
    answer = parse_answer(proxy.talk(proxy.signed("GET", "/b/there")))
    assert extra / count <= LIMIT_KIB
    assert (200, b"0123456789" * 100) == (answer.status, answer.body)


def test_idle_connections_cost_little_and_stop_nobody(proxy: Process) -> None:
    """Clients keep their connections; what waits in the loop must stay small."""
    base = usage([proxy.child.pid])
    with ExitStack() as stack:
        for _ in range(IDLE):
            begin(proxy, stack, b"GET /-/healthz HTTP/1.1\r\nHost: x\r\n\r\n").recv(1000)

        judge(proxy, base, IDLE)

    await_true(lambda: settled(proxy, base))


def test_slow_heads_cost_little_and_stop_nobody(proxy: Process) -> None:
    """A head that never ends is the oldest trick."""
    base = usage([proxy.child.pid])
    with ExitStack() as stack:
        for _ in range(SLOW):
            begin(proxy, stack, b"GET /b/there HTTP/1.1\r\nHost: x\r\nX-A: ")
        await_true(lambda: usage([proxy.child.pid]).threads >= SLOW)

        judge(proxy, base, SLOW)

    await_true(lambda: settled(proxy, base))


def test_slow_readers_cost_little_and_stop_nobody(proxy: Process) -> None:
    """A client that takes a byte now and then holds a node, a thread and one small buffer."""
    base = usage([proxy.child.pid])
    with ExitStack() as stack:
        for _ in range(SLOW):
            begin(proxy, stack, proxy.signed("GET", "/b/large")).recv(1)

        judge(proxy, base, SLOW)  # the connection to its node included

    await_true(lambda: settled(proxy, base))


def test_slow_writers_cost_little_and_stop_nobody(proxy: Process) -> None:
    """What is larger than the replay buffer is not kept while it trickles in."""
    base = usage([proxy.child.pid])
    head = proxy.signed("PUT", "/b/slow", payload="UNSIGNED-PAYLOAD")
    with ExitStack() as stack:
        for _ in range(SLOW):
            begin(proxy, stack, head.replace(b"content-length: 0", b"content-length: 20000000") + b"slow")
        await_true(lambda: usage([proxy.child.pid]).threads >= SLOW)

        judge(proxy, base, SLOW)  # the connection to its node included

    await_true(lambda: settled(proxy, base))
