"""Processes: what they tell each other, and signals that arrive while one of them waits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from s3pool.model import Endpoint
from s3pool.pool.balancer import LoadBalancer
from s3pool.pool.connections import ConnectionPool, ConnectionSettings
from s3pool.pool.node import CLOSED, OPEN, CircuitBreaker, Node
from s3pool.proxy.supervisor import SUMMED, StateDirectory, apply_snapshot, snapshot, sum_states


def make_node(port: int) -> Node:
    """Give a node that nothing connects to."""
    endpoint = Endpoint("http", "127.0.0.1", port)
    return Node(endpoint, ConnectionPool(endpoint, ConnectionSettings()), CircuitBreaker())


def test_orders_reach_the_workers(tmp_path: Path) -> None:
    """What the prober saw counts in every process."""
    here, there = [make_node(1), make_node(2)], [make_node(1), make_node(2)]
    here[0].is_draining = True
    here[1].breaker.trip()
    board = StateDirectory(str(tmp_path))

    board.put("orders.json", snapshot(here))
    apply_snapshot(there, board.get("orders.json"), {})

    assert [(True, CLOSED), (False, OPEN)] == [(node.is_draining, node.breaker.state) for node in there]


def test_node_that_is_up_again_gets_a_trial() -> None:
    """A probe alone does not close a circuit; a request does."""
    node = make_node(1)
    apply_snapshot([node], {"down": [node.endpoint.url]}, {})
    before = node.breaker.is_trial_due()

    apply_snapshot([node], {"down": []}, {"down": [node.endpoint.url]})

    assert (False, True) == (before, node.breaker.is_trial_due())


def test_absent_or_broken_record_is_empty(tmp_path: Path) -> None:
    """The other process may just be starting."""
    (tmp_path / "worker-1.json").write_text("{")

    assert ({}, {}) == (StateDirectory(str(tmp_path)).get("worker-1.json"), StateDirectory(str(tmp_path)).get("none"))


def test_workers_are_added_up() -> None:
    """One truth of many processes."""
    row = {"endpoint": "http://a", "state": CLOSED, "latency_ms": 2.0, "last_error": "", "in_flight": 1, "ejections": 1}
    row |= {"failure_kinds": {"connect": 2}, "connections": {"new": 1, "reused": 4, "stale": 0}}
    row |= {"health": "up", "drained": False, "answers": 2, "answer_seconds": 0.5, "hedges": 1}
    row |= dict.fromkeys(("requests", "failures", "throttled", "retries", "bytes_sent", "bytes_received"), 3)
    record = {
        "connections": 2,
        "pids": [7],
        "requests": {"by_op": {"GetObject": 3}, "by_status": {"2xx": 3}, "by_first_byte": {"0.1": 0, "+Inf": 1}},
        "replay_memory": {"used": 1, "size": 10},
        "spool": {"used": 2, "size": 20},
        "retrying": 1,
        "endpoints": [row],
    }
    other = {**record, "endpoints": [{**row, "state": OPEN, "last_error": "gone", "latency_ms": 4.0, "ejections": 2}]}

    total = sum_states([record, other], record)

    assert (2, 4, {"GetObject": 6}, 20) == (
        total["processes"],
        total["connections"],
        total["requests"]["by_op"],
        total["replay_memory"]["size"],
    )
    assert ([7, 7, 7], 2) == (total["pids"], total["endpoints"][0]["hedges"])
    assert {"0.1": 0, "+Inf": 2} == total["requests"]["by_first_byte"]
    assert (4, 1.0) == tuple(total["endpoints"][0][name] for name in ("answers", "answer_seconds"))
    assert (4, 2) == (total["spool"]["used"], total["retrying"])
    assert {"connect": 4} == total["endpoints"][0]["failure_kinds"]
    assert {"new": 2, "reused": 8, "stale": 0} == total["endpoints"][0]["connections"]
    assert (OPEN, 6, 3.0, "gone", 2) == tuple(
        total["endpoints"][0][name] for name in ("state", "requests", "latency_ms", "last_error", "ejections")
    )


@pytest.mark.parametrize(
    ("own", "workers", "expected"),
    [
        ({}, [{}, {}], "up"),
        ({}, [{}, {"health": "down"}], "avoided"),
        ({}, [{"health": "avoided"}, {}], "avoided"),
        ({"health": "down"}, [{}, {}], "down"),
        ({"drained": True, "health": "drained"}, [{"in_flight": 1}, {}], "draining"),
        ({"drained": True, "health": "drained"}, [{}, {}], "drained"),
    ],
)
def test_state_of_a_node_is_that_of_all_processes(
    own: dict[str, object], workers: list[dict[str, object]], expected: str
) -> None:
    """Down is what the probes say, avoided what one worker found, and drained is a node that no worker uses."""
    row = {"endpoint": "http://a", "state": CLOSED, "health": "up", "drained": False, "ejections": 0, "last_error": ""}
    row |= {"failure_kinds": {}, "connections": {}, "latency_ms": 0.0}
    row |= dict.fromkeys(SUMMED, 0)
    whole = {"requests": {}, "connections": 0, "retrying": 0, "replay_memory": {"used": 0, "size": 0}}
    whole |= {"spool": {"used": 0, "size": 0}, "pids": []}

    records = [{**whole, "endpoints": [{**row, **more}]} for more in (*workers, own)]
    total = sum_states(records[:-1], records[-1])

    assert expected == total["endpoints"][0]["health"]


def test_drained_nodes_are_left_out() -> None:
    """Unless all are: then somebody has to work."""
    nodes = [make_node(port) for port in (1, 2, 3)]
    balancer = LoadBalancer(nodes)
    nodes[0].is_draining = nodes[1].is_draining = True

    alone = {balancer.pick() for _ in range(6)}
    nodes[2].is_draining = True

    assert {nodes[2]} == alone
    assert set(nodes) == {balancer.pick() for _ in range(6)}


def test_lower_tier_waits_until_the_first_is_out() -> None:
    """A copy far away is for emergencies."""
    nodes = [make_node(port) for port in (1, 2, 3)]
    nodes[2].priority = 1
    balancer = LoadBalancer(nodes)

    first = {balancer.pick() for _ in range(6)}
    nodes[0].breaker.trip()
    nodes[1].breaker.trip()

    assert set(nodes[:2]) == first
    assert {nodes[2]} == {balancer.pick() for _ in range(6)}


SCRIPT = """
import random
import signal
from s3pool.proxy.supervisor import Signals
signals = Signals()
signal.signal(signal.SIGALRM, lambda *_: signals.on_signal(signal.SIGHUP, None))
for _ in range(5000):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.0002))
    signals.wait(0.0001)
print("waited")
"""
TIMEOUT_S = 300.0  # by which a process that waits for ever is told from a slow one


def test_signal_inside_a_wait_does_not_stop_it() -> None:
    """A handler that waits for what the interrupted thread holds waits for ever, and no signal ends the process."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )

    assert "waited\n" == done.stdout
