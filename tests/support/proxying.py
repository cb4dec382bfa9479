"""A proxy in this process before a fake S3, and clients that write raw bytes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from s3pool.config.options import Config
from s3pool.config.values import parse_endpoints
from s3pool.model import UNSIGNED_PAYLOAD, Credentials, Endpoint, Request
from s3pool.proxy.run import Proxy
from s3pool.proxy.settings import ProxySettings, read_settings
from s3pool.s3.signing import Signer, canonical_query, derive_key, signature, string_to_sign
from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, FakeS3, Recorded
from tests.support.rgw import free_ports

POOL_KEY = Credentials(ACCESS_KEY, SECRET_KEY)
GUEST_KEY = Credentials("GUESTKEY000000000000", "guest/secret+key")
REGION = "us-east-1"
TIMEOUT_S = 20.0
RECOVERY_LIMIT_S, STATS_POLL_S = 90.0, 0.2
LIVE_TIMEOUT_S = 20.0  # a real cluster takes seconds for its first bucket


class RunningProxy:
    """A proxy on a free port; a context that ends it.

    ``settings`` are those of the proxy section, ``options`` those of the pool.
    """

    def __init__(
        self,
        endpoints: Iterable[str],
        *,
        credentials: Credentials | None = POOL_KEY,
        read_timeout_s: float = 2.0,
        options: Mapping[str, object] | None = None,
        **settings: object,
    ) -> None:
        self.config = Config(
            endpoints=parse_endpoints(urls) if (urls := list(endpoints)) else (),
            access_key=credentials.access_key if credentials else "",
            secret_key=credentials.secret_key if credentials else "",
            connect_timeout_s=1.0,
            read_timeout_s=read_timeout_s,
            health_interval_s=60.0,
        ).replace(**(options or {}))
        self.section: dict[str, object] = {
            "listen": "127.0.0.1:0",
            "admin_listen": "127.0.0.1:0",
            "slow_op_timeout": read_timeout_s,
            **settings,
        }
        self.proxy = Proxy(self.load)
        self.proxy.start()

    def load(self) -> tuple[Config, ProxySettings]:
        """Read the settings anew, as a reload does."""
        return self.config, read_settings({}, self.section, directory="/")

    @property
    def port(self) -> int:
        """Give the port for S3 clients."""
        return self.proxy.address.port

    @property
    def host(self) -> str:
        """Give the Host that clients send."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Give the endpoint's URL."""
        return self.proxy.address.url(is_tls=bool(self.proxy.settings.tls_cert))

    def stats(self) -> dict[str, Any]:
        """Give what the admin's page shows."""
        return self.proxy.stats()

    def __enter__(self) -> RunningProxy:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.proxy.server.is_draining:
            self.proxy.drain(is_urgent=lambda: True)
        self.proxy.close()

    # -- clients -----------------------------------------------------------------------------

    def talk(self, *pieces: bytes) -> bytes:
        """Send bytes on a new connection, end our side, and give all that comes back."""
        with self.connect() as sock:
            # Whoever is refused early may find the connection closed while it still sends.
            with contextlib.suppress(OSError):
                for piece in pieces:
                    sock.sendall(piece)
                if not isinstance(sock, ssl.SSLSocket):  # which forgets its keys with that
                    sock.shutdown(socket.SHUT_WR)
            return read_to_end(sock)

    def connect(self) -> socket.socket:
        """Open a connection, with TLS where the proxy has a certificate; nobody looks at it here."""
        sock = socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S)
        if "tls_cert" not in self.section:
            return sock
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(sock)

    def ask(self, method: str, target: str, **options: Any) -> Answer:
        """Send a signed request on a new connection and read its answer."""
        return parse_answer(self.talk(self.signed(method, target, **options)), method)

    def signed(self, method: str, target: str, **options: Any) -> bytes:
        """Give the bytes of a signed request to this proxy."""
        return signed_request(method, target, host=self.host, **options)

    def presigned(self, method: str, path: str, query: tuple[tuple[str, str], ...] = (), *, now: float = 0.0) -> str:
        """Give the target of a URL that is good for a minute."""
        endpoint, request = Endpoint("http", "127.0.0.1", self.port), Request(method, path, "Test", query=query)
        url = Signer(POOL_KEY, region=REGION).presign(request, endpoint, now or time.time(), expires_s=60)
        return "/" + url.split("/", 3)[3]

    def unsigned(self, method: str, target: str, *fields: str, body: bytes = b"") -> bytes:
        """Give a request without an Authorization field, the last on its connection."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.host}", "Connection: close", *fields]
        lines += [f"Content-Length: {len(body)}"] if body else []
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


@dataclass(frozen=True)
class Answer:
    """A response, read whole. ``rest`` is what came after it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    rest: bytes = b""
    lines: Sequence[tuple[str, str]] = field(default_factory=tuple)

    @property
    def code(self) -> str:
        """Give S3's word for the error."""
        return self.body.partition(b"<Code>")[2].partition(b"</Code>")[0].decode()


def read_to_end(sock: socket.socket) -> bytes:
    """Read until the other side ends, or breaks off."""
    received = b""
    with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):
        while piece := sock.recv(1 << 16):
            received += piece
    return received


def parse_answer(received: bytes, method: str = "GET") -> Answer:
    """Read one response from bytes; interim ones before it are skipped."""
    head, _, rest = received.partition(b"\r\n\r\n")
    lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    if not lines[0]:
        return Answer(0, {}, b"")
    status = int(lines[0].split(" ")[1])
    if status < 200:
        return parse_answer(rest, method)
    fields = [tuple(line.split(": ", 1)) for line in lines[1:]]
    headers = {name.lower(): value for name, value in fields}
    if method == "HEAD" or status in (204, 304):
        return Answer(status, headers, b"", rest, tuple(fields))  # type: ignore[arg-type]
    if headers.get("transfer-encoding") == "chunked":
        body, rest = _dechunk(rest)
    else:
        length = int(headers.get("content-length", len(rest)))
        body, rest = rest[:length], rest[length:]
    return Answer(status, headers, body, rest, tuple(fields))  # type: ignore[arg-type]


def _dechunk(rest: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line, 16)
        body, rest = body + rest[:size], rest[size + 2 :]
        if not size:
            return body, rest


def signed_request(
    method: str,
    target: str,
    *,
    host: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    payload: str = "",
    key: Credentials = POOL_KEY,
    now: float = 0.0,
    close: bool = False,
) -> bytes:
    """Give a request signed by header; the payload's hash is computed unless one is given."""
    path, _, query = target.partition("?")
    fields = {name.lower(): value for name, value in (headers or {}).items()}
    signed = {"host": host, **{name: value for name, value in fields.items() if name.startswith("x-amz-")}}
    signed["x-amz-content-sha256"] = payload or hashlib.sha256(body).hexdigest()
    signer = Signer(key, region=REGION)
    lines = signer.signed_head(tuple(signed.items()), now or time.time()).lines(method, path, canonical_query(query))
    signed |= dict(line.split(": ", 1) for line in lines.splitlines())
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in {**fields, **signed}.items())]
    if body or method in ("PUT", "POST"):
        lines.append(f"content-length: {len(body)}")
    if close:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape") + body


def signed_whole(method: str, path: str, *, headers: Mapping[str, str], key: Credentials = POOL_KEY) -> bytes:
    """Give a request without a body of which each header is signed, whatever its name; without its last blank line."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    signed = dict(sorted({**headers, "x-amz-content-sha256": UNSIGNED_PAYLOAD, "x-amz-date": stamp}.items()))
    names, scope = ";".join(signed), f"{stamp[:8]}/{REGION}/s3/aws4_request"
    fields = [f"{name}:{value}" for name, value in signed.items()]
    canonical = "\n".join([method, path, "", *fields, "", names, UNSIGNED_PAYLOAD])
    signing_key = derive_key(key.secret_key, stamp[:8], region=REGION, service="s3")
    claimed = signature(signing_key, string_to_sign(stamp, scope, canonical.encode()))
    words = f"Credential={key.access_key}/{scope},SignedHeaders={names},Signature={claimed}"
    lines = [f"{method} {path} HTTP/1.1", *fields, f"authorization:AWS4-HMAC-SHA256 {words}", "content-length:0", ""]
    return "\r\n".join(lines).encode()


def presigned_v2(path: str, *, signs: str = "", more: str = "", md5: str = "", kind: str = "", amz: str = "") -> str:
    """Give the target of a PUT that Version 2 signs: with the query ``signs``, and sent with ``more`` in its place."""
    expires = int(time.time()) + 60
    text = f"PUT\n{md5}\n{kind}\n{expires}\n{amz}{path}{signs and '?'}{signs}"
    claimed = base64.b64encode(hmac.digest(POOL_KEY.secret_key.encode(), text.encode(), "sha1")).decode()
    own = f"AWSAccessKeyId={POOL_KEY.access_key}&Expires={expires}&Signature={quote(claimed, safe='')}"
    return f"{path}?{more}{more and '&'}{own}"


def make_certificate(directory: Path) -> tuple[str, str]:
    """Make a certificate for this machine and its key, or skip where openssl is missing."""
    certificate, key = str(directory / "c.pem"), str(directory / "k.pem")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    extra = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate]
    try:
        subprocess.run(["openssl", *words.split(), *extra], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return certificate, key


def checking_fake(nodes: int = 3, **secrets: str) -> FakeS3:
    """Give a fake that checks every signature and payload hash."""
    return FakeS3(nodes, secrets={ACCESS_KEY: SECRET_KEY, GUEST_KEY.access_key: GUEST_KEY.secret_key, **secrets})


def stored(fake: FakeS3, bucket: str, key: str) -> bytes | None:
    """Give the bytes of an object in the fake, None when it is not there."""
    return fake.store.bodies(bucket).get(key)


def arrived(fake: FakeS3) -> list[str]:
    """Give the operations that reached a node; greetings and probes of the pool left out."""
    return [op for op in fake.ops() if op != "ListBuckets"]


def last(fake: FakeS3) -> Recorded:
    """Give the last request that reached a node; greetings and probes left out."""
    return next(request for request in reversed(fake.requests) if request.target != "/")


@contextlib.contextmanager
def proxy_process(environ: Mapping[str, str], home: str, *flags: str) -> Iterator[tuple[str, int]]:
    """Run a proxy with the values of somebody who set no more than this; yield its URL and its admin port."""
    port, admin = free_ports(2)
    words = ["proxy", "--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{admin}", *flags]
    env = {**environ, "HOME": home, "PATH": os.environ["PATH"]}
    with Path(home, "proxy.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "s3pool", *words], env=env, stdout=log, stderr=log)
    try:
        await_sound(admin)
        yield f"http://127.0.0.1:{port}", admin
    finally:
        process.terminate()
        process.wait(RECOVERY_LIMIT_S)


def await_sound(admin: int, ask: Callable[[], object] = lambda: None) -> float:
    """Wait until the proxy's circuits are closed, which takes requests that close them; return the seconds."""
    started = time.monotonic()
    while time.monotonic() - started < RECOVERY_LIMIT_S:
        try:
            connection = HTTPConnection("127.0.0.1", admin, timeout=2)
            connection.request("GET", "/stats")
            rows = json.loads(connection.getresponse().read())["endpoints"]
            if all(row["state"] == "closed" for row in rows):
                return time.monotonic() - started
        except (OSError, ValueError):
            pass
        ask()
        time.sleep(STATS_POLL_S)
    return RECOVERY_LIMIT_S
