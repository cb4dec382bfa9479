"""A collector of OpenTelemetry traces, by OTLP over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
SERVER = 2
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TOLD = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Span:
    """A span as the collector got it."""

    def __init__(self, span: Any) -> None:
        self.name, self.kind, self.is_error = span.name, span.kind, span.status.code == 2
        self.id, self.parent, self.trace = span.span_id.hex(), span.parent_span_id.hex(), span.trace_id.hex()
        self.started, self.ended = span.start_time_unix_nano, span.end_time_unix_nano
        self.values = {
            each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in span.attributes
        }


class Collector:
    """A collector on a free port; spans are there when their sender has closed."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = service.ExportTraceServiceRequest()
                body = self.rfile.read(int(self.headers["content-length"]))
                request.ParseFromString(body)
                for group in request.resource_spans:
                    values = {each.key: each.value.string_value for each in group.resource.attributes}
                    collector.resources.append(values)
                    collector.spans += [Span(span) for scope in group.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                """Stay silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()

    def served(self) -> list[Span]:
        """Return the requests that the proxy served."""
        return [span for span in self.spans if span.kind == SERVER]

    def tries_of(self, span: Span) -> list[Span]:
        """Return the tries of a request, in their order."""
        return sorted((each for each in self.spans if each.parent == span.id), key=lambda each: each.started)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Return a collector that the environment names."""
    made = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
    yield made
    made.close()
