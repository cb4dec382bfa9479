"""The admin listener: health, metrics, statistics, taking nodes out of service, and a page for people.

The page is the file admin.html, in blocks that are filled in here; every value is escaped.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources
from socketserver import BaseRequestHandler
from string import Template
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from s3pool.config.files import read_source
from s3pool.errors import ConfigError
from s3pool.proxy.clients import refuse_foreign_pages
from s3pool.proxy.errors import ClientGoneError, S3ErrorResponse, forbidden, malformed, own_answer
from s3pool.proxy.event_loop import ThreadCache
from s3pool.proxy.metrics import EVERY_S, LATENCY_BUCKETS, POOL, SPAN_S, Points, PoolHistory, Record, quantile
from s3pool.proxy.request import RequestHead, parse_head
from s3pool.proxy.server import Listener
from s3pool.proxy.settings import Address, ProxySettings
from s3pool.proxy.stream import ClientStream
from s3pool.units import format_duration, format_size

WIDTH, HEIGHT, MARGIN = 300, 60, 3
MARKS = {"up": "\u25cf", "avoided": "\u25b2", "down": "\u2715", "draining": "\u25bd", "drained": "\u25a0"}
NONE = "\u2013"


def _rate(grown: Sequence[float], seconds: float) -> float:
    return grown[0] / seconds


def _error_percent(grown: Sequence[float], _seconds: float) -> float | None:
    return 100 * grown[1] / grown[0] if grown[0] else None


def _latency(grown: Sequence[float], _seconds: float) -> float | None:
    return grown[3] / grown[2] if grown[2] else None


def _written(value: float | None, unit: str) -> str:
    if value is None:
        return NONE
    if unit == "s":
        value, unit = (value, " s") if value >= 1 else (value * 1000, " ms")
    return f"{value:.1f}{unit}" if value < 100 else f"{value:.0f}{unit}"


def _newest(points: Points) -> float | None:
    return points[-1][1] if points and points[-1][0] < 2 * EVERY_S else None


def _most(*series: Points) -> float | None:
    return max((value for points in series for _, value in points if value is not None), default=None)


def _path(points: Points, top: float | None) -> str:
    """Return an SVG path; a step without a value is a gap, and one alone a dot."""
    commands, is_drawing = [], False
    for age, value in points:
        if value is not None:
            x, y = WIDTH * (1 - age / SPAN_S), HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * value / (top or 1)
            commands.append(f"{'L' if is_drawing else f'M{x:.1f} {y:.1f}L'}{x:.1f} {y:.1f}")
        is_drawing = value is not None
    return "".join(commands)


class AdminPage:
    """The page; ``bounds`` are those of the counts of first bytes."""

    def __init__(self, bounds: Sequence[float]) -> None:
        text = (resources.files("s3pool") / "files" / "admin.html").read_text("utf-8")
        parts = re.split(r"<!-- block ([a-z]+) -->\n", text)[1:]
        self._blocks = {name: Template(body.strip("\n")) for name, body in zip(parts[::2], parts[1::2], strict=True)}
        self._bounds = bounds
        style, script = (_source(self._blocks["page"].template, name) for name in ("style", "script"))
        self.policy = (
            f"default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )

    def _fill(self, block: str, *, blocks: Mapping[str, str] | None = None, **values: object) -> str:
        """Return a block with its values, which are escaped, and ``blocks``, which were made here."""
        return self._blocks[block].substitute(
            {name: escape(str(value)) for name, value in values.items()}, **blocks or {}
        )

    def render(
        self, record: Record, history: PoolHistory, *, alert: str = "", has_token: bool = False, is_locked: bool = False
    ) -> bytes:
        """Return the page: with a field for the token of changes, or with no changes at all (``is_locked``)."""
        rows = record["endpoints"]
        up = sum(row["health"] == "up" for row in rows)
        title = f"{up} of {len(rows)} nodes up"
        if is_locked:
            alert = alert or "Changes need --admin-token-file when the admin listens beyond loopback."
        if record["draining"]:
            alert = alert or "This proxy is draining: it takes no new connections."
        blocks = {
            "alert": self._fill("alert", text=alert) if alert else "",
            "token": self._fill("token") if has_token else "",
            "graphs": self._graphs(history),
            "nodes": "\n".join(self._node(row, number, history, is_locked) for number, row in enumerate(rows)),
            "operations": "\n".join(
                self._fill("operation", name=name, requests=count)
                for name, count in sorted(record["requests"]["by_op"].items(), key=lambda pair: -pair[1])
            ),
        }
        return self._fill("page", blocks=blocks, title=title, summary=_summary(record, title)).encode(
            "utf-8", "replace"
        )

    def _graphs(self, history: PoolHistory) -> str:
        def first_byte(share: float) -> Points:
            return history.points(POOL, lambda grown, _: quantile(grown[2:], self._bounds, share))

        rate, errors = history.points(POOL, _rate), history.points(POOL, _error_percent)
        note = "half of the requests; dashed: 95 %"
        return (
            self._graph("Requests/s", "rate", "", "finished requests", rate)
            + self._graph("Time to the first byte", "latency", "s", note, first_byte(0.5), first_byte(0.95))
            + self._graph("Errors", "errors", " %", "answers with 5xx", errors)
        )

    def _graph(self, title: str, kind: str, unit: str, note: str, *series: Points) -> str:
        most = _most(*series)
        kinds = ("first", "second")
        paths = "".join(
            self._fill("path", kind=each, points=_path(points, most))
            for each, points in zip(kinds, series, strict=False)
        )
        now = _written(_newest(series[0]), unit)
        return self._fill(
            "graph", blocks={"paths": paths}, title=title, kind=kind, note=note, now=now, most=_written(most, unit)
        )

    def _node(self, row: Record, number: int, history: PoolHistory, is_locked: bool) -> str:
        name = row["endpoint"]
        rate, latency, errors = (history.points(name, value) for value in (_rate, _latency, _error_percent))
        place = "".join(f" \u00b7 {word} {row[word]}" for word in ("zone", "tier") if row[word])
        most = _most(rate)
        return self._fill(
            "node",
            blocks={"path": self._fill("path", kind="first", points=_path(rate, most))},
            endpoint=name,
            place=place,
            state=row["health"],
            mark=MARKS[row["health"]],
            rate=_written(_newest(rate), ""),
            most=_written(most, ""),
            latency=_written(_newest(latency) or row["latency_ms"] / 1000 or None, "s"),
            errors=f"{row['failures']} ({_written(_newest(errors) or 0.0, ' %')})",
            in_flight=row["in_flight"],
            sent=format_size(row["bytes_sent"]),
            received=format_size(row["bytes_received"]),
            last_error=row["last_error"] or NONE,
            action="undrain" if row["drained"] else "drain",
            verb="Undrain" if row["drained"] else "Drain",
            number=number,
            disabled="disabled" if is_locked else "",
        )


def _summary(record: Record, title: str) -> str:
    by_status = record["requests"]["by_status"]
    total = sum(by_status.values())
    processes = record.get("processes", 1)
    memory = record["replay_memory"]
    words = (
        title,
        f"version {record['version']}",
        f"up for {format_duration(record['uptime_s'] // 1 or 1)}",
        *([f"{processes} processes"] if processes > 1 else []),
        f"auth: {record['auth']}",
        f"client connections: {record['connections']}",
        f"{format_size(memory['used'])} of {format_size(memory['size'])} replay memory in use",
        f"{total} requests since the start",
        f"{_share(by_status, '4xx', total)} refused (4xx)",
        f"{_share(by_status, '5xx', total)} failed (5xx)",
    )
    return " \u00b7 ".join(words)


def _share(counts: Mapping[str, int], name: str, total: int) -> str:
    return _written(100 * counts.get(name, 0) / total if total else 0.0, " %")


def _source(text: str, tag: str) -> str:
    """Return what a Content-Security-Policy says of the page's own style or script."""
    found = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digest = hashlib.sha256((found[1] if found else "").encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


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


class AdminServer(Listener):
    """The admin HTTP server on its own address; one request per connection, read as on the data side.

    At most ``MOST_CONNECTIONS`` are open: the next one takes the place of the one that has waited longest without a
    request. ``rules`` may be replaced while it runs.
    """

    request_queue_size = 128

    def __init__(self, address: Address, desk: AdminActions, rules: AdminRules) -> None:
        self.desk = desk
        self.rules = rules
        self._page = AdminPage(LATENCY_BUCKETS)
        self._is_loopback = address.is_loopback
        # Guards the sockets that are open, the oldest first; the value tells whether a request is at work.
        self._lock = threading.Lock()
        self._open: dict[socket.socket, bool] = {}
        self._thread_cache = ThreadCache("s3pool-admin-request")
        super().__init__(address, BaseRequestHandler, whom=" for the admin")
        self._thread = threading.Thread(target=self.serve_forever, args=(POLL_S,), name="s3pool-admin", daemon=True)

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
            if answer := self._answer(stream, sock):
                stream.write(answer)
                with self._lock:  # what the client still says is no reason to keep its place
                    if sock in self._open:
                        self._open[sock] = False
                stream.hang_up()
        except (ClientGoneError, OSError) as exc:
            logger.debug("admin: %s", exc)
        finally:
            self._release(sock)

    def _answer(self, stream: ClientStream, sock: socket.socket) -> bytes:
        head = None
        try:
            block = stream.read_head(idle_s=self.rules.header_timeout, head_s=self.rules.header_timeout)
            if block is None:
                return b""
            head = parse_head(block)
            refuse_foreign_pages(head, self.rules.names)
            form = _read_form(head, stream)
            with self._lock:
                if sock not in self._open:
                    return b""
                self._open[sock] = True
            answer = self._obey(head, form)
        except S3ErrorResponse as denial:
            answer = denial.status, TEXT, f"{denial.detail}\n".encode()
        has_body = head is None or head.method != "HEAD"
        return _response(answer, has_body=has_body, policy=self._page.policy)

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
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "X-Frame-Options: DENY",
        f"Content-Security-Policy: {policy if kind == HTML else NOTHING}",
        "Referrer-Policy: same-origin",
        *(["WWW-Authenticate: Bearer"] if status == UNAUTHORIZED else []),
        *(["Location: /"] if status == SEE_OTHER else []),
        "Connection: close",
    ]
    return own_answer(status, kind, body, *lines, has_body=has_body)
