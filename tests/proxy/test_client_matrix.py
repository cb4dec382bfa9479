"""The clients that people use, each doing its daily work through the proxy, one node dead.

A client that is not installed is skipped, and says so.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from s3pool.model import Credentials
from tests.support.proxying import LIVE_TIMEOUT_S, POOL_KEY, RunningProxy, checking_fake, make_certificate

DEAD = "http://127.0.0.1:9"
SMALL = os.urandom(10_000)
LARGE = os.urandom(17 << 20)  # several parts for every client
KEY = "dir/a b+c%ä"
ODD_KEYS = ["a//b", "a/../b", "./c", "d;e=f&g", "h?i#j", "k%2Fl", "~!*'()", "m+n o", "ü/日本", "p\\q"]
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Bench:
    """A proxy, and what a client needs to know of it."""

    url: str
    bucket: str
    keys: Credentials
    ca_file: str
    directory: Path
    has_trailers: bool
    checks_v2: bool

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
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported" if self.has_trailers else "when_required",
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

    @property
    def tls(self) -> ssl.SSLContext | None:
        """Give what trusts the listener; None for plain HTTP."""
        return ssl.create_default_context(cafile=self.ca_file) if self.ca_file else None

    def fetch(self, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
        """Use a presigned URL: PUT a body, or GET one."""
        request = Request(url, data=body, method="GET" if body is None else "PUT", headers=dict(headers or {}))
        if body is not None:
            request.add_header("Content-Type", "")
        with urlopen(request, context=self.tls, timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read()
        return content

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
    return make_certificate(tmp_path_factory.mktemp("tls"))


SETUPS = [
    pytest.param(("fake", "https", "passthrough"), id="fake-https-passthrough"),
    pytest.param(("rgw", "https", "passthrough"), id="rgw-https-passthrough", marks=pytest.mark.live),
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
        proxy = stack.enter_context(
            RunningProxy([DEAD, *endpoints], credentials=keys, read_timeout_s=LIVE_TIMEOUT_S, **settings)
        )
        # Nodes that judge for themselves must know a form of body or signature, and old ones do not.
        has_trailers = auth == "verify" or scheme == "http"
        checks_v2 = auth == "verify" or backend == "rgw"
        made = Bench(proxy.url, bucket_name, keys, ca_file, tmp_path, has_trailers, checks_v2)
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

    checksums = "when_supported" if bench.has_trailers else "when_required"
    return boto3.client(
        "s3",
        endpoint_url=bench.url,
        region_name="us-east-1",
        aws_access_key_id=bench.keys.access_key,
        aws_secret_access_key=bench.keys.secret_key,
        verify=bench.ca_file or None,
        config=Config(
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1},
            request_checksum_calculation=checksums,
            **config,
        ),
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


def test_multipart_copy(bench: Bench) -> None:
    """An object that is put together from parts of another, with the metadata it was begun with."""
    client = boto(bench)
    client.upload_file(bench.file("large", LARGE), bench.bucket, "large")
    place = {"Bucket": bench.bucket, "Key": "joined"}
    source = {"Bucket": bench.bucket, "Key": "large"}
    cuts = (0, 6 << 20, len(LARGE))

    upload_id = client.create_multipart_upload(**place, Metadata={"x-y": "z"}, CacheControl="no-cache")["UploadId"]
    parts = [
        client.upload_part_copy(
            **place,
            UploadId=upload_id,
            PartNumber=number,
            CopySource=source,
            CopySourceRange=f"bytes={first}-{end - 1}",
        )["CopyPartResult"]["ETag"]
        for number, (first, end) in enumerate(itertools.pairwise(cuts), 1)
    ]
    listed = client.list_parts(**place, UploadId=upload_id)["Parts"]
    done = [{"ETag": etag, "PartNumber": number} for number, etag in enumerate(parts, 1)]
    client.complete_multipart_upload(**place, UploadId=upload_id, MultipartUpload={"Parts": done})

    answer = client.get_object(**place)
    # RGW gives the ETag of a copied part without quotes, and lists it with them.
    assert [etag if etag.startswith('"') else f'"{etag}"' for etag in parts] == [part["ETag"] for part in listed]
    assert answer["Body"].read() == LARGE
    assert ({"x-y": "z"}, "no-cache") == (answer["Metadata"], answer["CacheControl"])


def test_odd_keys(bench: Bench) -> None:
    """Whatever a key looks like, it names its own object, in every place where a key may stand."""
    client = boto(bench)
    for number, key in enumerate(ODD_KEYS):
        client.put_object(Bucket=bench.bucket, Key=key, Body=b"%d" % number)
    client.copy_object(Bucket=bench.bucket, Key="copy+%", CopySource={"Bucket": bench.bucket, "Key": ODD_KEYS[3]})

    bodies = [client.get_object(Bucket=bench.bucket, Key=key)["Body"].read() for key in ODD_KEYS]
    names = [found["Key"] for found in client.list_objects_v2(Bucket=bench.bucket)["Contents"]]

    assert [b"%d" % number for number in range(len(ODD_KEYS))] == bodies
    assert sorted([*ODD_KEYS, "copy+%"], key=str.encode) == names
    assert b"3" == client.get_object(Bucket=bench.bucket, Key="copy+%")["Body"].read()
    gone = client.delete_objects(Bucket=bench.bucket, Delete={"Objects": [{"Key": name} for name in names]})
    assert sorted(names) == sorted(found["Key"] for found in gone["Deleted"])


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_presigned_urls(bench: Bench, version: str) -> None:
    """URLs work for whoever has them, in the old signature and in the new."""
    if version == "s3" and not bench.checks_v2:
        pytest.skip("the fake does not know the old signature itself")
    client = boto(bench, signature_version=version)
    params = {"Bucket": bench.bucket, "Key": KEY}

    bench.fetch(client.generate_presigned_url("put_object", Params=params), body=SMALL)
    url = client.generate_presigned_url("get_object", Params=params)

    assert SMALL == bench.fetch(url)
    assert SMALL[5:100] == bench.fetch(url, headers={"Range": "bytes=5-99"})


def test_aws_cli(bench: Bench) -> None:
    """Up and down, small and in parts, copied, listed, by URL, and away."""
    aws = ("aws", "--endpoint-url", bench.url)
    s3 = (*aws, "s3")
    bench.file("small", SMALL)
    bench.file("large", LARGE)

    bench.run(*s3, "cp", "small", f"s3://{bench.bucket}/{KEY}", "--metadata", "a=b c", "--content-type", "text/x")
    bench.run(*s3, "cp", "large", f"s3://{bench.bucket}/large")
    bench.run(*s3, "cp", f"s3://{bench.bucket}/large", f"s3://{bench.bucket}/again")
    bench.run(*s3, "cp", f"s3://{bench.bucket}/{KEY}", "small.back")
    bench.run(*s3, "cp", f"s3://{bench.bucket}/again", "large.back")
    named = ("--bucket", bench.bucket, "--key")
    bench.run(*aws, "s3api", "get-object", *named, "large", "--range", "bytes=7-1000006", "range.back")
    head = json.loads(bench.run(*aws, "s3api", "head-object", *named, KEY))
    if bench.checks_v2:
        assert SMALL == bench.fetch(bench.run(*s3, "presign", f"s3://{bench.bucket}/{KEY}").strip())
    listed = bench.run(*s3, "ls", "--recursive", f"s3://{bench.bucket}")
    bench.run(*s3, "rm", "--recursive", f"s3://{bench.bucket}")

    assert (SMALL, True) == (bench.read("small.back"), bench.read("large.back") == LARGE)
    assert LARGE[7:1000007] == bench.read("range.back")
    assert ({"a": "b c"}, "text/x", len(SMALL)) == (head["Metadata"], head["ContentType"], head["ContentLength"])
    assert 3 == listed.count("\n")


def test_s5cmd(bench: Bench) -> None:
    """A fast client in Go with SDK v1."""
    words = ("s5cmd", "--endpoint-url", bench.url, *(("--no-verify-ssl",) if bench.ca_file else ()))
    bench.file("small", SMALL)
    bench.file("large", LARGE)

    bench.run(*words, "cp", "--content-type", "text/x", "small", f"s3://{bench.bucket}/dir/small")
    bench.run(*words, "cp", "-p", "5", "large", f"s3://{bench.bucket}/dir/large")
    bench.run(*words, "cp", f"s3://{bench.bucket}/dir/small", f"s3://{bench.bucket}/dir/copy a+b")
    bench.run(*words, "cp", f"s3://{bench.bucket}/dir/*", ".")
    head = json.loads(bench.run(*words, "head", f"s3://{bench.bucket}/dir/small"))
    url = bench.run(*words, "presign", f"s3://{bench.bucket}/dir/copy a+b").strip()
    by_url = bench.fetch(url)
    listed = bench.run(*words, "ls", f"s3://{bench.bucket}/dir/")
    bench.run(*words, "rm", f"s3://{bench.bucket}/dir/*")

    assert 3 == listed.count("\n")
    assert ("text/x", len(SMALL)) == (head["content_type"], head["size"])
    assert hashlib.sha256(LARGE).digest() == hashlib.sha256(bench.read("large")).digest()
    assert [SMALL] * 3 == [bench.read("small"), bench.read("copy a+b"), by_url]


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
        "RCLONE_S3_COPY_CUTOFF": "6M",
        "RCLONE_S3_NO_CHECK_BUCKET": "true",
        **({"RCLONE_CA_CERT": bench.ca_file} if bench.ca_file else {}),
    }
    (bench.directory / "up").mkdir()
    bench.file("up/small ä", SMALL)
    bench.file("up/large", LARGE)

    bench.run("rclone", "copy", "up", f"x:{bench.bucket}/r", env=remote)
    bench.run("rclone", "copy", f"x:{bench.bucket}/r", f"x:{bench.bucket}/again", env=remote)
    bench.run("rclone", "copy", f"x:{bench.bucket}/again", "down", env=remote)
    ranged = ("rclone", "cat", "--offset", "9", "--count", "100", f"x:{bench.bucket}/r/small ä")
    bench.run("sh", "-c", '"$@" > ranged', "sh", *ranged, env=remote)
    checked = bench.run("rclone", "lsjson", "--recursive", f"x:{bench.bucket}", env=remote)
    by_url = bench.fetch(bench.run("rclone", "link", f"x:{bench.bucket}/r/small ä", env=remote).strip())
    bench.run("rclone", "delete", f"x:{bench.bucket}", env=remote)

    assert (SMALL, True) == (bench.read("down/small ä"), bench.read("down/large") == LARGE)
    assert [len(LARGE), len(SMALL)] * 2 == [found["Size"] for found in json.loads(checked) if not found["IsDir"]]
    assert (SMALL[9:109], SMALL) == (bench.read("ranged"), by_url)


def test_curl(bench: Bench) -> None:
    """A signature made by curl alone; it leaves the payload's hash out where it may."""
    keys = ("--user", f"{bench.keys.access_key}:{bench.keys.secret_key}", "--aws-sigv4", "aws:amz:us-east-1:s3")
    words = ("curl", "--fail", "--silent", *keys, *(("--cacert", bench.ca_file) if bench.ca_file else ()))
    hashed = ("-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD")
    url = f"{bench.url}/{bench.bucket}/curl"

    bench.run(*words, *hashed, "-T", bench.file("small", SMALL), url)
    bench.run(*words, *hashed, "-o", "back", url)
    bench.run(*words, *hashed, "-r", "10-99", "-o", "range", url)
    head = bench.run(*words, *hashed, "--head", url).lower()
    listed = bench.run(*words, *hashed, f"{bench.url}/{bench.bucket}?list-type=2&prefix=cu")
    bench.run(*words, *hashed, "-X", "DELETE", url)

    assert (SMALL, SMALL[10:100]) == (bench.read("back"), bench.read("range"))
    assert f"content-length: {len(SMALL)}" in head
    assert "<Key>curl</Key>" in listed


def test_s3cmd(bench: Bench) -> None:
    """An old client in Python with its own code for signatures, and the old one for URLs."""
    netloc = bench.url.partition("://")[2]
    words = ["s3cmd", "--config=/dev/null", "--no-progress", f"--host={netloc}", f"--host-bucket={netloc}"]
    words += [f"--access_key={bench.keys.access_key}", f"--secret_key={bench.keys.secret_key}", "--region=us-east-1"]
    words += [f"--ca-certs={bench.ca_file}", "--ssl"] if bench.ca_file else ["--no-ssl"]
    bench.file("small", SMALL)
    bench.file("large", LARGE)
    place = f"s3://{bench.bucket}"

    bench.run(*words, "put", "--add-header=x-amz-meta-a: b", "small", f"{place}/{KEY}")
    bench.run(*words, "put", "--multipart-chunk-size-mb=5", "large", f"{place}/large")
    bench.run(*words, "cp", f"{place}/{KEY}", f"{place}/copy")
    bench.run(*words, "get", f"{place}/copy", "small.back")
    bench.run(*words, "get", f"{place}/large", "large.back")
    told = bench.run(*words, "info", f"{place}/{KEY}")
    listed = bench.run(*words, "ls", "--recursive", place)
    if bench.checks_v2:
        url = bench.run(*words, "signurl", f"{place}/copy", "+600").strip()
        assert SMALL == bench.fetch(
            f"{bench.url}{url[url.index(f'/{bench.bucket}/') :]}" if bench.bucket in url else url
        )
    bench.run(*words, "del", "--recursive", "--force", place)

    assert (SMALL, True) == (bench.read("small.back"), bench.read("large.back") == LARGE)
    assert "x-amz-meta-a: b" in told
    assert 3 == listed.count("\n")


def test_minio_py(bench: Bench) -> None:
    """MinIO's client for Python, which composes objects and deletes in batches."""
    minio = pytest.importorskip("minio", reason="minio-py is not installed")
    from minio.commonconfig import ComposeSource, CopySource
    from minio.deleteobjects import DeleteObject

    client = minio.Minio(
        endpoint=bench.url.partition("://")[2],
        access_key=bench.keys.access_key,
        secret_key=bench.keys.secret_key,
        secure=bool(bench.ca_file),
        region="us-east-1",
        http_client=pool_manager(bench),
    )
    client.put_object(
        bucket_name=bench.bucket, object_name=KEY, data=io.BytesIO(SMALL), length=len(SMALL), metadata={"a": "b c"}
    )
    client.fput_object(
        bucket_name=bench.bucket, object_name="large", file_path=bench.file("large", LARGE), part_size=5 << 20
    )
    client.copy_object(bucket_name=bench.bucket, object_name="copy", source=CopySource(bench.bucket, KEY))
    client.compose_object(
        bucket_name=bench.bucket,
        object_name="joined",
        # RGW 16 does not decode the source of a part's copy, so this one needs no encoding.
        sources=[ComposeSource(bench.bucket, "large"), ComposeSource(bench.bucket, "copy")],
    )

    stat = client.stat_object(bucket_name=bench.bucket, object_name=KEY)
    names = [found.object_name for found in client.list_objects(bucket_name=bench.bucket, recursive=True)]
    with client.get_object(bucket_name=bench.bucket, object_name="joined") as answer:
        assert answer.read() == LARGE + SMALL
    with client.get_object(bucket_name=bench.bucket, object_name="large", offset=10, length=99) as answer:
        assert LARGE[10:109] == answer.read()
    assert SMALL == bench.fetch(client.presigned_get_object(bucket_name=bench.bucket, object_name="copy"))
    bench.fetch(client.presigned_put_object(bucket_name=bench.bucket, object_name="copy"), body=b"new")
    assert b"new" == bench.fetch(client.presigned_get_object(bucket_name=bench.bucket, object_name="copy"))
    assert ("b c", len(SMALL)) == (stat.metadata["x-amz-meta-a"], stat.size)
    assert ["copy", KEY, "joined", "large"] == names
    doomed = [DeleteObject(name) for name in names]
    assert [] == list(client.remove_objects(bucket_name=bench.bucket, delete_object_list=doomed))


def pool_manager(bench: Bench) -> Any:
    """Give minio-py its connections: no second tries, which would hide a first that failed."""
    import urllib3

    return urllib3.PoolManager(retries=False, ca_certs=bench.ca_file or None)
