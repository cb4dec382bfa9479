"""The balancer: rotation, load, affinity, and what it does when nodes are ill."""

from __future__ import annotations

import hashlib
import heapq
import random
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest

from s3pool.config.options import STRATEGIES
from s3pool.model import Endpoint
from s3pool.pool.balancer import LoadBalancer
from s3pool.pool.connections import ConnectionPool
from s3pool.pool.node import OPEN_BASE_S, CircuitBreaker, Node
from tests.support.clock import Chosen, Clock


class Waiting:
    """A request under way."""

    def interrupt(self) -> None:
        """Go on waiting."""


def enter(node: Node) -> Waiting:
    """Let a request start at a node."""
    waiter = Waiting()
    node.waiting.add(waiter)
    return waiter


def _make_nodes(count: int, *, weights: Sequence[int] = ()) -> list[Node]:
    each = weights or [1] * count
    return [
        Node(Endpoint("http", f"node{i}", 80, weight=weight), cast("ConnectionPool", None), CircuitBreaker())
        for i, weight in enumerate(each)
    ]


def test_round_robin_gives_every_node_its_turn() -> None:
    """Requests spread evenly without any state but the turn."""
    balancer = LoadBalancer(_make_nodes(4))

    picks = Counter(balancer.pick().endpoint.host for _ in range(40))

    assert picks == {"node0": 10, "node1": 10, "node2": 10, "node3": 10}


@pytest.mark.parametrize("share", [1.0, 2.5, 40.0])
@pytest.mark.parametrize(("in_flight", "latency_s"), [(0, 0.01), (1, 0.01), (2, 0.01), (0, 9.0), (1, 9.0)])
def test_room_is_what_fits_before_a_node_is_busy(share: float, in_flight: int, latency_s: float) -> None:
    """Turns that are given together are those that would be given one by one."""
    (node,) = _make_nodes(1)
    node.congestion_window, node.latency_s = share, latency_s
    for _ in range(in_flight):
        enter(node)

    room = node.room(0.01)
    fitted = 0
    while not node.is_busy(0.01):
        enter(node)
        fitted += 1

    assert room == fitted


@pytest.mark.parametrize("count", [1, 3, 5, 50])
def test_turns_that_are_given_together_are_those_that_follow(count: int) -> None:
    """And end at the first node that needs a second thought."""
    nodes = _make_nodes(3)
    together, one_by_one = (LoadBalancer(nodes, random=Chosen(1)) for _ in range(2))
    for node, share in zip(nodes, (3.0, 2.0, 9.0), strict=True):
        node.congestion_window = share

    given = list(together.next_in_turns(count))
    followed = []
    while len(followed) < count and (node := one_by_one.next_in_turn()) is not None:
        enter(node)
        followed.append(node)

    assert given == followed
    assert together.pick() is one_by_one.pick()


@pytest.mark.parametrize("trouble", ["drained", "tier", "cooling", "failed"])
def test_turns_end_at_a_node_that_is_not_fit(trouble: str) -> None:
    """The next one to be picked is looked at with care."""
    nodes = _make_nodes(3)
    balancer = LoadBalancer(nodes, now=lambda: 100.0, random=Chosen(0))
    nodes[1].is_draining = trouble == "drained"
    nodes[1].priority = int(trouble == "tier")
    nodes[1].cooling_until = 101.0 if trouble == "cooling" else 0.0
    if trouble == "failed":
        nodes[1].breaker.report_failure()

    assert [nodes[0]] == balancer.next_in_turns(5)


def test_turns_that_nothing_was_made_of_are_given_again() -> None:
    """Or some nodes would be passed over again and again."""
    nodes = _make_nodes(3)
    balancer = LoadBalancer(nodes, random=Chosen(2))
    given = balancer.next_in_turns(3)

    balancer.give_back(2)

    assert [nodes[2], nodes[0], nodes[1]] == given
    assert nodes[0] is balancer.next_in_turn()


def test_sticky_pool_gives_no_turns_at_all() -> None:
    """There the key decides."""
    assert () == LoadBalancer(_make_nodes(2), sticky=True).next_in_turns(3)


def run_rounds(balancer: LoadBalancer, latencies: dict[str, float], *, jobs: int, seconds: float) -> Counter[str]:
    """Let jobs send one request after another on a clock of its own; give how many each node answered."""
    answered: Counter[str] = Counter()
    flying: list[tuple[float, int, Node, Waiting]] = []
    now, number = 0.0, 0
    while now < seconds:
        while len(flying) < jobs:
            node = balancer.pick()
            number += 1
            heapq.heappush(flying, (now + latencies[node.endpoint.host], number, node, enter(node)))
        now, _, node, waiter = heapq.heappop(flying)
        node.note_answer(latencies[node.endpoint.host])
        node.waiting.discard(waiter)
        answered[node.endpoint.host] += 1
    return answered


def test_slow_node_loses_work_to_the_others() -> None:
    """Or all jobs would end up waiting for it: a rotation alone is as slow as its slowest node."""
    latencies = {"node0": 1.0, "node1": 0.01, "node2": 0.01, "node3": 0.01}

    answered = run_rounds(LoadBalancer(_make_nodes(4)), latencies, jobs=8, seconds=10.0)

    assert 0 < answered["node0"] <= 20
    assert min(answered[host] for host in ("node1", "node2", "node3")) > 1000


def test_slow_node_keeps_its_turn_while_nothing_is_in_flight() -> None:
    """One request after another takes every node in turn, so that throttles per connection do not add up."""
    nodes = _make_nodes(3)
    balancer = LoadBalancer(nodes)
    for node, latency in zip(nodes, (3.0, 0.01, 0.01), strict=True):
        node.note_answer(latency)

    picks = Counter(balancer.pick().endpoint.host for _ in range(9))

    assert {"node0": 3, "node1": 3, "node2": 3} == picks


def test_node_that_asks_for_less_gets_less_and_wins_it_back() -> None:
    """Halves for every loss, one more for every round of answers."""
    (node,) = _make_nodes(1)
    for _ in range(7):
        node.note_answer(0.01)
    shares = [node.congestion_window]
    node.on_loss()
    shares.append(node.congestion_window)
    for _ in range(5):
        node.note_answer(0.01)
    shares.append(node.congestion_window)

    assert [8.0, 4.0] == shares[:2]
    assert 5.0 <= shares[2] <= 5.3


def test_full_node_waits_until_the_others_are_full() -> None:
    """More than its share goes to a node only when nobody else has room."""
    nodes = _make_nodes(2)
    balancer = LoadBalancer(nodes)
    for _ in range(3):
        nodes[1].note_answer(0.01)
    nodes[0].on_loss()

    picks = []
    for _ in range(5):
        node = balancer.pick()
        enter(node)
        picks.append(node.endpoint.host)

    assert 1 == picks.count("node0")


def test_rotation_starts_at_a_random_node() -> None:
    """Short commands in many processes must not all hit the first node."""
    nodes = _make_nodes(4)

    firsts = {LoadBalancer(nodes, random=random.Random(seed)).pick().endpoint.host for seed in range(50)}

    assert {"node0", "node1", "node2", "node3"} == firsts


def test_strategies_by_load_prefer_the_idle_node() -> None:
    """Requests in flight are the load; of two random nodes the more loaded loses, so the worst of three never wins."""
    nodes = _make_nodes(3)
    for node, latency in zip(nodes, (0.02, 0.01, 5.0), strict=True):
        node.note_answer(latency)
    for node in (nodes[0], nodes[2]):
        enter(node)
    by_count, by_pairs = (LoadBalancer(nodes, strategy=each) for each in ("least_connections", "power_of_two"))

    assert {nodes[1]} == {by_count.pick() for _ in range(5)}
    assert nodes[2] not in {by_pairs.pick() for _ in range(100)}
    assert nodes[0] is LoadBalancer(nodes[:1], strategy="power_of_two").pick()


def test_excluded_nodes_come_again_only_when_all_were_tried() -> None:
    """A retry goes to another node first."""
    nodes = _make_nodes(3)
    balancer = LoadBalancer(nodes)

    others = {balancer.pick(exclude=nodes[:2]) for _ in range(6)}
    again = balancer.pick(exclude=nodes)

    assert {nodes[2]} == others
    assert again in nodes


def test_second_tries_take_nobodys_turn() -> None:
    """Or with two nodes, of which one is silent, every request would begin at the silent one."""
    nodes = _make_nodes(2)
    balancer = LoadBalancer(nodes, random=Chosen(0))

    picks = [(balancer.pick(), balancer.pick(exclude=nodes[:1])) for _ in range(4)]

    assert [(nodes[0], nodes[1]), (nodes[1], nodes[1])] * 2 == picks


def test_write_is_no_trial_of_a_node_that_nobody_probes() -> None:
    """A read is hedged when the node is still silent; a write would wait."""
    nodes = _make_nodes(2)
    clock = Clock()
    nodes[0].breaker = CircuitBreaker(now=clock, random=lambda: 0.5)
    nodes[0].breaker.trip()
    balancer = LoadBalancer(nodes, now=clock)
    clock.advance(OPEN_BASE_S)

    written = {balancer.pick(is_read=False) for _ in range(4)}
    read = {balancer.pick() for _ in range(4)}

    assert ({nodes[1]}, set(nodes)) == (written, read)


@pytest.mark.parametrize("trouble", ["open", "failed", "cooling", "doubted"])
def test_node_in_trouble_is_passed_over_while_others_are_clean(trouble: str) -> None:
    """One connect timeout is enough, and one that asked for a pause gets it; a node that answered is not doubted."""
    nodes = _make_nodes(3)
    balancer = LoadBalancer(nodes, now=lambda: 100.0)
    nodes[1].note_answer(0.1)
    if trouble == "open":
        nodes[0].breaker.trip()
    elif trouble == "failed":
        nodes[0].breaker.report_failure(3)
    elif trouble == "cooling":
        nodes[0].cooling_until = 140.0
    else:
        assert [True, False, False] == [node.mark_suspect(100.0) for node in (nodes[0], nodes[0], nodes[1])]
        assert nodes[0].breaker.is_sound

    picks = {balancer.pick() for _ in range(9)}

    assert {nodes[1], nodes[2]} == picks
    assert 0.0 == balancer.cooldown_s()


def test_neighbour_of_sick_nodes_gets_no_more_than_its_turn() -> None:
    """Where each connection is throttled, the turns of all the sick ones before it would make it wait."""
    nodes = _make_nodes(6)
    balancer = LoadBalancer(nodes, random=random.Random(0))
    for node in nodes[:3]:
        node.breaker.report_failure(100)

    picks = Counter(balancer.pick().endpoint.host for _ in range(30))

    assert picks == {"node3": 10, "node4": 10, "node5": 10}


def test_a_due_trial_takes_its_turn_beside_clean_nodes() -> None:
    """Otherwise a circuit would never close without a health thread."""
    nodes = _make_nodes(2)
    nodes[0].breaker.trip()
    nodes[0].breaker.invite_trial()
    balancer = LoadBalancer(nodes)

    picks = Counter(balancer.pick() for _ in range(10))

    assert picks[nodes[0]] == 1


def test_when_every_circuit_is_open_the_best_is_tried() -> None:
    """Fail open: a pool that seems dead may only be unreachable for a moment."""
    nodes = _make_nodes(2)
    for node in nodes:
        node.breaker.trip()
    nodes[0].breaker.invite_trial()
    nodes[0].breaker.claim()
    nodes[0].breaker.report_failure()

    assert nodes[1] is LoadBalancer(nodes).pick()


def test_cooldown_is_the_shortest_pause_when_all_cool() -> None:
    """Waiting longer than the first free node would waste time."""
    nodes = _make_nodes(2)
    nodes[0].cooling_until, nodes[1].cooling_until = 15.0, 12.0

    assert LoadBalancer(nodes, now=lambda: 10.0).cooldown_s() == 2.0


def test_sticky_pool_keeps_an_object_on_its_node() -> None:
    """Pools of separate stores must find an object where they put it, in every process."""
    nodes = _make_nodes(5)

    picks = {
        LoadBalancer(nodes, sticky=True, random=random.Random(seed)).pick(affinity="s3/b/key") for seed in range(10)
    }

    assert len(picks) == 1


def test_losing_a_node_moves_only_its_own_objects() -> None:
    """Rendezvous hashing: the others stay where they are."""
    nodes = _make_nodes(5)
    balancer = LoadBalancer(nodes, sticky=True)
    keys = [f"s3/b/{i}" for i in range(200)]
    before = {key: balancer.pick(affinity=key) for key in keys}

    nodes[2].breaker.trip()
    moved = {key for key in keys if balancer.pick(affinity=key) is not before[key]}

    assert {key for key in keys if before[key] is nodes[2]} == moved


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_heeds_weights(strategy: str) -> None:
    """A node of twice the weight gets twice the requests, while nothing speaks against it."""
    nodes = _make_nodes(3, weights=(1, 2, 3))
    balancer = LoadBalancer(nodes, strategy=strategy, random=random.Random(7))

    picks = Counter(balancer.pick().endpoint.host for _ in range(6000))

    shares = [picks[f"node{number}"] / 1000 for number in range(3)]
    # Of a random pair, two draws without the first one's node: the heaviest gets less than its share.
    slack = 0.1 if strategy != "power_of_two" else 0.3
    assert shares == pytest.approx([1, 2, 3], abs=slack)


def test_turns_of_heavy_nodes_are_spread() -> None:
    """Twelve requests in a row at one node would be a burst."""
    balancer = LoadBalancer(_make_nodes(3, weights=(10, 20, 10)), random=Chosen(0))

    assert ["node1", "node0", "node2", "node1"] * 2 == [balancer.pick().endpoint.host for _ in range(8)]


def test_weights_hold_under_load() -> None:
    """What counts for least_connections is the requests for each unit of weight."""
    nodes = _make_nodes(2, weights=(1, 3))
    balancer = LoadBalancer(nodes, strategy="least_connections")

    for _ in range(40):
        enter(balancer.pick())

    assert [10, 30] == [node.in_flight for node in nodes]


def test_weighted_keeps_the_share_of_a_slow_node() -> None:
    """That is what it is for; a rotation takes requests away."""
    latencies = {"node0": 0.5, "node1": 0.01}
    kept, lost = (
        run_rounds(LoadBalancer(_make_nodes(2), strategy=strategy), latencies, jobs=4, seconds=10.0)
        for strategy in ("weighted", "round_robin")
    )

    assert kept["node0"] == pytest.approx(kept["node1"], abs=8)
    assert lost["node0"] * 2 < lost["node1"]


def test_equal_weights_leave_sticky_objects_where_they_are() -> None:
    """The order is that of the hashes, as before there were weights: the stores hold the objects."""
    nodes = _make_nodes(5)
    balancer = LoadBalancer(nodes, sticky=True)

    for number in range(50):
        affinity = f"s3/b/{number}"
        hashes = {
            hashlib.blake2b(f"{node.endpoint.url} {affinity}".encode(), digest_size=8).digest(): node for node in nodes
        }
        assert hashes[min(hashes)] is balancer.pick(affinity=affinity)


def test_sticky_objects_follow_the_weights() -> None:
    """A store of three times the size takes three times the objects."""
    balancer = LoadBalancer(_make_nodes(2, weights=(1, 3)), sticky=True)

    picks = Counter(balancer.pick(affinity=f"s3/b/{number}").endpoint.host for number in range(4000))

    assert picks["node1"] / picks["node0"] == pytest.approx(3, rel=0.15)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_own_zone_comes_first(strategy: str) -> None:
    """Others get requests when the own zone's nodes are all out, failed a moment ago, or asked for a pause."""
    nodes = _make_nodes(5)
    for node in nodes[2:]:
        node.is_remote = True
    balancer = LoadBalancer(nodes, strategy=strategy, now=lambda: 100.0, random=random.Random(3))

    def picked(count: int = 60) -> Counter[int]:
        return Counter(nodes.index(balancer.pick()) for _ in range(count))

    at_home, tried = picked(), nodes.index(balancer.pick(exclude=nodes[:1]))
    nodes[0].breaker.trip()
    on_one = set(picked())
    nodes[1].cooling_until = 101.0
    away = picked()
    for node in nodes[2:]:
        node.breaker.trip()

    assert ({0, 1}, 1, {1}) == (set(at_home), tried, on_one)
    assert set(away) == {2, 3, 4}
    assert min(away.values()) >= 5  # spread over the other zones
    assert {1} == set(picked())


def test_last_node_of_a_zone_fills_up_before_another_zone_is_asked() -> None:
    """A busy node answers; a request to another site costs more."""
    nodes = _make_nodes(2)
    nodes[1].is_remote = True
    balancer = LoadBalancer(nodes)

    for _ in range(50):
        enter(balancer.pick())

    assert [50, 0] == [node.in_flight for node in nodes]


def test_nodes_can_be_exchanged_between_any_two_picks() -> None:
    """Turns of a pool that was larger are turns of a smaller one."""
    small, large = _make_nodes(2), _make_nodes(9)
    balancer = LoadBalancer(large, random=Chosen(8))

    picks = []
    for nodes in (small, large, small[:1]):
        balancer.use(nodes)
        picks += [balancer.pick(exclude=nodes[:1]) in nodes, balancer.pick() in nodes]
        picks += [set(balancer.next_in_turns(4)) <= set(nodes)]
        balancer.give_back(2)

    assert all(picks)
    assert () == small[0].siblings


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_picks_see_one_set_of_nodes_or_the_other(strategy: str) -> None:
    """All addresses of a deployment may be exchanged at once, while many threads pick."""
    pools = [_make_nodes(3), _make_nodes(2)]
    balancer = LoadBalancer(pools[0], strategy=strategy)
    known = {*pools[0], *pools[1]}
    ended = threading.Event()

    def exchange() -> None:
        while not ended.is_set():
            for nodes in pools:
                balancer.use(nodes)

    with ThreadPoolExecutor(1) as other:
        exchanging = other.submit(exchange)
        try:
            for _ in range(1000):
                assert balancer.pick(exclude=pools[0][:1]) in known
                assert known.issuperset(balancer.next_in_turns(3))
        finally:
            ended.set()
        exchanging.result()
