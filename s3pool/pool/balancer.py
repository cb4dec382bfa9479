"""Which endpoint gets the next attempt: it only asks the breakers, it never judges."""

from __future__ import annotations

import hashlib
import math
import random as random_module
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from s3pool.pool.breaker import CLOSED, CircuitBreaker
from s3pool.pool.stats import NodeCounters

if TYPE_CHECKING:
    from s3pool.model import Endpoint
    from s3pool.pool.connection import ConnectionPool

LATENCY_WEIGHT = 0.2  # share of the newest sample in the moving average
LATENCY_FLOOR_S = 0.001  # nodes that answer faster than this count as equal
SLOW_FACTOR = 3.0  # so many times the latency of the pool's middle node is slow
DOUBT_S = 5.0  # a node that was silent for a moment waits this long while others are clean
LOSS_SHARE = 0.5  # of its share of requests a node loses when it fails or asks for less


class Node:
    """One endpoint with everything that changes about it while the program runs."""

    def __init__(self, endpoint: Endpoint, connections: ConnectionPool, breaker: CircuitBreaker) -> None:
        self.endpoint = endpoint
        self.connections = connections
        self.breaker = breaker
        self.counters = NodeCounters()
        self.cooling_until = 0.0
        self.latency_s = 0.0
        self.is_proven = False  # it answered at least once in this process
        self.is_doubted = False  # it was passed over once, before it ever answered
        self.is_drained = False  # its keeper wants no new requests on it
        self.tier = 0  # nodes of a higher tier wait until all of the lower ones are out
        self.in_flight = 0
        self.share = 1.0  # requests that it takes at once without being worse off than others
        self._has_lost = False
        # Guards in_flight, latency_s and share, which many threads change.
        self._lock = threading.Lock()

    def enter(self, count: int = 1) -> None:
        """Count a request that starts, or so many of them."""
        with self._lock:
            self.in_flight += count

    def leave(self) -> None:
        """Count a request that ended, its body read or dropped."""
        with self._lock:
            self.in_flight -= 1

    def note_answer(self, seconds: float | None) -> None:
        """Note an answer and the time to its head: it goes into the moving average and earns a larger share.

        The share doubles with every round of answers until the first loss, then it grows by one.
        A time of None is not known.
        """
        self.is_proven = True
        with self._lock:
            self.share += 1.0 / self.share if self._has_lost else 1.0
            if seconds is not None:
                old = self.latency_s
                self.latency_s = seconds if not old else old + LATENCY_WEIGHT * (seconds - old)
        if seconds is not None:
            self.counters.add_answer(seconds)

    def end_well(self, seconds: float, *, sent: int, received: int, count: int = 1) -> None:
        """Note an answer, the time to its head, and the bytes of an exchange that is over: all at once.

        A ``count`` of them may come together; the seconds and the bytes are those of all.
        """
        self.is_proven = True
        usual = seconds / count
        with self._lock:
            self.in_flight -= count
            self.share += count / self.share if self._has_lost else count
            old = self.latency_s
            self.latency_s = usual + (1.0 - LATENCY_WEIGHT) ** count * (old - usual) if old else usual
        self.counters.add_exchanges(count, seconds, sent=sent, received=received)

    def lose_share(self) -> None:
        """Take requests away: the node failed, or asked for fewer."""
        with self._lock:
            self._has_lost = True
            self.share = max(1.0, self.share * LOSS_SHARE)

    def doubt(self, now: float) -> bool:
        """Prefer others for a while, without a word about its health; False when it had that favour already."""
        if self.is_proven or self.is_doubted:
            return False
        self.is_doubted = True
        self.cooling_until = max(self.cooling_until, now + DOUBT_S)
        self.breaker.put_off_trial(DOUBT_S)
        return True

    def is_busy(self, usual_latency_s: float) -> bool:
        """Say whether one more request would wait longer here than elsewhere."""
        is_slow = self.latency_s > SLOW_FACTOR * max(usual_latency_s, LATENCY_FLOOR_S)
        return self.in_flight > 0 and (is_slow or self.in_flight >= self.share)

    def room(self, usual_latency_s: float) -> int:
        """Give how many requests it can take at once before it is_busy()."""
        if self.latency_s > SLOW_FACTOR * max(usual_latency_s, LATENCY_FLOOR_S):
            return int(not self.in_flight)
        return max(math.ceil(self.share - self.in_flight), int(not self.in_flight))

    @property
    def load(self) -> float:
        """Give the expected wait: requests in flight times latency."""
        return (self.in_flight + 1) * max(self.latency_s, LATENCY_FLOOR_S)


class LoadBalancer:
    """Pick nodes by strategy among those whose breakers admit a request.

    Nodes that failed a moment ago or asked for a pause come after clean ones, and in a
    rotation those that have their hands full: one that is slow, or failed, or asked for less,
    loses requests to the others while they have room, and wins them back by answering. Rotation
    starts at a random node, so that many short commands spread over the pool.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        strategy: str = "round_robin",
        sticky: bool = False,
        now: Callable[[], float] = time.monotonic,
        random: random_module.Random | None = None,
    ) -> None:
        self.nodes = tuple(nodes)
        self._strategy = strategy
        self._sticky = sticky
        self._usual_s = 0.0
        self._is_plain = strategy == "round_robin" and not sticky and bool(nodes)
        self._now = now
        self._random = random or random_module.Random()
        # Guards the turn; held for one addition.
        self._lock = threading.Lock()
        self._turn = self._random.randrange(max(len(self.nodes), 1))

    @property
    def in_service(self) -> tuple[Node, ...]:
        """Give the nodes that are not drained; all of them when none is left."""
        return tuple(node for node in self.nodes if not node.is_drained) or self.nodes

    def pick(self, *, exclude: Collection[Node] = (), affinity: str = "") -> Node:
        """Give the node for the next attempt and claim its breaker.

        ``exclude`` holds nodes that this request tried already; they are used again only
        when all were tried. ``affinity`` (bucket and key) decides the order when the pool
        is sticky. When no breaker admits, the best node is given all the same: fail open.
        Drained nodes are left out, and a tier is used when the ones before it admit nothing.
        """
        if not exclude and (node := self.next_in_turn()) is not None:
            return node
        in_service = self.in_service
        order = [node for node in self._order(affinity) if node in in_service]
        order = [node for node in order if node not in exclude] or order
        for tier in sorted({node.tier for node in order}):
            for node in self._by_fitness([node for node in order if node.tier == tier]):
                if node.breaker.claim():
                    self._turn_goes_past(node)
                    return node
        return min(order, key=lambda node: (node.breaker.openings, node.breaker.open_until))

    def next_in_turn(self) -> Node | None:
        """Give the node whose turn it is, when it needs no second thought: what nearly every request gets."""
        if not self._is_plain:
            return None
        turn = self._take_turn()
        node = self.nodes[turn]
        if not turn:  # once a round is often enough
            self._note_usual()
        if self._is_fit(node) and not node.is_busy(self._usual_s):
            return node
        with self._lock:
            self._turn = turn
        return None

    def next_in_turns(self, count: int) -> Sequence[Node]:
        """Give the nodes of the next turns, up to ``count``, as next_in_turn() would one after the other."""
        if not self._is_plain:
            return ()
        self._note_usual()
        nodes = self.nodes
        rooms = [node.room(self._usual_s) if self._is_fit(node) else 0 for node in nodes]
        given: list[Node] = []
        with self._lock:
            turn = self._turn
            while len(given) < count and rooms[turn] > 0:
                given.append(nodes[turn])
                rooms[turn] -= 1
                turn = (turn + 1) % len(nodes)
            self._turn = turn
        return given

    def give_back(self, turns: int) -> None:
        """Undo the last ones of next_in_turns(), of which nothing was made."""
        with self._lock:
            self._turn = (self._turn - turns) % len(self.nodes)

    def _note_usual(self) -> None:
        nodes = self.nodes
        self._usual_s = _middle_latency(nodes) if len(nodes) > 1 else nodes[0].latency_s

    def _is_fit(self, node: Node) -> bool:
        is_fit = node.breaker.is_sound and node.cooling_until <= self._now()
        return is_fit and not node.is_drained and not node.tier

    def _take_turn(self) -> int:
        with self._lock:
            turn = self._turn
            self._turn = (turn + 1) % len(self.nodes)
        return turn

    def _turn_goes_past(self, node: Node) -> None:
        """Let the next node have the next turn, or this one would also get those of the unfit before it."""
        with self._lock:
            self._turn = (self.nodes.index(node) + 1) % len(self.nodes)

    def _by_fitness(self, order: list[Node]) -> Iterable[Node]:
        now = self._now()
        unfit = []
        for node in order:
            # A due trial takes its turn like a clean node, or a circuit would never close while
            # others are clean; claim() lets only one request through.
            if (node.breaker.is_clean or node.breaker.is_trial_due) and node.cooling_until <= now:
                yield node
            else:
                unfit.append(node)
        unfit.sort(key=lambda node: (node.breaker.state != CLOSED, max(node.cooling_until - now, 0.0)))
        yield from unfit

    def _order(self, affinity: str) -> list[Node]:
        turn = self._take_turn()
        if self._sticky and affinity:
            return sorted(self.nodes, key=lambda node: _rendezvous(node, affinity))
        rotated = [*self.nodes[turn:], *self.nodes[:turn]]
        if self._strategy == "least_connections":
            rotated.sort(key=lambda node: node.in_flight)
        elif self._strategy == "power_of_two" and len(rotated) > 2:
            pair = self._random.sample(rotated, 2)
            pair.sort(key=lambda node: node.load)
            rotated = pair + [node for node in rotated if node not in pair]
        elif self._strategy == "power_of_two":
            rotated.sort(key=lambda node: node.load)
        elif self._strategy == "round_robin" and any(node.in_flight for node in rotated):
            usual_s = _middle_latency(rotated)
            rotated.sort(key=lambda node: node.is_busy(usual_s))
        return rotated

    def cooldown_s(self) -> float:
        """Give the seconds until the first node is past its pause; 0 when one is free."""
        now = self._now()
        return max(0.0, min(node.cooling_until for node in self.nodes) - now)


def _middle_latency(nodes: Sequence[Node]) -> float:
    return sorted(node.latency_s for node in nodes)[len(nodes) // 2]


def _rendezvous(node: Node, affinity: str) -> bytes:
    """Give a node's rank for an object: every process agrees, a lost node moves only its own."""
    return hashlib.blake2b(f"{node.endpoint.url} {affinity}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
