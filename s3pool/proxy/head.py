"""A client's request head, read strictly from bytes.

http.server's parser drops malformed lines with all that follow, folds lines and rewrites
paths; two parsers that disagree are how requests are smuggled. Here a head is either
exactly HTTP/1.1 or refused, and everything in it is kept as it was sent.

Source: RFC 9112 sections 2.2, 3, 5 and 6; RFC 9110 sections 5.5 and 10.1.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from s3pool.proxy.denial import Denial, malformed
from s3pool.record import dataclass

MAX_TARGET_BYTES = 16 * 1024
MAX_FIELDS_BYTES = 32 * 1024  # AWS takes 8 KiB, RGW 16
MAX_HEAD_BYTES = MAX_TARGET_BYTES + MAX_FIELDS_BYTES
MAX_FIELDS = 200
METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"})

TOKEN_CHARACTERS = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
# Fewer than HTTP allows: nodes take x_amz_acl for x-amz-acl, as CGI once did, and no client needs another name.
NAME_CHARACTERS = r"[0-9A-Za-z-]"
VALUE_CHARACTERS = r"[^\x00-\x08\x0a-\x1f\x7f]"
REQUEST_LINE = re.compile(rf"({TOKEN_CHARACTERS}{{1,32}}) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])".encode())
FIELD_LINE = re.compile(rf"({NAME_CHARACTERS}+):({VALUE_CHARACTERS}*)".encode())
BLANKS = b" \t"
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
ABSOLUTE = re.compile(r"https?://([^/?#]+)(.*)", re.IGNORECASE)
BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
CONTINUE = "100-continue"
LENGTH = re.compile(r"[0-9]{1,19}")
# Hop-by-hop fields: they speak of this connection and are never passed on (RFC 9110, 7.6.1).
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# What a Connection field must not be able to take away.
PROTECTED = frozenset({"host", "authorization", "content-length", "content-type", "content-md5", "range", "date"})
PROTECTED_PREFIXES = ("x-amz-", "if-", "content-", "x-minio-", "x-rgw-", "x-goog-")

# Fields that a signature of Version 2 covers once: a node that joins two of them stores another type.
SINGLE = ("content-type", "content-md5")

Index = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request line and its fields, in the order and spelling of the client.

    ``path`` and ``query`` are the raw target's halves; ``query`` is None without a ``?``.
    ``length`` is None when the body is chunked. Text stands for bytes through UTF-8 with
    surrogate escapes. ``has_odd_expectation`` says that something else than 100-continue is
    expected; who answers may refuse that or pass over it. ``index`` gives all values of a
    field by its name in lower case.
    """

    method: str
    path: str
    query: str | None
    host: str
    is_http_1_0: bool
    fields: tuple[tuple[str, str], ...]
    length: int | None
    keep_alive: bool
    expects_continue: bool
    has_odd_expectation: bool
    index: Mapping[str, Sequence[str]]

    @property
    def target(self) -> str:
        """Give the target in origin form, as it was sent."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    def values(self, name: str) -> Sequence[str]:
        """Give all values of a field; ``name`` is in lower case."""
        return self.index.get(name, ())

    def value(self, name: str) -> str:
        """Give the first value of a field, or nothing."""
        values = self.index.get(name)
        return values[0] if values else ""

    def iter_end_to_end(self) -> Iterator[tuple[str, str]]:
        """Yield the fields that are meant for the server behind."""
        gone = HOP_BY_HOP | _words(self.index.get("connection", ()))
        return ((name, value) for name, value in self.fields if name.lower() not in gone)


def parse_head(block: bytes) -> RequestHead:
    """Read a head without its final blank line.

    Raises:
        Denial: it is not HTTP/1.0 or 1.1, too large, or asks for what this proxy does not do.
    """
    first, _, rest = block.partition(b"\r\n")
    line = REQUEST_LINE.fullmatch(first)
    if line is None:
        raise malformed("the request line is malformed")
    if (line[3], line[4]) not in ((b"1", b"1"), (b"1", b"0")):
        raise malformed("only HTTP/1.1 and HTTP/1.0 are spoken here", status=505, code="NotImplemented")
    if len(line[2]) > MAX_TARGET_BYTES:
        raise malformed("the request target is longer than 16 KiB", status=414, code="KeyTooLongError")
    method, is_http_1_0 = line[1].decode(), line[4] == b"0"
    fields = _parse_fields(rest)
    index = index_of(fields)
    if method not in METHODS:
        raise Denial(405, "MethodNotAllowed", f"the method {method} is not allowed", closes=True)
    try:
        text = line[2].decode()
    except UnicodeDecodeError:
        raise malformed("the request target is not UTF-8", code="InvalidURI") from None
    host, path, query = _split_target(text, _host_of(index, is_http_1_0=is_http_1_0))
    length = _framing(index, is_http_1_0=is_http_1_0)
    words = _words(index.get("connection", ()))
    expectation = _expectation(index)
    _check_connection(words)
    for name in SINGLE:
        _only(index, name)
    return RequestHead(
        method=method,
        path=path,
        query=query,
        host=host,
        is_http_1_0=is_http_1_0,
        fields=fields,
        length=length,
        keep_alive="close" not in words and (not is_http_1_0 or "keep-alive" in words),
        expects_continue=expectation == CONTINUE and not is_http_1_0,
        has_odd_expectation=expectation not in (None, CONTINUE),
        index=index,
    )


def _parse_fields(block: bytes) -> tuple[tuple[str, str], ...]:
    if len(block) > MAX_FIELDS_BYTES:
        raise malformed("the header fields are larger than 32 KiB", status=431, code="RequestHeaderSectionTooLarge")
    lines = block.split(b"\r\n") if block else []
    if len(lines) > MAX_FIELDS:
        raise malformed(f"there are more than {MAX_FIELDS} header fields", status=431, code="MetadataTooLarge")
    return tuple(map(_parse_field, lines))


def _parse_field(line: bytes) -> tuple[str, str]:
    field = FIELD_LINE.fullmatch(line)
    if field is None:
        raise malformed("a header line is malformed; a name has letters, digits and hyphens only")
    return field[1].decode(), field[2].strip(BLANKS).decode("utf-8", "surrogateescape")


def index_of(fields: tuple[tuple[str, str], ...]) -> Index:
    """Return all values by the fields' names in lower case."""
    index: dict[str, list[str]] = {}
    for name, value in fields:
        index.setdefault(name.lower(), []).append(value)
    return index


def _only(index: Index, name: str) -> str | None:
    found = index.get(name, ())
    if len(found) > 1:
        raise malformed(f"there is more than one {name} field")
    return found[0] if found else None


def _host_of(index: Index, *, is_http_1_0: bool) -> str:
    host = _only(index, "host")
    if host is None and is_http_1_0:
        return ""
    if host is None or HOST.fullmatch(host) is None:
        raise malformed("a Host field is required" if host is None else "the Host field is malformed")
    return host


def _split_target(target: str, host: str) -> tuple[str, str, str | None]:
    absolute = ABSOLUTE.fullmatch(target)
    if absolute is not None:
        # RFC 9112, 3.2.2: the target's authority counts. A Host that differs is one trick or another.
        if host and absolute[1].lower() != host.lower():
            raise malformed("the target's authority is not the Host field's")
        host, target = absolute[1], absolute[2] or "/"
        target = f"/{target}" if target.startswith("?") else target
    if not target.startswith("/") or "#" in target:
        raise malformed("the request target must be a path", code="InvalidURI")
    if BAD_ESCAPE.search(target):
        raise malformed("the request target holds a % that is no escape", code="InvalidURI")
    path, mark, query = target.partition("?")
    return host, path, query if mark else None


def _framing(index: Index, *, is_http_1_0: bool) -> int | None:
    """Give the body's length; None for chunked. Both framings at once are a trick."""
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


def connection_words(fields: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Give the options of all Connection fields, in lower case."""
    return _words([value for name, value in fields if name.lower() == "connection"])


def _words(values: Iterable[str]) -> frozenset[str]:
    return frozenset(word.strip(" \t").lower() for value in values for word in value.split(",") if word.strip(" \t"))


def _check_connection(words: frozenset[str]) -> None:
    if any(word in PROTECTED or word.startswith(PROTECTED_PREFIXES) for word in words):
        raise malformed("the Connection field names a field that is not of this connection")


def _expectation(index: Index) -> str | None:
    expectation = _only(index, "expect")
    return None if expectation is None else expectation.lower()
