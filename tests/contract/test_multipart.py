from __future__ import annotations

import hashlib
import os

import pytest

from s3pool.body import BytesBody
from s3pool.errors import NotFoundError, S3Error
from s3pool.model import ByteRange, ObjectAttributes
from s3pool.s3.client import S3Client
from s3pool.s3.list_all import iter_uploads
from tests.support.contract import PART_BYTES, PLAIN, Backend, get, md5, put


def begin(client: S3Client, bucket: str, key: str = "k", *, attributes: ObjectAttributes = PLAIN) -> str:
    """Begin an upload."""
    return client.create_multipart_upload(bucket, key, attributes=attributes)


def send_part(client: S3Client, bucket: str, upload_id: str, number: int, content: bytes, *, key: str = "k") -> str:
    """Send one part; gives its ETag."""
    body = BytesBody(content)
    stored = client.upload_part(bucket, key, upload_id=upload_id, number=number, body=body, payload_hash=body.sha256())
    return stored.etag


def composite(*parts: bytes) -> str:
    """Compute the ETag of an object made of parts."""
    digests = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in parts)
    return f"{md5(digests)}-{len(parts)}"


def test_parts_become_one_object(client: S3Client, bucket: str) -> None:
    """Each part may have gone through another node, and Complete through a fourth."""
    parts = [os.urandom(PART_BYTES), os.urandom(PART_BYTES), b"tail"]
    attributes = ObjectAttributes(content_type="text/x-parts", metadata={"mtime": "1769114673.5"})

    upload_id = begin(client, bucket, attributes=attributes)
    sent = [(number, send_part(client, bucket, upload_id, number, part)) for number, part in enumerate(parts, 1)]
    client.complete_multipart_upload(bucket, "k", upload_id=upload_id, parts=sent)
    head = client.head_object(bucket, "k")

    assert [md5(part) for part in parts] == [etag for _, etag in sent]
    assert (composite(*parts), "text/x-parts") == (head.etag, head.content_type)
    assert "1769114673.5" == head.metadata["mtime"]
    assert b"".join(parts) == get(client, bucket, "k")


def test_parts_may_come_in_any_order(client: S3Client, bucket: str) -> None:
    """And a part that is sent again replaces itself: that is what a retry does."""
    first, last = os.urandom(PART_BYTES), b"tail"
    upload_id = begin(client, bucket)

    last_etag = send_part(client, bucket, upload_id, 7, last)
    send_part(client, bucket, upload_id, 3, b"wrong")
    first_etag = send_part(client, bucket, upload_id, 3, first)
    client.complete_multipart_upload(bucket, "k", upload_id=upload_id, parts=[(3, first_etag), (7, last_etag)])

    assert first + last == get(client, bucket, "k")


def test_object_appears_with_complete_only(client: S3Client, bucket: str) -> None:
    """Until then the old object stands."""
    put(client, bucket, "k", b"old")

    upload_id = begin(client, bucket)
    etag = send_part(client, bucket, upload_id, 1, b"new")
    before = get(client, bucket, "k")
    client.complete_multipart_upload(bucket, "k", upload_id=upload_id, parts=[(1, etag)])

    assert (b"old", b"new") == (before, get(client, bucket, "k"))


def test_aborted_upload_leaves_nothing(client: S3Client, bucket: str) -> None:
    """No object, no upload; and aborting twice is no error."""
    upload_id = begin(client, bucket)
    send_part(client, bucket, upload_id, 1, b"x")

    client.abort_multipart_upload(bucket, "k", upload_id=upload_id)
    client.abort_multipart_upload(bucket, "k", upload_id=upload_id)

    assert [] == list(iter_uploads(client, bucket))
    with pytest.raises(NotFoundError):
        client.head_object(bucket, "k")


def test_part_of_an_aborted_upload_is_refused(backend: Backend, client: S3Client, bucket: str) -> None:
    """A late worker learns that its upload is gone."""
    backend.need("errors for gone uploads")
    upload_id = begin(client, bucket)
    client.abort_multipart_upload(bucket, "k", upload_id=upload_id)

    with pytest.raises(NotFoundError) as caught:
        send_part(client, bucket, upload_id, 1, b"x")

    assert "NoSuchUpload" == caught.value.code


def test_stored_parts_are_listed(client: S3Client, bucket: str) -> None:
    """A resumed upload asks the storage what it has."""
    upload_id = begin(client, bucket, "a b+c/é")
    for number in (1, 2, 9):
        send_part(client, bucket, upload_id, number, b"x" * number, key="a b+c/é")

    parts = client.list_parts(bucket, "a b+c/é", upload_id=upload_id)

    expected = [(number, md5(b"x" * number), number) for number in (1, 2, 9)]
    assert expected == [(part.number, part.etag, part.size) for part in parts]


def test_unfinished_uploads_are_listed(client: S3Client, bucket: str) -> None:
    """In the order of keys, two of one key included."""
    names = ["a/1", "a/1", "b c", "d+é"]
    begun = sorted((name, begin(client, bucket, name)) for name in names)

    found = sorted((upload.key, upload.upload_id) for upload in iter_uploads(client, bucket))
    below = [upload.key for upload in iter_uploads(client, bucket, prefix="a/")]

    assert begun == found
    assert ["a/1", "a/1"] == below


@pytest.mark.parametrize("wrong", ["etag", "number", "order"])
def test_wrong_list_of_parts_is_refused(backend: Backend, client: S3Client, bucket: str, wrong: str) -> None:
    """Complete names every part by number and ETag; nothing appears when one is wrong."""
    if wrong == "order":
        backend.need("order of parts")
    upload_id = begin(client, bucket)
    first = send_part(client, bucket, upload_id, 1, os.urandom(PART_BYTES))
    second = send_part(client, bucket, upload_id, 2, b"tail")
    parts = {
        "etag": [(1, first), (2, "0" * 32)],
        "number": [(1, first), (3, second)],
        "order": [(2, second), (1, first)],
    }[wrong]

    with pytest.raises(S3Error) as caught:
        client.complete_multipart_upload(bucket, "k", upload_id=upload_id, parts=parts)

    assert 400 == caught.value.status
    with pytest.raises(NotFoundError):
        client.head_object(bucket, "k")


def test_small_part_in_the_middle_is_refused(client: S3Client, bucket: str) -> None:
    """5 MiB is the least that a part may have, the last one excepted."""
    upload_id = begin(client, bucket)
    parts = [(number, send_part(client, bucket, upload_id, number, b"small")) for number in (1, 2)]

    with pytest.raises(S3Error) as caught:
        client.complete_multipart_upload(bucket, "k", upload_id=upload_id, parts=parts)

    assert "EntityTooSmall" == caught.value.code


@pytest.mark.parametrize("key", ["source", "a b+c/é"])
def test_parts_are_copied_from_an_object(client: S3Client, bucket: str, key: str) -> None:
    """Server-side copies of large objects are made of ranges."""
    content = os.urandom(PART_BYTES + 1000)
    put(client, bucket, key, content)
    upload_id = begin(client, bucket, "target")
    spans = [ByteRange(0, PART_BYTES - 1), ByteRange(PART_BYTES, PART_BYTES + 999)]

    etags = [
        client.upload_part_copy(
            bucket, "target", upload_id=upload_id, number=number, source_bucket=bucket, source_key=key, byte_range=span
        )
        for number, span in enumerate(spans, 1)
    ]
    client.complete_multipart_upload(bucket, "target", upload_id=upload_id, parts=list(enumerate(etags, 1)))

    assert [md5(content[span.first : span.last + 1]) for span in spans] == etags
    assert content == get(client, bucket, "target")
