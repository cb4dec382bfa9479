"""The client's address behind balancers, and the origin of a browser's request."""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
import time
from collections.abc import Collection, Sequence

from s3pool.proxy.errors import forbidden
from s3pool.proxy.readers import Network
from s3pool.proxy.request import RequestHead

FORWARDED_FOR = "x-forwarded-for"
FORWARDED_PROTO = "x-forwarded-proto"


def is_trusted(peer: str, networks: Sequence[Network]) -> bool:
    """Return whether an address belongs to a trusted balancer."""
    address = _address(peer) if networks else None
    return address is not None and any(address in network for network in networks)


def plain_address(text: str) -> str:
    """Return an address in the one way in which it is counted, logged and told: IPv4 inside IPv6 is IPv4."""
    return str(_address(text) or text)


def client_of(head: RequestHead, peer: str, networks: Sequence[Network]) -> str:
    """Return the address of the client: the last one in X-Forwarded-For that is no balancer's.

    Everything before that one is what the client itself claims.
    """
    hops = [hop.strip(" \t") for value in head.values(FORWARDED_FOR) for hop in value.split(",")]
    for hop in reversed([*hops, peer]):
        if not is_trusted(hop, networks):
            address = _address(hop)
            return str(address) if address is not None else peer
        peer = hop
    return peer


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


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

    Raises ProxyProtocolError: there is no sound header. OSError: the connection broke.
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
    return _written_address(found[1].decode()) if found[1] else ""


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
    return plain_address(str(ipaddress.ip_address(block[:size])))


def _written_address(text: str) -> str:
    try:
        return plain_address(str(ipaddress.ip_address(text)))
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


OWN_SITES = frozenset({"same-origin", "none"})


def refuse_foreign_pages(head: RequestHead, names: Collection[str]) -> None:
    """Refuse a request of another site's page, or to a name that is not this proxy's.

    Raises S3ErrorResponse: it is one.
    """
    if head.host and not _is_own(head.host, names):
        detail = f"the Host {head.host} is no address, not localhost and not configured; see --allowed-host"
        raise forbidden("AccessDenied", detail, reason="foreign_host")
    sites = {value.lower() for value in head.values("sec-fetch-site")}
    origins = {value.lower().partition("://")[2] for value in head.values("origin")}
    if not sites <= OWN_SITES or not origins <= {head.host.lower()}:
        raise forbidden("AccessDenied", "another site's page may not do this", reason="foreign_page")


def _is_own(host: str, names: Collection[str]) -> bool:
    name = host.lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if _address(name) is not None:
        return True
    is_name = not name.rpartition(".")[2].isdigit()  # as x.127.0.0.1 is none, below an address to listen on
    return is_name and (name == "localhost" or any(name == other or name.endswith(f".{other}") for other in names))
