from __future__ import annotations

import pytest

from s3pool.errors import NotFoundError, S3Error
from s3pool.model import ObjectInfo
from s3pool.s3.client import S3Client
from s3pool.s3.list_all import list_versions
from tests.support.contract import Backend, get, keys, put


@pytest.fixture
def versioned(client: S3Client, bucket: str) -> str:
    """Give a bucket that keeps versions."""
    client.put_versioning(bucket, enabled=True)
    return bucket


def test_versioning_is_off_at_first(client: S3Client, bucket: str) -> None:
    """No state is the empty word."""
    assert "" == client.get_versioning(bucket)


def test_versioning_is_switched(client: S3Client, bucket: str) -> None:
    """On, and never quite off again."""
    client.put_versioning(bucket, enabled=True)
    on = client.get_versioning(bucket)
    client.put_versioning(bucket, enabled=False)

    assert ("Enabled", "Suspended") == (on, client.get_versioning(bucket))


def test_every_put_is_a_version(client: S3Client, versioned: str) -> None:
    """The newest is what a plain GET gives; the others have ids."""
    ids = [put(client, versioned, "k", content).version_id for content in (b"one", b"two", b"three")]

    contents = [get(client, versioned, "k", version_id=version_id) for version_id in ids]

    assert 3 == len({*ids} - {""})
    assert [b"one", b"two", b"three"] == contents
    assert b"three" == get(client, versioned, "k")
    assert ids[1] == client.head_object(versioned, "k", version_id=ids[1]).version_id


def test_delete_hides_a_key(client: S3Client, versioned: str) -> None:
    """A marker stands over the versions, and can be taken away."""
    put(client, versioned, "k", b"content")

    client.delete_object(versioned, "k")
    hidden = keys(client, versioned)
    marker = next(found for found in list_versions(client, versioned) if found.is_delete_marker)
    client.delete_object(versioned, "k", version_id=marker.version_id)

    assert [] == hidden
    assert b"content" == get(client, versioned, "k")


def test_hidden_key_is_not_found(client: S3Client, versioned: str) -> None:
    """For HEAD as for GET."""
    put(client, versioned, "k", b"content")
    client.delete_object(versioned, "k")

    with pytest.raises(NotFoundError):
        client.head_object(versioned, "k")
    with pytest.raises(NotFoundError):
        get(client, versioned, "k")


def test_versions_are_listed_newest_first(backend: Backend, client: S3Client, versioned: str) -> None:
    """Markers among them, one of each key the latest."""
    backend.need("order of versions")
    for name in ("a b", "é+"):
        put(client, versioned, name, b"one")
        put(client, versioned, name, b"three")
        client.delete_object(versioned, name)

    found = [_shape(version) for version in list_versions(client, versioned)]

    expected = [(True, True, 0), (False, False, 5), (False, False, 3)]
    assert [(name, *shape) for name in ("a b", "é+") for shape in expected] == found


def _shape(version: ObjectInfo) -> tuple[str, bool, bool, int]:
    return version.key, version.is_delete_marker, version.is_latest, version.size


@pytest.mark.parametrize("size", [1, 2, 4, 1000])
def test_pages_of_versions_are_the_listing(client: S3Client, versioned: str, size: int) -> None:
    """A page may end in the middle of a key."""
    for name in ("a", "b", "c"):
        for content in (b"1", b"22"):
            put(client, versioned, name, content)
    whole = [(version.key, version.version_id) for version in list_versions(client, versioned)]

    found: list[tuple[str, str]] = []
    marker = ("", "")
    for _ in range(10):
        page = client.list_versions_page(versioned, key_marker=marker[0], version_id_marker=marker[1], max_keys=size)
        found += [(version.key, version.version_id) for version in page.objects]
        marker = (page.next_token, page.next_version_id)
        if not page.truncated:
            break

    assert 6 == len(whole)
    assert whole == found


def test_one_version_is_deleted_for_good(client: S3Client, versioned: str) -> None:
    """And only that one."""
    first, second = (put(client, versioned, "k", content).version_id for content in (b"one", b"two"))

    client.delete_object(versioned, "k", version_id=first)

    assert [second] == [version.version_id for version in list_versions(client, versioned)]
    with pytest.raises(S3Error):
        get(client, versioned, "k", version_id=first)


def test_batch_delete_takes_versions(backend: Backend, client: S3Client, versioned: str) -> None:
    """The commands rb --force and rm --versions empty a bucket so."""
    names = backend.keys(["a", "b\nc", "d", "é e"])
    for name in names:
        put(client, versioned, name, b"1")
        client.delete_object(versioned, name)
    every = [(version.key, version.version_id) for version in list_versions(client, versioned)]

    failures = client.delete_objects(versioned, every)

    assert 2 * len(names) == len(every)
    assert () == failures
    assert [] == list(list_versions(client, versioned))


def test_copy_takes_an_old_version(client: S3Client, versioned: str) -> None:
    """Restoring means to copy it over the newest."""
    first = put(client, versioned, "k", b"one").version_id
    put(client, versioned, "k", b"two")

    client.copy_object(versioned, "k", source_bucket=versioned, source_key="k", source_version=first)

    assert b"one" == get(client, versioned, "k")
