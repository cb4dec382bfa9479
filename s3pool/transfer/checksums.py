"""Digests that travel with the bytes: payload hash, Content-MD5, x-amz-checksum."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from s3pool.errors import UsageError
from s3pool.model import UNSIGNED_PAYLOAD

ALGORITHMS = ("md5", "sha256", "sha1", "crc32", "crc32c", "crc64nvme")
CRC32_BYTES = 4
CRC64_BYTES = 8
FASTER_MODULES = {"crc32c": ("awscrt.checksums", "google_crc32c", "crc32c"), "crc64nvme": ("awscrt.checksums",)}

Feed = Callable[[Callable[[memoryview], object]], None]


class Hasher(Protocol):
    """What hashlib's objects have in common with ours."""

    def update(self, block: memoryview, /) -> object:
        """Take more bytes."""

    def digest(self) -> bytes:
        """Give the digest of all bytes so far."""


class _Crc:
    """A checksum that is a function of the block and the value before."""

    __slots__ = ("_function", "_size", "_value")

    def __init__(self, function: Callable[[memoryview, int], int], size: int) -> None:
        self._function = function
        self._size = size
        self._value = 0

    def update(self, block: memoryview, /) -> None:
        """Take more bytes."""
        self._value = self._function(block, self._value)

    def digest(self) -> bytes:
        """Give the value in network order."""
        return self._value.to_bytes(self._size, "big")


def check_algorithm(name: str) -> None:
    """See to it that a checksum can be made here.

    Raises:
        UsageError: the library it needs is not installed. In plain Python it would be
            slower than any network.
    """
    if name in FASTER_MODULES:
        _crc_function(name)


def _crc_function(name: str) -> Callable[[memoryview, int], int]:
    for module_name in FASTER_MODULES[name]:
        try:
            module = import_module(module_name)
        except ImportError:
            continue
        if module_name == "google_crc32c":
            return lambda block, value: int(module.extend(value, bytes(block)))
        function = getattr(module, name)
        # awscrt wants bytes; the copy of one block is cheap beside the network.
        return lambda block, value: int(function(bytes(block), value))
    wanted = "awscrt" if name == "crc64nvme" else "awscrt, google-crc32c or crc32c"
    raise UsageError(f"--checksum {name} needs a library: pip install {wanted}; crc32 and sha256 need none")


def new_hasher(name: str) -> Hasher:
    """Make a hasher for one of ALGORITHMS."""
    if name == "crc32":
        return _Crc(zlib.crc32, CRC32_BYTES)
    if name in FASTER_MODULES:
        return _Crc(_crc_function(name), CRC32_BYTES if name == "crc32c" else CRC64_BYTES)
    return hashlib.new(name, usedforsecurity=False)


@dataclass(frozen=True, slots=True)
class Seal:
    """What protects one body on its way."""

    payload_hash: str
    content_md5: str = ""
    checksum: tuple[str, str] | None = None  # header and value
    md5_hex: str = ""  # "" when it was not computed


def seal(feed: Feed, *, sign_payload: bool, checksum: str = "") -> Seal:
    """Read a body once and make what its request carries.

    ``feed`` hands all of the body to a function, block by block. With ``sign_payload`` the
    signature covers a SHA-256; without it a Content-MD5 is sent, which any server checks.
    """
    names = {"sha256" if sign_payload else "md5"} | ({checksum} if checksum else set())
    hashers = {name: new_hasher(name) for name in names}

    def update(block: memoryview) -> None:
        for hasher in hashers.values():
            hasher.update(block)

    feed(update)
    digests = {name: hasher.digest() for name, hasher in hashers.items()}
    md5 = digests.get("md5", b"")
    return Seal(
        payload_hash=digests["sha256"].hex() if sign_payload else UNSIGNED_PAYLOAD,
        content_md5=base64.b64encode(md5).decode(),
        checksum=_header(checksum, digests),
        md5_hex=md5.hex(),
    )


def seal_bytes(content: bytes, *, sign_payload: bool, checksum: str = "") -> Seal:
    """Make the seal of a body in memory."""
    return seal(lambda update: _hand(update, content), sign_payload=sign_payload, checksum=checksum)


def _hand(update: Callable[[memoryview], object], content: bytes) -> None:
    update(memoryview(content))


def _header(checksum: str, digests: dict[str, bytes]) -> tuple[str, str] | None:
    if checksum in ("", "md5"):
        return None
    return f"x-amz-checksum-{checksum}", base64.b64encode(digests[checksum]).decode()


def algorithm_header(checksum: str) -> str:
    """Give S3's name for CreateMultipartUpload, "" where it has none."""
    return "" if checksum in ("", "md5") else checksum.upper()
