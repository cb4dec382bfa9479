"""What the proxy counts, and what Prometheus reads of it."""

from __future__ import annotations

import re

import pytest

from s3pool.proxy.access_log import RequestRecord
from s3pool.proxy.metrics import LATENCY_BUCKETS, Metrics


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
    from prometheus_client.parser import text_string_to_metric_families

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
