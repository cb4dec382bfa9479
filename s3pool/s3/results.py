"""What the operations of S3Client give back, where the model has no word for it."""

from __future__ import annotations

from typing import NamedTuple

from s3pool.model import UploadInfo
from s3pool.record import dataclass


class PutResult(NamedTuple):
    """A stored object: its ETag without quotes, "" where the server gave none.

    ``version_id`` is "" in a bucket that keeps no versions. With ``opaque`` the ETag is no
    digest of the bytes, though it may look like one: so it is under KMS and customer keys.
    """

    etag: str
    version_id: str = ""
    opaque: bool = False


@dataclass(frozen=True, slots=True)
class DeleteFailure:
    """One key of a batch that was not deleted, and why."""

    key: str
    version_id: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class UploadPage:
    """One page of the multipart uploads that were neither completed nor aborted."""

    uploads: tuple[UploadInfo, ...]
    next_key_marker: str
    next_upload_id_marker: str
    truncated: bool
    prefixes: tuple[str, ...] = ()
