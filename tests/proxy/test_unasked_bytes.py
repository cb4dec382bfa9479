"""Bytes that a node sends on an idle connection: nobody's answer, whichever way the next request takes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.proxy.test_loop import HELLO, await_ways, ways
from tests.support.proxying import RunningProxy
from tests.support.scripted import ScriptedServer

EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


@contextmanager
def talkative() -> Iterator[tuple[RunningProxy, list[socket.socket]]]:
    """Give a proxy before a node that answers well, and the node's side of its connections."""
    socks: list[socket.socket] = []

    def answer(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        socks.append(sock)
        sock.sendall(HELLO)

    with ScriptedServer([answer]) as node, RunningProxy([str(node.endpoint)], probe="tcp") as proxy:
        yield proxy, socks


def unasked(proxy: RunningProxy) -> int:
    """Give the number of connections that were closed for such bytes."""
    return int(proxy.stats()["endpoints"][0]["connections"]["unasked"])


def test_short_way_takes_no_bytes_that_nobody_asked_for() -> None:
    """The loop sends over connections that were in use a moment ago."""
    with talkative() as (proxy, socks):
        proxy.ask("GET", "/b/first")
        assert b"hello" == proxy.ask("GET", "/b/key").body
        await_ways(proxy, loop=1)
        socks[-1].sendall(EVIL)

        assert b"hello" == proxy.ask("GET", "/b/key").body
        assert 1 == unasked(proxy)
        assert ways(proxy).get("unconnected") == 2  # the first of all, and this one


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [("GET", "/b?list-type=2", b""), ("PUT", "/b/key", b"x" * 100), ("DELETE", "/b/key", b"")],
)
def test_threads_take_no_bytes_that_nobody_asked_for(method: str, target: str, body: bytes) -> None:
    """What may be sent again was spared the look, because a dead connection would show."""
    with talkative() as (proxy, socks):
        proxy.ask(method, target, body=body)
        socks[-1].sendall(EVIL)

        assert b"hello" == proxy.ask(method, target, body=body).body
        assert 1 == unasked(proxy)


@pytest.mark.parametrize("extra", [EVIL, b"x", b"\r\n"])
def test_surplus_behind_an_answer_is_counted(extra: bytes) -> None:
    """It came together with the answer, so nobody has to look for it."""
    with ScriptedServer([HELLO + extra, HELLO]) as node, RunningProxy([str(node.endpoint)], probe="tcp") as proxy:
        answers = [proxy.ask("GET", "/b/key").body for _ in range(3)]

        assert [b"hello"] * 3 == answers
        assert 1 == unasked(proxy)
