"""AWS Signature Version 4 as S3 wants it: sign, presign, and the text that is signed.

The signing key is derived by requests-aws4auth. That library signs by the general rules of
AWS, and S3 differs: paths are signed as they stand, a payload hash is taken as given and no
body is read, header values keep their quotes, and bytes that are not UTF-8 survive.

The functions are pure and serve both sides: a client signs with them, a proxy recomputes what
its client signed. Text stands for bytes through UTF-8 with surrogate escapes, so whatever was
on the wire is signed byte for byte; pass ``bytes`` where the text came by another way.
The module with the key is loaded when the first key is derived, not before.

Source: Amazon S3 API Reference, "Authenticating Requests (AWS Signature Version 4)".
"""

from __future__ import annotations

import hmac
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from hashlib import sha256
from operator import itemgetter
from typing import Any, Protocol
from urllib.parse import quote, unquote_to_bytes

from s3pool.errors import ConfigError, UsageError
from s3pool.model import UNSIGNED_PAYLOAD, Credentials, Endpoint, Request, encode_query

ALGORITHM = "AWS4-HMAC-SHA256"
SIGNATURE_PARAMETER = "X-Amz-Signature"
RESIGNED_EXPIRES_S = 900  # a query that is signed and sent in one go; a slow start must not end it
MAX_EXPIRES_S = 604_800  # seven days: a signing key lives no longer
TIMESTAMP_FORMAT = "%Y%m%dT%H%M%SZ"
DATE_LENGTH = 8  # a timestamp begins with YYYYMMDD

# Beside every x-amz-* header. Left out is what a middlebox may touch (user-agent, accept-*,
# connection) and what changes nothing that S3 would store (range, if-*).
SIGNED_HEADERS = frozenset({"host", "content-md5", "content-type"})
SIGNED_PREFIX = "x-amz-"
PAYLOAD_HEADER = "x-amz-content-sha256"
ADDED_HEADERS = (PAYLOAD_HEADER, "x-amz-date", "x-amz-security-token")
MAX_HEADS = 1024  # that are kept of one second

UNRESERVED = "-._~"  # with letters and digits: all that stays as it is in a query
PLAIN_PATH = re.compile(r"[A-Za-z0-9/\-._~]*")  # most paths: nothing to decode, nothing to encode

KEY_MODULE = "aws4signingkey"  # of requests_aws4auth
SHA256_BLOCK_BYTES = 64
NOTHING_HASHED = sha256()
INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))  # HMAC's two masks, as tables for translate()
OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))


def canonical_path(raw: str | bytes) -> str:
    """Return a received path in S3's spelling: decoded, encoded again, nothing folded.

    For verification only. What is sent by s3pool is in this form from the start.
    """
    if isinstance(raw, str) and PLAIN_PATH.fullmatch(raw):
        return raw
    return quote(unquote_to_bytes(_octets(raw)), safe="/" + UNRESERVED)


def canonical_query(raw: str | bytes, *, by_value: bool = True) -> str:
    """Return a raw query sorted and re-encoded, each pair as ``name=value``.

    Only ``&`` separates; ``+`` is a space. X-Amz-Signature is left out: no signature
    covers itself. Without ``by_value`` equal names keep their order, as MinIO's clients sign them.
    """
    if not raw:
        return ""
    pairs = (pair.replace("+", "%20").partition("=") for pair in _text(raw).split("&") if pair)
    encoded = "&".join(f"{_recode(name)}={_recode(value)}" for name, _, value in pairs)
    return _sort_query(encoded, by_value=by_value)


def _sort_query(encoded: str, *, by_value: bool = True) -> str:
    """Sort by name, then value: as whole strings ``a-=`` would come before ``a=``."""
    if not encoded:
        return ""
    pairs = sorted([pair.split("=", 1) for pair in encoded.split("&")], key=None if by_value else itemgetter(0))
    return "&".join([f"{name}={value}" for name, value in pairs if name != SIGNATURE_PARAMETER])


def _recode(text: str) -> str:
    return quote(unquote_to_bytes(_octets(text)), safe=UNRESERVED)


def canonical_value(text: str) -> str:
    """Trim a header value and fold each run of blanks to one space, inside quotes too."""
    if " " in text or "\t" in text:
        return " ".join(filter(None, text.replace("\t", " ").split(" ")))
    return text


def canonical_request(
    method: str, path: str, *, query: str, values: Mapping[str, str], signed: Sequence[str], payload_hash: str
) -> bytes:
    """Return the canonical request, whose hash is signed.

    The path stands as it is, the query is canonical, ``values`` are the headers by name in lower case, repeated ones
    joined with a comma; ``signed`` are the names of the signed ones, in order.

    Raises KeyError: a signed header is missing.
    """
    tail = canonical_tail(values, signed, payload_hash)
    return f"{method}\n{path}\n{query}\n{tail}".encode("utf-8", "surrogateescape")


def canonical_tail(values: Mapping[str, str], signed: Sequence[str], payload_hash: str) -> str:
    """Return what follows method, path and query in a canonical request: the same for many requests."""
    lines = "\n".join([f"{name}:{values[name]}" for name in signed])
    if " " in lines or "\t" in lines:  # most requests have no blank in any header, and are spared this
        lines = "\n".join([f"{name}:{canonical_value(values[name])}" for name in signed])
    return f"{lines}\n\n{';'.join(signed)}\n{payload_hash}"


def string_to_sign(timestamp: str, scope: str, canonical: bytes) -> bytes:
    """Return what the HMAC covers; the scope is ``date/region/service/aws4_request``."""
    return beginning_to_sign(timestamp, scope) + sha256(canonical).hexdigest().encode()


def beginning_to_sign(timestamp: str, scope: str) -> bytes:
    """Return what all strings to sign of a second begin with."""
    return f"{ALGORITHM}\n{timestamp}\n{scope}\n".encode()


def signature(key: bytes, text: bytes) -> str:
    """Return the hex HMAC of a string to sign under a derived key."""
    return hmac.digest(key, text, "sha256").hex()


def derive_key(secret: str, date: str, *, region: str, service: str) -> bytes:
    """Derive the signing key of one day (``YYYYMMDD``), region and service."""
    return make_signing_key(secret, date, region=region, service=service).key


def _text(raw: str | bytes) -> str:
    return raw if isinstance(raw, str) else raw.decode("utf-8", "surrogateescape")


def _octets(raw: str | bytes) -> bytes:
    return raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogateescape")


@lru_cache(maxsize=64)
def signed_names(names: tuple[str, ...], wanted: frozenset[str] = SIGNED_HEADERS) -> tuple[tuple[str, ...], str]:
    """Return which of some headers are signed, in order: a run has few sets of them."""
    signed = tuple(sorted(name for name in names if name.startswith(SIGNED_PREFIX) or name in wanted))
    return signed, ";".join(signed)


class _Moment:
    """All that signing needs of one second: timestamp, scope and key, which never change."""

    __slots__ = ("credentials", "heads", "region", "scope", "second", "sign", "timestamp")

    def __init__(self, second: int, timestamp: str, key: SigningKey, credentials: Credentials, region: str) -> None:
        self.second = second
        self.timestamp = timestamp
        self.credentials = credentials
        self.region = region
        self.scope = key.scope
        self.heads: dict[tuple[tuple[str, str], ...], SignedHead] = {}  # by their headers
        self.sign = Mac(key.key, begins_with=beginning_to_sign(timestamp, key.scope)).sign


class SignedHead:
    """Headers of requests that differ in method, path and query alone."""

    __slots__ = ("_begins", "_sign", "_tail")

    def __init__(self, begins: str, tail: str = "", sign: Callable[[bytes], str] | None = None) -> None:
        self._begins = begins
        self._tail = tail
        self._sign = sign

    def lines(self, method: str, path: str, query: str) -> str:
        """Return the lines that signing adds, for a path and a canonical query."""
        if self._sign is None:
            return self._begins
        canonical = f"{method}\n{path}\n{query}\n{self._tail}".encode("utf-8", "surrogateescape")
        return f"{self._begins}{self._sign(canonical)}\r\n"


def format_timestamp(second: int) -> str:
    """Return seconds since 1970 as ``YYYYMMDDTHHMMSSZ``."""
    return time.strftime(TIMESTAMP_FORMAT, time.gmtime(second))


KeyProvider = Callable[[], Credentials]


class Signer:
    """Signs for one identity; share it between threads. Without credentials it signs nothing.

    A request's timestamp picks the moment, and a moment is one frozen object: a change of date, or of keys, cannot
    part timestamp, scope and key. ``credentials`` may be a function that is asked for the keys each time.
    """

    def __init__(self, credentials: Credentials | KeyProvider | None, *, region: str, service: str = "s3") -> None:
        self._provider = credentials if callable(credentials) else None
        self._fixed = credentials if isinstance(credentials, Credentials) else None
        self._region = region
        self._has_adopted = False
        self._service = service
        self._key: SigningKey | None = None  # of the last day that was signed for
        self.signed_headers = SIGNED_HEADERS  # those of the user may be added
        self._moment: _Moment | None = None  # the last second that was signed for

    def adopt_region(self, region: str) -> bool:
        """Sign for another region from now on; False for the one that was given in the beginning."""
        if region != self._region:
            self._region, self._has_adopted = region, True
        return self._has_adopted

    def sign(self, request: Request, endpoint: Endpoint, now: float) -> dict[str, str]:
        """Return all headers for the wire, but content-length; ``now`` is seconds since 1970."""
        headers = _begin_headers(request, endpoint)
        if self._fixed is None and self._provider is None:
            return headers
        headers["x-amz-content-sha256"] = request.payload_hash
        query = _sort_query(encode_query(request.query)) if request.query else ""
        self.authorize(headers, request.method, path=request.path, query=query, now=now)
        return headers

    def signed_head(self, headers: tuple[tuple[str, str], ...], now: float) -> SignedHead:
        """Return what signs requests with these headers; the same ones of a second are made once.

        The names are in lower case, the first is Host. Without credentials nothing is signed.
        """
        moment = self._moment_at(now)
        if moment is None:
            return SignedHead("".join([f"{name}: {value}\r\n" for name, value in headers if name == PAYLOAD_HEADER]))
        head = moment.heads.get(headers)
        if head is None:
            head = self._make_head(moment, dict(headers))
            if len(moment.heads) < MAX_HEADS:
                moment.heads[headers] = head
        return head

    def _make_head(self, moment: _Moment, headers: dict[str, str]) -> SignedHead:
        begins, tail = self._authorization(headers, moment)
        lines = [f"{name}: {headers[name]}\r\n" for name in ADDED_HEADERS if name in headers]
        return SignedHead(f"{''.join(lines)}authorization: {begins}", tail, moment.sign)

    def authorize(self, headers: dict[str, str], method: str, *, path: str, query: str, now: float) -> None:
        """Add x-amz-date and Authorization to headers, for a path that is sent as it stands and a canonical query.

        The names are in lower case, Host and x-amz-content-sha256 among them. Without credentials nothing is added.
        """
        moment = self._moment_at(now)
        if moment is not None:
            begins, tail = self._authorization(headers, moment)
            canonical = f"{method}\n{path}\n{query}\n{tail}".encode("utf-8", "surrogateescape")
            headers["authorization"] = f"{begins}{moment.sign(canonical)}"

    def _authorization(self, headers: dict[str, str], moment: _Moment) -> tuple[str, str]:
        """Add the headers of a signature; return Authorization up to the signature, and what it covers of them."""
        credentials = moment.credentials
        headers["x-amz-date"] = moment.timestamp
        if credentials.session_token:
            headers["x-amz-security-token"] = credentials.session_token
        signed, names = signed_names(tuple(headers), self.signed_headers)
        begins = f"{ALGORITHM} Credential={credentials.access_key}/{moment.scope}, SignedHeaders={names}, Signature="
        return begins, canonical_tail(headers, signed, headers[PAYLOAD_HEADER])

    def presign(self, request: Request, endpoint: Endpoint, now: float, *, expires_s: int) -> str:
        """Return a URL that carries its own signature for ``expires_s`` seconds.

        A client that uses the URL must send exactly the request's headers, if there are any; the body is open, unless
        an x-amz-content-sha256 header pins it. The request's own query must have no parameters of a signature.

        Raises ConfigError: there are no credentials. UsageError: the URL would be valid for less than a second or more
        than seven days.
        """
        if not 1 <= expires_s <= MAX_EXPIRES_S:
            raise UsageError(f"cannot presign for {expires_s} seconds; choose 1 second to 7 days")
        headers = _begin_headers(request, endpoint)
        query = self.authorize_query(
            headers,
            request.method,
            path=request.path,
            query=encode_query(request.query),
            now=now,
            expires_s=expires_s,
            payload_hash=headers.get("x-amz-content-sha256", UNSIGNED_PAYLOAD),
        )
        return f"{endpoint.scheme}://{headers['host']}{request.path}?{query}"

    def authorize_query(
        self,
        headers: Mapping[str, str],
        method: str,
        *,
        path: str,
        query: str,
        now: float,
        payload_hash: str,
        expires_s: int = RESIGNED_EXPIRES_S,
    ) -> str:
        """Return the query with a signature over it and all headers. Raises ConfigError: there are no credentials."""
        moment = self._moment_at(now)
        if moment is None:
            raise ConfigError("cannot presign without credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        signed = sorted(headers)
        added = encode_query(tuple(_query_pairs(moment, expires_s, signed)))
        query = f"{query}&{added}" if query else added
        canonical = canonical_request(
            method, path, query=canonical_query(query), values=headers, signed=signed, payload_hash=payload_hash
        )
        return f"{query}&{SIGNATURE_PARAMETER}={moment.sign(canonical)}"

    def _moment_at(self, now: float) -> _Moment | None:
        """Return what signs at a time in seconds since 1970: the last moment or a new one; None without keys."""
        credentials = self._fixed if self._provider is None else self._provider()
        if credentials is None:
            return None
        moment, region, second = self._moment, self._region, int(now)  # another thread may put another moment there
        if moment is None or moment.second != second or moment.credentials is not credentials:
            moment = None
        if moment is None or moment.region is not region:
            timestamp = format_timestamp(second)
            key = self._key_of(credentials, timestamp[:DATE_LENGTH])
            self._moment = moment = _Moment(second, timestamp, key, credentials, region)
        return moment

    def _key_of(self, credentials: Credentials, date: str) -> SigningKey:
        key = self._key
        wanted = date, self._region, credentials.secret_key
        if key is None or (key.date, key.region, key.secret_key) != wanted:
            key = make_signing_key(credentials.secret_key, date, region=self._region, service=self._service)
            self._key = key
        return key


def _begin_headers(request: Request, endpoint: Endpoint) -> dict[str, str]:
    headers = {"host": "", **request.headers}  # Host goes first on the wire, as RFC 9110 (7.2) asks
    headers["host"] = request.host_header(endpoint)
    return headers


def _query_pairs(moment: _Moment, expires_s: int, signed: Sequence[str]) -> Iterable[tuple[str, str]]:
    credentials = moment.credentials
    yield "X-Amz-Algorithm", ALGORITHM
    yield "X-Amz-Credential", f"{credentials.access_key}/{moment.scope}"
    yield "X-Amz-Date", moment.timestamp
    yield "X-Amz-Expires", str(expires_s)
    yield "X-Amz-SignedHeaders", ";".join(signed)
    if credentials.session_token:
        yield "X-Amz-Security-Token", credentials.session_token


class SigningKey(Protocol):
    """What is used of requests_aws4auth's AWS4SigningKey: a key and what it is good for."""

    date: str
    region: str
    scope: str
    key: bytes
    secret_key: str


def make_signing_key(secret: str, date: str, *, region: str, service: str) -> SigningKey:
    """Derive the key of one day (``YYYYMMDD``), region and service."""
    key: SigningKey = _key_class()(secret, region, service, date)
    return key


@cache
def _key_class() -> Any:
    """Return requests_aws4auth's AWS4SigningKey.

    The package itself imports requests, for auth objects that s3pool does not use, and that takes longer than the
    whole rest of a short command. So the one module with the key is loaded by itself, where it is a plain file.
    """
    from importlib.machinery import PathFinder, SourceFileLoader
    from types import ModuleType

    package = PathFinder.find_spec("requests_aws4auth")
    for directory in (package.submodule_search_locations or ()) if package is not None else ():
        path = f"{directory}/{KEY_MODULE}.py"
        if os.path.isfile(path):
            module = ModuleType(f"s3pool.s3.{KEY_MODULE}")
            SourceFileLoader(module.__name__, path).exec_module(module)
            return module.AWS4SigningKey
    from requests_aws4auth import AWS4SigningKey

    return AWS4SigningKey


class Mac:
    """Signs canonical requests under one key.

    The key is held as the two hash states that every HMAC under it begins with (RFC 2104, section 4): OpenSSL 3 takes
    longer to set up one HMAC, or one hash, than to copy them. What all strings to sign begin with is in the inner one.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes, *, begins_with: bytes = b"") -> None:
        block = key.ljust(SHA256_BLOCK_BYTES, b"\0")
        self._inner = sha256(block.translate(INNER_PAD) + begins_with)
        self._outer = sha256(block.translate(OUTER_PAD))

    def sign(self, canonical: bytes) -> str:
        """Return the signature of a canonical request."""
        hashed, inner, outer = NOTHING_HASHED.copy(), self._inner.copy(), self._outer.copy()
        hashed.update(canonical)
        inner.update(hashed.hexdigest().encode())
        outer.update(inner.digest())
        return outer.hexdigest()
