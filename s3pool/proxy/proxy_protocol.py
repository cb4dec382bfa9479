"""The line or block by which a balancer tells whose connection it passes on.

Source: HAProxy, "The PROXY protocol, versions 1 & 2" (proxy-protocol.txt).
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
import time

V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1 = re.compile(
    rb"PROXY (?:TCP[46] ([0-9a-fA-F:.]{2,45}) [0-9a-fA-F:.]{2,45} [0-9]{1,5} [0-9]{1,5}|UNKNOWN[^\r\n]*)\r\n"
)
MAX_V1_BYTES = 107
MAX_V2_BYTES = 2048  # addresses take 36, and the rest says nothing that is needed here
LOCAL, PROXY = 0x20, 0x21
ADDRESS_BYTES = {0x1: 4, 0x2: 16}  # of IPv4 and IPv6, by the upper half of the family byte


class ProxyProtocolError(Exception):
    """A listed peer did not begin with the header, or it is malformed."""


def read_header(sock: socket.socket, timeout_s: float) -> str:
    """Take the header off a new connection, and nothing behind it; return the client's address.

    It is empty where the balancer speaks for itself, or does not know.

    Raises:
        ProxyProtocolError: there is no sound header. OSError: the connection broke.
    """
    until = time.monotonic() + timeout_s
    begun = _exactly(sock, len(V2_SIGNATURE), until)
    return _read_v2(sock, until) if begun == V2_SIGNATURE else _read_v1(sock, begun, until)


def _read_v1(sock: socket.socket, line: bytes, until: float) -> str:
    while not line.endswith(b"\r\n"):
        if not line.startswith(b"PROXY ") or len(line) >= MAX_V1_BYTES:
            raise ProxyProtocolError("no PROXY header")
        line += _exactly(sock, 1, until)
    found = V1.fullmatch(line)
    if found is None:
        raise ProxyProtocolError("a malformed PROXY header")
    return _address(found[1].decode()) if found[1] else ""


def _read_v2(sock: socket.socket, until: float) -> str:
    command, family, length = struct.unpack("!BBH", _exactly(sock, 4, until))
    if command not in (LOCAL, PROXY) or length > MAX_V2_BYTES:
        raise ProxyProtocolError("a malformed PROXY header of version 2")
    block = _exactly(sock, length, until)
    size = ADDRESS_BYTES.get(family >> 4, 0)
    if command == LOCAL or not size:
        return ""
    if length < 2 * size + 4:
        raise ProxyProtocolError("a PROXY header of version 2 without its addresses")
    return str(ipaddress.ip_address(block[:size]))


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as exc:
        raise ProxyProtocolError("a malformed address in a PROXY header") from exc


def _exactly(sock: socket.socket, count: int, until: float) -> bytes:
    block = b""
    while len(block) < count:
        sock.settimeout(max(until - time.monotonic(), 0.001))
        piece = sock.recv(count - len(block))
        if not piece:
            raise ProxyProtocolError("the connection ended inside its PROXY header")
        block += piece
    return block
