"""Traces of the proxy: a span for each request, with its tries; nothing where they are off."""

from __future__ import annotations

import time

import pytest

from tests.support.fake_s3 import Answer, FakeS3, Hang
from tests.support.proxying import RunningProxy

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
from tests.support.collector import PARENT, TOLD, TRACE, Collector, collector

__all__ = ["collector"]  # a fixture

CLIENT = 3


@pytest.mark.parametrize("count", [1, 3])
def test_request_is_a_span_with_its_try(fake: FakeS3, collector: Collector, count: int) -> None:
    """By the event loop or by a thread: with the names that dashboards know, within the client's own trace."""
    with RunningProxy(fake.endpoints, tracing=True) as proxy:
        for _ in range(count):
            proxy.ask("GET", "/b/there", headers=TOLD)

    assert count == len(collector.served())
    span = collector.served()[-1]
    wanted = {"rpc.system": "aws-api", "rpc.service": "S3", "rpc.method": "GetObject", "http.request.method": "GET"}
    wanted |= {"aws.s3.bucket": "b", "aws.s3.key": "there", "http.response.status_code": 200, "s3pool.end": "done"}
    assert wanted.items() <= span.values.items()
    assert ("GetObject", TRACE, PARENT, False) == (span.name, span.trace, span.parent, span.is_error)
    attempt = next(each for each in collector.tries_of(span) if not each.is_error)  # a slow machine may ask twice
    assert (CLIENT, TRACE, "GetObject try") == (attempt.kind, attempt.trace, attempt.name)
    node = {"server.address": "127.0.0.1", "http.response.status_code": 200, "s3pool.hedged": False}
    assert node.items() <= attempt.values.items()
    assert f"http://127.0.0.1:{attempt.values['server.port']}" in fake.endpoints
    assert span.started <= attempt.started <= attempt.ended <= span.ended
    assert abs(time.time_ns() - span.ended) < 60e9
    assert "s3pool-proxy" == collector.resources[0]["service.name"]
    assert all("traceparent" not in request.headers for request in fake.requests)


def test_tries_tell_what_became_of_them(fake: FakeS3, collector: Collector) -> None:
    """A refusal and the answer of another node; a request that no node could answer is an error."""
    with RunningProxy(fake.endpoints, tracing=True) as proxy:
        fake.fault(Answer(503, "SlowDown"), op="PutObject")
        assert 200 == proxy.ask("PUT", "/b/new", body=b"x").status
        fake.fault(Answer(500, "InternalError"), op="PutObject", times=0)
        assert 500 == proxy.ask("PUT", "/b/other", body=b"x").status

    good, bad = sorted(collector.served(), key=lambda span: span.started)
    first, second = collector.tries_of(good)
    assert (503, "ThrottledError", True) == (
        first.values["http.response.status_code"],
        first.values["error.type"],
        first.is_error,
    )
    assert (200, 1, False) == (
        second.values["http.response.status_code"],
        second.values["http.request.resend_count"],
        second.is_error,
    )
    assert first.values["server.port"] != second.values["server.port"]
    assert (False, True, "InternalError") == (good.is_error, bad.is_error, bad.values["error.type"])


def test_hedge_is_told_from_a_repetition(fake: FakeS3, collector: Collector) -> None:
    """A silent node is overtaken by another one."""
    with RunningProxy(fake.endpoints, tracing=True) as proxy:
        fake.fault(Hang(), op="GetObject")
        assert 200 == proxy.ask("GET", "/b/there").status

    first, second = collector.tries_of(collector.served()[0])
    assert ("overtaken", False, True) == (
        first.values["error.type"],
        first.values["s3pool.hedged"],
        second.values["s3pool.hedged"],
    )


@pytest.mark.parametrize(
    ("told", "is_continued"),
    [
        ("00-" + "0" * 32 + "-" + PARENT + "-01", False),
        ("nonsense", False),
        ("", False),
        (f"00-{TRACE}-{PARENT}-01\r\ntraceparent: 00-{TRACE}-{PARENT}-01", False),
        (f"00-{TRACE}-{PARENT}-01", True),
    ],
)
def test_only_one_good_trace_context_is_continued(
    fake: FakeS3, collector: Collector, told: str, is_continued: bool
) -> None:
    """Everything else begins a trace of its own, and harms no request."""
    with RunningProxy(fake.endpoints, tracing=True) as proxy:
        assert 200 == proxy.ask("GET", "/b/there", headers={"traceparent": told}).status

    (span,) = collector.served()
    assert is_continued == (span.trace == TRACE)
    assert len(span.trace) == 32


@pytest.mark.parametrize("settings", [{}, {"tracing": False}])
def test_trace_context_passes_where_tracing_is_off(fake: FakeS3, settings: dict[str, object]) -> None:
    """It is a field like others then."""
    with RunningProxy(fake.endpoints, **settings) as proxy:
        proxy.ask("GET", "/b/there", headers=TOLD)

    assert TOLD["traceparent"] in [request.headers.get("traceparent") for request in fake.requests]


@pytest.mark.parametrize("is_signed", [True, False])
def test_trace_context_is_left_alone_where_signatures_are(fake: FakeS3, collector: Collector, is_signed: bool) -> None:
    """In passthrough mode a request goes on as it came: a signature may cover its trace context."""
    with RunningProxy(fake.endpoints, auth="passthrough", tracing=True) as proxy:
        request = proxy.signed("GET", "/b/there", headers=TOLD)
        if is_signed:
            request = request.replace(b"SignedHeaders=host", b"SignedHeaders=traceparent;host")
        proxy.talk(request)

    reached = [request.headers.get("traceparent") for request in fake.requests if request.op == "GetObject"]
    assert TOLD["traceparent"] == reached[0]
    assert TRACE == collector.served()[0].trace
