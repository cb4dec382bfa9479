"""Which endpoint gets the next attempt: it only asks the breakers, it never judges."""

from __future__ import annotations

import hashlib
import random as random_module
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from s3pool.pool.breaker import CLOSED
from s3pool.pool.node import Node, introduce, middle_latency


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
        introduce(self.nodes)
        self._strategy = strategy
        self._sticky = sticky
        self._usual_s = 0.0
        self._is_plain = strategy == "round_robin" and not sticky and bool(nodes)
        self._now = now
        self._random = random or random_module.Random()
        # Guards the turn; held for one addition.
        self._lock = threading.Lock()
        self._turn = self._random.randrange(max(len(self.nodes), 1))
        self._second_turn = self._turn  # of requests that were tried elsewhere before

    @property
    def in_service(self) -> tuple[Node, ...]:
        """Return the nodes that are not drained; all of them when none is left."""
        return tuple(node for node in self.nodes if not node.is_draining) or self.nodes

    def pick(self, *, exclude: Collection[Node] = (), affinity: str = "", is_read: bool = True) -> Node:
        """Return the node for the next try and claim its breaker.

        ``exclude`` holds nodes that this request tried already; they are used again only
        when all were tried, and such a try takes nobody's turn. ``affinity`` (bucket and key)
        decides the order when the pool is sticky. Only a read (``is_read``) is a trial of a
        node that nobody probes. When no breaker admits, the best node is returned all the
        same: fail open. Drained nodes are left out, and a tier is used when the ones before it
        admit nothing.
        """
        if not exclude and (node := self.next_in_turn()) is not None:
            return node
        in_service = self.in_service
        turn = self._take_second_turn() if exclude else self._take_turn()
        order = [node for node in self._order(affinity, turn) if node in in_service]
        order = [node for node in order if node not in exclude] or order
        for tier in sorted({node.priority for node in order}):
            for node in self._by_fitness([node for node in order if node.priority == tier], is_read=is_read):
                if node.breaker.claim(is_read=is_read):
                    if not exclude:
                        self._turn_goes_past(node)
                    return node
        return min(order, key=lambda node: (node.breaker.openings, node.breaker.open_until))

    def next_in_turn(self) -> Node | None:
        """Return the next node if it is healthy and below its congestion window; else None."""
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
        """Return the nodes of up to ``count`` next turns, as so many calls of next_in_turn() would."""
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
        self._usual_s = middle_latency(nodes) if len(nodes) > 1 else nodes[0].latency_s

    def _is_fit(self, node: Node) -> bool:
        is_fit = node.breaker.is_sound and node.cooling_until <= self._now()
        return is_fit and not node.is_draining and not node.priority

    def _take_turn(self) -> int:
        with self._lock:
            turn = self._turn
            self._turn = (turn + 1) % len(self.nodes)
        return turn

    def _take_second_turn(self) -> int:
        with self._lock:
            turn = self._second_turn
            self._second_turn = (turn + 1) % len(self.nodes)
        return turn

    def _turn_goes_past(self, node: Node) -> None:
        """Let the next node have the next turn, or this one would also get those of the unfit before it."""
        with self._lock:
            self._turn = (self.nodes.index(node) + 1) % len(self.nodes)

    def _by_fitness(self, order: list[Node], *, is_read: bool) -> Iterable[Node]:
        now = self._now()
        unfit = []
        for node in order:
            # A due trial takes its turn like a clean node, or a circuit would never close while
            # others are clean; claim() lets only one request through.
            is_due = node.breaker.is_clean or node.breaker.is_trial_due(is_read=is_read)
            if is_due and node.cooling_until <= now:
                yield node
            else:
                unfit.append(node)
        unfit.sort(key=lambda node: (node.breaker.state != CLOSED, max(node.cooling_until - now, 0.0)))
        yield from unfit

    def _order(self, affinity: str, turn: int) -> list[Node]:
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
            usual_s = middle_latency(rotated)
            rotated.sort(key=lambda node: node.is_busy(usual_s))
        return rotated

    def cooldown_s(self) -> float:
        """Return the seconds until the first node is past its pause; 0 when one is free."""
        now = self._now()
        return max(0.0, min(node.cooling_until for node in self.nodes) - now)


def _rendezvous(node: Node, affinity: str) -> bytes:
    """Return a node's rank for an object: the same in every process; a lost node moves only its own objects."""
    return hashlib.blake2b(f"{node.endpoint.url} {affinity}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
