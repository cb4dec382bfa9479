"""A client's request head, read strictly from bytes, and the bucket, key and query that it aims at.

http.server's parser drops malformed lines with all that follow, folds lines and rewrites
paths; two parsers that disagree are how requests are smuggled. Here a head is either
exactly HTTP/1.1 or refused, and everything in it is kept as it was sent.

Source: RFC 9112 sections 2.2, 3, 5 and 6; RFC 9110 sections 5.5 and 10.1.1.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from s3pool.proxy.errors import S3ErrorResponse, invalid, malformed
from s3pool.record import dataclass, replace
from s3pool.s3.signing import UNRESERVED, canonical_path
from s3pool.units import word_set

MAX_TARGET_BYTES = 16 * 1024
MAX_FIELDS_BYTES = 32 * 1024  # AWS takes 8 KiB, RGW 16
MAX_HEAD_BYTES = MAX_TARGET_BYTES + MAX_FIELDS_BYTES
MAX_FIELDS = 200
# Clients send the same lines again and again. What follows from them is cached, for heads up to this size.
CACHE_SIZE = 1024
MAX_CACHED_BYTES = 8 * 1024
METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"})

TOKEN_CHARACTERS = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
# Fewer than HTTP allows: nodes take x_amz_acl for x-amz-acl, as CGI once did, and no client needs another name.
NAME_CHARACTERS = r"[0-9A-Za-z-]"
VALUE_CHARACTERS = r"[^\x00-\x08\x0a-\x1f\x7f]"
REQUEST_LINE = re.compile(rf"({TOKEN_CHARACTERS}{{1,32}}) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9]\.[0-9])".encode())
HTTP_1_0 = b"1.0"
VERSIONS = frozenset({b"1.1", HTTP_1_0})
FIELD_LINE = re.compile(rf"({NAME_CHARACTERS}+):({VALUE_CHARACTERS}*)".encode())
BLANKS = b" \t"
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
ABSOLUTE = re.compile(r"https?://([^/?#]+)(.*)", re.IGNORECASE)
PLAIN_PATH = re.compile(r"/[A-Za-z0-9/\-._~]*")  # most of them: a path, and nothing in it to decode
BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
CONTINUE = "100-continue"
LENGTH = re.compile(r"[0-9]{1,19}")
# Hop-by-hop fields: they speak of this connection and are never passed on (RFC 9110, 7.6.1).
HOP_BY_HOP = word_set(
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding upgrade"
)
# What a Connection field must not be able to take away.
PROTECTED = frozenset({"host", "authorization", "content-length", "content-type", "content-md5", "range", "date"})
PROTECTED_PREFIXES = ("x-amz-", "if-", "content-", "x-minio-", "x-rgw-", "x-goog-")

# Fields that a signature of Version 2 covers once: a node that joins two of them stores another type.
SINGLE = ("content-type", "content-md5")
# Fields that say more about a request than a value to pass on.
SPECIAL = frozenset({"transfer-encoding", "content-length", "connection", "expect", *SINGLE})
Field = tuple[str, str]
Index = Mapping[str, Sequence[str]]
NO_NAMES: frozenset[str] = frozenset()


def assume_present() -> None:
    """Take it that the client is there, where nobody can tell."""


@dataclass(slots=True)  # not frozen: one is made for every request
class RequestHead:
    """A request line and its fields, in the order and spelling of the client; bytes as UTF-8 with surrogate escapes.

    ``path`` and ``query`` are the raw target's halves; ``query`` is None without a ``?``. ``length`` is None when the
    body is chunked. ``has_odd_expectation``: another one than 100-continue. ``names`` are the fields' names in lower
    case, ``lines`` the fields as they go on to a node, ``index`` all values by such a name, ``connection`` the options
    of Connection. ``is_cacheable``: it is small. ``look_for_client`` raises ClientGoneError if the client has hung up.
    """

    method: str
    path: str
    query: str | None
    host: str
    is_http_1_0: bool
    fields: tuple[Field, ...]
    names: tuple[str, ...]
    lines: tuple[str, ...]
    length: int | None
    keep_alive: bool
    expects_continue: bool
    has_odd_expectation: bool
    connection: frozenset[str]
    index: Index
    is_cacheable: bool
    look_for_client: Callable[[], None] = assume_present

    @property
    def target(self) -> str:
        """Return the target in origin form, as it was sent."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    def values(self, name: str) -> Sequence[str]:
        """Return all values of a field; ``name`` is in lower case."""
        return self.index.get(name, ())

    def value(self, name: str) -> str:
        """Return the first value of a field, or nothing."""
        values = self.index.get(name)
        return values[0] if values else ""

    def with_fields(self, fields: Iterable[Field], **changes: object) -> RequestHead:
        """Return a copy with other fields, and with other values of ``changes``."""
        fields = tuple(fields)
        names = tuple(name.lower() for name, _ in fields)
        lines = tuple(f"{name}: {value}\r\n" for name, value in fields)
        index = _index_of(names, tuple((value,) for _, value in fields))
        words = connection_words(index.get("connection", ()))
        return replace(self, fields=fields, names=names, lines=lines, connection=words, index=index, **changes)  # type: ignore[arg-type]


def parse_head(block: bytes, look_for_client: Callable[[], None] = assume_present) -> RequestHead:
    """Parse a head without its final blank line. Raises S3ErrorResponse: it is malformed, too large, or not served."""
    first, _, rest = block.partition(b"\r\n")
    line = REQUEST_LINE.fullmatch(first)
    if line is None:
        raise malformed("the request line is malformed")
    raw_method, raw_target, version = line.groups()
    if version not in VERSIONS:
        raise malformed("only HTTP/1.1 and HTTP/1.0 are spoken here", status=505, code="NotImplemented")
    if len(raw_target) > MAX_TARGET_BYTES:
        raise malformed("the request target is longer than 16 KiB", status=414, code="KeyTooLongError")
    method, is_http_1_0, is_cacheable = raw_method.decode(), version == HTTP_1_0, len(block) <= MAX_CACHED_BYTES
    fields, names, lines, index = _parse_fields(rest, _cached_field if is_cacheable else _parse_field)
    if method not in METHODS:
        raise S3ErrorResponse(405, "MethodNotAllowed", f"the method {method} is not allowed", closes=True)
    hosts = index.get("host", ())
    host = hosts[0] if len(hosts) == 1 and HOST.fullmatch(hosts[0]) else _odd_host(index, is_http_1_0=is_http_1_0)
    host, path, query = _split_target(raw_target, host)
    length: int | None = 0
    words, expectation = NO_NAMES, None
    if not SPECIAL.isdisjoint(names):
        length, words, expectation = _special_fields(index, is_http_1_0=is_http_1_0)
    keep_alive = ("keep-alive" in words or not is_http_1_0) and "close" not in words
    expects, is_odd = expectation == CONTINUE and not is_http_1_0, expectation not in (None, CONTINUE)
    return RequestHead(
        *(method, path, query, host, is_http_1_0, fields, names, lines, length),
        *(keep_alive, expects, is_odd, words, index, is_cacheable, look_for_client),
    )


def _parse_fields(
    block: bytes, parse: Callable[[bytes], tuple[Field, str, tuple[str], str]]
) -> tuple[tuple[Field, ...], tuple[str, ...], tuple[str, ...], Index]:
    """Return the fields, their names in lower case, their lines, and all values by such a name."""
    if len(block) > MAX_FIELDS_BYTES:
        raise malformed("the header fields are larger than 32 KiB", status=431, code="RequestHeaderSectionTooLarge")
    lines = block.split(b"\r\n") if block else []
    if len(lines) > MAX_FIELDS:
        raise malformed(f"there are more than {MAX_FIELDS} header fields", status=431, code="MetadataTooLarge")
    if not lines:
        return (), (), (), {}
    fields, names, values, texts = zip(*map(parse, lines))  # noqa: B905 - strict=True takes longer, and all have four
    return fields, names, texts, _index_of(names, values)


def _parse_field(line: bytes) -> tuple[Field, str, tuple[str], str]:
    found = FIELD_LINE.fullmatch(line)
    if found is None:
        raise malformed("a header line is malformed; a name has letters, digits and hyphens only")
    name, value = found[1].decode(), found[2].strip(BLANKS).decode("utf-8", "surrogateescape")
    return (name, value), name.lower(), (value,), f"{name}: {value}\r\n"


_cached_field = lru_cache(CACHE_SIZE)(_parse_field)


def _index_of(names: tuple[str, ...], values: tuple[tuple[str], ...]) -> Index:
    index: dict[str, Sequence[str]] = dict(zip(names, values))  # noqa: B905 - as above
    if len(index) < len(names):
        index = {name: [values[n][0] for n, other in enumerate(names) if other == name] for name in index}
    return index


def _only(index: Index, name: str) -> str | None:
    found = index.get(name, ())
    if len(found) > 1:
        raise malformed(f"there is more than one {name} field")
    return found[0] if found else None


def _odd_host(index: Index, *, is_http_1_0: bool) -> str:
    """Return nothing for HTTP/1.0 without a Host; raise for all else that is not one host."""
    if _only(index, "host") is None and is_http_1_0:
        return ""
    raise malformed("the Host field is malformed" if "host" in index else "a Host field is required")


def _special_fields(index: Index, *, is_http_1_0: bool) -> tuple[int | None, frozenset[str], str | None]:
    """Return the body's length, the options of Connection, and the expectation."""
    words = connection_words(index.get("connection", ()))
    if any(word in PROTECTED or word.startswith(PROTECTED_PREFIXES) for word in words):
        raise malformed("the Connection field names a field that is not of this connection")
    for name in SINGLE:
        _only(index, name)
    expectation = _only(index, "expect")
    return (_framing(index, is_http_1_0=is_http_1_0), words, expectation.lower() if expectation is not None else None)


def _split_target(raw: bytes, host: str) -> tuple[str, str, str | None]:
    try:
        target = raw.decode()
    except UnicodeDecodeError:
        raise malformed("the request target is not UTF-8", code="InvalidURI") from None
    if PLAIN_PATH.fullmatch(target):
        return host, target, None
    absolute = ABSOLUTE.fullmatch(target)
    if absolute is not None:
        # RFC 9112, 3.2.2: the target's authority counts. A Host that differs is one trick or another.
        if absolute[1].lower() != host.lower() if host else HOST.fullmatch(absolute[1]) is None:
            raise malformed("the target's authority is not the Host field's, or is none")
        host, target = absolute[1], absolute[2] or "/"
        target = f"/{target}" if target.startswith("?") else target
    if not target.startswith("/") or "#" in target:
        raise malformed("the request target must be a path", code="InvalidURI")
    if BAD_ESCAPE.search(target):
        raise malformed("the request target holds a % that is no escape", code="InvalidURI")
    path, mark, query = target.partition("?")
    return host, path, query if mark else None


def _framing(index: Index, *, is_http_1_0: bool) -> int | None:
    """Return the body's length; None for chunked. Both framings at once are a trick."""
    coding, length = _only(index, "transfer-encoding"), _only(index, "content-length")
    if coding is not None:
        if length is not None or is_http_1_0:
            raise malformed("Transfer-Encoding does not go with Content-Length or HTTP/1.0")
        if coding.lower() != "chunked":
            raise malformed("the only transfer coding known here is chunked", status=501, code="NotImplemented")
        return None
    if length is None:
        return 0
    if LENGTH.fullmatch(length) is None:
        raise malformed("the Content-Length is malformed")
    return int(length)


def connection_words(values: Iterable[str]) -> frozenset[str]:
    """Return the options of Connection fields, in lower case."""
    return frozenset(word.strip(" \t").lower() for value in values for word in value.split(",") if word.strip(" \t"))


PLAIN_TARGET = re.compile(r"/(?!\.{1,2}/)([A-Za-z0-9\-._~]+)/([A-Za-z0-9/\-._~]*)")  # bucket and key, nothing to decode
CONTROL = re.compile("%(?:0[0-8A-F]|1[0-9A-F]|7F)")  # in canonical spelling


@dataclass(slots=True)  # not frozen: one is made for every request
class Target:
    """A request's aim: ``path`` is path-style and canonical; ``pairs`` are encoded, in order.

    A pair is (name, value, whether there was a ``=``): some sub-resources come bare.
    """

    bucket: str
    key: str
    path: str
    pairs: tuple[tuple[str, str, bool], ...]

    @property
    def names(self) -> frozenset[str]:
        """Return the decoded names of the query."""
        return frozenset([_decode(name) for name, _, _ in self.pairs]) if self.pairs else NO_NAMES

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """Return the query's names and values, decoded, in order."""
        return [(_decode(name), _decode(value)) for name, value, _ in self.pairs]

    @property
    def resource(self) -> str:
        """Return s3/bucket/key, for logs and for nodes that keep to their keys."""
        return f"s3/{self.bucket}/{self.key}" if self.key else f"s3/{self.bucket}" if self.bucket else "s3"

    def value(self, name: str) -> str:
        """Return a parameter's decoded value, or nothing."""
        if not self.pairs:
            return ""
        return next((_decode(value) for other, value, _ in self.pairs if _decode(other) == name), "")

    def query_without(self, dropped: Collection[str]) -> str:
        """Return the query as it goes to a backend, the named parameters left out."""
        kept = [pair for pair in self.pairs if _decode(pair[0]) not in dropped]
        return "&".join(f"{name}={value}" if has_value else name for name, value, has_value in kept)


def read_target(path: str, query: str | None, *, bucket_host: str = "") -> Target:
    """Read a raw target; ``bucket_host`` is the Host's bucket. Raises S3ErrorResponse: it names no bucket clearly."""
    path = f"/{bucket_host}{path}" if bucket_host else path
    plain = PLAIN_TARGET.fullmatch(path) if query is None else None
    if plain is not None:
        return Target(plain[1], plain[2], path, ())
    raw_bucket = path[1:].partition("/")[0]
    canonical = canonical_path(path)
    bucket, _, raw_key = canonical[1:].partition("/")
    # Whoever checks the bucket must see the one that the backend will see.
    if "/" in _decode(raw_bucket) or (not bucket and len(canonical) > 1) or _decode(bucket) in (".", ".."):
        raise S3ErrorResponse(400, "InvalidBucketName", "the path does not begin with a bucket's name")
    pairs = tuple([_pair(text) for text in query.split("&") if text]) if query else ()
    if any(CONTROL.search(value) and name.lower().startswith("response-") for name, value, _ in pairs):
        # RGW writes it into the answer's head as it stands, which breaks the head.
        raise invalid("a header of the answer may not hold control characters")
    if len({name for name, _, _ in pairs}) < len(pairs):
        # MinIO signs equal names as they come, others by their values: in this order both are the same.
        pairs = tuple(sorted(pairs))
    return Target(_decode(bucket), _decode(raw_key), canonical, pairs)


def _pair(text: str) -> tuple[str, str, bool]:
    name, mark, value = text.partition("=")
    return _component(name), _component(value), bool(mark)


def _component(text: str) -> str:
    """Return one half of a pair in canonical spelling: ``+`` is a blank."""
    return quote(unquote_to_bytes(text.replace("+", "%20")), safe=UNRESERVED)


def _decode(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape") if "%" in text else text


def virtual_bucket(host: str, domains: Collection[str]) -> str:
    """Return the bucket that a Host names below one of the domains, or nothing."""
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    for domain in domains:
        if name.lower().endswith(f".{domain}"):
            return name[: -len(domain) - 1]
    return ""


REQUEST_ID_BYTES = 8
CLIENT_GONE = "client gone"


class RequestRecord:
    """What happened to one request, in seconds. Most set a few of these; the rest stays the class's own."""

    method = ""
    access_key = ""
    op = "Unknown"
    bucket = ""
    key = ""
    status = 0
    code = ""
    bytes_in = 0
    bytes_out = 0
    endpoint = ""
    tries = 0
    resumes = 0
    replays = 0
    attempted: Sequence[object] = ()  # its tries, where traces are made
    auth_s = 0.0
    first_byte_s = 0.0
    total_s = 0.0
    used_event_loop = False  # no thread was needed
    end = "done"
    limited: tuple[str, str] | None = None  # beyond which limit: its label, and what there was too much of
    denied = ""  # one word for why a caller was turned away
    backend_request_id = ""
    _request_id = ""

    def __init__(self, client: str, started: float) -> None:
        self.client = client
        self.peer = client  # who is connected: the client, or a balancer before it
        self.started = started

    @property
    def request_id(self) -> str:
        """Return the proxy's own request id, generated at the first use."""
        if not self._request_id:
            self._request_id = secrets.token_hex(REQUEST_ID_BYTES)
        return self._request_id
