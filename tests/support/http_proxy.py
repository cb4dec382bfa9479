"""An HTTP proxy on loopback: tunnels by CONNECT, and requests with a whole URL, which it sends on."""

from __future__ import annotations

import base64
import contextlib
import http.client
import select
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

TIMEOUT_S = 20.0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_one_request(self) -> None:
        """Read a request and send it on; whoever hangs up is let go."""
        try:
            self._handle_one()
        except OSError:
            self.close_connection = True

    def _handle_one(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self.server.seen.append(f"{self.command} {self.path}")
        if self.server.token and self.headers.get("proxy-authorization") != f"Basic {self.server.token}":
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(407, "Proxy Authentication Required")
            self.send_header("content-length", "0")
            self.end_headers()
        elif self.command == "CONNECT":
            self._tunnel()
        else:
            self._forward()

    def _tunnel(self) -> None:
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S) as node:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: node, node: self.connection}
            while ends[self.connection] is node:
                for sock in select.select(list(ends), [], [], TIMEOUT_S)[0]:
                    block = sock.recv(65536)
                    if not block:
                        self.close_connection = True
                        return
                    ends[sock].sendall(block)

    def _forward(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        with contextlib.closing(
            http.client.HTTPConnection(url.hostname or "", url.port or 80, timeout=TIMEOUT_S)
        ) as origin:
            self._ask(origin, self.path.partition(url.netloc)[2], body)
            answer = origin.getresponse()
            content = answer.read()
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.send_header("content-length", answer.headers.get("content-length", str(len(content))))
        self.end_headers()
        self.wfile.write(content)

    def _ask(self, origin: http.client.HTTPConnection, target: str, body: bytes) -> None:
        origin.putrequest(self.command, target, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() != "proxy-authorization":
                origin.putheader(name, value)
        origin.endheaders(body or None)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    seen: list[str]
    token: str


class HttpProxy:
    """A proxy; a context that ends it. ``seen`` holds the request lines, without the version."""

    def __init__(self, user_password: str = "") -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.seen = []
        self._server.token = base64.b64encode(user_password.encode()).decode()
        self._user = f"{user_password}@" if user_password else ""
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="http-proxy", daemon=True).start()

    @property
    def seen(self) -> list[str]:
        """Give the request lines that came."""
        return self._server.seen

    @property
    def address(self) -> str:
        """Give the URL without the user."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """Give the URL as a user writes it."""
        return self.address.replace("//", f"//{self._user}")

    def __enter__(self) -> HttpProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
