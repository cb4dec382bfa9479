"""Nodes that ask for a certificate get one: from the commands and from the proxy."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_s3 import FakeS3
from tests.support.proxying import RunningProxy
from tests.support.run_cli import CliRunner

TLS = Path(__file__).parents[1] / "support" / "tls"
CERT, BOTH = str(TLS / "cert.pem"), str(TLS / "server.pem")  # the second with its key


@pytest.fixture
def strict() -> Iterator[FakeS3]:
    """Give a node that talks to nobody without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(BOTH)
    context.load_verify_locations(cafile=CERT)
    context.verify_mode = ssl.CERT_REQUIRED
    with FakeS3(1, tls=context) as fake:
        fake.store.add("b", "k", b"content")
        yield fake


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    """Give the private key in a file of its own."""
    text = Path(BOTH).read_text()
    start, end = text.index("-----BEGIN PRIVATE"), text.index("-----END PRIVATE KEY-----")
    path = tmp_path / "key.pem"
    path.write_text(text[start:end] + "-----END PRIVATE KEY-----\n")
    return str(path)


def test_command_shows_its_certificate(strict: FakeS3, run_cli: CliRunner, key_file: str) -> None:
    """In one file or in two."""
    for flags in (("--client-cert", BOTH), ("--client-cert", CERT, "--client-key", key_file)):
        result = run_cli("--ca-bundle", CERT, *flags, "cat", "s3/b/k", env=strict.environment)

        assert (0, b"content") == (result.code, result.stdout)


def test_configuration_file_names_the_certificate(
    strict: FakeS3, run_cli: CliRunner, key_file: str, tmp_path: Path
) -> None:
    """A relative name starts at that file."""
    (tmp_path / "cert.pem").write_text(Path(CERT).read_text())
    config = tmp_path / "c.yaml"
    config.write_text(f"ca_bundle: {CERT}\nclient_cert: cert.pem\nclient_key: key.pem\n")

    result = run_cli("--config", str(config), "cat", "s3/b/k", env=strict.environment)

    assert (0, b"content") == (result.code, result.stdout)


def test_node_that_asks_in_vain_is_named(strict: FakeS3, run_cli: CliRunner) -> None:
    """How it hangs up is its own affair."""
    result = run_cli("--ca-bundle", CERT, "--retries", "0", "ls", "s3/b", env=strict.environment)

    assert (5, 1) == (result.code, len(result.err.splitlines()))
    assert strict.endpoints[0] in result.err
    assert not strict.requests


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--client-key", BOTH), "a private key without a certificate"),
        (("--client-cert", "/nope.pem"), "cannot read /nope.pem"),
        (("--client-cert", CERT), "cannot use the client certificate"),
    ],
)
def test_unusable_certificate_is_refused(strict: FakeS3, run_cli: CliRunner, flags: tuple[str, ...], said: str) -> None:
    """Before anything is sent."""
    result = run_cli("--ca-bundle", CERT, *flags, "ls", "s3/b", env=strict.environment)

    assert 2 == result.code
    assert said in result.err
    assert not strict.requests


def test_proxy_shows_its_certificate(strict: FakeS3) -> None:
    """It is the pool's, whoever the client is."""
    with RunningProxy(strict.endpoints) as proxy:
        proxy.config = proxy.config.replace(ca_bundle=CERT, client_cert=BOTH)
        proxy.proxy.reload()

        assert b"content" == proxy.ask("GET", "/b/k", close=True).body


@pytest.mark.parametrize("has_certificate", [True, False])
def test_proxy_takes_only_clients_with_a_certificate(has_certificate: bool) -> None:
    """Where it is told who signs them; nothing of others is even read."""
    context = ssl.create_default_context(cafile=CERT)
    context.check_hostname = False
    if has_certificate:
        context.load_cert_chain(BOTH)
    with (
        FakeS3(1) as fake,
        RunningProxy(fake.endpoints, tls_cert=BOTH, tls_key=BOTH, tls_client_ca=CERT) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), 10.0) as plain,
    ):
        fake.store.add("b", "k", b"content")
        try:
            with context.wrap_socket(plain, server_hostname="localhost") as sock:
                sock.sendall(proxy.signed("GET", "/b/k", close=True))
                received = sock.recv(4096)
        except (ssl.SSLError, ConnectionError):
            received = b""

        assert has_certificate == received.startswith(b"HTTP/1.1 200")
        assert has_certificate == ("GetObject" in fake.ops())
