"""The admin listener: health, metrics, statistics, and taking nodes out of service."""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import socket
import threading
from collections.abc import Callable
from email.utils import formatdate
from http.server import ThreadingHTTPServer
from socketserver import BaseRequestHandler, TCPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from s3pool.config.sources import read_source
from s3pool.errors import ConfigError
from s3pool.proxy.client_address import refuse_foreign_pages
from s3pool.proxy.errors import REASONS, ClientGoneError, S3ErrorResponse, forbidden
from s3pool.proxy.readers import Address
from s3pool.proxy.request import RequestHead, parse_head
from s3pool.proxy.settings import ProxySettings
from s3pool.proxy.stream import ClientStream
from s3pool.proxy.thread_cache import ThreadCache

PAGE = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>s3pool proxy</title>
<meta name="viewport" content="width=device-width">
<style>
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .3em .8em; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child, td.text { text-align: left }
.closed { color: #0a6b2d } .open, .lost { color: #b00020 } .half-open, .drained { color: #9a6700 }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } th, td { border-color: #444 } }
</style></head><body>
<h1>s3pool proxy</h1>
<p id="line">loading</p>
<table><thead><tr><th>endpoint</th><th>state</th><th>tier</th><th>in flight</th><th>latency</th><th>requests/s</th>
<th>requests</th><th>failures</th><th>throttled</th><th>to node</th><th>from node</th><th>last error</th></tr></thead>
<tbody id="nodes"></tbody></table>
<table><thead><tr><th>operation</th><th>requests</th></tr></thead><tbody id="ops"></tbody></table>
<script>
"use strict";
let before = {}, last = 0;
function size(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"]; let i = 0;
  while (n >= 1024 && i < 4) { n /= 1024; i++ }
  return n.toFixed(i ? 1 : 0) + units[i];
}
function row(cells, words) {
  const tr = document.createElement("tr");
  cells.forEach((cell, i) => {
    const td = document.createElement("td");
    td.textContent = cell; if (words && words[i]) td.className = words[i]; tr.append(td);
  });
  return tr;
}
async function update() {
  const line = document.getElementById("line");
  try {
    const answer = await fetch("/stats?format=json", {cache: "no-store"});
    const s = await answer.json(), now = performance.now(), seconds = (now - last) / 1000;
    line.className = s.draining ? "drained" : "";
    line.textContent = (s.draining ? "draining, " : "") + "version " + s.version + ", up " + Math.round(s.uptime_s)
      + " s, auth " + s.auth + ", " + s.connections + " connections, replay memory "
      + size(s.replay_memory.used) + " of " + size(s.replay_memory.size) + ", by status "
      + JSON.stringify(s.requests.by_status);
    document.getElementById("nodes").replaceChildren(...s.endpoints.map(n => {
      const rate = n.endpoint in before && last ? ((n.requests - before[n.endpoint]) / seconds).toFixed(1) : "";
      before[n.endpoint] = n.requests;
      const state = n.drained ? "drained" : n.state;
      return row([n.endpoint, state, n.tier, n.in_flight, n.latency_ms.toFixed(1) + " ms", rate, n.requests, n.failures,
        n.throttled, size(n.bytes_sent), size(n.bytes_received), n.last_error], {1: state, 11: "text"});
    }));
    document.getElementById("ops").replaceChildren(
      ...Object.entries(s.requests.by_op).sort((a, b) => b[1] - a[1]).map(pair => row(pair)));
    last = now;
  } catch (error) { line.className = "lost"; line.textContent = "the proxy does not answer" }
}
update(); setInterval(update, 2000);
</script></body></html>
"""

logger = logging.getLogger(__name__)

MOST_CONNECTIONS = 32
MIN_TOKEN_LENGTH = 16
UNAUTHORIZED = 401
TIMEOUT_S = 10.0
POLL_S = 0.1
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
HTML = "text/html; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"

Answer = tuple[int, str, bytes]


class AdminActions:
    """The admin listener's actions, as functions, so that it imports no other part."""

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


class AdminRules(NamedTuple):
    """Limits of the admin listener: its host names, the token for changes, the time for a head."""

    names: frozenset[str]
    token: str
    header_timeout: float


def admin_rules(settings: ProxySettings) -> AdminRules:
    """Return the rules that settings mean.

    Raises:
        ConfigError: the file with the secret is missing or empty.
    """
    names = {*settings.domains, *settings.allowed_hosts}
    names |= {settings.admin_listen.host.lower()} if settings.admin_listen else set()
    token = ""
    if settings.admin_token_file:
        source = read_source(settings.admin_token_file, named_by="--admin-token-file")
        for warning in source.secrecy_warnings():
            logger.warning("%s", warning)
        token = source.text.strip()
        if len(token) < MIN_TOKEN_LENGTH or not token.isascii() or not token.isprintable():
            detail = f"holds no secret of at least {MIN_TOKEN_LENGTH} printable ASCII characters"
            raise ConfigError(f"--admin-token-file {settings.admin_token_file}: {detail}")
    return AdminRules(frozenset(names), token, settings.header_timeout)


class AdminServer(ThreadingHTTPServer):
    """The admin HTTP server on its own address; one request per connection.

    Heads are read by the parser of the data side, within its time. At most ``MOST_CONNECTIONS``
    are open: who comes after that takes the place of whoever has waited longest without a
    request. ``rules`` may be replaced while it runs.
    """

    request_queue_size = 128

    def __init__(self, address: Address, desk: AdminActions, rules: AdminRules) -> None:
        self.desk = desk
        self.rules = rules
        self._is_loopback = address.is_loopback
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        # Guards the sockets that are open, the oldest first; the value tells whether a request is at work.
        self._lock = threading.Lock()
        self._open: dict[socket.socket, bool] = {}
        self._thread_cache = ThreadCache("s3pool-admin-request")
        try:
            super().__init__((address.host, address.port), BaseRequestHandler)
        except OSError as exc:
            raise ConfigError(f"cannot listen on {address} for the admin: {exc.strerror or exc}") from exc
        self._thread = threading.Thread(target=self.serve_forever, args=(POLL_S,), name="s3pool-admin", daemon=True)

    def server_bind(self) -> None:
        """Bind without asking a name server for our own name."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def start(self) -> None:
        """Start serving in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the listener."""
        self.shutdown()
        self.server_close()
        self._thread.join(TIMEOUT_S)

    def process_request(self, request: Any, _client_address: Any) -> None:
        """Serve a new connection in a thread."""
        if not self._has_place():
            request.close()
            return
        with self._lock:
            self._open[request] = False
        try:
            self._thread_cache.submit(lambda: self._serve(request))
        except RuntimeError:  # the system has no thread left
            self._release(request)

    def _has_place(self) -> bool:
        with self._lock:
            if len(self._open) < MOST_CONNECTIONS:
                return True
            oldest = next((sock for sock, is_at_work in self._open.items() if not is_at_work), None)
            if oldest is None:
                return False
            del self._open[oldest]
        with contextlib.suppress(OSError):
            oldest.shutdown(socket.SHUT_RDWR)
        return True

    def _release(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.pop(sock, None)
        sock.close()

    def _serve(self, sock: socket.socket) -> None:
        try:
            stream = ClientStream(sock)
            head, answer = self._answer(stream, sock)
            if answer is not None:
                stream.write(_response(answer, has_body=head is None or head.method != "HEAD"))
                with self._lock:  # what the client still says is no reason to keep its place
                    if sock in self._open:
                        self._open[sock] = False
                stream.hang_up()
        except (ClientGoneError, OSError) as exc:
            logger.debug("admin: %s", exc)
        finally:
            self._release(sock)

    def _answer(self, stream: ClientStream, sock: socket.socket) -> tuple[RequestHead | None, Answer | None]:
        head = None
        try:
            block = stream.read_head(idle_s=self.rules.header_timeout, head_s=self.rules.header_timeout)
            if block is None:
                return None, None
            with self._lock:
                if sock not in self._open:
                    return None, None
                self._open[sock] = True
            head = parse_head(block)
            refuse_foreign_pages(head, self.rules.names)
            return head, self._obey(head)
        except S3ErrorResponse as denial:
            return head, (denial.status, TEXT, f"{denial.detail}\n".encode())

    def _obey(self, head: RequestHead) -> Answer:
        query = parse_qs(head.query or "")
        if head.method in ("GET", "HEAD"):
            wants_html = "text/html" in head.value("accept") and query.get("format") != ["json"]
            return self.desk.get(head.path, wants_html=wants_html)
        if head.method != "POST":
            raise S3ErrorResponse(405, "MethodNotAllowed", "there are GET, HEAD and POST")
        self._check_token(head)
        return self.desk.post(head.path, query.get("endpoint", [""])[0])

    def _check_token(self, head: RequestHead) -> None:
        token = self.rules.token
        if not token and not self._is_loopback:
            detail = "changes need --admin-token-file when the admin listens beyond loopback"
            raise forbidden("AccessDenied", detail, reason="token")
        given = head.value("authorization").encode("utf-8", "surrogateescape")
        if token and not hmac.compare_digest(given, f"Bearer {token}".encode()):
            raise S3ErrorResponse(
                401, "Unauthorized", "changes need Authorization: Bearer and the token of --admin-token-file"
            )


def _response(answer: Answer, *, has_body: bool) -> bytes:
    status, kind, body = answer
    lines = [
        f"HTTP/1.1 {status} {REASONS[status]}",
        f"Date: {formatdate(usegmt=True)}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "X-Frame-Options: DENY",
        *(["WWW-Authenticate: Bearer"] if status == UNAUTHORIZED else []),
        "Connection: close",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (body if has_body else b"")
