"""How each value of the proxy's settings is read, from a flag's text or from YAML."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable

from s3pool.config.values import parse_endpoints
from s3pool.errors import ConfigError
from s3pool.model import Endpoint
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
        """Say whether only this machine can reach it."""
        return self.host.startswith((*LOOPBACK, UNIX))

    def url(self, *, is_tls: bool) -> str:
        """Return what clients take for the endpoint."""
        return str(self) if self.path else f"{'https' if is_tls else 'http'}://{self}"

    def __str__(self) -> str:
        if self.path:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_address(value: object) -> Address:
    """Read ``host:port``, ``[::1]:port``, ``:port``, a port alone, or ``unix:/path``.

    Raises:
        ConfigError: it is something else.
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


def _optional_address(value: object) -> Address | None:
    # YAML reads a bare off as false.
    address = None if value is False or value == OFF else read_address(value)
    if address is not None and address.path:
        raise ConfigError("must be host:port or off")
    return address


def _word(*allowed: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        text = OFF if value is False else "on" if value is True else str(value)
        if text not in allowed:
            raise ConfigError(f"must be {', '.join(allowed)}, not {text!r}")
        return text

    return read


def _count(least: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not str(value).isdecimal() or int(str(value)) < least:
            raise ConfigError(f"must be a whole number from {least} on, not {value!r}")
        return int(str(value))

    return read


def _seconds(value: object) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(str(value)) if is_number else parse_duration(str(value))


def _size(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else parse_size(str(value))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError("must be text")
    return value


def _log(value: object) -> str:
    return OFF if value is False else _text(value)


def _share(value: object) -> float:
    if value is False or value == OFF:
        return UNLIMITED
    text = str(value).removesuffix("%")
    if isinstance(value, bool) or not text.isdecimal():
        raise ConfigError(f"must be a percentage such as 20%, or off, not {value!r}")
    return int(text) / PERCENT


def _probe(value: object) -> str:
    text = str(value)
    is_path = text.startswith("/") and text.isascii() and text.isprintable() and " " not in text
    if text not in PROBES and not is_path:
        raise ConfigError(f"must be {', '.join(PROBES)} or a path such as /health, not {text!r}")
    return text


def _wait(value: object) -> float:
    seconds = _seconds(value)
    if seconds <= 0:
        raise ConfigError("must be longer than 0 s")
    return seconds


def _networks(value: object) -> tuple[Network, ...]:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ConfigError("must be a network such as 10.0.0.0/8, or a list of them")
    return tuple(ipaddress.ip_network(part.strip()) for word in words for part in word.split(","))


def _domains(value: object) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip(".") for name in names):
        raise ConfigError("must be a name or a list of names")
    return tuple(name.strip(".").lower() for name in names)


def _tiers(value: object) -> tuple[tuple[Endpoint, ...], ...]:
    if not isinstance(value, list) or not all(isinstance(tier, list) and tier for tier in value):
        raise ConfigError("must be a list of lists of endpoints, the preferred one first")
    return tuple(parse_endpoints(tier) for tier in value)


def _sticky(value: object) -> str:
    return "" if value in (False, OFF) else _word("key")(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError("must be true or false")
    return value


def _clients(value: object) -> object:
    return value


READERS: dict[str, Callable[[object], object]] = {
    "listen": read_address,
    "admin_listen": _optional_address,
    "admin_token_file": _text,
    "allowed_hosts": _domains,
    "auth": _word(*AUTH_MODES),
    "i_know_this_is_open": _flag,
    "clients": _clients,
    "clients_file": _text,
    "bucket_limits": _clients,
    "anonymous": _word(*ANONYMOUS_MODES),
    "sigv2": _word(*SIGV2_MODES),
    "domains": _domains,
    "sticky": _sticky,
    "tiers": _tiers,
    "probe": _probe,
    "probe_interval": _wait,
    "probe_timeout": _wait,
    "rise": _count(1),
    "fall": _count(1),
    "tries": _count(1),
    "retry_budget": _share,
    "retry_ambiguous_put": _flag,
    "trailers": _word(*TRAILER_MODES),
    "verify_body": _flag,
    "ttfb_timeout": _wait,
    "slow_op_timeout": _wait,
    "backend_idle": _wait,
    "spool_limit": _size,
    "spool_dir": _text,
    "replay_buffer": _size,
    "replay_memory": _size,
    "resume_get": _count(0),
    "idle_timeout": _seconds,
    "header_timeout": _seconds,
    "least_speed": _size,
    "speed_window": _wait,
    "slot_wait": _wait,
    "max_clients": _count(1),
    "max_per_client": _count(0),
    "trust_forwarded": _networks,
    "proxy_protocol": _networks,
    "processes": _count(1),
    "tls_cert": _text,
    "tls_key": _text,
    "tls_client_ca": _text,
    "drain_delay": _seconds,
    "drain_timeout": _seconds,
    "access_log": _log,
}
