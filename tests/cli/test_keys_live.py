"""Keys that end, from the STS of MinIO and Ceph RGW; and keys of customers, which RGW encrypts with."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from tests.support.real_servers import MinioCluster
from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliResult, CliRunner

pytestmark = pytest.mark.live
LIFE_S = 8.0
PATIENCE_S = 60.0
ROLE = "arn:aws:iam:::role/tester"
STS = "rgw sts key = 0123456789abcdef\nrgw s3 auth use sts = true\n"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": ["sts:AssumeRole"]}],
}
RIGHTS = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": "arn:aws:s3:::*"}]}


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


class OpenIdProvider:
    """An OpenID provider on loopback, as far as MinIO asks one: its configuration, and its public key."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        numbers = self._key.public_key().public_numbers()
        key = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one"}
        key |= {
            name: _base64(n.to_bytes((n.bit_length() + 7) // 8, "big")) for name, n in (("n", numbers.n), ("e", 65537))
        }
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = provider.url
                about = {"issuer": url, "jwks_uri": f"{url}/keys", "authorization_endpoint": url, "token_endpoint": url}
                body = json.dumps({"keys": [key]} if self.path == "/keys" else about).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def token(self, life_s: float) -> str:
        """Sign a token that lets its bearer do everything for so long."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": "s3pool", "sub": "tester", "iat": now, "exp": now + int(life_s)}
        words = ({"alg": "RS256", "typ": "JWT", "kid": "one"}, {**claims, "policy": "readwrite"})
        text = ".".join(_base64(json.dumps(each).encode()) for each in words)
        return f"{text}.{_base64(self._key.sign(text.encode(), padding.PKCS1v15(), SHA256()))}"

    def close(self) -> None:
        """End the provider."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def provider() -> Iterator[OpenIdProvider]:
    """Run a provider."""
    provider = OpenIdProvider()
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def minio(provider: OpenIdProvider) -> Iterator[MinioCluster]:
    """Run a MinIO that believes the provider."""

    class Believer(MinioCluster):
        def command(self, program: str, index: int) -> tuple[list[str], dict[str, str]]:
            words, more = super().command(program, index)
            start = "MINIO_IDENTITY_OPENID"
            config = {f"{start}_CONFIG_URL": f"{provider.url}/config", f"{start}_CLIENT_ID": "s3pool"}
            return words, {**more, **config, f"{start}_CLIENT_SECRET": "secret"}

    if MinioCluster.find() is None:
        pytest.skip(MinioCluster.missing())
    with Believer(4) as cluster:
        yield cluster


def _run_with(run_cli: CliRunner, cluster: Any, config: str, *words: str, **more: str) -> CliResult:
    """Run a command that has keys by a profile of AWS's file alone."""
    directory = run_cli.home / ".aws"
    directory.mkdir(exist_ok=True)
    keys = f"aws_access_key_id = {cluster.access_key}\naws_secret_access_key = {cluster.secret_key}\n"
    (directory / "config").write_text(f"[profile base]\n{keys}\n[profile temporary]\n{config}\n")
    (directory / "config").chmod(0o600)
    env = {"S3_POOL": ",".join(cluster.endpoints), "AWS_PROFILE": "temporary"}
    return run_cli(*words, env={**env, "AWS_ENDPOINT_URL_STS": cluster.endpoints[0], **more})


def test_minio_gives_keys_of_a_role(minio: MinioCluster, run_cli: CliRunner, bucket_name: str) -> None:
    """MinIO asks for an ARN, and gives the caller's own rights."""
    config = f"role_arn = {ROLE}\nsource_profile = base"
    results = [
        _run_with(run_cli, minio, config, *words)
        for words in (("mb", bucket_name), ("cp", __file__, f"s3/{bucket_name}/k"), ("cat", f"s3/{bucket_name}/k"))
    ]

    assert [] == [result.err for result in results if result.code]
    assert Path(__file__).read_bytes() == results[-1].stdout
    shown = _run_with(run_cli, minio, config, "config")
    assert minio.secret_key not in shown.out


def test_minio_gives_keys_for_a_token_and_they_are_renewed(
    minio: MinioCluster, provider: OpenIdProvider, run_cli: CliRunner, tmp_path: Path, bucket_name: str
) -> None:
    """A run longer than the life of its keys goes on with new ones, for a token that the file has by then."""
    token = tmp_path / "token"
    token.write_text(provider.token(LIFE_S))
    config = f"role_arn = {ROLE}\nweb_identity_token_file = {token}"
    made = _run_with(run_cli, minio, config, "mb", bucket_name)
    assert 0 == made.code, made.err
    (tmp_path / "big").write_bytes(os.urandom(6 << 20))
    ended = threading.Event()

    def keep_fresh() -> None:
        while not ended.wait(1.0):
            fresh = token.with_suffix(".new")
            fresh.write_text(provider.token(LIFE_S))
            fresh.replace(token)

    thread = threading.Thread(target=keep_fresh)
    thread.start()
    try:  # twelve objects, of which each takes a second and more
        for name in "abcdefghijkl":
            (tmp_path / "tree").mkdir(exist_ok=True)
            (tmp_path / "tree" / name).write_bytes(os.urandom(1 << 20))
        words = (
            "cp",
            "-r",
            str(tmp_path / "tree"),
            f"s3/{bucket_name}/t",
            "--bwlimit",
            "600K",
            "--json",
            "--workers",
            "1",
        )
        started = time.monotonic()
        result = _run_with(run_cli, minio, config, *words)
        seconds = time.monotonic() - started
    finally:
        ended.set()
        thread.join()

    assert 0 == result.code, result.err
    assert 12 == result.records[-1]["copied"]
    assert seconds > 2 * LIFE_S


def test_token_that_has_ended_is_refused(
    minio: MinioCluster, provider: OpenIdProvider, run_cli: CliRunner, tmp_path: Path
) -> None:
    """One line that says who refused it."""
    (tmp_path / "token").write_text(provider.token(-10))

    result = _run_with(run_cli, minio, f"role_arn = {ROLE}\nweb_identity_token_file = {tmp_path / 'token'}", "ls")

    assert (4, "") == (result.code, result.out)
    assert f"{minio.endpoints[0]} refused: 400" in result.err


@pytest.fixture
def ceph(rgw: Any) -> RgwCluster:
    """Give Ceph RGW."""
    if not isinstance(rgw, RgwCluster):
        pytest.skip("these are settings of Ceph RGW")
    return rgw


@pytest.fixture
def sts(ceph: RgwCluster) -> Iterator[RgwCluster]:
    """Give a cluster of its own: with STS, RGW 16 answers AccessDenied to wrong keys too, whatever is wrong."""
    assert ceph
    with RgwCluster.create(1, settings=STS) as cluster:
        yield cluster


def test_rgw_gives_keys_of_a_role(sts: RgwCluster, run_cli: CliRunner, bucket_name: str) -> None:
    """The role's rights count, not those of the user who takes it."""
    ceph = sts
    ceph.admin("role", "create", "--role-name=tester", f"--assume-role-policy-doc={json.dumps(TRUST)}")
    rights = f"--policy-doc={json.dumps(RIGHTS)}"
    ceph.admin("role-policy", "put", "--role-name=tester", "--policy-name=all", rights)
    config = f"role_arn = {ROLE}\nsource_profile = base"
    results = [
        _run_with(run_cli, ceph, config, *words)
        for words in (("mb", bucket_name), ("cp", __file__, f"s3/{bucket_name}/k"), ("cat", f"s3/{bucket_name}/k"))
    ]

    assert [] == [result.err for result in results if result.code]
    assert Path(__file__).read_bytes() == results[-1].stdout
    refused = _run_with(run_cli, ceph, config.replace("tester", "nobody"), "ls")
    assert 4 == refused.code
    assert f"{ceph.endpoints[0]} refused: " in refused.err


def test_rgw_changes_the_keys_of_objects(ceph: RgwCluster, run_cli: CliRunner, bucket_name: str) -> None:
    """By CopyObject, by parts, in place and by mv: what was stored with one key is read with the other."""
    call: Callable[..., CliResult] = lambda *words: run_cli(*words, env=ceph.environment)  # noqa: E731
    for name in ("old", "new"):
        (run_cli.home / name).write_bytes(os.urandom(32))
        (run_cli.home / name).chmod(0o600)
    (run_cli.home / "large").write_bytes(os.urandom(11 << 20))
    place = f"s3/{bucket_name}"
    both = ("--sse-c", "new", "--sse-c-source", "old")
    steps = [
        ("mb", bucket_name),
        ("cp", "--sse-c", "old", "large", f"{place}/a"),
        ("cp", *both, f"{place}/a", f"{place}/whole"),
        ("cp", *both, "--part-size", "5M", f"{place}/a", f"{place}/parts"),
        ("cp", "--sse-c-source", "old", f"{place}/a", f"{place}/plain"),
        ("cp", "--sse-c", "old", f"{place}/a", f"{place}/itself"),
        ("cp", *both, f"{place}/itself", f"{place}/itself"),
        ("mv", *both, f"{place}/a", f"{place}/moved"),
    ]
    results = [call(*step) for step in steps]

    assert [] == [result.err for result in results if result.code]
    for name in ("whole", "parts", "itself", "moved"):
        read = call("cat", "--sse-c", "new", f"{place}/{name}")
        assert (run_cli.home / "large").read_bytes() == read.stdout, (name, read.err)
        wrong = call("cat", "--sse-c", "old", f"{place}/{name}")
        assert (b"", True) == (wrong.stdout, wrong.code in (1, 4)), wrong.err
    assert (run_cli.home / "large").read_bytes() == call("cat", f"{place}/plain").stdout
