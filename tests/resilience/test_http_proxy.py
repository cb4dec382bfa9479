"""Nodes behind an HTTP proxy: only where it is asked for, and with plain words where it does not work."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

import pytest

from s3pool.endpoint import HttpProxy as ProxyAddress
from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, FakeS3
from tests.support.http_proxy import HttpProxy
from tests.support.proxying import RunningProxy
from tests.support.run_cli import CliRunner

TLS = Path(__file__).parents[1] / "support" / "tls"
SECRET_WORDS = "hush"


@pytest.fixture(params=["http", "https"])
def fake(request: pytest.FixtureRequest, fake_s3: Any) -> FakeS3:
    """Give two nodes, plain or with TLS."""
    context = None
    if request.param == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / "server.pem")
    made: FakeS3 = fake_s3(2, secrets={ACCESS_KEY: SECRET_KEY}, tls=context)
    made.store.add("b", "there", b"0123456789" * 100)
    return made


def environ(fake: FakeS3, **more: str) -> dict[str, str]:
    """Give the variables of the pool."""
    return {**fake.environment, "AWS_CA_BUNDLE": str(TLS / "cert.pem"), "LB_MAX_RETRIES": "1", **more}


@pytest.mark.parametrize("user", ["", "me:hush"])
def test_commands_reach_nodes_through_the_proxy(fake: FakeS3, run_cli: CliRunner, tmp_path: Path, user: str) -> None:
    """All of their requests: small ones together, large ones, probes; by CONNECT under TLS."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(40):
        (tree / f"f{number}").write_bytes(b"%d" % number * 100)
    (tree / "big").write_bytes(os.urandom(9 << 20))

    with HttpProxy(user) as proxy:
        env = environ(fake, S3POOL_HTTP_PROXY=proxy.url)
        up = run_cli("cp", "-r", str(tree), "s3/b/t", env=env)
        down = run_cli("cp", "-r", "s3/b/t", str(tmp_path / "back"), env=env)
        pinged = run_cli("ping", env=env)
        shown = run_cli("config", env=env)
        seen = list(proxy.seen)

    assert (0, 0, 0) == (up.code, down.code, pinged.code), up.err + down.err
    assert {path.name: path.read_bytes() for path in tree.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()
    }
    is_tls = fake.endpoints[0].startswith("https")
    starts = tuple(f"CONNECT {node.netloc}" if is_tls else node.url for node in fake.nodes)
    assert all(line.startswith(starts) if is_tls else line.split()[1].startswith(starts) for line in seen)
    assert is_tls or len(seen) == len(fake.requests)
    assert f"http_proxy       {proxy.address} " in shown.out
    assert SECRET_WORDS not in shown.out


def test_s3_proxy_reaches_nodes_through_it(fake: FakeS3) -> None:
    """Its fast ways too; each of the probes as well."""
    with HttpProxy() as proxy:
        address = ProxyAddress.parse(proxy.url)
        options = {"http_proxy": address, "ca_bundle": str(TLS / "cert.pem")}
        for probe in ("auto", "tcp"):
            with RunningProxy(fake.endpoints, options=options, probe=probe) as running:
                assert 200 == running.ask("PUT", "/b/new", body=b"content").status
                assert b"content" == running.ask("GET", "/b/new").body
                states = {row["state"] for row in running.stats()["endpoints"]}
            assert {"closed"} == states
        assert len(proxy.seen) >= 2


def test_hosts_can_be_left_out(fake: FakeS3, run_cli: CliRunner) -> None:
    """By the variable that every program knows, or by one of its own."""
    with HttpProxy() as proxy:
        for variable, value in (("NO_PROXY", "other.test, 127.0.0.1"), ("S3POOL_NO_PROXY", "*")):
            env = environ(fake, S3POOL_HTTP_PROXY=proxy.url, **{variable: value})
            assert 0 == run_cli("cat", "s3/b/there", env=env).code
        assert [] == proxy.seen
        env = environ(fake, S3POOL_HTTP_PROXY=proxy.url, NO_PROXY="27.0.0.1,0.0.1.test")
        assert 0 == run_cli("cat", "s3/b/there", env=env).code
        assert proxy.seen


def test_proxy_that_refuses_is_one_line(fake: FakeS3, run_cli: CliRunner) -> None:
    """It names the proxy, and not only the nodes, which are well."""
    with HttpProxy("me:hush") as proxy:
        unknown = run_cli("cat", "s3/b/there", env=environ(fake, S3POOL_HTTP_PROXY=proxy.address))
    closed = run_cli("cat", "s3/b/there", env=environ(fake, S3POOL_HTTP_PROXY=proxy.address))
    wrong = run_cli("cat", "s3/b/there", "--http-proxy", "socks5://me:hush@a:1", env=environ(fake))

    for result, why in ((unknown, "proxy"), (closed, f"through the proxy {proxy.address}: connection refused")):
        (line,) = result.err.splitlines()
        assert (5, True) == (result.code, why in line), line
    wants = f"the proxy {proxy.address} wants credentials: http://USER:PASSWORD@host:port"
    refused = "Proxy Authentication Required"
    assert wants in unknown.err or refused.lower() in unknown.err.lower()
    message = "flag --http-proxy: bad HTTP proxy: write http://host:port or http://USER:PASSWORD@host:port"
    assert (2, [f"s3pool: error: {message}"]) == (wrong.code, wrong.err.splitlines())


def test_proxy_of_the_environment_is_not_used(fake: FakeS3, run_cli: CliRunner) -> None:
    """A pool on a local network must not be led away; one line tells of it when no node can be reached."""
    with HttpProxy() as proxy:
        env = environ(fake, HTTPS_PROXY=proxy.url, HTTP_PROXY=proxy.url, http_proxy=proxy.url)
        well = run_cli("cat", "s3/b/there", env=env)
        for node in fake.nodes:
            node.kill()
        ill = run_cli("cat", "s3/b/there", "s3/b/other", env=env)
        assert [] == proxy.seen

    hint = "s3pool: warning: HTTPS_PROXY is set and not used: if the nodes are behind a proxy, give --http-proxy URL"
    assert (0, b"") == (well.code, well.stderr)
    assert (5, 1) == (ill.code, ill.err.splitlines().count(hint))


def test_names_with_many_addresses_need_tls(run_cli: CliRunner) -> None:
    """A proxy that gets a URL looks up its name itself, and would take another node."""
    env = {"S3_POOL": "dns+http://localhost:1", "S3POOL_HTTP_PROXY": "http://127.0.0.1:2"}

    result = run_cli("ls", "--no-sign-request", "s3/b", env=env)

    assert 2 == result.code
    assert "cannot be reached through the proxy http://127.0.0.1:2, which looks up names itself" in result.err
