"""One endpoint's connections: kept, bounded, verified, and their errors in words."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3pool.body import EMPTY_BODY, FileSlice
from s3pool.errors import ConfigError, ConnectError, TLSError
from s3pool.model import Endpoint
from s3pool.pool.connections import MAX_LEAST_OPEN, ConnectionPool, ConnectionSettings, make_tls_context
from tests.support.clock import Clock
from tests.support.scripted import ScriptedServer, read_request, refused_endpoint

TLS_DIR = Path(__file__).parents[2] / "support" / "tls"
HEAD = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(name="server")
def _server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture(name="tls_server")
def _tls_server() -> Iterator[Endpoint]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS_DIR / "server.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                try:
                    tls = context.wrap_socket(sock, server_side=True)
                except (ssl.SSLError, OSError):
                    continue
                with tls:
                    while (request := read_request(tls)) is not None:
                        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request[1]), request[1]))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield Endpoint("https", "127.0.0.1", listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def test_returned_connection_is_used_again_where_none_must_be_fresh(server: ScriptedServer) -> None:
    """Keep-alive is what makes small requests cheap, and at times what makes them wait."""
    pool = ConnectionPool(server.endpoint, ConnectionSettings())
    kept = pool.checkout()
    pool.checkin(kept, reusable=True)

    fresh = pool.checkout(fresh=True)

    assert fresh is not kept
    assert kept is pool.checkout()
    for connection in (kept, fresh):
        pool.checkin(connection, reusable=False)


def test_wide_lanes_are_opened_first_and_then_rest_in_turn(server: ScriptedServer) -> None:
    """A server that makes each connection wait has several, and each rests as long as it can."""
    pool = ConnectionPool(server.endpoint, ConnectionSettings())
    pool.use_more_connections()

    open_ones = []
    for _ in range(2 * MAX_LEAST_OPEN):
        open_ones.append(pool.checkout())
        pool.checkin(open_ones[-1], reusable=True)

    assert MAX_LEAST_OPEN == len(set(open_ones))
    assert open_ones[:MAX_LEAST_OPEN] == open_ones[MAX_LEAST_OPEN:]
    pool.close()


def test_dropped_connections_are_made_anew_and_kept(server: ScriptedServer) -> None:
    """A measurement must not begin where the one before it ended."""
    pool = ConnectionPool(server.endpoint, ConnectionSettings())
    first = pool.checkout()
    pool.checkin(first, reusable=True)

    pool.drop_idle()
    second = pool.checkout()
    pool.checkin(second, reusable=True)

    assert -1 == first.fileno()
    assert second is not first
    assert second is pool.checkout()
    pool.checkin(second, reusable=False)


def test_a_dead_idle_connection_is_not_handed_out(server: ScriptedServer) -> None:
    """The server closed it meanwhile; a request on it would only come back as an error."""
    pool = ConnectionPool(server.endpoint, ConnectionSettings())
    first = pool.checkout()
    pool.checkin(first, reusable=True)

    server.stop()
    deadline_wire = first
    while not deadline_wire.is_readable():
        continue

    with pytest.raises(ConnectError):
        pool.checkout()


def test_connections_are_counted_by_how_they_came(server: ScriptedServer) -> None:
    """Many new ones tell of a server that does not keep them, many stale ones of one that drops them early."""
    clock = Clock()
    pool = ConnectionPool(server.endpoint, ConnectionSettings(max_idle_s=15.0), now=clock)
    for seconds in (0.0, 1.0, 15.1):
        clock.time += seconds
        pool.checkin(pool.checkout(), reusable=True)

    assert {"new": 2, "reused": 1, "stale": 1, "unasked": 0} == pool.counts.snapshot()
    pool.close()


def test_a_caller_may_demand_a_younger_connection(server: ScriptedServer) -> None:
    """What must not be sent twice goes over a connection that was just in use."""
    clock = Clock()
    pool = ConnectionPool(server.endpoint, ConnectionSettings(), now=clock)
    first = pool.checkout()
    pool.checkin(first, reusable=True)

    clock.time += 2.0
    second = pool.checkout(max_idle_s=1.0)
    third = pool.checkout()

    assert first is not second
    assert first is third  # too old for one caller is not too old for the next
    for connection in (second, third):
        pool.checkin(connection, reusable=False)


def test_connections_that_nobody_wants_are_closed_in_the_end(server: ScriptedServer) -> None:
    """The newest is always taken first: the oldest would wait for ever, and hold a descriptor."""
    clock = Clock()
    pool = ConnectionPool(server.endpoint, ConnectionSettings(max_idle_s=15.0), now=clock)
    open_ones = [pool.checkout() for _ in range(3)]
    for connection in open_ones[:2]:
        pool.checkin(connection, reusable=True)

    clock.time += 15.1
    pool.checkin(open_ones[2], reusable=True)

    assert [-1, -1] == [connection.fileno() for connection in open_ones[:2]]
    assert open_ones[2] is pool.checkout()
    open_ones[2].close()


def test_connections_per_endpoint_are_bounded(server: ScriptedServer) -> None:
    """A file limit or a small server must not be overrun; waiting has an end."""
    pool = ConnectionPool(server.endpoint, ConnectionSettings(max_connections=1, read_timeout_s=0.05))
    held = pool.checkout()

    with pytest.raises(ConnectError, match="all connections stayed busy"):
        pool.checkout()

    pool.checkin(held, reusable=False)


def test_a_failed_connect_gives_its_slot_back() -> None:
    """Otherwise a node that comes back could never be reached again."""
    pool = ConnectionPool(refused_endpoint(), ConnectionSettings(max_connections=1))

    for _ in range(3):
        with pytest.raises(ConnectError, match="connection refused"):
            pool.checkout()


def test_an_unknown_host_is_said_so() -> None:
    """A typing error in the endpoint is the commonest cause."""
    pool = ConnectionPool(Endpoint("http", "no-such-host.invalid", 80), ConnectionSettings())

    with pytest.raises(ConnectError, match=r"http://no-such-host\.invalid: the host name is unknown"):
        pool.checkout()


def test_a_full_backlog_is_a_connect_timeout() -> None:
    """A black-holed address costs the connect timeout, not the system's two minutes."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    pool = ConnectionPool(
        Endpoint("http", "127.0.0.1", listener.getsockname()[1]), ConnectionSettings(connect_timeout_s=0.1)
    )

    with pytest.raises(ConnectError, match=r"no connection within 0\.1 s"):
        pool.checkout()

    for sock in (*fillers, listener):
        sock.close()


def test_nodelay_and_keepalive_are_set(server: ScriptedServer) -> None:
    """Small requests must not wait for Nagle; dead peers must be noticed."""
    pool = ConnectionPool(server.endpoint, ConnectionSettings())

    connection = pool.checkout()

    options = [
        connection._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
        connection._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    ]
    assert all(options)
    pool.checkin(connection, reusable=False)


def test_ipv6_endpoints_work() -> None:
    """Clusters run on IPv6 too; the Host header needs brackets."""
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    endpoint = Endpoint.parse(f"http://[::1]:{listener.getsockname()[1]}")
    pool = ConnectionPool(endpoint, ConnectionSettings())

    connection = pool.checkout()

    assert endpoint.netloc.startswith("[::1]:")
    pool.checkin(connection, reusable=False)
    listener.close()


def test_tls_with_the_right_bundle_carries_requests(tls_server: Endpoint, tmp_path: Path) -> None:
    """Bodies, files too, go through TLS unchanged."""
    settings = ConnectionSettings(ca_bundle=str(TLS_DIR / "cert.pem"))
    pool = ConnectionPool(tls_server, settings)
    content = b"0123456789" * 300_000
    path = tmp_path / "f"
    path.write_bytes(content)

    connection = pool.checkout()
    connection.timeout_s = 5.0
    with path.open("rb") as file:
        body = FileSlice(file.fileno(), length=len(content))
        connection.send(b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(content), body)
    head = connection.read_head("PUT")
    received = bytearray()
    buffer = memoryview(bytearray(1 << 16))
    while len(received) < len(content):
        received += buffer[: connection.readinto(buffer)]

    assert connection.tls_version.startswith("TLSv1.")
    assert (head.status, len(content)) == (200, head.length)
    assert content == bytes(received)
    pool.checkin(connection, reusable=False)


def test_an_unknown_certificate_is_refused_with_advice(tls_server: Endpoint) -> None:
    """Verification is on unless the user switches it off."""
    pool = ConnectionPool(tls_server, ConnectionSettings())

    with pytest.raises(TLSError, match=r"the certificate is not trusted: .*; give --ca-bundle FILE, or --insecure"):
        pool.checkout()


def test_insecure_skips_the_check(tls_server: Endpoint) -> None:
    """Self-signed clusters are common behind closed doors."""
    pool = ConnectionPool(tls_server, ConnectionSettings(insecure=True))

    connection = pool.checkout()
    connection.timeout_s = 5.0
    connection.send(HEAD, EMPTY_BODY)

    assert connection.read_head("GET").status == 200
    pool.checkin(connection, reusable=False)


def test_https_to_a_plain_port_says_what_is_wrong(server: ScriptedServer) -> None:
    """The usual mistake: https where the node speaks http."""
    endpoint = Endpoint("https", "127.0.0.1", server.endpoint.port)
    pool = ConnectionPool(endpoint, ConnectionSettings(connect_timeout_s=0.5, insecure=True))

    with pytest.raises(ConnectError):
        pool.checkout()


def test_an_unreadable_bundle_is_a_configuration_error(tmp_path: Path) -> None:
    """One clear line that names the file."""
    with pytest.raises(ConfigError, match=r"cannot read the CA bundle .*missing\.pem: no such file or directory"):
        make_tls_context(ConnectionSettings(ca_bundle=str(tmp_path / "missing.pem")))


def test_a_bundle_that_is_no_certificate_is_a_configuration_error(tmp_path: Path) -> None:
    """A wrong file is as useless as a missing one."""
    path = tmp_path / "bad.pem"
    path.write_text("not a certificate")

    with pytest.raises(ConfigError, match="cannot read the CA bundle"):
        make_tls_context(ConnectionSettings(ca_bundle=str(path)))


def test_a_closed_pool_keeps_nothing(server: ScriptedServer) -> None:
    """At the end no descriptor stays open."""
    pool = ConnectionPool(server.endpoint, ConnectionSettings())
    idle, used = pool.checkout(), pool.checkout()
    pool.checkin(idle, reusable=True)

    pool.close()
    pool.checkin(used, reusable=True)

    assert (idle.fileno(), used.fileno()) == (-1, -1)
