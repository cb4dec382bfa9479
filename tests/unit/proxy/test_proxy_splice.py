"""A body moved by the kernel is the body that was sent, and breaks as loudly."""

from __future__ import annotations

import contextlib
import os
import socket
import threading

import pytest

from s3pool.errors import ProtocolError, TransportError
from s3pool.model import Endpoint, Response
from s3pool.pool.http1 import NodeConnection, ResponseBody
from s3pool.proxy.relay import CAN_SPLICE, Pipe

CONTENT = os.urandom(3 << 20)
pytestmark = pytest.mark.skipif(not CAN_SPLICE, reason="this system has no splice")


def answer_of(head: bytes, body: bytes) -> tuple[Response, list[bool], list[TransportError]]:
    """Give a response whose server sends these bytes and ends; what became of it is noted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()

    def serve() -> None:
        with theirs, contextlib.suppress(OSError):
            theirs.sendall(head + body)

    threading.Thread(target=serve, daemon=True).start()
    connection = NodeConnection(ours, endpoint="http://node")
    parsed = connection.read_head("GET")
    ends: list[bool] = []
    failures: list[TransportError] = []

    def finish(reusable: bool) -> None:
        ends.append(reusable)
        connection.close()

    stream = ResponseBody(connection, parsed, finish=finish, failed=failures.append)
    endpoint = Endpoint("http", "node", 80)
    return Response(parsed.status, parsed.headers, stream, endpoint=endpoint, length=parsed.length), ends, failures


def move_all(response: Response) -> bytes:
    """Read what is buffered, move the rest, and give what arrived."""
    left, right = socket.socketpair()
    received: list[bytes] = []

    def receive() -> None:
        while piece := right.recv(1 << 16):
            received.append(piece)

    reader = threading.Thread(target=receive, daemon=True)
    reader.start()
    buffer = memoryview(bytearray(1 << 16))
    try:
        with left, Pipe() as pipe:
            while count := response.readinto(buffer):
                left.sendall(buffer[:count])
                while pipe.move(response, left.fileno()):
                    continue
    finally:
        reader.join(10)
        right.close()
    return b"".join(received)


def test_body_arrives_whole_and_ends_the_exchange() -> None:
    """And the connection can carry the next one."""
    response, ends, failures = answer_of(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT), CONTENT)

    assert CONTENT == move_all(response)
    assert ([True], []) == (ends, failures)


def test_early_end_is_an_error() -> None:
    """A short body is never taken for a whole one; the connection is dropped."""
    response, ends, failures = answer_of(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(CONTENT) + 5), CONTENT)

    with pytest.raises(ProtocolError, match="5 bytes early"):
        move_all(response)

    assert ([False], 1) == (ends, len(failures))


def test_chunked_body_is_left_to_be_read() -> None:
    """Its framing is between the bytes."""
    response, _, _ = answer_of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n")
    left, right = socket.socketpair()

    with response, left, right, Pipe() as pipe:
        assert 0 == pipe.move(response, left.fileno())
