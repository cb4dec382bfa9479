"""The stores that the commands work on, with a relay before each node and a plain reader behind."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from tests.resilience.chaos.faults import Plan
from tests.resilience.chaos.relay import ChaosRelay
from tests.resilience.chaos.worlds import State, digest_of
from tests.support.fake_s3 import FakeS3, Quirks
from tests.support.fake_s3.store import Bucket
from tests.support.rgw import RgwCluster


class Backend(ABC):
    """A store of several nodes; buckets are named as commands name them."""

    signed = True  # somebody looks at signatures

    def __init__(self, nodes: Iterable[str], access_key: str, secret_key: str, plan: Plan | None = None) -> None:
        self.plan = plan or Plan()
        self.relays = [ChaosRelay(node, index, self.plan) for index, node in enumerate(nodes)]
        self.secret_key = secret_key
        self.environment = {
            "S3_POOL": ",".join(relay.url() for relay in self.relays),
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
        }

    def calm(self) -> None:
        """End all faults."""
        self.plan.end()
        for relay in self.relays:
            relay.restore()
        for relay in self.relays:
            relay.settle()

    def stop(self) -> None:
        """End the relays."""
        for relay in self.relays:
            relay.stop()

    @abstractmethod
    def reset(self, buckets: dict[str, bool]) -> None:
        """Have these buckets, empty; the value is whether versions are kept."""

    @abstractmethod
    def have(self, buckets: dict[str, bool]) -> None:
        """Make those of the buckets that are not there."""

    @abstractmethod
    def put(self, bucket: str, key: str, body: bytes, *, age_s: float = 0.0) -> None:
        """Store an object, as another client would."""

    @abstractmethod
    def delete(self, bucket: str, key: str) -> None:
        """Delete an object, as another client would."""

    @abstractmethod
    def read(self, state: State) -> None:
        """Add everything that is stored to a state."""


class FakeBackend(Backend):
    """The fake in this process."""

    signed = False

    def __init__(self, nodes: int = 3, plan: Plan | None = None) -> None:
        self._fake = FakeS3(nodes, quirks=Quirks(check_payload=True))
        keys = self._fake.environment
        super().__init__(self._fake.endpoints, keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"], plan)

    def page_keys(self, count: int) -> None:
        """Have pages of so many names; 0 for as many as are asked for."""
        self._fake.quirks.short_pages = count

    def stop(self) -> None:
        """End relays and fake."""
        super().stop()
        self._fake.stop()

    def reset(self, buckets: dict[str, bool]) -> None:
        """Have these buckets, empty."""
        self._fake.forget()
        with self._fake.store.lock:
            self._fake.store.buckets.clear()
        self.have(buckets)

    def have(self, buckets: dict[str, bool]) -> None:
        """Make those of the buckets that are not there."""
        with self._fake.store.lock:
            for name in buckets.keys() - self._fake.store.buckets.keys():
                bucket = self._fake.store.buckets[name] = Bucket(name, time.time())
                bucket.versioning = "Enabled" if buckets[name] else ""

    def put(self, bucket: str, key: str, body: bytes, *, age_s: float = 0.0) -> None:
        """Store an object; a bucket that is gone takes none."""
        with self._fake.store.lock:
            if bucket in self._fake.store.buckets:
                self._fake.store.add(bucket, key, body, mtime=time.time() - age_s)

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object with all its versions."""
        with self._fake.store.lock:
            if bucket in self._fake.store.buckets:
                room = self._fake.store.buckets[bucket]
                for version in list(room.versions.get(key, ())):
                    room.remove(key, version.version_id)

    def read(self, state: State) -> None:
        """Add everything that is stored."""
        with self._fake.store.lock:
            for name, bucket in self._fake.store.buckets.items():
                state.buckets.add(name)
                state.uploads += [f"s3/{name}/{upload.key}" for upload in bucket.uploads.values()]
                for key, versions in bucket.versions.items():
                    state.versions[name, key] = {digest_of(version.body) for version in versions if not version.marker}
                    if (version := bucket.current(key)) is not None:
                        state.digests[name, key] = digest_of(version.body)
                        state.times[name, key] = version.mtime


class RgwBackend(Backend):
    """A real cluster. The buckets' names get a prefix, so that runs do not meet each other."""

    def __init__(self, cluster: RgwCluster, prefix: str) -> None:
        import boto3  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]

        super().__init__(cluster.endpoints, cluster.access_key, cluster.secret_key)
        keys = {"aws_access_key_id": cluster.access_key, "aws_secret_access_key": cluster.secret_key}
        config = Config(
            s3={"addressing_style": "path"}, request_checksum_calculation="when_required", retries={"max_attempts": 5}
        )
        self._client: Any = boto3.client(
            "s3", endpoint_url=cluster.endpoints[0], region_name="us-east-1", config=config, **keys
        )
        self._prefix = prefix

    def reset(self, buckets: dict[str, bool]) -> None:
        """Have these buckets, empty."""
        for name in self._names():
            self._empty(name)
            self._client.delete_bucket(Bucket=name)
        self.have(buckets)

    def have(self, buckets: dict[str, bool]) -> None:
        """Make those of the buckets that are not there."""
        for name in buckets.keys() - set(self._names()):
            self._client.create_bucket(Bucket=name)
            if buckets[name]:
                self._client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})

    def stop(self) -> None:
        """End the relays and remove what was made."""
        super().stop()
        self.reset({})

    def put(self, bucket: str, key: str, body: bytes, *, age_s: float = 0.0) -> None:
        """Store an object; a bucket that is gone takes none."""
        if bucket in self._names():
            self._client.put_object(Bucket=bucket, Key=key, Body=body)

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object."""
        if bucket in self._names():
            self._client.delete_object(Bucket=bucket, Key=key)

    def read(self, state: State) -> None:
        """Add everything that is stored."""
        for name in self._names():
            state.buckets.add(name)
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=name):
                for row in page.get("Contents", ()):
                    answer = self._client.get_object(Bucket=name, Key=row["Key"])
                    state.digests[name, row["Key"]] = digest_of(answer["Body"].read())
                    state.times[name, row["Key"]] = row["LastModified"].timestamp()
            self._read_versions(name, state)
            answer = self._client.list_multipart_uploads(Bucket=name)
            state.uploads += [f"s3/{name}/{row['Key']}" for row in answer.get("Uploads", ())]

    def _read_versions(self, bucket: str, state: State) -> None:
        for page in self._client.get_paginator("list_object_versions").paginate(Bucket=bucket):
            for row in page.get("Versions", ()):
                place = bucket, row["Key"]
                if not row["IsLatest"]:
                    body = self._client.get_object(Bucket=bucket, Key=row["Key"], VersionId=row["VersionId"])["Body"]
                    state.versions.setdefault(place, set()).add(digest_of(body.read()))

    def _names(self) -> list[str]:
        found = self._client.list_buckets().get("Buckets", ())
        return [row["Name"] for row in found if row["Name"].startswith(self._prefix)]

    def _empty(self, bucket: str) -> None:
        for page in self._client.get_paginator("list_object_versions").paginate(Bucket=bucket):
            for row in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                self._client.delete_object(Bucket=bucket, Key=row["Key"], VersionId=row["VersionId"])
        for row in self._client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()):
            self._client.abort_multipart_upload(Bucket=bucket, Key=row["Key"], UploadId=row["UploadId"])
