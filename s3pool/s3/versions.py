"""Versions as pages of whole keys, so that a listing of them can be cut between keys.

S3 goes on behind a version by two markers, and behind all versions of a key by the key alone.
A page that breaks off inside a key's history therefore gives up this key: the next request
starts behind the key before, and reads it from its newest version.
"""

from __future__ import annotations

from s3pool.model import ListPage, ObjectInfo
from s3pool.record import replace
from s3pool.s3.listing import MINIO_TAG, Lister, LoopGuard

SEPARATOR = "\0"  # between the markers of a token; XML holds it in neither


class MarkedWalkError(Exception):
    """The server's markers lead on by more than the names in them: it has to be followed page by page."""


class VersionLister:
    """Gives versions where objects are asked for; every page holds all versions of its keys."""

    def __init__(self, client: Lister) -> None:
        self._client = client

    def list_objects_page(self, bucket: str, *, prefix: str = "", start_after: str = "", token: str = "") -> ListPage:
        """List the versions of the keys behind ``start_after``, or behind those of a token.

        Raises:
            MarkedWalkError: the server is MinIO, whose markers hold more than a name.
        """
        key, _, version = token.rpartition(SEPARATOR) if token else (start_after, "", "")
        guard = LoopGuard(bucket)
        found: list[ObjectInfo] = []
        while True:
            page = self._client.list_versions_page(bucket, prefix=prefix, key_marker=key, version_id_marker=version)
            if page.is_minio or MINIO_TAG.decode() in page.next_token:
                raise MarkedWalkError
            found += page.objects
            if not page.truncated or not found:
                return replace(
                    page,
                    objects=tuple(found),
                    is_ordered=None,
                    next_token=_token(page.next_token, page.next_version_id),
                )
            whole = _count_whole(found)
            if whole:
                last = found[whole - 1]
                return replace(
                    page, objects=tuple(found[:whole]), is_ordered=None, next_token=_token(last.key, last.version_id)
                )
            # One key fills the page, and its history must stay in one piece.
            key, version = page.next_token, page.next_version_id
            guard.follow((key, version))


def _token(key: str, version: str) -> str:
    return f"{key}{SEPARATOR}{version}" if key else ""


def _count_whole(found: list[ObjectInfo]) -> int:
    """Count the versions before those of the last key."""
    last = found[-1].key
    return next((index for index in range(len(found), 0, -1) if found[index - 1].key != last), 0)
