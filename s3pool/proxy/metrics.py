"""Metrics of the proxy: prometheus-client's registry, and the numbers of the stats page.

prometheus-client is imported when the proxy starts. With several processes its files in a
shared directory make one truth of them all.
"""

from __future__ import annotations

import platform
import threading
import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from s3pool import __version__
from s3pool.model import Endpoint
from s3pool.pool.breaker import CLOSED, HALF_OPEN, OPEN
from s3pool.pool.node import Node
from s3pool.proxy.access_log import CLIENT_GONE, RequestRecord
from s3pool.proxy.service import ProxyPool

# Names of metrics, the members of an endpoint's record behind them, and what makes them base units.
ENDPOINT_METRICS = (
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
# What each metric of this table tells. Those that only grow are counters, and end in _total.
MEANINGS = {
    "build_info": "1, with the versions of s3pool and Python",
    "connections": "Connections of clients that are open",
    "replay_memory_bytes": "Memory that request bodies and documents take",
    "spool_bytes": "Bytes of request bodies that are in files",
    "retrying": "Requests that are being tried again",
    "endpoint_up": "0 while the circuit of the node is open",
    "endpoint_state": "1 for the state that the circuit of the node has",
    "endpoint_drained": "1 while the node is drained",
    "endpoint_in_flight": "Requests under way at the node",
    "endpoint_latency_seconds": "Usual time to the head of an answer of the node",
    "endpoint_clock_skew_seconds": "The clock of the node minus that of the proxy",
}
COUNTERS = {
    "endpoint_requests": "Attempts on the node",
    "endpoint_retries": "Attempts on the node that repeated another",
    "endpoint_throttled": "Answers of the node that asked to slow down",
    "endpoint_ejections": "How often the node left the pool",
    "endpoint_sent_bytes": "Bytes of bodies that the node got",
    "endpoint_received_bytes": "Bytes of bodies that the node sent",
    "endpoint_failures": "Attempts on the node without a usable answer, by kind",
    "endpoint_connections": "Connections to the node that were opened, used again, or dropped, by kind",
}
Gauges = dict[str, list[tuple[dict[str, str], float]]]


def node_record(node: Node, skews: Mapping[Endpoint, float]) -> dict[str, Any]:
    """Return everything about one endpoint, ready for JSON."""
    stats = node.counters.snapshot(node.endpoint.url, node.breaker.state)
    return {
        "endpoint": stats.endpoint,
        "state": stats.state,
        "health": _health(node),
        "ejections": node.breaker.ejections,
        "drained": node.is_draining,
        "tier": node.priority,
        "zone": node.endpoint.zone,
        "weight": node.endpoint.weight,
        "in_flight": node.in_flight,
        "latency_ms": round(node.latency_s * 1000, 3),
        "answers": stats.timed,
        "answer_seconds": round(stats.seconds, 6),
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


def _health(node: Node) -> str:
    """Return the state of a node in a word that people use."""
    if node.is_draining:
        return "draining" if node.in_flight else "drained"
    if node.breaker.state == CLOSED:
        return "up"
    return "avoided" if node.breaker.state == HALF_OPEN or node.breaker.is_invited else "down"


def stats_record(
    pool: ProxyPool, *, requests: dict[str, dict[str, int]], connections: int, is_draining: bool
) -> dict[str, Any]:
    """Return the whole state, ready for JSON."""
    loader = pool.gateway.loader
    return {
        "version": __version__,
        "uptime_s": round(time.time() - pool.started, 1),
        "draining": is_draining,
        "auth": pool.gateway.settings.auth,
        "connections": connections,
        "requests": requests,
        "replay_memory": {"used": loader.budget.used, "size": loader.budget.size},
        "spool": {"used": loader.disk.used, "size": loader.disk.size},
        "retrying": pool.gateway.forwarder.budget.retrying,
        "endpoints": [node_record(node, pool.clock_skews) for node in pool.nodes],
    }


def gauges(record: Mapping[str, Any]) -> Gauges:
    """Return the states of now, for the metrics; ``record`` is the state of all processes."""
    rows = record["endpoints"]
    own: Gauges = {
        "build_info": [({"version": __version__, "python": platform.python_version()}, 1.0)],
        "connections": [({}, record["connections"])],
        "replay_memory_bytes": [({}, record["replay_memory"]["used"])],
        "spool_bytes": [({}, record["spool"]["used"])],
        "retrying": [({}, record["retrying"])],
    }
    for name, member, factor in ENDPOINT_METRICS:
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


def is_ready(nodes: Iterable[Node]) -> bool:
    """Return whether a node is there that would take a request."""
    return any(not node.is_draining and (node.breaker.state != OPEN or node.breaker.is_trial_due()) for node in nodes)


LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
BOUNDS = (*map(str, LATENCY_BUCKETS), "+Inf")
PER_BUCKET = "_per_bucket"
DURATIONS = (("request_seconds", "Whole requests"), ("first_byte_seconds", "From a request's head to its answer's"))
ERROR_STATUS = 500


class Metrics:
    """Counters of one proxy process; safe for many threads.

    ``multiprocess_dir`` is where prometheus-client keeps the counters of all processes; it
    must be in the environment (PROMETHEUS_MULTIPROC_DIR) before the first one is made.
    """

    def __init__(self, *, multiprocess: bool = False) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge

        self._is_multiprocess = multiprocess
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "s3pool_proxy"}
        self._requests = Counter("requests", "Requests answered", ["op", "code", "endpoint"], **own)
        # A histogram of the library takes one observation at a time; counters take many, and are shown as histograms.
        self._durations = [
            (Counter(f"{name}{PER_BUCKET}", text, ["op", "le"], **own), Counter(f"{name}_sum", text, ["op"], **own))
            for name, text in DURATIONS
        ]
        client_bytes = Counter("client_bytes", "Bytes from and to clients", ["direction"], **own)
        self._bytes_in, self._bytes_out = client_bytes.labels("in"), client_bytes.labels("out")
        self._tries = Counter("tries", "Attempts on nodes", **own)
        self._resumes = Counter("resumes", "Downloads that went on from another node", **own)
        self._replays = Counter("replays", "Bodies that were sent again", **own)
        self._client_gone = Counter("client_gone", "Requests whose client hung up before the end", ["op"], **own)
        self._denied = Counter("auth_failures", "Callers turned away", ["reason"], **own)
        self._turned_away = Counter("connections_refused", "Connections over the limit", **own)
        self._limited = Counter("limited", "Requests beyond a limit", ["client", "bucket", "limit"], **own)
        self._looped = Counter("loop_requests", "Requests that needed no thread", **own)
        self._handed_over = Counter("handovers", "Connections that the loop gave to a thread", ["reason"], **own)
        self._in_flight = Gauge("in_flight", "Requests at work", multiprocess_mode="livesum", **own)
        # Guards all below; held for additions. A request costs no more: the registry gets sums.
        self._lock = threading.Lock()
        self._at_work = 0
        self._sums: dict[tuple[str, int, str], _RequestSums] = {}
        self._reasons: Tally[str] = Tally()
        self._by_op: Tally[str] = Tally()
        self._by_class: Tally[str] = Tally()
        self._by_first_byte: Tally[str] = Tally(dict.fromkeys(BOUNDS, 0))

    def begin(self) -> None:
        """Count a request that starts."""
        with self._lock:
            self._at_work += 1

    def end(self, record: RequestRecord) -> None:
        """Count a request that ended."""
        key = (record.op, record.status, record.endpoint)
        with self._lock:
            self._at_work -= 1
            sums = self._sums.get(key) or self._sums.setdefault(key, _RequestSums())
            sums.add(record)
        if record.end == CLIENT_GONE:
            self._client_gone.labels(record.op).inc()
        if record.resumes:
            self._resumes.inc(record.resumes)
        if record.replays:
            self._replays.inc(record.replays)
        if record.limited is not None:
            self._limited.labels(record.access_key, *record.limited).inc()
        if record.denied:
            self._denied.labels(record.denied).inc()

    def flush(self) -> None:
        """Add the sums to the registry; called before metrics are shown."""
        with self._lock:
            pending, self._sums = self._sums, {}
            reasons, self._reasons = self._reasons, Tally()
            at_work = self._at_work
            for (op, status, _), sums in pending.items():
                self._by_op[op] += sums.requests
                self._by_class[f"{status // 100}xx" if status else "none"] += sums.requests
                self._by_first_byte.update(dict(zip(BOUNDS, sums.first_byte.counts, strict=True)))
        self._in_flight.set(at_work)
        for (op, status, endpoint), sums in pending.items():
            self._requests.labels(op, str(status), endpoint).inc(sums.requests)
            self._bytes_in.inc(sums.bytes_in)
            self._bytes_out.inc(sums.bytes_out)
            self._tries.inc(sums.tries)
            self._looped.inc(sums.looped)
            for (counts, seconds), own in zip(self._durations, (sums.total, sums.first_byte), strict=True):
                seconds.labels(op).inc(own.seconds)
                for place, count in enumerate(own.counts):
                    if count:
                        counts.labels(op, BOUNDS[place]).inc(count)
        for reason, count in reasons.items():
            self._handed_over.labels(reason).inc(count)

    def count_handover(self, reason: str) -> None:
        """Count a connection that goes from the loop to a thread."""
        with self._lock:
            self._reasons[reason] += 1

    def count_refused(self) -> None:
        """Count a connection over the limit."""
        self._turned_away.inc()

    def summary(self) -> dict[str, dict[str, int]]:
        """Return the requests of this process by operation, class of status, and time to the first byte."""
        self.flush()
        with self._lock:
            counts = {"by_op": self._by_op, "by_status": self._by_class, "by_first_byte": self._by_first_byte}
            return {name: dict(each) for name, each in counts.items()}

    def render(self, gauges: dict[str, list[tuple[dict[str, str], float]]]) -> bytes:
        """Return the text that Prometheus reads; ``gauges`` are states of now, by name."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        self.flush()
        registry = self.registry
        if self._is_multiprocess:
            from prometheus_client.multiprocess import MultiProcessCollector

            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        families = [*_with_histograms(registry.collect())]
        for name, samples in gauges.items():
            names = sorted(samples[0][0]) if samples else []
            kind, meanings = (CounterMetricFamily, COUNTERS) if name in COUNTERS else (GaugeMetricFamily, MEANINGS)
            family = kind(f"s3pool_proxy_{name}", meanings[name], labels=names)
            for labels, value in samples:
                family.add_metric([labels[key] for key in sorted(labels)], value)
            families.append(family)
        states = CollectorRegistry()
        states.register(_Families(families))
        ProcessCollector(registry=states)
        return bytes(generate_latest(states))


def _with_histograms(families: Iterable[Any]) -> Iterator[Any]:
    """Yield families, with histograms in place of the counters of their buckets and sums."""
    from prometheus_client.core import HistogramMetricFamily

    found = {family.name: family for family in families}
    for name, family in found.items():
        base = name.removesuffix(PER_BUCKET)
        if base == name and f"{name.removesuffix('_sum')}{PER_BUCKET}" not in found:
            yield family
        elif base != name:
            counts = {(row.labels["op"], row.labels["le"]): row.value for row in _totals(family)}
            histogram = HistogramMetricFamily(base, family.documentation, labels=["op"])
            for row in _totals(found[f"{base}_sum"]):
                op = row.labels["op"]
                sums = accumulate(counts.get((op, bound), 0.0) for bound in BOUNDS)
                histogram.add_metric([op], [*zip(BOUNDS, sums, strict=True)], row.value)
            yield histogram


def _totals(family: Any) -> list[Any]:
    return [sample for sample in family.samples if sample.name.endswith("_total")]


class _Families:
    """A collector of families that were measured just now."""

    def __init__(self, families: list[Any]) -> None:
        self._families = families

    def collect(self) -> list[Any]:
        """Return the families."""
        return self._families


class _RequestSums:
    """Sums over requests of one operation, status and node."""

    __slots__ = ("bytes_in", "bytes_out", "first_byte", "looped", "requests", "total", "tries")

    def __init__(self) -> None:
        self.total, self.first_byte = _Durations(), _Durations()
        self.looped = 0
        self.requests = self.bytes_in = self.bytes_out = self.tries = 0

    def add(self, record: RequestRecord) -> None:
        """Count one request."""
        self.requests += 1
        self.looped += record.used_event_loop
        self.bytes_in += record.bytes_in
        self.bytes_out += record.bytes_out
        self.tries += record.tries
        self.total.add(record.total_s)
        if record.first_byte_s:
            self.first_byte.add(record.first_byte_s)


class _Durations:
    """How many durations there were in each bucket, and their sum."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * len(BOUNDS)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self.seconds += seconds
