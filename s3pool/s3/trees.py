"""One entrance to both ways of listing: one request after another, or many at once."""

from __future__ import annotations

from collections.abc import Iterator

from s3pool.model import SEQUENTIAL, ListMode, ListPage, ObjectInfo
from s3pool.s3.listing import Lister, iter_pages


def list_pages(
    client: Lister,
    bucket: str,
    *,
    prefix: str = "",
    delimiter: str = "",
    max_keys: int = 0,
    mode: ListMode = SEQUENTIAL,
) -> Iterator[ListPage]:
    """Yield the pages of a listing, by one request after another or by many at once.

    Many at once serve whole trees only: with a delimiter or a bound it is one after another.

    Raises:
        S3PoolError: a page could not be had.
    """
    if mode.jobs == 1 or delimiter or max_keys:
        return iter_pages(client, bucket, prefix=prefix, delimiter=delimiter, max_keys=max_keys)
    from s3pool.s3.parallel_listing import iter_pages_parallel

    return iter_pages_parallel(client, bucket, prefix=prefix, jobs=mode.jobs, ordered=mode.ordered, most=mode.most_jobs)


def list_objects(client: Lister, bucket: str, *, prefix: str = "", mode: ListMode = SEQUENTIAL) -> Iterator[ObjectInfo]:
    """Yield all objects below a prefix, page by page as ``list_pages`` gives them."""
    pages = list_pages(client, bucket, prefix=prefix, mode=mode)
    for page in pages:
        yield from page.objects
