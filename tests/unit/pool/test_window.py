"""Many requests of one thread under way: each answer when it is there, nothing lost and nothing leaked."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from unittest.mock import Mock

import pytest

from s3pool.errors import NotFoundError, ProtocolError, S3Error, UsageError
from s3pool.model import Endpoint, Request, Response, replace
from s3pool.pool import window
from s3pool.pool.balancer import LoadBalancer
from s3pool.pool.connections import ConnectionSettings
from s3pool.pool.http1 import BUFFER_BYTES, NodeConnection
from s3pool.pool.node import Delays
from s3pool.pool.retry import RetryPolicy
from s3pool.pool.tcp import EarlyResponse
from s3pool.pool.transport import Transport
from s3pool.pool.window import Result, Window
from tests.support.clock import Chosen
from tests.support.pools import GET, PUT, Servers, make_node, sign
from tests.support.scripted import BROKEN, HANG, OK, OK_EMPTY, ScriptedServer

PATIENCE_S = 10.0
MAX_CONNECTIONS = 8
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
LONG = BUFFER_BYTES + 1
TOO_LONG = (1 << 20) + 1
DELAYS = Delays(proven_s=0.1, suspect_s=60.0)


class Taken:
    """A request that keeps the body of what passes its check."""

    def __init__(self, name: object = "", request: Request = GET) -> None:
        self.name = name
        self.request = request
        self.body: bytes | None = None

    def check(self, response: Response) -> None:
        if response.status == 404:
            raise NotFoundError(404, "NoSuchKey")
        if response.status >= 300:
            raise S3Error(response.status, "InternalError", endpoint=str(response.endpoint))
        self.body = response.preload()


class Unwilling(Taken):
    """A request whose check raises errors, one after the other."""

    def __init__(self, name: object, *errors: Exception) -> None:
        super().__init__(name)
        self.errors = list(errors)

    def check(self, response: Response) -> None:
        super().check(response)
        if self.errors:
            raise self.errors.pop(0)


class Crowd:
    """A window over some endpoints, with short times; nothing may be left in use at the end."""

    def __init__(self, *endpoints: Endpoint, read_timeout_s: float = 5.0) -> None:
        settings = ConnectionSettings(read_timeout_s=read_timeout_s, max_connections=MAX_CONNECTIONS)
        self.nodes = [make_node(e, settings) for e in endpoints]
        balancer = LoadBalancer(self.nodes, random=Chosen(0))
        self.transport = Transport(
            balancer, sign, policy=RetryPolicy(random=lambda: 0.0), read_timeout_s=read_timeout_s, delays=DELAYS
        )
        self.window = self.transport.window()

    def open(self, count: int = 1, *, of: int = 0) -> None:
        """Open so many connections to a node, which the first answers prove."""
        open_ones = [self.nodes[of].connections.checkout() for _ in range(count)]
        for connection in open_ones:
            connection.write(b"GET / HTTP/1.1\r\n\r\n")
            connection.timeout_s = PATIENCE_S
            length = connection.read_head("GET").length
            connection.readinto(memoryview(bytearray(length or 0)))
            self.nodes[of].connections.checkin(connection, reusable=True)
        self.nodes[of].is_proven = True
        self.nodes[of].congestion_window = float(count)

    def submit(self, name: object = "", request: Request = GET) -> Taken:
        """Send a request to the node whose turn it is."""
        return self.submit_this(Taken(name, request))

    def submit_this(self, taken: Taken) -> Taken:
        """Send what was prepared."""
        assert 1 == self.window.submit([taken])
        return taken

    def results(self, count: int = 1) -> list[Result]:
        """Wait for so many results, and no more."""
        results: list[Result] = []
        deadline = time.monotonic() + PATIENCE_S
        while len(results) < count and time.monotonic() < deadline:
            results += self.window.poll()
        assert count == len(results)
        return results

    def close(self) -> None:
        """End, and see that everything was given back."""
        self.window.close()
        assert [0] * len(self.nodes) == [node.in_flight for node in self.nodes]
        assert {MAX_CONNECTIONS} == {node.connections._slots.qsize() for node in self.nodes}
        self.transport.close()


@pytest.fixture(name="crowd")
def _crowd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Crowd]]:
    monkeypatch.setattr(window, "TICK_S", 0.02)
    crowds: list[Crowd] = []

    def make(*servers: ScriptedServer, **options: float) -> Crowd:
        crowds.append(Crowd(*[server.endpoint for server in servers], **options))
        return crowds[-1]

    yield make
    for crowd in crowds:
        crowd.close()


Make = Callable[..., Crowd]


def test_answers_are_given_in_the_order_in_which_they_come(servers: Servers, crowd: Make) -> None:
    """One slow object holds up no other."""
    began, gate = threading.Event(), threading.Event()

    def slowly(sock: socket.socket) -> None:
        began.set()
        gate.wait(PATIENCE_S)
        sock.sendall(OK)

    here = crowd(servers(OK, OK, slowly, OK))
    here.open(2)
    slow = here.submit("slow")
    assert began.wait(PATIENCE_S)
    quick = here.submit("quick")

    first = here.results()
    gate.set()
    second = here.results()

    assert [Result(quick), Result(slow)] == [*first, *second]
    assert (b"ok", b"ok") == (quick.body, slow.body)


def test_connections_are_opened_where_there_are_none(servers: Servers, crowd: Make) -> None:
    """Whoever submits needs to know nothing of nodes and connections."""
    a, b = servers(), servers()
    here = crowd(a, b)
    batch = [Taken(number) for number in range(4)]

    taken = here.window.submit(batch)
    here.results(4)

    assert (4, [b"ok"] * 4) == (taken, [each.body for each in batch])
    assert 0 < len(a.requests) < 4


def test_submit_ends_where_all_connections_are_in_use(servers: Servers, crowd: Make) -> None:
    """The rest is submitted when some are free again."""
    gate = threading.Event()

    def wait(sock: socket.socket) -> None:
        gate.wait(PATIENCE_S)
        sock.sendall(OK)

    here = crowd(servers(*[wait] * MAX_CONNECTIONS, OK))
    here.nodes[0].is_proven = True
    batch = [Taken(number) for number in range(MAX_CONNECTIONS + 2)]

    first = here.window.submit(batch)
    gate.set()
    here.results(first)
    second = here.window.submit(batch[first:], wait=True)
    here.results(second)

    assert (MAX_CONNECTIONS, 2) == (first, second)
    assert {b"ok"} == {taken.body for taken in batch}


def test_refusal_is_the_error_that_the_check_raised(servers: Servers, crowd: Make) -> None:
    """Whether it is final is for the rules of retries to say."""
    here = crowd(servers(OK, NOT_FOUND, OK))
    here.open()
    here.submit()

    (result,) = here.results()

    assert isinstance(result.error, NotFoundError)


def test_server_error_is_tried_again_elsewhere(servers: Servers, crowd: Make) -> None:
    """The pause before it is a deadline, and the window goes on meanwhile."""
    a, b = servers(OK, BROKEN), servers()
    here = crowd(a, b)
    here.open()
    taken = here.submit()

    (result,) = here.results()

    assert (Result(taken), b"ok", 2, 1) == (result, taken.body, len(a.requests), len(b.requests))
    assert {"http 500": 1} == here.transport.stats()[0].failure_kinds


def test_mistake_in_a_check_is_told_to_its_owner_alone(servers: Servers, crowd: Make) -> None:
    """The others must not be lost with it."""
    here = crowd(servers())
    here.open(2)
    error = ZeroDivisionError("ours")
    here.submit_this(Unwilling("broken", error))
    fine = here.submit("fine")

    told = {result.operation.name: result.error for result in here.results(2)}

    assert ({"broken": error, "fine": None}, b"ok") == (told, fine.body)


def test_request_that_cannot_be_written_down_is_told_to_its_owner_alone(servers: Servers, crowd: Make) -> None:
    """Nothing was sent of it, and the connection is good for the next one."""
    server = servers()
    here = crowd(server)
    here.open()
    bad = here.submit("bad", replace(GET, headers={"x-amz-meta-a": "1\r\n2"}))
    (refused,) = here.results()
    fine = here.submit("fine")

    results = here.results()

    assert (bad, UsageError) == (refused.operation, type(refused.error))
    assert ([Result(fine)], b"ok", 1, 2) == (results, fine.body, server.connections, len(server.requests))


def test_answers_that_come_together_are_counted_one_by_one(servers: Servers, crowd: Make) -> None:
    """As if each had come alone."""
    here = crowd(servers(*[OK] * 8))
    here.open(4)
    node = here.nodes[0]
    before = node.counters.snapshot("", "")

    assert 4 == here.window.submit([Taken(number) for number in range(4)])
    at_once = node.in_flight
    here.results(4)
    after = node.counters.snapshot("", "")

    assert (4, 0, 8.0) == (at_once, node.in_flight, node.congestion_window)
    assert (4, 4) == (after.requests - before.requests, after.timed - before.timed)
    assert 4 * len(OK) == after.bytes_received - before.bytes_received


def test_connection_that_breaks_as_it_is_written_to_is_replaced(
    servers: Servers, crowd: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server closed it while it was idle."""
    here = crowd(servers())
    here.open()
    send_now = NodeConnection.send_now
    turns = iter([True])

    def break_once(connection: NodeConnection, block: bytes, timeout_s: float) -> None:
        if next(turns, False):
            raise EarlyResponse("it hung up")
        send_now(connection, block, timeout_s)

    monkeypatch.setattr(NodeConnection, "send_now", break_once)
    taken = here.submit()

    assert [Result(taken)] == here.results()


def test_connection_that_cannot_be_watched_is_given_up(
    servers: Servers, crowd: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system has a limit; the fixture counts what is left in use."""
    here = crowd(servers())
    here.open()
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(Window, "_watch", Mock(side_effect=full))

    taken = here.submit()

    assert [Result(taken, full)] == here.results()


@pytest.mark.parametrize(
    ("turns", "connections", "kinds"),
    [
        ((OK, b"", OK), 2, {}),  # servers close idle connections whenever they like: nobody's fault
        ((OK, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhal", OK), 2, {"protocol": 1}),  # half a body is none
        ((OK, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"), 1, {}),
    ],
    ids=["idle", "cut", "closed"],
)
def test_connection_that_ends_is_not_used_again(
    servers: Servers, crowd: Make, turns: tuple[bytes, ...], connections: int, kinds: dict[str, int]
) -> None:
    """The request is sent again where its answer was lost, and the next one over another connection."""
    server = servers(*turns, close_after=[1])
    here = crowd(server)
    here.open()
    taken = here.submit()

    results = here.results()

    assert ([Result(taken)], b"ok", connections) == (results, taken.body, server.connections)
    assert kinds == here.transport.stats()[0].failure_kinds
    assert connections - 1 == len(here.nodes[0].connections._idle)


@pytest.mark.parametrize("begun", [b"", OK[:9], OK[:-1]], ids=["silent", "in its head", "in its body"])
def test_read_of_a_silent_node_is_hedged(servers: Servers, crowd: Make, begun: bytes) -> None:
    """A body that stops has the same deadline as a head."""
    gate = threading.Event()

    def stop(sock: socket.socket) -> None:
        sock.sendall(begun)
        gate.wait(PATIENCE_S)

    here = crowd(servers(OK, stop), servers())
    here.open()
    taken = here.submit()

    results = here.results()
    gate.set()

    assert ([Result(taken)], b"ok") == (results, taken.body)
    assert 0 == len(here.nodes[0].connections._idle)


def test_bodies_that_stop_cost_their_delays_together(servers: Servers, crowd: Make) -> None:
    """Each of them waited for its own timeout, one after the other, when they were read to the end one by one."""
    gate = threading.Event()

    def stop(sock: socket.socket) -> None:
        sock.sendall(OK[:-1])
        gate.wait(PATIENCE_S)

    here = crowd(servers(*[OK] * 4, *[stop] * 4, OK), servers())
    here.open(4)
    here.window.submit([Taken(number) for number in range(4)])
    started = time.monotonic()

    results = here.results(4)
    seconds = time.monotonic() - started
    gate.set()

    assert [None] * 4 == [result.error for result in results]
    assert seconds < 8 * DELAYS.proven_s


def test_write_leaves_a_node_whose_probe_fails(servers: Servers, crowd: Make) -> None:
    """It may be repeated, and a frozen node answers nobody."""
    frozen = servers(OK, HANG)
    here = crowd(frozen, servers())
    here.nodes[0].delays = Delays(suspect_s=0.2, probe_s=0.3)
    here.nodes[1].is_proven = True
    here.open()
    taken = here.submit(request=PUT)

    results = here.results()

    assert ([Result(taken)], b"ok") == (results, taken.body)
    assert "open" == here.nodes[0].breaker.state
    here.nodes[0].is_watched = True  # which ends the probing


@pytest.mark.parametrize("request_", [GET, PUT], ids=["GET", "PUT"])
def test_read_timeout_rules_where_there_is_no_second_node(servers: Servers, crowd: Make, request_: Request) -> None:
    """And then the request is sent again, by the rules of retries."""
    server = servers(OK, HANG, OK)
    here = crowd(server, read_timeout_s=0.1)
    here.open()
    taken = here.submit(request=request_)

    results = here.results()

    assert ([Result(taken)], b"ok", 3) == (results, taken.body, len(server.requests))
    assert {"timeout": 1} == here.transport.stats()[0].failure_kinds


def test_answer_that_lay_there_while_nobody_looked_is_in_time(servers: Servers, crowd: Make) -> None:
    """The thread was away for longer than the node."""
    a, b = servers(), servers()
    here = crowd(a, b)
    here.open()
    taken = here.submit()
    threading.Event().wait(3 * DELAYS.proven_s)

    results = here.results()

    assert ([Result(taken)], []) == (results, b.requests)


@pytest.mark.parametrize("size", [LONG, 8 * LONG])
def test_body_longer_than_the_buffer_comes_whole(servers: Servers, crowd: Make, size: int) -> None:
    """It is collected as it arrives."""
    content = bytes(range(256)) * (size // 256 + 1)
    here = crowd(servers(OK, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content))
    here.open()
    taken = here.submit()

    results = here.results()

    assert ([Result(taken)], content) == (results, taken.body)


def test_head_that_fills_the_buffer_comes_whole(servers: Servers, crowd: Make) -> None:
    """There is no news of bytes that were there already."""
    lines = b"".join(b"x-amz-meta-%d: %s\r\n" % (number, b"v" * 1000) for number in range(BUFFER_BYTES // 1000 + 2))
    here = crowd(servers(OK, b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 2\r\n\r\nok"))
    here.open()
    taken = here.submit(request=PUT)

    results = here.results()

    assert ([Result(taken)], b"ok") == (results, taken.body)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
VERY_LONG = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % TOO_LONG + bytes(TOO_LONG)


@pytest.mark.parametrize(("answer", "length"), [(CHUNKED, 2), (VERY_LONG, TOO_LONG)], ids=["chunked", "long"])
def test_answer_that_is_not_for_a_window_goes_on_where_it_stands(
    servers: Servers, crowd: Make, answer: bytes, length: int
) -> None:
    """Nothing of it is asked for again."""
    server = servers(OK, answer)
    here = crowd(server)
    here.open()
    taken = here.submit()

    (result,) = here.results()
    assert result.attempt is not None
    here.transport.finish(result.attempt).close()

    assert (length, 2) == (len(taken.body or b""), len(server.requests))


def test_descriptor_that_is_used_again_is_watched_again(servers: Servers, crowd: Make) -> None:
    """The system gives a new connection the number of one that ended, and forgets that this was watched."""
    here = crowd(servers())
    here.open()
    ended = NodeConnection(socket.socket(), endpoint="ended")
    here.window._watched[here.nodes[0].connections._idle[0].fileno()] = ended
    taken = here.submit()

    results = here.results()
    ended.close()

    assert ([Result(taken)], b"ok") == (results, taken.body)


def test_news_of_a_connection_that_others_use_is_no_news(servers: Servers, crowd: Make) -> None:
    """It was watched once, and another thread has it now."""
    here = crowd(servers())
    here.open()
    here.submit()
    here.results()
    here.transport.send(GET, Taken().check)

    assert ([], 0) == (here.window.poll(wait=False), len(here.window))


def test_answer_that_cannot_be_read_counts_against_its_node(servers: Servers, crowd: Make) -> None:
    """As it does when a thread waits for it."""
    here = crowd(servers(), servers())
    here.open()
    taken = here.submit_this(Unwilling("", ProtocolError("no sense in it")))

    here.results()

    assert b"ok" == taken.body
    assert 1 == here.transport.stats()[0].failures
    assert not here.nodes[0].breaker.is_sound


def test_bytes_that_nobody_asked_for_are_nobodys_answer(servers: Servers, crowd: Make) -> None:
    """They came while the connection was idle, a moment after it was in use."""
    socks: list[socket.socket] = []

    def answer(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        socks.append(sock)
        sock.sendall(OK)

    here = crowd(servers(answer))
    here.open(2)
    here.submit()
    here.results()
    socks[-1].sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    taken = here.submit()
    here.results()

    assert (b"ok", 1) == (taken.body, here.nodes[0].connections.counts.snapshot()["unasked"])


def test_giving_up_gives_all_connections_back(servers: Servers, crowd: Make) -> None:
    """What is under way then can come no more; the fixture counts."""
    here = crowd(servers(OK, OK, HANG))
    here.open(2)
    here.submit()
    here.submit()

    here.window.abandon()

    assert 0 == len(here.window)
    assert [] == list(here.nodes[0].connections._idle)


def test_counts_are_those_of_a_request_alone(servers: Servers, crowd: Make) -> None:
    """--stats must not tell which way a request went."""
    quick, alone = crowd(servers(OK, OK_EMPTY)), crowd(servers(OK, OK_EMPTY))
    for here in (quick, alone):
        here.open()
    quick.submit(request=PUT)
    quick.results()
    alone.transport.send(PUT, Taken().check)

    one, other = (here.transport.stats()[0] for here in (quick, alone))
    shown = ("requests", "retries", "bytes_sent", "bytes_received", "timed", "failure_kinds")

    assert [getattr(one, name) for name in shown] == [getattr(other, name) for name in shown]
    assert quick.nodes[0].connections.counts.snapshot() == alone.nodes[0].connections.counts.snapshot()


@pytest.mark.parametrize("why", ["no descriptors", "no epoll"])
def test_without_epoll_answers_are_waited_for_in_turn(
    servers: Servers, crowd: Make, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """A limit of open files, or another system, is no reason to do nothing."""
    if why == "no descriptors":
        monkeypatch.setattr(window.select, "epoll", Mock(side_effect=OSError(24, "Too many open files")))
    else:
        monkeypatch.setattr(window, "IS_POSSIBLE", False)
    here = crowd(servers())
    batch = [Taken(1), Taken(2)]

    taken = here.window.submit(batch)
    for result in here.results(2):
        assert result.attempt is not None
        here.transport.finish(result.attempt).close()

    assert (2, [b"ok", b"ok"]) == (taken, [each.body for each in batch])
