"""The listings that commands ask for, counted: one request after another, or many at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from copy import copy
from functools import partial
from typing import TYPE_CHECKING

from s3pool.errors import NotFoundError, RefusedError, TransportError
from s3pool.location import S3Path
from s3pool.model import SEQUENTIAL, Endpoint, ListMode, ListPage, ObjectInfo, UploadInfo, format_iso_time
from s3pool.record import replace
from s3pool.s3.documents import UploadPage
from s3pool.s3.pages import names_on
from s3pool.s3.paging import AskAhead, KeyBounds, LoopGuard, iter_pages, iter_version_pages

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from s3pool.s3.client import S3Client

logger = logging.getLogger(__name__)


def iter_uploads(client: S3Client, bucket: str, *, prefix: str = "") -> Iterator[UploadInfo]:
    """Yield the uploads below a prefix that are neither completed nor aborted.

    Raises ProtocolError: the server says that more follows, and does not go on.
    """
    for page in _iter_pages(client, bucket, prefix=prefix):
        if page.is_partial:
            yield from _iter_of_all_nodes(client, bucket, prefix, page)
            return
        yield from page.uploads


def _iter_pages(
    client: S3Client, bucket: str, *, prefix: str = "", only: Endpoint | None = None
) -> Iterator[UploadPage]:
    guard = LoopGuard(bucket)
    marker = ("", "")
    while True:
        page = client.list_uploads_page(
            bucket, prefix=prefix, key_marker=marker[0], upload_id_marker=marker[1], only=only
        )
        guard.meet([(upload.key, upload.upload_id) for upload in page.uploads])
        yield page
        if not page.truncated:
            return
        marker = (page.next_key_marker, page.next_upload_id_marker)
        guard.follow(marker)


def _iter_of_all_nodes(client: S3Client, bucket: str, prefix: str, first: UploadPage) -> Iterator[UploadInfo]:
    """Ask each node which keys it began uploads of, and then for the uploads of each key.

    MinIO answers the first question from the memory of the asked process, which may name what
    another one has ended, and the second, by a prefix that is the whole key, from the disks.
    """
    keys = {upload.key for upload in first.uploads}
    for endpoint in client.endpoints:
        try:
            for page in _iter_pages(client, bucket, only=endpoint):
                keys.update(upload.key for upload in page.uploads if upload.key.startswith(prefix))
        except TransportError as exc:
            logger.warning("the unfinished uploads that %s began are not listed: %s", endpoint, exc)
    for key in sorted(keys):
        for page in _iter_pages(client, bucket, prefix=key):
            yield from (upload for upload in page.uploads if upload.key == key)


def list_pages(
    client: S3Client,
    bucket: str,
    *,
    delimiter: str = "",
    max_keys: int = 0,
    mode: ListMode = SEQUENTIAL,
    ahead: AskAhead | None = None,
    **bounds: Unpack[KeyBounds],
) -> Iterator[ListPage]:
    """Yield the pages of a listing, by one request after another or by many at once.

    Many at once serve whole trees only: with a delimiter or ``max_keys`` it is one after another, by ``ahead`` as
    ``iter_pages`` has it.

    Raises S3PoolError: a page could not be fetched. UnorderedError: a part was asked for, and the server lists without
    order.
    """
    is_part = bool(bounds.get("start_after")) or bounds.get("until") is not None
    if mode.jobs == 1 or delimiter or max_keys:
        pages = iter_pages(
            client, bucket, delimiter=delimiter, max_keys=max_keys, ahead=ahead, must_be_ordered=is_part, **bounds
        )
    else:
        # A listing by one request after another needs none of these modules.
        from s3pool.s3.parallel import iter_pages_parallel

        pages = iter_pages_parallel(
            client, bucket, jobs=mode.jobs, ordered=mode.ordered, most=mode.most_jobs, must_be_ordered=is_part, **bounds
        )
    return client.lists.measure(pages, names_on)


def list_objects(
    client: S3Client, bucket: str, *, at: float | None = None, mode: ListMode = SEQUENTIAL, **bounds: Unpack[KeyBounds]
) -> Iterator[ObjectInfo]:
    """Yield all objects below a prefix, page by page as ``list_pages`` yields them; with ``at`` as they were then."""
    act = list_pages if at is None else partial(list_past_pages, at=at)
    for page in act(client, bucket, mode=mode, **bounds):
        yield from page.objects


def list_version_pages(
    client: S3Client, bucket: str, *, delimiter: str = "", mode: ListMode = SEQUENTIAL, **bounds: Unpack[KeyBounds]
) -> Iterator[ListPage]:
    """Yield the pages of versions and delete markers, newest first within a key.

    With a delimiter it is one request after another.
    """
    if mode.jobs == 1 or delimiter:
        pages = iter_version_pages(client, bucket, delimiter=delimiter, **bounds)
    else:
        from s3pool.s3.parallel import iter_version_pages_parallel

        pages = iter_version_pages_parallel(
            client, bucket, jobs=mode.jobs, ordered=mode.ordered, most=mode.most_jobs, **bounds
        )
    return client.lists.measure(pages, names_on)


def list_versions(
    client: S3Client, bucket: str, *, mode: ListMode = SEQUENTIAL, **bounds: Unpack[KeyBounds]
) -> Iterator[ObjectInfo]:
    """Yield all versions and delete markers below a prefix, newest first within a key."""
    for page in list_version_pages(client, bucket, mode=mode, **bounds):
        yield from page.objects


def list_past_pages(
    client: S3Client,
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

    Raises RefusedError: the newest version of a key does not come first, as where delete markers stand apart.
    """
    last = settled = None  # the key that was met last, and the one whose version at the moment is known
    mode = replace(mode, ordered=True)  # the versions of a key follow each other
    for page in list_version_pages(client, bucket, delimiter=delimiter, mode=mode, **bounds):
        objects = []
        for info in page.objects:
            if info.key != last and not info.is_latest:
                text = S3Path(bucket, info.key).text
                raise RefusedError(f"the server does not list the newest version of {text} first: its past is unknown")
            last = info.key
            if info.key != settled and info.mtime <= at:
                settled = info.key
                if not info.is_delete_marker:
                    objects.append(info)
        prefixes = tuple(
            prefix
            for prefix in page.prefixes
            if any(inner.objects for inner in list_past_pages(client, bucket, at=at, prefix=prefix))
        )
        yield replace(page, objects=objects, prefixes=prefixes)


def past_object(client: S3Client, path: S3Path, at: float) -> ObjectInfo:
    """Return the version that a key had at a moment. Raises NotFoundError: it was deleted then, or not there yet."""
    for page in list_past_pages(client, path.bucket, at=at, prefix=path.key, until=path.key):
        for info in page.objects:
            return info
    detail = f"there was no such key at {format_iso_time(at)}"
    raise NotFoundError(404, "NoSuchKey", detail=detail, resource=path.text, op="ListObjectVersions")


def list_uploads(client: S3Client, bucket: str, *, prefix: str = "") -> Iterator[UploadInfo]:
    """Yield the uploads below a prefix that are neither completed nor aborted."""
    return client.lists.measure(iter_uploads(client, bucket, prefix=prefix), lambda _: 1)


def on_one_node(client: S3Client, endpoint: Endpoint) -> S3Client:
    """Return a client whose pages of objects come from one node."""
    one = copy(client)
    vars(one)["list_objects_page"] = partial(client.list_objects_page, only=endpoint)
    return one
