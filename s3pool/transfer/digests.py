"""What tells bytes apart: ETags, and the checksums that travel with a body or that a server keeps."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import math
import re
import time
from binascii import b2a_base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from s3pool.errors import IntegrityError
from s3pool.hashing import CHECKSUM_PREFIX, CHECKSUMS, CRC_BYTES, has_machine_code, new_hasher
from s3pool.model import UNSIGNED_PAYLOAD, ByteRange
from s3pool.record import dataclass
from s3pool.s3.documents import PutResult
from s3pool.s3.part_sizes import MIB, choose_part_size, count_parts

# What other clients cut with, the likely ones first: aws, mc, s3cmd, s5cmd, rclone, boto3.
USUAL_PART_SIZES = tuple(mib * MIB for mib in (16, 8, 5, 15, 50, 64, 10, 32, 25, 100, 128, 20, 256, 512, 1024))

MD5_ETAG = re.compile(r"[0-9a-f]{32}")
COMPOSITE_ETAG = re.compile(r"[0-9a-f]{32}-([1-9][0-9]{0,17})")


def iter_ranges(size: int, part_size: int) -> Iterator[ByteRange]:
    """Cut size bytes into ranges of part_size, the last one possibly shorter."""
    for first in range(0, size, part_size):
        yield ByteRange(first, min(first + part_size, size) - 1)


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
    for part_size in dict.fromkeys(usual):
        if count_parts(size, part_size) == count:
            yield part_size


ALGORITHMS = ("md5", "sha256", "sha1", "crc32", "crc32c", "crc64nvme")
TRIAL_BYTES = 16 * 1024
# So small a body gets an MD5 beside its SHA-256, for at most 4 us, which is held against the ETag. Larger ones rely on
# the SHA-256 in the signature: RGW 16, MinIO, versitygw and SeaweedFS refuse other bytes (XAmzContentSHA256Mismatch).
COMPARED_BYTES = 2 * 1024
TRIALS = 5  # the best of some: anything may come between

Feed = Callable[[Callable[[memoryview], object]], None]


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
        content_md5=base64.b64encode(md5).decode() if sends_md5 else "",
        checksum=(CHECKSUM_PREFIX + checksum, checksum_text(digests[checksum])) if algorithm_header(checksum) else None,
        md5_hex=md5.hex(),
    )


def digest_bytes(content: bytes | bytearray, *, sign_payload: bool, checksum: str = "") -> BodyDigests:
    """Make the digests of a body in memory."""
    is_small = len(content) <= COMPARED_BYTES
    if checksum or (sign_payload and is_small and not has_md5()):

        def feed(update: Callable[[memoryview], object]) -> None:
            update(memoryview(content))

        return digest_body(feed, sign_payload=sign_payload, checksum=checksum, compare=is_small)
    digest = b"" if sign_payload and not is_small else hashlib.md5(content, usedforsecurity=False).digest()
    if sign_payload:
        return BodyDigests(hashlib.sha256(content).hexdigest(), "", None, digest.hex())
    return BodyDigests(UNSIGNED_PAYLOAD, b2a_base64(digest, newline=False).decode(), None, digest.hex())


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

    @property
    def text(self) -> str:
        """The value as S3 writes it."""
        return checksum_text(self.digest)


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
    return base64.b64encode(digest).decode()
