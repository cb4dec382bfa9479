"""What a server tells of a batch delete is told on, whatever it calls the keys' versions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.cli.conftest import Call, boto_of
from tests.support.fake_s3 import Answer, Exchange, FakeS3, Fault, Reply
from tests.support.rgw import RgwCluster
from tests.support.run_cli import CliRunner

KEYS = ("d/a", "d/b", "d/c")
COMMANDS = {
    "rm": (("rm", "-r", "--force", "s3/b/d"), b""),
    "rm --prefix": (("rm", "--prefix", "--force", "s3/b/d"), b""),
    "rm --stdin": (("rm", "--stdin"), b"s3/b/d/a\ns3/b/d/b\ns3/b/d/c\n"),
    "rm --versions": (("rm", "-r", "--versions", "--force", "s3/b/d"), b""),
    "find": (("find", "s3/b/d", "--delete"), b""),
    "sync": (("sync", "empty", "s3/b/d", "--delete", "--allow-empty-source"), b""),
    "rb": (("rb", "--force", "s3/b"), b""),
}


@dataclass
class Refuse(Fault):
    """Answer a batch delete with a document, and delete nothing."""

    document: str

    def receive(self, exchange: Exchange) -> Reply:
        """Answer now."""
        exchange.body()
        return Reply(200, f"<DeleteResult>{self.document}</DeleteResult>".encode(), {"Content-Type": "application/xml"})


def error(key: str, version_id: str = "", code: str = "AccessDenied") -> str:
    """Return one entry of what was not deleted."""
    return f"<Error><Key>{key}</Key><VersionId>{version_id}</VersionId><Code>{code}</Code><Message>no</Message></Error>"


@pytest.fixture
def filled(fake: FakeS3, tmp_path: Path) -> FakeS3:
    """Return a store with a tree, and an empty directory."""
    for key in KEYS:
        fake.store.add("b", key, b"1")
    (tmp_path / "empty").mkdir()
    return fake


@pytest.mark.parametrize("version_id", ["", "null", "3HL4kqtJvjVBH40Nrjfkd"])
@pytest.mark.parametrize("command", list(COMMANDS))
def test_error_counts_however_the_version_is_spelled(filled: FakeS3, call: Call, command: str, version_id: str) -> None:
    """Servers answer with "null", with nothing, or with the version that they met."""
    argv, stdin = COMMANDS[command]
    filled.fault(Refuse("".join(error(key, version_id) for key in KEYS)), op="DeleteObjects", times=0)

    result = call(*argv, stdin=stdin)

    assert (4, []) == (result.code, result.lines)
    lines = [line for line in result.err.splitlines() if "AccessDenied" in line]
    assert list(KEYS) == sorted(key for key in KEYS for line in lines if f"s3/b/{key}" in line)
    assert 3 == len(lines)


@pytest.mark.parametrize("key", ["d%2Fa", "", "another"])
@pytest.mark.parametrize("command", list(COMMANDS))
def test_error_of_an_unknown_key_fails_the_batch(filled: FakeS3, call: Call, command: str, key: str) -> None:
    """Which key is meant cannot be known, so that none may be told as deleted."""
    argv, stdin = COMMANDS[command]
    filled.fault(Refuse(error(key)), op="DeleteObjects", times=0)

    result = call("--json", *argv, stdin=stdin)

    assert 4 == result.code
    assert [] == [record for record in result.records if record["type"] in ("delete", "bucket_deleted")]
    assert 3 == result.err.count('"code":"AccessDenied"')


def test_key_without_an_error_is_told_as_deleted(filled: FakeS3, call: Call) -> None:
    """Each key has one line: an error or a deletion."""
    filled.fault(Refuse(error("d/b", "null")), op="DeleteObjects")

    result = call("rm", "-r", "--force", "s3/b/d")

    assert (1, ["Deleted: s3/b/d/a", "Deleted: s3/b/d/c"]) == (result.code, result.lines)
    line, summary, _ = result.err.split("\n")
    assert re.fullmatch(
        r"s3pool: error: DeleteObjects s3/b/d/b at http://127\.0\.0\.1:\d+: 403 AccessDenied: no "
        r"\(request fake-\d-\d+\); check the keys and their policy",
        line,
    )
    assert summary.startswith("s3pool: 2 deleted, 1 failed in ")


def test_versions_of_a_key_are_told_apart(fake: FakeS3, call: Call) -> None:
    """One may be locked and the other not."""
    call("mb", "s3/bucket", "--versioning")
    versions = [fake.store.add("bucket", "k", body).version_id for body in (b"1", b"2")]
    fake.fault(Refuse(error("k", versions[0])), op="DeleteObjects")

    result = call("rm", "--versions", "s3/bucket/k")

    assert [f"Deleted: s3/bucket/k (version {versions[1]})"] == result.lines
    assert 1 == result.code


def test_keys_that_are_gone_already_are_no_errors(filled: FakeS3, call: Call) -> None:
    """Some servers tell them as errors in a batch; alone they would be none."""
    filled.fault(Refuse("".join(error(key, code="NoSuchKey") for key in KEYS)), op="DeleteObjects")

    result = call("rm", "-r", "--force", "s3/b/d")

    assert (0, 3) == (result.code, len(result.lines))


def test_unknown_key_that_is_gone_proves_nothing(filled: FakeS3, call: Call) -> None:
    """The server looked for another name than the one that was meant."""
    filled.fault(Refuse(error("d%2Fa", code="NoSuchKey")), op="DeleteObjects")

    result = call("rm", "-r", "--force", "s3/b/d")

    assert (3, []) == (result.code, result.lines)


def test_version_that_is_gone_hides_no_error_of_another(fake: FakeS3, call: Call) -> None:
    """Both are of one key."""
    call("mb", "s3/bucket", "--versioning")
    first, second = (fake.store.add("bucket", "k", body).version_id for body in (b"1", b"2"))
    fake.fault(Refuse(error("k", first, code="NoSuchVersion") + error("k", second)), op="DeleteObjects")

    result = call("rm", "--versions", "s3/bucket/k")

    assert (1, [f"Deleted: s3/bucket/k (version {first})"]) == (result.code, result.lines)


def test_key_that_a_talkative_reply_leaves_out_is_no_success(filled: FakeS3, call: Call) -> None:
    """A reply that lists what was deleted lists all of that."""
    filled.fault(Refuse("<Deleted><Key>d/a</Key></Deleted><Deleted><Key>d/c</Key></Deleted>"), op="DeleteObjects")

    result = call("rm", "-r", "--force", "s3/b/d")

    assert (1, ["Deleted: s3/b/d/a", "Deleted: s3/b/d/c"]) == (result.code, result.lines)
    assert "s3/b/d/b" in result.err


def test_rb_looks_before_it_removes(filled: FakeS3, call: Call) -> None:
    """There are servers that remove full buckets."""
    result = call("rb", "s3/b")

    assert (1, "") == (result.code, result.out)
    assert "s3pool: error: DeleteBucket s3/b: 409 BucketNotEmpty; use rb --force to empty it first\n" == result.err
    assert [] == filled.ops(op="DeleteBucket")


def test_rb_sees_versions_and_delete_markers(fake: FakeS3, call: Call) -> None:
    """A listing of the objects shows none of them."""
    call("mb", "s3/bucket", "--versioning")
    fake.store.add("bucket", "k", b"1")
    call("rm", "s3/bucket/k")

    result = call("rb", "s3/bucket")

    assert (1, "") == (result.code, result.out)
    assert [] == fake.ops(op="DeleteBucket")


def test_rb_does_without_versions_where_there_are_none(fake: FakeS3, call: Call) -> None:
    """Not every server knows the listing of them."""
    call("mb", "s3/bucket")
    fake.fault(Answer(501, "NotImplemented", "no"), op="ListObjectVersions", times=0)

    result = call("rb", "s3/bucket")

    assert (0, "Bucket deleted: s3/bucket\n") == (result.code, result.out)


@pytest.mark.live
def test_locked_versions_are_told_and_stay(rgw: RgwCluster, run_cli: CliRunner, bucket_name: str) -> None:
    """A retention is the usual reason why one key of a batch stays."""
    run_cli.environ.update(rgw.environment)
    place = f"s3/{bucket_name}"
    client = boto_of(rgw.environment)
    run_cli("mb", "--lock", place)
    for key in KEYS:
        run_cli("pipe", f"{place}/{key}", stdin=b"1")
    until = datetime.now(timezone.utc) + timedelta(hours=1)
    client.put_object_retention(
        Bucket=bucket_name, Key="d/b", Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until}
    )
    try:
        plain = run_cli("rb", place)
        result = run_cli("rm", "-r", "--versions", "--force", f"{place}/d")
        forced = run_cli("rb", "--force", "--yes", place)

        assert (1, True) == (plain.code, "BucketNotEmpty" in plain.err)
        assert (1, 2) == (result.code, len(result.lines))
        (told,) = [line for line in result.err.splitlines() if f"DeleteObjects {place}/d/b (version " in line]
        assert re.search(r"at http://127\.0\.0\.1:\d+: (403 AccessDenied|200 InvalidRequest|403 ObjectLocked)", told)
        assert (True, "") == (forced.code in (1, 4), forced.out)  # 4 where the server calls it a matter of the keys
        assert ["d/b"] == [version["Key"] for version in client.list_object_versions(Bucket=bucket_name)["Versions"]]
    finally:
        for version in client.list_object_versions(Bucket=bucket_name).get("Versions", []):
            client.delete_object(
                Bucket=bucket_name,
                Key=version["Key"],
                VersionId=version["VersionId"],
                BypassGovernanceRetention=True,
            )
        client.delete_bucket(Bucket=bucket_name)
