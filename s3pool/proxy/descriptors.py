"""How many connections the system lets this process have, and what of that is for whom."""

from __future__ import annotations

import contextlib
import resource

OWN = 64  # listeners, logs, probes, the admin page, and answers to those that are turned away
PER_SEAT = 3  # a connection to a node and a pipe
SEAT_PART = 8  # of the descriptors, at least so many for each place at a node


def raise_limit() -> None:
    """Let this process have as many descriptors as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def seats_within(wanted: int) -> int:
    """Return how many requests may be at work on nodes, of those that the nodes' connections allow."""
    return max(min(wanted, (_limit() - OWN) // SEAT_PART), 1)


def clients_within(wanted: int, seats: int) -> int:
    """Return how many connections clients may have beside what those seats need."""
    return max(min(wanted, _limit() - OWN - PER_SEAT * seats), 1)


def _limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
