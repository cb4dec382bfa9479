from __future__ import annotations

import pytest

from s3pool.errors import NotFoundError
from s3pool.s3.client import S3Client
from s3pool.s3.paging import iter_pages
from tests.support.contract import NewBucket, keys, md5, put

NAMES = [f"d{group}/{number:02d}" for group in range(5) for number in range(5)] + ["top", "zz"]


@pytest.fixture(scope="session")
def filled(client: S3Client, new_bucket: NewBucket) -> str:
    """Give a bucket with five groups of five keys and two beside them, for tests that only read."""
    bucket = new_bucket()
    for name in NAMES:
        put(client, bucket, name, name.encode())
    return bucket


def test_empty_bucket_lists_nothing(client: S3Client, bucket: str) -> None:
    """Nothing is a whole page too."""
    page = client.list_objects_page(bucket)

    assert ((), (), False) == (page.objects, page.prefixes, page.truncated)


def test_missing_bucket_is_not_found(client: S3Client, bucket_name: str) -> None:
    """It must not pass for an empty one."""
    with pytest.raises(NotFoundError) as caught:
        client.list_objects_page(bucket_name)

    assert "NoSuchBucket" == caught.value.code


def test_object_is_listed_with_its_facts(client: S3Client, bucket: str) -> None:
    """Size, ETag without quotes, ISO time in UTC with milliseconds."""
    put(client, bucket, "k", b"12345")

    found = client.list_objects_page(bucket).objects[0]

    assert ("k", 5, md5(b"12345"), "STANDARD") == (found.key, found.size, found.etag, found.storage_class)
    assert abs(found.mtime - client.head_object(bucket, "k").mtime) <= 1
    assert (24, "Z") == (len(found.last_modified), found.last_modified[-1])


@pytest.mark.parametrize("size", [1, 2, 3, 26, 27, 28, 1000])
def test_pages_together_are_the_listing(client: S3Client, filled: str, size: int) -> None:
    """Each key once, whatever the pages' size, each page perhaps from another node."""
    found: list[str] = []
    after = ""
    while True:
        page = client.list_objects_page(filled, start_after=after, max_keys=size)
        found += [entry.key for entry in page.objects]
        if not page.truncated:
            break
        after = found[-1]

    assert sorted(NAMES) == found


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_tokens_lead_to_the_same_listing(client: S3Client, filled: str, size: int) -> None:
    """The continuation token is the fallback where start-after is not understood."""
    found: list[str] = []
    token = ""
    while True:
        page = client.list_objects_page(filled, token=token, max_keys=size)
        found += [entry.key for entry in page.objects]
        if not page.truncated:
            break
        token = page.next_token

    assert sorted(NAMES) == found


def test_prefix_limits_the_listing(client: S3Client, filled: str) -> None:
    """d1/ is not d10/ and not d."""
    assert [name for name in NAMES if name.startswith("d1/")] == keys(client, filled, "d1/")


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 7, 100])
def test_groups_and_keys_share_one_limit(client: S3Client, filled: str, limit: int) -> None:
    """With a delimiter every group and every key counts, once over all pages."""
    whole = ["d0/", "d1/", "d2/", "d3/", "d4/", "top", "zz"]

    pages = list(iter_pages(client, filled, delimiter="/", max_keys=limit))
    found = sorted(name for page in pages for name in (*page.prefixes, *(entry.key for entry in page.objects)))

    assert whole[:limit] == found


@pytest.mark.parametrize("after", ["", "d", "d1", "d1/", "d1/02", "d1/99", "d1/zzz", "d4/04", "top", "zz", "zzz"])
def test_start_after_is_exclusive(client: S3Client, filled: str, after: str) -> None:
    """It may stand anywhere, on a key or between."""
    found = [entry.key for page in iter_pages(client, filled, start_after=after) for entry in page.objects]

    assert [name for name in sorted(NAMES) if name > after] == found


def test_walk_over_groups_ends(client: S3Client, filled: str) -> None:
    """Small pages of groups never repeat one, on servers of either manner."""
    seen: list[str] = []
    after = ""
    for _ in range(20):
        pages = list(iter_pages(client, filled, delimiter="/", start_after=after, max_keys=1))
        names = [name for page in pages for name in (*page.prefixes, *(entry.key for entry in page.objects))]
        if not names:
            break
        seen += names
        after = names[-1] + "\U0010ffff" if names[-1].endswith("/") else names[-1]

    assert ["d0/", "d1/", "d2/", "d3/", "d4/", "top", "zz"] == seen


def test_buckets_are_listed(client: S3Client, bucket: str) -> None:
    """With the time they were made."""
    found = {entry.name: entry.created for entry in client.list_buckets()}

    assert bucket in found
    assert found[bucket].endswith("Z")
