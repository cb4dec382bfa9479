"""The state of the proxy as values: what the admin listener shows."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from s3pool import __version__
from s3pool.pool.breaker import OPEN

if TYPE_CHECKING:
    from s3pool.pool.balancer import Node
    from s3pool.proxy.gateway import Gateway

Gauges = dict[str, list[tuple[dict[str, str], float]]]


class Subject(Protocol):
    """What is looked at."""

    @property
    def nodes(self) -> Iterable[Node]:
        """Give the nodes."""

    @property
    def gateway(self) -> Gateway:
        """Give the gateway in force."""

    @property
    def started(self) -> float:
        """Give the time of the start, in seconds since 1970."""


def node_record(node: Node) -> dict[str, Any]:
    """Give everything about one endpoint, ready for JSON."""
    stats = node.counters.snapshot(node.endpoint.url, node.breaker.state)
    return {
        "endpoint": stats.endpoint,
        "state": stats.state,
        "drained": node.is_drained,
        "tier": node.tier,
        "in_flight": node.in_flight,
        "latency_ms": round(node.latency_s * 1000, 3),
        "requests": stats.requests,
        "failures": stats.failures,
        "throttled": stats.throttled,
        "retries": stats.retries,
        "bytes_sent": stats.bytes_sent,
        "bytes_received": stats.bytes_received,
        "last_error": stats.last_error,
    }


def stats_record(
    subject: Subject, *, requests: dict[str, dict[str, int]], connections: int, is_draining: bool
) -> dict[str, Any]:
    """Give the whole state, ready for JSON."""
    budget = subject.gateway.loader.budget
    return {
        "version": __version__,
        "uptime_s": round(time.time() - subject.started, 1),
        "draining": is_draining,
        "auth": subject.gateway.settings.auth,
        "connections": connections,
        "requests": requests,
        "replay_memory": {"used": budget.used, "size": budget.size},
        "endpoints": [node_record(node) for node in subject.nodes],
    }


def gauges(subject: Subject, *, connections: int) -> Gauges:
    """Give the states of now, for the metrics."""
    nodes = list(subject.nodes)
    own: Gauges = {
        "connections": [({}, connections)],
        "replay_memory_bytes": [({}, subject.gateway.loader.budget.used)],
        "checksums_dropped": [({}, subject.gateway.loader.checksums_dropped)],
    }
    labels = [{"endpoint": node.endpoint.url} for node in nodes]
    return own | {
        "endpoint_up": _samples(labels, (float(node.breaker.state != OPEN) for node in nodes)),
        "endpoint_drained": _samples(labels, (float(node.is_drained) for node in nodes)),
        "endpoint_in_flight": _samples(labels, (float(node.in_flight) for node in nodes)),
        "endpoint_latency_seconds": _samples(labels, (node.latency_s for node in nodes)),
        "endpoint_requests": _samples(labels, (float(node.counters.requests) for node in nodes)),
        "endpoint_failures": _samples(labels, (float(node.counters.failure_kinds.total()) for node in nodes)),
    }


def _samples(labels: list[dict[str, str]], values: Iterable[float]) -> list[tuple[dict[str, str], float]]:
    return list(zip(labels, values, strict=True))


def is_ready(subject: Subject) -> bool:
    """Say whether a node is there that would take a request."""
    return any(
        not node.is_drained and (node.breaker.state != OPEN or node.breaker.is_trial_due) for node in subject.nodes
    )
