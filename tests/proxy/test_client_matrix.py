"""The clients that people use, each doing its daily work through the proxy, one node dead.

A client that is not installed is skipped, and says so.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from s3pool.model import Credentials
from tests.support.proxying import POOL_KEY, RunningProxy, checking_fake

DEAD = "http://127.0.0.1:9"
SMALL = os.urandom(10_000)
LARGE = os.urandom(17 << 20)  # several parts for every client
KEY = "dir/a b+c%ä"
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Bench:
    """A proxy, and what a client needs to know of it."""

    url: str
    bucket: str
    keys: Credentials
    ca_file: str
    directory: Path

    @property
    def environment(self) -> dict[str, str]:
        """Give the variables of the AWS world."""
        return {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.directory),
            "AWS_ACCESS_KEY_ID": self.keys.access_key,
            "AWS_SECRET_ACCESS_KEY": self.keys.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            **({"AWS_CA_BUNDLE": self.ca_file, "SSL_CERT_FILE": self.ca_file} if self.ca_file else {}),
        }

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        """Run a client and give its output; its failure is the test's."""
        program = shutil.which(words[0], path=self.environment["PATH"])
        if program is None:
            pytest.skip(f"{words[0]} is not installed")
        done = subprocess.run(
            [program, *words[1:]],
            env={**self.environment, **(env or {})},
            cwd=self.directory,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert 0 == done.returncode, done.stderr.decode()
        return done.stdout.decode()

    def file(self, name: str, content: bytes) -> str:
        """Write a file and give its path."""
        path = self.directory / name
        path.write_bytes(content)
        return str(path)

    def read(self, name: str) -> bytes:
        """Read a file that a client wrote."""
        return (self.directory / name).read_bytes()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Give a certificate for 127.0.0.1 and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = str(directory / "c.pem"), str(directory / "k.pem")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    extra = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(["openssl", *words.split(), *extra], check=True, capture_output=True)
    return certificate, key


SETUPS = [
    pytest.param(("fake", "http", "verify"), id="fake-http-verify"),
    pytest.param(("fake", "https", "verify"), id="fake-https-verify"),
    pytest.param(("fake", "http", "passthrough"), id="fake-http-passthrough"),
    pytest.param(("rgw", "http", "verify"), id="rgw-http-verify", marks=pytest.mark.live),
    pytest.param(("rgw", "https", "verify"), id="rgw-https-verify", marks=pytest.mark.live),
    pytest.param(("rgw", "http", "passthrough"), id="rgw-http-passthrough", marks=pytest.mark.live),
]


@pytest.fixture(params=SETUPS)
def bench(request: pytest.FixtureRequest, tmp_path: Path, bucket_name: str) -> Iterator[Bench]:
    """Give a proxy before the nodes and a dead one, and an empty bucket."""
    backend, scheme, auth = request.param
    settings: dict[str, object] = {"auth": auth}
    ca_file = ""
    if scheme == "https":
        ca_file, key_file = request.getfixturevalue("certificate")
        settings |= {"tls_cert": ca_file, "tls_key": key_file}
    with ExitStack() as stack:
        if backend == "rgw":
            cluster = request.getfixturevalue("rgw")
            endpoints, keys = cluster.endpoints[:2], Credentials(cluster.access_key, cluster.secret_key)
        else:
            endpoints, keys = stack.enter_context(checking_fake(2)).endpoints, POOL_KEY
        proxy = stack.enter_context(RunningProxy([DEAD, *endpoints], credentials=keys, **settings))
        made = Bench(proxy.url, bucket_name, keys, ca_file, tmp_path)
        client = boto(made)
        client.create_bucket(Bucket=bucket_name)
        yield made
        for found in client.list_objects_v2(Bucket=bucket_name).get("Contents", ()):
            client.delete_object(Bucket=bucket_name, Key=found["Key"])
        client.delete_bucket(Bucket=bucket_name)


def boto(bench: Bench, **config: object) -> Any:
    """Give a boto3 client."""
    boto3 = pytest.importorskip("boto3")
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=bench.url,
        region_name="us-east-1",
        aws_access_key_id=bench.keys.access_key,
        aws_secret_access_key=bench.keys.secret_key,
        verify=bench.ca_file or None,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, **config),
    )


def test_boto3(bench: Bench) -> None:
    """Put, multipart, range, head, copy, list, tags, batch delete: the library behind most Python."""
    client = boto(bench)
    client.put_object(Bucket=bench.bucket, Key=KEY, Body=SMALL, Metadata={"a": "b  c"}, ContentType="text/x")
    client.upload_file(bench.file("large", LARGE), bench.bucket, "large")
    client.copy_object(Bucket=bench.bucket, Key="copy", CopySource={"Bucket": bench.bucket, "Key": KEY})

    head = client.head_object(Bucket=bench.bucket, Key=KEY)
    ranged = client.get_object(Bucket=bench.bucket, Key="large", Range="bytes=100-8999999")["Body"].read()
    names = [found["Key"] for found in client.list_objects_v2(Bucket=bench.bucket)["Contents"]]

    assert ({"a": "b  c"}, "text/x", len(SMALL)) == (head["Metadata"], head["ContentType"], head["ContentLength"])
    assert "ContentEncoding" not in head
    assert LARGE[100:9000000] == ranged
    assert SMALL == client.get_object(Bucket=bench.bucket, Key="copy")["Body"].read()
    assert ["copy", KEY, "large"] == names
    gone = client.delete_objects(Bucket=bench.bucket, Delete={"Objects": [{"Key": name} for name in names]})
    assert 3 == len(gone["Deleted"])


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_presigned_urls(bench: Bench, version: str) -> None:
    """URLs work for whoever has them, in the old signature and in the new."""
    import ssl
    from urllib.request import Request, urlopen

    if "fake" in os.environ.get("PYTEST_CURRENT_TEST", "") and "passthrough" in os.environ["PYTEST_CURRENT_TEST"]:
        pytest.skip("the fake does not know the old signature itself")
    tls = ssl.create_default_context(cafile=bench.ca_file) if bench.ca_file else None
    client = boto(bench, signature_version=version)
    params = {"Bucket": bench.bucket, "Key": KEY}

    put = Request(client.generate_presigned_url("put_object", Params=params), data=SMALL, method="PUT")
    put.add_header("Content-Type", "")
    with urlopen(put, context=tls) as answer:
        assert 200 == answer.status
    with urlopen(client.generate_presigned_url("get_object", Params=params), context=tls) as answer:
        assert SMALL == answer.read()


def test_aws_cli(bench: Bench) -> None:
    """Up and down, small and in parts."""
    s3 = ("aws", "--endpoint-url", bench.url, "s3")
    bench.file("small", SMALL)
    bench.file("large", LARGE)

    bench.run(*s3, "cp", "small", f"s3://{bench.bucket}/{KEY}")
    bench.run(*s3, "cp", "large", f"s3://{bench.bucket}/large")
    bench.run(*s3, "cp", f"s3://{bench.bucket}/{KEY}", "small.back")
    bench.run(*s3, "cp", f"s3://{bench.bucket}/large", "large.back")

    assert (SMALL, True) == (bench.read("small.back"), bench.read("large.back") == LARGE)


def test_s5cmd(bench: Bench) -> None:
    """A fast client in Go with SDK v1."""
    words = ("s5cmd", "--endpoint-url", bench.url, *(("--no-verify-ssl",) if bench.ca_file else ()))
    bench.file("small", SMALL)
    bench.file("large", LARGE)

    bench.run(*words, "cp", "small", f"s3://{bench.bucket}/dir/small")
    bench.run(*words, "cp", "-p", "5", "large", f"s3://{bench.bucket}/dir/large")
    bench.run(*words, "cp", f"s3://{bench.bucket}/dir/*", ".")
    listed = bench.run(*words, "ls", f"s3://{bench.bucket}/dir/")
    bench.run(*words, "rm", f"s3://{bench.bucket}/dir/*")

    assert 2 == listed.count("\n")
    assert hashlib.sha256(LARGE).digest() == hashlib.sha256(bench.read("large")).digest()
    assert SMALL == bench.read("small")


def test_rclone(bench: Bench) -> None:
    """A client in Go with SDK v2, which signs more headers than others."""
    remote = {
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_CONFIG_X_TYPE": "s3",
        "RCLONE_CONFIG_X_PROVIDER": "Other",
        "RCLONE_CONFIG_X_ENDPOINT": bench.url,
        "RCLONE_CONFIG_X_ACCESS_KEY_ID": bench.keys.access_key,
        "RCLONE_CONFIG_X_SECRET_ACCESS_KEY": bench.keys.secret_key,
        "RCLONE_S3_UPLOAD_CUTOFF": "6M",
        "RCLONE_S3_NO_CHECK_BUCKET": "true",
        **({"RCLONE_CA_CERT": bench.ca_file} if bench.ca_file else {}),
    }
    (bench.directory / "up").mkdir()
    bench.file("up/small ä", SMALL)
    bench.file("up/large", LARGE)

    bench.run("rclone", "copy", "up", f"x:{bench.bucket}/r", env=remote)
    bench.run("rclone", "copy", f"x:{bench.bucket}/r", "down", env=remote)

    assert (SMALL, True) == (bench.read("down/small ä"), bench.read("down/large") == LARGE)


def test_curl(bench: Bench) -> None:
    """A signature made by curl alone; it leaves the payload's hash out where it may."""
    keys = ("--user", f"{bench.keys.access_key}:{bench.keys.secret_key}", "--aws-sigv4", "aws:amz:us-east-1:s3")
    words = ("curl", "--fail", "--silent", *keys, *(("--cacert", bench.ca_file) if bench.ca_file else ()))
    hashed = ("-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD")
    url = f"{bench.url}/{bench.bucket}/curl"

    bench.run(*words, *hashed, "-T", bench.file("small", SMALL), url)
    bench.run(*words, *hashed, "-o", "back", url)

    assert SMALL == bench.read("back")
