"""The listings that commands ask for, counted: one request after another, or many at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from s3pool.model import SEQUENTIAL, ListMode, ListPage, ObjectInfo, UploadInfo
from s3pool.s3.listing import AskAhead, KeyBounds, Lister, iter_pages, iter_uploads, iter_version_pages
from s3pool.s3.listing_stats import ListingStats

if TYPE_CHECKING:
    from typing_extensions import Unpack


class CountedLister(Lister, Protocol):
    """A client that counts its requests for listings."""

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
            client,
            bucket,
            jobs=mode.jobs,
            ordered=mode.ordered,
            most=mode.most_jobs,
            must_be_ordered=is_part,
            **bounds,
        )
    return client.lists.measure_pages(pages)


def list_objects(
    client: CountedLister, bucket: str, *, mode: ListMode = SEQUENTIAL, **bounds: Unpack[KeyBounds]
) -> Iterator[ObjectInfo]:
    """Yield all objects below a prefix, page by page as ``list_pages`` yields them."""
    for page in list_pages(client, bucket, mode=mode, **bounds):
        yield from page.objects


def list_version_pages(
    client: CountedLister,
    bucket: str,
    *,
    delimiter: str = "",
    mode: ListMode = SEQUENTIAL,
    **bounds: Unpack[KeyBounds],
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


def list_uploads(client: CountedLister, bucket: str, *, prefix: str = "") -> Iterator[UploadInfo]:
    """Yield the uploads below a prefix that are neither completed nor aborted."""
    return client.lists.measure_names(iter_uploads(client, bucket, prefix=prefix))
