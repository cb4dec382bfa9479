"""What earlier runs have begun and nobody will end."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from s3pool.errors import NotFoundError, S3PoolError
from s3pool.transfer.beneath import remove_file
from s3pool.transfer.resume import ANNOUNCED, abort_announced

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client
    from s3pool.sync.route import Route
    from s3pool.sync.unfinished import Unfinished

logger = logging.getLogger(__name__)


def clear_leftovers(route: Route, unfinished: Unfinished, client: S3Client) -> None:
    """Abort the uploads and remove the temporary files that a whole run had no use for.

    Their sources have changed or are gone. What cannot be removed now is tried again by the
    next run.
    """
    for upload_id, bucket, key in unfinished.left_uploads():
        if _abort(client, upload_id, bucket, key):
            unfinished.end_upload(upload_id)
    for name, target in unfinished.left_downloads():
        try:
            below = os.path.relpath(os.path.dirname(target), os.path.abspath(route.root))
            remove_file(route.root, os.path.join(below, name))
        except S3PoolError as exc:
            logger.warning("a temporary file stays behind: %s", exc)
        unfinished.end_download(name)


def _abort(client: S3Client, upload_id: str, bucket: str, key: str) -> bool:
    try:
        if upload_id.startswith(ANNOUNCED):
            abort_announced(client, upload_id, bucket, key=key)
        else:
            client.abort_multipart_upload(bucket, key, upload_id=upload_id)
    except NotFoundError:
        return True
    except S3PoolError as exc:
        logger.warning("an unfinished upload of s3/%s/%s stays behind: %s", bucket, key, exc)
        return False
    return True
