"""The admin listener: health, metrics, statistics, and taking nodes out of service."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from s3pool.errors import ConfigError
from s3pool.proxy.page import PAGE
from s3pool.proxy.settings import Address

TIMEOUT_S = 10.0
POLL_S = 0.1
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
HTML = "text/html; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"

Answer = tuple[int, str, bytes]


class Desk:
    """What the admin listener can tell and do; functions, so that it knows nobody."""

    def __init__(
        self,
        *,
        is_draining: Callable[[], bool],
        is_ready: Callable[[], bool],
        metrics: Callable[[], bytes],
        stats: Callable[[], dict[str, Any]],
        set_drained: Callable[[str, bool], int],
    ) -> None:
        self.is_draining = is_draining
        self.is_ready = is_ready
        self.metrics = metrics
        self.stats = stats
        self.set_drained = set_drained

    def get(self, path: str, *, wants_html: bool) -> Answer:
        """Answer a GET."""
        if path == "/healthz":
            return (503, TEXT, b"draining\n") if self.is_draining() else (200, TEXT, b"ok\n")
        if path == "/readyz":
            ready = self.is_ready() and not self.is_draining()
            return (200, TEXT, b"ok\n") if ready else (503, TEXT, b"no endpoint is usable\n")
        if path == "/metrics":
            return 200, METRICS, self.metrics()
        if path in ("/", "/stats"):
            return (200, HTML, PAGE) if wants_html else (200, JSON, json.dumps(self.stats()).encode() + b"\n")
        return 404, TEXT, b"there are /healthz /readyz /metrics /stats, and POST /drain /undrain\n"

    def post(self, path: str, endpoint: str) -> Answer:
        """Answer a POST."""
        if path not in ("/drain", "/undrain"):
            return 404, TEXT, b"there are POST /drain?endpoint=URL and /undrain?endpoint=URL\n"
        if not self.set_drained(endpoint, path == "/drain"):
            return 404, TEXT, b"no such endpoint\n"
        return 200, JSON, json.dumps(self.stats()).encode() + b"\n"


class AdminServer(ThreadingHTTPServer):
    """A small HTTP server for operators, on an address of its own."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: Address, desk: Desk) -> None:
        self.desk = desk
        if ":" in address.host:
            import socket

            self.address_family = socket.AF_INET6
        try:
            super().__init__((address.host, address.port), _Handler)
        except OSError as exc:
            raise ConfigError(f"cannot listen on {address} for the admin: {exc.strerror or exc}") from exc
        self._thread = threading.Thread(target=self.serve_forever, args=(POLL_S,), name="s3pool-admin", daemon=True)

    def server_bind(self) -> None:
        """Bind without asking a name server for our own name."""
        import socketserver

        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def start(self) -> None:
        """Answer in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the listener."""
        self.shutdown()
        self.server_close()
        self._thread.join(TIMEOUT_S)


class _Handler(BaseHTTPRequestHandler):
    timeout = TIMEOUT_S
    server: AdminServer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        as_json = parse_qs(parts.query).get("format") == ["json"]
        wants_html = "text/html" in self.headers.get("Accept", "") and not as_json
        self._answer(self.server.desk.get(parts.path, wants_html=wants_html))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        origin = self.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != self.headers.get("Host"):
            self._answer((403, TEXT, b"another site's page may not do this\n"))
            return
        parts = urlsplit(self.path)
        self._answer(self.server.desk.post(parts.path, parse_qs(parts.query).get("endpoint", [""])[0]))

    def _answer(self, answer: Answer) -> None:
        status, kind, body = answer
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing: probes come every few seconds."""
