"""Whether two files or objects have the same content, and what tells it: nothing is copied."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from s3pool.body import FileSlice
from s3pool.errors import IntegrityError, LocalFileError
from s3pool.hashing import new_hasher
from s3pool.location import LocalPath, S3Path
from s3pool.model import ObjectHead
from s3pool.record import dataclass
from s3pool.s3.responses import Known
from s3pool.sync.compare import Batch, Entry
from s3pool.transfer.digests import (
    certain_part_size,
    check_file,
    composite_etag,
    etag_tells_content,
    is_md5_etag,
    part_count_of,
    server_checksum,
)
from s3pool.transfer.object_reader import ObjectReader, Source
from s3pool.transfer.safe_path import read_file

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client

T = TypeVar("T")
SAME, DIFFERENT, ONLY_FIRST, ONLY_SECOND, UNKNOWN = "=", "!", "<", ">", "?"
BYTES_BY = "sha256"  # what stands for the bytes of both sides where they are read


class Verdict(NamedTuple):
    """What a comparison has found; ``by`` is what told it, or why nothing could."""

    sign: str
    by: str


SAME_SIZE = Verdict(SAME, "size")
SAME_ETAG = Verdict(SAME, "etag")
OTHER_ETAG = Verdict(DIFFERENT, "etag")
OTHER_SIZE = Verdict(DIFFERENT, "size")
NOTHING_TELLS = Verdict(UNKNOWN, "neither ETag nor checksum tells the content")


@dataclass(frozen=True, slots=True)
class Side:
    """A tree, or with ``is_one`` a single file or object; ``client`` is of the pool that it is in."""

    place: S3Path | LocalPath
    client: S3Client
    is_one: bool = False

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return isinstance(self.place, LocalPath)

    def text(self, name: str) -> str:
        """Return one name of the side as messages write it."""
        return self.place.text if self.is_one else self.place.join(name).text

    def object(self, name: str) -> S3Path:
        """Return the path of one name of a side in S3."""
        place = self.place if self.is_one else self.place.join(name)
        assert isinstance(place, S3Path)
        return place


def is_digest(etag: str) -> bool:
    """Return whether an ETag has the form of an MD5, or of one of parts: two equal ones are of equal bytes."""
    return is_md5_etag(etag) or part_count_of(etag) > 0


class PairComparer:
    """Compares pairs of one name; safe in any thread.

    Without ``by_content`` a file on this machine is compared by its size alone. With ``downloads``
    the bytes of both sides are read, whatever the servers tell.
    """

    def __init__(self, first: Side, second: Side, *, by_content: bool, downloads: bool, retries: int) -> None:
        self._first = first
        self._second = second
        self._has_local = first.is_local or second.is_local
        self._by_content = by_content
        self._downloads = downloads
        self._retries = retries

    def at_first_sight(self, first: Entry, second: Entry) -> Verdict | None:
        """Return what the listings tell; None when only a closer look can."""
        if first.size != second.size:
            return OTHER_SIZE
        if self._downloads:
            return None
        if self._has_local:
            return None if self._by_content else SAME_SIZE
        return SAME_ETAG if first.etag == second.etag and is_digest(first.etag) else None

    def at_one_sight(self, first: Batch, second: Batch) -> Verdict | None:
        """Return the one verdict on all pairs of two batches; None when they must be looked at one by one."""
        if self._downloads or first.sizes != second.sizes:
            return None
        if self._has_local:
            return None if self._by_content else SAME_SIZE
        return SAME_ETAG if first.etags == second.etags and all(map(is_digest, first.etags)) else None

    def look(self, first: Entry, second: Entry) -> Verdict:
        """Compare by what requests, or the bytes, tell.

        Raises S3PoolError: one of them cannot be read, or changes meanwhile.
        """
        if self._downloads:
            is_same = self._digest(self._first, first) == self._digest(self._second, second)
            return Verdict(SAME if is_same else DIFFERENT, "bytes")
        if self._first.is_local:
            return _compare_file(first, second, lambda: self._head(self._second, second))
        if self._second.is_local:
            return _compare_file(second, first, lambda: self._head(self._first, first))
        return compare_heads(self._head(self._first, first), self._head(self._second, second))

    def _head(self, side: Side, entry: Entry) -> ObjectHead:
        path = side.object(entry.name)
        return side.client.head_object(path.bucket, path.key, checksums=True)

    def _digest(self, side: Side, entry: Entry) -> bytes:
        if side.is_local:
            return _with_file(entry, lambda fd: FileSlice(fd, length=entry.size).digest(BYTES_BY))
        hasher, known, path = new_hasher(BYTES_BY), Known(entry.size, entry.etag), side.object(entry.name)
        source = Source(path.bucket, path.key)
        ObjectReader(side.client, source, retries=self._retries, known=known).copy_to(hasher.update)
        return hasher.digest()


def compare_heads(first: ObjectHead, second: ObjectHead) -> Verdict:
    """Compare two objects by what HEAD tells of them."""
    if first.size != second.size:
        return OTHER_SIZE
    ours, theirs = server_checksum(first.headers), server_checksum(second.headers)
    if ours is not None and theirs is not None and ours[::2] == theirs[::2]:
        if ours.digest == theirs.digest:
            return Verdict(SAME, ours.algorithm)
        if not ours.parts:
            return Verdict(DIFFERENT, ours.algorithm)
    if first.etag == second.etag and is_digest(first.etag):
        return SAME_ETAG
    is_told = all(etag_tells_content(head.etag, head.headers) for head in (first, second))
    return _compare_etags(first, second) if is_told else NOTHING_TELLS


def _compare_etags(first: ObjectHead, second: ObjectHead) -> Verdict:
    """Compare different ETags that are both made of the content, by the arithmetic of parts."""
    counts = [part_count_of(head.etag) for head in (first, second)]
    if counts == [0, 0]:
        return OTHER_ETAG
    if max(counts) == 1:  # the one part is the whole content
        as_one_part = [
            head.etag if count else composite_etag([head.etag])
            for head, count in zip((first, second), counts, strict=True)
        ]
        return Verdict(SAME if as_one_part[0] == as_one_part[1] else DIFFERENT, "etag")
    sizes = {certain_part_size(head.size, head.etag, head.headers) for head in (first, second)}
    return OTHER_ETAG if counts[0] == counts[1] and len(sizes) == 1 and 0 not in sizes else NOTHING_TELLS


def _compare_file(local: Entry, remote: Entry, ask: Callable[[], ObjectHead]) -> Verdict:
    """Compare a file with an object: an MD5 that fits needs no request."""

    def compare(fd: int) -> Verdict:
        if is_md5_etag(remote.etag) and FileSlice(fd, length=local.size).digest("md5").hex() == remote.etag:
            return SAME_ETAG
        head = ask()
        if head.size != local.size:
            return OTHER_SIZE
        told = server_checksum(head.headers)
        by = told.algorithm if told is not None else "etag"
        try:
            is_proved = check_file(fd, local.size, what=local.path, etag=head.etag, headers=head.headers)
        except IntegrityError:
            return Verdict(DIFFERENT, by)
        return Verdict(SAME, by) if is_proved else NOTHING_TELLS

    return _with_file(local, compare)


def _with_file(entry: Entry, act: Callable[[int], T]) -> T:
    def checked(fd: int) -> T:
        _check_unchanged(fd, entry)
        try:
            return act(fd)
        finally:
            _check_unchanged(fd, entry)

    return read_file(entry.path, checked)


def _check_unchanged(fd: int, entry: Entry) -> None:
    facts = os.fstat(fd)
    if (facts.st_size, facts.st_mtime_ns) != (entry.size, entry.mtime_ns):
        raise LocalFileError(f"{entry.path} changed while it was compared; compare again")
