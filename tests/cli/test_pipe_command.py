"""pipe: standard input becomes an object, or nothing does."""

from __future__ import annotations

from json import loads
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import Answer, FakeS3, Reset, internal_error


@pytest.fixture
def bucket(fake: FakeS3) -> str:
    """Give an empty bucket's name."""
    fake.store.add("bkt", "seed")
    fake.store.buckets["bkt"].remove("seed", "null")
    return "bkt"


@pytest.mark.parametrize("content", [b"", b"hello\n"])
def test_small_input_is_put_in_one_piece(fake: FakeS3, call: Call, bucket: str, content: bytes) -> None:
    """Nothing at all is an object, too."""
    result = call("pipe", f"s3/{bucket}/k", stdin=content)

    assert (0, "- -> s3/bkt/k\n") == (result.code, result.out)
    assert {"k": content} == fake.store.bodies(bucket)
    assert ["PutObject"] == fake.ops(op="PutObject")


def test_large_input_goes_in_parts(fake: FakeS3, call: Call, bucket: str) -> None:
    """Over all nodes, whole in the end."""
    content = bytes(range(256)) * (21 << 12)

    result = call("pipe", "--json", f"s3/{bucket}/k", stdin=content)

    record = result.records[0]
    assert isinstance(record.pop("seconds"), float)
    assert {"type": "copy", "source": "-", "target": "s3/bkt/k", "size": len(content)} == record
    assert content == fake.store.bodies(bucket)["k"]
    assert ["CompleteMultipartUpload"] == fake.ops(op="CompleteMultipartUpload")


def test_attributes_are_stored(fake: FakeS3, call: Call, bucket: str) -> None:
    """As cp stores them."""
    flags = ["--metadata", "Colour=blue=ish", "--content-type", "text/x-log", "--tags", "a=1&b=2"]

    call("pipe", *flags, f"s3/{bucket}/k", stdin=b"x")

    stored = fake.store.buckets[bucket].versions["k"][0]
    assert ("blue=ish", "text/x-log") == (stored.headers["x-amz-meta-colour"], stored.headers["content-type"])
    assert {"a": "1", "b": "2"} == stored.tags


def test_no_clobber_leaves_what_exists(fake: FakeS3, call: Call, bucket: str) -> None:
    """It is not even read; skipping by wish is no failure."""
    fake.store.add(bucket, "k", b"old")

    result = call("pipe", "-n", f"s3/{bucket}/k", stdin=b"new")

    assert (0, "", "s3pool: s3/bkt/k was not written: it exists\n") == (result.code, result.out, result.err)
    assert {"k": b"old"} == fake.store.bodies(bucket)


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_what_exists_is_told_in_json_too(fake: FakeS3, call: Call, bucket: str, flags: tuple[str, ...]) -> None:
    """A script must not take silence for an object that was written; a dry run knows it as well."""
    fake.store.add(bucket, "k", b"old")

    result = call("pipe", "-n", "--json", *flags, f"s3/{bucket}/k", stdin=b"new")

    message = "s3/bkt/k was not written: it exists"
    assert (0, "") == (result.code, result.out)
    assert {"type": "note", "op": "pipe", "source": "-", "target": "s3/bkt/k", "message": message} == loads(result.err)


def test_dry_run_stores_nothing(fake: FakeS3, call: Call, bucket: str) -> None:
    """And says so."""
    result = call("pipe", "--dry-run", f"s3/{bucket}/k", stdin=b"new")

    assert "(dry run) - -> s3/bkt/k\n" == result.out
    assert {} == fake.store.bodies(bucket)


def test_dying_node_does_not_matter(fake: FakeS3, call: Call, bucket: str) -> None:
    """The bytes are in memory: they go to another one."""
    fake.fault(Reset(after=1), op="PutObject")

    assert 0 == call("pipe", f"s3/{bucket}/k", stdin=b"hello").code
    assert {"k": b"hello"} == fake.store.bodies(bucket)


def test_failure_leaves_no_upload_behind(fake: FakeS3, call: Call, bucket: str) -> None:
    """Parts that nobody sees cost money."""
    fake.fault(internal_error(), op="UploadPart", nth=2, times=0)

    result = call("pipe", "--retries", "1", f"s3/{bucket}/k", stdin=b"x" * (17 << 20))

    assert 1 == result.code
    assert {} == fake.store.buckets[bucket].uploads
    assert {} == fake.store.bodies(bucket)


@pytest.mark.parametrize("target", ["s3/bkt", "s3/bkt/", "./file", "-"])
def test_target_must_be_a_key(call: Call, target: str) -> None:
    """A stream has no name to append."""
    assert 2 == call("pipe", target, stdin=b"x").code


def test_missing_bucket_is_exit_3(call: Call) -> None:
    """One line."""
    result = call("pipe", "s3/none/k", stdin=b"x")

    assert 3 == result.code
    assert 1 == result.err.count("\n")


def test_directory_as_target_is_a_usage_error(fake: FakeS3, call: Call, bucket: str) -> None:
    """A stream has no name that could be appended, and an object called dir/ is what nobody meant."""
    result = call("pipe", f"s3/{bucket}/dir/", stdin=b"x")

    assert (2, {}) == (result.code, fake.store.bodies(bucket))
    assert "s3/bkt/dir/ names a directory: a stream has no name of its own; write s3/bkt/dir/NAME" in result.err


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--acl", "Public"], "argument --acl: 'Public' is no canned ACL; there are private, public-read,"),
        (
            ["--sse", "AES"],
            "argument --sse: 'AES' is unknown; there are AES256, aws:kms, aws:kms:dsse and aws:kms:KEYID",
        ),
        (["--sse", "aws:kms:"], "argument --sse: 'aws:kms:' is unknown"),
    ],
)
def test_values_that_no_s3_knows_are_usage_errors(call: Call, bucket: str, flags: list[str], line: str) -> None:
    """Said before a byte is read, with what there is."""
    result = call("pipe", *flags, f"s3/{bucket}/k", stdin=b"x")

    assert (2, 1) == (result.code, result.err.count("\n"))
    assert line in result.err


def test_refused_storage_class_is_named(fake: FakeS3, call: Call, bucket: str, tmp_path: Path) -> None:
    """RGW says InvalidArgument and nothing else; classes are each vendor's own."""
    (tmp_path / "f").write_bytes(b"x")
    fake.fault(Answer(400, "InvalidArgument"), op="PutObject", times=0)

    piped = call("pipe", "--storage-class", "COLD", f"s3/{bucket}/k", stdin=b"x")
    copied = call("cp", "--storage-class", "COLD", "f", f"s3/{bucket}/k")
    plain = call("cp", "f", f"s3/{bucket}/k")

    assert (1, 1, 1) == (piped.code, copied.code, plain.code)
    for result in (piped, copied):
        assert "the server may not know --storage-class COLD" in result.err
    assert "may not know" not in plain.err
