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

from s3pool.config.files import read_source
from s3pool.errors import ConfigError
from s3pool.proxy.admin_page import AdminPage, PoolHistory
from s3pool.proxy.client_address import refuse_foreign_pages
from s3pool.proxy.errors import REASONS, ClientGoneError, S3ErrorResponse, forbidden, malformed
from s3pool.proxy.event_loop import ThreadCache
from s3pool.proxy.metrics import LATENCY_BUCKETS
from s3pool.proxy.readers import Address
from s3pool.proxy.request import RequestHead, parse_head
from s3pool.proxy.settings import ProxySettings
from s3pool.proxy.stream import ClientStream

logger = logging.getLogger(__name__)

MOST_CONNECTIONS = 32
MIN_TOKEN_LENGTH = 16
OK, SEE_OTHER, UNAUTHORIZED = 200, 303, 401
MAX_FORM_BYTES = 8192
TIMEOUT_S = 10.0
POLL_S = 0.1
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
HTML = "text/html; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
NOTHING = "default-src 'none'; frame-ancestors 'none'"
FORM = "application/x-www-form-urlencoded"

Answer = tuple[int, str, bytes]
Fields = dict[str, list[str]]


class AdminActions(NamedTuple):
    """What the admin listener shows and does, as functions, so that it imports no other part."""

    is_draining: Callable[[], bool]
    is_ready: Callable[[], bool]
    metrics: Callable[[], bytes]
    stats: Callable[[], dict[str, Any]]
    set_drained: Callable[[str, bool], int]
    history: PoolHistory


class AdminRules(NamedTuple):
    """Limits of the admin listener: its host names, the token for changes, the time for a head."""

    names: frozenset[str]
    token: str
    header_timeout: float


def admin_rules(settings: ProxySettings) -> AdminRules:
    """Return the rules that settings mean. Raises ConfigError: the file with the secret is missing or empty."""
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

    Heads are read by the parser of the data side, within its time. At most ``MOST_CONNECTIONS`` are open: who comes
    after that takes the place of whoever has waited longest without a request. ``rules`` may be replaced while it runs.
    """

    request_queue_size = 128

    def __init__(self, address: Address, desk: AdminActions, rules: AdminRules) -> None:
        self.desk = desk
        self.rules = rules
        self._page = AdminPage(LATENCY_BUCKETS)
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
            stream = ClientStream(sock, speed_window=self.rules.header_timeout)
            head, answer = self._answer(stream, sock)
            if answer is not None:
                has_body = head is None or head.method != "HEAD"
                stream.write(_response(answer, has_body=has_body, policy=self._page.policy))
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
            head = parse_head(block)
            refuse_foreign_pages(head, self.rules.names)
            form = _read_form(head, stream)
            with self._lock:
                if sock not in self._open:
                    return None, None
                self._open[sock] = True
            return head, self._obey(head, form)
        except S3ErrorResponse as denial:
            return head, (denial.status, TEXT, f"{denial.detail}\n".encode())

    def _obey(self, head: RequestHead, form: Fields) -> Answer:
        query = parse_qs(head.query or "")
        if head.method in ("GET", "HEAD"):
            wants_html = "text/html" in head.value("accept") and query.get("format") != ["json"]
            return self._show(head.path, wants_html=wants_html)
        if head.method != "POST":
            raise S3ErrorResponse(405, "MethodNotAllowed", "there are GET, HEAD and POST")
        if "endpoint" in query or "endpoint" not in form:
            self._check_token(head.value("authorization"))
            return self._change(head.path, query)
        try:  # a button of the page, for which a person waits
            self._check_token(f"Bearer {form.get('token', [''])[0]}")
            status, _, text = self._change(head.path, form)
        except S3ErrorResponse as denial:
            status, text = denial.status, denial.detail.encode()
        return (SEE_OTHER, TEXT, b"") if status == OK else (status, HTML, self._render(text.decode()))

    def _show(self, path: str, *, wants_html: bool) -> Answer:
        desk = self.desk
        if path == "/healthz":
            return (503, TEXT, b"draining\n") if desk.is_draining() else (OK, TEXT, b"ok\n")
        if path == "/readyz":
            ready = desk.is_ready() and not desk.is_draining()
            return (OK, TEXT, b"ok\n") if ready else (503, TEXT, b"no endpoint is usable\n")
        if path == "/metrics":
            return OK, METRICS, desk.metrics()
        if path in ("/", "/stats"):
            return (OK, HTML, self._render()) if wants_html else (OK, JSON, json.dumps(desk.stats()).encode() + b"\n")
        return 404, TEXT, b"there are /healthz /readyz /metrics /stats, and POST /drain /undrain\n"

    def _render(self, alert: str = "") -> bytes:
        has_token, desk = bool(self.rules.token), self.desk
        is_locked = not has_token and not self._is_loopback
        return self._page.render(desk.stats(), desk.history, alert=alert, has_token=has_token, is_locked=is_locked)

    def _change(self, path: str, fields: Fields) -> Answer:
        if path not in ("/drain", "/undrain"):
            return 404, TEXT, b"there are POST /drain?endpoint=URL and /undrain?endpoint=URL\n"
        if not self.desk.set_drained(fields.get("endpoint", [""])[0], path == "/drain"):
            return 404, TEXT, b"no such endpoint\n"
        return OK, JSON, json.dumps(self.desk.stats()).encode() + b"\n"

    def _check_token(self, given: str) -> None:
        token = self.rules.token
        if not token and not self._is_loopback:
            detail = "changes need --admin-token-file when the admin listens beyond loopback"
            raise forbidden("AccessDenied", detail, reason="token")
        told = given.encode("utf-8", "surrogateescape")
        if token and not hmac.compare_digest(told, f"Bearer {token}".encode()):
            detail = "changes need the token of --admin-token-file: as Authorization: Bearer, or in the page's field"
            raise S3ErrorResponse(UNAUTHORIZED, "Unauthorized", detail)


def _read_form(head: RequestHead, stream: ClientStream) -> Fields:
    """Return the fields that the page's buttons send; nothing for a request without a form."""
    if head.method != "POST" or head.value("content-type").partition(";")[0].strip().lower() != FORM:
        return {}
    if head.length is None or head.length > MAX_FORM_BYTES:
        raise malformed(f"a form has a Content-Length of at most {MAX_FORM_BYTES}", status=413, code="TooLarge")
    body = bytearray(head.length)
    view = memoryview(body)
    while view:
        view = view[stream.readinto(view) :]
    return parse_qs(body.decode("utf-8", "replace"))


def _response(answer: Answer, *, has_body: bool, policy: str) -> bytes:
    status, kind, body = answer
    lines = [
        f"HTTP/1.1 {status} {REASONS[status]}",
        f"Date: {formatdate(usegmt=True)}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "X-Frame-Options: DENY",
        f"Content-Security-Policy: {policy if kind == HTML else NOTHING}",
        "Referrer-Policy: same-origin",
        *(["WWW-Authenticate: Bearer"] if status == UNAUTHORIZED else []),
        *(["Location: /"] if status == SEE_OTHER else []),
        "Connection: close",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (body if has_body else b"")
