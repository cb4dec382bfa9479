"""Many requests of one thread, all under way at once; each answer is taken when it is there.

Nothing here waits for one of them: a pause before another try, a node that is silent, and a
body that does not come are deadlines, looked at every TICK_S.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from s3pool.body import BytesBody
from s3pool.model import Request, Response
from s3pool.pool.attempt import Attempt
from s3pool.pool.exchange import Exchange, send_over
from s3pool.pool.http1 import NodeConnection
from s3pool.pool.node import CLOSED, Node, Totals
from s3pool.pool.retry import AttemptContext, State

IS_POSSIBLE = hasattr(select, "epoll")
TICK_S = 0.25  # how often deadlines are looked at
# A connection stays registered with epoll for life, also while others use it; events for one
# with no pending request are ignored.
DONE, HEAD = State.DONE, State.HEAD
WATCHED = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET if IS_POSSIBLE else 0
ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR if IS_POSSIBLE else 0


class Submitted(Protocol):
    """A request that is one of many, and what is to be made of its answer."""

    @property
    def request(self) -> Request:
        """Return the request."""

    def check(self, response: Response) -> None:
        """Take the answer, whose body is here, or raise for one that is none, as with Transport.send()."""


class Result(NamedTuple):
    """What has come of an operation: all well, when neither ``error`` nor ``attempt`` is set.

    ``attempt`` has an answer that is not for the window: Transport.finish() waits for the rest of
    it, in a thread that has nothing else under way.
    """

    operation: Any
    error: Exception | None = None
    attempt: Attempt | None = None


Pending = tuple[Any, Attempt, Exchange]  # an exchange of an operation's attempt


class Window:
    """The requests of one thread that are under way."""

    def __init__(self, context: AttemptContext) -> None:
        self._context = context
        self._epoll = _open_epoll()
        self._watched: dict[int, NodeConnection] = {}
        self._pending: dict[int, Pending] = {}  # by descriptor, the oldest first
        self._resting: list[tuple[Any, Attempt]] = []  # that pause before another try
        self._results: list[Result] = []  # not told yet
        self._count = 0  # operations under way
        self._next_tick = 0.0
        self.waited_s = 0.0  # for answers, while nothing else was to be done

    def __len__(self) -> int:
        return self._count

    def submit(self, operations: Sequence[Submitted], *, wait: bool = False) -> int:
        """Send operations; return how many of them, from the first on.

        Fewer than all when the connections to the next node are in use: whoever holds some of them must give them back
        first. With ``wait`` a connection is waited for, as long as nothing is under way here. Connecting may take a
        moment; so where no node answers, one request alone is tried.
        """
        if self._is_stuck():
            return 0
        taken, node = self.send(operations)
        while taken < len(operations):
            operation = operations[taken]
            attempt = Attempt(self._context, operation.request, operation.check)
            if node is not None:
                attempt.pick(node)
            if not attempt.start(wait=wait and not self._count):
                return taken
            self._count += 1
            self._follow(operation, attempt)
            if self._is_stuck():
                return taken + 1
            sent, node = self.send(operations[taken + 1 :])
            taken += 1 + sent
        return taken

    def _is_stuck(self) -> bool:
        """Return whether requests failed or wait for their next try, with none under way and no node known to work."""
        if self._pending or not (self._resting or self._results):
            return False
        return not any(node.is_proven and node.breaker.state is CLOSED for node in self._context.balancer.nodes)

    def send(self, operations: Sequence[Submitted]) -> tuple[int, Node | None]:
        """Send operations over open connections; return how many, from the first on.

        And the node whose turn it is, when all it lacks is an open connection. Requests that need a second thought (a
        node that never answered, a body that is not in memory) are not sent here.
        """
        if self._epoll is None:
            return 0, None
        balancer = self._context.balancer
        nodes = balancer.next_in_turns(len(operations))
        begun: dict[Node, int] = {}
        sent = 0
        lacking = None
        for node, operation in zip(nodes, operations, strict=False):
            if not node.is_proven or not node.connections.is_unlimited or not _is_in_memory(operation.request):
                break
            if not self._send(node, operation, begun):
                lacking = node
                break
            sent += 1
        for node, count in begun.items():
            node.note_begun(count)
        if sent < len(nodes):
            balancer.give_back(len(nodes) - sent - (lacking is not None))
        return sent, lacking

    def _send(self, node: Node, operation: Submitted, begun: dict[Node, int]) -> bool:
        """Send a request, or note its error; False when no connection to the node is open."""
        connection = node.connections.take_open()
        if connection is None:
            return False
        request = operation.request
        try:
            head = self._context.build_head(request, node.endpoint)
        except Exception as exc:  # noqa: BLE001 - it is for the one whose request this is
            node.connections.checkin(connection, reusable=True)
            self._count += 1
            self._results.append(Result(operation, exc))
            return True
        exchange = send_over(connection, node, request, head)
        if exchange is None:
            return False
        begun[node] = begun.get(node, 0) + 1
        attempt = Attempt(self._context, request, operation.check)
        attempt.adopt(exchange)
        self._count += 1
        fd = connection.fileno()
        if self._watched.get(fd) is connection:
            self._pending[fd] = operation, attempt, exchange
        else:
            self._follow(operation, attempt)
        return True

    def poll(self, *, wait: bool = True) -> list[Result]:
        """Return what has come since the last call; wait for a while when there is nothing and ``wait``."""
        self._take(self._events(wait=wait))
        now = time.monotonic()
        self._resume(now)
        if now >= self._next_tick:  # after what has come: this thread may have been away for long
            self._next_tick = now + TICK_S
            self._look_at_deadlines()
        results, self._results = self._results, []
        self._count -= len(results)
        return results

    def _events(self, *, wait: bool) -> list[tuple[int, int]]:
        if self._epoll is None:
            self._give_all_to_threads()
            return []
        events = self._epoll.poll(0.0)
        if not events and wait and not self._results and self._count:
            since = time.monotonic()
            next_start = min((attempt.deadline for _, attempt in self._resting), default=since + TICK_S)
            events = self._epoll.poll(min(max(next_start - since, 0.0), TICK_S))
            self.waited_s += time.monotonic() - since
        return events

    def _take(self, events: Iterable[tuple[int, int]]) -> None:
        totals = Totals()
        for fd, flags in events:
            pending = self._pending.get(fd)
            if pending is None:
                continue
            operation, attempt, exchange = pending
            if exchange.is_over:
                del self._pending[fd]
                continue
            attempt.on_readable(exchange, totals)
            if flags & ENDED and attempt.state is not HEAD and not exchange.is_over:
                attempt.on_readable(exchange, totals)  # an end that came with the last bytes is no event of its own
            if attempt.state is DONE:
                del self._pending[fd]
                self._results.append(Result(operation))
            elif attempt.state is HEAD or exchange.is_over:
                del self._pending[fd]
                self._follow(operation, attempt)
        totals.flush()

    def _follow(self, operation: Submitted, attempt: Attempt) -> None:
        """Watch an attempt's exchanges, or note what has become of it."""
        if attempt.is_over:
            self._results.append(Result(operation, attempt.error))
            return
        exchanges = attempt.exchanges
        if not exchanges:
            self._resting.append((operation, attempt))
            return
        if attempt.state is HEAD or exchanges[-1].response is not None:
            self._hand_over(operation, attempt)
            return
        for exchange in exchanges:
            try:
                self._watch(operation, attempt, exchange)
            except OSError as exc:  # no descriptor is left for it
                attempt.abandon()
                self._results.append(Result(operation, exc))
                return

    def _watch(self, operation: Submitted, attempt: Attempt, exchange: Exchange) -> None:
        connection = exchange.connection
        fd = connection.fileno()
        if self._watched.get(fd) is not connection and self._epoll is not None:
            self._epoll.register(fd, WATCHED)
            self._watched[fd] = connection
        self._pending[fd] = operation, attempt, exchange

    def _hand_over(self, operation: Submitted, attempt: Attempt) -> None:
        for exchange in attempt.exchanges:
            self._pending.pop(exchange.connection.fileno(), None)
        self._results.append(Result(operation, attempt=attempt))

    def _resume(self, now: float) -> None:
        resting, self._resting = self._resting, []
        for operation, attempt in resting:
            if attempt.deadline <= now:
                attempt.start(wait=False)
            self._follow(operation, attempt)

    def _look_at_deadlines(self) -> None:
        due = {id(attempt): (operation, attempt) for operation, attempt, _ in self._pending.values()}
        for operation, attempt in due.values():
            before = tuple(attempt.exchanges)
            attempt.look()
            if attempt.exchanges and self._context.now() >= attempt.deadline:
                attempt.on_deadline()
            if tuple(attempt.exchanges) != before:
                self._forget_ended()
                self._follow(operation, attempt)

    def _forget_ended(self) -> None:
        for fd, (_, _, exchange) in list(self._pending.items()):
            if exchange.is_over:
                del self._pending[fd]

    def _give_all_to_threads(self) -> None:
        """Without epoll answers are waited for one after the other."""
        for operation, attempt, _ in self._pending.values():
            self._results.append(Result(operation, attempt=attempt))
        self._pending.clear()

    def abandon(self) -> None:
        """Drop all that is under way."""
        for _, attempt, _ in self._pending.values():
            attempt.abandon()
        for result in self._results:
            if result.attempt is not None:
                result.attempt.abandon()
        self._pending.clear()
        self._resting.clear()
        self._results.clear()
        self._count = 0

    def close(self) -> None:
        """Drop what is under way; idle connections stay open."""
        self.abandon()
        if self._epoll is not None:
            self._epoll.close()


def _is_in_memory(request: Request) -> bool:
    return request.idempotent and isinstance(request.body, BytesBody)


def _open_epoll() -> select.epoll | None:
    """Return None on other systems, and where there are no descriptors left: then answers are waited for in turn."""
    try:
        return select.epoll() if IS_POSSIBLE else None
    except OSError:
        return None
