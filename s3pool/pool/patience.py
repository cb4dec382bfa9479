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
LEAST_PATIENCE_S = 0.5  # and never less: a connection may cross an ocean, and a busy machine is not dead
MAX_HASTY = 2  # nodes of one request that lose it this way: it may be the network that is slow


def connect_patience_s(node: Node, nodes: Iterable[Node], *, full_s: float) -> float:
    """Give the seconds that a node's connection may take while others could be tried."""
    if node.is_proven or node.connections.open_s:
        return full_s
    return _for_a_stranger([other.connections.open_s for other in nodes if other.connections.open_s], full_s)


def answer_patience_s(node: Node, nodes: Iterable[Node], *, full_s: float) -> float:
    """Give the seconds after which a node that got a request is not waited for alone."""
    if node.is_proven:
        return max(min(PROVEN_PATIENCE_S, full_s), UNUSUAL_LATENCIES * node.latency_s)
    # A probe, or an answer that was waiting, proves a node and tells no time.
    return _for_a_stranger([other.latency_s for other in nodes if other.latency_s], full_s)


def _for_a_stranger(usual: Sequence[float], full_s: float) -> float:
    if not usual:
        return min(FIRST_PATIENCE_S, full_s)
    middle = sorted(usual)[len(usual) // 2]
    return min(max(LEAST_PATIENCE_S, UNUSUAL_TIMES * middle), full_s)
