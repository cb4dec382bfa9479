"""Probes and the checker that reports them."""

from __future__ import annotations

import logging
import threading

import pytest

from s3pool.pool.health import HealthChecker, ProbePlan, probe
from s3pool.pool.node import OPEN
from tests.support.pools import NodeFor, Servers
from tests.support.scripted import BROKEN, HANG, refused_endpoint

DENIED = b"HTTP/1.1 403 Forbidden\r\nServer: MinIO\r\nContent-Length: 3\r\n\r\nno!"
RGW = (
    b"HTTP/1.1 200 OK\r\nServer: Ceph Object Gateway (pacific)\r\nDate: Thu, 01 Jan 1970 00:00:10 GMT\r\n"
    b"Content-Length: 0\r\n\r\n"
)


@pytest.mark.parametrize(
    ("turn", "expected"),
    [(DENIED, (True, 403, "MinIO", "")), (BROKEN, (False, 500, "", "status 500"))],  # RGW welcomes, MinIO denies
)
def test_any_status_below_500_is_alive(
    servers: Servers, node_for: NodeFor, turn: bytes, expected: tuple[object, ...]
) -> None:
    """An unsigned request may be denied; a node that answers 500 to the simplest request is ill."""
    result = probe(node_for(servers(turn).endpoint))

    assert expected == (result.is_alive, result.status, result.server, result.error)


def test_refused_or_silent_node_is_not_alive(servers: Servers, node_for: NodeFor) -> None:
    """The reason is kept for ping's table; a black hole accepts connections."""
    endpoint = refused_endpoint()

    refused, silent = probe(node_for(endpoint)), probe(node_for(servers(HANG).endpoint), timeout_s=0.05)

    assert (False, f"{endpoint}: connection refused", False) == (refused.is_alive, refused.error, silent.is_alive)
    assert "sent nothing for 0.05 s" in silent.error


def test_a_probe_reads_the_clock_of_the_server(servers: Servers, node_for: NodeFor) -> None:
    """Clock differences break signatures; ping shows them."""
    result = probe(node_for(servers(RGW).endpoint))

    assert result.clock_offset_s is not None
    assert result.clock_offset_s < -1_000_000


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.999])
def test_the_clock_of_a_server_that_agrees_differs_by_half_a_second_at_most(
    servers: Servers, node_for: NodeFor, monkeypatch: pytest.MonkeyPatch, fraction: float
) -> None:
    """Its Date header is cut to whole seconds, which must not look like a clock that is late."""
    monkeypatch.setattr("s3pool.pool.health.time.time", lambda: 10.0 + fraction)

    offset_s = probe(node_for(servers(RGW).endpoint)).clock_offset_s

    assert offset_s is not None
    assert abs(offset_s) <= 0.5


@pytest.mark.parametrize("adapts", [True, False])
def test_later_probes_use_the_servers_own_health_path(servers: Servers, node_for: NodeFor, adapts: bool) -> None:
    """RGW and MinIO have paths that cost them nothing; a plain probe asks the generic question again."""
    server = servers(RGW)
    checker = HealthChecker([node_for(server.endpoint)], plan=ProbePlan(adapts=adapts))

    checker.check_all()
    checker.check_all()

    second = b"GET /swift/healthcheck HTTP/1.1" if adapts else b"GET / HTTP/1.1"
    assert [b"GET / HTTP/1.1", second] == [head.split(b"\r\n")[0] for head, _ in server.requests]


@pytest.mark.parametrize(("plan", "fall"), [(ProbePlan(), 3), (ProbePlan(fall=1), 1), (ProbePlan(fall=5), 5)])
def test_as_many_failures_as_wanted_open_the_circuit(
    node_for: NodeFor, caplog: pytest.LogCaptureFixture, plan: ProbePlan, fall: int
) -> None:
    """Not one before: a lost probe is noise. Leaving the pool is said once."""
    node = node_for(refused_endpoint())
    checker = HealthChecker([node], plan=plan)

    with caplog.at_level(logging.WARNING):
        states = [(checker.check_all(), node.breaker.state)[1] for _ in range(fall + 1)]

    assert ["closed"] * (fall - 1) + [OPEN] * 2 == states
    assert [f"{node.endpoint} leaves the pool: {node.endpoint}: connection refused"] == caplog.messages


@pytest.mark.parametrize(("plan", "rise"), [(ProbePlan(), 2), (ProbePlan(rise=1), 1), (ProbePlan(rise=3), 3)])
def test_as_many_successes_as_wanted_invite_a_trial_but_do_not_close(
    servers: Servers, node_for: NodeFor, plan: ProbePlan, rise: int
) -> None:
    """The probe does not touch the store; a real request decides."""
    node = node_for(servers().endpoint)
    node.breaker.trip()
    checker = HealthChecker([node], plan=plan)

    due = [(checker.check_all(), node.breaker.is_trial_due())[1] for _ in range(rise)]

    assert [False] * (rise - 1) + [True] == due
    assert OPEN == node.breaker.state


def test_the_thread_ends_when_it_is_told_to(servers: Servers, node_for: NodeFor) -> None:
    """Its owner starts and joins it; nothing is left behind."""
    server = servers()
    checker = HealthChecker([node_for(server.endpoint)], interval_s=3600)

    checker.start()
    running = [thread.name for thread in threading.enumerate() if thread.name == "s3pool-health"]
    checker.stop()

    assert ["s3pool-health"] == running
    assert not [thread for thread in threading.enumerate() if thread.name == "s3pool-health"]


def test_a_bug_in_one_probe_does_not_end_the_watch(
    servers: Servers, node_for: NodeFor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are still watched, and the traceback is logged."""
    good, bad = servers(), node_for(servers().endpoint)
    monkeypatch.setattr(bad, "connections", None)
    checker = HealthChecker([bad, node_for(good.endpoint)])

    checker.check_all()

    assert len(good.requests) == 1
    assert f"probing {bad.endpoint} failed" in caplog.messages


def test_a_path_that_speaks_of_health_must_be_answered_with_success(servers: Servers, node_for: NodeFor) -> None:
    """A node that refuses there, or says 412 for maintenance, is not to be used."""
    denied = servers(DENIED)
    node = node_for(denied.endpoint)
    checker = HealthChecker([node], plan=ProbePlan(path="/minio/health/cluster?maintenance=true", fall=1))

    checker.check_all()

    assert OPEN == node.breaker.state
    assert b"GET /minio/health/cluster?maintenance=true HTTP/1.1" == denied.requests[0][0].split(b"\r\n")[0]


def test_a_knock_asks_nothing(servers: Servers, node_for: NodeFor) -> None:
    """An open port is enough; a closed one is not."""
    server = servers(HANG)
    open_node, closed_node = node_for(server.endpoint), node_for(refused_endpoint())
    checker = HealthChecker([open_node, closed_node], plan=ProbePlan(connects_only=True, fall=1))

    checker.check_all()

    assert ("closed", OPEN, []) == (open_node.breaker.state, closed_node.breaker.state, server.requests)
