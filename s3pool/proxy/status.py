"""The state of the proxy as values: what the admin listener shows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from s3pool import __version__
from s3pool.pool.breaker import CLOSED, HALF_OPEN, OPEN

if TYPE_CHECKING:
    from s3pool.model import Endpoint
    from s3pool.pool.node import Node
    from s3pool.proxy.gateway import Gateway

# Names of gauges, the members of an endpoint's record behind them, and what makes them base units.
ENDPOINT_GAUGES = (
    ("drained", "drained", 1.0),
    ("in_flight", "in_flight", 1.0),
    ("latency_seconds", "latency_ms", 0.001),
    ("requests", "requests", 1.0),
    ("retries", "retries", 1.0),
    ("throttled", "throttled", 1.0),
    ("ejections", "ejections", 1.0),
    ("sent_bytes", "bytes_sent", 1.0),
    ("received_bytes", "bytes_received", 1.0),
)
Gauges = dict[str, list[tuple[dict[str, str], float]]]


class Subject(Protocol):
    """What is looked at."""

    @property
    def nodes(self) -> Iterable[Node]:
        """Give the nodes."""

    @property
    def clock_skews(self) -> Mapping[Endpoint, float]:
        """Give each node's clock minus ours, in seconds, where it is known."""

    @property
    def gateway(self) -> Gateway:
        """Give the gateway in force."""

    @property
    def started(self) -> float:
        """Give the time of the start, in seconds since 1970."""


def node_record(node: Node, skews: Mapping[Endpoint, float]) -> dict[str, Any]:
    """Give everything about one endpoint, ready for JSON."""
    stats = node.counters.snapshot(node.endpoint.url, node.breaker.state)
    return {
        "endpoint": stats.endpoint,
        "state": stats.state,
        "ejections": node.breaker.ejections,
        "drained": node.is_drained,
        "tier": node.tier,
        "in_flight": node.in_flight,
        "latency_ms": round(node.latency_s * 1000, 3),
        "requests": stats.requests,
        "failures": stats.failures,
        "failure_kinds": stats.failure_kinds,
        "connections": node.connections.counts.snapshot(),
        "throttled": stats.throttled,
        "retries": stats.retries,
        "bytes_sent": stats.bytes_sent,
        "bytes_received": stats.bytes_received,
        "last_error": stats.last_error,
        "clock_skew_s": skews.get(node.endpoint),
    }


def stats_record(
    subject: Subject, *, requests: dict[str, dict[str, int]], connections: int, is_draining: bool
) -> dict[str, Any]:
    """Give the whole state, ready for JSON."""
    loader = subject.gateway.loader
    return {
        "version": __version__,
        "uptime_s": round(time.time() - subject.started, 1),
        "draining": is_draining,
        "auth": subject.gateway.settings.auth,
        "connections": connections,
        "requests": requests,
        "replay_memory": {"used": loader.budget.used, "size": loader.budget.size},
        "spool": {"used": loader.disk.used, "size": loader.disk.size},
        "retrying": subject.gateway.forwarder.budget.retrying,
        "endpoints": [node_record(node, subject.clock_skews) for node in subject.nodes],
    }


def gauges(record: Mapping[str, Any]) -> Gauges:
    """Give the states of now, for the metrics; ``record`` is the state of all processes."""
    rows = record["endpoints"]
    own: Gauges = {
        "connections": [({}, record["connections"])],
        "replay_memory_bytes": [({}, record["replay_memory"]["used"])],
        "spool_bytes": [({}, record["spool"]["used"])],
        "retrying": [({}, record["retrying"])],
    }
    for name, member, factor in ENDPOINT_GAUGES:
        own[f"endpoint_{name}"] = [({"endpoint": row["endpoint"]}, float(row[member]) * factor) for row in rows]
    own["endpoint_up"] = [({"endpoint": row["endpoint"]}, float(row["state"] != OPEN)) for row in rows]
    own["endpoint_state"] = [
        ({"endpoint": row["endpoint"], "state": state}, float(row["state"] == state))
        for row in rows
        for state in (CLOSED, HALF_OPEN, OPEN)
    ]
    own["endpoint_failures"] = [
        ({"endpoint": row["endpoint"], "kind": kind}, float(count))
        for row in rows
        for kind, count in row["failure_kinds"].items()
    ]
    own["endpoint_connections"] = [
        ({"endpoint": row["endpoint"], "kind": kind}, float(count))
        for row in rows
        for kind, count in row["connections"].items()
    ]
    skewed = [row for row in rows if row["clock_skew_s"] is not None]
    own["endpoint_clock_skew_seconds"] = [({"endpoint": row["endpoint"]}, row["clock_skew_s"]) for row in skewed]
    return {name: samples for name, samples in own.items() if samples}


def is_ready(subject: Subject) -> bool:
    """Say whether a node is there that would take a request."""
    return any(
        not node.is_drained and (node.breaker.state != OPEN or node.breaker.is_trial_due()) for node in subject.nodes
    )
