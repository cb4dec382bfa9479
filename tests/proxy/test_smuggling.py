"""Requests that two parsers could read in two ways: refused, and nothing reaches a node."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.proxy.test_loop import HELLO, await_ways, ways
from tests.support.fake_s3 import FakeS3
from tests.support.proxying import RunningProxy, arrived, parse_answer
from tests.support.scripted import ScriptedServer

PUT = b"PUT /b/k HTTP/1.1\r\nHost: x\r\n"
CORPUS = {
    "two lengths": PUT + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "same length twice": PUT + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "list of lengths": PUT + b"Content-Length: 1, 1\r\n\r\na",
    "signed length": PUT + b"Content-Length: +1\r\n\r\na",
    "negative length": PUT + b"Content-Length: -1\r\n\r\n",
    "hexadecimal length": PUT + b"Content-Length: 0x1\r\n\r\na",
    "huge length": PUT + b"Content-Length: 99999999999999999999\r\n\r\n",
    "underscore in length": PUT + b"Content-Length: 1_0\r\n\r\n",
    "empty length": PUT + b"Content-Length: \r\n\r\n",
    "length and chunked": PUT + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": PUT + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunked, chunked": PUT + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "gzip, chunked": PUT + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": PUT + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding with a tab": PUT + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"PUT /b/k HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "blank before colon": PUT + b"Content-Length : 5\r\n\r\nhello",
    "line without colon": b"GET /b/k HTTP/1.1\r\nHost: x\r\nnonsense\r\nContent-Length: 5\r\n\r\nhello",
    "folded line": b"GET /b/k HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n two\r\n\r\n",
    "fold first": b"GET /b/k HTTP/1.1\r\n Host: x\r\nHost: x\r\n\r\n",
    "bare CR in value": b"GET /b/k HTTP/1.1\r\nHost: x\r\nX-A: 1\rContent-Length: 5\r\n\r\n",
    "bare LF ends a line": b"GET /b/k HTTP/1.1\r\nHost: x\nX-A: 1\r\n\r\n",
    "only LF": b"GET /b/k HTTP/1.1\nHost: x\n\n",
    "NUL in value": b"GET /b/k HTTP/1.1\r\nHost: x\r\nX-A: a\0b\r\n\r\n",
    "control in value": b"GET /b/k HTTP/1.1\r\nHost: x\r\nX-A: a\x01b\r\n\r\n",
    "empty name": b"GET /b/k HTTP/1.1\r\nHost: x\r\n: v\r\n\r\n",
    "name with a slash": b"GET /b/k HTTP/1.1\r\nHost: x\r\nX/A: v\r\n\r\n",
    "no Host": b"GET /b/k HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /b/k HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
    "Host with a path": b"GET /b/k HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "Host with a user": b"GET /b/k HTTP/1.1\r\nHost: u@x\r\n\r\n",
    "empty Host": b"GET /b/k HTTP/1.1\r\nHost: \r\n\r\n",
    "two blanks in the line": b"GET  /b/k HTTP/1.1\r\nHost: x\r\n\r\n",
    "tab in the line": b"GET\t/b/k HTTP/1.1\r\nHost: x\r\n\r\n",
    "no version": b"GET /b/k\r\nHost: x\r\n\r\n",
    "version 1.10": b"GET /b/k HTTP/1.10\r\nHost: x\r\n\r\n",
    "version 2.0": b"GET /b/k HTTP/2.0\r\nHost: x\r\n\r\n",
    "version 0.9": b"GET /b/k HTTP/0.9\r\nHost: x\r\n\r\n",
    "lower-case version": b"GET /b/k http/1.1\r\nHost: x\r\n\r\n",
    "blank behind the line": b"GET /b/k HTTP/1.1 \r\nHost: x\r\n\r\n",
    "fragment": b"GET /b/k#x HTTP/1.1\r\nHost: x\r\n\r\n",
    "raw byte in path": b"GET /b/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "half an escape": b"GET /b/%4 HTTP/1.1\r\nHost: x\r\n\r\n",
    "no slash": b"GET b/k HTTP/1.1\r\nHost: x\r\n\r\n",
    "asterisk form": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "authority form": b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n",
    "other authority": b"GET http://y/b/k HTTP/1.1\r\nHost: x\r\n\r\n",
    "authority with a user": b"GET http://u@x/b/k HTTP/1.0\r\n\r\n",
    "authority with markup": b"GET http://<x>/b/k HTTP/1.0\r\n\r\n",
    "TRACE": b"TRACE /b/k HTTP/1.1\r\nHost: x\r\n\r\n",
    "unknown method": b"BREW /b/k HTTP/1.1\r\nHost: x\r\n\r\n",
    "connection hides a signature": b"GET /b/k HTTP/1.1\r\nHost: x\r\nConnection: x-amz-date\r\n\r\n",
    "connection hides Host": b"GET /b/k HTTP/1.1\r\nHost: x\r\nConnection: close, host\r\n\r\n",
    "long head": b"GET /b/k HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 60000 + b"\r\n\r\n",
    "many fields": b"GET /b/k HTTP/1.1\r\nHost: x\r\n" + b"X-A: a\r\n" * 201 + b"\r\n",
    "long target": b"GET /b/" + b"k" * 17000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}
HIDDEN = b"GET /b/there HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module", params=["verify", "open", "passthrough"])
def proxied(request: pytest.FixtureRequest) -> object:
    """Give a fake and a proxy before it, in each of the modes."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, auth=request.param) as proxy:
        fake.store.add("b", "there", b"secret")
        yield fake, proxy


@pytest.mark.parametrize("name", CORPUS)
def test_ambiguous_request_ends_the_connection(proxied: tuple[FakeS3, RunningProxy], name: str) -> None:
    """What follows it must not be taken for a request, and no node sees either."""
    fake, proxy = proxied
    fake.forget()

    received = proxy.talk(CORPUS[name] + HIDDEN)

    answer = parse_answer(received)
    assert answer.status in (400, 405, 408, 414, 417, 431, 501, 505)
    assert "close" == answer.headers["connection"]
    assert b"" == answer.rest
    assert [] == arrived(fake)


BROKEN_CHUNKS = {
    "size with a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "blank before size": b" 5\r\nhello\r\n0\r\n\r\n",
    "LF after size": b"5\nhello\r\n0\r\n\r\n",
    "too little data": b"6\r\nhello\r\n0\r\n\r\n",
    "too much data": b"4\r\nhello\r\n0\r\n\r\n",
    "size of 17 digits": b"00000000000000005\r\nhello\r\n0\r\n\r\n",
    "long extension": b"5;" + b"x" * 300 + b"\r\nhello\r\n0\r\n\r\n",
    "no last chunk": b"5\r\nhello\r\n",
    "no end of trailer": b"5\r\nhello\r\n0\r\n",
}


@pytest.mark.parametrize("name", BROKEN_CHUNKS)
def test_broken_chunks_are_no_body(proxied: tuple[FakeS3, RunningProxy], name: str) -> None:
    """A body whose end is not sure is not stored."""
    fake, proxy = proxied
    fake.forget()
    request = proxy.signed("PUT", "/b/new", payload="UNSIGNED-PAYLOAD")
    request = request.replace(b"content-length: 0\r\n", b"Transfer-Encoding: chunked\r\n")

    received = proxy.talk(request + BROKEN_CHUNKS[name])

    assert received == b"" or 400 == parse_answer(received).status
    assert [] == arrived(fake)


@pytest.mark.parametrize("form", [b"GET http://%b/b/there HTTP/1.1", b"GET HTTP://%b/b/there HTTP/1.1"])
def test_absolute_form_is_the_same_request(fake: FakeS3, proxy: RunningProxy, form: bytes) -> None:
    """A server must take it (RFC 9112, 3.2.2)."""
    request = proxy.signed("GET", "/b/there", close=True)

    answer = parse_answer(proxy.talk(re.sub(rb"^[^\r]*", form % proxy.host.encode(), request)))

    assert 200 == answer.status


def test_connection_survives_a_refusal(fake: FakeS3, proxy: RunningProxy) -> None:
    """A small body that nobody wanted is read, so that the next request is found behind it."""
    refused = proxy.signed("PUT", "/b/k", body=b"x" * 1000, now=1.0)

    answer = parse_answer(proxy.talk(refused + proxy.signed("GET", "/b/there", close=True)))

    assert (403, 200) == (answer.status, parse_answer(answer.rest).status)


def test_large_refused_body_ends_the_connection(fake: FakeS3, proxy: RunningProxy) -> None:
    """Reading a gigabyte from a stranger only to keep a connection is no bargain."""
    refused = proxy.signed("PUT", "/b/k", payload="UNSIGNED-PAYLOAD", now=1.0)
    refused = refused.replace(b"content-length: 0\r\n", b"content-length: 1000000000\r\n")

    answer = parse_answer(proxy.talk(refused + b"x" * 1000))

    assert (403, "close", b"") == (answer.status, answer.headers["connection"], answer.rest)


def test_one_empty_line_before_a_request_is_forgiven(proxy: RunningProxy) -> None:
    """Old clients send one behind a body (RFC 9112, 2.2)."""
    assert 200 == parse_answer(proxy.talk(b"\r\n" + proxy.signed("GET", "/b/there"))).status


EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


@contextmanager
def talkative() -> Iterator[tuple[RunningProxy, list[socket.socket]]]:
    """Give a proxy before a node that answers well, and the node's side of its connections."""
    socks: list[socket.socket] = []

    def answer(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        socks.append(sock)
        sock.sendall(HELLO)

    with ScriptedServer([answer]) as node, RunningProxy([str(node.endpoint)], probe="tcp") as proxy:
        yield proxy, socks


def unasked(proxy: RunningProxy) -> int:
    """Give the number of connections that were closed for such bytes."""
    return int(proxy.stats()["endpoints"][0]["connections"]["unasked"])


def test_short_way_takes_no_bytes_that_nobody_asked_for() -> None:
    """The loop sends over connections that were in use a moment ago."""
    with talkative() as (proxy, socks):
        proxy.ask("GET", "/b/first")
        assert b"hello" == proxy.ask("GET", "/b/key").body
        await_ways(proxy, loop=1)
        socks[-1].sendall(EVIL)

        assert b"hello" == proxy.ask("GET", "/b/key").body
        assert 1 == unasked(proxy)
        assert ways(proxy).get("unconnected") == 2  # the first of all, and this one


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [("GET", "/b?list-type=2", b""), ("PUT", "/b/key", b"x" * 100), ("DELETE", "/b/key", b"")],
)
def test_threads_take_no_bytes_that_nobody_asked_for(method: str, target: str, body: bytes) -> None:
    """What may be sent again was spared the look, because a dead connection would show."""
    with talkative() as (proxy, socks):
        proxy.ask(method, target, body=body)
        socks[-1].sendall(EVIL)

        assert b"hello" == proxy.ask(method, target, body=body).body
        assert 1 == unasked(proxy)


@pytest.mark.parametrize("extra", [EVIL, b"x", b"\r\n"])
def test_surplus_behind_an_answer_is_counted(extra: bytes) -> None:
    """It came together with the answer, so nobody has to look for it."""
    with ScriptedServer([HELLO + extra, HELLO]) as node, RunningProxy([str(node.endpoint)], probe="tcp") as proxy:
        answers = [proxy.ask("GET", "/b/key").body for _ in range(3)]

        assert [b"hello"] * 3 == answers
        assert 1 == unasked(proxy)
