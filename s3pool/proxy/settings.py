"""The proxy's options: one table gives flags, keys of the ``proxy:`` section, and their values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from s3pool.config.options import Option, Options, Setting
from s3pool.endpoint import Endpoint
from s3pool.errors import ConfigError
from s3pool.proxy.readers import (
    ANONYMOUS_MODES,
    AUTH_MODES,
    OFF,
    SIGV2_MODES,
    TRAILER_MODES,
    Address,
    Network,
    parse_address,
    parse_admin_address,
    parse_bytes,
    parse_count_from,
    parse_domains,
    parse_log,
    parse_networks,
    parse_path,
    parse_probe,
    parse_seconds,
    parse_share,
    parse_sticky,
    parse_switch,
    parse_tiers,
    parse_wait,
    parse_word,
)
from s3pool.units import GIB, KIB, MIB

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

    auth = Option(
        parse_word(*AUTH_MODES),
        "verify",
        "verify: check signatures, sign anew; passthrough: the nodes check; open: nobody checks",
        choices=AUTH_MODES,
        group=DOOR,
    )
    i_know_this_is_open = Option(
        parse_switch, False, "let --auth open listen on more than loopback", switch=True, group=DOOR
    )
    clients: Option[object] = Option(
        lambda value: value, None, "YAML list of more access keys; read again on SIGHUP", metavar="FILE", group=DOOR
    )
    clients_file = Option(parse_path, "", "a file with such a list")
    bucket_limits: Option[object] = Option(lambda value: value, None, "limits of buckets for all clients together")
    anonymous = Option(
        parse_word(*ANONYMOUS_MODES),
        "deny",
        "unsigned requests: refuse, or send on unsigned",
        choices=ANONYMOUS_MODES,
        group=DOOR,
    )
    sigv2 = Option(
        parse_word(*SIGV2_MODES),
        "presigned",
        "Signature Version 2: in URLs only, or headers too",
        choices=SIGV2_MODES,
        group=DOOR,
    )

    listen = Option(parse_address, LISTEN, "for S3 clients, or unix:/PATH", metavar="HOST:PORT", group=ADDRESS)
    admin_listen: Option[Address | None] = Option(
        parse_admin_address, ADMIN_LISTEN, "for health, metrics, stats; or off", metavar="HOST:PORT", group=ADDRESS
    )
    admin_token_file = Option(
        parse_path,
        "",
        "secret for changes by the admin listener; required beyond loopback",
        metavar="FILE",
        group=ADDRESS,
    )
    allowed_hosts: Option[tuple[str, ...]] = Option(
        parse_domains,
        (),
        "name by which the admin listener, or --auth open, is reached; repeatable",
        flag="--allowed-host",
        metavar="NAME",
        repeatable=True,
        group=ADDRESS,
    )
    domains: Option[tuple[str, ...]] = Option(
        parse_domains,
        (),
        "serve BUCKET.NAME, too; repeatable",
        flag="--domain",
        metavar="NAME",
        repeatable=True,
        group=ADDRESS,
    )
    tls_cert = Option(parse_path, "", "serve HTTPS with this certificate chain", metavar="FILE", group=ADDRESS)
    tls_key = Option(parse_path, "", "the certificate's key", metavar="FILE", group=ADDRESS)
    tls_client_ca = Option(
        parse_path, "", "admit only clients with a certificate of this CA", metavar="FILE", group=ADDRESS
    )
    max_clients = Option(parse_count_from(1), 1024, "connections at once", metavar="N", group=CLIENTS)
    max_per_client = Option(
        parse_count_from(0), 0, "connections of one address", metavar="N", default_note="0: any number", group=CLIENTS
    )
    trust_forwarded: Option[tuple[Network, ...]] = Option(
        parse_networks,
        (),
        "balancers whose X-Forwarded-For and the like are believed; repeatable",
        metavar="CIDR",
        repeatable=True,
        group=CLIENTS,
    )
    proxy_protocol: Option[tuple[Network, ...]] = Option(
        parse_networks,
        (),
        "balancers that begin each connection with a PROXY header, version 1 or 2; repeatable",
        metavar="CIDR",
        repeatable=True,
        group=CLIENTS,
    )
    idle_timeout = Option(
        parse_seconds, 60.0, "between two requests", metavar="TIME", default_note="60s", group=CLIENTS
    )
    header_timeout = Option(parse_seconds, 10.0, "time for a whole request head", default_note="10s", moved=True)
    least_speed = Option(
        parse_bytes,
        KIB,
        "bytes a second below which a client that sends a body or takes an answer is dropped",
        default_note="1KiB",
    )
    speed_window = Option(
        parse_wait, 30.0, "the time spent waiting for a client after which its speed is judged", default_note="30s"
    )

    tiers: Option[tuple[tuple[Endpoint, ...], ...]] = Option(
        parse_tiers,
        (),
        "endpoints that are used together; the next --tier only when all of one are out",
        flag="--tier",
        metavar="URL,...",
        repeatable=True,
        group=NODES,
    )
    sticky = Option(
        parse_sticky,
        "",
        "key: keep every key on its node, for nodes with separate stores; overrides load_balancer.sticky",
        default_note="off",
        moved=True,
    )
    probe = Option(
        parse_probe,
        "auto",
        "auto, minio, rgw, s3, tcp, or a path that a well node answers with 2xx or 3xx",
        metavar="HOW",
        group=NODES,
    )
    probe_interval: Option[float | None] = Option(
        parse_wait, None, "time between two probes", default_note="--health-interval", moved=True
    )
    probe_timeout = Option(parse_wait, 2.0, "time for the answer to a probe", default_note="2s", moved=True)
    rise = Option(parse_count_from(1), 2, "good probes in a row that bring a node back", moved=True)
    fall = Option(parse_count_from(1), 3, "bad probes in a row that take a node out", moved=True)

    tries: Option[int | None] = Option(
        parse_count_from(1),
        None,
        "attempts per request, each on another node; without it --retries counts where it is given",
        default_note=str(DEFAULT_TRIES),
        moved=True,
    )
    retry_budget = Option(
        parse_share,
        0.2,
        "of the requests at work, that may be second tries; or off",
        metavar="PERCENT",
        default_note="20%",
        group=FAILURES,
    )
    retry_ambiguous_put = Option(
        parse_switch,
        False,
        "repeat a PUT whose answer was lost, in buckets without versions",
        switch=True,
        group=FAILURES,
    )
    resume_get = Option(parse_count_from(0), 2, "times that a broken download goes on from another node", moved=True)
    ttfb_timeout: Option[float | None] = Option(
        parse_wait, None, "time for the head of an answer", default_note="--read-timeout", moved=True
    )
    slow_op_timeout = Option(
        parse_wait,
        600.0,
        "for an answer's head after uploads, copies, batch deletes",
        metavar="TIME",
        default_note="600s",
        group=FAILURES,
    )
    backend_idle: Option[float | None] = Option(
        parse_wait,
        None,
        "time after which an idle connection to a node is not used",
        default_note="pool.max_idle_time",
        moved=True,
    )
    slot_wait = Option(
        parse_wait,
        5.0,
        "how long a request waits for a connection to the nodes before the answer is 503 SlowDown",
        default_note="5s",
    )

    replay_buffer = Option(
        parse_bytes, REPLAY_BYTES, "largest body kept for a retry", metavar="SIZE", default_note="16MiB", group=BODIES
    )
    replay_memory = Option(
        parse_bytes, 256 * MIB, "memory for all such bodies of a process", default_note="256MiB", moved=True
    )
    spool_limit = Option(
        parse_bytes, GIB, "disk for all bodies that do not say how long they are", default_note="1GiB", moved=True
    )
    spool_dir = Option(
        parse_path, "", "where bodies of unknown length are stored", metavar="DIR", default_note="TMPDIR", group=BODIES
    )
    trailers = Option(
        parse_word(*TRAILER_MODES),
        "decode",
        "unsigned bodies with a trailer: decode them, or pass them to nodes that know them",
        moved=True,
    )
    verify_body = Option(
        parse_switch,
        False,
        "true: compare signed hashes in the proxy, for nodes that do not",
        default_note="false",
        moved=True,
    )

    processes = Option(parse_count_from(1), 1, "worker processes on the one port", metavar="N", group=LIFE)
    drain_delay = Option(
        parse_seconds, 0.0, "from SIGTERM to the end of listening", metavar="TIME", default_note="0s", group=LIFE
    )
    drain_timeout = Option(
        parse_seconds, 60.0, "for running requests after that", metavar="TIME", default_note="60s", group=LIFE
    )
    tracing = Option(parse_switch, False, "send traces of requests", default_note="what --tracing says")
    access_log = Option(parse_log, OFF, "a JSON line per request; - for stdout", metavar="FILE", group=LIFE)


FLAG_ONLY = (ProxySettings.i_know_this_is_open,)  # whoever writes it into a file forgets that it stands there


def read_settings(flags: Mapping[str, object], section: Mapping[str, object], *, directory: str) -> ProxySettings:
    """Settle the settings; ``flags`` holds the values given on the command line, None where absent.

    Relative paths in the section start at ``directory``, that of the configuration file.

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
