"""What stat tells of keys, buckets and prefixes."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Call
from tests.support.fake_s3 import FakeS3


def test_block_of_an_object(fake: FakeS3, call: Call) -> None:
    """Labels that people read and scripts grep for."""
    fake.store.add("b", "k", b"x" * 1536, content_type="text/plain", x_amz_meta_colour="deep  blue")

    result = call("stat", "s3/b/k")

    assert [
        "Name: s3/b/k",
        "Type: object",
        "Size: 1.50 KiB (1536)",
        "Last Modified: 1970-01-01T00:00:00.000Z",
        "ETag: f50a2c77058d8691e94732f00d076b9e",
        "Content-Type: text/plain",
        "Storage Class: STANDARD",
        "Metadata:",
        "  colour: deep  blue",
    ] == [line for line in result.lines if not line.startswith("X-Amz")]


def test_json_is_the_object_record_and_more(fake: FakeS3, call: Call) -> None:
    """The fields of ls, the content type, the metadata, and every header."""
    fake.store.add("b", "k", b"abc", content_type="text/plain", x_amz_meta_a="1")

    record = call("stat", "--json", "s3/b/k").records[0]

    headers = record.pop("headers")
    assert {
        "type": "object",
        "url": "s3/b/k",
        "bucket": "b",
        "key": "k",
        "size": 3,
        "last_modified": "1970-01-01T00:00:00.000Z",
        "etag": "900150983cd24fb0d6963f7d28e17f72",
        "storage_class": "STANDARD",
        "content_type": "text/plain",
        "version_id": "",
        "metadata": {"a": "1"},
    } == record
    assert "text/plain" == headers["content-type"]


def test_it_is_the_exact_key(fake: FakeS3, call: Call) -> None:
    """A longer key with the same beginning is another object; wildcards are characters."""
    fake.store.add("b", "foo.bak")
    fake.store.add("b", "f*", b"1")

    assert 3 == call("stat", "s3/b/foo").code
    assert "Name: s3/b/f*" == call("stat", "s3/b/f*").lines[0]


def test_bucket_says_that_it_is_one(fake: FakeS3, call: Call) -> None:
    """With what is known of it."""
    fake.store.add("b", "k")

    assert ["Name: s3/b", "Type: bucket", "Versioning: Off"] == call("stat", "s3/b").lines[:3]
    assert ("bucket", "b") == tuple(call("stat", "--json", "s3/b").records[0][name] for name in ("type", "name"))


def test_prefix_says_that_it_is_one(fake: FakeS3, call: Call) -> None:
    """It exists by the keys below it; without any it is missing."""
    fake.store.add("b", "p/k")

    assert "Name: s3/b/p/\nType: prefix\n" == call("stat", "s3/b/p/").out
    assert [{"type": "prefix", "url": "s3/b/p/", "prefix": "p/", "bucket": "b"}] == call(
        "stat", "--json", "s3/b/p/"
    ).records
    assert 3 == call("stat", "s3/b/none/").code


def test_directory_marker_is_an_object(fake: FakeS3, call: Call) -> None:
    """The very key comes first, whatever it ends in."""
    fake.store.add("b", "p/")

    assert "Type: object" in call("stat", "s3/b/p/").lines


def test_missing_operand_does_not_stop_the_others(fake: FakeS3, call: Call) -> None:
    """All failures share a code, so it is that one."""
    fake.store.add("b", "a")
    fake.store.add("b", "c")

    result = call("stat", "s3/b/a", "s3/b/none", "s3/b/c")

    assert 3 == result.code
    assert ["Name: s3/b/a", "Name: s3/b/c"] == [line for line in result.lines if line.startswith("Name")]
    assert 1 == result.err.count("404 NoSuchKey")
    assert 1 == result.err.count("; s3pool ls shows the keys there are\n")


def test_versions_are_listed_newest_first(fake: FakeS3, call: Call) -> None:
    """Delete markers included, which no HEAD would show; the neighbour's are not."""
    call("mb", "s3/bkt", "--versioning")
    call("pipe", "s3/bkt/k", stdin=b"one")
    call("pipe", "s3/bkt/k2", stdin=b"other")
    call("find", "s3/bkt", "--name", "k", "--delete")

    records = call("stat", "--versions", "--json", "s3/bkt/k").records
    blocks = call("stat", "--versions", "s3/bkt/k").out.split("\n\n")

    assert [(True, 0), (False, 3)] == [(record["is_delete_marker"], record["size"]) for record in records]
    assert ["Type: delete marker", "Type: object"] == [block.splitlines()[1] for block in blocks]


def test_one_version_by_its_id(fake: FakeS3, call: Call) -> None:
    """What was overwritten can still be asked for."""
    call("mb", "s3/bkt", "--versioning")
    call("pipe", "s3/bkt/k", stdin=b"one")
    call("pipe", "s3/bkt/k", stdin=b"three")
    first = call("stat", "--versions", "--json", "s3/bkt/k").records[-1]["version_id"]

    result = call("stat", "--version-id", first, "s3/bkt/k")

    assert "Size: 3 B (3)" in result.lines


def test_senseless_operands_are_usage_errors(call: Call) -> None:
    """Before anything is asked of the network."""
    assert 2 == call("stat", "s3").code
    assert 2 == call("stat", "./file").code
    assert 2 == call("stat", "--versions", "s3/b").code
    assert 2 == call("stat").code


@pytest.mark.parametrize("command", ["stat", "ls", "cat", "du", "find", "rm"])
def test_a_key_that_is_not_utf8_is_refused_at_once(fake: FakeS3, call: Call, command: str) -> None:
    """No server can hold it; asking would only give each server's own confusion."""
    result = call(command, "s3/b/a\udcff")

    assert (2, "") == (result.code, result.out)
    assert "is not valid UTF-8; the keys of S3 are" in result.err
    assert [] == fake.ops()


def test_one_head_tells_parts_checksums_tags_and_locks(fake: FakeS3, call: Call) -> None:
    """In words instead of headers; the same names are in the record."""
    headers = {"x_amz_checksum_crc32c": "AAAAAA==", "x_amz_tagging_count": "2"}
    version = fake.store.add("b", "k", b"x", **headers)
    version.etag = "0123456789abcdef0123456789abcdef-3"

    lines, record = call("stat", "s3/b/k").lines, call("stat", "--json", "s3/b/k").records[0]

    assert {"Parts: 3", "Checksum CRC32C: AAAAAA==", "Tags: 2"} <= set(lines)
    assert (3, "AAAAAA==", 2) == (record["parts"], record["checksum_crc32c"], record["tags"])
    assert ["HeadObject"] * 2 == fake.ops()


def test_all_asks_for_the_settings(fake: FakeS3, call: Call) -> None:
    """A request each; what the server does not know is left out."""
    fake.store.add("b", "k", b"x").tags["owner"] = "me"

    of_key, of_bucket = call("stat", "--all", "s3/b/k"), call("stat", "--all", "--json", "s3/b")

    assert (0, "Setting tag: owner=me") == (of_key.code, of_key.lines[-1])
    assert {"version": "Off"} == of_bucket.records[0]["settings"]
