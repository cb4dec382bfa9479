"""Digests that travel with the bytes: payload hash, Content-MD5, x-amz-checksum."""

from __future__ import annotations

import base64
import functools
import hashlib
import math
import time
from binascii import b2a_base64
from collections.abc import Callable

from s3pool.errors import IntegrityError
from s3pool.hashing import CHECKSUM_PREFIX, CRC_BYTES, new_hasher
from s3pool.model import UNSIGNED_PAYLOAD
from s3pool.record import dataclass
from s3pool.s3.documents import PutResult
from s3pool.transfer.etags import is_md5_etag

ALGORITHMS = ("md5", "sha256", "sha1", "crc32", "crc32c", "crc64nvme")
TRIAL_BYTES = 16 * 1024
# So small a body gets an MD5 beside its SHA-256, for at most 4 us, which is held against the ETag. Larger ones rely on
# the SHA-256 in the signature: RGW 16, MinIO, versitygw and SeaweedFS refuse other bytes (XAmzContentSHA256Mismatch).
COMPARED_BYTES = 2 * 1024
TRIALS = 5  # the best of some: anything may come between

Feed = Callable[[Callable[[memoryview], object]], None]


@dataclass(frozen=True, slots=True)
class Seal:
    """What protects one body on its way."""

    payload_hash: str
    content_md5: str = ""
    checksum: tuple[str, str] | None = None  # header and value
    md5_hex: str = ""  # "" when it was not computed


@functools.cache
def sha256_is_cheaper() -> bool:
    """Say whether this processor makes a SHA-256 faster than an MD5, as those with the SHA extensions do.

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


def seal(feed: Feed, *, sign_payload: bool, checksum: str = "", compare: bool = False) -> Seal:
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
    return Seal(
        payload_hash=digests["sha256"].hex() if sign_payload else UNSIGNED_PAYLOAD,
        content_md5=base64.b64encode(md5).decode() if sends_md5 else "",
        checksum=_header(checksum, digests),
        md5_hex=md5.hex(),
    )


def seal_bytes(content: bytes | bytearray, *, sign_payload: bool, checksum: str = "") -> Seal:
    """Make the seal of a body in memory."""
    is_small = len(content) <= COMPARED_BYTES
    if checksum or (sign_payload and is_small and not has_md5()):
        feed: Feed = lambda update: _hand(update, content)  # noqa: E731
        return seal(feed, sign_payload=sign_payload, checksum=checksum, compare=is_small)
    digest = b"" if sign_payload and not is_small else hashlib.md5(content, usedforsecurity=False).digest()
    if sign_payload:
        return Seal(hashlib.sha256(content).hexdigest(), "", None, digest.hex())
    return Seal(UNSIGNED_PAYLOAD, b2a_base64(digest, newline=False).decode(), None, digest.hex())


def check_stored(what: object, result: PutResult, sealed: Seal) -> None:
    """Hold the ETag of what was stored against the MD5 of what was sent, where both are known.

    Raises:
        IntegrityError: the server stored other bytes.
    """
    if sealed.md5_hex and result.etag != sealed.md5_hex and is_md5_etag(result.etag) and not result.opaque:
        raise IntegrityError(f"{what} has the ETag {result.etag}; what was sent makes {sealed.md5_hex}")


def _hand(update: Callable[[memoryview], object], content: bytes | bytearray) -> None:
    update(memoryview(content))


def _header(checksum: str, digests: dict[str, bytes]) -> tuple[str, str] | None:
    if checksum in ("", "md5"):
        return None
    return CHECKSUM_PREFIX + checksum, base64.b64encode(digests[checksum]).decode()


def algorithm_header(checksum: str) -> str:
    """Give S3's name for CreateMultipartUpload, "" where it has none."""
    return "" if checksum in ("", "md5") else checksum.upper()


def type_header(checksum: str) -> str:
    """Give how the checksum of an object in parts is to be made, "" where S3 leaves no choice.

    A CRC of the whole content can be made of the parts' CRCs, and be checked by anybody: one of
    CRCs tells nothing to whom the size of the parts is unknown. The other digests have no way.
    """
    return "FULL_OBJECT" if checksum in CRC_BYTES else ""
