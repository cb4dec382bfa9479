"""An S3 error of the proxy's own on its way to the client, and what becomes of the body that nobody wants."""

from __future__ import annotations

from email.utils import formatdate

from s3pool.proxy.chunked import LengthReader
from s3pool.proxy.denial import REASONS, Denial
from s3pool.proxy.head import RequestHead
from s3pool.proxy.journal import Entry
from s3pool.proxy.stream import ClientStream

DRAIN_BYTES = 64 * 1024  # an unread body up to this is read and dropped, to keep the connection


def refuse(
    stream: ClientStream, entry: Entry, head: RequestHead | None, reader: object, denial: Denial, *, is_ending: bool
) -> bool:
    """Answer with an S3 error; return whether the connection can go on."""
    keep_alive = head is not None and head.keep_alive and not denial.closes and not is_ending
    keep_alive = keep_alive and _drop_body(stream, head, reader)
    entry.status, entry.code, entry.denied = denial.status, denial.code, denial.reason
    body = denial.xml(head.path if head is not None else "", entry.request_id)
    lines = [
        f"HTTP/1.1 {denial.status} {REASONS[denial.status]}",
        f"Date: {formatdate(usegmt=True)}",
        f"x-amz-request-id: {entry.request_id}",
        *(f"{name}: {value}" for name, value in denial.fields),
        "Content-Type: application/xml",
        f"Content-Length: {len(body)}",
    ]
    if not keep_alive:
        lines.append("Connection: close")
    elif head is not None and head.is_http_1_0:
        lines.append("Connection: keep-alive")
    text = ("\r\n".join(lines) + "\r\n\r\n").encode()
    stream.write(text, b"" if head is not None and head.method == "HEAD" else body)
    return keep_alive


def _drop_body(stream: ClientStream, head: RequestHead | None, reader: object) -> bool:
    """Read a small body that nobody wants, for as long as it comes at once; False when the connection has to end."""
    if head is None or head.length == 0:
        return True
    if reader is None and head.length is not None and not head.expects_continue:
        reader = LengthReader(stream, head.length)
    if not isinstance(reader, LengthReader) or reader.left > DRAIN_BYTES:
        return bool(getattr(reader, "is_done", False))
    return not reader.left or stream.drop(reader)


def answer_health(stream: ClientStream, entry: Entry, head: RequestHead, *, is_draining: bool) -> bool:
    """Answer a question about this process's health; return whether the connection can go on.

    Raises:
        Denial: the process is on its way out, or the question has a body.
    """
    entry.op = "Health"
    if is_draining:
        raise Denial(503, "ServiceUnavailable", "this proxy is going out of service", closes=True)
    if head.length != 0:
        raise Denial(400, "InvalidRequest", "a question about health has no body", closes=True)
    entry.status = 200
    closing = "" if head.keep_alive else "Connection: close\r\n"
    body = b"" if head.method == "HEAD" else b"ok\n"
    stream.write(f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n{closing}\r\n".encode() + body)
    return head.keep_alive
