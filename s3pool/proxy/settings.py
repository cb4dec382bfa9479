"""The proxy's options: how each is written, and one table of flags, keys of the ``proxy:`` section, and defaults."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from s3pool.config.options import Option, Options, Setting
from s3pool.config.values import parse_bool, parse_endpoints, parse_text
from s3pool.endpoint import Endpoint
from s3pool.errors import ConfigError
from s3pool.record import dataclass
from s3pool.units import GIB, KIB, MIB, parse_duration, parse_size

PROBES = ("auto", "minio", "rgw", "s3", "tcp")
OFF = "off"
LOOPBACK = ("127.", "::1", "localhost")
MAX_PORT = 65535
UNIX = "unix:"
MAX_UNIX_PATH_BYTES = 107  # of sockaddr_un on Linux
PERCENT = 100.0
UNLIMITED = float("inf")

T = TypeVar("T")
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
    """Read ``host:port``, ``[::1]:port``, ``:port``, a port alone, or ``unix:/path``."""
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


def parse_log(value: object) -> str:
    """Read the name of a log file, ``-`` or ``off``."""
    return OFF if value is False else parse_text(value)


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


def _one_of(words: tuple[str, ...], meaning: str, group: str) -> Option[str]:
    """Return an option with a flag that takes one of a few words; the first is the default."""
    return Option(parse_word(*words), words[0], meaning, choices=words, group=group)


def _many(
    parse: Callable[[object], tuple[T, ...]], meaning: str, metavar: str, group: str, flag: str = ""
) -> Option[tuple[T, ...]]:
    """Return an option whose flag may be repeated."""
    return Option(parse, (), f"{meaning}; repeatable", flag=flag, metavar=metavar, repeatable=True, group=group)


LISTEN, ADMIN_LISTEN = Address("127.0.0.1", 8000), Address("127.0.0.1", 8001)
PATHS = ("clients", "clients_file", "tls_cert", "tls_key", "tls_client_ca", "spool_dir", "admin_token_file")
DEFAULT_TRIES = 3
REPLAY_BYTES = 16 * MIB  # covers the parts of all clients in their default settings

DOOR = "who may enter"
ADDRESS = "where it listens"
CLIENTS = "its clients"
NODES = "which node gets a request"
FAILURES = "when a node fails"
BODIES = "request bodies"
LIFE = "how it runs"


class ProxySettings(Options):
    """Every setting of the proxy; times in seconds, sizes in bytes.

    ``clients`` is the raw list of the configuration file, ``clients_file`` another file of the same shape.
    ``admin_listen`` is None when there is no admin listener. ``probe_interval``, ``ttfb_timeout``, ``backend_idle`` and
    ``tries`` are the pool's own where they are None. ``retry_budget`` is a fraction of the requests at work.
    """

    # fmt: off
    auth = _one_of(("verify", "passthrough", "open"),
        "verify: check signatures, sign anew; passthrough: the nodes check; open: nobody checks", DOOR)
    i_know_this_is_open = Option(parse_bool, False, "let --auth open listen on more than loopback", switch=True,
        group=DOOR)
    clients: Option[object] = Option(lambda value: value, None, "YAML list of more access keys; read again on SIGHUP",
        metavar="FILE", group=DOOR)
    clients_file = Option(parse_text, "", "a file with such a list")
    bucket_limits: Option[object] = Option(lambda value: value, None, "limits of buckets for all clients together")
    anonymous = _one_of(("deny", "pass"), "unsigned requests: refuse, or send on unsigned", DOOR)
    sigv2 = _one_of(("presigned", "on", "off"), "Signature Version 2: in URLs only, or headers too", DOOR)

    listen = Option(parse_address, LISTEN, "for S3 clients, or unix:/PATH", metavar="HOST:PORT", group=ADDRESS)
    admin_listen: Option[Address | None] = Option(parse_admin_address, ADMIN_LISTEN,
        "for health, metrics, stats; or off", metavar="HOST:PORT", group=ADDRESS)
    admin_token_file = Option(parse_text, "", "secret for changes by the admin listener; required beyond loopback",
        metavar="FILE", group=ADDRESS)
    allowed_hosts = _many(parse_domains, "name by which the admin listener, or --auth open, is reached", "NAME",
        ADDRESS, "--allowed-host")
    domains = _many(parse_domains, "serve BUCKET.NAME, too", "NAME", ADDRESS, "--domain")
    tls_cert = Option(parse_text, "", "serve HTTPS with this certificate chain", metavar="FILE", group=ADDRESS)
    tls_key = Option(parse_text, "", "the certificate's key", metavar="FILE", group=ADDRESS)
    tls_client_ca = Option(parse_text, "", "admit only clients with a certificate of this CA", metavar="FILE",
        group=ADDRESS)

    max_clients = Option(parse_count_from(1), 1024, "connections at once", metavar="N", group=CLIENTS)
    max_per_client = Option(parse_count_from(0), 0, "connections of one address", metavar="N",
        default_note="0: any number", group=CLIENTS)
    trust_forwarded = _many(parse_networks, "balancers whose X-Forwarded-For and the like are believed", "CIDR",
        CLIENTS)
    proxy_protocol = _many(parse_networks,
        "balancers that begin each connection with a PROXY header, version 1 or 2", "CIDR", CLIENTS)
    idle_timeout = Option(parse_seconds, 60.0, "between two requests", metavar="TIME", default_note="60s",
        group=CLIENTS)
    header_timeout = Option(parse_seconds, 10.0, "time for a whole request head", default_note="10s", moved=True)
    least_speed = Option(parse_bytes, KIB,
        "bytes a second below which a client that sends a body or takes an answer is dropped", default_note="1KiB")
    speed_window = Option(parse_wait, 30.0,
        "the time spent waiting for a client after which its speed is judged", default_note="30s")

    tiers = _many(parse_tiers, "endpoints that are used together; the next --tier only when all of one are out",
        "URL,...", NODES, "--tier")
    sticky = Option(parse_sticky, "",
        "key: keep every key on its node, for nodes with separate stores; overrides load_balancer.sticky",
        default_note="off", moved=True)
    probe = Option(parse_probe, "auto", "auto, minio, rgw, s3, tcp, or a path that a well node answers with 2xx or 3xx",
        metavar="HOW", group=NODES)
    probe_interval: Option[float | None] = Option(parse_wait, None, "time between two probes",
        default_note="--health-interval", moved=True)
    probe_timeout = Option(parse_wait, 2.0, "time for the answer to a probe", default_note="2s", moved=True)
    rise = Option(parse_count_from(1), 2, "good probes in a row that bring a node back", moved=True)
    fall = Option(parse_count_from(1), 3, "bad probes in a row that take a node out", moved=True)

    tries: Option[int | None] = Option(parse_count_from(1), None,
        "attempts per request, each on another node; without it --retries counts where it is given",
        default_note=str(DEFAULT_TRIES), moved=True)
    retry_budget = Option(parse_share, 0.2, "of the requests at work, that may be second tries; or off",
        metavar="PERCENT", default_note="20%", group=FAILURES)
    retry_ambiguous_put = Option(parse_bool, False,
        "repeat a PUT whose answer was lost, in buckets without versions", switch=True, group=FAILURES)
    resume_get = Option(parse_count_from(0), 2, "times that a broken download goes on from another node", moved=True)
    ttfb_timeout: Option[float | None] = Option(parse_wait, None, "time for the head of an answer",
        default_note="--read-timeout", moved=True)
    slow_op_timeout = Option(parse_wait, 600.0, "for an answer's head after uploads, copies, batch deletes",
        metavar="TIME", default_note="600s", group=FAILURES)
    backend_idle: Option[float | None] = Option(parse_wait, None,
        "time after which an idle connection to a node is not used", default_note="pool.max_idle_time", moved=True)
    slot_wait = Option(parse_wait, 5.0,
        "how long a request waits for a connection to the nodes before the answer is 503 SlowDown", default_note="5s")

    replay_buffer = Option(parse_bytes, REPLAY_BYTES, "largest body kept for a retry", metavar="SIZE",
        default_note="16MiB", group=BODIES)
    replay_memory = Option(parse_bytes, 256 * MIB, "memory for all such bodies of a process", default_note="256MiB",
        moved=True)
    spool_limit = Option(parse_bytes, GIB, "disk for all bodies that do not say how long they are",
        default_note="1GiB", moved=True)
    spool_dir = Option(parse_text, "", "where bodies of unknown length are stored", metavar="DIR",
        default_note="TMPDIR", group=BODIES)
    trailers = Option(parse_word("decode", "pass"), "decode",
        "unsigned bodies with a trailer: decode them, or pass them to nodes that know them", moved=True)
    verify_body = Option(parse_bool, False, "true: compare signed hashes in the proxy, for nodes that do not",
        default_note="false", moved=True)

    processes = Option(parse_count_from(1), 1, "worker processes on the one port", metavar="N", group=LIFE)
    drain_delay = Option(parse_seconds, 0.0, "from SIGTERM to the end of listening", metavar="TIME",
        default_note="0s", group=LIFE)
    drain_timeout = Option(parse_seconds, 60.0, "for running requests after that", metavar="TIME",
        default_note="60s", group=LIFE)
    tracing = Option(parse_bool, False, "send traces of requests", default_note="what --tracing says")
    access_log = Option(parse_log, OFF, "a JSON line per request; - for stdout", metavar="FILE", group=LIFE)
    # fmt: on


FLAG_ONLY = (ProxySettings.i_know_this_is_open,)  # whoever writes it into a file forgets that it stands there


def read_settings(flags: Mapping[str, object], section: Mapping[str, object], *, directory: str) -> ProxySettings:
    """Settle the settings; ``flags`` not given are None, relative paths in the section start at ``directory``.

    Raises ConfigError: a key is unknown, a value is bad, or settings contradict each other.
    """
    options = {option.name: option for option in ProxySettings.OPTIONS}
    known = sorted(options.keys() - {option.name for option in FLAG_ONLY})
    unknown = sorted(str(key) for key in section if key not in known)
    if unknown:
        raise ConfigError(f"proxy.{unknown[0]}: unknown key; there are: {', '.join(known)}")
    values: dict[str, Any] = {}
    for key, value in section.items():
        if value is not None:
            values[key] = _anchored(key, options[key].read(Setting(value, f"proxy.{key}")), directory)
    for key, value in flags.items():
        if value is not None:
            values[key] = options[key].read(Setting(value, options[key].flag))
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
        raise ConfigError("sticky: key needs one process: uploads are remembered where they began")
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
