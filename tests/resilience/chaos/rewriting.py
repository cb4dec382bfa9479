"""Changes of answers: what lying, broken and odd servers send."""

from __future__ import annotations

import email.utils
import gzip
import re
import threading
import time
from collections.abc import Callable

from tests.resilience.chaos.http1 import Response

ROW = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)
ETAG = re.compile(rb"<ETag>.*?</ETag>", re.DOTALL)
KEY = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)
DELETED = re.compile(rb"<Deleted>.*?</Deleted>", re.DOTALL)
FALSE_ETAG = "0123456789abcdef" * 2
PAGE = b"<html><body><h1>Down for maintenance</h1></body></html>"
DAY_S = 86_400


def html(_: Response) -> Response:
    """Return what a maintenance page of a load balancer is: 200, no ETag."""
    return Response(200, "OK", [("Content-Type", "text/html"), ("Content-Length", str(len(PAGE)))], PAGE)


def error(status: int, code: str, retry_after: float | None = None) -> Response:
    """Return an error as S3 words one; status 200 is the error of a long operation."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>by the relay</Message></Error>".encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    if retry_after is not None:
        headers.append(("Retry-After", f"{retry_after:g}"))
    return Response(status, "By the relay", headers, body)


def redirect(location: str) -> Response:
    """Return a redirect to another address."""
    return Response(307, "Temporary Redirect", [("Location", location), ("Content-Length", "0")])


def truncated(response: Response) -> Response:
    """Send half of the body as a whole HTTP message."""
    if response.body:
        response.replace_body(response.body[: len(response.body) // 2])
    return response


def flipped(response: Response, share: float) -> Response:
    """Turn over a bit of the body."""
    if response.body:
        response.body = flip(response.body, int(share * len(response.body)))
    return response


def flip(body: bytes, at: int) -> bytes:
    """Turn over the lowest bit of one byte."""
    at = min(at, len(body) - 1)
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def short_length(response: Response) -> Response:
    """Announce less than is sent; the rest would be taken for the next answer."""
    response.length = max(0, len(response.body) - 1)
    response.put("Connection", "close")
    return response


def long_length(response: Response) -> Response:
    """Announce more than is sent, and close."""
    response.length = len(response.body) + 10
    response.cut_body_at, response.half_close = len(response.body), True
    return response


def false_etag(response: Response) -> Response:
    """Send the ETag of something else, in headers and listings."""
    if response.get("etag"):
        response.put("ETag", f'"{FALSE_ETAG}"')
    if b"<ETag>" in response.body:
        response.replace_body(ETAG.sub(b"<ETag>&quot;%s&quot;</ETag>" % FALSE_ETAG.encode(), response.body))
    return response


def no_etag(response: Response) -> Response:
    """Send no ETag at all."""
    response.put("ETag", None)
    if b"<ETag>" in response.body:
        response.replace_body(ETAG.sub(b"", response.body))
    return response


def weak_etag(response: Response) -> Response:
    """Send a weak ETag, as servers do that changed the body on its way."""
    if response.get("etag"):
        response.put("ETag", f"W/{response.get('etag')}")
    return response


def compressed(response: Response) -> Response:
    """Send other bytes than are stored, as a proxy that transcodes does: chunked, weak ETag."""
    if response.body and response.status == 200 and not response.body.startswith(b"<?xml"):
        response.replace_body(gzip.compress(response.body, mtime=0))
        return weak_etag(response)
    return response


def unsorted(response: Response) -> Response:
    """List the keys of a page backwards."""
    rows = ROW.findall(response.body)
    return _with_rows(response, rows[::-1])


def tree_order(response: Response) -> Response:
    """List the keys of a page as a file system does: directory after directory."""
    rows = ROW.findall(response.body)
    return _with_rows(response, sorted(rows, key=_directories_first))


def _directories_first(row: bytes) -> list[bytes]:
    found = KEY.search(row)
    return (found.group(1) if found else b"").replace(b"%2F", b"/").split(b"/")


def _with_rows(response: Response, rows: list[bytes]) -> Response:
    if len(rows) < 2:
        return response
    waiting = iter(rows)
    response.replace_body(ROW.sub(lambda _: next(waiting), response.body))
    return response


def skewed(response: Response, seconds: float) -> Response:
    """Let the node's clock be wrong."""
    response.put("Date", email.utils.formatdate(time.time() + seconds, usegmt=True))
    return response


def misnamed_error(response: Response) -> Response:
    """Answer a batch delete with an error for a key that nobody asked for."""
    rows = DELETED.findall(response.body)
    wrong = b"<Error><Key>%s</Key><Code>InternalError</Code><Message>by the relay</Message></Error>"
    target = rows[0] if rows else b"</DeleteResult>"
    tail = b"" if rows else target
    response.replace_body(response.body.replace(target, wrong % b"another/key" + tail, 1))
    return response


class RepeatedPage:
    """Answers a listing with the page that came before, where it goes on after one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = b""

    def __call__(self, response: Response) -> Response:
        """Return the page of the last call, once there is one."""
        with self._lock:
            last, self._last = self._last, response.body
        if last and b"<Contents>" in last:
            response.replace_body(last)
        return response


CHANGES: dict[str, Callable[[Response], Response]] = {
    "html-answer": html,
    "truncated": truncated,
    "short-length": short_length,
    "long-length": long_length,
    "false-etag": false_etag,
    "no-etag": no_etag,
    "weak-etag": weak_etag,
    "compressed": compressed,
    "unsorted": unsorted,
    "tree-order": tree_order,
    "misnamed-error": misnamed_error,
}
