"""What the proxy counts: prometheus-client's registry, and a few numbers for the stats page.

prometheus-client is imported when the proxy starts. With several processes its files in a
shared directory make one truth of them all.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter as Tally
from typing import Any

from s3pool.proxy.journal import Entry

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
ERROR_STATUS = 500


class Metrics:
    """Counters of one proxy process; safe for many threads.

    ``multiprocess_dir`` is where prometheus-client keeps the counters of all processes; it
    must be in the environment (PROMETHEUS_MULTIPROC_DIR) before the first one is made.
    """

    def __init__(self, *, multiprocess: bool = False) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._is_multiprocess = multiprocess
        self.registry = CollectorRegistry()
        labels: dict[str, Any] = {"registry": self.registry, "namespace": "s3pool_proxy"}
        self._requests = Counter("requests", "Requests answered", ["op", "code", "endpoint"], **labels)
        self._seconds = Histogram("request_seconds", "Whole requests", ["op"], buckets=LATENCY_BUCKETS, **labels)
        self._first_byte = Histogram(
            "first_byte_seconds", "From a request's head to its answer's", ["op"], buckets=LATENCY_BUCKETS, **labels
        )
        client_bytes = Counter("client_bytes", "Bytes from and to clients", ["direction"], **labels)
        self._bytes_in, self._bytes_out = client_bytes.labels("in"), client_bytes.labels("out")
        self._tries = Counter("tries", "Attempts on nodes", **labels)
        self._resumes = Counter("resumes", "Downloads that went on from another node", **labels)
        self._replays = Counter("replays", "Bodies that were sent again", **labels)
        self._denied = Counter("auth_failures", "Callers turned away", ["reason"], **labels)
        self._turned_away = Counter("connections_refused", "Connections over the limit", **labels)
        self._limited = Counter("limited", "Requests beyond a limit", ["client", "bucket", "limit"], **labels)
        self._looped = Counter("loop_requests", "Requests that needed no thread", **labels)
        self._handed_over = Counter("handovers", "Connections that the loop gave to a thread", ["reason"], **labels)
        self._in_flight = Gauge("in_flight", "Requests at work", multiprocess_mode="livesum", **labels)
        # Guards all below; held for additions. A request costs no more: the registry gets sums.
        self._lock = threading.Lock()
        self._at_work = 0
        self._sums: dict[tuple[str, int, str], _Sums] = {}
        self._reasons: Tally[str] = Tally()
        self._by_op: Tally[str] = Tally()
        self._by_class: Tally[str] = Tally()

    def begin(self) -> None:
        """Count a request that starts."""
        with self._lock:
            self._at_work += 1

    def end(self, entry: Entry) -> None:
        """Count a request that ended."""
        key = (entry.op, entry.status, entry.endpoint)
        with self._lock:
            self._at_work -= 1
            sums = self._sums.get(key)
            if sums is None:
                sums = self._sums[key] = _Sums()
            sums.add(entry)
        if entry.resumes:
            self._resumes.inc(entry.resumes)
        if entry.replays:
            self._replays.inc(entry.replays)
        if entry.limited is not None:
            self._limited.labels(entry.access_key, *entry.limited).inc()
        if entry.denied:
            self._denied.labels(entry.denied).inc()

    def flush(self) -> None:
        """Hand what was added up to the registry; who shows it calls this before."""
        with self._lock:
            pending, self._sums = self._sums, {}
            reasons, self._reasons = self._reasons, Tally()
            at_work = self._at_work
            for (op, status, _), sums in pending.items():
                self._by_op[op] += sums.requests
                self._by_class[f"{status // 100}xx" if status else "none"] += sums.requests
        self._in_flight.set(at_work)
        for (op, status, endpoint), sums in pending.items():
            self._requests.labels(op, str(status), endpoint).inc(sums.requests)
            sums.seconds.pour(self._seconds.labels(op))
            sums.first_byte.pour(self._first_byte.labels(op))
            self._bytes_in.inc(sums.bytes_in)
            self._bytes_out.inc(sums.bytes_out)
            self._tries.inc(sums.tries)
            self._looped.inc(sums.looped)
        for reason, count in reasons.items():
            self._handed_over.labels(reason).inc(count)

    def handed_over(self, reason: str) -> None:
        """Count a connection that goes from the loop to a thread."""
        with self._lock:
            self._reasons[reason] += 1

    def turned_away(self) -> None:
        """Count a connection over the limit."""
        self._turned_away.inc()

    def summary(self) -> dict[str, dict[str, int]]:
        """Give the requests of this process by operation and by class of status."""
        self.flush()
        with self._lock:
            return {"by_op": dict(self._by_op), "by_status": dict(self._by_class)}

    def render(self, gauges: dict[str, list[tuple[dict[str, str], float]]]) -> bytes:
        """Give the text that Prometheus reads; ``gauges`` are states of now, by name."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.core import GaugeMetricFamily

        self.flush()
        registry = self.registry
        if self._is_multiprocess:
            from prometheus_client.multiprocess import MultiProcessCollector

            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        families = []
        for name, samples in gauges.items():
            names = sorted(samples[0][0]) if samples else []
            family = GaugeMetricFamily(f"s3pool_proxy_{name}", name.replace("_", " "), labels=names)
            for labels, value in samples:
                family.add_metric([labels[key] for key in sorted(labels)], value)
            families.append(family)
        states = CollectorRegistry()
        states.register(_Families(families))
        return bytes(generate_latest(registry)) + bytes(generate_latest(states))


class _Families:
    """A collector of what was measured just now."""

    def __init__(self, families: list[Any]) -> None:
        self._families = families

    def collect(self) -> list[Any]:
        """Give the families."""
        return self._families


class _Times:
    """Seconds in a histogram's buckets, until the registry gets them."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS) + 1)  # the last one is without an upper bound
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self.total += seconds

    def pour(self, histogram: Any) -> None:
        """Add all to a histogram of prometheus-client, which has no way for many at once but its parts."""
        for bucket, count in zip(histogram._buckets, self.counts, strict=True):
            if count:
                bucket.inc(count)
        if self.total:
            histogram._sum.inc(self.total)


class _Sums:
    """What requests of one operation, status and node add up to."""

    __slots__ = ("bytes_in", "bytes_out", "first_byte", "looped", "requests", "seconds", "tries")

    def __init__(self) -> None:
        self.looped = 0
        self.requests = self.bytes_in = self.bytes_out = self.tries = 0
        self.seconds = _Times()
        self.first_byte = _Times()

    def add(self, entry: Entry) -> None:
        """Count one request."""
        self.requests += 1
        self.looped += entry.is_looped
        self.bytes_in += entry.bytes_in
        self.bytes_out += entry.bytes_out
        self.tries += entry.tries
        self.seconds.add(entry.total_s)
        if entry.first_byte_s:
            self.first_byte.add(entry.first_byte_s)
