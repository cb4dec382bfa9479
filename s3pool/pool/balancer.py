"""Which node gets the next attempt, and when an exchange leaves it: silent, known to be ill, or very slow."""

from __future__ import annotations

import hashlib
import math
import random as random_module
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from s3pool.body import BodySpeed
from s3pool.errors import RequestTimeoutError
from s3pool.model import Request, Response
from s3pool.pool.http1 import Head, NodeConnection
from s3pool.pool.node import CLOSED, Node
from s3pool.pool.tcp import TIMER_SLACK_S, NodeSilentError

MAX_FORMER = 64
MANY_TURNS = 1 << 32  # so many more than any rotation has that a random one of them is fair
BULK_BYTES = 1 << 18  # a shorter body is waited for
FAST_BYTES_PER_S = 1e8  # more than this is asked of nobody: disks and caches differ
CRAWL_TIMES = 10.0  # a body that takes so many times as long as at other nodes is given up
UNKNOWN_BYTES_PER_S = 1e7  # at which others are taken to send, while nobody knows


class Rotation(NamedTuple):
    """All nodes; those of first choice (of the lowest tier, in the own zone where it has some); and turns.

    In ``turns`` (of the first) and ``other_turns`` every node stands as often as its weight says, evenly spread.
    """

    nodes: tuple[Node, ...]
    first: tuple[Node, ...]
    turns: tuple[Node, ...]
    other_turns: tuple[Node, ...]
    tier: int

    @classmethod
    def of(cls, nodes: Sequence[Node]) -> Rotation:
        """Divide nodes."""
        tier = min((node.priority for node in nodes), default=0)
        of_tier = [node for node in nodes if node.priority == tier]
        first = [node for node in of_tier if not node.is_remote] or of_tier
        others = [node for node in nodes if node not in first]
        return cls(tuple(nodes), tuple(first), _turns(first), _turns(others), tier)

    def starting_at(self, turn: int) -> list[Node]:
        """Return each node once, in the order of the turns from this one on; those of first choice first."""
        return list(dict.fromkeys((*_from(self.turns, turn), *_from(self.other_turns, turn))))


def _turns(nodes: Sequence[Node]) -> tuple[Node, ...]:
    weights = [node.endpoint.weight for node in nodes]
    counts = [weight // math.gcd(*weights) for weight in weights]
    places = [
        ((place + 0.5) / count, node) for node, count in zip(nodes, counts, strict=True) for place in range(count)
    ]
    return tuple(node for _, node in sorted(places, key=lambda place: place[0]))


def _in_service(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    return tuple(node for node in nodes if not node.is_draining) or nodes


def _from(turns: tuple[Node, ...], turn: int) -> tuple[Node, ...]:
    start = turn % len(turns) if turns else 0
    return turns[start:] + turns[:start]


class LoadBalancer:
    """Pick nodes by strategy among those whose breakers admit a request, which are asked and never judged.

    Nodes that failed a moment ago or asked for a pause come after clean ones, those of another zone too. In a rotation
    nodes that have their hands full come last: one that is slow, or failed, or asked for less, loses requests to the
    others while they have room, and wins them back by answering; only ``weighted`` keeps every node's share. Rotation
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
        self._strategy = strategy
        self._sticky = sticky
        self._usual_s = 0.0
        self._is_exact = strategy == "weighted"
        self._is_plain = strategy in ("round_robin", "weighted") and not sticky and bool(nodes)
        self._now = now
        self._random = random or random_module.Random()
        # Guards the turn; held for one addition.
        self._lock = threading.Lock()
        self._turn = self._random.randrange(max(len(nodes), 1))
        self._second_turn = self._turn  # of requests that were tried elsewhere before
        self.on_second_try: Callable[[], None] | None = None  # looks whether the pool has other nodes now
        self._rotation = Rotation.of(())
        self.former: tuple[Node, ...] = ()  # that have left the pool, for the counts
        self.use(nodes)

    def use(self, nodes: Sequence[Node]) -> None:
        """Use these nodes from now on; requests under way at others finish there."""
        here = {node.endpoint for node in nodes}
        former = [node for node in (*self.former, *self.nodes) if node.endpoint not in here]
        for node in nodes:
            node.siblings = tuple(other for other in nodes if other is not node)
        self._rotation = Rotation.of(nodes)  # at once, for those who pick meanwhile
        self.former = tuple(former[-MAX_FORMER:])

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes that the pool has now."""
        return self._rotation.nodes

    @property
    def in_service(self) -> tuple[Node, ...]:
        """Return the nodes that are not drained; all of them when none is left."""
        return _in_service(self._rotation.nodes)

    def pick(self, *, exclude: Collection[Node] = (), affinity: str = "", is_read: bool = True) -> Node:
        """Return the node for the next try and claim its breaker.

        ``exclude`` holds nodes that this request tried already; they are used again only when all were tried, and such
        a try takes nobody's turn. ``affinity`` (bucket and key) decides the order when the pool is sticky. Only a read
        (``is_read``) is a trial of a node that nobody probes. When no breaker admits, the best node is returned all the
        same: fail open. Drained nodes are left out, and a tier is used when the ones before it admit nothing.
        """
        if not exclude and (node := self.next_in_turn()) is not None:
            return node
        if exclude and self.on_second_try is not None:
            self.on_second_try()
        rotation = self._rotation
        in_service = _in_service(rotation.nodes)
        turn = self._take_turn(is_second=bool(exclude))
        order = [node for node in self._order(rotation, affinity, turn) if node in in_service]
        order = [node for node in order if node not in exclude] or order
        for tier in sorted({node.priority for node in order}):
            for node in self._by_fitness([node for node in order if node.priority == tier], is_read=is_read):
                if node.breaker.claim(is_read=is_read):
                    if not exclude:
                        self._turn_goes_past(node, turn)
                    return node
        return min(order, key=lambda node: (node.breaker.openings, node.breaker.open_until))

    def next_in_turn(self) -> Node | None:
        """Return the next node if it is healthy and below its congestion window; else None."""
        if not self._is_plain:
            return None
        turns = self._rotation.turns
        with self._lock:
            turn = self._turn
            self._turn = turn + 1
        node = turns[turn % len(turns)]
        if node is turns[0]:  # once a round is often enough
            self._note_usual()
        if self._is_fit(node) and (self._is_exact or not node.is_busy(self._usual_s)):
            return node
        with self._lock:
            self._turn = turn
        return None

    def next_in_turns(self, count: int) -> Sequence[Node]:
        """Return the nodes of up to ``count`` next turns, as so many calls of next_in_turn() would."""
        if not self._is_plain:
            return ()
        self._note_usual()
        rotation = self._rotation
        turns, usual_s = rotation.turns, self._usual_s
        rooms = dict.fromkeys(rotation.first, 0)
        for node in rotation.first:
            if self._is_fit(node):
                rooms[node] = count if self._is_exact else node.room(usual_s)
        given: list[Node] = []
        with self._lock:
            turn = self._turn
            while len(given) < count and rooms[node := turns[turn % len(turns)]] > 0:
                given.append(node)
                rooms[node] -= 1
                turn += 1
            self._turn = turn
        return given

    def give_back(self, turns: int) -> None:
        """Undo the last ones of next_in_turns(), of which nothing was made."""
        with self._lock:
            self._turn -= turns

    def _note_usual(self) -> None:
        nodes = self._rotation.first
        self._usual_s = middle_latency(nodes) if len(nodes) > 1 else nodes[0].latency_s

    def _is_fit(self, node: Node) -> bool:
        is_usable = node.breaker.is_sound and not node.is_draining and node.priority == self._rotation.tier
        return is_usable and (not node.cooling_until or node.cooling_until <= self._now())

    def _take_turn(self, *, is_second: bool) -> int:
        with self._lock:
            turn = self._second_turn if is_second else self._turn
            self._second_turn += is_second
            self._turn += not is_second
        return turn

    def _turn_goes_past(self, node: Node, turn: int) -> None:
        """Let the next node have the next turn, or this one would also get those of the unfit before it."""
        turns = self._rotation.turns
        for place in range(turn, turn + len(turns)):
            if turns[place % len(turns)] is node:
                with self._lock:
                    self._turn = place + 1
                return

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

    def _order(self, rotation: Rotation, affinity: str, turn: int) -> list[Node]:
        if self._sticky and affinity:  # whatever the zone: each of the stores has objects of its own
            return sorted(rotation.nodes, key=lambda node: _rendezvous(node, affinity))
        if self._strategy == "random":
            turn = self._random.randrange(MANY_TURNS)
        order = rotation.starting_at(turn)
        if self._strategy == "least_connections":
            order.sort(key=lambda node: (node.is_remote, node.in_flight / node.endpoint.weight))
        elif self._strategy == "power_of_two":
            pair = self._random_pair(rotation) if len(rotation.first) > 2 else order[: len(rotation.first)]
            pair.sort(key=lambda node: node.load)
            order = pair + [node for node in order if node not in pair]
        elif not self._is_exact and any(node.in_flight for node in order):
            usual_s = middle_latency(rotation.first)
            order.sort(key=lambda node: (node.is_remote, node.is_busy(usual_s)))
        return order

    def _random_pair(self, rotation: Rotation) -> list[Node]:
        one = self._random.choice(rotation.turns)
        return [one, self._random.choice([node for node in rotation.turns if node is not one])]

    def cooldown_s(self) -> float:
        """Return the seconds until the first node is past its pause; 0 when one is free."""
        now = self._now()
        return max(0.0, min(node.cooling_until for node in self.nodes) - now)


def _rendezvous(node: Node, affinity: str) -> tuple[float, bytes]:
    """Return a node's rank for an object: the same in every process; a lost node moves only its own objects.

    Source: Wang, Ravishankar, "Weighted rendezvous hashing": an exponential variate, by weight.
    """
    text = f"{node.endpoint.url} {affinity}".encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(text, digest_size=8).digest()
    share = (int.from_bytes(digest, "big") >> 11) / (1 << 53)  # as much of it as a float holds
    return -math.log1p(-share) / node.endpoint.weight, digest


def middle_latency(nodes: Iterable[Node]) -> float:
    """Return the latency of the middle node."""
    latencies = sorted(node.latency_s for node in nodes)
    return latencies[len(latencies) // 2]


class Watch:
    """The state of an exchange, and when it leaves its node; the connection's watcher."""

    __slots__ = ("_lost", "connection", "head", "is_over", "is_patient", "is_resumable", "is_sent", "node",
                 "received_before", "request", "response", "sent_before", "started")  # fmt: skip

    node: Node
    connection: NodeConnection
    request: Request
    head: Head | None
    response: Response | None
    is_over: bool
    is_sent: bool  # all of the request has left
    is_patient: bool  # no slowness makes it leave
    is_resumable: bool  # the rest of the answer's body may come from elsewhere
    started: float
    sent_before: int
    received_before: int
    _lost: NodeSilentError | None

    def on_quiet(self, quiet_s: float) -> None:
        """Have a node probed that is silent. Raises NodeSilentError: it is known to be ill, and has siblings."""
        node = self.node
        now = time.monotonic()
        is_endless = self.request.is_endless
        is_long = quiet_s + TIMER_SLACK_S >= node.delays.suspect_s
        if is_long and now - node.heard_at >= node.delays.suspect_s and not is_endless:
            node.suspect()
        if quiet_s >= node.delays.tell_s and node.on_long_wait is not None and not is_endless:
            node.on_long_wait(self.request, f"{node.endpoint} has sent nothing for {quiet_s:.0f} s")
        self.request.look_for_sender()
        if (error := self.silence(now, quiet_s)) is not None:
            raise error
        self._leave_crawling(quiet_s)

    def on_slow(self) -> None:
        """Raise NodeSilentError for a body that crawls and may go elsewhere."""
        self._leave_crawling()

    def _leave_crawling(self, quiet_s: float = 0.0) -> None:
        node, is_read = self.node, self.head is not None
        if self.is_patient or not self._may_leave or not node.has_sibling or not self.is_crawling(quiet_s):
            return
        crawling = [other for other in node.siblings if any(each.is_crawling() for each in tuple(other.waiting))]
        if 2 * (len(crawling) + 1) > len(node.siblings) + 1:
            return  # the store is slow, and no node of it
        seconds = self.connection.waited_s + quiet_s
        node.speed.set(self._moved / seconds, is_read=is_read)
        node.on_loss()
        message = f"{node.endpoint} moved {self._moved} bytes in {seconds:.1f} s, much slower than others"
        raise NodeSilentError(message, endpoint=str(node.endpoint), sent=self.is_sent)

    @property
    def _may_leave(self) -> bool:
        if self.head is not None:
            return self.is_resumable
        body = self.request.body
        return body.rewindable and (self.request.may_come_late or not self.is_sent)

    @property
    def _moved(self) -> int:
        connection = self.connection
        return connection.bytes_sent - self.sent_before + connection.bytes_received - self.received_before

    def is_crawling(self, quiet_s: float = 0.0) -> bool:
        """Return whether a body takes many times as long as at other nodes."""
        waited_s, is_read = self.connection.waited_s + quiet_s, self.head is not None
        length = self.request.body.length if self.head is None else self.head.length or 0
        if waited_s <= self.node.delays.crawl_s or length < BULK_BYTES:
            return False
        others = (sibling.speed for sibling in self.node.siblings)
        return waited_s > self.node.delays.crawl_s + longest_s(self._moved, others, is_read=is_read)

    def on_end(self) -> None:
        """Raise the reason for which this exchange was interrupted, if it was."""
        if self._lost is not None:
            raise self._lost

    def silence(self, now: float, quiet_s: float) -> NodeSilentError | None:
        """Return the error with which to leave a node that is silent; None to go on waiting."""
        node, request, delays = self.node, self.request, self.node.delays
        if self._lost is not None or not node.has_sibling:
            return self._lost
        unheard_s = now - node.heard_at
        has_head = self.head is not None
        if node.breaker.state is CLOSED:
            is_stalled = has_head and quiet_s >= delays.stall_s and not request.is_endless
            if not is_stalled or (node.breaker.is_sound and unheard_s < delays.stall_s):
                return None
        elif not has_head and not request.leaves_at_once and unheard_s < delays.hold_s:
            return None
        what = "stalled in its answer" if has_head else "sent nothing" if self.is_sent else "took no bytes"
        message = f"{node.endpoint} {what} for {quiet_s:.1f} s"
        return NodeSilentError(message, endpoint=str(node.endpoint), sent=self.is_sent)

    def interrupt(self) -> None:
        """Wake the thread that waits for the head, if the node is to be left; from any thread."""
        now = time.monotonic()
        quiet_s = now - self.connection.moved_at
        # A body, and a request that is being sent, look themselves each second.
        if self.response is not None or not self.is_sent or quiet_s + TIMER_SLACK_S < self.node.delays.suspect_s:
            return
        if (error := self.silence(now, quiet_s)) is not None:
            self._lost = error  # first this, then the look: whoever ends it does so the other way round
            if not self.is_over:
                self.connection.interrupt()

    def late_error(self) -> RequestTimeoutError:
        """Return the error of a node that has sent nothing since the request left."""
        endpoint, seconds = self.node.endpoint, time.monotonic() - self.started
        return RequestTimeoutError(f"{endpoint} sent nothing for {seconds:.1f} s", endpoint=str(endpoint))


def longest_s(moved: int, others: Iterable[BodySpeed], *, is_read: bool) -> float:
    """Return the seconds that bytes of a body may be waited for, by the speed of other nodes.

    While that is unknown an answer is left for another node once, which tells: a request would begin anew there.
    """
    known = sorted(speed for other in others if (speed := other.of(is_read=is_read)))
    if not known and not is_read:
        return math.inf
    usual = min(known[len(known) // 2], FAST_BYTES_PER_S) if known else UNKNOWN_BYTES_PER_S
    return CRAWL_TIMES * moved / usual
