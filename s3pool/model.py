"""The values that flow between the rooms: endpoints, requests, responses, listings.

All but Response are frozen. Keys are ``str`` with surrogate escapes; only ``encode_key`` and ``encode_query`` encode.
"""

from __future__ import annotations

import calendar
import functools
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol
from urllib.parse import quote

from s3pool.body import EMPTY_BODY, EMPTY_SHA256, Body
from s3pool.endpoint import Credentials as Credentials
from s3pool.endpoint import Endpoint as Endpoint
from s3pool.errors import ProtocolError, RequestTimeoutError
from s3pool.record import dataclass, field
from s3pool.record import replace as replace

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"  # SigV4's word for "the body is not covered"
MAX_DIGITS = 18  # of a number in an answer; more would be beyond every size there is
NO_TIME = "0000-00-00T00:00:00.000Z"  # for a server that never knew
_DAY = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")
_CLOCK = re.compile(r"T([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9]|6[01])")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9/\-._~]*").fullmatch
QUERY_WORDS_KEPT = 128  # most are the same in every request of a kind, and each is asked for twice: to sign, to send
MAX_PRELOAD_BYTES = 64 << 20  # no XML answer of S3 is larger; more is not S3
PRELOAD_BLOCK_BYTES = 65536  # doubled whenever it is full
KNOWN_BLOCK_BYTES = 1 << 20  # of a body whose length is known: a page of a listing is not copied as its memory grows
PRELOAD_S = 300.0


def encode_key(key: str) -> str:
    """Percent-encode a key for a path: every byte but ``A-Za-z0-9-._~/``, nothing folded."""
    if _PLAIN_KEY(key) is not None:  # which most are
        return key
    return quote(key.encode("utf-8", "surrogateescape"), safe="/-._~")


def encode_query(pairs: tuple[tuple[str, str], ...]) -> str:
    """Percent-encode query pairs in the order given, each as ``name=value``."""
    return "&".join(f"{_encode_component(name)}={_encode_component(value)}" for name, value in pairs)


@functools.lru_cache(maxsize=QUERY_WORDS_KEPT)
def _encode_component(text: str) -> str:
    return quote(text.encode("utf-8", "surrogateescape"), safe="-._~")


@dataclass(frozen=True, slots=True)
class Request:
    """One S3 request, before an endpoint is picked and before it is signed.

    ``path`` is percent-encoded and starts with ``/``; ``query`` holds decoded pairs. Header names are lower case.
    ``idempotent`` says whether the server may act twice on it. ``bucket_host`` is set for virtual-host addressing: it
    stands before the endpoint's name in the Host header.
    """

    method: str
    path: str
    op: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body = EMPTY_BODY
    payload_hash: str = EMPTY_SHA256
    idempotent: bool = True
    resource: str = ""  # s3/bucket/key, for messages
    bucket_host: str = ""
    timeout_factor: float = 1.0  # how many read timeouts the server may take to answer
    is_endless: bool = False  # its answer tells of events as they happen
    may_come_late: bool = False  # a second execution changes nothing, whatever was done in between
    is_harmless_twice: bool = False  # a second execution leaves nothing that matters, such as an upload without parts

    @property
    def asker(self) -> str:
        """Return the client of the proxy that sent the request, whose failures alone open no circuit; else ""."""
        return ""

    @property
    def replayable(self) -> bool:
        """Return whether the request may be carried out twice and its body sent twice."""
        return self.idempotent and self.body.rewindable

    @property
    def may_be_hedged(self) -> bool:
        """Return whether the same request may be under way on two nodes at once."""
        is_read = self.idempotent and not self.body.length and self.method in {"GET", "HEAD"}
        return is_read and self.may_retry()

    @property
    def leaves_at_once(self) -> bool:
        """Return whether it goes elsewhere as soon as its node's circuit is open."""
        if self.method in {"GET", "HEAD"}:
            return self.replayable
        if self.is_harmless_twice:
            return self.body.rewindable
        return self.replayable and self.timeout_factor <= 1.0

    def may_retry(self) -> bool:
        """Return whether the sender allows a second attempt, or a second node beside the first."""
        return True

    def note_retry(self) -> None:
        """Report to the sender that a second attempt starts."""

    def look_for_sender(self) -> None:
        """Raise an S3PoolError if the sender has gone away; called each second while the request waits."""

    @property
    def target(self) -> str:
        """Return the request target, as sent and as signed."""
        return f"{self.path}?{encode_query(self.query)}" if self.query else self.path

    def host_header(self, endpoint: Endpoint) -> str:
        """Return the value of the Host header for an endpoint."""
        return f"{self.bucket_host}.{endpoint.netloc}" if self.bucket_host else endpoint.netloc


class BodyStream(Protocol):
    """The unread rest of a response's body. Errors are TransportError."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill as much as one receive gives; 0 at the end of a complete body only."""

    def close(self) -> None:
        """Return the connection to its pool if the body was read to the end, else drop it."""


def _do_nothing() -> None:
    pass


class Response:
    """A response whose body is still on the wire; close it, or use it as a context.

    ``headers`` has lower-case names and joins repeated fields with a comma; ``lines``
    are the fields as they were received. ``length`` is the body's size in bytes, None when unknown.
    """

    __slots__ = ("_ahead", "_stream", "body", "endpoint", "headers", "length", "lines",
                 "on_resumable", "patience_s", "reason", "status")  # fmt: skip

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        stream: BodyStream,
        *,
        endpoint: Endpoint,
        reason: str = "",
        lines: Sequence[str] = (),
        length: int | None = None,
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.lines = lines
        self.endpoint = endpoint
        self.length = length
        self.body: bytes | None = None  # set by preload()
        self.patience_s = PRELOAD_S  # for all of a body that is preloaded
        self.on_resumable: Callable[[], None] = _do_nothing  # is told that the caller can go on elsewhere
        self._ahead: memoryview | None = None  # of the body, read already and not given yet
        self._stream = stream

    def may_break_off(self) -> None:
        """Let the body end with a TransportError where other nodes are faster: the caller asks for the rest there."""
        if self.body is None:
            self.on_resumable()

    def readinto(self, buffer: memoryview) -> int:
        """Fill part of the buffer from the wire; 0 at the end of a complete body."""
        if self._ahead:
            count = min(len(self._ahead), len(buffer))
            buffer[:count], self._ahead = self._ahead[:count], self._ahead[count:]
            return count
        return self._stream.readinto(buffer)

    def iter_blocks(self, size: int) -> Iterator[memoryview]:
        """Yield the body through one reused buffer; a block is valid until the next one."""
        buffer = memoryview(bytearray(size))
        while count := self.readinto(buffer):
            yield buffer[:count]

    def preload(self) -> bytes:
        """Read the whole body, give the connection back, and keep the bytes in ``body``."""
        if self.body is None and not self.read_ahead(MAX_PRELOAD_BYTES):
            raise ProtocolError(f"{self.endpoint} sent an answer of more than 64 MiB", endpoint=str(self.endpoint))
        return self.body or b""

    def read_ahead(self, limit: int, take: Callable[[int], bool] = lambda _count: True) -> bool:
        """Read a body of up to ``limit`` bytes, and keep it in ``body``; False for a longer one, to be read on from.

        ``take`` is asked for memory as bytes arrive, and may refuse, which makes the body too long.
        """
        if self.body is not None:
            return True
        if self._ahead or (self.length or 0) > limit:
            return False
        content, is_whole = self._read_within(limit, take) if self.length != 0 else (bytearray(), True)
        if is_whole:
            self.body = bytes(content)
            self.close()
        else:
            self._ahead = memoryview(content)
        return is_whole

    def _read_within(self, limit: int, take: Callable[[int], bool]) -> tuple[bytearray, bool]:
        """Return what was read up to the end or the limit, in memory that grows with it, and whether it is all."""
        until, filled, buffer = time.monotonic() + self.patience_s, 0, bytearray()
        most, block = (limit, PRELOAD_BLOCK_BYTES) if self.length is None else (self.length, KNOWN_BLOCK_BYTES)
        while filled <= limit and filled != self.length:
            if filled == len(buffer):
                room = min(max(block, filled), most - filled)
                if not take(room):
                    return buffer, False
                buffer.extend(bytes(room or 1))
            with memoryview(buffer) as view:
                count = self._stream.readinto(view[filled:])
            if not count:
                break
            filled += count
            if time.monotonic() > until:
                message = f"{self.endpoint} sent no whole answer within {self.patience_s:g} s"
                raise RequestTimeoutError(message, endpoint=str(self.endpoint))
        del buffer[filled:]
        return buffer, filled <= limit

    def close(self) -> None:
        """End the exchange; harmless when called twice."""
        self._stream.close()

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


class ByteRange(NamedTuple):
    """A range of bytes, ``first`` to ``last``, both included, as HTTP counts."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """Return the number of bytes."""
        return self.last - self.first + 1

    @property
    def header(self) -> str:
        """Return the value of the Range header."""
        return f"bytes={self.first}-{self.last}"


class ObjectInfo(NamedTuple):
    """One object, or one version of it, as a listing reports it.

    ``last_modified`` is ISO 8601 in UTC with milliseconds (``2026-01-22T20:44:33.219Z``); ``etag`` has no quotes;
    ``size`` is in bytes. The version fields are only filled by a listing of versions. A tuple, unlike its neighbours: a
    page makes a thousand of them, and a frozen dataclass takes six times as long.
    """

    key: str
    size: int
    last_modified: str
    etag: str = ""
    storage_class: str = "STANDARD"
    version_id: str = ""
    is_latest: bool = True
    is_delete_marker: bool = False

    @property
    def mtime(self) -> float:
        """Return Last-Modified in seconds since 1970."""
        return parse_iso_time(self.last_modified)


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a listing, complete and checked. Prefixes end in the delimiter."""

    objects: Sequence[ObjectInfo]
    prefixes: tuple[str, ...]
    truncated: bool
    next_token: str = ""  # V2's NextContinuationToken or V1's NextMarker
    next_version_id: str = ""  # only for versions, with next_token as the key marker
    max_keys: int = 0
    v1: bool = False  # the server answered in the manner of the first ListObjects
    is_minio: bool = False  # the server says that it is MinIO, which is listed in a way of its own
    skips_subtrees: bool = False  # a start-after that names a directory exactly may leave out what is in it
    is_ordered: bool | None = None  # whether names and prefixes are in S3's order; None when nobody looked


@dataclass(frozen=True, slots=True)
class ListMode:
    """How a whole tree is listed.

    One of ``jobs`` is one request after another, without any thread; 0 lets the listing find
    out how many help, ``most_jobs`` at most. Without ``ordered`` pages come as they are ready.
    """

    jobs: int = 1
    ordered: bool = True
    most_jobs: int = 8


SEQUENTIAL = ListMode()


class BucketInfo(NamedTuple):
    """One bucket; ``created`` is ISO 8601 in UTC with milliseconds."""

    name: str
    created: str


class ObjectHead(NamedTuple):
    """What HEAD tells of an object; ``headers`` is everything, names in lower case."""

    size: int
    last_modified: str
    etag: str
    content_type: str
    storage_class: str
    version_id: str
    metadata: Mapping[str, str]
    headers: Mapping[str, str]

    @property
    def mtime(self) -> float:
        """Return Last-Modified in seconds since 1970."""
        return parse_iso_time(self.last_modified)


class UploadInfo(NamedTuple):
    """A multipart upload that was neither completed nor aborted."""

    key: str
    upload_id: str
    initiated: str
    storage_class: str = "STANDARD"


class PartInfo(NamedTuple):
    """One stored part of a multipart upload."""

    number: int
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class ObjectAttributes:
    """What an upload or a copy stores beside the bytes; empty means the server's default."""

    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    storage_class: str = ""
    acl: str = ""
    sse: str = ""  # AES256, aws:kms or aws:kms:KEYID
    tags: Mapping[str, str] = field(default_factory=dict)
    cache_control: str = ""
    content_disposition: str = ""
    content_encoding: str = ""
    content_language: str = ""
    expires: str = ""
    website_redirect: str = ""


def whole_number(text: str, *, most_digits: int = MAX_DIGITS) -> int | None:
    """Return a number without a sign as somebody else wrote it; None for anything else, or one beyond all sense."""
    # isdecimal alone would admit the digits of other scripts, and int() ends at 4,300 of them.
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= most_digits else None


def parse_iso_time(text: str) -> float:
    """Return seconds since 1970 for ``YYYY-MM-DDTHH:MM:SS[.fff]Z``; NaN for a day that no calendar has.

    NaN is neither before nor after any moment, so no age matches it. ValueError: it is something else.
    """
    clock = _CLOCK.match(text, 10)
    if clock is None:
        raise ValueError(f"{text!r} is no time")
    hours, minutes, seconds = map(int, clock.groups())
    fraction = text[19:].rstrip("Z")
    whole = _start_of_day(text[:10]) + hours * 3600 + minutes * 60 + seconds
    return whole + (float("0" + fraction) if fraction else 0.0)


@functools.lru_cache(maxsize=1024)
def _start_of_day(text: str) -> float:
    # strptime is slow, and a listing has few days beside its keys.
    if _DAY.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no day")
    try:
        return calendar.timegm(time.strptime(text, "%Y-%m-%d"))
    except ValueError:  # year 0, or a month that there is not
        return math.nan


def format_iso_time(seconds: float) -> str:
    """Return ``YYYY-MM-DDTHH:MM:SS.mmmZ`` in UTC; a time that parse_iso_time knows for none, for NaN."""
    if math.isnan(seconds):
        return NO_TIME
    millis = round(seconds * 1000)
    moment = time.gmtime(millis // 1000)
    # %Y has four digits from the year 1000 on only.
    return f"{moment.tm_year:04d}{time.strftime('-%m-%dT%H:%M:%S', moment)}.{millis % 1000:03d}Z"
