from __future__ import annotations

import pytest

from s3pool.errors import NotFoundError, S3Error
from s3pool.s3.client import S3Client
from s3pool.s3.list_all import list_objects
from s3pool.s3.paging import iter_pages
from tests.support.contract import Backend, get, keys, put
from tests.support.hostile import ALL_CHARACTERS_KEY, EVERY_CHARACTER_KEYS, HOSTILE_KEYS, LEADING_BYTES_KEY


def test_hostile_keys_are_distinct_and_exact(backend: Backend, client: S3Client, hostile_bucket: str) -> None:
    """Nothing on the way may fold a//b, a/../b, %2F or twins in NFC and NFD."""
    hostile = backend.keys(HOSTILE_KEYS)
    listed = keys(client, hostile_bucket)
    contents = {key: get(client, hostile_bucket, key).decode() for key in listed}
    sizes = {key: client.head_object(hostile_bucket, key).size for key in hostile}

    assert hostile == listed
    assert {key: key for key in hostile} == contents
    assert {key: len(key.encode()) for key in hostile} == sizes


def test_hostile_keys_are_deleted_one_by_one(backend: Backend, client: S3Client, bucket: str) -> None:
    """The wrong key must never go instead."""
    hostile = backend.keys(HOSTILE_KEYS)
    for key in hostile:
        put(client, bucket, key)

    left = set(hostile)
    for key in hostile[::2]:
        client.delete_object(bucket, key)
        left.discard(key)

    assert sorted(left) == keys(client, bucket)


def test_hostile_keys_are_deleted_in_one_batch(backend: Backend, client: S3Client, bucket: str) -> None:
    """XML folds line ends and holds no control characters; the batch must cope."""
    hostile = backend.keys(HOSTILE_KEYS)
    for key in (*hostile, "keep"):
        put(client, bucket, key)

    failures = client.delete_objects(bucket, [(key, "") for key in hostile])

    assert () == failures
    assert ["keep"] == keys(client, bucket)


@pytest.mark.parametrize("page", [1, 2, 7])
def test_listing_goes_on_behind_any_key(backend: Backend, client: S3Client, hostile_bucket: str, page: int) -> None:
    """Every hostile key is once the last of a page, and so the cursor of the next."""
    hostile = backend.keys(HOSTILE_KEYS)
    found: list[str] = []
    while True:
        after = found[-1] if found else ""
        step = next(iter(iter_pages(client, hostile_bucket, start_after=after, max_keys=page)))
        found += [entry.key for entry in step.objects]
        if not step.objects:
            break

    assert hostile == found


@pytest.mark.parametrize(
    "prefix", ["a/", "a//", "../", "new\n", "plus+", "percent%", "semi;", "caf\u00e9", "control\x01", " "]
)
def test_prefix_is_taken_literally(backend: Backend, client: S3Client, hostile_bucket: str, prefix: str) -> None:
    """A prefix is signed and sent as bytes, not as a pattern."""
    hostile = backend.keys(HOSTILE_KEYS)
    found = keys(client, hostile_bucket, prefix)

    assert [key for key in hostile if key.startswith(prefix)] == found


def test_every_character_is_legal_in_a_key(backend: Backend, client: S3Client, bucket: str) -> None:
    """U+0001 to U+00FF, each alone: signed, stored, listed, read."""
    every = backend.keys(EVERY_CHARACTER_KEYS)
    for key in every:
        put(client, bucket, key, key.encode())

    listed = keys(client, bucket, "c/")

    assert every == listed
    assert all(key.encode() == get(client, bucket, key) for key in every)


@pytest.mark.parametrize("key", [ALL_CHARACTERS_KEY, LEADING_BYTES_KEY, "k" * 1024, "/", "//", "///a", "?", "#"])
def test_extreme_key_comes_back(backend: Backend, client: S3Client, bucket: str, key: str) -> None:
    """All characters at once, the longest key, and keys that look like the end of a path."""
    if not backend.keys([key]):
        backend.need("line ends in keys")
    put(client, bucket, key, b"content")

    listed = keys(client, bucket)

    assert [key] == listed
    assert b"content" == get(client, bucket, key)


def test_too_long_key_is_refused(backend: Backend, client: S3Client, bucket: str) -> None:
    """1024 bytes are S3's limit; the error is the server's and names no other key."""
    backend.need("key limit")
    with pytest.raises(S3Error) as caught:
        put(client, bucket, "k" * 1025, b"x")

    assert 400 == caught.value.status
    assert [] == keys(client, bucket)


def test_folded_key_does_not_exist(backend: Backend, client: S3Client, bucket: str) -> None:
    """A client that normalised would find a/b here."""
    put(client, bucket, "a/b")

    for other in ("a//b", "a/./b", "a/c/../b", "/a/b", "a/b/"):
        with pytest.raises(NotFoundError):
            client.head_object(bucket, other)


def test_groups_are_listed_exactly(backend: Backend, client: S3Client, bucket: str) -> None:
    """Common prefixes are encoded and cut like keys."""
    for key in ("plain", "a b/1", "a b/2", "é+/1", "%2F/1", "//1", "x/y/z", "tail"):
        put(client, bucket, key)

    pages = list(iter_pages(client, bucket, delimiter="/"))

    assert ["plain", "tail"] == [found.key for page in pages for found in page.objects]
    assert sorted(["a b/", "é+/", "%2F/", "/", "x/"]) == [group for page in pages for group in page.prefixes]


def test_listing_is_in_byte_order(backend: Backend, client: S3Client, bucket: str) -> None:
    """Merge joins rest on it: an emoji stands behind U+FFFD, in bytes as in code points."""
    names = ["a", "a-b", "a/b", "a0", "\ufffd", "\U0001f600", "z", "Z"]
    for key in names:
        put(client, bucket, key)

    listed = [found.key for found in list_objects(client, bucket)]

    assert sorted(names, key=str.encode) == listed
