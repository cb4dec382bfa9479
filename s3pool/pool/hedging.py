"""When another node is asked as well, and when a request may leave its node; pure.

A node that never answered may be one that swallows everything sent to it. Its full connect
timeout is for pools in which nobody answers: where others do, they tell what is usual.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from s3pool.model import Request
from s3pool.pool.node import Delays, Node

UNUSUAL_LATENCIES = 20.0  # a node that answered before is overdue after so many of its usual latencies
UNPROVEN_TIMES = 10.0  # a node that never answered has so many times what others took
KEPT_TIMES = 5.0  # so many times what others took, when no kept connection was ever answered
MAX_EARLY_CONNECTS = 2  # nodes of one request whose connection is given up early: the network may be slow
MAX_HEDGED = 2  # silent nodes beside one more: a slow store must not get every request many times


def may_be_hedged(request: Request) -> bool:
    """Return whether the same request may be under way on two nodes at once."""
    is_read = request.idempotent and not request.body.length and request.method in {"GET", "HEAD"}
    return is_read and request.may_retry()


def leaves_at_once(request: Request) -> bool:
    """Return whether a request goes elsewhere as soon as its node's circuit is open."""
    if request.method in {"GET", "HEAD"}:
        return request.replayable
    if request.is_harmless_twice:
        return request.body.rewindable
    return request.replayable and request.timeout_factor <= 1.0


def connect_attempt_delay_s(node: Node, nodes: Iterable[Node], *, full_s: float) -> float:
    """Return the seconds that a node's connection may take while others could be tried (RFC 8305's word)."""
    if node.is_proven or node.connections.open_s:
        return full_s
    usual = [other.connections.open_s for other in nodes if other.connections.open_s]
    return _for_unproven(node, usual, full_s)


def hedge_delay_s(node: Node, nodes: Iterable[Node], *, full_s: float, is_trying_kept: bool = False) -> float:
    """Return the seconds after which a node that got a read is not waited for alone.

    A node that answers reads slowly gets longer, but never more than what is unusual for the
    pool's middle node: where others answer in milliseconds, a second is the most.
    ``is_trying_kept`` means a request over a kept connection while nobody knows yet whether
    these are served as fast as new ones.
    """
    # A probe, or an answer that was waiting, proves a node and tells no time.
    usual = [other.read_s for other in nodes if other.read_s]
    if not node.is_proven:
        return _for_unproven(node, usual, full_s)
    others = [other.read_s for other in nodes if other.read_s and other is not node]
    usual_s = min(node.read_s, _middle(others)) if others else node.read_s
    proven_s = max(min(node.delays.proven_s, full_s), UNUSUAL_LATENCIES * usual_s)
    if is_trying_kept and usual:
        return min(proven_s, max(node.delays.early_s, KEPT_TIMES * _middle(usual)))
    return proven_s


def is_early(seconds: float, delays: Delays, *, full_s: float) -> bool:
    """Return whether an unproven node that was silent for so long may be just slow for a moment."""
    return seconds < min(delays.unproven_s, delays.failure_s, full_s)


def _for_unproven(node: Node, usual: Sequence[float], full_s: float) -> float:
    delays = node.delays
    if not usual:
        return min(delays.unproven_s, full_s)
    least_s = delays.failure_s if node.is_suspect else delays.early_s
    return min(max(least_s, UNPROVEN_TIMES * _middle(usual)), full_s)


def _middle(usual: Sequence[float]) -> float:
    return sorted(usual)[len(usual) // 2]
