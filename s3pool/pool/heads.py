"""The head of a response: status line and fields, read strictly."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from s3pool.errors import ProtocolError

STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9]\d\d)(?: ([^\r\n\0]*))?")
NAME_CHARS = "!#$%&'*+.^_`|~0-9A-Za-z-"
HEADER_LINE = re.compile(rf"[{NAME_CHARS}]+:[^\r\n\0]*")
MAX_LENGTH_DIGITS = 19
LENGTH = re.compile(rf"[0-9]{{1,{MAX_LENGTH_DIGITS}}}")
NO_BODY_STATUS = frozenset({204, 304})
CONTINUE = 100
FIRST_FINAL_STATUS = 200
MAX_KNOWN = 1024  # lines that are remembered, and their length
MAX_KNOWN_LENGTH = 128
KEPT_TEXT = 60  # so much of what is wrong is told

_Field = tuple[str, str]  # the name in lower case, and the value


class Head(NamedTuple):
    """A response's status line and fields; ``length`` is None for chunked and close-delimited bodies."""

    status: int
    reason: str
    headers: dict[str, str]
    lines: list[str]  # the fields as they came
    length: int | None
    is_chunked: bool
    keep_alive: bool


_make_head = Head._make  # half the time of a call of the class


def parse_head(text: str, method: str, endpoint: str) -> Head:
    """Read a response head without its blank line, strictly.

    Source: RFC 9112 sections 4, 5 and 6.3; folded lines, control characters, differing
    Content-Length fields and unknown transfer codings are refused.
    """
    lines = text.split("\r\n")
    try:
        is_1_1, status, reason = _KNOWN_STARTS[lines.pop(0)]
        headers = dict(map(_field_of, lines))
    except ValueError as exc:
        raise _malformed(text, endpoint) from exc
    if len(headers) < len(lines):
        headers = _joined(map(_field_of, lines))
    is_chunked = "transfer-encoding" in headers and _is_chunked(headers["transfer-encoding"], endpoint)
    connection = headers.get("connection", "").lower()
    keep_alive = "close" not in connection and (is_1_1 or "keep-alive" in connection)
    if method == "HEAD" or status in NO_BODY_STATUS or status < FIRST_FINAL_STATUS:
        length: int | None = 0
        # RGW 16 sends a chunked end after some HEAD answers; it must not become the next answer.
        keep_alive = keep_alive and not is_chunked
        is_chunked = False
    else:
        length = None if is_chunked else _content_length(headers, endpoint)
        # Both framings at once are a smuggling trick; the coding wins and the connection is not used again.
        keep_alive = keep_alive and not (is_chunked and "content-length" in headers)
    return _make_head((status, reason, headers, lines, length, is_chunked, keep_alive))


class _KnownStarts(dict[str, tuple[bool, int, str]]):
    """Status lines that were read before: whether it is HTTP/1.1, the status, the reason."""

    def __missing__(self, line: str) -> tuple[bool, int, str]:
        match = STATUS_LINE.fullmatch(line)
        if match is None:
            raise ValueError(line)
        minor, status, reason = match.groups()
        if len(self) < MAX_KNOWN and len(line) <= MAX_KNOWN_LENGTH:
            self[line] = start = minor == "1", int(status), reason or ""
            return start
        return minor == "1", int(status), reason or ""


class _KnownLines(dict[str, "_Field"]):
    """Header lines that were read before: most of an answer's are those of the one before it.

    A line that is not known is read, strictly; threads that do so at once come to the same.
    """

    def __missing__(self, line: str) -> _Field:
        if HEADER_LINE.fullmatch(line) is None:
            raise ValueError(line)
        name, _, value = line.partition(":")
        field = name.lower(), value.strip(" \t")
        if len(line) <= MAX_KNOWN_LENGTH:
            if len(self) >= MAX_KNOWN:
                self.clear()
            self[line] = field
        return field


_KNOWN_STARTS = _KnownStarts()
_field_of = _KnownLines().__getitem__


def _joined(fields: Iterable[_Field]) -> dict[str, str]:
    """Return the fields by name, the values of repeated ones joined with a comma."""
    headers: dict[str, str] = {}
    for name, value in fields:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _malformed(text: str, endpoint: str) -> ProtocolError:
    first, *lines = text.split("\r\n")
    if STATUS_LINE.fullmatch(first) is None:
        return ProtocolError(f"{endpoint} does not speak HTTP: it sent {first[:KEPT_TEXT]!r}", endpoint=endpoint)
    bad = next(line for line in lines if HEADER_LINE.fullmatch(line) is None)
    return ProtocolError(f"{endpoint} sent a malformed header line {bad[:KEPT_TEXT]!r}", endpoint=endpoint)


def _is_chunked(coding: str, endpoint: str) -> bool:
    if coding.lower() == "identity":
        return False
    if coding.lower() != "chunked":
        raise ProtocolError(f"{endpoint} uses an unknown transfer coding {coding!r}", endpoint=endpoint)
    return True


def _content_length(headers: dict[str, str], endpoint: str) -> int | None:
    text = headers.get("content-length")
    if text is None:
        return None
    if text.isdigit() and text.isascii() and len(text) <= MAX_LENGTH_DIGITS:
        return int(text)
    values = {value.strip() for value in text.split(",")}
    value = values.pop()
    if values or LENGTH.fullmatch(value) is None:
        raise ProtocolError(f"{endpoint} sent a bad Content-Length {text!r}", endpoint=endpoint)
    return int(value)
