"""Other ways in than a port of one's own: a UNIX socket, and balancers that speak the PROXY protocol."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from pathlib import Path

import pytest

from s3pool.errors import ConfigError
from s3pool.proxy.settings import read_settings
from tests.proxy.test_running import end
from tests.support.fake_s3 import FakeS3
from tests.support.proxying import Answer, RunningProxy, last, parse_answer, read_to_end, signed_request
from tests.support.run_cli import CliRunner

CLIENT = "203.0.113.7"
V1 = b"PROXY TCP4 203.0.113.7 127.0.0.1 51000 8000\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n"
TLS_FILE = str(Path(__file__).parents[1] / "support" / "tls" / "server.pem")


def block(command: int, family: int, addresses: bytes, extra: bytes = b"") -> bytes:
    """Return a header of version 2."""
    return V2 + struct.pack("!BBH", command, family, len(addresses + extra)) + addresses + extra


V2_IPV4 = block(0x21, 0x11, socket.inet_aton(CLIENT) + socket.inet_aton("127.0.0.1") + struct.pack("!HH", 1, 2))
V2_IPV6 = block(
    0x21,
    0x21,
    socket.inet_pton(socket.AF_INET6, "2001:db8::7") * 2 + struct.pack("!HH", 1, 2),
    b"\x04\x00\x01x",  # what else a balancer may tell
)
V2_MAPPED = block(0x21, 0x21, socket.inet_pton(socket.AF_INET6, f"::ffff:{CLIENT}") * 2 + bytes(4))
V2_LOCAL = block(0x20, 0x00, b"")


def ask(proxy: RunningProxy, header: bytes, *, step: int = 0) -> Answer:
    """Read an object behind a header, sent at once or in pieces."""
    request = header + proxy.signed("GET", "/b/there", close=True)
    pieces = [request[at : at + step] for at in range(0, len(request), step)] if step else [request]
    return parse_answer(proxy.talk(*pieces))


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize(
    ("header", "client"),
    [
        (V1, CLIENT),
        (V1.replace(b"TCP4 203.0.113.7 127.0.0.1", b"TCP6 2001:db8::7 ::1"), "2001:db8::7"),
        (V1.replace(b"TCP4 203.0.113.7 127.0.0.1", b"TCP6 ::ffff:203.0.113.7 ::1"), CLIENT),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (V2_IPV4, CLIENT),
        (V2_IPV6, "2001:db8::7"),
        (V2_MAPPED, CLIENT),
        (V2_LOCAL, "127.0.0.1"),
    ],
)
def test_balancer_tells_whose_connection_it_is(fake: FakeS3, header: bytes, client: str, step: int) -> None:
    """Nodes see the client, and so does the log."""
    with RunningProxy(fake.endpoints, proxy_protocol="127.0.0.0/8") as proxy:
        answer = ask(proxy, header, step=step)

        assert (200, client) == (answer.status, last(fake).headers["x-forwarded-for"])


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"PROXY TCP4 203.0.113.7\r\n",
        b"PROXY TCP4 999.0.113.7 127.0.0.1 1 2\r\n",
        b"PROXY TCP4 " + b"1" * 200 + b"\r\n",
        block(0x31, 0x11, bytes(12)),
        block(0x21, 0x11, bytes(4)),
        V2 + struct.pack("!BBH", 0x21, 0x11, 60_000),
    ],
)
def test_listed_balancer_must_tell(fake: FakeS3, header: bytes) -> None:
    """A request that anybody could have sent around the balancer is not served."""
    with RunningProxy(fake.endpoints, proxy_protocol="127.0.0.0/8", header_timeout=1.0) as proxy:
        assert 0 == ask(proxy, header).status
        assert "GetObject" not in fake.ops()


def test_nobody_else_can_claim_an_address(fake: FakeS3) -> None:
    """To an unlisted peer the header is no HTTP."""
    with RunningProxy(fake.endpoints, proxy_protocol="192.0.2.0/24") as proxy:
        assert 400 == ask(proxy, V1).status
        assert 200 == ask(proxy, b"").status


def test_header_comes_before_tls(fake: FakeS3) -> None:
    """As HAProxy sends it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    settings = {"tls_cert": TLS_FILE, "tls_key": TLS_FILE, "proxy_protocol": "127.0.0.0/8"}
    with RunningProxy(fake.endpoints, **settings) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), 10.0) as plain:
            plain.sendall(V2_IPV4)
            with context.wrap_socket(plain) as sock:
                sock.sendall(proxy.signed("GET", "/b/there", close=True))
                answer = parse_answer(read_to_end(sock))

        assert (200, CLIENT) == (answer.status, last(fake).headers["x-forwarded-for"])


def test_bound_per_client_is_on_the_client(fake: FakeS3) -> None:
    """All clients of a balancer come from its address; only one that has too many connections is refused."""
    with RunningProxy(fake.endpoints, proxy_protocol="127.0.0.0/8", max_per_client=1) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), 10.0) as kept:
            kept.sendall(V1 + proxy.signed("GET", "/b/there"))
            assert kept.recv(1 << 16).startswith(b"HTTP/1.1 200")
            others = [ask(proxy, V1).status, ask(proxy, V2_IPV6).status]

        assert [503, 200] == others


def test_client_has_one_address_on_a_socket_of_both_kinds(fake: FakeS3) -> None:
    """A rule of a node for 127.0.0.0/8, and a bound per client, do not know ::ffff:127.0.0.1."""
    with RunningProxy(fake.endpoints, listen="[::]:0") as proxy:
        assert (200, "127.0.0.1") == (ask(proxy, b"").status, last(fake).headers["x-forwarded-for"])


# -- UNIX sockets ------------------------------------------------------------------------------


def talk(path: str) -> Answer:
    """Read an object through a UNIX socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20.0)
        sock.connect(path)
        sock.sendall(signed_request("GET", "/b/there", host="s3.local", close=True))
        return parse_answer(read_to_end(sock))


def test_unix_socket_serves_clients(fake: FakeS3, tmp_path: Path) -> None:
    """One of its own machine, for a server in front; the name goes when the proxy does, and a dead one is replaced."""
    path = str(tmp_path / "s3.sock")
    for _ in range(2):
        with RunningProxy(fake.endpoints, listen=f"unix:{path}") as proxy:
            answer = talk(path)

            assert (200, "127.0.0.1") == (answer.status, last(fake).headers["x-forwarded-for"])
            assert f"unix:{path}" == proxy.url
        assert not Path(path).exists()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)  # and nobody listens


def test_socket_of_another_program_stays(fake: FakeS3, tmp_path: Path) -> None:
    """Whoever listens there keeps its clients."""
    path = str(tmp_path / "s3.sock")
    with RunningProxy(fake.endpoints, listen=f"unix:{path}"):
        with pytest.raises(ConfigError, match="cannot listen on unix:"):
            RunningProxy(fake.endpoints, listen=f"unix:{path}")

        assert 200 == talk(path).status


def test_file_is_no_socket_to_replace(fake: FakeS3, tmp_path: Path) -> None:
    """A slip of the hand in a path costs nobody's data."""
    path = tmp_path / "results.csv"
    path.write_text("precious")
    for name in (path, tmp_path / "link"):
        if name != path:
            name.symlink_to(path)
        with pytest.raises(ConfigError, match=r"cannot listen on unix:.*in use"):
            RunningProxy(fake.endpoints, listen=f"unix:{name}")

    assert "precious" == path.read_text()
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"listen": "unix:relative"}, "unix:/path"),
        ({"listen": "unix:/" + "a" * 120}, "107 bytes"),
        ({"listen": "unix:/tmp/a", "processes": 2}, "needs one process"),
        ({"admin_listen": "unix:/tmp/a"}, "must be host:port or off"),
    ],
)
def test_unfit_socket_is_refused(settings: dict[str, object], said: str) -> None:
    """Before anything starts."""
    with pytest.raises(ConfigError, match=said):
        read_settings({}, settings, directory="/")


def test_command_says_where_it_listens(fake: FakeS3, run_cli: CliRunner, tmp_path: Path) -> None:
    """For whoever configures the server in front."""
    path = str(tmp_path / "s3.sock")
    child = run_cli.start("proxy", "--listen", f"unix:{path}", "--admin-listen", "off", "--json", env=fake.environment)
    try:
        assert child.stderr is not None
        note = json.loads(child.stderr.readline())

        assert ("listening", f"unix:{path}", 200) == (note["message"], note["url"], talk(path).status)
    finally:
        end(child)
    assert not Path(path).exists()
