"""Reads in the event loop, and whatever makes it leave one to a thread: the client cannot tell."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from s3pool.pool import node
from s3pool.proxy.event_loop import ThreadCache
from tests.proxy.test_running import await_true
from tests.support.fake_s3 import FakeS3
from tests.support.proxying import RunningProxy, parse_answer, read_to_end
from tests.support.scripted import BROKEN, OK, SLOW_DOWN, ScriptedServer, Turn

TIMEOUT_S, PATIENCE_S = 20.0, 60.0
PARKED = 300
LARGE = bytes(range(256)) * 400
SHORT = b"0123456789" * 1000
HELLO = b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 5\r\n\r\nhello'


def answer_of(body: bytes) -> bytes:
    """Give a node's whole answer."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@contextmanager
def warm(*turns: Turn | None, close_after: tuple[int, ...] = (), **settings: Any) -> Iterator[RunningProxy]:
    """Give a proxy that knows its client and holds a connection to its node, which answers by the turns."""
    with (
        ScriptedServer((OK, *turns), close_after=close_after) as node,
        RunningProxy([str(node.endpoint)], probe="tcp", **settings) as proxy,
    ):
        proxy.node = node  # type: ignore[attr-defined]
        assert 200 == proxy.ask("GET", "/b/first").status
        await_true(lambda: 2 == node.connections)  # this one, and the probe's
        yield proxy


def node_of(proxy: RunningProxy) -> ScriptedServer:
    """Give the node behind a warm proxy."""
    return proxy.node  # type: ignore[attr-defined, no-any-return]


class Late:
    """A node's answer that comes when ``goes_on`` is set, but for its first bytes."""

    def __init__(self, answer: bytes = HELLO, *, begin: int = 0) -> None:
        self.answer, self.begin, self.goes_on = answer, begin, threading.Event()

    def __call__(self, sock: socket.socket) -> None:
        """Answer on a connection."""
        sock.sendall(self.answer[: self.begin])
        self.goes_on.wait(TIMEOUT_S)
        sock.sendall(self.answer[self.begin :])


def opened(proxy: RunningProxy) -> int:
    """Give the number of connections that were opened for requests."""
    return node_of(proxy).connections - 1


@contextmanager
def client_of(proxy: RunningProxy, *, rcvbuf: int = 0) -> Iterator[socket.socket]:
    """Give a connection to a proxy."""
    with socket.socket() as sock:
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        sock.settimeout(TIMEOUT_S)
        sock.connect(("127.0.0.1", proxy.port))
        yield sock


def ways(proxy: RunningProxy) -> dict[str, int]:
    """Give how many requests the loop served, and how many it gave away for which reason."""
    text = proxy.proxy.metrics.render({}).decode()
    found = dict(re.findall(r'^s3pool_proxy_handovers_total\{reason="(\w+)"\} ([0-9]+)', text, re.MULTILINE))
    found["loop"] = re.findall(r"^s3pool_proxy_loop_requests_total ([0-9]+)", text, re.MULTILINE)[0]
    return {name: int(count) for name, count in found.items() if int(count)}


def await_ways(proxy: RunningProxy, **expected: int) -> None:
    """Wait until requests went these ways; the first one of a warm proxy found no connection to the node."""
    wanted = {"unconnected": 1, **expected}
    await_true(lambda: wanted == ways(proxy))


def read_answers(sock: socket.socket, *ends: bytes) -> bytes:
    """Read until each of the ends came, one behind the other."""
    received = b""
    for end in ends:
        begin = len(received)
        while end not in received[begin:]:
            piece = sock.recv(1 << 16)
            assert piece, received
            received += piece
    return received


# -- what the loop does itself -------------------------------------------------------------------


def test_everyday_requests_need_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other on one connection, over one connection to the node, however slow the machine is."""
    monkeypatch.setattr(
        node,
        "DELAYS",
        node.Delays(proven_s=PATIENCE_S, unproven_s=PATIENCE_S, early_s=PATIENCE_S, suspect_s=PATIENCE_S),
    )
    with warm(HELLO, read_timeout_s=PATIENCE_S) as proxy:
        for _ in range(3):
            assert b"hello" == proxy.ask("GET", "/b/key").body
        with client_of(proxy) as sock:
            for _ in range(3):
                sock.sendall(proxy.signed("GET", "/b/key"))
                assert read_answers(sock, b"hello").startswith(b"HTTP/1.1 200 OK\r\n")

        await_ways(proxy, loop=6)
        assert (7, 1) == (len(node_of(proxy).requests), opened(proxy))


@pytest.mark.parametrize(
    ("method", "answer", "status", "body"),
    [
        ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", 304, b""),
        ("GET", b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone", 404, b"none"),
        ("GET", b"HTTP/1.1 412 Failed\r\nContent-Length: 2\r\n\r\nno", 412, b"no"),
        ("GET", b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 1-2/9\r\nContent-Length: 2\r\n\r\nok", 206, b"ok"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b""),
        ("GET", answer_of(SHORT), 200, SHORT),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n", 200, b""),
        ("HEAD", b"HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\n", 404, b""),
    ],
)
def test_short_answers_pass_whole(method: str, answer: bytes, status: int, body: bytes) -> None:
    """Each with the length that the node said, and the connections go on."""
    with warm(answer, HELLO) as proxy:
        received = proxy.talk(proxy.signed(method, "/b/key"))
        said = parse_answer(received, method)
        after = proxy.ask("GET", "/b/key")

        lengths = re.findall(rb"Content-Length: \d+", answer)
        assert (status, body, b"") == (said.status, said.body, said.rest)
        assert (lengths, b"hello") == (re.findall(rb"Content-Length: \d+", received), after.body)
        await_ways(proxy, loop=2)
        assert 1 == opened(proxy)


@pytest.mark.parametrize("cut", [1, 20, len(HELLO) - 5, len(HELLO) - 1])
def test_answer_in_two_pieces_is_waited_for(cut: int) -> None:
    """A segment may end anywhere."""

    def in_two(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(HELLO[:cut])
        sock.sendall(HELLO[cut:])

    with warm(in_two) as proxy:
        assert b"hello" == proxy.ask("GET", "/b/key").body
        await_ways(proxy, loop=1)


def test_surplus_of_a_node_is_nobodys_answer() -> None:
    """The next client must not get what was left over."""
    with warm(HELLO + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", HELLO) as proxy:
        first, second = proxy.ask("GET", "/b/key"), proxy.ask("GET", "/b/key")

        assert (b"hello", b"", b"hello") == (first.body, first.rest, second.body)
        assert 2 == opened(proxy)


def test_log_of_the_loop_is_the_log_of_a_thread(tmp_path: Path) -> None:
    """But for times and names of requests."""
    with warm(OK, access_log=str(tmp_path / "log")) as proxy:
        proxy.ask("GET", "/b/first")
        await_ways(proxy, loop=1)
        await_true(lambda: 2 == (tmp_path / "log").read_text().count("\n"))

    own = {"time", "auth_ms", "first_byte_ms", "total_ms", "request_id"}
    thread, loop = (json.loads(line) for line in (tmp_path / "log").read_text().splitlines())
    assert {name: thread[name] for name in thread.keys() - own} == {name: loop[name] for name in loop.keys() - own}
    assert (1, "done", 200) == (loop["tries"], loop["end"], loop["status"])


def test_parked_connections_need_no_threads() -> None:
    """Clients keep their connections by the hundred."""
    before = set(threading.enumerate())
    with warm(HELLO, max_clients=2 * PARKED) as proxy, ExitStack() as stack:
        socks = [stack.enter_context(client_of(proxy)) for _ in range(PARKED)]
        for sock in (socks[0], socks[-1]):
            sock.sendall(proxy.signed("GET", "/b/key"))
            read_answers(sock, b"hello")

        await_true(lambda: PARKED == proxy.proxy.connections)
        await_ways(proxy, loop=2)
        serving = [thread for thread in set(threading.enumerate()) - before if thread.name == "s3pool-proxy"]
        assert len(serving) <= 1  # the one that knew the client first


# -- what it leaves to a thread ------------------------------------------------------------------


def interim(sock: socket.socket) -> None:
    """Send a 100 before the answer, as some servers do unasked."""
    sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO)


def reset(sock: socket.socket) -> None:
    """Break the connection."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def hang_up(sock: socket.socket) -> None:
    """End the connection without a word."""
    sock.shutdown(socket.SHUT_RDWR)


def hang_up_halfway(sock: socket.socket) -> None:
    """End the connection within the answer."""
    sock.sendall(HELLO[:-2])
    sock.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("turn", "body"),
    [
        (answer_of(LARGE), LARGE),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (interim, b"hello"),
        (reset, b"hello"),
        (hang_up, b"hello"),
        (BROKEN, b"hello"),
        (SLOW_DOWN, b"hello"),
        (b"nonsense\r\n\r\n", b"hello"),
        (b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 17_000 + b"\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    ],
    ids=["large", "chunked", "interim", "reset", "ended", "500", "503", "nonsense", "long head"],
)
def test_thread_goes_on_with_an_odd_answer(turn: Turn, body: bytes) -> None:
    """From where the loop stopped: the client gets one whole answer, and the next request its own."""
    with warm(turn, HELLO) as proxy:
        received = proxy.talk(proxy.signed("GET", "/b/key"), proxy.signed("GET", "/b/other"))
        first = parse_answer(received)
        second = parse_answer(first.rest)

        assert (200, body) == (first.status, first.body)
        assert (200, b"hello", b"") == (second.status, second.body, second.rest)


def test_answer_that_is_cut_is_an_error() -> None:
    """Nothing of it was sent, so the client can be told, and goes on."""
    with warm(hang_up_halfway, HELLO, HELLO, HELLO) as proxy:
        first = parse_answer(proxy.talk(proxy.signed("GET", "/b/key"), proxy.signed("GET", "/b/other")))

        assert (502, "BadGateway", b"hello") == (first.status, first.code, parse_answer(first.rest).body)


@pytest.mark.parametrize("turn", [answer_of(LARGE), hang_up, BROKEN], ids=["large", "ended", "500"])
def test_reason_is_the_answer(turn: Turn) -> None:
    """Whoever watches the proxy sees why threads are needed."""
    with warm(turn, HELLO) as proxy:
        assert 200 == proxy.ask("GET", "/b/key").status

        await_ways(proxy, answer=1)


def test_client_of_long_answers_keeps_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Handing it over each time would cost more than the thread."""
    monkeypatch.setattr("s3pool.proxy.event_loop.NEXT_REQUEST_S", TIMEOUT_S)
    with warm(answer_of(LARGE)) as proxy, client_of(proxy) as sock:
        for _ in range(3):
            sock.sendall(proxy.signed("GET", "/b/key"))
            read_answers(sock, LARGE)

        await_ways(proxy, answer=1)


def test_refusal_of_a_node_is_looked_at_by_a_thread() -> None:
    """It may speak of the clock; if not, it is the client's."""
    with warm(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno") as proxy:
        answer = proxy.ask("GET", "/b/key")

        assert (403, b"no") == (answer.status, answer.body)
        await_ways(proxy, answer=1)


def test_open_ended_answer_passes_to_its_end() -> None:
    """Only the end of the connection says that it is over."""
    with warm(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", close_after=(1,)) as proxy:
        assert b"hello" == proxy.ask("GET", "/b/key").body
        await_ways(proxy, answer=1)


@pytest.mark.parametrize("begin", [0, 10, len(HELLO) - 2])
def test_silent_node_is_left_to_a_thread(begin: int) -> None:
    """It may be silent before the answer, or within; the answer is the client's when it comes."""
    late = Late(begin=begin)
    with warm(late) as proxy, client_of(proxy) as sock:
        sock.sendall(proxy.signed("GET", "/b/key"))
        await_ways(proxy, overdue=1)
        late.goes_on.set()

        assert read_answers(sock, b"hello").endswith(b"\r\n\r\nhello")


def test_node_that_never_answers_is_given_up() -> None:
    """By the same timeout as ever."""
    with warm(None, tries=1, read_timeout_s=0.6) as proxy:
        answer = proxy.ask("GET", "/b/key")

        assert 503 == answer.status
        await_ways(proxy, overdue=1)


def test_second_request_at_a_time_gets_a_connection_by_a_thread() -> None:
    """The loop never connects."""
    late = Late()
    with warm(late, HELLO) as proxy, client_of(proxy) as sock:
        sock.sendall(proxy.signed("GET", "/b/slow"))
        await_true(lambda: 2 == len(node_of(proxy).requests))
        answer = proxy.ask("GET", "/b/key")
        late.goes_on.set()

        assert (b"hello", 2) == (answer.body, opened(proxy))
        assert read_answers(sock, b"hello")
        assert 2 == ways(proxy)["unconnected"]


def test_client_that_reads_slowly_gets_all() -> None:
    """Its buffers are full; the loop has others to serve."""
    with warm(answer_of(SHORT)) as proxy:
        proxy.proxy.server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        with client_of(proxy, rcvbuf=1) as sock:
            sock.sendall(proxy.signed("GET", "/b/key"))
            await_ways(proxy, client=1)
            sock.shutdown(socket.SHUT_WR)

            answer = parse_answer(read_to_end(sock))

    assert (200, SHORT, b"") == (answer.status, answer.body, answer.rest)


def test_client_that_vanishes_costs_nothing(tmp_path: Path) -> None:
    """Its answer is dropped and logged as such; the node's connection serves the next one."""
    late = Late()
    with warm(late, HELLO, access_log=str(tmp_path / "log")) as proxy:
        with client_of(proxy) as sock:
            sock.sendall(proxy.signed("GET", "/b/slow"))
            await_true(lambda: 2 == len(node_of(proxy).requests))
            reset(sock)
        await_true(lambda: is_reset(proxy))
        late.goes_on.set()
        await_true(lambda: 0 == proxy.proxy.connections)

        assert (b"hello", 1) == (proxy.ask("GET", "/b/key").body, opened(proxy))
        lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        assert [("first", "done"), ("slow", "client gone")] == [(line["key"], line["end"]) for line in lines[:2]]


def is_reset(proxy: RunningProxy) -> bool:
    """Say whether the end of all connections of clients has arrived."""
    states = [sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for sock in proxy.proxy.server._sockets.values()]
    return all(states)


@pytest.mark.parametrize("cut", [1, 3, 100, -2])
def test_head_in_two_pieces_is_read_by_a_thread(cut: int) -> None:
    """It has the deadline for slow heads."""
    with warm(HELLO) as proxy, client_of(proxy) as sock:
        request = proxy.signed("GET", "/b/key")
        sock.sendall(request[:cut])
        await_true(lambda: 1 == ways(proxy).get("request"))
        sock.sendall(request[cut:])

        assert read_answers(sock, b"hello").endswith(b"\r\n\r\nhello")


def test_next_request_waits_for_the_answer_before_it() -> None:
    """It arrives while the first one is under way, and so does the client's end."""
    late = Late(answer_of(b"first"))
    with warm(late, answer_of(b"second")) as proxy, client_of(proxy) as sock:
        sock.sendall(proxy.signed("GET", "/b/one"))
        await_true(lambda: 2 == len(node_of(proxy).requests))
        sock.sendall(proxy.signed("GET", "/b/two"))
        sock.shutdown(socket.SHUT_WR)
        late.goes_on.set()

        first = parse_answer(read_to_end(sock))
        second = parse_answer(first.rest)
        assert (b"first", b"second", b"") == (first.body, second.body, second.rest)
        assert [b"GET /b/one ", b"GET /b/two "] == [head[:11] for head, _ in node_of(proxy).requests[1:]]


def test_connection_comes_back_after_other_work(fake: FakeS3) -> None:
    """Uploads and refusals go to a thread, and everyday requests after them to the loop again."""
    with RunningProxy(fake.endpoints) as proxy, client_of(proxy) as sock:
        sock.sendall(proxy.signed("GET", "/b/there"))
        read_answers(sock, b"0123456789" * 100)
        sock.sendall(proxy.signed("PUT", "/b/new", body=b"x"))
        read_answers(sock, b"\r\n\r\n")
        await_true(lambda: is_back(proxy, sock))

    assert b"x" == fake.store.bodies("b")["new"]


def is_back(proxy: RunningProxy, sock: socket.socket) -> bool:
    """Ask once more, and say whether the loop answered."""
    before = ways(proxy).get("loop", 0)
    sock.sendall(proxy.signed("GET", "/b/there"))
    read_answers(sock, b"0123456789" * 100)
    return ways(proxy).get("loop", 0) > before


# -- the ends ------------------------------------------------------------------------------------


def test_drain_ends_what_is_parked_and_waits_for_what_runs() -> None:
    """The answer under way says that it is the last one."""
    late = Late()
    with warm(late) as proxy, client_of(proxy) as parked, client_of(proxy) as sock:
        sock.sendall(proxy.signed("GET", "/b/key"))
        await_true(lambda: 2 == len(node_of(proxy).requests))
        ended: list[bool] = []
        drain = threading.Thread(target=lambda: ended.append(proxy.proxy.drain()))
        drain.start()
        end_of_parked = parked.recv(1)
        late.goes_on.set()
        answer = parse_answer(read_to_end(sock))
        sock.close()
        drain.join(TIMEOUT_S)

        assert (b"", [True]) == (end_of_parked, ended)
        assert (200, b"hello", "close") == (answer.status, answer.body, answer.headers["connection"])


def test_reload_changes_nothing_for_what_is_parked_or_runs() -> None:
    """The one that runs ends on the old configuration; the one that waits begins on the new one."""
    late = Late()
    with warm(late, HELLO) as proxy, client_of(proxy) as parked, client_of(proxy) as sock:
        sock.sendall(proxy.signed("GET", "/b/key"))
        await_true(lambda: 2 == len(node_of(proxy).requests))
        proxy.proxy.reload()
        parked.sendall(proxy.signed("GET", "/b/other"))
        second = read_answers(parked, b"hello")
        late.goes_on.set()

        assert read_answers(sock, b"hello").startswith(b"HTTP/1.1 200 OK")
        assert second.startswith(b"HTTP/1.1 200 OK")


def test_idle_connections_end_after_a_while() -> None:
    """Those that asked before, and those that never did."""
    with warm(HELLO, idle_timeout=0.3) as proxy, client_of(proxy) as mute, client_of(proxy) as sock:
        sock.sendall(proxy.signed("GET", "/b/key"))

        assert parse_answer(read_to_end(sock)).body == b"hello"
        assert b"" == mute.recv(1)
        await_true(lambda: 0 == proxy.proxy.connections)


def test_mistake_of_ours_ends_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the loop, which has all the others."""
    from s3pool.proxy.request_handler import RequestHandler

    with warm(HELLO) as proxy:
        right: Callable[[RequestHandler], bool] = RequestHandler.offer
        monkeypatch.setattr(RequestHandler, "offer", lambda _errand: 1 // 0)
        broken = proxy.talk(proxy.signed("GET", "/b/key"))
        monkeypatch.setattr(RequestHandler, "offer", right)

        assert (b"", b"hello") == (broken, proxy.ask("GET", "/b/key").body)
        await_true(lambda: 0 == proxy.proxy.connections)
        node = proxy.proxy.opened.nodes[0]
        assert (0, 0) == (node.in_flight, proxy.stats()["retrying"])


def test_no_thread_left_ends_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system is short of something; what needs no thread goes on."""

    def fail(_threads: ThreadCache, _job: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    with warm(answer_of(LARGE), HELLO) as proxy:
        right = ThreadCache.submit
        monkeypatch.setattr(ThreadCache, "submit", fail)
        broken = proxy.talk(proxy.signed("GET", "/b/key"))
        monkeypatch.setattr(ThreadCache, "submit", right)

        assert (b"", b"hello") == (broken, proxy.ask("GET", "/b/key").body)
        node = proxy.proxy.opened.nodes[0]
        await_true(lambda: 0 == proxy.proxy.connections)
        assert (0, 0) == (node.in_flight, proxy.stats()["retrying"])


def test_systems_without_epoll_have_threads_alone(fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slower, and right all the same."""
    for module in ("server", "event_loop"):
        monkeypatch.setattr(f"s3pool.proxy.{module}.IS_POSSIBLE", False)
    with RunningProxy(fake.endpoints) as proxy, client_of(proxy) as sock:
        for _ in range(3):
            sock.sendall(proxy.signed("GET", "/b/there"))
            assert read_answers(sock, b"0123456789" * 100)

        assert {} == ways(proxy)
