"""The listings that commands ask for, counted: one request after another, or many at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from s3pool.model import SEQUENTIAL, ListMode, ListPage, ObjectInfo, UploadInfo
from s3pool.s3.listing import AskAhead, Lister, iter_pages, iter_uploads, iter_version_pages
from s3pool.s3.listing_stats import ListingStats


class CountedLister(Lister, Protocol):
    """A client that counts its requests for listings."""

    @property
    def lists(self) -> ListingStats:
        """The counts of its listings."""


def list_pages(
    client: CountedLister,
    bucket: str,
    *,
    prefix: str = "",
    delimiter: str = "",
    start_after: str = "",
    until: str | None = None,
    max_keys: int = 0,
    mode: ListMode = SEQUENTIAL,
    ahead: AskAhead | None = None,
) -> Iterator[ListPage]:
    """Yield the pages of a listing, by one request after another or by many at once.

    They have the names greater than ``start_after``, up to ``until`` and with it.

    Many at once serve whole trees only: with a delimiter or a bound it is one after another,
    by ``ahead`` as ``iter_pages`` has it.

    Raises:
        S3PoolError: a page could not be had.
        UnorderedError: a part was asked for, and the server lists without order.
    """
    is_range = bool(start_after) or until is not None
    if mode.jobs == 1 or delimiter or max_keys:
        pages = iter_pages(
            client,
            bucket,
            prefix=prefix,
            delimiter=delimiter,
            start_after=start_after,
            until=until,
            max_keys=max_keys,
            ahead=ahead,
            must_be_ordered=is_range,
        )
        return client.lists.measure_pages(pages)
    from s3pool.s3.parallel.workers import iter_pages_parallel

    pages = iter_pages_parallel(
        client,
        bucket,
        prefix=prefix,
        start_after=start_after,
        until=until,
        jobs=mode.jobs,
        ordered=mode.ordered,
        most=mode.most_jobs,
        must_be_ordered=is_range,
    )
    return client.lists.measure_pages(pages)


def list_objects(
    client: CountedLister,
    bucket: str,
    *,
    prefix: str = "",
    start_after: str = "",
    until: str | None = None,
    mode: ListMode = SEQUENTIAL,
) -> Iterator[ObjectInfo]:
    """Yield all objects below a prefix, page by page as ``list_pages`` gives them."""
    pages = list_pages(client, bucket, prefix=prefix, start_after=start_after, until=until, mode=mode)
    for page in pages:
        yield from page.objects


def list_version_pages(
    client: CountedLister,
    bucket: str,
    *,
    prefix: str = "",
    delimiter: str = "",
    start_after: str = "",
    until: str | None = None,
    mode: ListMode = SEQUENTIAL,
) -> Iterator[ListPage]:
    """Yield the pages of versions and delete markers, newest first within a key.

    With a delimiter it is one request after another.
    """
    if mode.jobs == 1 or delimiter:
        pages = iter_version_pages(
            client, bucket, prefix=prefix, delimiter=delimiter, start_after=start_after, until=until
        )
        return client.lists.measure_pages(pages)
    from s3pool.s3.parallel.workers import iter_version_pages_parallel

    pages = iter_version_pages_parallel(
        client,
        bucket,
        prefix=prefix,
        start_after=start_after,
        until=until,
        jobs=mode.jobs,
        ordered=mode.ordered,
        most=mode.most_jobs,
    )
    return client.lists.measure_pages(pages)


def list_versions(
    client: CountedLister,
    bucket: str,
    *,
    prefix: str = "",
    start_after: str = "",
    until: str | None = None,
    mode: ListMode = SEQUENTIAL,
) -> Iterator[ObjectInfo]:
    """Yield all versions and delete markers below a prefix, newest first within a key."""
    for page in list_version_pages(client, bucket, prefix=prefix, start_after=start_after, until=until, mode=mode):
        yield from page.objects


def list_uploads(client: CountedLister, bucket: str, *, prefix: str = "") -> Iterator[UploadInfo]:
    """Yield the uploads below a prefix that are neither completed nor aborted."""
    return client.lists.measure_names(iter_uploads(client, bucket, prefix=prefix))
