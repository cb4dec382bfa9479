"""What the proxy is told: flags over the configuration's ``proxy:`` section, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from s3pool.errors import ConfigError, UsageError
from s3pool.model import Endpoint
from s3pool.proxy.readers import OFF, READERS, Address, Network, read_address
from s3pool.proxy.stream import LEAST_BYTES_PER_S, SPEED_WINDOW_S
from s3pool.proxy.upload import REPLAY_BYTES, REPLAY_MEMORY_BYTES
from s3pool.record import dataclass, field

__all__ = ["OFF", "Address", "ProxySettings", "read_address", "read_settings"]

GIB = 1 << 30
LISTEN, ADMIN_LISTEN = Address("127.0.0.1", 8000), Address("127.0.0.1", 8001)
PATHS = ("clients", "clients_file", "tls_cert", "tls_key", "tls_client_ca", "spool_dir", "admin_token_file")


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """Every setting of the proxy; times in seconds, sizes in bytes.

    ``clients`` is the raw list of the configuration file, ``clients_file`` another file of the
    same shape. ``admin_listen`` is None when there is no admin listener. ``probe_interval``,
    ``ttfb_timeout`` and ``backend_idle`` are the pool's own where they are None.
    ``retry_budget`` is a share of the requests at work.
    """

    listen: Address = LISTEN
    admin_listen: Address | None = ADMIN_LISTEN
    admin_token_file: str = ""
    allowed_hosts: tuple[str, ...] = ()
    auth: str = "verify"
    i_know_this_is_open: bool = False
    clients: object = field(default=None, repr=False)
    clients_file: str = ""
    bucket_limits: object = None
    anonymous: str = "deny"
    sigv2: str = "presigned"
    domains: tuple[str, ...] = ()
    sticky: str = ""
    tiers: tuple[tuple[Endpoint, ...], ...] = ()
    probe: str = "auto"
    probe_interval: float | None = None
    probe_timeout: float = 2.0
    rise: int = 2
    fall: int = 3
    tries: int = 3
    retry_budget: float = 0.2
    retry_ambiguous_put: bool = False
    trailers: str = "decode"
    verify_body: bool = False
    ttfb_timeout: float | None = None
    slow_op_timeout: float = 600.0
    backend_idle: float | None = None
    spool_limit: int = GIB
    spool_dir: str = ""
    replay_buffer: int = REPLAY_BYTES
    replay_memory: int = REPLAY_MEMORY_BYTES
    resume_get: int = 2
    idle_timeout: float = 60.0
    header_timeout: float = 10.0
    least_speed: int = LEAST_BYTES_PER_S
    speed_window: float = SPEED_WINDOW_S
    slot_wait: float = 5.0
    max_clients: int = 1024
    max_per_client: int = 0
    trust_forwarded: tuple[Network, ...] = ()
    proxy_protocol: tuple[Network, ...] = ()
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
    known = set(ProxySettings.__match_args__) - {"i_know_this_is_open"}
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
    if settings.processes > 1 and settings.listen.path:
        raise ConfigError(f"--listen {settings.listen} needs one process; only ports are shared by several")
    if settings.processes > 1 and settings.sticky:
        raise ConfigError("--sticky key needs one process: uploads are remembered where they began")
    if settings.spool_dir and not os.access(settings.spool_dir, os.W_OK | os.X_OK):
        raise ConfigError(f"--spool-dir {settings.spool_dir}: no directory that can be written to")
    if settings.retry_ambiguous_put and settings.auth == "passthrough":
        raise ConfigError("--retry-ambiguous-put asks whether a bucket is versioned; use it with --auth verify")
    if settings.domains and settings.auth == "passthrough":
        raise ConfigError("--domain changes the path, which a kept signature forbids; use it with --auth verify")


def _anchored(key: str, value: object, directory: str) -> object:
    if key in PATHS and isinstance(value, str):
        return os.path.join(directory, os.path.expanduser(value))
    return value


def _read(key: str, value: object, where: str) -> object:
    try:
        return READERS[key](value)
    except (ValueError, TypeError, ConfigError, UsageError) as exc:
        raise ConfigError(f"{where}: {exc}") from exc
