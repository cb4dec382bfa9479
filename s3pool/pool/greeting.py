"""The smallest exchange: an unsigned GET that any S3 server answers somehow."""

from __future__ import annotations

import time

from s3pool.body import EMPTY_BODY
from s3pool.errors import ProtocolError
from s3pool.pool.heads import Head
from s3pool.pool.wire import EarlyAnswer, Wire
from s3pool.pool.wirebody import WireBody

# Not HEAD: RGW 16 answers HEAD / with a chunked body all the same.
GENERIC_PATH = "/"
BODY_LIMIT_BYTES = 64 * 1024
BLOCK_BYTES = 4096


def greet(wire: Wire, netloc: str, *, path: str = GENERIC_PATH, timeout_s: float) -> tuple[Head, bool]:
    """Ask for a sign of life; give the answer's head and whether the wire can be used again.

    The body is read and dropped. Any status counts as an answer.

    Raises:
        TransportError: no complete HTTP answer arrived.
    """
    wire.set_timeout(timeout_s)
    try:
        wire.send(f"GET {path} HTTP/1.1\r\nhost: {netloc}\r\n\r\n".encode("ascii"), EMPTY_BODY)
    except EarlyAnswer as exc:
        raise ProtocolError(f"{wire.endpoint} broke the connection: {exc}", endpoint=wire.endpoint) from exc
    wire.pace.window_s = timeout_s
    head = wire.read_head("GET")
    reusable: list[bool] = []
    body = WireBody(wire, head, finish=reusable.append, failed=lambda _error: None)
    buffer = memoryview(bytearray(BLOCK_BYTES))
    total = 0
    until = time.monotonic() + timeout_s
    while count := body.readinto(buffer):
        total += count
        if total > BODY_LIMIT_BYTES or time.monotonic() > until:
            body.close()
    return head, reusable[0]
