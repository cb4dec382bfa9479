"""Send over a pool: failover, retry, patience, and what must never happen twice."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import ClassVar

import pytest

from s3pool.body import BytesBody
from s3pool.errors import NoEndpointError, NotFoundError, ProtocolError, S3Error, ThrottledError, UsageError
from s3pool.model import Endpoint, Request, Response
from s3pool.pool.balancer import LoadBalancer
from s3pool.pool.connections import ConnectionPool, ConnectionSettings, PoolExhausted
from s3pool.pool.http1 import NodeConnection
from s3pool.pool.node import CircuitBreaker, Delays, Node
from s3pool.pool.retry import RetryPolicy
from s3pool.pool.tcp import wait_readable
from s3pool.pool.transport import Sign, Transport
from tests.support.clock import Chosen
from tests.support.pools import GET, PUT, Servers, make_node, sign
from tests.support.scripted import BROKEN, HANG, OK, OK_EMPTY, SLOW_DOWN, ScriptedServer, refused_endpoint

SKEWED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
DELAYS = Delays(unproven_s=3.0, failure_s=3.0, early_s=3.0, suspect_s=60.0)
POST = Request("POST", "/b/k", "CreateMultipartUpload", query=(("uploads", ""),), idempotent=False, resource="s3/b/k")


def _check(response: Response) -> None:
    if response.status == 503:
        raise ThrottledError(503, "SlowDown", endpoint=str(response.endpoint), retry_after_s=0.0)
    if response.status == 403:
        raise S3Error(403, "RequestTimeTooSkewed", server_time=1_000_000.0)
    if response.status == 404:
        raise NotFoundError(404, "NoSuchKey")
    if response.status >= 300:
        raise S3Error(response.status, "InternalError", endpoint=str(response.endpoint))
    response.preload()


class Pool:
    """A transport over endpoints in a known order, with short timeouts and recorded sleeps."""

    opened: ClassVar[list[Transport]] = []

    def __init__(
        self,
        *endpoints: Endpoint,
        retries: int = 5,
        read_timeout_s: float = 5.0,
        patience_s: float = 0.1,
        delays: Delays = DELAYS,
        sign: Sign = sign,
        wall_clock: Callable[[], float] = time.time,
    ):
        settings = ConnectionSettings(connect_timeout_s=1.0, read_timeout_s=read_timeout_s)
        self.nodes = [make_node(e, settings) for e in endpoints]
        balancer = LoadBalancer(self.nodes, random=Chosen(0))
        self.slept: list[float] = []
        self.transport = Transport(
            balancer,
            sign,
            policy=RetryPolicy(retries=retries, random=lambda: 0.0),
            read_timeout_s=read_timeout_s,
            patience_s=patience_s,
            delays=delays,
            wall_clock=wall_clock,
            sleep=self.slept.append,
        )
        self.opened.append(self.transport)

    def send(self, request: Request = GET, verdict: Callable[[Response], None] = _check) -> Response:
        return self.transport.send(request, verdict)


@pytest.fixture(autouse=True)
def _close_pools() -> Iterator[None]:
    yield
    while Pool.opened:
        Pool.opened.pop().close()


def test_requests_rotate_and_keep_their_connections(servers: Servers) -> None:
    """Four requests over two nodes: two each, on one connection each."""
    a, b = servers(), servers()
    pool = Pool(a.endpoint, b.endpoint)

    bodies = [pool.send().body for _ in range(4)]

    assert bodies == [b"ok"] * 4
    assert [(len(s.requests), s.connections) for s in (a, b)] == [(2, 1), (2, 1)]


def test_a_refused_node_costs_nothing_but_the_next_node(servers: Servers) -> None:
    """No pause, no retry used up: the server saw nothing."""
    b = servers()
    pool = Pool(refused_endpoint(), b.endpoint, retries=1)

    response = pool.send()

    assert (response.body, pool.slept) == (b"ok", [])


def test_all_nodes_refused_is_no_endpoint(servers: Servers) -> None:
    """The message names the operation, the object and what each node said; without retries one node is asked."""
    endpoints, other = (refused_endpoint(), refused_endpoint()), servers()
    pool, once = Pool(*endpoints, retries=1), Pool(endpoints[0], other.endpoint, retries=0)

    with pytest.raises(NoEndpointError) as caught:
        pool.send()
    with pytest.raises(NoEndpointError, match="in 1 attempt:"):
        once.send()

    assert (
        f"GetObject s3/b/k: no endpoint gave an answer in 3 attempts: {endpoints[0]}: connection refused; "
        f"{endpoints[1]}: connection refused; check the endpoints with s3pool ping"
    ) == str(caught.value)
    assert [] == other.requests


def test_a_silent_node_is_not_waited_for_alone(servers: Servers) -> None:
    """A read is asked of the next node as well, and the first answer wins."""
    a, b = servers(HANG), servers()
    pool = Pool(a.endpoint, b.endpoint)

    response = pool.send()

    assert response.body == b"ok"
    assert pool.transport.stats()[0].failure_kinds == {"timeout": 1}
    assert [(1, 0), (1, 1)] == [(row.requests, row.hedges) for row in pool.transport.stats()]


def test_a_slow_node_may_still_win_over_dead_ones(servers: Servers) -> None:
    """Asking elsewhere does not give up the first: it answers while the second is silent."""
    gate_sent: list[bytes] = []
    silent = servers(HANG)

    def answer_late(sock: socket.socket) -> None:
        silent_asked.wait_for_request()
        sock.sendall(OK)
        gate_sent.append(OK)

    silent_asked = RequestGate(silent)
    slow = servers(answer_late)
    pool = Pool(slow.endpoint, silent.endpoint, patience_s=0.3)

    response = pool.send()

    assert (b"ok", slow.endpoint) == (response.body, response.endpoint)


class RequestGate:
    """Wait, bounded, until a scripted server has seen a request."""

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server

    def wait_for_request(self) -> None:
        deadline = time.monotonic() + 5.0
        while not self._server.requests and time.monotonic() < deadline:
            time.sleep(0.005)


def test_silence_of_all_nodes_ends_with_the_read_timeout(servers: Servers) -> None:
    """Patience is not a limit: the full read timeout is."""
    a, b = servers(HANG), servers(HANG)
    pool = Pool(a.endpoint, b.endpoint, retries=0, read_timeout_s=0.3, patience_s=0.05)

    with pytest.raises(NoEndpointError, match="sent nothing for"):
        pool.send()


def test_a_write_asks_a_new_node_for_a_sign_of_life_first(servers: Servers) -> None:
    """A dead node behind an open port must not swallow a body or act twice; a node that answered is not asked again."""
    a, b = servers(HANG), servers(OK_EMPTY, OK)
    pool = Pool(a.endpoint, b.endpoint)

    bodies = [pool.send(PUT).body for _ in range(3)]

    assert [b"ok"] * 3 == bodies
    assert [b"GET / HTTP/1.1", *[b"PUT /b/k HTTP/1.1"] * 3] == [head.split(b"\r\n")[0] for head, _ in b.requests]
    assert all(head.startswith(b"GET / ") for head, _ in a.requests)


def test_a_slow_write_is_not_sent_to_a_second_node(servers: Servers) -> None:
    """Patience is for reads: a write that takes its time is under way once."""
    late = threading.Event()

    def answer_late(sock: socket.socket) -> None:
        late.wait(0.4)
        sock.sendall(OK)

    a, b = servers(OK_EMPTY, answer_late), servers()
    pool = Pool(a.endpoint, b.endpoint, patience_s=0.05)

    response = pool.send(PUT)

    assert (a.endpoint, []) == (response.endpoint, b.requests)


def test_a_node_that_falls_silent_is_not_waited_for_alone(servers: Servers) -> None:
    """It answered before; overdue by far, a read is asked elsewhere as well."""
    a, b = servers(OK, HANG), servers()
    pool = Pool(a.endpoint, b.endpoint)

    bodies = [pool.send().body for _ in range(3)]

    assert [b"ok"] * 3 == bodies
    assert {"timeout": 1} == pool.transport.stats()[0].failure_kinds


def test_a_silent_connection_is_got_round_by_a_new_one(servers: Servers) -> None:
    """Some servers make the requests of each connection wait: then more of them are used."""
    a, b = servers(OK, HANG), servers()
    pool = Pool(a.endpoint, b.endpoint)

    for _ in range(3):
        pool.send()
    next_of_b = pool.nodes[1].connections.checkout()

    assert 0 == next_of_b.exchanges
    pool.nodes[1].connections.checkin(next_of_b, reusable=False)


def test_an_answer_lost_on_the_way_is_not_repeated_for_a_create(servers: Servers) -> None:
    """The server may have acted: a second CreateMultipartUpload would leave an orphan."""
    a, b = servers(b"", close_after=[0]), servers()
    pool = Pool(a.endpoint, b.endpoint)
    for node in pool.nodes:
        node.is_proven = True

    with pytest.raises(ProtocolError, match="it may have been carried out all the same"):
        pool.send(POST)

    assert b.requests == []


def test_a_read_that_broke_off_is_repeated_elsewhere(servers: Servers) -> None:
    """The body was cut while the check read it, so the whole request is asked again."""
    a, b = servers(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf", close_after=[0]), servers()
    pool = Pool(a.endpoint, b.endpoint)

    response = pool.send()

    assert (b"ok", b.endpoint) == (response.body, response.endpoint)
    assert pool.transport.stats()[0].failures == 2  # the body, and the attempt that needed it


def test_a_server_error_goes_to_another_node_after_a_pause(servers: Servers) -> None:
    """500 is the node's illness; the pause grows with the attempts."""
    a, b = servers(BROKEN), servers()
    pool = Pool(a.endpoint, b.endpoint)

    response = pool.send()

    assert (response.body, len(pool.slept)) == (b"ok", 1)


@pytest.mark.parametrize(
    ("turn", "error", "requests"),
    [
        (BROKEN, "500 InternalError", 3),  # after the last attempt the user sees the storage's own words
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404 NoSuchKey", 1),  # an answer: nobody else is asked
        (SKEWED, "RequestTimeTooSkewed", 2),  # one that refuses the corrected time too is not asked for ever
    ],
)
def test_error_that_stays_is_raised_as_it_came(servers: Servers, turn: bytes, error: str, requests: int) -> None:
    """As soon as no repetition mends it."""
    server = servers(turn)
    pool = Pool(server.endpoint, retries=2)

    with pytest.raises(S3Error, match=error):
        pool.send()

    assert requests == len(server.requests)


def test_slow_down_keeps_the_circuit_closed(servers: Servers) -> None:
    """Load is not illness: the node cools down, another one answers."""
    a, b = servers(*[SLOW_DOWN] * 9), servers()
    pool = Pool(a.endpoint, b.endpoint)

    for _ in range(8):
        pool.send()

    assert pool.nodes[0].breaker.state == "closed"
    assert pool.transport.stats()[0].throttled >= 1
    assert pool.transport.stats()[0].failures == 0


def test_retry_after_is_waited_for_by_a_pool_of_one(servers: Servers) -> None:
    """There is nobody else to ask, so the server's wish counts."""

    def verdict(response: Response) -> None:
        if response.status == 503:
            raise ThrottledError(503, "SlowDown", retry_after_s=7.0)
        response.preload()

    pool = Pool(servers(SLOW_DOWN, OK).endpoint)
    pool.send(GET, verdict)

    assert 7.0 == sum(pool.slept)


def test_circuit_opens_and_the_node_is_left_alone(servers: Servers) -> None:
    """Two refused connections open it; later requests do not even try."""
    b = servers()
    dead = refused_endpoint()
    pool = Pool(dead, b.endpoint)
    pool.nodes[0].breaker.report_failure(3)
    pool.nodes[0].breaker.report_failure(3)

    for _ in range(6):
        pool.send()

    assert pool.transport.stats()[0].requests == 0
    assert len(b.requests) == 6


def test_clock_skew_is_learned_and_the_request_signed_again(servers: Servers) -> None:
    """The storage's clock decides; one refusal teaches it for the rest of the run."""
    times: list[float] = []
    a = servers(SKEWED, OK)
    pool = Pool(
        a.endpoint,
        sign=lambda request, endpoint, now: (times.append(now), sign(request, endpoint, now))[1],
        wall_clock=lambda: 5_000.0,
    )

    pool.send()

    assert times == [5_000.0, 1_000_000.0]


def test_only_keeps_every_attempt_on_one_node(servers: Servers) -> None:
    """A speed test of one node must not measure another."""
    a, b = servers(BROKEN, OK), servers()
    pool = Pool(a.endpoint, b.endpoint)

    pool.transport.send(GET, _check, only=a.endpoint)

    assert (len(a.requests), len(b.requests)) == (2, 0)


def test_a_stale_connection_is_replaced_without_blame(servers: Servers) -> None:
    """The server's idle limit is no failure and no retry."""
    a = servers(OK, close_after=range(10))
    pool = Pool(a.endpoint, retries=0)

    bodies = [pool.send().body for _ in range(3)]

    assert bodies == [b"ok"] * 3
    assert pool.transport.stats()[0].failures == 0


def test_an_early_refusal_of_an_upload_is_read(servers: Servers) -> None:
    """A 404 sent before the body was taken is the answer, not a broken pipe."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.recv(1000)
            sock.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            with suppress(ConnectionResetError):  # the rest of the body is not sent
                while sock.recv(1 << 20):
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    pool = Pool(Endpoint("http", "127.0.0.1", listener.getsockname()[1]), retries=0)
    big = Request("PUT", "/b/k", "PutObject", body=BytesBody(b"x" * 30_000_000))

    with pytest.raises(NotFoundError):
        pool.send(big)

    thread.join()
    listener.close()


@pytest.mark.parametrize("value", ["a\r\nx-amz-acl: public-read", "a\nb", "a\0b"])
def test_header_injection_is_refused_before_anything_is_sent(servers: Servers, value: str) -> None:
    """Metadata from a user must not become another header."""
    a = servers()
    pool = Pool(a.endpoint)

    with pytest.raises(UsageError, match="x-amz-meta-note"):
        pool.send(Request("GET", "/b/k", "GetObject", headers={"x-amz-meta-note": value}))

    assert a.requests == []


def test_statistics_count_bytes_and_attempts(servers: Servers) -> None:
    """--stats shows what really went over the connection."""
    a = servers()
    pool = Pool(a.endpoint)

    pool.send()

    stats = pool.transport.stats()[0]
    head = a.requests[0][0]
    assert (1, 0, len(head) + 4, len(OK)) == (stats.requests, stats.retries, stats.bytes_sent, stats.bytes_received)


def test_a_proven_node_that_loses_a_race_costs_one_read_only(servers: Servers) -> None:
    """A node that fell silent may cost one read its delay; then it waits, and the counters tell of it."""
    a, b = servers(OK, HANG), servers(OK)
    pool = Pool(a.endpoint, b.endpoint, delays=Delays(proven_s=0.05, early_s=0.05, suspect_s=60.0), patience_s=5.0)

    answers = [pool.send() for _ in range(20)]

    assert [b"ok"] * 20 == [response.body for response in answers]
    assert (False, {"timeout": 1}) == (pool.nodes[0].breaker.is_clean, pool.nodes[0].counters.failure_kinds)


@pytest.mark.parametrize("turn", [HANG, OK[:-1]], ids=["head", "body"])
def test_user_is_told_once_what_is_waited_for(
    servers: Servers, caplog: pytest.LogCaptureFixture, turn: bytes | None
) -> None:
    """A command that says nothing for minutes looks as if it hung itself."""
    gate = threading.Event()

    def stop(sock: socket.socket) -> None:
        sock.sendall(turn or b"")
        gate.wait(5.0)

    server = servers(stop, OK)
    pool = Pool(server.endpoint, read_timeout_s=1.2, delays=Delays(tell_s=0.0))

    pool.send()
    gate.set()

    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [f"still waiting for GetObject s3/b/k: {server.endpoint} has sent nothing for 1 s"] == told


def test_unproven_node_that_says_nothing_is_passed_over_soon(servers: Servers) -> None:
    """It costs one more request, and the node is not called ill for it."""
    a, b = servers(HANG), servers()
    pool = Pool(a.endpoint, b.endpoint, patience_s=5.0, delays=Delays(early_s=0.05, failure_s=3.0, unproven_s=3.0))
    pool.nodes[1].note_answer(0.001)

    response = pool.send()

    assert (b"ok", b.endpoint) == (response.body, response.endpoint)
    assert (True, True) == (pool.nodes[0].is_suspect, pool.nodes[0].breaker.is_sound)
    assert {} == pool.nodes[0].counters.failure_kinds


def test_first_kept_connection_is_not_waited_for_long(servers: Servers) -> None:
    """Nobody knows yet how it is served; where it has to wait, the others get more connections at once."""
    a, b = servers(OK, HANG), servers()
    pool = Pool(a.endpoint, b.endpoint, patience_s=5.0, delays=Delays(proven_s=5.0, early_s=0.1, unproven_s=5.0))
    pool.send(), pool.send()
    kept = pool.transport.context.kept
    before = kept.is_trying(GET.op)

    response = pool.send()

    assert (b"ok", b.endpoint, 2) == (response.body, response.endpoint, b.connections)
    assert (True, False) == (before, kept.is_trying(GET.op))
    assert {} == pool.nodes[0].counters.failure_kinds


def test_answer_over_a_kept_connection_ends_the_doubt(servers: Servers) -> None:
    """From then on a kept connection has the time of any other; other operations may be served otherwise."""
    pool = Pool(servers().endpoint, servers().endpoint)
    kept = pool.transport.context.kept

    known = [(pool.send().status, kept.is_trying(GET.op)) for _ in range(3)]

    assert [(200, True), (200, True), (200, False)] == known
    assert kept.is_trying("HeadObject")


def test_steps_give_many_answers_in_one_thread(servers: Servers) -> None:
    """A lane sends all requests before it waits for the first answer."""
    pool = Pool(servers().endpoint, servers().endpoint)
    calls = [pool.transport.attempt(GET, _check) for _ in range(4)]

    begun = [call.start() for call in calls]
    answers = [pool.transport.finish(call) for call in calls]

    assert [True] * 4 == begun
    assert [200] * 4 == [answer.status for answer in answers if answer is not None]


@pytest.mark.parametrize(("timely", "is_measured"), [(True, True), (False, False)])
def test_answer_that_waited_tells_nothing_about_the_node(servers: Servers, timely: bool, is_measured: bool) -> None:
    """Who reads a page of a listing for a minute did not wait a minute for the next one."""
    pool = Pool(servers().endpoint, servers().endpoint)
    call = pool.transport.attempt(GET, _check)
    call.start()
    wait_readable([call], 5.0)

    if not timely:
        call.note_waiting()
    answer = pool.transport.finish(call)

    node = pool.nodes[0]
    assert answer is not None
    assert (True, is_measured, is_measured) == (node.is_proven, node.latency_s > 0, node.counters.seconds > 0)


def test_failure_to_begin_is_told_at_the_end(servers: Servers) -> None:
    """A refused connection is one failed try like any other."""
    pool = Pool(refused_endpoint(), servers().endpoint)
    call = pool.transport.attempt(PUT, _check)

    begun, answer = call.start(), pool.transport.finish(call)

    assert (True, 200) == (begun, answer.status)


def test_silent_node_is_waited_for_when_the_next_one_is_busy(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds all connections of the next node may be this thread itself."""
    busy_was_asked = threading.Event()

    def answer_late(sock: socket.socket) -> None:
        assert busy_was_asked.wait(5.0)
        sock.sendall(OK)

    slow, busy = servers(answer_late), servers()
    pool = Pool(slow.endpoint, busy.endpoint)

    def checkout(**options: object) -> NodeConnection:
        busy_was_asked.set()
        assert options["wait"] is False
        raise PoolExhausted

    monkeypatch.setattr(pool.nodes[1].connections, "checkout", checkout)

    response = pool.send()

    assert (b"ok", slow.endpoint) == (response.body, response.endpoint)


def test_silent_node_is_waited_for_when_all_connections_are_held_by_silent_ones(servers: Servers) -> None:
    """Nobody else would give them back: this thread holds them."""
    began = threading.Event()

    def answer_late(sock: socket.socket) -> None:
        assert began.wait(5.0)
        sock.sendall(OK)

    slow, other = servers(answer_late), servers()
    nodes = [
        Node(s.endpoint, ConnectionPool(s.endpoint, ConnectionSettings(max_connections=1)), CircuitBreaker())
        for s in (slow, other)
    ]
    balancer = LoadBalancer(nodes, random=Chosen(0))
    transport = Transport(balancer, sign, read_timeout_s=60.0, delays=DELAYS)
    held = nodes[1].connections.checkout()
    call = transport.attempt(GET, _check)
    call.start()
    call.exchanges[0].connection.moved_at -= 10.0
    call.on_deadline()
    began.set()

    with transport.finish(call) as response:
        answered_by = response.endpoint

    held.close()
    transport.close()
    assert slow.endpoint == answered_by


def test_silent_nodes_that_fail_both_are_asked_anew(servers: Servers) -> None:
    """What has failed is not waited for again, and nothing is left in use."""
    both_asked, first_is_gone = threading.Event(), threading.Event()

    def fail_first(sock: socket.socket) -> None:
        assert both_asked.wait(5.0)
        sock.shutdown(socket.SHUT_WR)
        assert b"" == sock.recv(1)
        first_is_gone.set()

    def fail_then(sock: socket.socket) -> None:
        both_asked.set()
        assert first_is_gone.wait(5.0)
        sock.shutdown(socket.SHUT_WR)

    pool = Pool(*[servers(turn, OK).endpoint for turn in (fail_first, fail_then, OK)], patience_s=0.1)

    response = pool.send()

    assert b"ok" == response.body
    assert [0, 0, 0] == [node.in_flight for node in pool.nodes]


def test_begin_does_not_wait_for_a_connection_when_told_so(servers: Servers) -> None:
    """Who holds the others would wait for itself; an abandoned call gives its connection back."""
    node = make_node(servers().endpoint, ConnectionSettings(max_connections=1))
    transport = Transport(LoadBalancer([node]), sign)
    first, second, third = (transport.attempt(GET, _check) for _ in range(3))

    begun = [call.start(wait=False) for call in (first, second)]
    transport.finish(first)
    begun.append(second.start(wait=False))
    for _ in range(2):
        second.abandon()
    begun.append(third.start(wait=False))
    transport.finish(third)
    transport.close()

    assert [True, False, True, True] == begun
    assert (3, 0) == (node.counters.requests, node.in_flight)
