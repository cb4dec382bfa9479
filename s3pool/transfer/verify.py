"""Whether downloaded bytes are the ones that are stored.

A checksum of the content that the server tells decides where there is one, else the ETag. Both
are known before the bytes, so no more is computed than will be compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from s3pool.body import FileSlice
from s3pool.errors import IntegrityError
from s3pool.hashing import CRC_BYTES, combine, new_hasher
from s3pool.model import ByteRange, ObjectHead, whole_number
from s3pool.record import dataclass, field
from s3pool.s3.responses import hides_digest
from s3pool.transfer import attributes as stored
from s3pool.transfer.digests import (
    ServerChecksum,
    checksum_text,
    composite_etag,
    is_md5_etag,
    iter_ranges,
    likely_part_sizes,
    part_count_of,
    server_checksum,
    whole_checksum,
)

# An ETag that looks like an MD5 may be none: MinIO with --no-compat makes them at random.
UNKNOWN_SIZE = 1 << 62  # of one part that does not end
NO_MD5 = "; where ETags are no MD5s, --no-verify checks the length alone"


def etag_tells_content(etag: str, headers: Mapping[str, str]) -> bool:
    """Return whether the ETag is made of the content's MD5: not under KMS or customer keys."""
    return not hides_digest(headers) and (is_md5_etag(etag) or part_count_of(etag) > 0)


def certain_part_size(size: int, etag: str, headers: Mapping[str, str]) -> int:
    """Return the part size that the uploader stored, when it fits the ETag; else 0."""
    return _told_part_size(size, part_count_of(etag), headers)


def _told_part_size(size: int, count: int, headers: Mapping[str, str]) -> int:
    told = whole_number(headers.get(f"x-amz-meta-{stored.PART_SIZE}", ""))
    return told if told and -(-size // told) == count else 0


def first_part_size(size: int, etag: str, headers: Mapping[str, str]) -> int:
    """Return the part size to fetch and hash with, 0 when none is known or likely."""
    count = part_count_of(etag)
    if not count:
        return 0
    return certain_part_size(size, etag, headers) or next(likely_part_sizes(size, count), 0)


def check_small(content: bytes, what: object, *, etag: str, headers: Mapping[str, str]) -> bool:
    """Compare a whole small object with what the server told; False when only more work can tell.

    As with larger ones, where nothing was told of the content the length is the check.

    Raises IntegrityError: they differ.
    """
    told = whole_checksum(headers)
    if told is not None:
        hasher = new_hasher(told.algorithm)
        hasher.update(memoryview(content))
        return compare_checksum(what, told, hasher.digest())
    if is_md5_etag(etag) and etag_tells_content(etag, headers):
        return _compare(what, "MD5", hashlib.md5(content, usedforsecurity=False).hexdigest(), etag)
    return not part_count_of(etag)


class StreamCheck:
    """Check bytes in order against a checksum of them, or any kind of ETag; part sizes may be guessed."""

    def __init__(self, size: int, etag: str, headers: Mapping[str, str]) -> None:
        self._etag = etag
        self._tracks: list[_Track] = []
        self._told = whole_checksum(headers)
        if self._told is not None:
            self._hasher = new_hasher(self._told.algorithm)
            return
        count = part_count_of(etag)
        certain = certain_part_size(size, etag, headers)
        sizes = [certain] if certain else list(likely_part_sizes(size, count)) if count else [max(size, 1)]
        self._certain = bool(certain) or not count
        if etag_tells_content(etag, headers):
            self._tracks = [_Track(part_size) for part_size in sizes]

    def update(self, block: memoryview) -> None:
        """Take the next bytes."""
        if self._told is not None:
            self._hasher.update(block)
        for track in self._tracks:
            track.update(block)

    def check(self, what: object) -> bool:
        """Compare; False when there is nothing that could tell.

        Raises IntegrityError: the bytes are certainly not the object's.
        """
        if self._told is not None:
            return compare_checksum(what, self._told, self._hasher.digest())
        if self._tracks and is_md5_etag(self._etag):
            return _compare(what, "MD5", self._tracks[0].etag(composite=False), self._etag)
        if any(track.etag(composite=True) == self._etag for track in self._tracks):
            return True
        if self._tracks and self._certain:
            raise IntegrityError(f"{what}: the bytes that arrived do not make the object's ETag {self._etag}")
        return False


def check_in_order(size: int | None, etag: str, headers: Mapping[str, str]) -> StreamCheck | None:
    """Return the check of bytes that pass by in order; None where the size of the parts would be guessed."""
    is_known = not part_count_of(etag) or (size and certain_part_size(size, etag, headers))
    return StreamCheck(size or UNKNOWN_SIZE, etag, headers) if is_known or whole_checksum(headers) else None


class _Track:
    def __init__(self, part_size: int) -> None:
        self._part_size = self._left = part_size
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._done: list[str] = []

    def update(self, block: memoryview) -> None:
        while len(block):
            if not self._left:
                self._done.append(self._md5.hexdigest())
                self._md5, self._left = hashlib.md5(usedforsecurity=False), self._part_size
            piece = block[: self._left]
            self._md5.update(piece)
            self._left -= len(piece)
            block = block[len(piece) :]

    def etag(self, *, composite: bool) -> str:
        return composite_etag([*self._done, self._md5.hexdigest()]) if composite else self._md5.hexdigest()


@dataclass(frozen=True, slots=True)
class Digests:
    """The digests of a file's ranges, made while they arrived; by offset."""

    range_bytes: int = 0
    algorithm: str = ""
    by_offset: Mapping[int, bytes] = field(default_factory=dict)

    def of(self, fd: int, place: ByteRange, algorithm: str) -> bytes:
        """Return the digest of one range, which is read again only when it has to be."""
        known = self.by_offset.get(place.first) if algorithm == self.algorithm else None
        return known or _digest_of(fd, place, algorithm)


NO_DIGESTS = Digests()


def range_algorithm(size: int, etag: str, headers: Mapping[str, str], *, range_bytes: int) -> str:
    """Return the digest to make of each range, so that the file need not be read again.

    "" when no digest of the ranges tells the whole: a digest of all bytes is made in order.
    """
    told = whole_checksum(headers)
    if told is not None:
        return told.algorithm if told.algorithm in CRC_BYTES else ""
    by_parts = etag_tells_content(etag, headers) and first_part_size(size, etag, headers) == range_bytes
    return "md5" if by_parts else ""


def check_file(
    fd: int, size: int, *, what: object, etag: str, headers: Mapping[str, str], digests: Digests = NO_DIGESTS
) -> bool:
    """Check a fetched file against what the server told, with the help of what was computed on the way.

    Returns False when nothing could be compared: no checksum was told, and the ETag is no digest, or the sizes of its
    parts are unknown.

    Raises IntegrityError: the bytes are certainly not the object's.
    """
    told, name = server_checksum(headers), ""
    if told is not None and not told.parts:
        return compare_checksum(what, told, _whole_digest(fd, size, told.algorithm, digests))
    if etag_tells_content(etag, headers):
        if is_md5_etag(etag):
            return _compare(what, "MD5", _whole_digest(fd, size, "md5", digests).hex(), etag)
        told, name = ServerChecksum("md5", bytes.fromhex(etag.partition("-")[0]), part_count_of(etag)), f"ETag {etag}"
    if told is None:
        return False
    certain = _told_part_size(size, told.parts, headers)
    for part_size in (certain,) if certain else likely_part_sizes(size, told.parts):
        # Digests made on the way are of use when the ranges were the parts.
        known = digests if part_size == digests.range_bytes else NO_DIGESTS
        joined = new_hasher(told.algorithm)
        for place in iter_ranges(size, part_size):
            joined.update(memoryview(known.of(fd, place, told.algorithm)))
        if joined.digest() == told.digest:
            return True
    if not certain:
        return False
    name = name or f"{told.algorithm.upper()} {told.text}-{told.parts}"
    raise IntegrityError(f"{what}: the bytes that arrived do not make the object's {name}")


def _whole_digest(fd: int, size: int, algorithm: str, digests: Digests) -> bytes:
    if algorithm in CRC_BYTES and algorithm == digests.algorithm:
        ranges = iter_ranges(size, digests.range_bytes)
        return combine(algorithm, ((digests.of(fd, place, algorithm), place.length) for place in ranges))
    return _digest_of(fd, ByteRange(0, size - 1), algorithm)


def _digest_of(fd: int, place: ByteRange, algorithm: str) -> bytes:
    hasher = new_hasher(algorithm)
    FileSlice(fd, offset=place.first, length=place.length).feed(hasher.update)
    return hasher.digest()


def check_digests(
    what: object, told: ServerChecksum, digests: Sequence[tuple[bytes, int]], *, part_size: int, head: ObjectHead
) -> bool:
    """Compare the digests and lengths of an object's parts with its checksum, if they are those of its own parts.

    Raises IntegrityError: they differ.
    """
    if not told.parts:
        return compare_checksum(what, told, combine(told.algorithm, digests))
    joined = new_hasher(told.algorithm)
    joined.update(memoryview(b"".join(digest for digest, _ in digests)))
    is_certain = _told_part_size(head.size, told.parts, head.headers) == part_size
    return joined.digest() == told.digest or (is_certain and compare_checksum(what, told, joined.digest()))


def compare_checksum(what: object, told: ServerChecksum, found: bytes) -> bool:
    """Compare a digest with the one that was told; raises IntegrityError."""
    return _compare(what, told.algorithm.upper(), checksum_text(found), told.text)


def _compare(what: object, name: str, found: str, expected: str) -> bool:
    if found != expected:
        advice = NO_MD5 if name == "MD5" else ""
        raise IntegrityError(
            f"{what}: the bytes that arrived have the {name} {found}, the object has {expected}{advice}"
        )
    return True
