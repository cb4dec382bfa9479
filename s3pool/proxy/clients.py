"""The access keys that clients may use, and what each may do."""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import cast

from s3pool.errors import ConfigError
from s3pool.model import Credentials
from s3pool.proxy.errors import forbidden
from s3pool.proxy.limits import BucketLimits, Limits, Rule, read_bucket_limits, read_limits, rules_of
from s3pool.proxy.operations import S3Operation
from s3pool.record import dataclass, field
from s3pool.s3.signing import KeyProvider

KEYS = frozenset({"access_key", "secret_key", "buckets", "read_only", "backend", "expires", "limits", "bucket_limits"})
BACKENDS = ("self", "pool")
# What any node takes for the same bucket; RGW reads :b and tenant:b as other ones.
BUCKET_NAME = re.compile(r"[A-Za-z0-9._-]+")
DATE_FORMATS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Client:
    """One access key that the proxy knows.

    ``buckets`` are globs, empty for all; ``credentials`` sign on its behalf towards the
    nodes. ``expires`` is seconds since 1970, 0 for never. ``limits`` are for all of its
    requests, ``bucket_limits`` for those of each bucket that a pattern names.
    """

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    credentials: Credentials | KeyProvider | None = field(default=None, repr=False)
    buckets: tuple[str, ...] = ()
    read_only: bool = False
    expires: float = 0.0
    limits: Limits | None = None
    bucket_limits: BucketLimits = ()

    def rules(self, bucket: str) -> tuple[Rule, ...]:
        """Return the limits that hold for its requests of a bucket."""
        own = (Rule(self.access_key, self.limits, ""),) if self.limits is not None else ()
        return own + rules_of(self.bucket_limits, bucket, owner=self.access_key)

    def authorize(self, operation: S3Operation, bucket: str, *, source_bucket: str, now: float) -> None:
        """Let an operation pass.

        ``source_bucket`` is the one that is copied from, if any.

        Raises:
            S3ErrorResponse: the key has expired, may only read, or may not touch a bucket.
        """
        if self.expires and now >= self.expires:
            raise forbidden("AccessDenied", "the access key has expired", reason="client_expired")
        if self.read_only and not operation.reads:
            raise forbidden("AccessDenied", "the access key may only read", reason="read_only")
        for name in filter(None, (bucket, source_bucket)):
            if not self.admits(name):
                raise forbidden("AccessDenied", f"the access key may not use the bucket {name}", reason="bucket")
        if not bucket and self.buckets:
            raise forbidden("AccessDenied", "the access key may not list all buckets", reason="bucket")

    def admits(self, bucket: str) -> bool:
        """Return whether a bucket is among those that the key may use."""
        if not self.buckets:
            return True
        return BUCKET_NAME.fullmatch(bucket) is not None and any(fnmatchcase(bucket, glob) for glob in self.buckets)

    @property
    def is_limited(self) -> bool:
        """Return whether the key has restrictions that the nodes do not check."""
        return bool(self.buckets) or self.read_only


def read_clients(entries: object, pool: Credentials | KeyProvider | None, *, where: str) -> dict[str, Client]:
    """Read a list of clients as it stands in YAML, by access key.

    Raises:
        ConfigError: an entry is incomplete, unknown or there twice; secrets are not shown.
    """
    if entries is None:
        return {}
    if not isinstance(entries, list):
        raise ConfigError(f"{where}: must be a list of clients, each with access_key and secret_key")
    clients: dict[str, Client] = {}
    for number, entry in enumerate(entries, 1):
        client = _read_client(entry, pool, where=f"{where}: client {number}")
        if client.access_key in clients:
            raise ConfigError(f"{where}: client {number}: the access key {client.access_key} is there twice")
        clients[client.access_key] = client
    return clients


def pool_client(pair: Credentials, signs: Credentials | KeyProvider) -> Client:
    """Return the pool's own key pair as a client, so that both sides can share one environment."""
    return Client(pair.access_key, pair.secret_key, pair.session_token, signs)


def _read_client(entry: object, pool: Credentials | KeyProvider | None, *, where: str) -> Client:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where}: must be a map with access_key and secret_key")
    unknown = sorted(str(key) for key in entry if key not in KEYS)
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]}; there are: {', '.join(sorted(KEYS))}")
    access_key, secret_key = _text(entry, "access_key", where), _text(entry, "secret_key", where)
    return Client(
        access_key,
        secret_key,
        credentials=_credentials(entry.get("backend", "self"), access_key, secret_key, pool=pool, where=where),
        buckets=_globs(entry.get("buckets"), where),
        read_only=_flag(entry.get("read_only", False), where),
        expires=_expiry(entry.get("expires"), where),
        limits=read_limits(entry["limits"], f"{where}: limits") if entry.get("limits") is not None else None,
        bucket_limits=read_bucket_limits(entry.get("bucket_limits"), f"{where}: bucket_limits"),
    )


def _text(entry: Mapping[object, object], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: {key} must be text; put it in quotes")
    return value


def _credentials(
    backend: object, access_key: str, secret_key: str, *, pool: Credentials | KeyProvider | None, where: str
) -> Credentials | KeyProvider:
    if backend not in BACKENDS:
        raise ConfigError(f"{where}: backend must be self or pool")
    if backend == "self":
        return Credentials(access_key, secret_key)
    if pool is None:
        raise ConfigError(f"{where}: backend is pool, but the pool has no credentials")
    return pool


def _globs(value: object, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    globs = [value] if isinstance(value, str) else value
    if not isinstance(globs, list) or not globs or not all(isinstance(glob, str) and glob for glob in globs):
        raise ConfigError(f"{where}: buckets must be a list of names or globs")
    return tuple(cast("list[str]", globs))


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: read_only must be true or false")
    return value


def _expiry(value: object, where: str) -> float:
    if value is None:
        return 0.0
    text = str(value)  # YAML makes a date object of an unquoted date
    for form in DATE_FORMATS:
        try:
            return float(calendar.timegm(time.strptime(text, form)))
        except ValueError:
            continue
    raise ConfigError(f"{where}: expires must be a date such as 2030-01-31 or 2030-01-31T12:00:00Z")
