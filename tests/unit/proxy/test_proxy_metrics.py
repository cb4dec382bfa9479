"""What the proxy counts, what Prometheus reads of it, and the lines of its log."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from s3pool.proxy.metrics import LATENCY_BUCKETS, AccessLog, Metrics, Samples, gauges
from s3pool.proxy.request import RequestRecord
from tests.support.manual import MAN

NODE = {
    "endpoint": "http://node:1",
    "state": "closed",
    "failure_kinds": {"timeout": 2},
    "connections": {"new": 1},
    "latency_ms": 5.0,
    "clock_skew_s": 0.5,
    **dict.fromkeys(("drained", "in_flight", "retries", "hedges", "throttled", "ejections"), 0),
    "requests": 7,
    "bytes_sent": 1,
    "bytes_received": 2,
}
RECORD = {
    "draining": False,
    "connections": 3,
    "replay_memory": {"used": 1},
    "spool": {"used": 0},
    "retrying": 0,
    "endpoints": [NODE],
}
PARTS = re.compile(r"\.BR (\S+) \" \((.*)\)\"")


def ended(seconds: float, *, op: str = "GetObject", status: int = 200, **more: object) -> RequestRecord:
    """Give a request that took so long."""
    entry = RequestRecord("192.0.2.7", 0.0)
    entry.op, entry.status, entry.endpoint, entry.total_s = op, status, "http://node:1", seconds
    for name, value in more.items():
        setattr(entry, name, value)
    return entry


def samples(metrics: Metrics) -> dict[str, float]:
    """Give what is rendered, by name and labels."""
    lines = re.findall(r"^(s3pool_proxy_\S+) (\S+)$", metrics.render({}).decode(), re.MULTILINE)
    return {name: float(value) for name, value in lines}


def test_requests_are_counted_by_operation_status_and_node() -> None:
    """The sums that were kept aside are all there when somebody looks, and not twice."""
    metrics = Metrics()
    for entry in (ended(0.1, tries=1), ended(0.1, tries=2), ended(0.1, status=404, tries=1)):
        metrics.begin()
        metrics.end(entry)
    metrics.render({})

    shown = samples(metrics)

    name = 's3pool_proxy_requests_total{code="%d",endpoint="http://node:1",op="GetObject"}'
    assert (2.0, 1.0) == (shown[name % 200], shown[name % 404])
    assert (4.0, 0.0) == (shown["s3pool_proxy_tries_total"], shown["s3pool_proxy_in_flight"])
    summary = metrics.summary()
    assert ({"GetObject": 3}, {"2xx": 2, "4xx": 1}) == (summary["by_op"], summary["by_status"])


@pytest.mark.parametrize("seconds", [0.0, 0.004, 0.005, 0.0051, 0.2, 60.0, 300.0, 301.0])
def test_duration_is_where_the_library_would_put_it(seconds: float) -> None:
    """At every border between two buckets."""
    from prometheus_client import CollectorRegistry, Histogram

    ours, registry = Metrics(), CollectorRegistry()
    theirs = Histogram("request_seconds", "x", ["op"], buckets=LATENCY_BUCKETS, registry=registry)
    theirs.labels("GetObject").observe(seconds)
    ours.end(ended(seconds))
    ours.end(ended(seconds))
    theirs.labels("GetObject").observe(seconds)

    expected = {
        (sample.name, sample.labels.get("le")): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    shown = {
        (sample.name.removeprefix("s3pool_proxy_"), sample.labels.get("le")): sample.value
        for family in text_string_to_metric_families(ours.render({}).decode())
        for sample in family.samples
        if sample.name.startswith("s3pool_proxy_request_seconds") and not sample.name.endswith("_created")
    }
    assert expected == shown


def test_requests_at_work_are_told() -> None:
    """The gauge is as old as the look at it."""
    metrics = Metrics()
    metrics.begin()
    metrics.begin()
    metrics.end(ended(0.1))

    assert 1.0 == samples(metrics)["s3pool_proxy_in_flight"]


def test_caller_turned_away_is_counted_by_reason() -> None:
    """Refusals are rare, and counted one by one."""
    metrics = Metrics()
    metrics.end(ended(0.1, status=403, denied="skew"))

    assert 1.0 == samples(metrics)['s3pool_proxy_auth_failures_total{reason="skew"}']


def rendered() -> str:
    """Return what Prometheus reads of a proxy with one request of each kind."""
    metrics = Metrics()
    metrics.begin()
    metrics.count_handover("request")
    metrics.count_refused()
    more = {"tries": 2, "resumes": 1, "replays": 1, "denied": "skew", "limited": ("b", "requests"), "bucket": "b"}
    metrics.end(ended(0.1, end="client gone", first_byte_s=0.05, **more))
    return metrics.render(gauges(RECORD), [os.getpid()]).decode()


def test_manual_names_what_is_exported() -> None:
    """Every metric, with its kind and its labels, and no other one."""
    page = (MAN / "s3pool-proxy.8").read_text()
    told = {name: words.split(", ") for name, words in PARTS.findall(page) if words.split(",")[0] in KINDS}
    shown = {}
    for family in text_string_to_metric_families(rendered()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert family.samples, f"{name} is not provoked here"
        shown[name] = [family.type, *sorted(labels)]

    assert shown == {name: [kind, *sorted(labels)] for name, (kind, *labels) in told.items()}


KINDS = ("counter", "gauge", "histogram")
ABBREVIATED = re.compile(r"_(ms|millis|msec|sec|secs|kb|mb|kib|mib|pct|percent|minutes|hours)(_|$)")


def test_names_are_as_prometheus_wants_them() -> None:
    """What promtool looks at: help, the end of counters and of them alone, base units, each series once."""
    text = rendered()
    series = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]

    assert len(series) == len(set(series))
    assert not [line for line in series if "_created" in line]
    for line in text.splitlines():
        _, word, name, rest = (*line.split(" ", 3), "", "")[:4]
        if word == "HELP":
            assert rest, f"{name} has no help"
        elif word == "TYPE":
            assert (rest == "counter") == name.endswith("_total"), name
            assert not name.endswith(("_count", "_sum", "_bucket")), name
            assert not ABBREVIATED.search(name), name


@pytest.mark.skipif(not shutil.which("promtool"), reason="there is no promtool here")
def test_promtool_takes_the_metrics() -> None:
    """Prometheus' own judge has nothing to say."""
    judged = subprocess.run(
        ["promtool", "check", "metrics"], input=rendered().encode(), capture_output=True, check=False
    )

    assert (0, b"", b"") == (judged.returncode, judged.stdout, judged.stderr)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are measured in /proc")
def test_processes_are_added_up() -> None:
    """Several are one proxy; one that has just ended is passed over."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        gone = subprocess.Popen(["true"])
        gone.wait()
        values = {}
        for pids in ([os.getpid()], [os.getpid(), other.pid, gone.pid]):
            text = Metrics().render({}, pids).decode()
            values[len(pids)] = {
                name: float(value) for name, value in re.findall(r"^(process_\S+) (\S+)$", text, re.MULTILINE)
            }
        one, both = values[1], values[3]

    assert 0 < both["process_open_fds"] - one["process_open_fds"] < 10
    assert one["process_start_time_seconds"] == both["process_start_time_seconds"]
    assert one["process_virtual_memory_bytes"] < both["process_virtual_memory_bytes"]
    assert Metrics().render({}).decode().count("process_") == 0


def test_metric_without_a_sample_is_announced() -> None:
    """A dashboard finds the names before anything has failed."""
    nothing: Samples = []
    text = Metrics().render({"endpoint_failures": nothing}).decode()

    assert "# TYPE s3pool_proxy_endpoint_failures_total counter\n" in text


LINES_EACH, LONG = 100, 7000  # longer than what a pipe takes at once, whatever others write


def test_lines_stay_whole_in_a_full_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe takes what is longer than a page in pieces, and would take other threads' lines between them."""
    coming, going = os.pipe()
    monkeypatch.setattr(os, "dup", lambda _: going)
    log = AccessLog("-")

    def write(name: str) -> None:
        for _ in range(LINES_EACH):
            record = RequestRecord("127.0.0.1", 0.0)
            record.bucket = name * LONG
            log.write(record)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    with open(coming, "rb", buffering=LONG // 2) as file:
        lines = [json.loads(file.readline())["bucket"] for _ in range(LINES_EACH * len(threads))]
    for thread in threads:
        thread.join()
    log.close()

    assert sorted(name * LONG for name in "abcd" * LINES_EACH) == sorted(lines)
