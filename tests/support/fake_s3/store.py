"""What the fake keeps: buckets, versions, uploads; all in memory, all under one lock."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import threading
from dataclasses import dataclass, field


class S3Fault(Exception):
    """An answer that is an error, as S3 words it."""

    def __init__(self, status: int, code: str, message: str = "", **headers: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message or code
        self.region = ""  # that the answer names
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass
class Version:
    """One version of one object, or a delete marker."""

    key: str
    version_id: str
    mtime: float
    body: bytes = b""
    etag: str = ""
    headers: dict[str, str] = field(default_factory=dict)  # content-type, x-amz-meta-..., lower case
    tags: dict[str, str] = field(default_factory=dict)
    storage_class: str = "STANDARD"
    marker: bool = False


@dataclass
class Part:
    """One stored part of an upload."""

    number: int
    body: bytes
    etag: str
    mtime: float


@dataclass
class Upload:
    """An upload that was begun."""

    upload_id: str
    key: str
    initiated: float
    headers: dict[str, str]
    tags: dict[str, str]
    storage_class: str
    checksum_algorithm: str = ""  # as in a header's name
    checksum_type: str = ""
    node: int = 0  # which began it
    parts: dict[int, Part] = field(default_factory=dict)


class Bucket:
    """Keys in byte order, each with its versions, the newest first."""

    def __init__(self, name: str, created: float) -> None:
        self.name = name
        self.created = created
        self.versioning = ""
        self.lock = False
        self.versions: dict[str, list[Version]] = {}
        self.uploads: dict[str, Upload] = {}
        self.completed: dict[str, str] = {}  # upload id -> etag: a repeated Complete is told the same
        self._sorted: list[str] | None = None

    def keys_from(self, start: str, *, inclusive: bool) -> list[str]:
        """Give all keys after start, or from it on, in the order of their UTF-8 bytes."""
        if self._sorted is None:
            # Code point order is byte order; surrogate escapes never get in.
            self._sorted = sorted(self.versions)
        cut = bisect.bisect_left if inclusive else bisect.bisect_right
        return self._sorted[cut(self._sorted, start) :]

    def current(self, key: str) -> Version | None:
        """Give what GET without a version id would see."""
        versions = self.versions.get(key)
        return versions[0] if versions and not versions[0].marker else None

    def put(self, version: Version) -> None:
        """Store a version as the newest; it replaces the one with the same id."""
        versions = self.versions.setdefault(version.key, [])
        versions[:] = [version, *(other for other in versions if other.version_id != version.version_id)]
        if len(versions) == 1:
            self._sorted = None

    def remove(self, key: str, version_id: str) -> Version | None:
        """Forget one version for good."""
        versions = self.versions.get(key, [])
        found = next((version for version in versions if version.version_id == version_id), None)
        if found is not None:
            versions.remove(found)
            if not versions:
                del self.versions[key]
                self._sorted = None
        return found


class Store:
    """The one store behind all endpoints of a fake."""

    def __init__(self) -> None:
        # Guards everything in here; held for one operation, never while a socket is used.
        self.lock = threading.RLock()
        self.buckets: dict[str, Bucket] = {}
        self._numbers = itertools.count(1)

    def bucket(self, name: str) -> Bucket:
        """Give a bucket; raises NoSuchBucket."""
        try:
            return self.buckets[name]
        except KeyError:
            raise S3Fault(404, "NoSuchBucket", "The specified bucket does not exist") from None

    def new_id(self, kind: str) -> str:
        """Give an identifier that was never given before."""
        return f"{kind}-{next(self._numbers):06d}"

    def version_id_for(self, bucket: Bucket) -> str:
        """Give the version id of a new version: ``null`` outside versioning."""
        return self.new_id("v") if bucket.versioning == "Enabled" else "null"

    def add(self, bucket: str, key: str, body: bytes = b"", *, mtime: float = 0.0, **headers: str) -> Version:
        """Store an object directly, for tests that only want it there; makes the bucket."""
        with self.lock:
            room = self.buckets.setdefault(bucket, Bucket(bucket, mtime))
            stored = {name.replace("_", "-"): value for name, value in headers.items()}
            version = Version(key, self.version_id_for(room), mtime, body, md5_hex(body), stored)
            room.put(version)
            return version

    def bodies(self, bucket: str) -> dict[str, bytes]:
        """Give the current content of a bucket, for assertions."""
        with self.lock:
            room = self.buckets.get(bucket)
            keys = [] if room is None else room.keys_from("", inclusive=True)
            return {key: found.body for key in keys if room is not None and (found := room.current(key))}


def md5_hex(body: bytes) -> str:
    """Give the ETag of an object that was put in one piece, without quotes."""
    return hashlib.md5(body, usedforsecurity=False).hexdigest()
