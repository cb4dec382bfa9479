"""What is told of requests: metrics, their last ten minutes, the access log, and less of equal log lines.

prometheus-client is imported when the proxy starts. Several processes share its files in one directory.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import threading
import time
from bisect import bisect_left
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise
from types import SimpleNamespace
from typing import Any

from s3pool import __version__
from s3pool.endpoint import ENDPOINT_COUNTERS, FAILURES_METRIC
from s3pool.errors import ConfigError
from s3pool.model import format_iso_time
from s3pool.pool.node import CLOSED, HALF_OPEN, OPEN
from s3pool.proxy.request import CLIENT_GONE, RequestRecord

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
BOUNDS = (*map(str, LATENCY_BUCKETS), "+Inf")
PER_BUCKET = "_per_bucket"
NAMESPACE = "s3pool_proxy"
ENDPOINT = ("endpoint",)
# What each metric is labelled with and what it tells: of what this process counts while it works, ...
COUNTED = {
    "requests": (("op", "code", "endpoint"), "Requests answered"),
    "client_bytes": (("direction",), "Bytes from clients (in) and to them (out)"),
    "tries": ((), "Attempts on nodes"),
    "resumes": ((), "Downloads that went on from another node"),
    "replays": ((), "Bodies that were sent again"),
    "client_gone": (("op",), "Requests whose client hung up before the end"),
    "auth_failures": (("reason",), "Callers turned away"),
    "connections_refused": ((), "Connections over the limit"),
    "limited": (("client", "bucket", "limit"), "Requests beyond a limit"),
    "loop_requests": ((), "Requests that needed no thread"),
    "handovers": (("reason",), "Connections that the event loop gave to a thread"),
}
DURATIONS = {
    "request_seconds": (("op",), "Whole requests"),
    "first_byte_seconds": (("op",), "From a request's head to its answer's"),
}
IN_FLIGHT = (), "Requests at work"
# ... of what nodes are asked and give, ...
ENDPOINT_COUNTED = {
    **{name: (ENDPOINT, meaning) for name, _, meaning in ENDPOINT_COUNTERS},
    FAILURES_METRIC[0]: (("endpoint", "kind"), FAILURES_METRIC[1]),
    "endpoint_connections": (
        ("endpoint", "kind"),
        "Connections to the node that were opened, used again, or dropped, by kind",
    ),
}
# ... and of how it is now.
STATES = {
    "build_info": (("version", "python"), "1, with the versions of s3pool and Python"),
    "processes": ((), "Processes that serve clients"),
    "draining": ((), "1 while the proxy takes no new connections"),
    "connections": ((), "Connections of clients that are open"),
    "replay_memory_bytes": ((), "Memory that request bodies and documents take"),
    "spool_bytes": ((), "Bytes of request bodies that are in files"),
    "retrying": ((), "Requests that are being tried again"),
    "endpoint_up": (ENDPOINT, "0 while the circuit of the node is open"),
    "endpoint_state": (("endpoint", "state"), "1 for the state that the circuit of the node has"),
    "endpoint_drained": (ENDPOINT, "1 while the node is drained"),
    "endpoint_in_flight": (ENDPOINT, "Requests under way at the node"),
    "endpoint_latency_seconds": (ENDPOINT, "Usual time to the head of an answer of the node"),
    "endpoint_clock_skew_seconds": (ENDPOINT, "The clock of the node minus that of the proxy"),
}
# What the library measures of a process, where the system tells; over all processes of the proxy.
PROCESS: dict[str, tuple[str, Callable[[Iterable[float]], float]]] = {
    "process_cpu_seconds_total": ("counter", sum),
    "process_resident_memory_bytes": ("gauge", sum),
    "process_virtual_memory_bytes": ("gauge", sum),
    "process_open_fds": ("gauge", sum),
    "process_max_fds": ("gauge", min),
    "process_start_time_seconds": ("gauge", min),
}
Samples = list[tuple[tuple[str, ...], float]]  # the values of labels, and the metric's


def gauges(record: Mapping[str, Any]) -> dict[str, Samples]:
    """Return the samples that are no counters of this process, by metric; ``record`` is the state of all processes."""
    rows = [(row["endpoint"], row) for row in record["endpoints"]]
    of_pool: dict[str, tuple[tuple[str, ...], float]] = {
        "build_info": ((__version__, platform.python_version()), 1.0),
        "processes": ((), record.get("processes", 1)),
        "draining": ((), record["draining"]),
        "connections": ((), record["connections"]),
        "replay_memory_bytes": ((), record["replay_memory"]["used"]),
        "spool_bytes": ((), record["spool"]["used"]),
        "retrying": ((), record["retrying"]),
    }
    own: dict[str, Samples] = {name: [sample] for name, sample in of_pool.items()}
    members = {name: member for name, member, _ in ENDPOINT_COUNTERS}
    for name, member in {**members, "endpoint_drained": "drained", "endpoint_in_flight": "in_flight"}.items():
        own[name] = [((url,), row[member]) for url, row in rows]
    for name, member in ((FAILURES_METRIC[0], "failure_kinds"), ("endpoint_connections", "connections")):
        own[name] = [((url, kind), float(count)) for url, row in rows for kind, count in row[member].items()]
    circuit = (CLOSED, HALF_OPEN, OPEN)
    own["endpoint_up"] = [((url,), row["state"] != OPEN) for url, row in rows]
    own["endpoint_state"] = [((url, state), row["state"] == state) for url, row in rows for state in circuit]
    own["endpoint_latency_seconds"] = [((url,), row["latency_ms"] / 1000) for url, row in rows]
    skewed = [(url, row) for url, row in rows if row["clock_skew_s"] is not None]
    own["endpoint_clock_skew_seconds"] = [((url,), row["clock_skew_s"]) for url, row in skewed]
    return own


class Metrics:
    """Counters of one process; safe for many threads. Several share files in PROMETHEUS_MULTIPROC_DIR, set before."""

    def __init__(self, *, multiprocess: bool = False) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge

        self._is_multiprocess = multiprocess
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": NAMESPACE}
        self._counters = {name: Counter(name, text, labels, **own) for name, (labels, text) in COUNTED.items()}
        # A histogram of the library takes one observation at a time; counters take many, and are shown as histograms.
        self._durations = [
            (Counter(f"{name}{PER_BUCKET}", text, ["op", "le"], **own), Counter(f"{name}_sum", text, ["op"], **own))
            for name, (_, text) in DURATIONS.items()
        ]
        self._in_flight = Gauge("in_flight", IN_FLIGHT[1], multiprocess_mode="livesum", **own)
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
            self._counters["client_gone"].labels(record.op).inc()
        if record.resumes or record.replays:
            self._counters["resumes"].inc(record.resumes)
            self._counters["replays"].inc(record.replays)
        if record.limited is not None:
            self._counters["limited"].labels(record.access_key, *record.limited).inc()
        if record.denied:
            self._counters["auth_failures"].labels(record.denied).inc()

    def flush(self) -> None:
        """Add the sums to the registry; called before metrics are shown."""
        with self._lock:
            pending, self._sums = self._sums, {}
            reasons, self._reasons = self._reasons, Tally()
            at_work = self._at_work
            for (op, status, _), sums in pending.items():
                self._by_op[op] += sums.requests
                self._by_class[f"{status // 100}xx" if status else "none"] += sums.requests
                self._by_first_byte.update(dict(zip(BOUNDS, sums.first_bytes, strict=True)))
        self._in_flight.set(at_work)
        counters = self._counters
        for (op, status, endpoint), sums in pending.items():
            counters["requests"].labels(op, str(status), endpoint).inc(sums.requests)
            counters["client_bytes"].labels("in").inc(sums.bytes_in)
            counters["client_bytes"].labels("out").inc(sums.bytes_out)
            counters["tries"].inc(sums.tries)
            counters["loop_requests"].inc(sums.looped)
            own = (sums.totals, sums.total_s), (sums.first_bytes, sums.first_byte_s)
            for (counts, seconds), (found, took_s) in zip(self._durations, own, strict=True):
                seconds.labels(op).inc(took_s)
                for place, count in enumerate(found):
                    if count:
                        counts.labels(op, BOUNDS[place]).inc(count)
        for reason, count in reasons.items():
            counters["handovers"].labels(reason).inc(count)

    def count_handover(self, reason: str) -> None:
        """Count a connection that goes from the loop to a thread."""
        with self._lock:
            self._reasons[reason] += 1

    def count_refused(self) -> None:
        """Count a connection over the limit."""
        self._counters["connections_refused"].inc()

    def summary(self) -> dict[str, dict[str, int]]:
        """Return the requests of this process by operation, class of status, and time to the first byte."""
        self.flush()
        with self._lock:
            counts = {"by_op": self._by_op, "by_status": self._by_class, "by_first_byte": self._by_first_byte}
            return {name: dict(each) for name, each in counts.items()}

    def render(self, gauges: Mapping[str, Samples], pids: Iterable[int] = ()) -> bytes:
        """Return the text that Prometheus reads: ``gauges`` beside the counters, and what the processes use."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        self.flush()
        registry = self.registry
        if self._is_multiprocess:
            from prometheus_client.multiprocess import MultiProcessCollector

            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        families = [*_with_histograms(registry.collect())]
        for kind, known in ((CounterMetricFamily, ENDPOINT_COUNTED), (GaugeMetricFamily, STATES)):
            for name, (labels, text) in known.items():
                family = kind(f"{NAMESPACE}_{name}", text, labels=labels)
                for values, value in gauges.get(name, ()):
                    family.add_metric(values, value)
                families.append(family)
        families += _of_processes(pids)
        return bytes(generate_latest(SimpleNamespace(collect=lambda: families)))


def _of_processes(pids: Iterable[int]) -> Iterator[Any]:
    from prometheus_client import ProcessCollector
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    collectors = [ProcessCollector(registry=None, pid=lambda pid=pid: pid) for pid in pids]  # type: ignore[misc]
    families = [family for collector in collectors for family in collector.collect()]
    for name, (kind, reduce) in PROCESS.items():
        found = [family for family in families if family.samples and family.samples[0].name == name]
        if found:
            make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            yield make(name, found[0].documentation, value=reduce(each.samples[0].value for each in found))


def _with_histograms(families: Iterable[Any]) -> Iterator[Any]:
    from prometheus_client.core import HistogramMetricFamily

    found = {family.name: family for family in families}
    for name, family in found.items():
        family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        base = name.removesuffix(PER_BUCKET)
        if base == name and f"{name.removesuffix('_sum')}{PER_BUCKET}" not in found:
            yield family
        elif base != name:
            counts = {(row.labels["op"], row.labels["le"]): row.value for row in family.samples}
            histogram = HistogramMetricFamily(base, family.documentation, labels=["op"])
            for row in found[f"{base}_sum"].samples:
                if row.name.endswith("_total"):
                    op = row.labels["op"]
                    sums = accumulate(counts.get((op, bound), 0.0) for bound in BOUNDS)
                    histogram.add_metric([op], [*zip(BOUNDS, sums, strict=True)], row.value)
            yield histogram


class _RequestSums:
    """Sums over requests of one operation, status and node."""

    __slots__ = ("bytes_in", "bytes_out", "first_byte_s", "first_bytes", "looped", "requests", "total_s", "totals",
                 "tries")  # fmt: skip

    def __init__(self) -> None:
        self.requests = self.looped = self.bytes_in = self.bytes_out = self.tries = 0
        self.total_s = self.first_byte_s = 0.0
        # How many durations there were in each bucket.
        self.totals, self.first_bytes = [0] * len(BOUNDS), [0] * len(BOUNDS)

    def add(self, record: RequestRecord) -> None:
        self.requests += 1
        self.looped += record.used_event_loop
        self.bytes_in += record.bytes_in
        self.bytes_out += record.bytes_out
        self.tries += record.tries
        self.totals[bisect_left(LATENCY_BUCKETS, record.total_s)] += 1
        self.total_s += record.total_s
        if record.first_byte_s:
            self.first_bytes[bisect_left(LATENCY_BUCKETS, record.first_byte_s)] += 1
            self.first_byte_s += record.first_byte_s


LOGGED = (
    *("client", "access_key", "method", "op", "bucket", "key", "status", "code", "bytes_in", "bytes_out", "endpoint"),
    *("tries", "resumes", "replays"),
)
TIMED = ("auth", "first_byte", "total")
LOGGED_LAST = ("end", "request_id", "backend_request_id")
LOG_MODE = 0o640
MAX_KEY_LENGTH = 1024  # S3 has no longer keys, and a line no more room for a stranger


class AccessLog:
    """A file, or standard output, to which whole lines are appended."""

    def __init__(self, path: str) -> None:
        self._path = path
        # Held for one write: a pipe that is full takes a long line in pieces, and other lines between them.
        self._lock = threading.Lock()
        self._fd = _open(path)

    def write(self, record: RequestRecord) -> None:
        """Append the line of one request by one write. On a full disk the line is lost."""
        line = _line(record)
        with self._lock, suppress(OSError):
            os.write(self._fd, line)

    def reopen(self) -> None:
        """Reopen the file after log rotation. Raises ConfigError: it cannot be opened; the old one stays."""
        fd = _open(self._path)
        os.dup2(fd, self._fd, inheritable=False)  # at once, so that no line is written in between
        os.close(fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _line(record: RequestRecord) -> bytes:
    """Return the line of one request. It holds no signature, no token and no secret."""
    told: dict[str, object] = {"time": format_iso_time(time.time())}
    told |= {name: getattr(record, name) for name in LOGGED}
    told["key"] = record.key[:MAX_KEY_LENGTH]
    told |= {f"{name}_ms": round(getattr(record, f"{name}_s") * 1000, 3) for name in TIMED}
    told |= {name: getattr(record, name) for name in LOGGED_LAST}
    return json.dumps(told).encode() + b"\n"


def _open(path: str) -> int:
    if path == "-":
        return os.dup(1)
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, LOG_MODE)
    except OSError as exc:
        raise ConfigError(f"cannot write the access log {path}: {exc.strerror}") from exc


LINES = 20  # of one kind
PERIOD_S = 10.0


class LogLimit(logging.Filter):
    """Passes the first lines of a kind in each period, and says in the next one how many it held back."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        # Guards the counts: the start of the period and the lines in it, by the text before its values are filled in.
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is to be written."""
        kind, now = (record.name, str(record.msg)), self._now()
        with self._lock:
            since, count = self._counts.get(kind, (now, 0))
            held_back = 0
            if now - since >= PERIOD_S:
                since, count, held_back = now, 0, max(count - LINES, 0)
            self._counts[kind] = since, count + 1
        if held_back:
            record.msg, record.args = f"{record.getMessage()} ({held_back} lines like this were left out)", ()
        return count < LINES


def limit_log() -> None:
    """Limit the lines of this process."""
    for handler in logging.getLogger("s3pool").handlers:
        if not any(isinstance(known, LogLimit) for known in handler.filters):
            handler.addFilter(LogLimit())


Record = Mapping[str, Any]
Sums = Mapping[str, tuple[float, ...]]
Points = list[tuple[float, float | None]]  # seconds ago, and the value then where there is one
EVERY_S = 10.0
SAMPLES = 60
SPAN_S = EVERY_S * SAMPLES
POOL = ""  # the sums of all requests, beside those of each endpoint


class PoolHistory:
    """Sums of the last ten minutes, one sample every ten seconds; used by one thread and read by others."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._samples: deque[tuple[float, Sums]] = deque(maxlen=SAMPLES + 1)

    def tick(self, stats: Callable[[], Record]) -> None:
        """Take a sample, if one is due."""
        now = self._now()
        if not self._samples or now - self._samples[-1][0] >= EVERY_S:
            self._samples.append((now, sums_of(stats())))

    def points(self, name: str, value: Callable[[Sequence[float], float], float | None]) -> Points:
        """Return a value of each step, made of what its sums grew by and its seconds; None where they were reset."""
        now, found = self._now(), []
        for (since, before), (until, after) in pairwise(tuple(self._samples)):
            ended, begun = after.get(name), before.get(name)
            if now - until > SPAN_S or ended is None:
                continue
            grown = [new - old for new, old in zip(ended, begun or ended, strict=True)]
            is_known = begun is not None and min(grown) >= 0
            found.append((now - until, value(grown, until - since) if is_known else None))
        return found


def sums_of(record: Record) -> Sums:
    """Return what only grows: requests, errors and first bytes of all; requests, failures, answers of each node."""
    by_status, by_time = record["requests"]["by_status"], record["requests"]["by_first_byte"]
    total = (sum(by_status.values()), by_status.get("5xx", 0), *by_time.values())
    members = ("requests", "failures", "answers", "answer_seconds")
    return {POOL: total, **{row["endpoint"]: tuple(row[each] for each in members) for row in record["endpoints"]}}


def quantile(counts: Sequence[float], bounds: Sequence[float], share: float) -> float | None:
    """Return the value below which that share lies, as Prometheus' histogram_quantile does; None for no counts."""
    rank, below, lower = sum(counts) * share, 0.0, 0.0
    for count, bound in zip(counts, bounds, strict=False):
        if count and below + count >= rank:
            return lower + (bound - lower) * (rank - below) / count
        below, lower = below + count, bound
    return lower if rank else None
