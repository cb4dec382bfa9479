"""One node of the pool, and the key pair that is shown there, as the configuration names them."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from s3pool.errors import ConfigError
from s3pool.record import dataclass, field

DEFAULT_PORTS = {"http": 80, "https": 443}
PROXY_PORT = 3128
DISCOVERIES = ("", "dns", "srv")
# What is counted of an endpoint: the metric's name, to which the proxy adds _total, a record's member, the meaning.
ENDPOINT_COUNTERS = (
    ("endpoint_requests", "requests", "Attempts on the node"),
    ("endpoint_retries", "retries", "Attempts on the node that repeated another, or were made beside a silent one"),
    ("endpoint_hedges", "hedges", "Attempts on the node that were made beside a silent one"),
    ("endpoint_throttled", "throttled", "Answers of the node that asked to slow down"),
    ("endpoint_ejections", "ejections", "How often the node left the pool"),
    ("endpoint_sent_bytes", "bytes_sent", "Bytes that the node got"),
    ("endpoint_received_bytes", "bytes_received", "Bytes that the node sent"),
)
FAILURES_METRIC = ("endpoint_failures", "Attempts on the node without a usable answer, by kind")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One node of the pool. ``host`` has no brackets, even when it is an IPv6 address.

    ``netloc`` is the Host header's value: with the port only when it is not the scheme's own. ``zone``, ``weight`` and
    ``tier`` decide how often the node is used. One with a ``discovery`` stands for all the nodes that its name is found
    to have, each of which is an endpoint with an ``address``.
    """

    scheme: str
    host: str
    port: int
    netloc: str = field(init=False, repr=False, compare=False)
    address: str = ""  # to connect to in place of the host, which stays the name in Host and TLS
    discovery: str = ""  # how the nodes are found: "dns" by the addresses of the host, "srv" by its SRV records
    zone: str = field(default="", compare=False)
    weight: int = field(default=1, compare=False)
    tier: int = field(default=0, compare=False)  # nodes of a higher tier wait until all of the lower ones are out

    def __post_init__(self) -> None:
        """Work out the Host header, which every request needs."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        netloc = host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"
        object.__setattr__(self, "netloc", netloc)

    @property
    def url(self) -> str:
        """Return the URL of the node, without a trailing slash; its address, if it has one, in brackets."""
        how = f"{self.discovery}+" if self.discovery else ""
        where = f"[{self.address}]" if self.address else ""
        return f"{how}{self.scheme}://{self.netloc}{where}"

    @property
    def connect_host(self) -> str:
        """Return the host or address to connect to."""
        return self.address or self.host

    @property
    def spec(self) -> str:
        """Return the endpoint as a configuration names it, with zone and weight."""
        zone = f";zone={self.zone}" if self.zone else ""
        return f"{self.url}{zone};weight={self.weight}" if self.weight != 1 else f"{self.url}{zone}"

    def __str__(self) -> str:
        return self.url

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read ``http://host:port``, with ``dns+`` or ``srv+`` before it for all nodes of a name.

        Raises:
            ConfigError: no http or https scheme, no host, a path, user or query, a bad port.
        """
        try:
            parts = urlsplit(text.strip())
            port = parts.port
        except ValueError as exc:
            raise ConfigError(f"bad endpoint {text!r}: {exc}; write http://host:port") from exc
        discovery, _, scheme = parts.scheme.rpartition("+")
        if scheme not in DEFAULT_PORTS or discovery not in DISCOVERIES or not parts.hostname:
            raise ConfigError(f"bad endpoint {text!r}: write http://host:port or https://host:port")
        if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
            raise ConfigError(f"bad endpoint {text!r}: only scheme, host and port may stand there")
        if port == 0 or any(c <= " " or c in '{}<>"\\^`|' for c in parts.hostname):
            raise ConfigError(f"bad endpoint {text!r}: the host or the port cannot be used")
        if discovery == "srv" and port:
            raise ConfigError(f"bad endpoint {text!r}: SRV records name the ports themselves; leave it out")
        return cls(scheme, parts.hostname, port or DEFAULT_PORTS[scheme], discovery=discovery)


@dataclass(frozen=True, slots=True)
class HttpProxy:
    """A proxy between this machine and the nodes; its password stays out of str() and repr()."""

    host: str
    port: int
    user_password: str = field(default="", repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> HttpProxy:
        """Read ``http://[USER:PASSWORD@]host:port``.

        Raises:
            ConfigError: it is another URL; the message does not repeat it, because of the password.
        """
        try:
            parts = urlsplit(text.strip())
            host, port = parts.hostname, parts.port or PROXY_PORT
        except ValueError:
            host, port = None, 0
        if not host or parts.scheme != "http" or parts.path.strip("/") or parts.query:
            raise ConfigError("bad HTTP proxy: write http://host:port or http://USER:PASSWORD@host:port")
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
        return cls(host, port, user)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key pair; the secrets stay out of repr()."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


class Keys(NamedTuple):
    """A key pair, and when it ends in seconds since 1970; None for never."""

    credentials: Credentials
    expires: float | None = None
