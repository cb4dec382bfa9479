"""Many HTTPS nodes that throttle listings per connection: nginx before real gateways.

Each node is a port with a self-signed certificate. The first page of a connection comes at
once, every later one after three seconds; all other requests pass. So a client that stays on
one connection gets a few hundred objects a second, and one that moves on gets all there is.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

PAGES_PER_MINUTE = 20  # of one connection
BURST = 1000  # pages that may wait: none is refused
START_DEADLINE_S = 20.0
POLL_S = 0.05
CERTIFICATE_DAYS = "2"

CONF = """
worker_processes 1;
daemon off;
pid {root}/nginx.pid;
error_log {root}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {root}/body;
  proxy_temp_path {root}/proxy;
  fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi;
  scgi_temp_path {root}/scgi;
  client_max_body_size 0;
  keepalive_requests 100000;
  # Only pages of listings have a key, and so a limit: their connection's number.
  map $args $lister {{
    default "";
    "~(^|&)(list-type|max-keys|prefix|delimiter)=" $connection;
  }}
  limit_req_zone $lister zone=pages:20m rate={rate}r/m;
  upstream gateways {{
    {gateways}
    keepalive 64;
  }}
  ssl_certificate {root}/node.crt;
  ssl_certificate_key {root}/node.key;
  {nodes}
}}
"""
NODE = """
  server {{
    listen 127.0.0.1:{port} ssl;
    location / {{
      limit_req zone=pages burst={burst};
      proxy_pass http://gateways;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_request_buffering off;
    }}
  }}
"""


class FleetError(RuntimeError):
    """nginx or openssl is missing, or nginx did not start."""


def missing_tools() -> list[str]:
    """Name the programs that are not installed."""
    return [tool for tool in ("nginx", "openssl") if shutil.which(tool) is None]


class ThrottlingFleet:
    """So many nodes before some gateways; a context that ends them.

    ``dead`` of them, the first ones, refuse connections; ``silent`` ones after these accept
    and never answer.
    """

    def __init__(self, gateways: Sequence[str], *, nodes: int = 30, dead: int = 0, silent: int = 0) -> None:
        if missing_tools():
            raise FleetError(f"not installed: {', '.join(missing_tools())}")
        self._root = Path(tempfile.mkdtemp(prefix="s3pool-fleet-"))
        self._sockets = [socket.socket() for _ in range(nodes)]
        for sock in self._sockets:
            sock.bind(("127.0.0.1", 0))
        self.ports = [sock.getsockname()[1] for sock in self._sockets]
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._occupy(dead, silent)
            self._start(gateways, self.ports[dead + silent :])
        except BaseException:
            self.stop()
            raise

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Give the URLs of all nodes, those that do not work included."""
        return tuple(f"https://127.0.0.1:{port}" for port in self.ports)

    def stop(self) -> None:
        """End nginx and remove its directory."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(START_DEADLINE_S)
        for sock in self._sockets:
            sock.close()
        shutil.rmtree(self._root, ignore_errors=True)

    def __enter__(self) -> ThrottlingFleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _occupy(self, dead: int, silent: int) -> None:
        """Keep the ports of nodes that do not work; a bound port without a listener refuses."""
        for sock in self._sockets[dead : dead + silent]:
            sock.listen()
        for sock in self._sockets[dead + silent :]:
            sock.close()
        del self._sockets[dead + silent :]

    def _start(self, gateways: Sequence[str], ports: Sequence[int]) -> None:
        _make_certificate(self._root)
        conf = CONF.format(
            root=self._root,
            rate=PAGES_PER_MINUTE,
            gateways=" ".join(f"server {url.partition('://')[2]};" for url in gateways),
            nodes="".join(NODE.format(port=port, burst=BURST) for port in ports),
        )
        (self._root / "nginx.conf").write_text(conf)
        command = ["nginx", "-p", str(self._root), "-e", str(self._root / "error.log"), "-c", "nginx.conf"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_DEADLINE_S
        while not _answers(ports[-1]):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise FleetError(f"nginx did not start: {(self._root / 'error.log').read_text()[-2000:]}")
            time.sleep(POLL_S)


def _make_certificate(root: Path) -> None:
    key, certificate = str(root / "node.key"), str(root / "node.crt")
    words = ["-newkey", "rsa:2048", "-nodes", "-days", CERTIFICATE_DAYS, "-subj", "/CN=127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", *words, "-keyout", key, "-out", certificate], check=True, capture_output=True
    )


def _answers(port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0) as sock, context.wrap_socket(sock):
            return True
    except OSError:
        return False
