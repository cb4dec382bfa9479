"""HTTP/1.1 messages as the relay reads and writes them: raw heads, whole response bodies."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import BinaryIO

from tests.support.fake_s3.call import operation_of, split_target
from tests.support.fake_s3.store import S3Fault

BLOCK_BYTES = 1 << 16
NO_BODY_STATUSES = (204, 304)


class ClosedError(Exception):
    """The other side closed the connection within a message."""


@dataclass
class Request:
    """A request head as it arrived, and what it asks for."""

    head: bytes
    method: str
    target: str
    headers: dict[str, str]
    node: int = 0

    @cached_property
    def place(self) -> tuple[str, str, str]:
        """Return operation, bucket and key."""
        node = SimpleNamespace(netloc="no.such.host", index=self.node)
        exchange = SimpleNamespace(method=self.method, target=self.target, headers=self.headers, node=node)
        try:
            bucket, key, query = split_target(exchange)  # type: ignore[arg-type]
        except S3Fault:
            return "NotImplemented", "", ""
        if self.target.startswith("/swift/"):
            return "Health", "", ""
        return operation_of(exchange, bucket, key, query), bucket, key  # type: ignore[arg-type]

    @property
    def length(self) -> int:
        """Return the length of the body; 0 where chunks carry it."""
        return int(self.headers.get("content-length") or 0)

    @property
    def is_chunked(self) -> bool:
        """Return whether the body comes in chunks."""
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    def without(self, name: str) -> None:
        """Take a header out of the head; only for servers that do not look at signatures."""
        lines = self.head.split(b"\r\n")
        self.head = b"\r\n".join(line for line in lines if not line.lower().startswith(name.encode() + b":"))

    def without_parameter(self, name: str) -> None:
        """Take a parameter out of the query; only for servers that do not look at signatures."""
        path, _, query = self.target.partition("?")
        words = [word for word in query.split("&") if word.partition("=")[0] != name]
        changed = f"{path}?{'&'.join(words)}" if words else path
        self.head = self.head.replace(self.target.encode("latin-1"), changed.encode("latin-1"), 1)


@dataclass
class Response:
    """An answer with its whole body, and how it is to be written."""

    status: int
    reason: str = "OK"
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    has_body: bool = True  # no: of HEAD, 204, 304
    cut_head_at: int | None = None  # bytes of the head that are sent before a reset
    cut_body_at: int | None = None
    stall_at: int | None = None  # bytes of the body before silence
    half_close: bool = False  # the cut is an orderly end instead of a reset
    rate: int = 0  # bytes a second, 0 for no limit
    length: int | None = None  # a Content-Length that is not the body's

    def get(self, name: str) -> str:
        """Return the first header of a name, or nothing."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    def put(self, name: str, value: str | None) -> None:
        """Replace a header, or with None remove it."""
        self.headers = [pair for pair in self.headers if pair[0].lower() != name.lower()]
        if value is not None:
            self.headers.append((name, value))

    def replace_body(self, body: bytes) -> None:
        """Replace the body and its length."""
        self.body = body
        self.put("Content-Length", str(len(body)))
        self.put("Transfer-Encoding", None)

    def head(self) -> bytes:
        """Return the head as bytes."""
        lines = [f"HTTP/1.1 {self.status} {self.reason}"]
        for name, value in self.headers:
            told = str(self.length) if self.length is not None and name.lower() == "content-length" else value
            lines.append(f"{name}: {told}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def read_request(reader: BinaryIO, node: int) -> Request | None:
    """Read a request head; None at the end of the connection."""
    head = _read_head(reader)
    if head is None:
        return None
    line, *rest = head.decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ", 2)
    return Request(head, method, target, dict(_fields(rest)), node)


def read_response(reader: BinaryIO, method: str) -> Response:
    """Read an answer with its body; interim ones are passed over.

    Raises:
        ClosedError: the server closed the connection before its end.
    """
    while True:
        head = _read_head(reader)
        if head is None:
            raise ClosedError
        line, *rest = head.decode("latin-1").split("\r\n")
        _, status, reason = [*line.split(" ", 2), ""][:3]
        if not status.startswith("1"):
            break
    pairs = [(name.strip(), value.strip()) for name, _, value in (each.partition(":") for each in rest if each)]
    response = Response(int(status), reason, pairs)
    response.has_body = method != "HEAD" and response.status not in NO_BODY_STATUSES
    if response.has_body:
        response.body = _read_body(reader, response)
    return response


def iter_body(reader: BinaryIO, request: Request) -> Iterator[bytes]:
    """Yield a request's body as it stands on the wire."""
    left = 0 if request.is_chunked else request.length
    while left:
        block = _exactly(reader, min(left, BLOCK_BYTES))
        left -= len(block)
        yield block
    while request.is_chunked:
        line = reader.readline()
        size = int(line.partition(b";")[0] or b"0", 16)
        yield line
        if not size:
            while (line := reader.readline()).strip():
                yield line
            yield line
            return
        yield _exactly(reader, size + 2)


def _read_body(reader: BinaryIO, response: Response) -> bytes:
    if "chunked" in response.get("transfer-encoding").lower():
        blocks = []
        while size := int(reader.readline().partition(b";")[0] or b"0", 16):
            blocks.append(_exactly(reader, size + 2)[:-2])
        while reader.readline().strip():
            pass
        body = b"".join(blocks)
        response.replace_body(body)
        return body
    length = response.get("content-length")
    return _exactly(reader, int(length)) if length else reader.read()


def _exactly(reader: BinaryIO, count: int) -> bytes:
    block = reader.read(count)
    if len(block) < count:
        raise ClosedError
    return block


def _read_head(reader: BinaryIO) -> bytes | None:
    lines = []
    while line := reader.readline():
        lines.append(line)
        if line in (b"\r\n", b"\n"):
            return b"".join(lines)
    return None


def _fields(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip().lower(), value.strip()


def connect(address: tuple[str, int]) -> socket.socket:
    """Return a connection without Nagle's delay."""
    sock = socket.create_connection(address)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
