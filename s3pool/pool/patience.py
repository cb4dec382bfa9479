"""How long a node is waited for before another one is asked as well; pure.

A node that never answered may be one that swallows everything sent to it. Its full connect
timeout is for pools in which nobody answers: where others do, they tell what is usual.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s3pool.pool.balancer import Node

UNUSUAL_LATENCIES = 20.0  # a node that answered before is overdue after so many of its usual latencies
PROVEN_PATIENCE_S = 1.0  # but not before this: a slow disk is no reason to ask twice
UNUSUAL_TIMES = 10.0  # one that never did has so many times what others took
FIRST_PATIENCE_S = 1.0  # or this, when there are none yet
LEAST_PATIENCE_S = 0.5  # not before this is it called ill: a busy machine is not dead
EARLY_PATIENCE_S = 0.1  # but once it is passed over so soon, which costs one more request and no reputation
KEPT_TIMES = 5.0  # so many times what others took, when no kept connection was ever answered
MAX_HASTY = 2  # nodes of one request that lose it this way: it may be the network that is slow


def connect_patience_s(node: Node, nodes: Iterable[Node], *, full_s: float) -> float:
    """Give the seconds that a node's connection may take while others could be tried."""
    if node.is_proven or node.connections.open_s:
        return full_s
    usual = [other.connections.open_s for other in nodes if other.connections.open_s]
    return _for_a_stranger(node, usual, full_s)


def answer_patience_s(node: Node, nodes: Iterable[Node], *, full_s: float, is_trying_kept: bool = False) -> float:
    """Give the seconds after which a node that got a request is not waited for alone.

    ``is_trying_kept`` says that it went over a kept connection, and that nobody knows yet
    whether these are served as fast as new ones.
    """
    # A probe, or an answer that was waiting, proves a node and tells no time.
    usual = [other.latency_s for other in nodes if other.latency_s]
    if not node.is_proven:
        return _for_a_stranger(node, usual, full_s)
    proven_s = max(min(PROVEN_PATIENCE_S, full_s), UNUSUAL_LATENCIES * node.latency_s)
    if is_trying_kept and usual:
        return min(proven_s, max(EARLY_PATIENCE_S, KEPT_TIMES * _middle(usual)))
    return proven_s


def is_early(seconds: float, *, full_s: float) -> bool:
    """Say whether a stranger that was silent for so long may be just slow for a moment."""
    return seconds < min(FIRST_PATIENCE_S, LEAST_PATIENCE_S, full_s)


def _for_a_stranger(node: Node, usual: Sequence[float], full_s: float) -> float:
    if not usual:
        return min(FIRST_PATIENCE_S, full_s)
    least_s = LEAST_PATIENCE_S if node.is_doubted else EARLY_PATIENCE_S
    return min(max(least_s, UNUSUAL_TIMES * _middle(usual)), full_s)


def _middle(usual: Sequence[float]) -> float:
    return sorted(usual)[len(usual) // 2]
