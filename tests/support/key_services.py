"""STS, SSO, and the metadata services of containers and instances: one scripted server that mints keys."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

STS_ANSWER = (
    '<{0}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{0}Result><Credentials><AccessKeyId>{1}'
    "</AccessKeyId><SecretAccessKey>{2}</SecretAccessKey><SessionToken>{3}</SessionToken><Expiration>{4}"
    "</Expiration></Credentials></{0}Result></{0}Response>"
)
STS_ERROR = "<ErrorResponse><Error><Code>{}</Code><Message>no such luck</Message></Error></ErrorResponse>"


def iso(moment: float) -> str:
    """Give a moment as AWS writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    words: dict[str, str] = field(default_factory=dict)


class KeyServices:
    """All services on one port. ``secrets`` gets each pair that was minted; ``life_s`` is what it lives.

    ``refuses`` is a status to answer everything with.
    """

    def __init__(self, secrets: MutableMapping[str, str], *, life_s: float = 3600.0) -> None:
        self.secrets = secrets
        self.life_s = life_s
        self.refuses = 0
        self.asked: list[Asked] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def mint(self) -> tuple[str, str, str, float]:
        """Make a pair that is accepted from now on: key, secret, token, end."""
        with self._lock:
            number = len(self.secrets)
        pair = f"TEMP{number}", f"secret{number}", f"token{number}", time.time() + self.life_s
        self.secrets[pair[0]] = pair[1]
        return pair

    def answer(self, asked: Asked, body: bytes) -> tuple[int, str]:
        """Answer one request by its path."""
        self.asked.append(asked)
        if self.refuses:
            return self.refuses, STS_ERROR.format("AccessDenied") if asked.method == "POST" else ""
        path = urlsplit(asked.path).path
        if path == "/latest/api/token":
            return 200, "imds-token"
        if path.endswith("/security-credentials/"):
            return 200, "node-role\n"
        if path == "/token":
            asked.words = json.loads(body)
            return 200, json.dumps({"accessToken": "renewed", "expiresIn": 3600, "refreshToken": "next"})
        key, secret, token, end = self.mint()
        if path == "/federation/credentials":
            asked.words = dict(parse_qsl(urlsplit(asked.path).query))
            pair = {"accessKeyId": key, "secretAccessKey": secret, "sessionToken": token, "expiration": end * 1000}
            return 200, json.dumps({"roleCredentials": pair})
        if asked.method == "POST":
            asked.words = dict(parse_qsl(body.decode()))
            return 200, STS_ANSWER.format(asked.words["Action"], key, secret, token, iso(end))
        return 200, json.dumps({"AccessKeyId": key, "SecretAccessKey": secret, "Token": token, "Expiration": iso(end)})

    def __enter__(self) -> KeyServices:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler_for(services: KeyServices) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, text = services.answer(Asked(self.command, self.path, headers), body)
            self.send_response(status)
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = _serve  # noqa: N815
        do_PUT = _serve  # noqa: N815
        do_POST = _serve  # noqa: N815

        def log_message(self, *_args: Any) -> None:
            """Print nothing."""

    return Handler
