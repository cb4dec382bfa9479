"""Many requests of one thread under way: each answer when it is there, nothing lost and nothing leaked."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from unittest.mock import Mock

import pytest

from s3pool.body import BytesBody
from s3pool.errors import NotFoundError, ProtocolError, S3Error, UsageError
from s3pool.model import Endpoint, Request, Response
from s3pool.pool import inflight
from s3pool.pool.balancer import LoadBalancer, Node
from s3pool.pool.breaker import CircuitBreaker
from s3pool.pool.connection import ConnectionPool, ConnectionSettings
from s3pool.pool.inflight import InFlight, Landed
from s3pool.pool.pace import wait_readable
from s3pool.pool.retry import RetryPolicy
from s3pool.pool.throttle import Throttle
from s3pool.pool.transport import Transport
from s3pool.pool.wire import BUFFER_BYTES, EarlyAnswer, Wire
from tests.support.scripted import BROKEN, HANG, OK, OK_EMPTY, ScriptedServer

GET = Request("GET", "/b/k", "GetObject", resource="s3/b/k")
PUT = Request("PUT", "/b/k", "PutObject", body=BytesBody(b"content"), resource="s3/b/k")
PATIENCE_S = 10.0
MAX_CONNECTIONS = 8
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
LONG = BUFFER_BYTES + 1
Servers = Callable[..., ScriptedServer]


def _sign(request: Request, endpoint: Endpoint, _now: float) -> Mapping[str, str]:
    return {"host": request.host_header(endpoint), **request.headers}


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
    """A place for requests over some endpoints, with short times; nothing may be left in use at the end."""

    def __init__(self, *endpoints: Endpoint, read_timeout_s: float = 5.0, patience_s: float = 0.1) -> None:
        settings = ConnectionSettings(read_timeout_s=read_timeout_s, max_connections=MAX_CONNECTIONS)
        self.nodes = [Node(e, ConnectionPool(e, settings), CircuitBreaker()) for e in endpoints]
        balancer = LoadBalancer(self.nodes)
        balancer._turn = 0
        self.transport = Transport(
            balancer,
            _sign,
            policy=RetryPolicy(random=lambda: 0.0),
            read_timeout_s=read_timeout_s,
            patience_s=patience_s,
            sleep=lambda _: None,
        )
        self.in_flight = self.transport.in_flight()

    def open(self, count: int = 1, *, of: int = 0) -> None:
        """Open so many connections to a node, which the first answers prove."""
        wires = [self.nodes[of].connections.checkout() for _ in range(count)]
        for wire in wires:
            wire.write(b"GET / HTTP/1.1\r\n\r\n")
            wire.set_timeout(PATIENCE_S)
            length = wire.read_head("GET").length
            wire.readinto(memoryview(bytearray(length or 0)))
            self.nodes[of].connections.checkin(wire, reusable=True)
        self.nodes[of].is_proven = True
        self.nodes[of].share = float(count)

    def send(self, name: object = "", request: Request = GET) -> Taken:
        """Send a request to the node whose turn it is, over an open connection."""
        return self.send_this(Taken(name, request))

    def send_this(self, taken: Taken) -> Taken:
        """Send what somebody has prepared."""
        assert (1, None) == self.in_flight.send([taken])
        return taken

    def next(self) -> Landed:
        """Wait for the next one to land, or to be answered."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            answered, landed = self.in_flight.ready(wait=True)
            landed = [*landed, *map(Landed, answered)]
            if landed:
                assert len(landed) == 1
                return landed[0]
        raise AssertionError("nothing landed")

    def finish(self, landed: Landed) -> bytes | None:
        """Go on from what landed to the body."""
        call = landed.call
        assert call is not None
        return call.finish().preload()

    def close(self) -> None:
        """End, and see that everything was given back."""
        self.in_flight.close()
        assert [0] * len(self.nodes) == [node.in_flight for node in self.nodes]
        assert {MAX_CONNECTIONS} == {node.connections._slots.qsize() for node in self.nodes}
        self.transport.close()


@pytest.fixture(name="servers")
def _servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield lambda *turns, **options: stack.enter_context(ScriptedServer(turns or (OK,), **options))


@pytest.fixture(name="crowd")
def _crowd() -> Iterator[Callable[..., Crowd]]:
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
    slow = here.send("slow")
    assert began.wait(PATIENCE_S)
    quick = here.send("quick")

    first = here.next()
    gate.set()
    second = here.next()

    assert [(quick, None), (slow, None)] == [(landed.going, landed.call) for landed in (first, second)]
    assert (b"ok", b"ok") == (quick.body, slow.body)


def test_node_that_never_answered_is_for_those_who_can_wait(servers: Servers, crowd: Make) -> None:
    """It may swallow whatever is sent to it."""
    server = servers(OK_EMPTY, OK)
    here = crowd(server)
    here.open()
    here.nodes[0].is_proven = False
    taken = Taken()

    before = here.in_flight.send([taken])
    here.nodes[0].is_proven = True
    after = here.in_flight.send([taken])
    here.next()

    assert ((0, None), (1, None), 2) == (before, after, len(server.requests))


@pytest.mark.parametrize("kind", ["tls", "throttled"])
def test_connection_that_is_more_than_a_socket_is_for_those_who_can_wait(servers: Servers, kind: str) -> None:
    """TLS gives what the socket does not show, and a limit of bandwidth has to be waited for."""
    endpoint = servers().endpoint
    endpoint = Endpoint("https", endpoint.host, endpoint.port) if kind == "tls" else endpoint
    throttle = Throttle(1000) if kind == "throttled" else None
    node = Node(endpoint, ConnectionPool(endpoint, ConnectionSettings(), throttle=throttle), CircuitBreaker())
    node.is_proven = True
    in_flight = Transport(LoadBalancer([node]), _sign).in_flight()

    sent = in_flight.send([Taken()])
    in_flight.close()

    assert (0, None) == sent


def test_nothing_is_sent_where_no_connection_is_open(servers: Servers, crowd: Make) -> None:
    """To open one takes time."""
    server = servers()
    here = crowd(server)
    here.nodes[0].is_proven = True

    assert (0, here.nodes[0]) == here.in_flight.send([Taken()])
    assert (0, []) == (len(here.in_flight), server.requests)


def test_refusal_lands_as_a_call_that_tells_it(servers: Servers, crowd: Make) -> None:
    """Whether it is final is for the rules of retries to say."""
    here = crowd(servers(OK, NOT_FOUND, OK))
    here.open()
    here.send()

    landed = here.next()

    with pytest.raises(NotFoundError):
        here.finish(landed)


def test_server_error_is_tried_again_elsewhere(servers: Servers, crowd: Make) -> None:
    """As if it had been a call from the start."""
    a, b = servers(OK, BROKEN), servers()
    here = crowd(a, b)
    here.open()
    here.send()

    landed = here.next()
    body = here.finish(landed)

    assert (b"ok", 2, 1) == (body, len(a.requests), len(b.requests))
    assert {"http 500": 1} == here.transport.stats()[0].failure_kinds


def test_mistake_in_a_check_is_told_to_its_owner_alone(servers: Servers, crowd: Make) -> None:
    """The others must not be lost with it."""
    here = crowd(servers())
    here.open(2)
    error = ZeroDivisionError("ours")
    here.send_this(Unwilling("broken", error))
    fine = here.send("fine")
    told: dict[object, Exception | None] = {}
    while len(told) < 2:
        answered, landed = here.in_flight.ready(wait=True)
        told |= {each.going.name: each.error for each in [*landed, *map(Landed, answered)]}

    assert {"broken": error, "fine": None} == told
    assert b"ok" == fine.body


def test_request_that_cannot_be_written_down_is_told_to_its_owner_alone(
    servers: Servers, crowd: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent of it, and the connection is good for the next one."""
    server = servers()
    here = crowd(server)
    here.open()
    error = UsageError("a header holds a line break")
    with monkeypatch.context() as patch:
        patch.setattr(Transport, "head_for", Mock(side_effect=error))
        bad = here.send("bad")
    landed = here.next()
    fine = here.send("fine")

    here.next()

    assert (Landed(bad, error=error), b"ok") == (landed, fine.body)
    assert (1, 2) == (server.connections, len(server.requests))


def test_batch_goes_out_as_far_as_connections_reach(servers: Servers, crowd: Make) -> None:
    """The rest waits for one, and the next turn is that of the node that lacks it."""
    a, b = servers(), servers()
    here = crowd(a, b)
    here.open(2, of=0)
    here.open(1, of=1)
    here.nodes[0].share = here.nodes[1].share = 3.0
    batch = [Taken(number) for number in range(5)]

    sent = here.in_flight.send(batch)
    answered: list[Taken] = []
    while len(answered) < 3:
        answered += here.in_flight.ready(wait=True)[0]

    assert (3, here.nodes[1]) == sent
    assert {0, 1, 2} == {taken.name for taken in answered}
    assert [4, 2] == [len(a.requests), len(b.requests)]
    assert here.nodes[0] is here.transport.balancer.next_in_turn()


def test_answers_that_come_together_are_counted_one_by_one(servers: Servers, crowd: Make) -> None:
    """As if each had come alone."""
    here = crowd(servers(*[OK] * 8))
    here.open(4)
    node = here.nodes[0]
    before = node.counters.snapshot("", "")
    batch = [Taken(number) for number in range(4)]

    assert (4, None) == here.in_flight.send(batch)
    at_once = node.in_flight
    answered: list[Taken] = []
    while len(answered) < 4:
        answered += here.in_flight.ready(wait=True)[0]
    after = node.counters.snapshot("", "")

    assert (4, 0, 8.0) == (at_once, node.in_flight, node.share)
    assert (4, 4) == (after.requests - before.requests, after.timed - before.timed)
    assert 4 * len(OK) == after.bytes_received - before.bytes_received


def test_connection_that_breaks_as_it_is_written_to_is_given_up(
    servers: Servers, crowd: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is for who can open another one."""
    here = crowd(servers())
    here.open()
    with monkeypatch.context() as patch:
        patch.setattr(Wire, "send_now", Mock(side_effect=EarlyAnswer("it hung up")))
        sent = here.in_flight.send([Taken()])

    assert (0, here.nodes[0]) == sent
    assert (0, 0, 0) == (len(here.in_flight), here.nodes[0].in_flight, len(here.nodes[0].connections._idle))


def test_connection_that_cannot_be_watched_is_given_up(
    servers: Servers, crowd: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system has a limit; the fixture counts what is left in use."""
    here = crowd(servers())
    here.open()
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(InFlight, "_watch", Mock(side_effect=full))
        taken = here.send()
        call = here.transport.call(GET, Taken().check)
        call.begin()
        with pytest.raises(OSError, match="No space"):
            here.in_flight.join(call, taken)

    assert Landed(taken, error=full) == here.next()


def test_kept_connection_that_ends_is_replaced_without_blame(servers: Servers, crowd: Make) -> None:
    """Servers close idle connections whenever they like."""
    server = servers(OK, b"", OK, close_after=[1])
    here = crowd(server)
    here.open()
    here.send()

    landed = here.next()
    body = here.finish(landed)

    assert (b"ok", 2) == (body, server.connections)
    assert {} == here.transport.stats()[0].failure_kinds


def test_answer_that_is_cut_is_asked_for_again(servers: Servers, crowd: Make) -> None:
    """Half a body never passes for a whole one."""
    a = servers(OK, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhal", close_after=[1])
    b = servers()
    here = crowd(a, b)
    here.open()
    taken = here.send()

    landed = here.next()
    half = taken.body
    body = here.finish(landed)

    assert (None, b"ok") == (half, body)


def test_silent_node_is_left_for_another_one(servers: Servers, crowd: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read may be under way on two nodes at once."""
    monkeypatch.setattr(inflight, "TICK_S", 0.01)
    here = crowd(servers(OK, HANG), servers())
    here.open()
    here.send()

    landed = here.next()
    begun = landed.call.begun if landed.call is not None else None
    body = here.finish(landed)

    assert (True, None, b"ok") == (landed.is_late, begun, body)
    assert 0 == len(here.nodes[0].connections._idle)


@pytest.mark.parametrize("request_", [GET, PUT], ids=["GET", "PUT"])
def test_read_timeout_rules_where_no_second_node_may_be_asked(
    servers: Servers, crowd: Make, monkeypatch: pytest.MonkeyPatch, request_: Request
) -> None:
    """And then the request is sent again, by the rules of retries."""
    monkeypatch.setattr(inflight, "TICK_S", 0.01)
    server = servers(OK, HANG, OK)
    here = crowd(server, read_timeout_s=0.1)
    here.open()
    here.send(request=request_)

    landed = here.next()
    begun = landed.call.begun if landed.call is not None else None
    body = here.finish(landed)

    assert (True, None, b"ok", 3) == (landed.is_late, begun, body, len(server.requests))
    assert {"timeout": 1} == here.transport.stats()[0].failure_kinds


def test_answer_that_stops_after_its_head_is_not_read_from_its_middle(
    servers: Servers, crowd: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of it belongs to this answer, however late the rest comes."""
    monkeypatch.setattr(inflight, "TICK_S", 0.01)
    gate = threading.Event()

    def in_two(sock: socket.socket) -> None:
        sock.sendall(OK[:-1])
        gate.wait(PATIENCE_S)
        sock.sendall(OK[-1:])

    a, b = servers(OK, in_two), servers()
    here = crowd(a, b)
    here.open()
    here.send()

    landed = here.next()
    gate.set()
    body = here.finish(landed)

    assert (True, b"ok", 2, []) == (landed.is_late, body, len(a.requests), b.requests)


def test_answer_that_lay_there_while_nobody_looked_is_in_time(servers: Servers, crowd: Make) -> None:
    """The thread was away for longer than the node."""
    here = crowd(servers(), servers())
    here.open()
    taken = here.send()
    exchange = next(iter(here.in_flight._under_way.values()))[0]
    assert wait_readable([exchange.wire], PATIENCE_S)
    exchange.started -= 2 * PATIENCE_S

    news = here.next()

    assert (Landed(taken), b"ok") == (news, taken.body)


def test_head_that_fills_the_buffer_is_for_those_who_can_wait(servers: Servers, crowd: Make) -> None:
    """There is no news of bytes that were there already."""
    lines = b"".join(b"x-amz-meta-%d: %s\r\n" % (number, b"v" * 1000) for number in range(BUFFER_BYTES // 1000 + 2))
    here = crowd(servers(OK, b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 2\r\n\r\nok"))
    here.open()
    here.send(request=PUT)
    (exchange, _, _), *_ = here.in_flight._under_way.values()
    assert wait_readable([exchange.wire], PATIENCE_S)

    landed = here.next()

    assert (False, b"ok") == (landed.is_late, here.finish(landed))


def test_long_body_comes_whole(servers: Servers, crowd: Make) -> None:
    """It does not fit into the connection's buffer."""
    content = bytes(range(256)) * (LONG // 256 + 1)
    here = crowd(servers(OK, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content))
    here.open()
    here.send()

    landed = here.next()

    assert content == here.finish(landed)


def test_descriptor_that_is_used_again_is_watched_again(servers: Servers, crowd: Make) -> None:
    """The system gives a new connection the number of one that ended, and forgets that this was watched."""
    here = crowd(servers())
    here.open()
    ended = Wire(socket.socket(), endpoint="ended")
    here.in_flight._watched[here.nodes[0].connections._idle[0].fileno()] = ended
    taken = here.send()

    landed = here.next()
    ended.close()

    assert (None, b"ok") == (landed.call, taken.body)


def test_news_of_a_connection_that_others_use_is_no_news(servers: Servers, crowd: Make) -> None:
    """It was watched once, and another thread has it now."""
    here = crowd(servers())
    here.open()
    here.send()
    here.next()
    here.transport.send(GET, Taken().check)

    assert ([], []) == here.in_flight.ready(wait=False)
    assert 0 == len(here.in_flight)


def test_what_a_call_began_lands_with_the_others(servers: Servers, crowd: Make) -> None:
    """Somebody who waits has opened its connection."""
    here = crowd(servers())
    taken = Taken()
    call = here.transport.call(GET, taken.check)
    assert call.begin()
    here.in_flight.join(call, taken)

    landed = here.next()
    response = call.first_result()

    assert response is not None
    response.close()
    assert ((taken, call), b"ok") == ((landed.going, landed.call), taken.body)


def test_what_a_call_could_not_begin_lands_at_once(servers: Servers, crowd: Make) -> None:
    """Nothing will ever come of its connection, for there is none."""
    server = servers()
    here = crowd(server)
    server.stop()
    taken = Taken()
    call = here.transport.call(GET, taken.check)
    call.begin()
    here.in_flight.join(call, taken)

    assert ([], [Landed(taken, call)]) == here.in_flight.ready(wait=False)
    call.abandon()


def test_answer_that_a_call_has_seen_lands_at_once(servers: Servers, crowd: Make) -> None:
    """No news will come of a connection whose answer was read."""
    here = crowd(servers())
    taken = Taken()
    call = here.transport.call(GET, taken.check)
    call.begin()
    begun = call.begun
    assert begun is not None
    begun.read(PATIENCE_S)
    here.in_flight.join(call, taken)

    landed = here.in_flight.ready(wait=False)

    assert ([], [Landed(taken, call)]) == landed
    call.finish().close()


def test_answer_that_cannot_be_read_counts_against_its_node(servers: Servers, crowd: Make) -> None:
    """As it does when somebody waits for it."""
    here = crowd(servers(), servers())
    here.open()
    here.send_this(Unwilling("", ProtocolError("no sense in it")))

    body = here.finish(here.next())

    assert b"ok" == body
    assert 1 == here.transport.stats()[0].failures
    assert not here.nodes[0].breaker.is_sound


def test_connection_that_is_to_be_closed_is_not_kept(servers: Servers, crowd: Make) -> None:
    """The next request on it would be lost."""
    here = crowd(servers(OK, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"))
    here.open()
    taken = here.send()

    here.next()

    assert (b"ok", 0) == (taken.body, len(here.nodes[0].connections._idle))


def test_bytes_that_nobody_asked_for_are_nobodys_answer(servers: Servers, crowd: Make) -> None:
    """They came while the connection was idle, a moment after it was in use."""
    socks: list[socket.socket] = []

    def answer(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        socks.append(sock)
        sock.sendall(OK)

    here = crowd(servers(answer))
    here.open(2)
    here.send()
    here.next()
    socks[-1].sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    taken = here.send()
    here.next()

    assert (b"ok", 1) == (taken.body, here.nodes[0].connections.counts.snapshot()["unasked"])


def test_giving_up_gives_all_connections_back(servers: Servers, crowd: Make) -> None:
    """What is under way then can come no more; the fixture counts."""
    here = crowd(servers(OK, OK, HANG))
    here.open(2)
    here.send()
    taken = Taken()
    call = here.transport.call(GET, taken.check)
    call.begin()
    here.in_flight.join(call, taken)

    here.in_flight.abandon()

    assert 0 == len(here.in_flight)
    assert [] == list(here.nodes[0].connections._idle)


def test_counts_are_those_of_the_general_way(servers: Servers, crowd: Make) -> None:
    """--stats must not tell which way a request went."""
    quick, general = crowd(servers(OK, OK_EMPTY)), crowd(servers(OK, OK_EMPTY))
    for here in (quick, general):
        here.open()
    quick.send(request=PUT)
    quick.next()
    general.transport.send(PUT, Taken().check)

    one, other = (here.transport.stats()[0] for here in (quick, general))
    shown = ("requests", "retries", "bytes_sent", "bytes_received", "timed", "failure_kinds")

    assert [getattr(one, name) for name in shown] == [getattr(other, name) for name in shown]
    assert quick.nodes[0].connections.counts.snapshot() == general.nodes[0].connections.counts.snapshot()


def test_without_descriptors_to_spare_answers_are_waited_for_in_turn(
    servers: Servers, crowd: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of open files is no reason to do nothing."""
    monkeypatch.setattr(inflight.select, "epoll", Mock(side_effect=OSError(24, "Too many open files")))

    here = crowd(servers())

    assert (0, None) == here.in_flight.send([Taken()])


def test_without_epoll_answers_are_waited_for_in_turn(
    servers: Servers, crowd: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other systems have other means, and the same transfers."""
    monkeypatch.setattr(inflight, "IS_POSSIBLE", False)
    here = crowd(servers())
    here.open(2)
    joined = [Taken(), Taken()]
    calls = [here.transport.call(GET, taken.check) for taken in joined]
    for call, taken in zip(calls, joined, strict=True):
        call.begin()
        here.in_flight.join(call, taken)

    nothing = here.in_flight.ready(wait=False)
    landed = [here.next().going for _ in calls]
    for call in calls:
        call.finish().close()

    assert ((0, None), ([], []), joined) == (here.in_flight.send([Taken()]), nothing, landed)
