"""The access keys that clients may use, what each may do, and how much: the limits of keys and buckets."""

from __future__ import annotations

import calendar
import fcntl
import hashlib
import math
import mmap
import os
import re
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import NamedTuple, cast

from s3pool.errors import ConfigError, UsageError
from s3pool.model import Credentials
from s3pool.proxy.errors import S3ErrorResponse, forbidden
from s3pool.proxy.operations import S3Operation
from s3pool.record import dataclass, field
from s3pool.s3.signing import KeyProvider
from s3pool.units import parse_size

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

        Raises S3ErrorResponse: the key has expired, may only read, or may not touch a bucket.
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

    Raises ConfigError: an entry is incomplete, unknown or there twice; secrets are not shown.
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
    read_only = entry.get("read_only", False)
    if not isinstance(read_only, bool):
        raise ConfigError(f"{where}: read_only must be true or false")
    return Client(
        access_key,
        secret_key,
        credentials=_credentials(entry.get("backend", "self"), access_key, secret_key, pool=pool, where=where),
        buckets=_globs(entry.get("buckets"), where),
        read_only=read_only,
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


LIMIT_KEYS = ("requests", "bytes", "in_flight")
BURST_S = 0.1  # so much of a rate may come at once, and one request in any case
DEBT_S = 1.0  # a client whose bytes take longer than this to pay off is told to slow down
MAX_PROCESSES = 64
RECORD = struct.Struct(f"=16s2d{MAX_PROCESSES}H")
TIMES = struct.Struct("=2d")
COUNT = struct.Struct("=H")
NAME_BYTES = 16
COUNTS_AT = NAME_BYTES + TIMES.size
RECORDS = 4096
PROBES = 64  # records that are looked at for a name


class Limits(NamedTuple):
    """Limits of one client or bucket; 0 means no limit. Rates are per second."""

    requests: float = 0.0
    bytes: float = 0.0
    in_flight: int = 0


class Rule(NamedTuple):
    """Limits, the name under which they are counted, and their label in metrics."""

    name: str
    limits: Limits
    label: str


BucketLimits = tuple[tuple[str, Limits], ...]


def rules_of(buckets: BucketLimits, bucket: str, *, owner: str) -> tuple[Rule, ...]:
    """Return the limits of a bucket: those of the first pattern that its name matches."""
    bucket = bucket.rpartition(":")[2]  # RGW takes :b, and tenant:b of the key's own tenant, for b
    for pattern, limits in buckets:
        if bucket and fnmatchcase(bucket, pattern):
            return (Rule(f"{owner}\0{bucket}", limits, pattern),)
    return ()


def read_limits(value: object, where: str) -> Limits:
    """Read limits as they stand in YAML. Raises ConfigError: one is unknown, or no number."""
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"{where}: must be a map with {', '.join(LIMIT_KEYS)}")
    unknown = sorted(str(key) for key in value if key not in LIMIT_KEYS)
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]}; there are: {', '.join(LIMIT_KEYS)}")
    in_flight = value.get("in_flight")
    if in_flight is not None and (isinstance(in_flight, bool) or not isinstance(in_flight, int) or in_flight < 1):
        raise ConfigError(f"{where}: in_flight must be a whole number from 1 on")
    return Limits(_rate(value, "requests", where), _rate(value, "bytes", where), in_flight or 0)


def read_bucket_limits(value: object, where: str) -> BucketLimits:
    """Read a map from names or globs of buckets to limits. Raises ConfigError: it is none, or holds unfit limits."""
    if value is None:
        return ()
    if not isinstance(value, dict) or not all(isinstance(name, str) and name for name in value):
        raise ConfigError(f"{where}: must be a map from names or globs of buckets to limits")
    return tuple((name, read_limits(limits, f"{where}: {name}")) for name, limits in value.items())


def _rate(value: dict[object, object], key: str, where: str) -> float:
    given = value.get(key)
    if given is None:
        return 0.0
    text = str(given).removesuffix("/s")
    try:
        rate = float(parse_size(text)) if key == "bytes" else float(text)
    except (ValueError, UsageError):
        rate = 0.0
    if isinstance(given, bool) or not math.isfinite(rate) or rate <= 0:
        example = "10MiB/s" if key == "bytes" else "100/s"
        raise ConfigError(f"{where}: {key} must be a rate such as {example}, not {given!r}")
    return rate


class RateMeter:
    """The counts of all limits, in memory that is shared with processes forked later."""

    def __init__(
        self, *, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._memory = mmap.mmap(-1, RECORD.size * RECORDS)
        self._file, path = tempfile.mkstemp()  # its locks are those of the records
        os.unlink(path)
        weakref.finalize(self, os.close, self._file)
        self._now = now
        self._sleep = sleep
        # Guards the records against other threads; a lock on the file does against other processes.
        self._lock = threading.Lock()
        self._process = 0

    def be_process(self, number: int) -> None:
        """Count as this process from now on; reset what its predecessor had in flight."""
        self._process = number % MAX_PROCESSES
        for place in range(0, len(self._memory), RECORD.size):
            with self._locked(place):
                self._put_count(place, 0)

    def admit(self, rules: Sequence[Rule]) -> Ticket:
        """Count a request against all of its limits. Raises S3ErrorResponse: one of them is used up."""
        ticket = Ticket(self)
        for rule in rules:
            place = self._place_of(rule.name)
            wait_s, limit = self._enter(place, rule.limits)
            if limit:
                ticket.end()
                raise _slow_down(rule, limit, wait_s)
            ticket.rules.append((place, rule.limits))
        return ticket

    def _enter(self, place: int, limits: Limits) -> tuple[float, str]:
        """Count a request; return after which time, and for which limit, it may come again if not now."""
        with self._locked(place):
            now = self._now()
            requests_at, bytes_at = TIMES.unpack_from(self._memory, place + NAME_BYTES)
            step_s = 1.0 / limits.requests if limits.requests else 0.0
            wait_s = requests_at - now - max(BURST_S - step_s, 0.0)
            if limits.requests and wait_s > 0:
                return wait_s, "requests"
            if limits.bytes and bytes_at - now > DEBT_S:
                return bytes_at - now - DEBT_S, "bytes"
            if limits.in_flight:
                counts = RECORD.unpack_from(self._memory, place)[3:]
                if sum(counts) >= limits.in_flight:
                    return 0.0, "in_flight"
            if limits.requests:
                TIMES.pack_into(self._memory, place + NAME_BYTES, max(requests_at, now) + step_s, bytes_at)
            self._put_count(place, self._count(place) + 1)
            return 0.0, ""

    def leave(self, place: int) -> None:
        """Count a request that ended."""
        with self._locked(place):
            self._put_count(place, max(self._count(place) - 1, 0))

    def charge(self, place: int, rate: float, count: int) -> float:
        """Count bytes; return the seconds until they are paid off."""
        with self._locked(place):
            now = self._now()
            requests_at, bytes_at = TIMES.unpack_from(self._memory, place + NAME_BYTES)
            bytes_at = max(bytes_at, now) + count / rate
            TIMES.pack_into(self._memory, place + NAME_BYTES, requests_at, bytes_at)
            return float(bytes_at - now - BURST_S)

    def pause(self, seconds: float) -> None:
        """Let the transfer wait."""
        self._sleep(seconds)

    def _count(self, place: int) -> int:
        count: int = COUNT.unpack_from(self._memory, place + COUNTS_AT + COUNT.size * self._process)[0]
        return count

    def _put_count(self, place: int, count: int) -> None:
        COUNT.pack_into(self._memory, place + COUNTS_AT + COUNT.size * self._process, count)

    @contextmanager
    def _locked(self, place: int) -> Iterator[None]:
        with self._lock:
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1, place)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    def _place_of(self, name: str) -> int:
        """Return where a name is counted; one that is new takes a record that says nothing any more."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=NAME_BYTES).digest()
        first = int.from_bytes(digest[:4], "big")
        places = [(first + step) % RECORDS * RECORD.size for step in range(PROBES)]
        for place in places:
            if self._memory[place : place + NAME_BYTES] == digest:
                return place
        with self._locked(len(self._memory)):
            now = self._now()
            for place in places:
                found, requests_at, bytes_at, *counts = RECORD.unpack_from(self._memory, place)
                if found == digest or (requests_at <= now and bytes_at <= now and not any(counts)):
                    self._memory[place : place + NAME_BYTES] = digest
                    return place
        return places[0]  # in so full a table two names may have to share


class Ticket:
    """One request that counts against its limits until it ends."""

    __slots__ = ("_meter", "rules")

    def __init__(self, meter: RateMeter) -> None:
        self._meter = meter
        self.rules: list[tuple[int, Limits]] = []

    @property
    def paces(self) -> bool:
        """Return whether its bytes are counted."""
        return any(limits.bytes for _, limits in self.rules)

    def charge(self, count: int) -> None:
        """Count bytes that were transferred, and wait until the next ones may be."""
        waits = [self._meter.charge(place, limits.bytes, count) for place, limits in self.rules if limits.bytes]
        if waits and max(waits) > 0:
            self._meter.pause(max(waits))

    def end(self) -> None:
        """Count the end of the request; harmless when called twice."""
        for place, _ in self.rules:
            self._meter.leave(place)
        self.rules = []


def _slow_down(rule: Rule, limit: str, wait_s: float) -> S3ErrorResponse:
    words = {"requests": "requests a second", "bytes": "bytes a second", "in_flight": "requests at once"}
    detail = f"Please reduce your request rate: too many {words[limit]}."
    seconds, millis = max(math.ceil(wait_s), 1), max(math.ceil(wait_s * 1000), 1)
    denial = S3ErrorResponse(
        503, "SlowDown", detail, fields=(("Retry-After", str(seconds)), ("x-amz-retry-after", str(millis)))
    )
    denial.limited = rule.label, limit
    return denial
