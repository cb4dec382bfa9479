"""What the operations of S3Client give back, where the model has no word for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from s3pool.errors import ProtocolError
from s3pool.model import UploadInfo
from s3pool.record import dataclass

NULL_VERSION = "null"  # the version of a bucket that keeps none; some servers leave it out
GONE_CODES = frozenset(("NoSuchKey", "NoSuchVersion"))  # what is not there needs no deletion
NOT_NAMED = ("NotDeleted", "the server named neither an error nor a deletion of it")
PLAUSIBLE_ETAG = re.compile(r"[!-;=?-~]+")  # visible ASCII without angle brackets


def is_plausible_etag(etag: str) -> bool:
    """Return whether this may be the ETag, without quotes, of something that was stored."""
    return PLAUSIBLE_ETAG.fullmatch(etag) is not None


def plausible_etag(etag: str) -> str:
    """Return the ETag of something that was stored, which every S3 tells.

    Raises:
        ProtocolError: there is none, so that something else than an S3 has answered.
    """
    if not is_plausible_etag(etag):
        raise ProtocolError("the answer has no usable ETag: nothing proves that anything was stored")
    return etag


class PutResult(NamedTuple):
    """A stored object: its ETag without quotes; "" only after a Complete, where the server left it out.

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


class DeleteReply(NamedTuple):
    """What a server told of a batch: the errors, and the keys that it named as deleted."""

    failures: tuple[DeleteFailure, ...]
    deleted: frozenset[str]

    def failures_of(self, asked: Iterable[tuple[str, str]]) -> tuple[DeleteFailure, ...]:
        """Return one failure for each pair of key and version id that was not deleted.

        An error is matched by its key first, because servers spell the version as "null", as
        nothing, or as the one that they met: with several versions of a key asked for, an error
        that names none of them counts for all. An error of an unknown key counts for the whole
        batch. A reply that names what was deleted, though it was asked not to, names all of that.
        """
        versions: dict[str, list[str]] = {}
        for key, version_id in asked:
            versions.setdefault(key, []).append(version_id)
        found: dict[tuple[str, str], DeleteFailure] = {}
        gone: set[tuple[str, str]] = set()
        for failure in self.failures:
            meant = _pairs_meant(failure, versions)
            if failure.code in GONE_CODES and failure.key in versions:
                gone.update(meant)
                continue
            for pair in meant:
                found.setdefault(pair, DeleteFailure(*pair, failure.code, failure.detail))
        for key in versions.keys() - self.deleted if self.deleted else ():
            for pair in {(key, version_id) for version_id in versions[key]} - gone:
                found.setdefault(pair, DeleteFailure(*pair, *NOT_NAMED))
        return tuple(found.values())


def _pairs_meant(failure: DeleteFailure, versions: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    if failure.key not in versions:
        return [(key, version_id) for key, ids in versions.items() for version_id in ids]
    ids = versions[failure.key]
    meant = [one for one in ids if one == failure.version_id] or [
        one for one in ids if _spelled(one) == _spelled(failure.version_id)
    ]
    return [(failure.key, version_id) for version_id in meant or ids]


def _spelled(version_id: str) -> str:
    return "" if version_id == NULL_VERSION else version_id


@dataclass(frozen=True, slots=True)
class UploadPage:
    """One page of the multipart uploads that were neither completed nor aborted."""

    uploads: tuple[UploadInfo, ...]
    next_key_marker: str
    next_upload_id_marker: str
    truncated: bool
    prefixes: tuple[str, ...] = ()
