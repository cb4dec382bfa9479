"""What one bad node may cost, whatever it does, on a clock that only the test turns."""

from __future__ import annotations

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from s3pool.errors import ProtocolError, RequestTimeoutError, S3Error
from s3pool.model import Endpoint, Request
from s3pool.pool.balancer import LoadBalancer
from s3pool.pool.connections import ConnectionPool
from s3pool.pool.exchange import Exchange
from s3pool.pool.node import CLOSED, OPEN_BASE_S, SUSPECT_S, CircuitBreaker, Delays, Node
from s3pool.pool.retry import (
    AttemptContext,
    KeptConnections,
    RetryPolicy,
    hedge_delay_s,
    report_failure,
    report_lost_race,
)
from tests.support.clock import Clock
from tests.support.pools import GET

FULL_S = 3.0
ANSWER_S = 0.001
PAUSE_S = 0.05  # between two reads
FAST, SILENT, PROBE_WELL, PROBE_FAILS = "fast", "silent", "a probe succeeds", "a probe fails"
LATE_WRITE = "a write that was under way is answered after a minute"  # the node froze, and thaws
schedules = st.lists(st.sampled_from([FAST, SILENT, PROBE_WELL, PROBE_FAILS, LATE_WRITE]), max_size=400)


class Loser:
    """A read that another node answered."""

    def __init__(self, node: Node, started: float, now: float) -> None:
        self.node, self.started, self.request = node, started, GET
        self._seconds = now - started

    def late_error(self) -> RequestTimeoutError:
        """Return what is counted."""
        return RequestTimeoutError(f"silent for {self._seconds:.1f} s")


class World:
    """Nodes of which all but the first answer at once, and one reader after the other."""

    def __init__(self, count: int = 2) -> None:
        self.clock = Clock()
        self.clock.time = 1000.0
        self.nodes = [
            Node(
                Endpoint("http", f"node{number}", 80),
                cast("ConnectionPool", None),
                CircuitBreaker(now=self.clock, random=lambda: 0.5),
            )
            for number in range(count)
        ]
        for node in self.nodes:
            node.delays = Delays()
            node.note_answer(ANSWER_S, at=self.clock.time)
        self.balancer = LoadBalancer(self.nodes, now=self.clock)
        self.context = AttemptContext(
            policy=RetryPolicy(),
            balancer=self.balancer,
            build_head=lambda _request, _endpoint: b"",
            learn_clock=lambda _seconds: None,
            read_timeout_s=60.0,
            patience_s=FULL_S,
            kept=KeptConnections(),
            now=self.clock,
        )

    def read(self, *, is_silent: bool) -> float:
        """Let one read happen; return what it cost beyond an answer."""
        node, started = self.balancer.pick(), self.clock.time
        cost_s = 0.0
        if node is self.nodes[0] and is_silent:
            cost_s = hedge_delay_s(node, self.nodes, full_s=FULL_S)
            self.clock.time += cost_s + ANSWER_S  # a thread wakes a moment late
            report_lost_race(self.context, cast("Exchange", Loser(node, started, self.clock.time)))
            node = self.balancer.pick(exclude=[node])
        self.clock.time += ANSWER_S
        node.note_answer(ANSWER_S, at=self.clock.time)
        node.breaker.report_success()
        self.clock.time += PAUSE_S
        return cost_s


def test_node_that_is_silent_for_good_costs_three_seconds() -> None:
    """And then one second for each trial, of which there are fewer and fewer."""
    world = World()

    costs = [world.read(is_silent=True) for _ in range(500)]

    assert sum(costs) <= 3.0


@given(schedules, st.integers(2, 5))
def test_no_schedule_of_answers_and_probes_costs_more_than_its_bound(schedule: list[str], count: int) -> None:
    """A lost race puts a node off for a while; three in a row put it out, for longer and longer."""
    world, cost_s = World(count), 0.0
    breaker, began = world.nodes[0].breaker, world.clock.time

    for event in schedule:
        if event == PROBE_WELL:
            breaker.invite_trial()
        elif event == PROBE_FAILS:
            breaker.trip()
        elif event == LATE_WRITE:
            world.nodes[0].note_answer(60.0, is_read=False)
            breaker.report_success()
        else:
            cost_s += world.read(is_silent=event == SILENT)

    freezes = 1 + schedule.count(LATE_WRITE)
    assert cost_s <= 3.0 * freezes + (world.clock.time - began) / SUSPECT_S


@given(st.lists(st.booleans(), max_size=300))
def test_no_client_tries_a_node_while_its_probes_fail(reads: list[bool]) -> None:
    """Every trial of a frozen node costs a client its time."""
    world = World()
    frozen = world.nodes[0]
    frozen.breaker.trip()

    picked = []
    for is_read in reads:
        world.clock.time += OPEN_BASE_S / 3
        frozen.breaker.trip()  # as often as probes are made
        picked.append(world.balancer.pick(is_read=is_read))

    assert frozen not in picked


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=50))
def test_slow_writes_do_not_make_reads_wait(seconds: list[float]) -> None:
    """A write that took 100 s says nothing of the next read."""
    node, other = World().nodes
    for each in seconds:
        node.note_answer(each, is_read=False)

    assert 1.0 == hedge_delay_s(node, [node, other], full_s=FULL_S)


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=50))
def test_reads_wait_a_second_at_most_where_others_answer_in_milliseconds(seconds: list[float]) -> None:
    """A node that froze and thawed must not have minutes the next time."""
    node, other = World().nodes
    for each in seconds:
        node.note_answer(each)

    assert 1.0 == hedge_delay_s(node, [node, other], full_s=FULL_S)


def test_a_full_disk_is_no_illness() -> None:
    """No other node would have room, and a node that says so is well."""
    world = World()
    for _ in range(10):
        report_failure(world.context, world.nodes[0], GET, S3Error(507, "XMinioStorageFull"))

    assert (CLOSED, True) == (world.nodes[0].breaker.state, world.nodes[0].breaker.is_sound)


def test_protocol_errors_count_once_for_one_request() -> None:
    """An answer that is bad for one request only is no illness; one that is bad for all of them is."""
    world = World()
    one, many = world.nodes
    for number in range(5):
        report_failure(world.context, one, GET, ProtocolError("broken head"))
        report_failure(world.context, many, Request("GET", f"/b/{number}", "GetObject"), ProtocolError("broken head"))

    assert (CLOSED, "open") == (one.breaker.state, many.breaker.state)


def test_a_request_that_a_busy_node_does_not_answer_is_no_illness() -> None:
    """Keys that somebody has locked would take every node of a MinIO out of the pool."""
    world = World()
    busy, silent = world.nodes
    for number in range(5):
        since, world.clock.time = world.clock.time, world.clock.time + 60.0
        busy.note_answer(ANSWER_S, at=since + 1.0)
        put = Request("PUT", f"/b/{number}", "PutObject")
        for node in (busy, silent):
            report_failure(world.context, node, put, RequestTimeoutError("silent for 60 s"), since=since)

    assert (CLOSED, "open") == (busy.breaker.state, silent.breaker.state)
