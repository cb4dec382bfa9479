"""A server that runs while the benchmark needs it, and the configurations of nginx and HAProxy."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

START_DEADLINE_S = 20.0
STOP_DEADLINE_S = 10.0
POLL_S = 0.05
TLS = Path(__file__).resolve().parents[1] / "support" / "tls"
CA_FILE = str(TLS / "cert.pem")

NGINX = """
{user}
worker_processes {workers};
daemon off;
pid {root}/nginx.pid;
error_log {root}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {root}/body;
  proxy_temp_path {root}/proxy;
  fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi;
  scgi_temp_path {root}/scgi;
  client_max_body_size 0;
  client_body_buffer_size 64k;
  keepalive_requests 100000000;
  keepalive_timeout 300s;
  default_type application/octet-stream;
  sendfile on;
  tcp_nopush on;
  {http}
}}
"""

# What a client of S3 asks for beside PUT, GET, HEAD and DELETE of plain files has a fixed
# answer. A part of a large upload is stored as a file named by its number.
STORE = """
  # Nobody believes that something was stored without an ETag. An empty one would take nginx's own away.
  map $request_method $stored {{
    default $sent_http_etag;
    PUT '"benchmark"';
  }}
  map $args $cursor {{
    default first;
    "~(^|&)(continuation-token|start-after|marker)=[^&]*?(?<last>[0-9]+)(&|$)" $last;
  }}
  ssl_certificate {tls};
  ssl_certificate_key {tls};
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    listen 127.0.0.1:{tls_port} ssl backlog=1024;
    root {root}/store;
    location = /-/status {{ stub_status; }}
    location ~ ^/(?<bucket>[a-z0-9-]+)/?$ {{
      default_type application/xml;
      if ($request_method = HEAD) {{ return 200; }}
      if ($args ~ "(^|&)location") {{ return 200 '<LocationConstraint xmlns="{namespace}"/>'; }}
      rewrite ^ /-/pages/$bucket/$cursor.xml last;
    }}
    location /-/pages/ {{ internal; default_type application/xml; }}
    location /-/parts/ {{
      internal;
      dav_methods PUT;
      create_full_put_path on;
      add_header ETag '"benchmark-part"' always;
    }}
    location /sink/ {{
      if ($request_method = POST) {{ rewrite ^ /-/multipart last; }}
      if ($request_method = HEAD) {{ rewrite ^ /large/object last; }}
      if ($arg_partNumber) {{ rewrite ^ /-/parts$uri/$arg_partNumber last; }}
      dav_methods PUT DELETE;
      create_full_put_path on;
      add_header ETag $stored always;
    }}
    location = /-/multipart {{
      internal;
      default_type application/xml;
      if ($arg_uploadId) {{ return 200 '<CompleteMultipartUploadResult xmlns="{namespace}"><Location>/sink</Location>\
<Bucket>sink</Bucket><Key>object</Key><ETag>"benchmark-whole"</ETag></CompleteMultipartUploadResult>'; }}
      return 200 '<InitiateMultipartUploadResult xmlns="{namespace}"><Bucket>sink</Bucket><Key>object</Key>\
<UploadId>benchmark</UploadId></InitiateMultipartUploadResult>';
    }}
    location / {{
      dav_methods PUT DELETE;
      create_full_put_path on;
      add_header ETag $stored always;
    }}
  }}
"""

NGINX_PROXY = """
  upstream store {{ server {backend}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://store;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_buffering {buffering};
    }}
  }}
"""

HAPROXY = """
global
  nbthread {threads}
  maxconn 4096
defaults
  mode http
  timeout connect 3s
  timeout client 60s
  timeout server 60s
  option splice-auto
  http-reuse always
frontend s3
  bind 127.0.0.1:{port}
  default_backend nodes
backend nodes
{servers}
"""


class ServerError(RuntimeError):
    """A server did not start."""


class Server:
    """A process that listens; a context that ends it."""

    def __init__(self, words: Sequence[str], port: int, *, log: Path, environ: Mapping[str, str] | None = None) -> None:
        self.port = port
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ, cwd=log.parent
            )
        try:
            self._await()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Give the first process; workers are its children."""
        return self._process.pid

    @property
    def url(self) -> str:
        """Give where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End it, by force when it takes too long."""
        self._process.terminate()
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _await(self) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while not _answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"{self._process.args!r} did not start: {self._log.read_text(errors='replace')}")
            time.sleep(POLL_S)


def start_nginx(program: str, root: Path, port: int, *, http: str) -> Server:
    """Start nginx with a configuration of its http block; logs and temporary files lie in root."""
    root.mkdir(parents=True, exist_ok=True)
    # Its workers would give up root, and could not write what we made.
    user = "user root;" if os.geteuid() == 0 else ""
    conf = root / "nginx.conf"
    conf.write_text(NGINX.format(user=user, workers=os.cpu_count() or 1, root=root, http=http))
    log = root / "nginx.log"
    return Server([program, "-p", str(root), "-e", str(log), "-c", str(conf)], port, log=log)


def start_haproxy(program: str, root: Path, port: int, *, backends: Sequence[str], threads: int) -> Server:
    """Start HAProxy before servers, with as many threads as the other side has processes."""
    root.mkdir(parents=True, exist_ok=True)
    conf = root / "haproxy.cfg"
    servers = "\n".join(f"  server node{number} {backend}" for number, backend in enumerate(backends, start=1))
    conf.write_text(HAPROXY.format(port=port, servers=servers, threads=threads))
    return Server([program, "-db", "-f", str(conf)], port, log=root / "haproxy.log")


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0):
            return True
    except OSError:
        return False
