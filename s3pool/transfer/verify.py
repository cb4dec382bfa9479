"""Whether downloaded bytes are the ones that are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from s3pool.body import FileSlice
from s3pool.errors import IntegrityError
from s3pool.transfer import attributes as stored
from s3pool.transfer.etags import composite_etag, is_md5_etag, iter_ranges, likely_part_sizes, part_count_of

SSE = "x-amz-server-side-encryption"
SSE_C = "x-amz-server-side-encryption-customer-algorithm"


def etag_tells_content(etag: str, headers: Mapping[str, str]) -> bool:
    """Say whether the ETag is made of the content's MD5: not under KMS or customer keys."""
    if "kms" in headers.get(SSE, "") or SSE_C in headers:
        return False
    return is_md5_etag(etag) or part_count_of(etag) > 0


def certain_part_size(size: int, etag: str, headers: Mapping[str, str]) -> int:
    """Give the part size that the uploader stored, when it fits the ETag; else 0."""
    told = headers.get(f"x-amz-meta-{stored.PART_SIZE}", "")
    if not (told.isascii() and told.isdecimal() and int(told)):
        return 0
    return int(told) if -(-size // int(told)) == part_count_of(etag) else 0


def first_part_size(size: int, etag: str, headers: Mapping[str, str]) -> int:
    """Give the part size to fetch and hash with, 0 when none is known or likely."""
    count = part_count_of(etag)
    if not count:
        return 0
    return certain_part_size(size, etag, headers) or next(likely_part_sizes(size, count), 0)


class WholeCheck:
    """Check bytes that pass by in order, as a stream or a small object does."""

    def __init__(self) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, block: memoryview) -> None:
        """Take the next bytes."""
        self._md5.update(block)

    def check(self, what: object, *, etag: str, headers: Mapping[str, str]) -> bool:
        """Compare with an ETag that is an MD5; False when it is none.

        Raises:
            IntegrityError: they differ.
        """
        if not is_md5_etag(etag) or not etag_tells_content(etag, headers):
            return False
        found = self._md5.hexdigest()
        if found != etag:
            raise IntegrityError(f"{what}: the bytes that arrived have the MD5 {found}, the object has {etag}")
        return True


class StreamCheck:
    """Check bytes in order against any kind of ETag, the part sizes of which may be guessed."""

    def __init__(self, size: int, etag: str, headers: Mapping[str, str]) -> None:
        self._etag = etag
        self._headers = headers
        count = part_count_of(etag)
        certain = certain_part_size(size, etag, headers)
        sizes = [certain] if certain else list(likely_part_sizes(size, count)) if count else [max(size, 1)]
        self._certain = bool(certain) or not count
        self._tracks = [_Track(part_size) for part_size in sizes] if etag_tells_content(etag, headers) else []

    def update(self, block: memoryview) -> None:
        """Take the next bytes."""
        for track in self._tracks:
            track.update(block)

    def check(self, what: object) -> bool:
        """Compare; False when the ETag cannot tell.

        Raises:
            IntegrityError: the bytes are certainly not the object's.
        """
        composite = part_count_of(self._etag) > 0
        if any(track.etag(composite=composite) == self._etag for track in self._tracks):
            return True
        if self._tracks and self._certain:
            raise IntegrityError(f"{what}: the bytes that arrived do not make the object's ETag {self._etag}")
        return False


class _Track:
    """The running MD5s for one part size."""

    def __init__(self, part_size: int) -> None:
        self._part_size = part_size
        self._left = part_size
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._done: list[str] = []
        self._fed = False

    def update(self, block: memoryview) -> None:
        while len(block):
            if not self._left:
                self._turn()
            piece = block[: self._left]
            self._md5.update(piece)
            self._left -= len(piece)
            self._fed = True
            block = block[len(piece) :]

    def _turn(self) -> None:
        self._done.append(self._md5.hexdigest())
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._left = self._part_size

    def etag(self, *, composite: bool) -> str:
        return composite_etag([*self._done, self._md5.hexdigest()]) if composite else self._md5.hexdigest()


@dataclass(frozen=True, slots=True)
class Digests:
    """The MD5s of a file's ranges, made while they arrived; by offset."""

    range_bytes: int = 0
    by_offset: Mapping[int, str] = field(default_factory=dict)


NO_DIGESTS = Digests()


def check_file(
    fd: int, size: int, *, what: object, etag: str, headers: Mapping[str, str], digests: Digests = NO_DIGESTS
) -> bool:
    """Check a fetched file against its ETag, with the help of what was computed on the way.

    Gives False when nothing could be compared: the ETag is no digest, or the sizes of its
    parts are unknown.

    Raises:
        IntegrityError: the bytes are certainly not the object's.
    """
    if not etag_tells_content(etag, headers):
        return False
    if is_md5_etag(etag):
        return _compare(what, FileSlice(fd, length=size).digest("md5").hex(), etag)
    certain = certain_part_size(size, etag, headers)
    sizes = [certain] if certain else list(likely_part_sizes(size, part_count_of(etag)))
    if any(_composite_of(fd, size, part_size, digests) == etag for part_size in sizes):
        return True
    if certain:
        raise IntegrityError(f"{what}: the bytes that arrived do not make the object's ETag {etag}")
    return False


def _composite_of(fd: int, size: int, part_size: int, digests: Digests) -> str:
    # Digests made on the way are of use when the ranges were the parts.
    known = digests.by_offset if part_size == digests.range_bytes else {}
    return composite_etag(
        known.get(place.first) or FileSlice(fd, offset=place.first, length=place.length).digest("md5").hex()
        for place in iter_ranges(size, part_size)
    )


def _compare(what: object, found: str, expected: str) -> bool:
    if found != expected:
        raise IntegrityError(f"{what}: the bytes that arrived have the MD5 {found}, the object has {expected}")
    return True
