"""The unfinished uploads of a bucket, also where every node knows only its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Protocol

from s3pool.errors import TransportError
from s3pool.model import Endpoint, UploadInfo
from s3pool.s3.documents import UploadPage
from s3pool.s3.listing import LoopGuard

logger = logging.getLogger(__name__)


class UploadLister(Protocol):
    """The part of S3Client that these listings need."""

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """The nodes."""

    def list_uploads_page(
        self,
        bucket: str,
        *,
        prefix: str = "",
        key_marker: str = "",
        upload_id_marker: str = "",
        only: Endpoint | None = None,
    ) -> UploadPage:
        """List one page of uploads."""


def iter_uploads(client: UploadLister, bucket: str, *, prefix: str = "") -> Iterator[UploadInfo]:
    """Yield the uploads below a prefix that are neither completed nor aborted.

    Raises:
        ProtocolError: the server says that more follows, and does not go on.
    """
    for page in _iter_pages(client, bucket, prefix=prefix):
        if page.is_partial:
            yield from _iter_of_all_nodes(client, bucket, prefix, page)
            return
        yield from page.uploads


def _iter_pages(
    client: UploadLister, bucket: str, *, prefix: str = "", only: Endpoint | None = None
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


def _iter_of_all_nodes(client: UploadLister, bucket: str, prefix: str, first: UploadPage) -> Iterator[UploadInfo]:
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
