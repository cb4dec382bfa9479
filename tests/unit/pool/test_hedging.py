"""Wait for strangers: a node that never answered is soon passed over, and never given up for good."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from s3pool.errors import ConnectError, NoEndpointError
from s3pool.model import Endpoint, Request, Response
from s3pool.pool.balancer import LoadBalancer
from s3pool.pool.connections import ConnectionPool, ConnectionSettings
from s3pool.pool.http1 import NodeConnection
from s3pool.pool.node import CLOSED, CircuitBreaker, Delays, Node
from s3pool.pool.retry import RetryPolicy, connect_attempt_delay_s, hedge_delay_s, is_early
from s3pool.pool.transport import Transport
from tests.support.clock import Chosen
from tests.support.pools import GET, PUT, make_node, sign
from tests.support.scripted import OK, ScriptedServer

FULL_S = 3.0
FIRST_S, LEAST_S, EARLY_S = 1.0, 0.5, 0.1
DELAYS = Delays()
SETTINGS = ConnectionSettings(connect_timeout_s=FULL_S, read_timeout_s=5.0)


class FarPool(ConnectionPool):
    """Connections that take a second, on a clock that stands still."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint, SETTINGS)
        self.given: list[float] = []

    def open(self, timeout_s: float) -> NodeConnection:
        self.given.append(timeout_s)
        if timeout_s < FULL_S:
            raise ConnectError(f"{self.endpoint}: no connection within {timeout_s:g} s", is_late=True)
        return super().open(timeout_s)


def _node(endpoint: Endpoint, *, opened: float = 0.0, latency: float = 0.0) -> Node:
    node = make_node(endpoint, SETTINGS)
    node.delays = DELAYS
    node.connections.open_s = opened
    if latency:
        node.note_answer(latency)
    return node


opened: list[Transport] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while opened:
        opened.pop().close()


def _transport(nodes: list[Node], *, retries: int = 5, delays: Delays = DELAYS) -> tuple[Transport, list[float]]:
    balancer = LoadBalancer(nodes, random=Chosen(0))
    slept: list[float] = []
    policy = RetryPolicy(retries=retries, random=lambda: 0.0)
    opened.append(Transport(balancer, sign, policy=policy, patience_s=FULL_S, delays=delays, sleep=slept.append))
    return opened[-1], slept


@pytest.fixture(name="server")
def _server() -> Iterator[ScriptedServer]:
    with ScriptedServer([OK]) as server:
        yield server


@pytest.fixture(name="black_hole")
def _black_hole() -> Iterator[Endpoint]:
    """Give a port that accepts connections, in the kernel, and never reads what comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Endpoint.parse(f"https://127.0.0.1:{listener.getsockname()[1]}")


STRANGER = Endpoint.parse("http://127.0.0.1:1")
OTHER = Endpoint.parse("http://127.0.0.1:2")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [([], FIRST_S), ([0.001], EARLY_S), ([0.1], 1.0), ([0.001, 0.1, 0.2], 1.0), ([2.0], FULL_S)],
)
def test_strangers_get_what_others_took_many_times(seconds: list[float], expected: float) -> None:
    """On a slow network all connections are slow, and none is given up for it."""
    nodes = [_node(STRANGER), *(_node(OTHER, opened=other, latency=other) for other in seconds)]

    assert expected == connect_attempt_delay_s(nodes[0], nodes, full_s=FULL_S)
    assert expected == hedge_delay_s(nodes[0], nodes, full_s=FULL_S)


@pytest.mark.parametrize(("usual_s", "expected"), [(0.001, LEAST_S), (0.1, 1.0), (2.0, FULL_S)])
def test_second_time_strangers_get_longer(usual_s: float, expected: float) -> None:
    """Who is to be called ill for it is not judged after a moment."""
    nodes = [_node(STRANGER), _node(OTHER, opened=usual_s, latency=usual_s)]
    nodes[0].mark_suspect(0.0)

    assert expected == connect_attempt_delay_s(nodes[0], nodes, full_s=FULL_S)
    assert expected == hedge_delay_s(nodes[0], nodes, full_s=FULL_S)


@pytest.mark.parametrize(
    ("usual_s", "trying", "expected"),
    [(0.001, True, EARLY_S), (0.04, True, 0.2), (2.0, True, 10.0), (0.001, False, 1.0), (2.0, False, 40.0)],
)
def test_kept_connections_are_doubted_until_one_is_answered(usual_s: float, trying: bool, expected: float) -> None:
    """Some servers make their requests wait; a store that is slow throughout is not asked twice for it."""
    nodes = [_node(STRANGER, latency=usual_s), _node(OTHER, latency=usual_s)]

    assert expected == pytest.approx(hedge_delay_s(nodes[0], nodes, full_s=FULL_S, is_trying_kept=trying))


def test_only_a_moment_is_early() -> None:
    """What a person has set as the limit is one, however short."""
    assert [True, False] == [is_early(seconds, DELAYS, full_s=FULL_S) for seconds in (EARLY_S, LEAST_S)]
    assert not is_early(EARLY_S, DELAYS, full_s=EARLY_S)


def test_answers_without_a_time_tell_nothing() -> None:
    """A node that only answered a probe did not take no time."""
    nodes = [_node(STRANGER), _node(OTHER)]
    nodes[1].note_answer(None)

    assert FIRST_S == hedge_delay_s(nodes[0], nodes, full_s=FULL_S)


def test_known_nodes_have_their_full_time() -> None:
    """One that was reached before is worth waiting for."""
    nodes = [_node(STRANGER, opened=0.01), _node(OTHER, opened=0.01)]

    assert FULL_S == connect_attempt_delay_s(nodes[0], nodes, full_s=FULL_S)


def test_patience_is_never_beyond_the_connect_timeout() -> None:
    """Who sets a short one means it."""
    nodes = [_node(STRANGER), _node(OTHER)]

    assert 0.1 == connect_attempt_delay_s(nodes[0], nodes, full_s=0.1)
    assert 0.1 == hedge_delay_s(nodes[0], nodes, full_s=0.1)


def test_handshake_without_end_is_passed_over(black_hole: Endpoint, server: ScriptedServer) -> None:
    """A node behind an open port that answers nothing costs a moment, no pause and no retry."""
    nodes = [_node(black_hole), _node(server.endpoint)]
    transport, slept = _transport(nodes, retries=1, delays=Delays(unproven_s=0.05))

    response = transport.send(GET, Response.preload)

    assert (b"ok", []) == (response.body, slept)
    assert {"connect": 1} == nodes[0].counters.failure_kinds
    assert f"{black_hole}: no connection within 0.05 s" == nodes[0].counters.snapshot("", CLOSED).last_error
    assert (CLOSED, False) == (nodes[0].breaker.state, nodes[0].breaker.is_clean)


def test_far_nodes_are_reached_all_the_same(server: ScriptedServer) -> None:
    """When nobody can be had at once, the full time is given, and none of it was a retry."""
    pools = [FarPool(OTHER), FarPool(server.endpoint), FarPool(OTHER)]
    nodes = [Node(pool.endpoint, pool, CircuitBreaker()) for pool in pools]
    nodes[2].is_draining = True
    transport, slept = _transport(nodes, retries=1)

    response = transport.send(GET, Response.preload)

    assert (b"ok", []) == (response.body, slept)
    assert ([FIRST_S], [FIRST_S, FULL_S]) == (pools[0].given, pools[1].given)


@pytest.mark.parametrize(("request_", "retries"), [(PUT, 5), (GET, 0)])
def test_haste_is_for_reads_that_may_go_on(request_: Request, retries: int) -> None:
    """A write, or one attempt alone, gets all the time there is."""
    pools = [FarPool(STRANGER), FarPool(OTHER)]
    transport, _ = _transport([Node(pool.endpoint, pool, CircuitBreaker()) for pool in pools], retries=retries)

    with pytest.raises(NoEndpointError):
        transport.send(request_, Response.preload)

    assert {FULL_S} == {*pools[0].given, *pools[1].given}


def test_stranger_is_passed_over_before_it_is_called_ill(black_hole: Endpoint, server: ScriptedServer) -> None:
    """A moment of silence costs it its turn; only the next one, a longer one, is a failure."""
    nodes = [_node(black_hole), _node(server.endpoint, opened=0.001)]
    transport, slept = _transport(nodes, delays=Delays(early_s=0.05, failure_s=0.1))

    first = transport.send(GET, Response.preload)
    seen = (nodes[0].breaker.is_sound, nodes[0].counters.failure_kinds.copy())
    is_spared = transport.balancer.pick() is nodes[1] and transport.balancer.pick() is nodes[1]
    nodes[0].cooling_until = 0.0
    second = [transport.send(GET, Response.preload).body for _ in range(2)]

    assert (b"ok", True, {}, True) == (first.body, *seen, is_spared)
    assert ([b"ok"] * 2, {"connect": 1}, []) == (second, nodes[0].counters.failure_kinds, slept)
