"""Pages of other sites can neither use a proxy that is open nor its admin listener."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from s3pool.errors import ConfigError
from tests.support.fake_s3 import FakeS3
from tests.support.proxying import Answer, RunningProxy, arrived, parse_answer, read_to_end, stored
from tests.support.upload_form import form_body, form_request

TOKEN = "a secret of many letters"
FOREIGN = [
    "Origin: https://evil.example",
    "Origin: null",
    "Origin: http://localhost:3000",
    "Sec-Fetch-Site: cross-site",
    "Sec-Fetch-Site: same-site",
    "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site",
    "Sec-Fetch-Site: new-word",
]
FOREIGN_HOSTS = ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "1.2.3"]
FOREIGN_HOSTS += ["evil.127.0.0.1"]  # below the address that the proxy listens on
OWN_HOSTS = ["127.0.0.1", "localhost:9", "LOCALHOST", "[::1]:80", "10.0.0.1:8000", "s3.example", "b.s3.example:80"]


@pytest.fixture
def opened() -> Iterator[tuple[FakeS3, RunningProxy]]:
    """Return a fake, and a proxy that checks nobody."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, auth="open", allowed_hosts=["s3.example"]) as proxy:
        fake.store.add("b", "there", b"secret")
        yield fake, proxy


def ask(proxy: RunningProxy, method: str, target: str, host: str, *fields: str) -> Answer:
    """Send an unsigned request."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields, "Content-Length: 0"]
    return parse_answer(proxy.talk(("\r\n".join(lines) + "\r\n\r\n").encode()), method)


def ask_admin(proxy: RunningProxy, method: str, target: str, *fields: str, host: str = "127.0.0.1") -> Answer:
    """Send a request to the admin listener."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields]
    return parse_answer(talk_admin(proxy, ("\r\n".join(lines) + "\r\n\r\n").encode()), method)


def connect_admin(proxy: RunningProxy) -> socket.socket:
    """Open a connection to the admin listener."""
    address = proxy.proxy.admin_address
    assert address is not None
    return socket.create_connection(("127.0.0.1", address.port), 20)


def talk_admin(proxy: RunningProxy, request: bytes) -> bytes:
    """Send bytes to the admin listener, and return all that comes back."""
    with connect_admin(proxy) as sock:
        sock.sendall(request)
        return read_to_end(sock)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("field", FOREIGN)
def test_open_proxy_refuses_pages_of_other_sites(opened: tuple[FakeS3, RunningProxy], method: str, field: str) -> None:
    """The page acts with the pool's key; its visitor knows nothing of it."""
    fake, proxy = opened

    answer = ask(proxy, method, "/b/there", proxy.host, field)

    assert (403, "AccessDenied", []) == (answer.status, answer.code, arrived(fake))


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_open_proxy_refuses_names_that_nobody_configured(opened: tuple[FakeS3, RunningProxy], host: str) -> None:
    """A name of the page's own that leads here makes the page and the proxy one site."""
    fake, proxy = opened

    answer = ask(proxy, "GET", "/b/there", host)

    assert (403, "AccessDenied", []) == (answer.status, answer.code, arrived(fake))
    assert b"--allowed-host" in answer.body


@pytest.mark.parametrize("host", OWN_HOSTS)
@pytest.mark.parametrize("field", ["X-Other: 1", "Sec-Fetch-Site: none", "Sec-Fetch-Site: same-origin"])
def test_open_proxy_serves_its_own_names(opened: tuple[FakeS3, RunningProxy], host: str, field: str) -> None:
    """Addresses, localhost and configured names, without a browser or from a page of the same site."""
    assert 200 == ask(opened[1], "GET", "/b/there", host, field, f"Origin: http://{host}").status


def test_open_proxy_refuses_forms_of_other_sites(opened: tuple[FakeS3, RunningProxy]) -> None:
    """A form needs no script and asks nobody before it is sent."""
    fake, proxy = opened

    answer = parse_answer(
        proxy.talk(form_request(proxy, form_body({"key": "new"}), fields=["Origin: https://evil.example"]))
    )

    assert (403, None) == (answer.status, stored(fake, "b", "new"))


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", "/stats"), ("GET", "/metrics"), ("GET", "/"), ("POST", "/drain"), ("POST", "/undrain")],
)
@pytest.mark.parametrize("foreign", [*FOREIGN, "host"])
def test_admin_refuses_pages_of_other_sites(proxy: RunningProxy, method: str, target: str, foreign: str) -> None:
    """To take nodes out of service, or to learn of them, is the operator's business."""
    fields, host = ([], FOREIGN_HOSTS[0]) if foreign == "host" else ([foreign], "127.0.0.1")

    answer = ask_admin(proxy, method, f"{target}?endpoint={proxy.config.endpoints[0]}", *fields, host=host)

    assert 403 == answer.status
    assert not any(record["drained"] for record in proxy.stats()["endpoints"])


def test_admin_on_loopback_takes_changes(proxy: RunningProxy) -> None:
    """Who is on this machine needs no token, unless there is one."""
    answer = ask_admin(proxy, "POST", f"/drain?endpoint={proxy.config.endpoints[0]}")

    assert (200, True) == (answer.status, proxy.stats()["endpoints"][0]["drained"])


def test_admin_beyond_loopback_takes_no_changes_without_a_token(fake: FakeS3) -> None:
    """Whoever reaches it could take all nodes out of service."""
    with RunningProxy(fake.endpoints, admin_listen="0.0.0.0:0") as proxy:
        answer = ask_admin(proxy, "POST", f"/drain?endpoint={proxy.config.endpoints[0]}")

        assert 403 == answer.status
        assert b"--admin-token-file" in answer.body
        assert 200 == ask_admin(proxy, "GET", "/healthz").status
        assert not proxy.stats()["endpoints"][0]["drained"]


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "127.0.0.1:0"])
def test_token_is_asked_for_changes(fake: FakeS3, tmp_path: Path, listen: str) -> None:
    """Only its owner may; health and figures are for all who reach the listener."""
    secret = tmp_path / "token"
    secret.write_text(TOKEN + "\n")
    secret.chmod(0o600)
    with RunningProxy(fake.endpoints, admin_listen=listen, admin_token_file=str(secret)) as proxy:
        target = f"/drain?endpoint={proxy.config.endpoints[0]}"

        refused = [
            ask_admin(proxy, "POST", target, *fields).status
            for fields in ([], [f"Authorization: Bearer {TOKEN}x"], [f"Authorization: {TOKEN}"], ["Authorization: "])
        ]
        allowed = ask_admin(proxy, "POST", target, f"Authorization: Bearer {TOKEN}")

        assert ([401] * 4, 200) == (refused, allowed.status)
        assert 200 == ask_admin(proxy, "GET", "/metrics").status


def press(proxy: RunningProxy, path: str, fields: str, *more: str) -> Answer:
    """Send what a button of the admin page sends."""
    kind = "Content-Type: application/x-www-form-urlencoded"
    length = f"Content-Length: {len(fields)}"
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Origin: http://127.0.0.1", kind, length, *more]
    return parse_answer(talk_admin(proxy, ("\r\n".join(lines) + f"\r\n\r\n{fields}").encode()), "POST")


def test_buttons_change_a_node_and_lead_back_to_the_page(proxy: RunningProxy) -> None:
    """A form of the page itself, whose browser says so."""
    endpoint = f"endpoint={quote(str(proxy.config.endpoints[0]), safe='')}"
    for path, is_drained in (("/drain", True), ("/undrain", False)):
        answer = press(proxy, path, endpoint, "Sec-Fetch-Site: same-origin")

        assert (303, "/", b"") == (answer.status, answer.headers["location"], answer.body)
        assert is_drained == proxy.stats()["endpoints"][0]["drained"]
    lost = press(proxy, "/drain", "endpoint=http%3A%2F%2F%3Cb%3E")
    assert (404, True) == (lost.status, b"no such endpoint" in lost.body)
    page = ask_admin(proxy, "GET", "/", "Accept: text/html")
    assert "'sha256-" in page.headers["content-security-policy"]
    assert b"nodes up" in page.body


@pytest.mark.parametrize("field", FOREIGN)
def test_buttons_of_other_sites_change_nothing(proxy: RunningProxy, field: str) -> None:
    """Whatever a form of theirs holds."""
    answer = press(proxy, "/drain", f"endpoint={proxy.config.endpoints[0]}", field)

    assert (403, False) == (answer.status, proxy.stats()["endpoints"][0]["drained"])


def test_buttons_need_the_token_where_there_is_one(fake: FakeS3, tmp_path: Path) -> None:
    """It comes in the form, and is refused on the page; beyond loopback without one there is no change at all."""
    secret = tmp_path / "token"
    secret.write_text(TOKEN)
    secret.chmod(0o600)
    with RunningProxy(fake.endpoints, admin_token_file=str(secret)) as proxy:
        endpoint = f"endpoint={proxy.config.endpoints[0]}"
        wrong = [press(proxy, "/drain", f"{endpoint}{more}") for more in ("", "&token=x", f"&token={TOKEN}x")]

        assert [401] * 3 == [answer.status for answer in wrong]
        assert all(b'role="alert"' in answer.body and TOKEN.encode() not in answer.body for answer in wrong)
        assert not proxy.stats()["endpoints"][0]["drained"]
        assert 303 == press(proxy, "/drain", f"{endpoint}&token={TOKEN.replace(' ', '+')}").status
    with RunningProxy(fake.endpoints, admin_listen="0.0.0.0:0") as proxy:
        assert 403 == press(proxy, "/drain", f"endpoint={proxy.config.endpoints[0]}").status
        assert b"disabled" in ask_admin(proxy, "GET", "/", "Accept: text/html").body


@pytest.mark.parametrize("length", ["Content-Length: 9000", "Transfer-Encoding: chunked"])
def test_long_forms_are_refused(proxy: RunningProxy, length: str) -> None:
    """Before they are read."""
    kind = "Content-Type: application/x-www-form-urlencoded"
    assert 413 == ask_admin(proxy, "POST", "/drain", kind, length).status


@pytest.mark.parametrize("content", ["", "short", "one\ntwo of many letters", "\u00e4" * 20])
def test_unfit_token_ends_the_start(fake: FakeS3, tmp_path: Path, content: str) -> None:
    """A file that was not filled protects nothing."""
    secret = tmp_path / "token"
    secret.write_text(content)

    with pytest.raises(ConfigError, match="--admin-token-file"):
        RunningProxy(fake.endpoints, admin_token_file=str(secret))


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX_A: 1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz\r\n\r\n", 400),
        (b"GET  /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\nHost: localhost\n\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 60_000 + b"\r\n\r\n", 431),
        (b"PUT /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    ],
)
def test_admin_reads_heads_as_strictly(proxy: RunningProxy, request_: bytes, status: int) -> None:
    """It has the parser of the other side."""
    assert status == parse_answer(talk_admin(proxy, request_), request_[:4].decode().strip()).status


def test_admin_waits_for_no_slow_head(fake: FakeS3) -> None:
    """The whole head has its time, not each of its bytes."""
    with RunningProxy(fake.endpoints, header_timeout=0.3) as proxy, connect_admin(proxy) as sock:
        started = time.monotonic()
        sock.sendall(b"GET /healthz HTTP/1.1\r\n")

        answer = parse_answer(read_to_end(sock))

        assert (408, True) == (answer.status, time.monotonic() - started < 10)


def test_idle_connections_do_not_keep_others_from_the_admin(proxy: RunningProxy) -> None:
    """Hundreds that say nothing get no thread each, and the health check is answered at once."""
    import threading

    before = threading.active_count()
    idle = [connect_admin(proxy) for _ in range(300)]
    try:
        answers = [ask_admin(proxy, "GET", "/healthz").status for _ in range(5)]

        assert [200] * 5 == answers
        assert threading.active_count() - before < 100
    finally:
        for sock in idle:
            sock.close()
