from __future__ import annotations

import pytest

from s3pool.errors import NotFoundError, PreconditionError
from s3pool.model import ObjectAttributes
from s3pool.s3.client import S3Client
from tests.support.contract import Backend, get, md5, put
from tests.support.hostile import HOSTILE_KEYS


def test_copy_source_is_taken_literally(backend: Backend, client: S3Client, hostile_bucket: str, bucket: str) -> None:
    """The source stands percent-encoded in a header; nothing may decode it twice."""
    for key in backend.keys(HOSTILE_KEYS):
        result = client.copy_object(bucket, "copied", source_bucket=hostile_bucket, source_key=key)

        assert md5(key.encode()) == result.etag
        assert key.encode() == get(client, bucket, "copied")


def test_copy_keeps_attributes(client: S3Client, bucket: str) -> None:
    """Unless others are given."""
    attributes = ObjectAttributes(content_type="text/x-old", metadata={"note": 'a "b"  c'}, tags={"team": "red"})
    put(client, bucket, "k", b"x", attributes=attributes)

    client.copy_object(bucket, "copied", source_bucket=bucket, source_key="k")
    head = client.head_object(bucket, "copied")

    assert ("text/x-old", 'a "b"  c') == (head.content_type, head.metadata["note"])
    assert {"team": "red"} == client.get_tags(bucket, "copied")


def test_copy_replaces_attributes(client: S3Client, bucket: str) -> None:
    """All of them: what is not given again is gone."""
    put(client, bucket, "k", b"x", attributes=ObjectAttributes(content_type="text/x-old", metadata={"note": "old"}))
    fresh = ObjectAttributes(content_type="text/x-new", metadata={"other": "new"})

    client.copy_object(bucket, "copied", source_bucket=bucket, source_key="k", attributes=fresh)
    head = client.head_object(bucket, "copied")

    assert ("text/x-new", "new") == (head.content_type, head.metadata["other"])
    assert "note" not in head.metadata


def test_copy_onto_itself_changes_attributes(client: S3Client, bucket: str) -> None:
    """That is how metadata is changed in place."""
    put(client, bucket, "k", b"content")

    client.copy_object(
        bucket, "k", source_bucket=bucket, source_key="k", attributes=ObjectAttributes(metadata={"note": "new"})
    )

    assert (b"content", "new") == (get(client, bucket, "k"), client.head_object(bucket, "k").metadata["note"])


def test_copy_of_a_changed_source_is_refused(backend: Backend, client: S3Client, bucket: str) -> None:
    """A move deletes the source afterwards: it has to be the one that was looked at."""
    backend.need("copy conditions")
    etag = put(client, bucket, "k", b"old").etag
    put(client, bucket, "k", b"new")

    with pytest.raises(PreconditionError):
        client.copy_object(bucket, "copied", source_bucket=bucket, source_key="k", if_match=etag)
    with pytest.raises(NotFoundError):
        client.head_object(bucket, "copied")


def test_copy_of_nothing_is_not_found(client: S3Client, bucket: str) -> None:
    """A missing source is the caller's to hear of."""
    with pytest.raises(NotFoundError):
        client.copy_object(bucket, "copied", source_bucket=bucket, source_key="never")
