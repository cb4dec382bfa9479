"""How each value of the proxy's settings is parsed, from a flag's text or from YAML."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable

from s3pool.config.values import parse_endpoints
from s3pool.endpoint import Endpoint
from s3pool.errors import ConfigError
from s3pool.record import dataclass
from s3pool.units import parse_duration, parse_size

AUTH_MODES = ("verify", "passthrough", "open")
ANONYMOUS_MODES = ("deny", "pass")
SIGV2_MODES = ("presigned", "on", "off")
TRAILER_MODES = ("decode", "pass")
PROBES = ("auto", "minio", "rgw", "s3", "tcp")
OFF = "off"
LOOPBACK = ("127.", "::1", "localhost")
MAX_PORT = 65535
UNIX = "unix:"
MAX_UNIX_PATH_BYTES = 107  # of sockaddr_un on Linux
PERCENT = 100.0
UNLIMITED = float("inf")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port to listen on; ``host`` has no brackets, or is ``unix:`` and the path of a socket."""

    host: str
    port: int

    @property
    def path(self) -> str:
        """Return the path of a UNIX socket; empty for an address of the network."""
        return self.host.removeprefix(UNIX) if self.host.startswith(UNIX) else ""

    @property
    def is_loopback(self) -> bool:
        """Return whether only this machine can reach the address."""
        return self.host.startswith((*LOOPBACK, UNIX))

    def url(self, *, is_tls: bool) -> str:
        """Return the URL that clients use as their endpoint."""
        return str(self) if self.path else f"{'https' if is_tls else 'http'}://{self}"

    def __str__(self) -> str:
        if self.path:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: object) -> Address:
    """Read ``host:port``, ``[::1]:port``, ``:port``, a port alone, or ``unix:/path``.

    Raises ConfigError: it is something else.
    """
    text = str(value)
    if text.startswith(UNIX):
        path = text.removeprefix(UNIX)
        if not path.startswith("/") or len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
            raise ConfigError(f"{text!r} is no socket: write unix:/path, of {MAX_UNIX_PATH_BYTES} bytes at most")
        return Address(text, 0)
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > MAX_PORT or (":" in host and not host.startswith("[")):
        raise ConfigError(f"{text!r} is no address; write host:port")
    return Address(host.strip("[]") or "0.0.0.0", int(port))


def parse_admin_address(value: object) -> Address | None:
    """Read ``host:port``, or ``off`` as None."""
    # YAML reads a bare off as false.
    address = None if value is False or value == OFF else parse_address(value)
    if address is not None and address.path:
        raise ConfigError("must be host:port or off")
    return address


def parse_word(*allowed: str) -> Callable[[object], str]:
    """Return a parser of one of a few words; YAML reads a bare ``off`` and ``on`` as truth values."""

    def read(value: object) -> str:
        text = OFF if value is False else "on" if value is True else str(value)
        if text not in allowed:
            raise ConfigError(f"must be {', '.join(allowed)}, not {text!r}")
        return text

    return read


def parse_count_from(least: int) -> Callable[[object], int]:
    """Return a parser of whole numbers from ``least`` on."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not str(value).isdecimal() or int(str(value)) < least:
            raise ConfigError(f"must be a whole number from {least} on, not {value!r}")
        return int(str(value))

    return read


def parse_seconds(value: object) -> float:
    """Read a number of seconds, or a duration such as ``2m``."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(str(value)) if is_number else parse_duration(str(value))


def parse_bytes(value: object) -> int:
    """Read a number of bytes, or a size such as ``16MiB``."""
    return value if isinstance(value, int) and not isinstance(value, bool) else parse_size(str(value))


def parse_path(value: object) -> str:
    """Read the name of a file or directory."""
    if not isinstance(value, str) or not value:
        raise ConfigError("must be text")
    return value


def parse_log(value: object) -> str:
    """Read the name of a log file, ``-`` or ``off``."""
    return OFF if value is False else parse_path(value)


def parse_share(value: object) -> float:
    """Read a percentage as a fraction; ``off`` is no limit."""
    if value is False or value == OFF:
        return UNLIMITED
    text = str(value).removesuffix("%")
    if isinstance(value, bool) or not text.isdecimal():
        raise ConfigError(f"must be a percentage such as 20%, or off, not {value!r}")
    return int(text) / PERCENT


def parse_probe(value: object) -> str:
    """Read the kind of a probe, or its path."""
    text = str(value)
    is_path = text.startswith("/") and text.isascii() and text.isprintable() and " " not in text
    if text not in PROBES and not is_path:
        raise ConfigError(f"must be {', '.join(PROBES)} or a path such as /health, not {text!r}")
    return text


def parse_wait(value: object) -> float:
    """Read a duration above 0."""
    seconds = parse_seconds(value)
    if seconds <= 0:
        raise ConfigError("must be longer than 0 s")
    return seconds


def parse_networks(value: object) -> tuple[Network, ...]:
    """Read networks from a text with commas, or a list of such texts."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ConfigError("must be a network such as 10.0.0.0/8, or a list of them")
    return tuple(ipaddress.ip_network(part.strip()) for word in words for part in word.split(","))


def parse_domains(value: object) -> tuple[str, ...]:
    """Read a name or a list of names, in lower case."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip(".") for name in names):
        raise ConfigError("must be a name or a list of names")
    return tuple(name.strip(".").lower() for name in names)


def parse_tiers(value: object) -> tuple[tuple[Endpoint, ...], ...]:
    """Read a list of lists of endpoints."""
    if not isinstance(value, list) or not all(isinstance(tier, list) and tier for tier in value):
        raise ConfigError("must be a list of lists of endpoints, the preferred one first")
    return tuple(parse_endpoints(tier) for tier in value)


def parse_sticky(value: object) -> str:
    """Read ``key``, or ``off`` as ""."""
    return "" if value in (False, OFF) else parse_word("key")(value)


def parse_switch(value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise ConfigError("must be true or false")
    return value
