"""What the proxy sends on, read by servers that others wrote: they see as many requests as were meant."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest

from tests.proxy.test_framing import NEXT, SOUND, count_answers, mutated
from tests.proxy.test_smuggling import BROKEN_CHUNKS, CORPUS, PUT
from tests.support.proxying import RunningProxy

CASES = 60  # mutated requests
START_WITHIN_S = 20.0
END_WITHIN_S = 20
SIGN_OF_LIFE = ["GET", "/"]  # what the proxy itself asks of a new node
SEARCHED = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
# Both as lenient as they can be made, and each writes a line about every request it saw.
NGINX = """
daemon off; master_process off; pid {root}/pid; error_log {root}/errors crit;
events {{}}
http {{
    log_format seen "$status $request_method $request_uri";
    access_log {root}/seen seen;
    client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
    uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
    ignore_invalid_headers off; underscores_in_headers on; merge_slashes off; keepalive_requests 100000;
    server {{
        listen {address} reuseport;
        add_header X-Node 1 always;
        location / {{ return 200; }}
    }}
}}
"""
HAPROXY = """
defaults
    mode http
    timeout client 20s
    timeout connect 20s
    timeout server 20s
    option accept-invalid-http-request
    option dontlognull
frontend node
    bind {address}
    log stdout format raw local0
    log-format "%ST %HM %HU"
    option http-buffer-request
    http-request return status 200 hdr X-Node 1
"""


class LiveReader:
    """A real server on a port of this process, which answers everything with X-Node; a context that ends it."""

    def __init__(self, name: str, program: str, root: Path) -> None:
        self._seen = root / "seen"
        # Bound, but without listening: it keeps the port from all but this one server.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._place.bind(("127.0.0.1", 0))
        self._address = self._place.getsockname()
        self.url = "http://{}:{}".format(*self._address)
        template, flags, self._stop = {
            "nginx": (NGINX, ["-p", str(root), "-c"], signal.SIGQUIT),
            "haproxy": (HAPROXY, ["-db", "-f"], signal.SIGUSR1),
        }[name]
        configuration = root / "configuration"
        configuration.write_text(template.format(root=root, address=self.url.removeprefix("http://")))
        with self._seen.open("ab") as seen, (root / "errors").open("ab") as errors:
            self._process = subprocess.Popen([program, *flags, str(configuration)], stdout=seen, stderr=errors)
        self._wait_until_it_listens()

    def _wait_until_it_listens(self) -> None:
        ends_at = time.monotonic() + START_WITHIN_S
        while time.monotonic() < ends_at and self._process.poll() is None:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(self._address):
                return
        raise AssertionError("the server did not start; its words are in the file errors")

    def requests(self) -> list[list[str]]:
        """End the server, and give status, method and target of each request that it saw."""
        self._process.send_signal(self._stop)
        self._process.wait(END_WITHIN_S)
        lines = self._seen.read_text(errors="backslashreplace").splitlines()
        return [line.split(" ") for line in lines if re.match("[0-9]", line)]

    def __enter__(self) -> LiveReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._place.close()
        self._process.kill()
        self._process.wait()


@pytest.fixture(params=["nginx", "haproxy"])
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LiveReader]:
    """Give a server that reads what the proxy sends."""
    program = shutil.which(request.param, path=SEARCHED)
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    with LiveReader(request.param, program, tmp_path) as server:
        yield server


def test_a_live_server_sees_the_requests_that_were_meant(reader: LiveReader) -> None:
    """Each answer that a client gets is for one request, each request has an answer, and none is hidden."""
    dice = random.Random(4711)
    broken = [PUT + b"Transfer-Encoding: chunked\r\n\r\n" + end for end in BROKEN_CHUNKS.values()]
    requests = [*SOUND, *CORPUS.values(), *broken, *(mutated(dice) for _ in range(CASES))]

    with RunningProxy([reader.url], auth="open", allowed_hosts=["x"]) as proxy:
        passed_on = sum(count_answers(proxy.talk(request + NEXT))[0] for request in requests)
    seen = [request for request in reader.requests() if request[1:] != SIGN_OF_LIFE]

    assert passed_on == len(seen)
    assert {"200"} == {status for status, *_ in seen}
    assert not [target for _, _, target, *_ in seen if "hidden" in target]
    assert len(SOUND) * 2 <= passed_on
