"""What the proxy is told: flags over the configuration's ``proxy:`` section, checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from s3pool.errors import ConfigError, UsageError
from s3pool.model import Endpoint
from s3pool.proxy.upload import REPLAY_BYTES, REPLAY_MEMORY_BYTES
from s3pool.units import parse_duration, parse_size

AUTH_MODES = ("verify", "passthrough", "open")
ANONYMOUS_MODES = ("deny", "pass")
SIGV2_MODES = ("presigned", "on", "off")
OFF = "off"
LOOPBACK = ("127.", "::1", "localhost")
MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port to listen on; ``host`` has no brackets."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Say whether only this machine can reach it."""
        return self.host.startswith(LOOPBACK)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """Every setting of the proxy; times in seconds, sizes in bytes.

    ``clients`` is the raw list of the configuration file, ``clients_file`` another file of the
    same shape. ``admin_listen`` is None when there is no admin listener.
    """

    listen: Address = Address("127.0.0.1", 8000)
    admin_listen: Address | None = Address("127.0.0.1", 8001)
    auth: str = "verify"
    i_know_this_is_open: bool = False
    clients: object = field(default=None, repr=False)
    clients_file: str = ""
    anonymous: str = "deny"
    sigv2: str = "presigned"
    domains: tuple[str, ...] = ()
    sticky: str = ""
    tiers: tuple[tuple[Endpoint, ...], ...] = ()
    tries: int = 3
    replay_buffer: int = REPLAY_BYTES
    replay_memory: int = REPLAY_MEMORY_BYTES
    resume_get: int = 2
    idle_timeout: float = 60.0
    header_timeout: float = 10.0
    max_clients: int = 1024
    max_per_client: int = 0
    processes: int = 1
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    drain_delay: float = 0.0
    drain_timeout: float = 60.0
    access_log: str = OFF


def read_settings(flags: Mapping[str, object], section: Mapping[str, object], *, directory: str) -> ProxySettings:
    """Settle the settings; ``flags`` holds what stood on the command line.

    Paths of the section start at ``directory``, that of the configuration file.

    Raises:
        ConfigError: a key is unknown or a value unfit, or they do not go together.
    """
    known = {item.name for item in fields(ProxySettings)} - {"i_know_this_is_open"}
    unknown = sorted(str(key) for key in section if key not in known)
    if unknown:
        raise ConfigError(f"proxy.{unknown[0]}: unknown key; there are: {', '.join(sorted(known))}")
    values: dict[str, Any] = {}
    for key, value in section.items():
        if value is not None:
            values[key] = _anchored(key, _read(key, value, f"proxy.{key}"), directory)
    for key, value in flags.items():
        if value is not None:
            values[key] = _read(key, value, f"--{key.replace('_', '-')}")
    if isinstance(values.get("clients"), str):
        values["clients_file"] = values.pop("clients")
    settings = ProxySettings(**values)
    _check(settings)
    return settings


def _check(settings: ProxySettings) -> None:
    if settings.auth == "open" and not settings.listen.is_loopback and not settings.i_know_this_is_open:
        raise ConfigError(
            f"--auth open on {settings.listen}: whoever reaches it uses the pool's key; "
            "listen on 127.0.0.1, or add --i-know-this-is-open"
        )
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise ConfigError("--tls-cert and --tls-key belong together")
    if settings.tls_client_ca and not settings.tls_cert:
        raise ConfigError("--tls-client-ca needs --tls-cert and --tls-key")
    if settings.processes > 1 and settings.sticky:
        raise ConfigError("--sticky key needs one process: uploads are remembered where they began")
    if settings.domains and settings.auth == "passthrough":
        raise ConfigError("--domain changes the path, which a kept signature forbids; use it with --auth verify")


def _anchored(key: str, value: object, directory: str) -> object:
    if key in ("clients", "clients_file", "tls_cert", "tls_key", "tls_client_ca") and isinstance(value, str):
        return os.path.join(directory, os.path.expanduser(value))
    return value


def _read(key: str, value: object, where: str) -> object:
    try:
        return READERS[key](value)
    except (ValueError, TypeError, ConfigError, UsageError) as exc:
        raise ConfigError(f"{where}: {exc}") from exc


def read_address(value: object) -> Address:
    """Read ``host:port``, ``[::1]:port``, ``:port`` or a port alone.

    Raises:
        ConfigError: it is something else.
    """
    text = str(value)
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > MAX_PORT or (":" in host and not host.startswith("[")):
        raise ConfigError(f"{text!r} is no address; write host:port")
    return Address(host.strip("[]") or "0.0.0.0", int(port))


def _optional_address(value: object) -> Address | None:
    # YAML reads a bare off as false.
    return None if value is False or value == OFF else read_address(value)


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


def _domains(value: object) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip(".") for name in names):
        raise ConfigError("must be a name or a list of names")
    return tuple(name.strip(".").lower() for name in names)


def _tiers(value: object) -> tuple[tuple[Endpoint, ...], ...]:
    if not isinstance(value, list) or not all(isinstance(tier, list) and tier for tier in value):
        raise ConfigError("must be a list of lists of endpoints, the preferred one first")
    return tuple(tuple(Endpoint.parse(str(url)) for url in tier) for tier in value)


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
    "auth": _word(*AUTH_MODES),
    "i_know_this_is_open": _flag,
    "clients": _clients,
    "clients_file": _text,
    "anonymous": _word(*ANONYMOUS_MODES),
    "sigv2": _word(*SIGV2_MODES),
    "domains": _domains,
    "sticky": _sticky,
    "tiers": _tiers,
    "tries": _count(1),
    "replay_buffer": _size,
    "replay_memory": _size,
    "resume_get": _count(0),
    "idle_timeout": _seconds,
    "header_timeout": _seconds,
    "max_clients": _count(1),
    "max_per_client": _count(0),
    "processes": _count(1),
    "tls_cert": _text,
    "tls_key": _text,
    "tls_client_ca": _text,
    "drain_delay": _seconds,
    "drain_timeout": _seconds,
    "access_log": _log,
}
