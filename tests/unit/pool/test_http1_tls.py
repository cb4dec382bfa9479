"""Bodies under TLS: a receive gives one record, and a call what has arrived of them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import cast

import pytest

from s3pool.body import Throttle
from s3pool.errors import ProtocolError, RequestTimeoutError
from s3pool.pool.http1 import NodeConnection

RECORD = 16 * 1024
NOTHING_THERE = ssl.SSLWantReadError(2, "The operation did not complete (read)")


class RecordSocket:
    """A TLS socket that gives records of 16 KiB, or fails, as scripted."""

    def __init__(self, script: list[int | OSError], descriptor: int) -> None:
        self.script = script
        self.timeouts: list[float | None] = []
        self._descriptor = descriptor

    def recv_into(self, view: memoryview) -> int:
        """Give the next record's length, as much of it as there is room for, or its error."""
        step = self.script.pop(0)
        if isinstance(step, OSError):
            raise step
        view[:step] = b"r" * min(step, len(view))
        return step

    def settimeout(self, seconds: float | None) -> None:
        """Note how long a receive may take."""
        self.timeouts.append(seconds)

    def fileno(self) -> int:
        """Give a descriptor to poll."""
        return self._descriptor


@pytest.fixture(name="ends")
def _ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def _wire(script: list[int | OSError], descriptor: int = -1, *, throttle: Throttle | None = None) -> NodeConnection:
    sock = cast("socket.socket", RecordSocket(script, descriptor))
    connection = NodeConnection(sock, endpoint="https://node", tls_version="TLSv1.3", throttle=throttle)
    connection.timeout_s = 0.01
    return connection


def _view(records: int) -> memoryview:
    return memoryview(bytearray(records * RECORD))


def test_all_records_that_have_arrived_come_at_once() -> None:
    """Whoever writes or hashes them does so once, and nobody waits for more."""
    connection = _wire([RECORD, RECORD, RECORD, NOTHING_THERE])

    count = connection.readinto(_view(8), more_must_come=True)

    assert 3 * RECORD == count == connection.bytes_received


def test_records_beyond_the_view_stay_for_later() -> None:
    """A full view is handed over before anything else is received."""
    script: list[int | OSError] = [RECORD, RECORD, RECORD]
    connection = _wire(script)

    assert 2 * RECORD == connection.readinto(_view(2), more_must_come=True)
    assert [RECORD] == script


def test_first_record_is_waited_for(ends: tuple[socket.socket, socket.socket]) -> None:
    """What makes the socket readable may be half a record."""
    ours, theirs = ends
    theirs.send(b"half")
    connection = _wire([NOTHING_THERE, RECORD, NOTHING_THERE], ours.fileno())

    assert RECORD == connection.readinto(_view(2), more_must_come=True)


def test_server_that_sends_no_record_is_silent(ends: tuple[socket.socket, socket.socket]) -> None:
    """The timeout is the one that was set for any receive."""
    connection = _wire([NOTHING_THERE, NOTHING_THERE], ends[0].fileno())

    with pytest.raises(RequestTimeoutError, match=r"https://node sent nothing for 0\.01 s"):
        connection.readinto(_view(2), more_must_come=True)


def test_break_is_told_after_what_came_before_it() -> None:
    """A download goes on from there: what has arrived must not be fetched again."""
    connection = _wire([RECORD, ConnectionResetError(104, "Connection reset by peer")])
    view = _view(4)

    assert RECORD == connection.readinto(view, more_must_come=True)
    with pytest.raises(ProtocolError, match="https://node broke the connection: connection reset by peer"):
        connection.readinto(view, more_must_come=True)


def test_break_before_the_first_record_is_told_at_once() -> None:
    """Nothing came that could be lost."""
    connection = _wire([ConnectionResetError(104, "Connection reset by peer")])

    with pytest.raises(ProtocolError, match="https://node broke the connection: connection reset by peer"):
        connection.readinto(_view(4), more_must_come=True)


def test_end_is_told_after_what_came_before_it() -> None:
    """An answer that is cut between two records is as long as what came of it."""
    connection = _wire([RECORD, 0, 0])
    view = _view(4)

    assert RECORD == connection.readinto(view, more_must_come=True)
    assert 0 == connection.readinto(view, more_must_come=True)


@pytest.mark.parametrize(("more_must_come", "throttle"), [(False, None), (True, Throttle(1 << 30))])
def test_one_record_comes_where_each_counts(more_must_come: bool, throttle: Throttle | None) -> None:
    """Where only the end of the connection ends a body, or bytes are counted out, none is taken in advance."""
    connection = _wire([RECORD, RECORD], throttle=throttle)

    assert RECORD == connection.readinto(_view(4), more_must_come=more_must_come)


def test_next_answer_is_waited_for_again() -> None:
    """Receiving without a wait must not outlive the body."""
    connection = _wire([RECORD, NOTHING_THERE, 0])
    sock = cast("RecordSocket", connection._sock)
    connection.readinto(_view(4), more_must_come=True)

    with pytest.raises(ProtocolError):
        connection.read_head("GET")

    assert [0.0, 0.01] == sock.timeouts
