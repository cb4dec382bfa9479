"""One connection's HTTP: strict heads, exact bodies, honest errors."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pool.body import BytesBody, FileSlice, Throttle
from s3pool.errors import IntegrityError, ProtocolError, RequestTimeoutError, TransportError
from s3pool.pool.http1 import BUFFER_BYTES, MAX_BUFFER_BYTES, NodeConnection, ResponseBody, parse_head
from s3pool.pool.tcp import EarlyResponse, StaleConnectionError


@pytest.fixture(name="pair")
def _pair() -> Iterator[tuple[NodeConnection, socket.socket]]:
    listener = socket.create_server(("127.0.0.1", 0))
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    listener.close()
    connection = NodeConnection(ours, endpoint="http://node")
    connection.timeout_s = 5.0
    yield connection, theirs
    connection.close()
    theirs.close()


def _drain(body: ResponseBody, buffer: memoryview) -> None:
    while body.readinto(buffer):
        continue


def _read_body(connection: NodeConnection, method: str = "GET") -> tuple[int, bytes, list[bool], list[TransportError]]:
    head = connection.read_head(method)
    finished: list[bool] = []
    failures: list[TransportError] = []
    body = ResponseBody(connection, head, finish=finished.append, failed=failures.append)
    received = bytearray()
    buffer = memoryview(bytearray(7))
    while count := body.readinto(buffer):
        received += buffer[:count]
    return head.status, bytes(received), finished, failures


def test_leave_to_send_a_body_is_taken_or_not_waited_for(pair: tuple[NodeConnection, socket.socket]) -> None:
    """A server that expects nothing says nothing, and costs a moment only."""
    connection, server = pair

    connection.await_leave(0.01)
    server.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    connection.await_leave(5.0)
    server.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    assert 204 == connection.read_head("PUT").status


def test_answer_in_place_of_leave_waits_to_be_read(pair: tuple[NodeConnection, socket.socket]) -> None:
    """A refusal before the body is the answer."""
    connection, server = pair
    server.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with pytest.raises(EarlyResponse):
        connection.await_leave(5.0)

    assert 403 == connection.read_head("PUT").status


@pytest.mark.parametrize(
    ("answer", "method", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world", "GET", (200, b"hello world", [True])),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "GET", (200, b"", [True])),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "PUT", (204, b"", [True])),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", "GET", (304, b"", [True])),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 232\r\n\r\n", "HEAD", (404, b"", [True])),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HEAD", (200, b"", [False])),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nT: v\r\n\r\n",
            "GET",
            (200, b"hello world", [True]),
        ),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "GET", (200, b"ok", [False])),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", "GET", (200, b"ok", [True])),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "GET", (200, b"ok", [False])),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            "GET",
            (200, b"x", [False]),
        ),
    ],
)
def test_bodies_end_where_their_framing_says(
    pair: tuple[NodeConnection, socket.socket], answer: bytes, method: str, expected: tuple[int, bytes, list[bool]]
) -> None:
    """A byte too few is a lost byte, a byte too many belongs to the next answer."""
    connection, theirs = pair

    theirs.sendall(answer)
    status, body, finished, _ = _read_body(connection, method)

    assert expected == (status, body, finished)


def test_a_body_without_framing_ends_with_the_connection(pair: tuple[NodeConnection, socket.socket]) -> None:
    """HTTP/1.0 servers still do that; the connection cannot be used again."""
    connection, theirs = pair

    theirs.sendall(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    theirs.shutdown(socket.SHUT_WR)

    assert _read_body(connection) == (200, b"all of it", [False], [])


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
    ],
)
def test_a_body_that_ends_early_is_an_error(pair: tuple[NodeConnection, socket.socket], answer: bytes) -> None:
    """A truncated object must never look complete."""
    connection, theirs = pair
    theirs.sendall(answer)
    theirs.shutdown(socket.SHUT_WR)
    head = connection.read_head("GET")
    finished: list[bool] = []
    failures: list[TransportError] = []
    body = ResponseBody(connection, head, finish=finished.append, failed=failures.append)
    buffer = memoryview(bytearray(100))

    with pytest.raises(ProtocolError):
        _drain(body, buffer)

    assert finished == [False]
    assert len(failures) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("HTTP/2 200 OK", "does not speak HTTP"),
        ("ICY 200 OK", "does not speak HTTP"),
        ("HTTP/1.1 20 OK", "does not speak HTTP"),
        ("HTTP/1.1 200 OK\r\nBad Header: x", "malformed header"),
        ("HTTP/1.1 200 OK\r\nName : x", "malformed header"),
        ("HTTP/1.1 200 OK\r\n folded", "malformed header"),
        ("HTTP/1.1 200 OK\r\nX: a\0b", "malformed header"),
        ("HTTP/1.1 200 OK\r\nX: a\nY: b", "malformed header"),
        ("HTTP/1.1 200 OK\r\nContent-Length: +5", "bad Content-Length"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6", "bad Content-Length"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked", "unknown transfer coding"),
    ],
)
def test_malformed_heads_are_refused(text: str, message: str) -> None:
    """Guessing at framing is how answers get mixed up."""
    with pytest.raises(ProtocolError, match=message):
        parse_head(text, "GET", "http://node")


def test_repeated_headers_are_joined_and_kept_raw() -> None:
    """Callers see one value, the proxy sees what was received."""
    head = parse_head("HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 0\r\nContent-Length: 0", "GET", "n")

    assert head.headers["x-a"] == "1, 2"
    assert head.lines[:2] == ["X-A: 1", "x-a: 2"]
    assert head.length == 0


@given(st.binary(max_size=300))
def test_any_bytes_give_a_head_or_one_kind_of_error(junk: bytes) -> None:
    """A hostile server can cause an error line, never a traceback."""
    text = junk.decode("utf-8", "surrogateescape")

    try:
        head = parse_head(text, "GET", "http://node")
    except ProtocolError:
        return

    assert 100 <= head.status <= 999


def test_a_head_larger_than_the_buffer_is_refused(pair: tuple[NodeConnection, socket.socket]) -> None:
    """Memory per connection is bounded, whatever the server sends."""
    connection, theirs = pair
    sender = threading.Thread(target=lambda: theirs.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000))
    sender.start()

    with pytest.raises(ProtocolError, match="more than 64 KiB"):
        connection.read_head("GET")

    sender.join()


@pytest.mark.parametrize("size", [100, BUFFER_BYTES - 30, BUFFER_BYTES, 3 * BUFFER_BYTES, MAX_BUFFER_BYTES - 100])
def test_head_of_any_size_up_to_the_bound_is_read(pair: tuple[NodeConnection, socket.socket], size: int) -> None:
    """Most heads are small, and so is the buffer; a large one makes it larger, and loses nothing."""
    connection, theirs = pair
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: " + b"a" * size + b"\r\n\r\nhello"
    sender = threading.Thread(target=lambda: theirs.sendall(2 * answer))
    sender.start()

    heads = []
    for _ in range(2):
        head = connection.read_head("GET")
        body = bytearray(5)
        _fill(connection, memoryview(body))
        heads.append((head.headers["x"], bytes(body)))

    assert [("a" * size, b"hello")] * 2 == heads
    sender.join()


def _fill(connection: NodeConnection, view: memoryview) -> None:
    filled = 0
    while filled < len(view):
        filled += connection.readinto(view[filled:])


def test_silence_is_a_timeout_that_names_its_length(pair: tuple[NodeConnection, socket.socket]) -> None:
    """The read timeout is really applied, by the kernel."""
    connection, _ = pair
    connection.timeout_s = 0.05

    with pytest.raises(RequestTimeoutError, match=r"http://node sent nothing for 0\.05 s"):
        connection.read_head("GET")


def test_a_server_that_takes_no_bytes_is_a_timeout(pair: tuple[NodeConnection, socket.socket]) -> None:
    """A hung server must not hang an upload; nothing was acted on, so sent is False."""
    connection, _ = pair
    connection.timeout_s = 0.05

    with pytest.raises(RequestTimeoutError, match="took no bytes") as caught:
        connection.send(b"PUT / HTTP/1.1\r\n\r\n", BytesBody(b"x" * 50_000_000))

    assert caught.value.sent is False


@pytest.mark.parametrize("is_kept", [True, False])
def test_only_a_kept_connection_that_ends_without_a_byte_is_stale(
    pair: tuple[NodeConnection, socket.socket], is_kept: bool
) -> None:
    """That is the server's idle limit, not illness; a node that accepts and hangs up is ill."""
    connection, theirs = pair
    if is_kept:
        theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        connection.read_head("GET")
    theirs.close()

    with pytest.raises(ProtocolError) as caught:
        connection.read_head("GET")

    assert is_kept == isinstance(caught.value, StaleConnectionError)


def test_an_answer_before_the_body_is_noticed(pair: tuple[NodeConnection, socket.socket], tmp_path: Path) -> None:
    """A refusal must arrive as a refusal, not as a broken pipe after gigabytes."""
    connection, theirs = pair
    path = tmp_path / "f"
    path.write_bytes(b"x" * 8_000_000)
    theirs.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with path.open("rb") as file, pytest.raises(EarlyResponse):
        connection.send(b"PUT / HTTP/1.1\r\n\r\n", FileSlice(file.fileno(), length=8_000_000))

    assert connection.read_head("PUT").status == 403


def _receive_all(sock: socket.socket, into: bytearray) -> threading.Thread:
    def run() -> None:
        with suppress(ConnectionResetError):  # the body was not sent whole
            while piece := sock.recv(1 << 20):
                into.extend(piece)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("rate", [None, 500_000_000])
def test_a_file_slice_goes_out_byte_for_byte(
    pair: tuple[NodeConnection, socket.socket], tmp_path: Path, rate: int | None
) -> None:
    """sendfile, with and without a bandwidth limit, sends exactly the range."""
    connection, theirs = pair
    if rate:
        connection._throttle = Throttle(rate)
    content = os.urandom(3_000_000)
    path = tmp_path / "f"
    path.write_bytes(content)
    received = bytearray()
    thread = _receive_all(theirs, received)

    with path.open("rb") as file:
        connection.send(b"H", FileSlice(file.fileno(), offset=1000, length=2_500_000))
    connection.close()
    thread.join()

    assert b"H" + content[1000:2_501_000] == bytes(received)
    assert connection.bytes_sent == 2_500_001


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL])
def test_a_file_that_fails_inside_a_block_is_read_where_it_failed(
    pair: tuple[NodeConnection, socket.socket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A bad place in a file is the file's error, not the node's; without sendfile the rest goes out once."""
    connection, theirs = pair
    content = os.urandom(100_000)
    path = tmp_path / "f"
    path.write_bytes(content)
    received = bytearray()
    thread = _receive_all(theirs, received)
    send, read = os.sendfile, os.pread

    def send_half(out: int, fd: int, offset: int, count: int) -> int:
        if offset >= 50_000:
            raise OSError(number, os.strerror(number))
        return send(out, fd, offset, min(count, 50_000 - offset))

    def read_good(fd: int, count: int, offset: int) -> bytes:
        if number == errno.EIO and offset >= 50_000:
            raise OSError(number, os.strerror(number))
        return read(fd, count, offset)

    monkeypatch.setattr(os, "sendfile", send_half)
    monkeypatch.setattr(os, "pread", read_good)

    with path.open("rb") as file:
        if number == errno.EIO:
            with pytest.raises(OSError, match=os.strerror(number)):
                connection.send(b"H", FileSlice(file.fileno(), length=100_000))
        else:
            connection.send(b"H", FileSlice(file.fileno(), length=100_000))
    connection.close()
    thread.join()

    assert bytes(received) == b"H" + content[: 50_000 if number == errno.EIO else None]


def test_a_file_that_shrinks_stops_the_request(pair: tuple[NodeConnection, socket.socket], tmp_path: Path) -> None:
    """Content-Length promised more; the connection ends and the server stores nothing."""
    connection, theirs = pair
    path = tmp_path / "f"
    path.write_bytes(b"x" * 1000)
    received = bytearray()
    thread = _receive_all(theirs, received)

    with path.open("rb") as file, pytest.raises(IntegrityError, match="1000 bytes shorter"):
        connection.send(b"H", FileSlice(file.fileno(), length=2000))
    connection.close()
    thread.join()

    assert bytes(received) == b"H" + b"x" * 1000
