"""How much at once, and how much a second: places at nodes, second tries, memory, limits of keys and buckets."""

from __future__ import annotations

import fcntl
import hashlib
import math
import mmap
import os
import struct
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import NamedTuple

from s3pool.errors import ConfigError, UsageError
from s3pool.proxy.errors import S3ErrorResponse, slow_down
from s3pool.units import parse_size


class ByteBudget:
    """A number of bytes that all requests share."""

    def __init__(self, size: int) -> None:
        # Guards the number below; held for one addition.
        self._lock = threading.Lock()
        self._left = size
        self.size = size

    @property
    def used(self) -> int:
        """Return the bytes in use."""
        return self.size - self._left

    def has(self, count: int) -> bool:
        """Return whether so many bytes are free now."""
        return count <= self._left

    def take(self, count: int) -> bool:
        """Reserve bytes; return False when there are not enough."""
        with self._lock:
            if count > self._left:
                return False
            self._left -= count
            return True

    def give_back(self, count: int) -> None:
        """Return what was taken."""
        with self._lock:
            self._left += count


SPARE_BYTES = 64 << 20  # of buffers that wait for their next use
MIN_SPARE_BYTES = 128 * 1024  # smaller ones come from the heap, which keeps them itself
MAX_WASTE = 2  # a spare buffer may be so many times as large as what is wanted


class Buffers:
    """Large buffers that are used again: fresh memory costs as much as filling it."""

    def __init__(self, size: int) -> None:
        # Guards the two below; held for a look.
        self._lock = threading.Lock()
        self._spare: list[bytearray] = []
        self._room = size

    def take(self, length: int) -> bytearray:
        """Return a buffer of at least that length, with arbitrary content."""
        with self._lock:
            for number, buffer in enumerate(self._spare):
                if length <= len(buffer) <= MAX_WASTE * length:
                    self._room += len(buffer)
                    return self._spare.pop(number)
        return bytearray(length)

    def give_back(self, buffer: bytearray) -> None:
        """Return a buffer for reuse."""
        with self._lock:
            if MIN_SPARE_BYTES <= len(buffer) <= self._room:
                self._spare.append(buffer)
                self._room -= len(buffer)


NODES_BUSY = "all connections to the storage are in use."
MIXED_S = 60.0  # so long after another owner came a single one may not have more than half
LOOK_S = 1.0  # how often it is looked whether whoever waits is still there
SPARE_SHARE = 4  # a part of the places is left for who comes next, even by one that is alone


class FairSlots:
    """A bound on concurrent requests; no owner gets more than half while others are active.

    An owner is an access key, or an address where there is none. One that is alone may have
    more, but for a quarter that is kept for others: their first requests find it free.
    """

    def __init__(self, size: int, *, kind: str = "slots", detail: str = NODES_BUSY, closes: bool = False) -> None:
        self.size = max(size, 1)
        self._kind, self._detail, self._closes = kind, detail, closes
        self._half = max(self.size // 2, 1)
        self._most = max(self.size - self.size // SPARE_SHARE, 1)
        # Guards all below; held for a few additions.
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}
        # Who waits, by owner: a place that comes free wakes the one who gets it, and nobody else.
        self._lines: dict[str, deque[threading.Lock]] = {}
        self.taken = 0
        self._last_owner = ""
        self._mixed_at = -MIXED_S

    @property
    def waiting(self) -> int:
        """Return the number of those who wait for a place."""
        return sum(map(len, list(self._lines.values())))

    def try_acquire(self, owner: str) -> bool:
        """Take a place if there is one for this owner."""
        with self._lock:
            return self._take(owner)

    def claim(self, owner: str, patience_s: float = 0.0, *, look: Callable[[], None] = lambda: None) -> str:
        """Take a place, or wait for one while ``look`` may raise, and return the owner. Raises S3ErrorResponse."""
        if not self._await(owner, patience_s, look):
            denial = slow_down(f"Please reduce your request rate: {self._detail}", closes=self._closes)
            denial.limited = ("", self._kind)
            raise denial
        return owner

    def _await(self, owner: str, patience_s: float, look: Callable[[], None]) -> bool:
        turn = threading.Lock()
        turn.acquire()
        with self._lock:
            if self._take(owner):
                return True
            self._lines.setdefault(owner, deque()).append(turn)
        until = time.monotonic() + patience_s
        try:
            while (left_s := until - time.monotonic()) > 0:
                if turn.acquire(timeout=min(left_s, LOOK_S)):
                    return True
                look()
        except BaseException:
            if not self._leave_line(owner, turn):
                self.give_back(owner)
            raise
        # By now it may have had no other owner beside it for long enough, which wakes nobody.
        return not self._leave_line(owner, turn) or self.try_acquire(owner)

    def _leave_line(self, owner: str, turn: threading.Lock) -> bool:
        """Return False if a place was given meanwhile."""
        with self._lock:
            line = self._lines.get(owner)
            if line is None or turn not in line:
                return False
            line.remove(turn)
            if not line:
                del self._lines[owner]
            return True

    def _take(self, owner: str) -> bool:
        if owner != self._last_owner:
            if self._last_owner:
                self._mixed_at = time.monotonic()
            self._last_owner = owner
        if self.taken >= self.size:
            return False
        held = self._held.get(owner, 0)
        if held >= self._half and (self.taken >= self._most or time.monotonic() - self._mixed_at < MIXED_S):
            return False
        self._held[owner] = held + 1
        self.taken += 1
        return True

    def give_back(self, owner: str) -> None:
        """Free a place."""
        with self._lock:
            self.taken -= 1
            self._held[owner] -= 1
            if not self._held[owner]:
                del self._held[owner]
            self._pass_on()

    def _pass_on(self) -> None:
        """Let the first who may have the place that came free take it; owners take turns."""
        for owner in list(self._lines):
            if self._take(owner):
                line = self._lines.pop(owner)
                line.popleft().release()
                if line:
                    self._lines[owner] = line
                return


LEAST_RETRIES = 3  # so many second tries at a time are free: a quiet proxy has no percentage to speak of


class RetryBudget:
    """The share of the requests at nodes that may be in a second try.

    When every node refuses, trying each request three times would triple the load that
    made them refuse. What a dead node leaves behind is no such load, and is not counted.
    """

    def __init__(self, share: float = 0.0, under_way: Callable[[], int] = lambda: 0) -> None:
        self._share = share
        self._under_way = under_way
        # Guards the number below; held for additions.
        self._lock = threading.Lock()
        self.retrying = 0

    @property
    def admits(self) -> bool:
        """Return whether one more may begin a second try."""
        return self.retrying < max(LEAST_RETRIES, self._share * self._under_way())

    def change(self, count: int) -> None:
        """Count requests that begin or end a second try."""
        with self._lock:
            self.retrying += count


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
        self.sleep = sleep
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
            self._meter.sleep(max(waits))

    def end(self) -> None:
        """Count the end of the request; harmless when called twice."""
        for place, _ in self.rules:
            self._meter.leave(place)
        self.rules = []


def _slow_down(rule: Rule, limit: str, wait_s: float) -> S3ErrorResponse:
    words = {"requests": "requests a second", "bytes": "bytes a second", "in_flight": "requests at once"}
    detail = f"Please reduce your request rate: too many {words[limit]}."
    seconds, millis = max(math.ceil(wait_s), 1), max(math.ceil(wait_s * 1000), 1)
    fields = ("Retry-After", str(seconds)), ("x-amz-retry-after", str(millis))
    denial = S3ErrorResponse(503, "SlowDown", detail, fields=fields)
    denial.limited = rule.label, limit
    return denial
