from __future__ import annotations

import base64
import hashlib
import os

import pytest

from s3pool.body import BytesBody, FileSlice
from s3pool.errors import NotFoundError, PreconditionError, S3Error
from s3pool.model import ByteRange, ObjectAttributes
from s3pool.s3.client import S3Client
from tests.support.contract import Backend, get, md5, put


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 3 << 20])
def test_object_comes_back_as_it_was_stored(client: S3Client, bucket: str, size: int) -> None:
    """Every byte counts, at the sizes where buffers end too."""
    content = os.urandom(size)

    result = put(client, bucket, "k", content)

    assert md5(content) == result.etag
    assert content == get(client, bucket, "k")


def test_file_slice_is_stored_from_its_offset(client: S3Client, bucket: str, tmp_path) -> None:
    """An upload straight from a file must not depend on the file's position."""
    path = tmp_path / "source"
    path.write_bytes(b"0123456789" * 1000)

    with path.open("rb") as source:
        source.seek(77)
        body = FileSlice(source.fileno(), offset=10, length=9000)
        client.put_object(bucket, "k", body, payload_hash=hashlib.sha256(path.read_bytes()[10:9010]).hexdigest())

    assert path.read_bytes()[10:9010] == get(client, bucket, "k")


def test_put_replaces_what_was_there(client: S3Client, bucket: str) -> None:
    """The last write is what everybody reads, through whichever node."""
    put(client, bucket, "k", b"old")
    put(client, bucket, "k", b"newer")

    seen = {get(client, bucket, "k") for _ in range(4)}

    assert {b"newer"} == seen


def test_head_tells_all_but_the_bytes(client: S3Client, bucket: str) -> None:
    """The command stat shows what HEAD says."""
    put(client, bucket, "k", b"12345", attributes=ObjectAttributes(content_type="text/x-test"))

    head = client.head_object(bucket, "k")

    assert (5, md5(b"12345"), "text/x-test") == (head.size, head.etag, head.content_type)
    assert head.mtime > 1_600_000_000


def test_attributes_are_kept(client: S3Client, bucket: str) -> None:
    """A copy down and up again must be able to restore them."""
    attributes = ObjectAttributes(
        content_type="text/html; charset=utf-8",
        cache_control="max-age=60, public",
        content_disposition='attachment; filename="a b.txt"',
        content_encoding="gzip",
        content_language="de, en",
    )

    put(client, bucket, "k", b"x", attributes=attributes)
    headers = client.head_object(bucket, "k").headers

    assert attributes.content_type == headers["content-type"]
    assert attributes.cache_control == headers["cache-control"]
    assert attributes.content_disposition == headers["content-disposition"]
    assert attributes.content_encoding == headers["content-encoding"]
    assert attributes.content_language == headers["content-language"]


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        'with "quotes"',
        "two  spaces and   three",
        "a=b;c,d",
        "%41+%2B",
        "1769114673.123456789",
        "[x] {y} <z> & '",
    ],
)
def test_metadata_value_is_kept_exactly(client: S3Client, bucket: str, value: str) -> None:
    """SigV4 folds spaces in its canonical form only; the value itself is the user's."""
    put(client, bucket, "k", b"x", attributes=ObjectAttributes(metadata={"note": value}))

    found = client.head_object(bucket, "k").metadata

    assert value == found["note"]


def test_many_metadata_entries_are_kept(client: S3Client, bucket: str) -> None:
    """All of them are signed, in whatever order they stand."""
    metadata = {f"name-{letter}": letter * 20 for letter in "zyxabc"}

    put(client, bucket, "k", b"x", attributes=ObjectAttributes(metadata=metadata))
    found = client.head_object(bucket, "k").metadata

    assert metadata == {name: found[name] for name in metadata}


def test_tags_are_kept(client: S3Client, bucket: str) -> None:
    """Tags travel in one header, as a query string."""
    tags = {"team": "a b", "cost": "x+y/z=1"}

    put(client, bucket, "k", b"x", attributes=ObjectAttributes(tags=tags))

    assert tags == client.get_tags(bucket, "k")


def test_tags_are_replaced(backend: Backend, client: S3Client, bucket: str) -> None:
    """PUT ?tagging is a whole new set."""
    backend.need("all characters in tags")
    put(client, bucket, "k", b"x", attributes=ObjectAttributes(tags={"old": "1"}))

    client.put_tags(bucket, "k", {"new": "<2> & 3"})

    assert {"new": "<2> & 3"} == client.get_tags(bucket, "k")


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 9), (5, 5), (90, 99), (0, 99)])
def test_range_gives_these_bytes(client: S3Client, bucket: str, first: int, last: int) -> None:
    """Both ends are included, and Content-Range says so."""
    content = bytes(range(100))
    put(client, bucket, "k", content)

    with client.get_object(bucket, "k", byte_range=ByteRange(first, last)) as response:
        found = response.preload()

    assert (206, content[first : last + 1]) == (response.status, found)
    assert f"bytes {first}-{last}/100" == response.headers["content-range"]


@pytest.mark.parametrize(("header", "expected"), [("bytes=95-", slice(95, None)), ("bytes=-3", slice(-3, None))])
def test_open_range_gives_the_rest(client: S3Client, bucket: str, header: str, expected: slice) -> None:
    """The command cat passes such ranges on."""
    content = bytes(range(100))
    put(client, bucket, "k", content)

    with client.get_object(bucket, "k", range_header=header) as response:
        found = response.preload()

    assert content[expected] == found


def test_range_behind_the_end_is_refused(client: S3Client, bucket: str) -> None:
    """416 is how a resumed download learns that the object became shorter."""
    put(client, bucket, "k", b"12345")

    with pytest.raises(S3Error) as caught:
        client.get_object(bucket, "k", byte_range=ByteRange(5, 9))

    assert (416, "InvalidRange") == (caught.value.status, caught.value.code)


def test_if_match_admits_the_same_object_alone(client: S3Client, bucket: str) -> None:
    """The parts of one download all name the ETag they belong to, and must not mix two versions of a key."""
    etag = put(client, bucket, "k", b"12345").etag

    with client.get_object(bucket, "k", if_match=etag, byte_range=ByteRange(1, 2)) as response:
        found = response.preload()
    put(client, bucket, "k", b"other")
    with pytest.raises(PreconditionError) as caught:
        client.get_object(bucket, "k", if_match=etag)

    assert (b"23", 412) == (found, caught.value.status)


def test_no_clobber_refuses_an_existing_key(client: S3Client, bucket: str) -> None:
    """If-None-Match: * admits a key that is not there; what was there stays."""
    put(client, bucket, "k", b"first", new=True)

    with pytest.raises(PreconditionError):
        put(client, bucket, "k", b"second", new=True)

    assert b"first" == get(client, bucket, "k")


def test_wrong_content_md5_stores_nothing(backend: Backend, client: S3Client, bucket: str) -> None:
    """The storage itself checks what arrived."""
    backend.need("content-md5")
    body = BytesBody(b"12345")
    digest = base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()

    with pytest.raises(S3Error) as caught:
        client.put_object(bucket, "k", body, payload_hash=body.sha256(), content_md5=digest)

    assert (400, "BadDigest") == (caught.value.status, caught.value.code)
    with pytest.raises(NotFoundError):
        client.head_object(bucket, "k")


def test_deleted_object_is_gone(client: S3Client, bucket: str) -> None:
    """On every node at once."""
    put(client, bucket, "k", b"x")

    client.delete_object(bucket, "k")

    for _ in range(4):
        with pytest.raises(NotFoundError):
            client.head_object(bucket, "k")


def test_deleting_nothing_is_no_error(client: S3Client, bucket: str) -> None:
    """A repeated delete must not fail."""
    client.delete_object(bucket, "never-there")

    assert () == client.list_objects_page(bucket).objects


def test_batch_delete_takes_a_thousand(client: S3Client, bucket: str) -> None:
    """The largest batch there is, missing keys included, reports no failure."""
    for number in range(12):
        put(client, bucket, f"k{number:04d}", b"")

    failures = client.delete_objects(bucket, [(f"k{number:04d}", "") for number in range(1000)])

    assert () == failures
    assert () == client.list_objects_page(bucket).objects
