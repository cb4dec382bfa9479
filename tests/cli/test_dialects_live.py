"""What servers do otherwise, on the server that runs: the fakes of test_dialects do as these do."""

from __future__ import annotations

import os
from collections.abc import Iterator

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.support.fake_s3 import MIB
from tests.support.proxying import RunningProxy
from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliRunner

pytestmark = pytest.mark.live
SERVER = os.environ.get("S3POOL_LIVE_SERVER", "rgw")
KEEPS_CHECKSUMS = SERVER in ("minio", "versitygw", "seaweedfs", "garage")
ON_MINIO = pytest.mark.skipif(SERVER != "minio", reason="MinIO's own")


@pytest.fixture
def bucket(rgw: RgwCluster, run_cli: CliRunner, bucket_name: str) -> Iterator[str]:
    """Return an empty bucket, removed at the end with what is in it."""
    run_cli.environ.update(rgw.environment)
    assert 0 == run_cli("mb", bucket_name).code
    yield bucket_name
    run_cli("rb", "--force", "--yes", bucket_name)


def clients(rgw: RgwCluster) -> list[object]:
    """Return boto3 on each node."""
    keys = {
        "aws_access_key_id": rgw.environment["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": rgw.environment["AWS_SECRET_ACCESS_KEY"],
    }
    return [boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys) for url in rgw.endpoints]


@pytest.mark.skipif(SERVER == "versitygw", reason="x and x/y exclude each other")
@pytest.mark.parametrize("act", ["rm", "mv", "sync"])
def test_what_a_deletion_bares_goes_too(rgw: RgwCluster, run_cli: CliRunner, bucket: str, act: str) -> None:
    """Objects below the name of an object are gone, or moved, with it."""
    boto = clients(rgw)[0]
    for key in ("p/x", "p/x/y", "p/x/y/z"):
        assert 0 == run_cli("pipe", f"s3/{bucket}/{key}", stdin=b"1").code
    (run_cli.home / "d").mkdir()
    (run_cli.home / "d" / "new").write_bytes(b"1")
    words = {
        "rm": ("rm", "-r", "--force", f"s3/{bucket}/p"),
        "mv": ("mv", "-r", f"s3/{bucket}/p", f"s3/{bucket}/q"),
        "sync": ("sync", "--delete", "--max-delete", "none", "d", f"s3/{bucket}/p"),
    }

    result = run_cli(*words[act])

    assert 0 == result.code, result.err
    for key in ("x", "x/y", "x/y/z"):
        with pytest.raises(ClientError, match="404"):
            boto.head_object(Bucket=bucket, Key=f"p/{key}")  # type: ignore[attr-defined]
        if act == "mv":
            assert 1 == boto.head_object(Bucket=bucket, Key=f"q/{key}")["ContentLength"]  # type: ignore[attr-defined]


def test_unfinished_uploads_of_all_nodes_are_removed(rgw: RgwCluster, run_cli: CliRunner, bucket: str) -> None:
    """Whichever node began them, and whichever is asked."""
    begun = [(client, f"u/{number}/{turn}") for turn in range(2) for number, client in enumerate(clients(rgw))]
    uploads = [
        (client, key, client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"])  # type: ignore[attr-defined]
        for client, key in begun
    ]

    result = run_cli("rm", "--incomplete", "-r", "--force", f"s3/{bucket}/u")

    assert 0 == result.code, result.err
    assert f"{len(uploads)} deleted" in result.err
    for client, key, upload_id in uploads:
        with pytest.raises(ClientError, match="NoSuch"):
            client.list_parts(Bucket=bucket, Key=key, UploadId=upload_id)  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", [("--part-size", "5M"), ()], ids=["parts", "one piece"])
def test_uploads_keep_a_checksum_where_the_server_does(run_cli: CliRunner, bucket: str, words: tuple[str, ...]) -> None:
    """And come back right with it, by its ETag, and with neither."""
    content = os.urandom(12 * MIB)
    (run_cli.home / "f").write_bytes(content)
    strict = {"AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required"}

    up = run_cli("cp", "f", f"s3/{bucket}/k", *words)
    stat = run_cli("stat", "--json", f"s3/{bucket}/k")
    downs = [
        run_cli("cp", f"s3/{bucket}/k", f"b{number}", *words, *more, env=env)
        for number, (more, env) in enumerate((((), {}), ((), strict), (("--no-verify",), {})))
    ]

    assert [0] * 5 == [result.code for result in (up, stat, *downs)], up.err + downs[0].err
    assert KEEPS_CHECKSUMS == ("crc64nvme" in stat.out)
    assert [content] * 3 == [(run_cli.home / f"b{number}").read_bytes() for number in range(3)]
    headers = stat.records[0]["headers"]
    assert not {"server", "date", "vary", "x-amz-request-id", "strict-transport-security"} & set(headers)


@pytest.mark.skipif(SERVER in ("seaweedfs", "garage"), reason="without object locks")
def test_a_locked_bucket_takes_files_and_parts(run_cli: CliRunner, bucket_name: str, rgw: RgwCluster) -> None:
    """With the digest that it wants."""
    run_cli.environ.update(rgw.environment)
    assert 0 == run_cli("mb", "--lock", bucket_name).code
    (run_cli.home / "d").mkdir()
    for name, size in (("small", 9), ("large", 6 * MIB)):
        (run_cli.home / "d" / name).write_bytes(bytes(size))

    result = run_cli("cp", "-r", "d", f"s3/{bucket_name}", "--part-size", "5M")

    assert 0 == result.code, result.err
    run_cli("rb", "--force", "--yes", bucket_name)


@ON_MINIO
def test_a_name_that_no_disk_holds_ends_at_once(run_cli: CliRunner, bucket: str) -> None:
    """One line with the limit, and no attempts for half a minute."""
    (run_cli.home / "f").write_bytes(b"1")

    result = run_cli("cp", "f", f"s3/{bucket}/{'é' * 150}/k")

    assert 1 == result.code
    assert "has 300 bytes, and MinIO stores at most 255" in result.err


@ON_MINIO
def test_a_client_that_asks_for_health_is_answered_by_the_proxy(rgw: RgwCluster) -> None:
    """Mc ready waits for it."""
    with RunningProxy(rgw.endpoints) as proxy:
        answers = [proxy.ask("GET", f"/minio/health/{name}", key=None, close=True) for name in ("live", "cluster")]

    assert [200, 200] == [answer.status for answer in answers]
