"""Short words for the contract suite: store bytes, read them back, list what is there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest

from s3pool.body import BytesBody
from s3pool.model import ByteRange, ObjectAttributes
from s3pool.s3.client import PutResult, S3Client
from s3pool.s3.list_all import list_objects

PART_BYTES = 5 << 20  # S3's least size of a part that is not the last
# What some servers make other characters of.
LETTERS = {"line ends in keys": "\r\n\x01", "control characters in keys": "\x01", "backslashes in keys": "\\"}
NewBucket = Callable[[], str]
PLAIN = ObjectAttributes()


@dataclass(frozen=True)
class Backend:
    """A server, and what it is known not to do."""

    name: str
    environment: dict[str, str]
    lacks: frozenset[str] = frozenset()

    def need(self, ability: str) -> None:
        """Skip the test on a server that is known to lack something."""
        if ability in self.lacks:
            pytest.skip(f"{self.name} lacks: {ability}")

    def keys(self, keys: Iterable[str]) -> list[str]:
        """Give those keys that the server can hold, in byte order."""
        folded = "".join(letters for lack, letters in LETTERS.items() if lack in self.lacks)
        kept = sorted(key for key in keys if not any(letter in key for letter in folded))
        if "keys that are no paths" not in self.lacks:
            return kept
        paths = [key for key in kept if not {"", ".", ".."} & set(key.split("/"))]
        return [key for key in paths if not any(key.startswith(f"{other}/") for other in paths)]


def md5(content: bytes) -> str:
    """Give the ETag of bytes stored in one piece."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def put(
    client: S3Client,
    bucket: str,
    key: str,
    content: bytes = b"",
    *,
    attributes: ObjectAttributes = PLAIN,
    new: bool = False,
) -> PutResult:
    """Store bytes under a key, their hash signed; ``new`` forbids to overwrite."""
    body = BytesBody(content)
    return client.put_object(bucket, key, body, attributes=attributes, payload_hash=body.sha256(), if_none_match=new)


def get(client: S3Client, bucket: str, key: str, *, span: tuple[int, int] | None = None, version_id: str = "") -> bytes:
    """Read an object, or the bytes first to last of it."""
    byte_range = ByteRange(*span) if span else None
    with client.get_object(bucket, key, byte_range=byte_range, version_id=version_id) as response:
        return response.preload()


def keys(client: S3Client, bucket: str, prefix: str = "") -> list[str]:
    """List all keys, page after page."""
    return [found.key for found in list_objects(client, bucket, prefix=prefix)]
