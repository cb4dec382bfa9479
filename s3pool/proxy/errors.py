"""The error responses of the proxy, with S3's codes and messages."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import formatdate
from http import HTTPStatus
from xml.sax.saxutils import escape

from s3pool.errors import IntegrityError, RefusedError

Fields = Sequence[tuple[str, str]]

RETRY_AFTER_FIELDS: Fields = (("Retry-After", "1"), ("x-amz-retry-after", "1000"))  # seconds; milliseconds
REASONS = {status.value: status.phrase for status in HTTPStatus}


class S3ErrorResponse(RefusedError):
    """A request that the proxy answers itself, with an S3 error.

    ``closes`` says that the connection cannot carry another request. ``reason`` is one word
    for the metrics when a caller was turned away.
    """

    def __init__(
        self, status: int, code: str, detail: str = "", *, closes: bool = False, reason: str = "", fields: Fields = ()
    ) -> None:
        super().__init__(f"{status} {code}: {detail}" if detail else f"{status} {code}")
        self.status = status
        self.code = code
        self.detail = detail
        self.closes = closes
        self.reason = reason
        self.fields = fields
        self.limited: tuple[str, str] | None = None  # beyond which limit a request was

    def xml(self, resource: str, request_id: str) -> bytes:
        """Return the XML body, which an S3 client shows to its user."""
        rows = (("Code", self.code), ("Message", self.detail), ("Resource", resource), ("RequestId", request_id))
        inner = "".join(f"<{name}>{escape(_printable(text))}</{name}>" for name, text in rows if text)
        return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'.encode()


class ClientGoneError(IntegrityError):
    """The client closed the connection or stalled before its request was complete."""


def own_answer(status: int, kind: str, body: bytes, *lines: str, has_body: bool = True) -> bytes:
    """Return an answer that no node gave; ``lines`` are further ones of its head."""
    own = (f"HTTP/1.1 {status} {REASONS[status]}", f"Date: {formatdate(usegmt=True)}", f"Content-Type: {kind}")
    head = "\r\n".join((*own, f"Content-Length: {len(body)}", *lines))
    return f"{head}\r\n\r\n".encode() + (body if has_body else b"")


def malformed(detail: str, *, status: int = 400, code: str = "BadRequest") -> S3ErrorResponse:
    """Return the response to a malformed request; the connection must close."""
    return S3ErrorResponse(status, code, detail, closes=True, reason="malformed")


def invalid(detail: str, *, reason: str = "") -> S3ErrorResponse:
    """Return the response to a value that cannot be meant."""
    return S3ErrorResponse(400, "InvalidArgument", detail, reason=reason)


def not_implemented(detail: str, *, reason: str = "", closes: bool = False) -> S3ErrorResponse:
    """Return the response to what neither this proxy nor the nodes do."""
    return S3ErrorResponse(501, "NotImplemented", detail, closes=closes, reason=reason)


def forbidden(code: str, detail: str, *, reason: str) -> S3ErrorResponse:
    """Return a 403 response."""
    return S3ErrorResponse(403, code, detail, reason=reason)


def unavailable(detail: str, *, closes: bool = False) -> S3ErrorResponse:
    """Return ServiceUnavailable, which every SDK retries."""
    return S3ErrorResponse(503, "ServiceUnavailable", detail, closes=closes, fields=RETRY_AFTER_FIELDS)


def slow_down(detail: str, *, closes: bool = False) -> S3ErrorResponse:
    """Return SlowDown, for a request that finds no room now."""
    return S3ErrorResponse(503, "SlowDown", detail, closes=closes, fields=RETRY_AFTER_FIELDS)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() and not "\ud800" <= letter <= "\udfff" else "?" for letter in text)
