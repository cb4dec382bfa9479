"""Who clients are: the keys that they may use and what for, and their addresses behind balancers."""

from __future__ import annotations

import calendar
import ipaddress
import logging
import re
import socket
import struct
import time
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import cast

from s3pool.config.files import parse_yaml, read_source
from s3pool.config.options import Config
from s3pool.errors import ConfigError
from s3pool.model import Credentials
from s3pool.proxy.errors import forbidden
from s3pool.proxy.limits import BucketLimits, Limits, Rule, read_bucket_limits, read_limits, rules_of
from s3pool.proxy.operations import S3Operation
from s3pool.proxy.request import RequestHead
from s3pool.proxy.settings import Network, ProxySettings
from s3pool.record import dataclass, field
from s3pool.s3.signing import KeyProvider

logger = logging.getLogger(__name__)

KEYS = frozenset({"access_key", "secret_key", "buckets", "read_only", "backend", "expires", "limits", "bucket_limits"})
# What any node takes for the same bucket; RGW reads :b and tenant:b as other ones.
BUCKET_NAME = re.compile(r"[A-Za-z0-9._-]+")
DATE_FORMATS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Client:
    """One access key that the proxy knows.

    ``buckets`` are globs, empty for all; ``credentials`` sign on its behalf towards the
    nodes. ``expires`` is seconds since 1970, 0 for never. ``limits`` are for all of its
    requests, ``bucket_limits`` for those of each bucket that a pattern names.
    """

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    credentials: Credentials | KeyProvider | None = field(default=None, repr=False)
    buckets: tuple[str, ...] = ()
    read_only: bool = False
    expires: float = 0.0
    limits: Limits | None = None
    bucket_limits: BucketLimits = ()

    def rules(self, bucket: str) -> tuple[Rule, ...]:
        """Return the limits that hold for its requests of a bucket."""
        own = (Rule(self.access_key, self.limits, ""),) if self.limits is not None else ()
        return own + rules_of(self.bucket_limits, bucket, owner=self.access_key)

    def authorize(self, operation: S3Operation, bucket: str, *, source_bucket: str, now: float) -> None:
        """Let an operation pass; ``source_bucket`` is what is copied from. Raises S3ErrorResponse: it may not."""
        if self.expires and now >= self.expires:
            raise forbidden("AccessDenied", "the access key has expired", reason="client_expired")
        if self.read_only and not operation.reads:
            raise forbidden("AccessDenied", "the access key may only read", reason="read_only")
        for name in filter(None, (bucket, source_bucket)):
            if not self.admits(name):
                raise forbidden("AccessDenied", f"the access key may not use the bucket {name}", reason="bucket")
        if not bucket and self.buckets:
            raise forbidden("AccessDenied", "the access key may not list all buckets", reason="bucket")

    def admits(self, bucket: str) -> bool:
        """Return whether a bucket is among those that the key may use."""
        if not self.buckets:
            return True
        return BUCKET_NAME.fullmatch(bucket) is not None and any(fnmatchcase(bucket, glob) for glob in self.buckets)


def load_clients(
    config: Config, settings: ProxySettings, pool: Credentials | KeyProvider | None
) -> tuple[Mapping[str, Client], BucketLimits]:
    """Return all clients by access key, the pool's own pair among them, and buckets' limits. Raises ConfigError."""
    own = config.credentials
    clients: dict[str, Client] = {}
    if own is not None:  # the pool's pair is a client's as well, so that both sides can share one environment
        clients[own.access_key] = Client(own.access_key, own.secret_key, own.session_token, pool or own)
    clients |= read_clients(settings.clients, pool, where="proxy.clients")
    limits = read_bucket_limits(settings.bucket_limits, "proxy.bucket_limits")
    if settings.clients_file:
        source = read_source(settings.clients_file, named_by="--clients")
        for warning in source.secrecy_warnings():
            logger.warning("%s", warning)
        document = parse_yaml(source)
        unknown = sorted(document.keys() - {"clients", "bucket_limits"})
        if unknown:
            raise ConfigError(
                f"{settings.clients_file}: unknown key {unknown[0]}; it holds a list named clients, and bucket_limits"
            )
        limits += read_bucket_limits(document.get("bucket_limits"), f"{settings.clients_file}: bucket_limits")
        clients |= read_clients(document.get("clients"), pool, where=settings.clients_file)
    return clients, limits


def read_clients(entries: object, pool: Credentials | KeyProvider | None, *, where: str) -> dict[str, Client]:
    """Read a list of clients in YAML, by access key. Raises ConfigError: an entry is unfit; secrets are not shown."""
    if entries is None:
        return {}
    if not isinstance(entries, list):
        raise ConfigError(f"{where}: must be a list of clients, each with access_key and secret_key")
    clients: dict[str, Client] = {}
    for number, entry in enumerate(entries, 1):
        client = _read_client(entry, pool, where=f"{where}: client {number}")
        if client.access_key in clients:
            raise ConfigError(f"{where}: client {number}: the access key {client.access_key} is there twice")
        clients[client.access_key] = client
    return clients


def _read_client(entry: object, pool: Credentials | KeyProvider | None, *, where: str) -> Client:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where}: must be a map with access_key and secret_key")
    unknown = sorted(str(key) for key in entry if key not in KEYS)
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]}; there are: {', '.join(sorted(KEYS))}")
    access_key, secret_key = _text(entry, "access_key", where), _text(entry, "secret_key", where)
    read_only, backend = entry.get("read_only", False), entry.get("backend", "self")
    if not isinstance(read_only, bool):
        raise ConfigError(f"{where}: read_only must be true or false")
    if backend not in ("self", "pool"):
        raise ConfigError(f"{where}: backend must be self or pool")
    if backend == "pool" and pool is None:
        raise ConfigError(f"{where}: backend is pool, but the pool has no credentials")
    return Client(
        access_key,
        secret_key,
        credentials=pool if backend == "pool" else Credentials(access_key, secret_key),
        buckets=_globs(entry.get("buckets"), where),
        read_only=read_only,
        expires=_expiry(entry.get("expires"), where),
        limits=read_limits(entry["limits"], f"{where}: limits") if entry.get("limits") is not None else None,
        bucket_limits=read_bucket_limits(entry.get("bucket_limits"), f"{where}: bucket_limits"),
    )


def _text(entry: Mapping[object, object], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: {key} must be text; put it in quotes")
    return value


def _globs(value: object, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    globs = [value] if isinstance(value, str) else value
    if not isinstance(globs, list) or not globs or not all(isinstance(glob, str) and glob for glob in globs):
        raise ConfigError(f"{where}: buckets must be a list of names or globs")
    return tuple(cast("list[str]", globs))


def _expiry(value: object, where: str) -> float:
    if value is None:
        return 0.0
    text = str(value)  # YAML makes a date object of an unquoted date
    for form in DATE_FORMATS:
        try:
            return float(calendar.timegm(time.strptime(text, form)))
        except ValueError:
            continue
    raise ConfigError(f"{where}: expires must be a date such as 2030-01-31 or 2030-01-31T12:00:00Z")


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
    """Return the last address in X-Forwarded-For that is no balancer's; those before it are what the client claims."""
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
    """Take the PROXY header off a new connection; return the client's address, empty where the balancer has none.

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
    if not found[1]:
        return ""
    try:
        return plain_address(str(ipaddress.ip_address(found[1].decode())))
    except ValueError as exc:
        raise ProxyProtocolError("a malformed address in a PROXY header") from exc


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
    """Refuse what another site's page asks, or asks of another name. Raises S3ErrorResponse: it does."""
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
