"""What the long proofs on a real cluster share: a judge that is not s3pool, and trees that are compared."""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.rgw import RgwCluster

ATTEMPT = re.compile(r"(\w+) s3/(.+) at http://\S+: (\d+) in ")
BLOCK_BYTES = 1 << 20
OLD = 1_500_000_000


class Judge:
    """What the cluster holds, as boto3 sees it."""

    def __init__(self, cluster: RgwCluster, bucket: str) -> None:
        import boto3  # type: ignore[import-untyped]

        keys = {"aws_access_key_id": cluster.access_key, "aws_secret_access_key": cluster.secret_key}
        self._client: Any = boto3.client("s3", endpoint_url=cluster.endpoints[0], region_name="us-east-1", **keys)
        self._bucket = bucket

    def keys(self, prefix: str) -> list[str]:
        """Give the keys below a prefix."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        return [row["Key"] for page in pages for row in page.get("Contents", ())]

    def head(self, key: str) -> dict[str, Any]:
        """Give what the cluster tells of an object."""
        facts: dict[str, Any] = self._client.head_object(Bucket=self._bucket, Key=key)
        return facts

    def digest(self, key: str) -> str:
        """Give the digest of an object's bytes."""
        digest = hashlib.sha256()
        for block in self._client.get_object(Bucket=self._bucket, Key=key)["Body"].iter_chunks(BLOCK_BYTES):
            digest.update(block)
        return digest.hexdigest()

    def digests(self, prefix: str) -> dict[str, str]:
        """Give the digests of all objects below a prefix, by what follows it."""
        return {key[len(prefix) :]: self.digest(key) for key in self.keys(prefix)}

    def put(self, key: str, content: bytes) -> None:
        """Store an object."""
        self._client.put_object(Bucket=self._bucket, Key=key, Body=content)

    def delete(self, prefix: str) -> None:
        """Delete all objects below a prefix."""
        for key in self.keys(prefix):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def uploads(self) -> list[str]:
        """Give the keys of unfinished uploads."""
        answer = self._client.list_multipart_uploads(Bucket=self._bucket)
        return [row["Key"] for row in answer.get("Uploads", ())]


def digest_of(path: Path) -> str:
    """Give the digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slowly(stream)


def _slowly(stream: Any) -> str:
    digest = hashlib.sha256()
    while block := stream.read(BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def digests_of(root: Path) -> dict[str, str]:
    """Give the digests of all files below a directory, hidden ones too."""
    return {str(path.relative_to(root)): digest_of(path) for path in root.rglob("*") if path.is_file()}


def times_of(root: Path) -> dict[str, int]:
    """Give the modification times of all files below a directory, in nanoseconds."""
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def plant(root: Path, sizes: dict[str, int], *, seed: int) -> Path:
    """Make files of random content, with times of long ago that no clock would give."""
    source = random.Random(seed)
    for number, (name, size) in enumerate(sizes.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            for start in range(0, size, BLOCK_BYTES):
                stream.write(source.randbytes(min(BLOCK_BYTES, size - start)))
        os.utime(path, ns=(0, (OLD + number) * 10**9 + 123_456_789))
    return root


def attempts(log: bytes, about: str = "") -> Counter[str]:
    """Count the requests that were answered with success, by operation, in a log of level debug.

    ``about`` is what stands in the bucket and key of those that count.
    """
    found = ATTEMPT.findall(log.decode("utf-8", "replace"))
    return Counter(op for op, resource, status in found if status.startswith("2") and about in resource)
