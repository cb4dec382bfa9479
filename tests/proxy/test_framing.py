"""What the proxy sends on is framed in one way only, whoever reads it.

Odd requests go in, and a node writes down the bytes that come out. They are then read by
parsers that differ wherever servers are known to differ. If all of these see the same
requests, none can be smuggled past the proxy.
"""

from __future__ import annotations

import io
import itertools
import random
import re
import socket
import socketserver
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from tests.proxy.test_smuggling import BROKEN_CHUNKS, CORPUS, PUT
from tests.support.proxying import RunningProxy, parse_answer

BARE = rb"(?:\r\n|\r(?!\n)|(?<!\r)\n)"  # each of the three ends a line
HIDDEN = b"GET /b/hidden HTTP/1.1\r\nHost: x\r\n\r\n...."
CASES = 120  # mutated requests in each mode
NEXT = b"GET /b/next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
SOUND = (
    b"GET /b/k HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n\r\n",
    b"HEAD /b/k HTTP/1.1\r\nHost: x\r\n\r\n",
    b"DELETE /b/k HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
    PUT + b"Content-Length: 5\r\nX-A: 1\r\n\r\nhello",
    PUT + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    PUT + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-T: GET\r\n\r\n",
    PUT + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n10\r\n0\r\n\r\nGET / HTTP/\r\n0\r\n\r\n",
    b"POST /b/k?select HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"GET http://x/b/k HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nUpgrade: h2c\r\n\r\n",
)
LINES = (
    b"Content-Length: 3",
    b"Content-Length: 0",
    b"content-length:\t5",
    b"Content-Length : 7",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding : chunked",
    b"X-B: 1\n\nGET /b/hidden HTTP/1.1",
    b"X-B: 1\rTransfer-Encoding: chunked",
    b" folded",
    b"X-B: \xe9\xff\x85",
    b"Connection: content-length",
    b"Connection: close, transfer-encoding",
    b"Connection: x-b\r\nX-B: 1",
    b"Expect: 100-continue",
    b"Host: y",
    b"Trailer: Content-Length",
    b"X-Content-Length: 9",
    b"X_Content_Length: 9",
)
BYTES = (b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b";", b",", b"0", b"\r\n\r\n", b"\x85", b"\xc2\xa0")

Request = tuple[str, str, bytes]
SIGN_OF_LIFE: Request = ("GET", "/", b"")  # what the proxy itself asks of a new node


class Recorder(socketserver.ThreadingTCPServer):
    """A node that writes down what each connection brings, and says yes to everything."""

    daemon_threads = True

    def __init__(self) -> None:
        self.received: list[bytearray] = []
        super().__init__(("127.0.0.1", 0), _Node)

    @property
    def url(self) -> str:
        """Give the node's URL."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Node(socketserver.BaseRequestHandler):
    server: Recorder
    request: socket.socket

    def handle(self) -> None:
        """Answer each request when all of it is there, as the plainest parser sees it."""
        received = bytearray()
        self.server.received.append(received)
        answered = 0
        while piece := self.request.recv(1 << 16):
            received += piece
            whole = read(bytes(received), line_end=rb"\r\n", prefers_coding=True, pick=0)
            for _ in whole[answered:]:
                self.request.sendall(b"HTTP/1.1 200 OK\r\nX-Node: 1\r\nContent-Length: 0\r\n\r\n")
            answered = len(whole)


def read(raw: bytes, *, line_end: bytes, prefers_coding: bool, pick: int) -> Sequence[Request]:
    """Read all whole requests of a connection in the manner of some server.

    ``line_end`` is what ends a line, ``pick`` which of several lengths counts. Blanks before a
    colon and folded lines are taken, as many do.
    """
    found: list[Request] = []
    while True:
        head = re.match(rb"(?:%b)*(.*?)(?:%b){2}" % (line_end, line_end), raw, re.DOTALL)
        if head is None:
            return found
        first, *lines = re.split(line_end, re.sub(rb"(?:%b)[ \t]+" % line_end, b" ", head[1]))
        fields = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        codings = [value for name, value in fields if name == b"transfer-encoding" and b"chunked" in value]
        lengths = [value for name, value in fields if name == b"content-length"]
        if codings and (prefers_coding or not lengths):
            body = re.match(
                rb"(?:[1-9a-fA-F][0-9a-fA-F]*%b.*?%b)*0%b%b" % ((line_end,) * 4), raw[head.end() :], re.DOTALL
            )
            if body is None:
                return found
            size = body.end()
        else:
            size = int(re.sub(rb"[^0-9]", b"", lengths[pick]) or b"0") if lengths else 0
        if len(raw) < head.end() + size:
            return found
        method, target, *_ = (*first.decode("latin-1").split(), "", "")
        found.append((method, target, raw[head.end() : head.end() + size]))
        raw = raw[head.end() + size :]


def read_by_http_server(raw: bytes) -> Sequence[Request]:
    """Read a connection with the standard library's own server."""
    found: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            self.rfile, self.wfile = io.BytesIO(raw), io.BytesIO()

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):
                return self.note
            raise AttributeError(name)

        def note(self) -> None:
            found.append((self.command, self.path, self.rfile.read(int(self.headers.get("Content-Length", 0)))))

        def finish(self) -> None:
            """Keep the streams."""

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    Handler(None, ("", 0), None)  # type: ignore[arg-type]
    return found


def mutated(dice: random.Random) -> bytes:
    """Give a sound request with something done to it."""
    request = dice.choice(SOUND)
    for _ in range(dice.randrange(1, 3)):
        if dice.random() < 0.6:
            ends = [match.end() for match in re.finditer(rb"\r\n", request.partition(b"\r\n\r\n")[0] + b"\r\n")]
            at = dice.choice(ends)
            request = request[:at] + dice.choice(LINES) + b"\r\n" + request[at:]
        else:
            at = dice.randrange(len(request))
            request = request[:at] + dice.choice(BYTES) + request[at + dice.randrange(2) :]
    return request


@pytest.fixture(params=["open", "passthrough"])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Recorder, RunningProxy]]:
    """Give a recording node and a proxy before it that lets everybody in."""
    with Recorder() as node:
        threading.Thread(target=node.serve_forever, args=(0.05,), daemon=True).start()
        with RunningProxy([node.url], auth=request.param, allowed_hosts=["x"]) as proxy:
            yield node, proxy
        node.shutdown()


def count_answers(received: bytes) -> tuple[int, int]:
    """Give how many answers came from the node, and how many from the proxy."""
    node = len(re.findall(rb"(?i)\r\nx-node: 1\r\n", received))
    return node, len(re.findall(rb"HTTP/1\.1 [2-5]\d\d ", received)) - node


def check_agreement(node: Recorder, passed_on: int) -> None:
    """Hold all parsers' views of what came out against each other, and against the number of answers."""
    views = []
    for line_end, prefers, pick in itertools.product((rb"\r\n", rb"\r?\n", BARE), (True, False), (0, -1)):
        views.append([read(bytes(raw), line_end=line_end, prefers_coding=prefers, pick=pick) for raw in node.received])
    views.append([read_by_http_server(bytes(raw)) for raw in node.received])
    assert [views[0]] * len(views) == views
    assert passed_on == sum(request != SIGN_OF_LIFE for connection in views[0] for request in connection)


def test_what_goes_on_is_framed_in_one_way(place: tuple[Recorder, RunningProxy]) -> None:
    """Every answer that a client gets from the node is for one request, and there is no other."""
    node, proxy = place
    dice = random.Random(9112)
    broken = [PUT + b"Transfer-Encoding: chunked\r\n\r\n" + end for end in BROKEN_CHUNKS.values()]
    requests = [*SOUND, *CORPUS.values(), *broken]
    requests += [mutated(dice) for _ in range(CASES)]
    passed_on = 0
    for request in requests:
        received = proxy.talk(request + NEXT)

        answers, refusals = count_answers(received)
        passed_on += answers
        assert answers <= request.count(b"HTTP/1.") + 1, request
        assert refusals <= 1, request  # the first refusal of this kind ends the connection

    check_agreement(node, passed_on)
    assert len(SOUND) * 2 <= passed_on


def test_sound_requests_pass_with_their_bodies(place: tuple[Recorder, RunningProxy]) -> None:
    """The bodies that look like requests are bodies, on the other side as well."""
    node, proxy = place
    for request in SOUND:
        assert 200 == parse_answer(proxy.talk(request + NEXT), "HEAD").status

    seen = [found for raw in node.received for found in read_by_http_server(bytes(raw))]

    targets = {target for _, target, _ in seen} - {"/"}
    assert {"/b/k", "/b/next", "/b/k?select"} == targets
    assert {b"", b"hello", HIDDEN, b"0\r\n\r\nGET / HTTP/"} == {body for _, _, body in seen}
