"""The listings that commands ask for, counted: one request after another, or many at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from s3pool.errors import NotFoundError
from s3pool.location import S3Path
from s3pool.model import SEQUENTIAL, ListMode, ListPage, ObjectInfo, UploadInfo, format_iso_time
from s3pool.record import replace
from s3pool.s3.listing import AskAhead, KeyBounds, Lister, iter_pages, iter_version_pages
from s3pool.s3.listing_stats import ListingStats
from s3pool.s3.uploads import UploadLister, iter_uploads

if TYPE_CHECKING:
    from typing_extensions import Unpack


class CountedLister(Lister, Protocol):
    """A client that counts its requests for listings."""

    @property
    def lists(self) -> ListingStats:
        """The counts of its listings."""


class CountedUploadLister(UploadLister, Protocol):
    """The same for uploads."""

    @property
    def lists(self) -> ListingStats:
        """The counts of its listings."""


def list_pages(
    client: CountedLister,
    bucket: str,
    *,
    delimiter: str = "",
    max_keys: int = 0,
    mode: ListMode = SEQUENTIAL,
    ahead: AskAhead | None = None,
    **bounds: Unpack[KeyBounds],
) -> Iterator[ListPage]:
    """Yield the pages of a listing, by one request after another or by many at once.

    Many at once serve whole trees only: with a delimiter or ``max_keys`` it is one after
    another, by ``ahead`` as ``iter_pages`` has it.

    Raises:
        S3PoolError: a page could not be fetched.
        UnorderedError: a part was asked for, and the server lists without order.
    """
    is_part = bool(bounds.get("start_after")) or bounds.get("until") is not None
    if mode.jobs == 1 or delimiter or max_keys:
        pages = iter_pages(
            client, bucket, delimiter=delimiter, max_keys=max_keys, ahead=ahead, must_be_ordered=is_part, **bounds
        )
    else:
        # A listing by one request after another needs none of these modules.
        from s3pool.s3.parallel.workers import iter_pages_parallel

        pages = iter_pages_parallel(
            client, bucket, jobs=mode.jobs, ordered=mode.ordered, most=mode.most_jobs, must_be_ordered=is_part, **bounds
        )
    return client.lists.measure_pages(pages)


def list_objects(
    client: CountedLister,
    bucket: str,
    *,
    at: float | None = None,
    mode: ListMode = SEQUENTIAL,
    **bounds: Unpack[KeyBounds],
) -> Iterator[ObjectInfo]:
    """Yield all objects below a prefix, page by page as ``list_pages`` yields them; with ``at`` as they were then."""
    if at is None:
        pages = list_pages(client, bucket, mode=mode, **bounds)
    else:
        pages = list_past_pages(client, bucket, at=at, mode=mode, **bounds)
    for page in pages:
        yield from page.objects


def list_version_pages(
    client: CountedLister, bucket: str, *, delimiter: str = "", mode: ListMode = SEQUENTIAL, **bounds: Unpack[KeyBounds]
) -> Iterator[ListPage]:
    """Yield the pages of versions and delete markers, newest first within a key.

    With a delimiter it is one request after another.
    """
    if mode.jobs == 1 or delimiter:
        pages = iter_version_pages(client, bucket, delimiter=delimiter, **bounds)
    else:
        from s3pool.s3.parallel.workers import iter_version_pages_parallel

        pages = iter_version_pages_parallel(
            client, bucket, jobs=mode.jobs, ordered=mode.ordered, most=mode.most_jobs, **bounds
        )
    return client.lists.measure_pages(pages)


def list_versions(
    client: CountedLister, bucket: str, *, mode: ListMode = SEQUENTIAL, **bounds: Unpack[KeyBounds]
) -> Iterator[ObjectInfo]:
    """Yield all versions and delete markers below a prefix, newest first within a key."""
    for page in list_version_pages(client, bucket, mode=mode, **bounds):
        yield from page.objects


def list_past_pages(
    client: CountedLister,
    bucket: str,
    *,
    at: float,
    delimiter: str = "",
    mode: ListMode = SEQUENTIAL,
    **bounds: Unpack[KeyBounds],
) -> Iterator[ListPage]:
    """Yield the pages of a bucket with versions as they would have been at a moment, in seconds since 1970.

    Of each key that is the newest version that was there, with its version id; a key that was
    deleted then, or not there yet, is left out, and so is a prefix without any other key.
    """
    settled = None  # the key whose version at the moment is known
    mode = replace(mode, ordered=True)  # the versions of a key follow each other
    for page in list_version_pages(client, bucket, delimiter=delimiter, mode=mode, **bounds):
        objects = []
        for info in page.objects:
            if info.key != settled and info.mtime <= at:
                settled = info.key
                if not info.is_delete_marker:
                    objects.append(info)
        prefixes = tuple(prefix for prefix in page.prefixes if _had_key(client, bucket, prefix, at))
        yield replace(page, objects=objects, prefixes=prefixes)


def _had_key(client: CountedLister, bucket: str, prefix: str, at: float) -> bool:
    return any(page.objects for page in list_past_pages(client, bucket, at=at, prefix=prefix))


def past_object(client: CountedLister, path: S3Path, at: float) -> ObjectInfo:
    """Return the version that a key had at a moment.

    Raises:
        NotFoundError: it was deleted then, or not there yet.
    """
    for page in list_past_pages(client, path.bucket, at=at, prefix=path.key, until=path.key):
        for info in page.objects:
            return info
    detail = f"there was no such key at {format_iso_time(at)}"
    raise NotFoundError(404, "NoSuchKey", detail=detail, resource=path.text, op="ListObjectVersions")


def list_uploads(client: CountedUploadLister, bucket: str, *, prefix: str = "") -> Iterator[UploadInfo]:
    """Yield the uploads below a prefix that are neither completed nor aborted."""
    return client.lists.measure_names(iter_uploads(client, bucket, prefix=prefix))
