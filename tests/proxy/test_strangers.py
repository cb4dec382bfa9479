"""What somebody without a key sends makes no node look ill, crashes no request and fills no log."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable

import pytest

from s3pool.model import Credentials
from s3pool.proxy.metrics import LINES, LogLimit
from tests.support.fake_s3 import FakeS3
from tests.support.proxying import RunningProxy, parse_answer
from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliRunner
from tests.support.scripted import ScriptedServer

BROKEN_HEAD = b"HTTP/1.1 200 OK\r\nbroken head\r\n\r\n"
MANY = 12  # more than open a circuit


def plain(method: str, target: str, *lines: bytes) -> bytes:
    """Return an anonymous request."""
    return b"\r\n".join([f"{method} {target} HTTP/1.1".encode(), b"Host: x", *lines, b"", b""])


def states(proxy: RunningProxy) -> set[str]:
    """Return the states of all nodes' circuits."""
    return {row["state"] for row in proxy.stats()["endpoints"]}


@pytest.mark.parametrize(
    "answer",
    [BROKEN_HEAD, b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", b"nonsense\r\n\r\n"],
    ids=["head", "500", "nonsense"],
)
def test_anonymous_requests_open_no_circuits(answer: bytes) -> None:
    """RGW answers some of them with a broken head; the others' requests go on."""
    with (
        ScriptedServer([answer]) as first,
        ScriptedServer([answer]) as second,
        RunningProxy([str(first.endpoint), str(second.endpoint)], probe="tcp", anonymous="pass") as proxy,
    ):
        for number in range(MANY):
            assert parse_answer(proxy.talk(plain("GET", f"/b/{number}"))).status in (500, 502, 503)

        assert {"closed"} == states(proxy)


@pytest.mark.parametrize("nodes", [1, 3])
def test_malformed_answer_of_all_nodes_is_no_shortage(nodes: int) -> None:
    """They were reached: who is told to try again soon gets the same answer, as RGW gives to an empty ?select."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(ScriptedServer([BROKEN_HEAD])) for _ in range(nodes)]
        proxy = stack.enter_context(RunningProxy([str(server.endpoint) for server in servers], probe="tcp"))

        answer = proxy.ask("GET", "/b/k")

        assert (502, "BadGateway") == (answer.status, answer.code)


def test_one_request_of_a_client_counts_once() -> None:
    """Different ones count: a node that answers none of them well is ill."""
    with ScriptedServer([BROKEN_HEAD]) as node, RunningProxy([str(node.endpoint)], probe="tcp") as proxy:
        for _ in range(MANY):
            assert proxy.ask("GET", "/b/same").status in (502, 503)
        assert {"closed"} == states(proxy)
        for number in range(MANY):
            proxy.ask("GET", f"/b/{number}")

        assert {"open"} == states(proxy)


@pytest.mark.parametrize("has_length", [True, False])
def test_sub_resource_that_nodes_ignore_streams(has_length: bool) -> None:
    """RGW 16 answers ?attributes with the object itself; nothing of it is kept, and no node is ill."""
    size, block = 40 << 20, b"x" * (1 << 20)

    def send(sock: socket.socket) -> None:
        framing = b"Content-Length: %d" % size if has_length else b"Transfer-Encoding: chunked"
        sock.sendall(b"HTTP/1.1 200 OK\r\nETag: x\r\n" + framing + b"\r\n\r\n")
        for _ in range(size // len(block)):
            sock.sendall(block if has_length else b"100000\r\n" + block + b"\r\n")
        if not has_length:
            sock.sendall(b"0\r\n\r\n")

    with (
        ScriptedServer([send]) as node,
        RunningProxy([str(node.endpoint)], probe="tcp", anonymous="pass", read_timeout_s=20.0) as proxy,
    ):
        with socket.create_connection(("127.0.0.1", proxy.port), 20) as sock:
            sock.sendall(plain("GET", "/b/k?attributes", b"Connection: close"))
            used = proxy.stats()["replay_memory"]["used"]
            received = 0
            while piece := sock.recv(1 << 20):
                received += len(piece)

        assert size <= received < size + 10_000
        assert used <= 8 << 20
        assert ({"closed"}, 0) == (states(proxy), proxy.stats()["replay_memory"]["used"])


BYTES = [b"\xff", b"\xc3\xa9", b"\xed\xa0\x80"]
SCOPE = b"AWS4-HMAC-SHA256 Credential=%b/20261130/%b/s3/aws4_request, SignedHeaders=host, Signature=" + b"0" * 64


@pytest.mark.parametrize("odd", BYTES)
@pytest.mark.parametrize(
    "lines",
    [
        lambda odd: (b"Authorization: " + SCOPE % (b"AK", odd), b"X-Amz-Date: 20261130T000000Z"),
        lambda odd: (b"Authorization: " + SCOPE % (odd, b"r"), b"X-Amz-Date: 20261130T000000Z"),
        lambda odd: (b"Authorization: AWS " + odd + b":AAAA", b"Date: Mon, 30 Nov 2026 00:00:00 GMT"),
        lambda odd: (b"Authorization: AWS AK:AAAA", b"Date: Mon, 30 Nov 99999999999999 00:00:00 " + odd),
        lambda odd: (b"Authorization: " + SCOPE % (b"AK", b"r"), b"Date: Mon, 30 Nov 999999999999 00:00:00 " + odd),
        lambda odd: (b"X-Amz-Date: " + odd, b"Authorization: " + SCOPE % (b"AK", b"r")),
        lambda odd: (b"x-amz-content-sha256: " + odd, b"x-amz-copy-source: " + odd, b"Range: bytes=" + odd),
        lambda odd: (b"x-amz-security-token: " + odd, b"Cookie: " + odd),
    ],
)
def test_bytes_that_are_no_text_are_refused_without_a_word(
    fake: FakeS3, lines: Callable[[bytes], tuple[bytes, ...]], odd: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """One made 4 KB of traceback in the log, and no answer."""
    with RunningProxy(fake.endpoints, sigv2="on") as proxy:
        answer = parse_answer(proxy.talk(plain("GET", "/b/there", *lines(odd))))

    assert answer.status in (400, 403)
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("word", ["%FF", "%C3%A9", "%ED%A0%80", "%00"])
@pytest.mark.parametrize(
    "name", ["X-Amz-Credential", "X-Amz-Date", "X-Amz-Signature", "X-Amz-SignedHeaders", "Signature"]
)
def test_odd_words_of_a_query_are_refused_without_a_word(
    proxy: RunningProxy, name: str, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A query says who asks, too."""
    query = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"AK/20261130/{word}/s3/aws4_request",
        "X-Amz-Date": "20261130T000000Z",
        "X-Amz-Expires": "1000",
        "X-Amz-SignedHeaders": "host",
        "X-Amz-Signature": "0" * 64,
        "AWSAccessKeyId": "AK",
    }
    if name == "Signature":
        query = {"AWSAccessKeyId": word, "Signature": word, "Expires": "9" * 12}
    elif name != "X-Amz-Credential":
        query[name] = word
        del query["AWSAccessKeyId"]
    text = "&".join(f"{key}={value}" for key, value in query.items())
    answer = parse_answer(proxy.talk(plain("GET", f"/b/there?{text}")))

    assert answer.status in (400, 403)
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_mistake_of_the_proxy_is_an_answer(fake: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever nobody thought of must not take the answer, or the process, with it."""
    monkeypatch.setattr("s3pool.proxy.gateway.Gateway.admit", lambda *_: 1 // 0)
    with RunningProxy(fake.endpoints) as proxy:
        answers = [proxy.ask("PUT", "/b/key", body=b"x") for _ in range(2)]

    assert [(500, "InternalError")] * 2 == [(answer.status, answer.code) for answer in answers]


def test_equal_lines_of_the_log_are_limited() -> None:
    """The first ones tell all; then only their number matters."""
    now = [0.0]
    limit = LogLimit(now=lambda: now[0])
    records = [logging.makeLogRecord({"name": "s3pool.x", "msg": "%s failed", "args": (n,)}) for n in range(100)]
    others = logging.makeLogRecord({"name": "s3pool.x", "msg": "another"})

    assert LINES == sum(map(limit.filter, records))
    assert limit.filter(others)
    now[0] = 11.0
    last = logging.makeLogRecord({"name": "s3pool.x", "msg": "%s failed", "args": ("x",)})
    assert limit.filter(last)
    assert f"x failed ({100 - LINES} lines like this were left out)" == last.getMessage()


# -- what nodes may take -------------------------------------------------------------------------


def trickle(*beginning: bytes) -> Callable[[socket.socket], None]:
    """Return a turn that sends something, then a byte every 50 ms for as long as anybody listens."""

    def send(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(b"".join(beginning))
        for _ in range(2_000):
            sock.sendall(b"x")
            threading.Event().wait(0.05)

    return send


def flood(beginning: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    """Return a turn that sends the same piece for ever."""

    def send(sock: socket.socket) -> None:
        sock.sendall(beginning)
        while True:
            sock.sendall(piece)

    return send


TURNS = {
    "interim answers": flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "fields": flood(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
    "trailers": flood(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: b\r\n"),
    "chunk line": flood(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
    "slow head": trickle(b"HTTP/1.1 200 OK\r\nX-A: "),
    "slow document": trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"),
    "slow chunk": trickle(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\n"),
    "slow error": trickle(b"HTTP/1.1 500 Oops\r\nContent-Length: 100000\r\n\r\n"),
}


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_exchange_with_a_node_has_an_end(turn: Callable[[socket.socket], None]) -> None:
    """Bytes that keep coming are no sign of life; a timeout for each of them is none for all."""
    with (
        ScriptedServer([turn]) as node,
        RunningProxy([str(node.endpoint)], probe="tcp", tries=1, read_timeout_s=0.5) as proxy,
    ):
        answer = proxy.ask("GET", "/b?list-type=2")

        assert answer.status in (500, 502, 503, 504)
        assert 0 == proxy.stats()["endpoints"][0]["in_flight"]


@pytest.mark.parametrize("target", ["/b/key", "/b/key?attributes"])
def test_object_that_trickles_in_is_broken_off(target: str) -> None:
    """Its client is told by a connection that ends before the length that was said."""
    turn = trickle(b"HTTP/1.1 200 OK\r\nETag: x\r\nContent-Length: 9000000\r\n\r\n")
    with (
        ScriptedServer([turn]) as node,
        RunningProxy([str(node.endpoint)], probe="tcp", tries=1, resume_get=0, read_timeout_s=0.5) as proxy,
    ):
        answer = proxy.ask("GET", target)

        assert (200, True) == (answer.status, len(answer.body) < 1000)


@pytest.mark.live
@pytest.mark.parametrize("query", ["attributes", "attributes=", "foo", "torrent"])
def test_strangers_make_no_gateway_look_ill(rgw: RgwCluster, run_cli: CliRunner, bucket_name: str, query: str) -> None:
    """RGW 16 answers them with a broken head, with an error, or with the object itself."""
    keys = Credentials(rgw.access_key, rgw.secret_key)
    body = os.urandom(9 << 20)
    run_cli("mb", f"s3/{bucket_name}", env=rgw.environment)
    run_cli("pipe", f"s3/{bucket_name}/k", env=rgw.environment, stdin=body)
    with RunningProxy(rgw.endpoints, credentials=keys, anonymous="pass", read_timeout_s=20.0) as proxy:
        for _ in range(MANY):
            proxy.talk(plain("GET", f"/{bucket_name}/k?{query}", b"Connection: close"))
            proxy.talk(plain("GET", f"/{bucket_name}/%ff%00?{query}", b"Connection: close"))
        answer = proxy.ask("GET", f"/{bucket_name}/k?{query}", key=keys)

        assert {"closed"} == states(proxy)
        assert (0, True) == (proxy.stats()["replay_memory"]["used"], answer.body == body or answer.status >= 400)
