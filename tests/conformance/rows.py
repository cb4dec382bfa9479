"""What servers may send, and what a client is to make of it.

``why`` stands where s3pool differs from stock urllib3 on purpose, and says for what.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.conformance.peers import Script, Seen

ERROR = Seen(is_error=True)
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
STOCK_FIELD_LIMIT = 100
TOO_LONG = 70_000  # bytes; both take 64 KiB in a line at most
LONG = 8_000


class Row(NamedTuple):
    """One script, what our client sees, and why stock sees something else if it does."""

    name: str
    script: Script
    expected: Seen
    method: str = "GET"
    why: str = ""


def kept(body: bytes = b"", status: int = 200, **headers: str) -> Seen:
    """Expect an answer whose connection is used again; headers only where they are the point."""
    return Seen(status, body, {name.replace("_", "-"): value for name, value in headers.items()}, is_reused=True)


def ended(body: bytes = b"", status: int = 200) -> Seen:
    """Expect an answer that ends its connection."""
    return Seen(status, body)


def stays(raw: bytes) -> Script:
    """Send this, and keep the connection open."""
    return Script(raw)


def closes(raw: bytes) -> Script:
    """Send this, and close the connection."""
    return Script(raw, closes=True)


STATUS_LINES = [
    Row("plain", stays(OK + b"Content-Length: 2\r\n\r\nok"), kept(b"ok")),
    Row("no reason", stays(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"), kept()),
    Row("empty reason", stays(b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"), kept()),
    Row("reason of many words", stays(b"HTTP/1.1 503 Slow Down: x\r\nContent-Length: 0\r\n\r\n"), kept(status=503)),
    Row("redirect", stays(b"HTTP/1.1 307 T\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"), kept(status=307)),
    Row("unknown status", stays(b"HTTP/1.1 599 X\r\nContent-Length: 0\r\n\r\n"), kept(status=599)),
    Row("byte by byte", Script(OK + b"Content-Length: 2\r\n\r\nok", drips=True), kept(b"ok")),
    Row("nothing at all", closes(b""), ERROR),
    Row("reset", Script(b"", closes=True, resets=True), ERROR),
    Row("no HTTP", closes(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), ERROR),
    Row("HTTP/2", closes(b"HTTP/2 200 OK\r\n\r\n"), ERROR),
    Row("status of two digits", closes(b"HTTP/1.1 99 X\r\n\r\n"), ERROR),
    Row("status of four digits", closes(b"HTTP/1.1 2000 X\r\n\r\n"), ERROR),
    Row("status of letters", closes(b"HTTP/1.1 abc X\r\n\r\n"), ERROR),
    Row("empty line first", closes(b"\r\n" + OK + b"Content-Length: 2\r\n\r\nok"), ERROR),
    Row(
        "HTTP/1.2",
        stays(b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ERROR,
        why="nobody speaks it; its framing is unknown",
    ),
    Row("101 unasked", closes(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), ERROR, why="nothing was to be switched"),
]

INTERIM = [
    Row("100 first", stays(b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok"), kept(b"ok")),
    Row("100 with fields", stays(b"HTTP/1.1 100 C\r\nA: b\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok"), kept(b"ok")),
    Row("100 many times", stays(b"HTTP/1.1 100 C\r\n\r\n" * 99 + OK + b"Content-Length: 2\r\n\r\nok"), kept(b"ok")),
    Row(
        "103 first",
        stays(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok"),
        kept(b"ok"),
        why="every 1xx comes before the answer; stock knows 100 alone",
    ),
    Row("100 and the end", closes(b"HTTP/1.1 100 Continue\r\n\r\n"), ERROR),
]

FIELDS = [
    Row("names in any case", stays(OK + b"cOnTeNt-LeNgTh: 2\r\n\r\nok"), kept(b"ok", content_length="2")),
    Row("no space", stays(OK + b"Content-Length:0\r\nX:a:b\r\n\r\n"), kept(content_length="0", x="a:b")),
    Row("spaces before", stays(OK + b"Content-Length: \t 2\r\nX:   \r\n\r\nok"), kept(b"ok", content_length="2", x="")),
    Row(
        "spaces behind",
        stays(OK + b"Content-Length: 2 \t\r\n\r\nok"),
        kept(b"ok", content_length="2"),
        why="RFC 9112 5.1: no part of the value",
    ),
    Row("repeated", stays(OK + b"X: 1\r\nContent-Length: 0\r\nx: 2\r\n\r\n"), kept(content_length="0", x="1, 2")),
    Row("one of 8,000 bytes", stays(OK + b"Content-Length: 0\r\nX: " + b"x" * LONG + b"\r\n\r\n"), kept()),
    Row("one of 70,000 bytes", closes(OK + b"Content-Length: 0\r\nX: " + b"x" * TOO_LONG + b"\r\n\r\n"), ERROR),
    Row("status line of 70,000 bytes", closes(b"HTTP/1.1 200 " + b"x" * TOO_LONG + b"\r\n\r\n"), ERROR),
    Row(
        "two hundred",
        stays(OK + b"X-Amz-Meta-A: b\r\n" * 2 * STOCK_FIELD_LIMIT + b"Content-Length: 0\r\n\r\n"),
        kept(),
        why="an object may have much metadata; 64 KiB bound it",
    ),
    Row(
        "UTF-8",
        stays(OK + "Content-Length: 0\r\nX: \u00e9\r\n\r\n".encode()),
        kept(content_length="0", x="\u00e9"),
        why="S3's metadata is UTF-8; stock reads Latin-1",
    ),
    Row("folded", closes(OK + b"Content-Length: 0\r\nX: a\r\n b\r\n\r\n"), ERROR, why="RFC 9112 5.2: obsolete"),
    Row("space before colon", closes(OK + b"X : a\r\nContent-Length: 0\r\n\r\n"), ERROR, why="RFC 9112 5.1: refuse"),
    Row("no colon", closes(OK + b"X\r\nContent-Length: 2\r\n\r\nok"), ERROR, why="stock drops all that follows"),
    Row("no name", closes(OK + b": a\r\nContent-Length: 2\r\n\r\nok"), ERROR, why="stock drops all that follows"),
    Row("NUL in a value", closes(OK + b"X: a\0b\r\nContent-Length: 0\r\n\r\n"), ERROR, why="RFC 9110 5.5: dangerous"),
    Row("CR in a value", closes(OK + b"X: a\rb\r\nContent-Length: 0\r\n\r\n"), ERROR, why="RFC 9112 2.2: invalid"),
    Row("bare LF", closes(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"), ERROR, why="guessed line ends split answers"),
    Row(
        "bare LF once",
        closes(OK + b"X: a\nY: b\r\nContent-Length: 2\r\n\r\nok"),
        ERROR,
        why="guessed line ends split answers",
    ),
    Row("cut short", closes(OK + b"X: a\r\nContent-Len"), ERROR, why="half a head is none"),
]

LENGTHS = [
    Row("HEAD", stays(OK + b"Content-Length: 99\r\n\r\n"), kept(content_length="99"), method="HEAD"),
    Row("HEAD without length", stays(OK + b"\r\n"), kept(), method="HEAD"),
    Row("HEAD of nothing", stays(b"HTTP/1.1 404 N\r\nContent-Length: 9\r\n\r\n"), kept(status=404), method="HEAD"),
    Row("204", stays(b"HTTP/1.1 204 No Content\r\n\r\n"), kept(status=204)),
    Row("204 with length", stays(b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n"), kept(status=204)),
    Row("304 with length", stays(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"), kept(status=304)),
    Row("chunked HEAD", stays(CHUNKED), ended(), method="HEAD", why="RGW 16 sends a last chunk after some of them"),
    Row("large", stays(OK + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000), kept(b"x" * 300_000)),
    Row("same twice", stays(OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok"), kept(b"ok")),
    Row("two that differ", stays(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok"), ERROR),
    Row("list that differs", stays(OK + b"Content-Length: 2, 3\r\n\r\nok"), ERROR),
    Row("body too short", closes(OK + b"Content-Length: 9\r\n\r\nshort"), ERROR),
    Row("body cut by a reset", Script(OK + b"Content-Length: 9\r\n\r\nshort", closes=True, resets=True), ERROR),
    Row("body missing", closes(OK + b"Content-Length: 9\r\n\r\n"), ERROR),
    Row("of letters", closes(OK + b"Content-Length: two\r\n\r\nok"), ERROR, why="a length that is none frames nothing"),
    Row("empty", closes(OK + b"Content-Length:\r\n\r\nok"), ERROR, why="a length that is none frames nothing"),
    Row("negative", closes(OK + b"Content-Length: -2\r\n\r\nok"), ERROR, why="a length that is none frames nothing"),
    Row("with a sign", stays(OK + b"Content-Length: +2\r\n\r\nok"), ERROR, why="RFC 9110 8.6: digits alone"),
    Row("with a line", stays(OK + b"Content-Length: 1_0\r\n\r\n0123456789"), ERROR, why="RFC 9110 8.6: digits alone"),
]

CHUNKS = [
    Row("two", stays(CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n" + LAST_CHUNK), kept(b"hello world")),
    Row("none", stays(CHUNKED + LAST_CHUNK), kept()),
    Row("name in any case", stays(OK + b"transfer-encoding: CHUNKED\r\n\r\n2\r\nok\r\n" + LAST_CHUNK), kept(b"ok")),
    Row("size in capitals, with zeros", stays(CHUNKED + b"00A\r\n0123456789\r\n000\r\n\r\n"), kept(b"0123456789")),
    Row("extension", stays(CHUNKED + b'2;a=b;c="d"\r\nok\r\n0;z\r\n\r\n'), kept(b"ok")),
    Row("space before an extension", stays(CHUNKED + b"2 ;a\r\nok\r\n" + LAST_CHUNK), kept(b"ok")),
    Row("trailers", stays(CHUNKED + b"2\r\nok\r\n0\r\nX: a\r\nY: b\r\n\r\n"), kept(b"ok")),
    Row("CRLF within", stays(CHUNKED + b"6\r\na\r\n0\r\n\r\n" + LAST_CHUNK), kept(b"a\r\n0\r\n")),
    Row("many", stays(CHUNKED + b"3\r\nabc\r\n" * 2_000 + LAST_CHUNK), kept(b"abc" * 2_000)),
    Row("large", stays(CHUNKED + b"30000\r\n" + b"x" * 0x30000 + b"\r\n" + LAST_CHUNK), kept(b"x" * 0x30000)),
    Row("byte by byte", Script(CHUNKED + b"2\r\nok\r\n" + LAST_CHUNK, drips=True), kept(b"ok")),
    Row("cut within", closes(CHUNKED + b"5\r\nhel"), ERROR),
    Row("cut behind one", closes(CHUNKED + b"5\r\nhello\r\n"), ERROR),
    Row("no size", closes(CHUNKED + b"\r\nhello\r\n" + LAST_CHUNK), ERROR),
    Row("size of letters", closes(CHUNKED + b"zz\r\nhello\r\n" + LAST_CHUNK), ERROR),
    Row(
        "cut behind the last",
        closes(CHUNKED + b"2\r\nok\r\n0\r\n"),
        ERROR,
        why="the end of a connection is no end of a body",
    ),
    Row("size with a sign", stays(CHUNKED + b"+2\r\nok\r\n" + LAST_CHUNK), ERROR, why="RFC 9112 7.1: hex digits alone"),
    Row("size with 0x", stays(CHUNKED + b"0x2\r\nok\r\n" + LAST_CHUNK), ERROR, why="RFC 9112 7.1: hex digits alone"),
    Row("negative size", closes(CHUNKED + b"-2\r\nok\r\n" + LAST_CHUNK), ERROR),
    Row("no CRLF behind one", stays(CHUNKED + b"2\r\nokXX" + LAST_CHUNK), ERROR, why="stock skips two bytes unseen"),
    Row("bare LF", closes(CHUNKED + b"2\nok\n" + LAST_CHUNK), ERROR),
    Row(
        "bare LF behind a size",
        closes(CHUNKED + b"2\nok\r\n" + LAST_CHUNK),
        ERROR,
        why="guessed line ends split answers",
    ),
    Row("extension of 100 bytes", stays(CHUNKED + b"2;" + b"x" * 100 + b"\r\nok\r\n" + LAST_CHUNK), kept(b"ok")),
    Row("extension of 70,000 bytes", closes(CHUNKED + b"2;" + b"x" * TOO_LONG + b"\r\nok\r\n" + LAST_CHUNK), ERROR),
    Row(
        "length beside it",
        stays(OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n" + LAST_CHUNK),
        ended(b"ok"),
        why="RFC 9112 6.3: maybe smuggled; not used again",
    ),
    Row("identity", stays(OK + b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok"), kept(b"ok")),
    Row(
        "gzip before it",
        closes(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n" + LAST_CHUNK),
        ERROR,
        why="nobody asked for a coding; stock gives coded bytes as the body",
    ),
    Row(
        "unknown coding",
        closes(OK + b"Transfer-Encoding: xchunked\r\n\r\nok"),
        ERROR,
        why="RFC 9112 6.1: what is not understood has no known end",
    ),
]

CONNECTIONS = [
    Row("until the end", closes(OK + b"\r\nall of it"), ended(b"all of it")),
    Row("until the end, nothing", closes(OK + b"\r\n"), ended()),
    Row("close", closes(OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok"), ended(b"ok")),
    Row("close that is not done", stays(OK + b"Connection: Close\r\nContent-Length: 2\r\n\r\nok"), ended(b"ok")),
    Row("keep-alive", stays(OK + b"Connection: keep-alive\r\nContent-Length: 2\r\n\r\nok"), kept(b"ok")),
    Row("close in a list", stays(OK + b"Connection: x, close\r\nContent-Length: 0\r\n\r\n"), ended()),
    Row("close of chunks", stays(OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), ended()),
    Row("closed unsaid", closes(OK + b"Content-Length: 2\r\n\r\nok"), ended(b"ok")),
    Row("HTTP/1.0", stays(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"), ended(b"ok")),
    Row("HTTP/1.0 until the end", closes(b"HTTP/1.0 200 OK\r\n\r\nok"), ended(b"ok")),
    Row(
        "HTTP/1.0 keep-alive",
        stays(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"),
        kept(b"ok"),
    ),
    Row(
        "HTTP/1.0 with Keep-Alive alone",
        stays(b"HTTP/1.0 200 OK\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok"),
        ended(b"ok"),
        why="only Connection keeps a connection",
    ),
    Row(
        "another answer behind it",
        stays(OK + b"Content-Length: 2\r\n\r\nok" + OK + b"Content-Length: 5\r\n\r\nwrong"),
        ended(b"ok"),
        why="what nobody asked for must not answer the next request",
    ),
    Row(
        "another answer behind chunks",
        stays(CHUNKED + LAST_CHUNK + OK + b"Content-Length: 5\r\n\r\nwrong"),
        ended(),
        why="what nobody asked for must not answer the next request",
    ),
    Row(
        "another answer behind a large one",
        stays(OK + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000 + OK + b"Content-Length: 5\r\n\r\nwrong"),
        ended(b"x" * 300_000),
        why="what nobody asked for must not answer the next request",
    ),
    Row(
        "body behind HEAD",
        stays(OK + b"Content-Length: 5\r\n\r\nwrong"),
        ended(),
        method="HEAD",
        why="what nobody asked for must not answer the next request",
    ),
]

REQUESTS_WITH_BODY = [
    Row("taken", stays(OK + b"Content-Length: 0\r\n\r\n"), kept(), method="PUT"),
    Row(
        "leave, then taken", stays(b"HTTP/1.1 100 C\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n"), kept(), method="PUT"
    ),
    Row(
        "refused before it is read",
        Script(b"HTTP/1.1 403 F\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno", closes=True, is_early=True),
        ended(b"no", status=403),
        method="PUT",
    ),
    Row("connection lost", closes(b""), ERROR, method="PUT"),
]

# Over TLS receives are cut differently, and the end of the connection has another form.
OVER_TLS = ("plain", "large", "two", "cut within", "body too short", "until the end", "close", "reset")

ROOMS = {
    "status line": STATUS_LINES,
    "interim": INTERIM,
    "field": FIELDS,
    "length": LENGTHS,
    "chunk": CHUNKS,
    "connection": CONNECTIONS,
    "request": REQUESTS_WITH_BODY,
}
