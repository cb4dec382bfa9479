"""Traces by OpenTelemetry, of the extra ``otel``; this module is loaded only where tracing is on."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from s3pool import __version__
from s3pool.errors import ConfigError
from s3pool.pool.attempt import Attempt
from s3pool.pool.retry import Try

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
    from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as exc:
    raise ConfigError(f"tracing needs {exc.name}: pip install 's3pool[otel]', or turn tracing off") from exc

TRACE_CONTEXT = ("traceparent", "tracestate")  # W3C Trace Context
SERVER_ERROR = 500
TIMEOUT_S = 3.0  # for what is sent, which the end of a command waits for
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"

logger = logging.getLogger(__name__)


def make_exporter() -> Any:
    """Return the library's exporter, which says in one line when traces are lost; its own lines are many."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    exporter = OTLPSpanExporter(timeout=None if "OTEL_EXPORTER_OTLP_TIMEOUT" in os.environ else TIMEOUT_S)
    send = exporter.export

    def export(spans: Sequence[Any]) -> Any:
        result = send(spans)
        if result is not SpanExportResult.SUCCESS:
            logger.warning("traces could not be sent to %s", os.environ.get(ENDPOINT, f"the default of {ENDPOINT}"))
        return result

    vars(exporter)["export"] = export
    return exporter


class Tracer:
    """Sends a span for each request to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names; its tries are children.

    Attributes have the names of OpenTelemetry's semantic conventions. With ``root`` all requests
    belong to one span of that name, which close() ends; TRACEPARENT of the environment is its parent.
    """

    def __init__(self, service: str, *, root: str = "") -> None:
        named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": service}
        resource = Resource.create({**named, "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(make_exporter()))
        self._start = self._provider.get_tracer("s3pool", __version__).start_span
        self._extract = TraceContextTextMapPropagator().extract
        outer = self._extract({name: os.environ.get(name.upper(), "") for name in TRACE_CONTEXT})
        self._root = self._start(f"s3pool {root}", outer) if root else None
        self._parent = set_span_in_context(self._root) if self._root else None

    def add_attempt(self, attempt: Attempt) -> None:
        """Add a request of this program that has ended."""
        request, status = attempt.request, attempt.response.status if attempt.response is not None else 0
        _, bucket, key = (*request.resource.split("/", 2), "", "")[:3]
        values = _named(request.op, request.method, bucket, key, status)
        values["error.type"] = type(attempt.error).__name__ if attempt.error is not None else ""
        self._add(SpanKind.CLIENT, self._parent, (attempt.started, time.monotonic()), values, attempt.tries or ())

    def add_served(self, record: Any, fields: Mapping[str, Sequence[str]]) -> None:
        """Add a request that the proxy has answered; ``fields`` are the client's, with its trace context."""
        told = {name: fields[name][0] for name in TRACE_CONTEXT if len(fields.get(name, ())) == 1}
        values = _named(record.op, record.method, record.bucket, record.key, record.status)
        values |= {"client.address": record.client, "aws.request_id": record.backend_request_id}
        values |= {"s3pool.request_id": record.request_id, "s3pool.end": record.end}
        is_error = record.status >= SERVER_ERROR or not record.status
        values["error.type"] = (record.code or str(record.status)) if is_error else ""
        tries = record.attempted
        if record.used_event_loop:  # one try, of which the loop notes no more than it must
            tries = [Try(record.endpoint, record.started)]
            tries[0].ended, tries[0].status = record.started + record.first_byte_s, record.status
        times = record.started, record.started + record.total_s
        self._add(SpanKind.SERVER, self._extract(told), times, values, tries)

    def _add(
        self, kind: SpanKind, parent: Any, times: tuple[float, float], values: dict[str, Any], tries: Sequence[Try]
    ) -> None:
        since_1970 = time.time_ns() - time.monotonic_ns()  # one for all: two readings differ

        def start(kind: SpanKind, parent: Any, name: str, started: float, values: dict[str, Any]) -> Any:
            known = {name: value for name, value in values.items() if value or value is False}
            span = self._start(name, parent, kind, known, start_time=since_1970 + int(started * 1e9))
            if "error.type" in known:
                span.set_status(StatusCode.ERROR)
            return span

        op = values["rpc.method"]
        span = start(kind, parent, op, times[0], values)
        inside = set_span_in_context(span)
        for number, each in enumerate(each for each in tries if each.ended):
            parts = urlsplit(str(each.endpoint))
            own = {"rpc.method": op, "server.address": parts.hostname, "server.port": parts.port}
            own |= {"http.response.status_code": each.status, "http.request.resend_count": number}
            own |= {"s3pool.hedged": each.is_hedge, "error.type": each.error}
            child = start(SpanKind.CLIENT, inside, f"{op} try", each.started, own)
            child.end(since_1970 + int(each.ended * 1e9))
        span.end(since_1970 + int(times[1] * 1e9))

    def close(self) -> None:
        """End the root, and send what has not been sent."""
        if self._root is not None:
            self._root.end()
        self._provider.shutdown()


def _named(op: str, method: str, bucket: str, key: str, status: int) -> dict[str, Any]:
    """Return the attributes of a request to S3."""
    texts = {"rpc.method": op, "http.request.method": method, "aws.s3.bucket": bucket, "aws.s3.key": key}
    own = {name: text.encode("utf-8", "replace").decode() for name, text in texts.items()}
    return {"rpc.system": "aws-api", "rpc.service": "S3", **own, "http.response.status_code": status}
