"""A body that comes byte by byte: how often its thread is woken."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from s3pool.proxy.errors import ClientGoneError
from s3pool.proxy.stream import ClientStream

BODY = memoryview(bytearray(100_000))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return a client's socket and the proxy's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        served, _ = listener.accept()
        with client, served:
            yield client, served


def wakes_at(sock: socket.socket) -> int:
    """Return how many bytes the kernel waits for."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


def test_body_that_drips_wakes_its_thread_for_many_bytes(pair: tuple[socket.socket, socket.socket]) -> None:
    """500 uploads of a byte a second each took every other client 30 ms a second."""
    client, served = pair
    stream = ClientStream(served, least_speed=400, speed_window=20)
    client.sendall(b"x")
    assert 1 == stream.readinto(BODY)

    dripping = threading.Thread(target=lambda: [client.sendall(b"x") for _ in range(2000)])
    dripping.start()
    assert 2000 == stream.readinto(BODY)  # what the least speed brings in a quarter of the time
    dripping.join()
    assert 1 == wakes_at(served)  # for the next head, however short


def test_rest_that_is_less_is_waited_for_alone(pair: tuple[socket.socket, socket.socket]) -> None:
    """Otherwise the last bytes of a body would come with the end of the patience."""
    client, served = pair
    stream = ClientStream(served, least_speed=1000, speed_window=60)
    client.sendall(b"x")
    stream.readinto(BODY[:4])
    client.sendall(b"yz!")

    assert 3 == stream.readinto(BODY[:3])


def test_body_in_pieces_of_some_size_is_taken_as_it_comes(pair: tuple[socket.socket, socket.socket]) -> None:
    """A client on a slow line is no attack."""
    client, served = pair
    stream = ClientStream(served, least_speed=1000, speed_window=60)
    for _ in range(3):
        client.sendall(b"x" * 600)
        assert 600 == stream.readinto(BODY)


def test_body_that_stops_is_noticed_all_the_same(pair: tuple[socket.socket, socket.socket]) -> None:
    """At the end of the patience, with what had come counted."""
    client, served = pair
    stream = ClientStream(served, least_speed=1000, speed_window=0.2)
    client.sendall(b"x")
    stream.readinto(BODY)

    with pytest.raises(ClientGoneError, match=r"stopped sending|too slowly"):
        stream.readinto(BODY)
