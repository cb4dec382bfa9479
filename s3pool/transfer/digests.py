"""What tells bytes apart, and whether those that arrived are the ones that are stored.

A checksum of the content that the server tells decides where there is one, else the ETag. Both are known before the
bytes, so no more is computed than will be compared.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from s3pool.body import CHECKSUM_PREFIX, CHECKSUMS, CRC_BYTES, FileSlice, combine, has_machine_code, new_hasher
from s3pool.errors import IntegrityError
from s3pool.model import UNSIGNED_PAYLOAD, ByteRange, ObjectHead, whole_number
from s3pool.record import dataclass, field
from s3pool.s3.requests import MIB, choose_part_size, count_parts, iter_ranges
from s3pool.s3.responses import PutResult, hides_digest

PART_SIZE = "s3pool-part-size"  # metadata: what the composite ETag was made with, to verify downloads
# What other clients cut with, the likely ones first: aws, mc, s3cmd, s5cmd, rclone, boto3.
USUAL_PART_SIZES = tuple(mib * MIB for mib in (16, 8, 5, 15, 50, 64, 10, 32, 25, 100, 128, 20, 256, 512, 1024))

MD5_ETAG = re.compile(r"[0-9a-f]{32}")
COMPOSITE_ETAG = re.compile(r"[0-9a-f]{32}-([1-9][0-9]{0,17})")


def is_md5_etag(etag: str) -> bool:
    """Return whether an ETag has the form of an MD5."""
    return MD5_ETAG.fullmatch(etag) is not None


def part_count_of(etag: str) -> int:
    """Return the number of parts a composite ETag tells, 0 for any other ETag."""
    match = COMPOSITE_ETAG.fullmatch(etag)
    return int(match[1]) if match else 0


def composite_etag(part_etags: Iterable[str]) -> str:
    """Return the ETag of an object made of parts; "" when a part's ETag is no MD5."""
    etags = list(part_etags)
    if not all(map(is_md5_etag, etags)):
        return ""
    joined = b"".join(map(bytes.fromhex, etags))
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(etags)}"


def likely_part_sizes(size: int, count: int) -> Iterator[int]:
    """Return the part sizes in use somewhere that cut size bytes into count parts."""
    usual = (*USUAL_PART_SIZES, choose_part_size(size), -(-size // (count * MIB)) * MIB)
    yield from (part_size for part_size in dict.fromkeys(usual) if count_parts(size, part_size) == count)


ALGORITHMS = ("md5", "sha256", "sha1", "crc32", "crc32c", "crc64nvme")
TRIAL_BYTES = 16 * 1024
# So small a body gets an MD5 beside its SHA-256, for at most 4 us, which is held against the ETag. Larger ones rely on
# the SHA-256 in the signature: RGW 16, MinIO, versitygw and SeaweedFS refuse other bytes (XAmzContentSHA256Mismatch).
COMPARED_BYTES = 2 * 1024
TRIALS = 5  # the best of some: anything may come between

Feed = Callable[[Callable[[memoryview], object]], object]


@dataclass(frozen=True, slots=True)
class BodyDigests:
    """What protects one body on its way."""

    payload_hash: str
    content_md5: str = ""
    checksum: tuple[str, str] | None = None  # header and value
    md5_hex: str = ""  # "" when it was not computed


@functools.cache
def sha256_is_cheaper() -> bool:
    """Return whether this processor makes a SHA-256 faster than an MD5.

    Where it does not, a body without TLS goes with a Content-MD5, which the signature covers,
    and the ETag of what was stored can be compared with it besides.
    """
    block = bytes(TRIAL_BYTES)
    try:
        return _best_of(lambda: hashlib.sha256(block)) < _best_of(lambda: hashlib.md5(block, usedforsecurity=False))
    except ValueError:  # no MD5 at all
        return True


@functools.cache
def has_md5() -> bool:
    """Return whether this system makes MD5s at all; some forbid them."""
    try:
        hashlib.md5(b"", usedforsecurity=False)
    except ValueError:
        return False
    return True


def _best_of(act: Callable[[], object]) -> float:
    best = math.inf
    for _ in range(TRIALS):
        started = time.perf_counter()
        act()
        best = min(best, time.perf_counter() - started)
    return best


def digest_body(feed: Feed, *, sign_payload: bool, checksum: str = "", compare: bool = False) -> BodyDigests:
    """Read a body once and make what its request carries.

    ``feed`` hands all of the body to a function, block by block. With ``sign_payload`` the
    signature covers a SHA-256; without it a Content-MD5 is sent, which any server checks.
    With ``compare`` an MD5 is made in any case, for check_stored().
    """
    names = {"sha256" if sign_payload else "md5"} | ({checksum} if checksum else set())
    sends_md5 = "md5" in names
    if compare and has_md5():
        names.add("md5")
    hashers = {name: new_hasher(name) for name in names}

    def update(block: memoryview) -> None:
        for hasher in hashers.values():
            hasher.update(block)

    feed(update)
    digests = {name: hasher.digest() for name, hasher in hashers.items()}
    md5 = digests.get("md5", b"")
    return BodyDigests(
        payload_hash=digests["sha256"].hex() if sign_payload else UNSIGNED_PAYLOAD,
        content_md5=checksum_text(md5) if sends_md5 else "",
        checksum=(CHECKSUM_PREFIX + checksum, checksum_text(digests[checksum])) if algorithm_header(checksum) else None,
        md5_hex=md5.hex(),
    )


def digest_bytes(content: bytes | bytearray, *, sign_payload: bool, checksum: str = "") -> BodyDigests:
    """Make the digests of a body in memory."""
    is_small = len(content) <= COMPARED_BYTES
    if checksum or (sign_payload and is_small and not has_md5()):
        view = memoryview(content)
        return digest_body(lambda update: update(view), sign_payload=sign_payload, checksum=checksum, compare=is_small)
    digest = b"" if sign_payload and not is_small else hashlib.md5(content, usedforsecurity=False).digest()
    if sign_payload:
        return BodyDigests(hashlib.sha256(content).hexdigest(), "", None, digest.hex())
    return BodyDigests(UNSIGNED_PAYLOAD, checksum_text(digest), None, digest.hex())


def check_stored(what: object, result: PutResult, digests: BodyDigests) -> None:
    """Hold the ETag of what was stored against the MD5 of what was sent, where both are known.

    Raises IntegrityError: the server stored other bytes.
    """
    if digests.md5_hex and result.etag != digests.md5_hex and is_md5_etag(result.etag) and not result.opaque:
        raise IntegrityError(f"{what} has the ETag {result.etag}; what was sent makes {digests.md5_hex}")


def algorithm_header(checksum: str) -> str:
    """Return S3's name for CreateMultipartUpload, "" where it has none."""
    return "" if checksum in ("", "md5") else checksum.upper()


def type_header(checksum: str) -> str:
    """Return how the checksum of an object in parts is made, "" where S3 leaves no choice.

    A CRC of the whole content can be made of the parts' CRCs, and be checked by anybody: one of
    CRCs tells nothing to whom the size of the parts is unknown. The other digests have no way.
    """
    return "FULL_OBJECT" if checksum in CRC_BYTES else ""


TYPE = "x-amz-checksum-type"
FULL_OBJECT = "FULL_OBJECT"
COMPOSITE = "COMPOSITE"
HEADERS = tuple((name, CHECKSUM_PREFIX + name) for name in (*CHECKSUMS, "sha512", "md5"))
DIGEST_BYTES = CRC_BYTES | {"sha256": 32, "sha1": 20, "sha512": 64, "md5": 16}
VALUE = re.compile(r"([A-Za-z0-9+/]+={0,2})(?:-([1-9][0-9]{0,17}))?")


class ServerChecksum(NamedTuple):
    """A checksum of a whole object, or, with ``parts``, the checksum of its parts' checksums."""

    algorithm: str
    digest: bytes
    parts: int = 0


def server_checksum(headers: Mapping[str, str]) -> ServerChecksum | None:
    """Read the checksum of a whole object out of an answer's headers, the best where there are several.

    None where there is none. What does not look like a checksum is none, and neither are the XXH digests of newer
    servers, which nothing here computes, nor CRCs without machine code.
    """
    for name, header in HEADERS:
        if header in headers and (name not in CRC_BYTES or has_machine_code()):
            found = _read(name, headers[header], headers.get(TYPE, ""))
            if found is not None:
                return found
    return None


def _read(algorithm: str, value: str, kind: str) -> ServerChecksum | None:
    match = VALUE.fullmatch(value)
    if match is None:
        return None
    parts = int(match[2] or 0)
    if (kind == FULL_OBJECT and parts) or (kind == COMPOSITE and not parts):
        return None
    try:
        digest = base64.b64decode(match[1], validate=True)
    except binascii.Error:
        return None
    return ServerChecksum(algorithm, digest, parts) if len(digest) == DIGEST_BYTES[algorithm] else None


def whole_checksum(headers: Mapping[str, str]) -> ServerChecksum | None:
    """Return the checksum of the content itself; None where only the parts' is told."""
    found = server_checksum(headers)
    return None if found is None or found.parts else found


def checksum_text(digest: bytes) -> str:
    """Return a digest as S3 writes it."""
    return binascii.b2a_base64(digest, newline=False).decode()


# -- what arrived ---------------------------------------------------------------------------

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
    told = whole_number(headers.get(f"x-amz-meta-{PART_SIZE}", ""))
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
        return known or digest_of(fd, place, algorithm)


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
    name = name or f"{told.algorithm.upper()} {checksum_text(told.digest)}-{told.parts}"
    raise IntegrityError(f"{what}: the bytes that arrived do not make the object's {name}")


def _whole_digest(fd: int, size: int, algorithm: str, digests: Digests) -> bytes:
    if algorithm in CRC_BYTES and algorithm == digests.algorithm:
        ranges = iter_ranges(size, digests.range_bytes)
        return combine(algorithm, ((digests.of(fd, place, algorithm), place.length) for place in ranges))
    return digest_of(fd, ByteRange(0, size - 1), algorithm)


def digest_of(fd: int, place: ByteRange, algorithm: str) -> bytes:
    """Return the digest of a range of a file."""
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
    return _compare(what, told.algorithm.upper(), checksum_text(found), checksum_text(told.digest))


def _compare(what: object, name: str, found: str, expected: str) -> bool:
    if found != expected:
        advice = NO_MD5 if name == "MD5" else ""
        have = f"the bytes that arrived have the {name} {found}"
        raise IntegrityError(f"{what}: {have}, the object has {expected}{advice}")
    return True
