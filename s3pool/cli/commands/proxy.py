"""s3pool proxy: the pool behind one address, for every S3 client."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from s3pool.cli import exit_codes
from s3pool.cli.parser import natural_int, positive_int, seconds, size_in_bytes

if TYPE_CHECKING:
    import argparse

    from s3pool.cli.context import Context
    from s3pool.config.options import Config
    from s3pool.proxy.processes import Family
    from s3pool.proxy.run import End, Load
    from s3pool.proxy.settings import Address, ProxySettings

SIGNAL_BASE = 128  # how shells report a command that a signal ended
SUMMARY = "serve the pool as one S3 endpoint"

FLAGS = (
    "listen",
    "admin_listen",
    "admin_token_file",
    "allowed_hosts",
    "auth",
    "i_know_this_is_open",
    "clients",
    "anonymous",
    "sigv2",
    "domains",
    "sticky",
    "tiers",
    "probe",
    "probe_interval",
    "probe_timeout",
    "rise",
    "fall",
    "tries",
    "retry_budget",
    "retry_ambiguous_put",
    "trailers",
    "verify_body",
    "ttfb_timeout",
    "slow_op_timeout",
    "backend_idle",
    "spool_limit",
    "spool_dir",
    "replay_buffer",
    "replay_memory",
    "resume_get",
    "idle_timeout",
    "header_timeout",
    "max_clients",
    "max_per_client",
    "trust_forwarded",
    "proxy_protocol",
    "processes",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "drain_delay",
    "drain_timeout",
    "access_log",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of proxy; each stands over the key of that name in the proxy section."""
    _add_door(parser.add_argument_group("who may enter"))
    _add_address(parser.add_argument_group("where it listens"))
    _add_nodes(parser.add_argument_group("which node gets a request"))
    _add_retries(parser.add_argument_group("when a node fails"))
    _add_bodies(parser.add_argument_group("request bodies"))
    _add_life(parser.add_argument_group("how it runs"))


def _add_door(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--auth",
        choices=("verify", "passthrough", "open"),
        help="verify: check signatures, sign anew; passthrough: the nodes check; open: nobody checks (verify)",
    )
    group.add_argument(
        "--i-know-this-is-open", action="store_true", default=None, help="let --auth open listen on more than loopback"
    )
    group.add_argument("--clients", metavar="FILE", help="YAML list of more access keys; read again on SIGHUP")
    group.add_argument(
        "--anonymous", choices=("deny", "pass"), help="unsigned requests: refuse, or send on unsigned (deny)"
    )
    group.add_argument(
        "--sigv2",
        choices=("presigned", "on", "off"),
        help="Signature Version 2: in URLs only, or headers too (presigned)",
    )


def _add_address(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--listen", metavar="HOST:PORT", help="for S3 clients, or unix:/PATH (127.0.0.1:8000)")
    group.add_argument(
        "--admin-listen", metavar="HOST:PORT", help="for health, metrics, stats; or off (127.0.0.1:8001)"
    )
    group.add_argument(
        "--admin-token-file", metavar="FILE", help="secret for changes by the admin listener; a must beyond loopback"
    )
    group.add_argument(
        "--allowed-host",
        dest="allowed_hosts",
        action="append",
        metavar="NAME",
        help="name by which the admin listener, or --auth open, is reached; repeatable",
    )
    group.add_argument(
        "--domain", dest="domains", action="append", metavar="NAME", help="serve BUCKET.NAME, too; repeatable"
    )
    group.add_argument("--tls-cert", metavar="FILE", help="serve HTTPS with this certificate chain")
    group.add_argument("--tls-key", metavar="FILE", help="the certificate's key")
    group.add_argument("--tls-client-ca", metavar="FILE", help="admit only clients with a certificate of this CA")
    group.add_argument("--max-clients", type=positive_int, metavar="N", help="connections at once (1024)")
    group.add_argument(
        "--max-per-client", type=natural_int, metavar="N", help="connections of one address (0: any number)"
    )
    group.add_argument(
        "--trust-forwarded",
        action="append",
        metavar="CIDR",
        help="balancers whose X-Forwarded-For and the like are believed; repeatable",
    )
    group.add_argument(
        "--proxy-protocol",
        action="append",
        metavar="CIDR",
        help="balancers that begin each connection with a PROXY header, version 1 or 2; repeatable",
    )
    group.add_argument("--idle-timeout", type=seconds, metavar="TIME", help="between two requests (60s)")
    group.add_argument("--header-timeout", type=seconds, metavar="TIME", help="for a whole request head (10s)")


def _add_nodes(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--tier",
        dest="tiers",
        action="append",
        metavar="URL,...",
        help="endpoints that are used together; the next --tier only when all of one are out",
    )
    group.add_argument(
        "--sticky", choices=("off", "key"), help="keep every key on its node, for pools of separate stores (off)"
    )
    group.add_argument(
        "--probe",
        metavar="HOW",
        help="auto, minio, rgw, s3, tcp, or a path that a well node answers with 2xx or 3xx (auto)",
    )
    group.add_argument("--probe-interval", type=seconds, metavar="TIME", help="between two probes (--health-interval)")
    group.add_argument("--probe-timeout", type=seconds, metavar="TIME", help="for a probe's answer (2s)")
    group.add_argument("--rise", type=positive_int, metavar="N", help="good probes in a row that bring a node back (2)")
    group.add_argument("--fall", type=positive_int, metavar="N", help="bad probes in a row that take it out (3)")


def _add_retries(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--tries", type=positive_int, metavar="N", help="attempts per request, each on another node (3)")
    group.add_argument(
        "--retry-budget", metavar="PERCENT", help="of the requests at work, that may be second tries; or off (20%%)"
    )
    group.add_argument(
        "--retry-ambiguous-put",
        action="store_true",
        default=None,
        help="repeat a PUT whose answer was lost, in buckets without versions",
    )
    group.add_argument(
        "--resume-get", type=natural_int, metavar="N", help="times a broken download goes on elsewhere (2)"
    )
    group.add_argument("--ttfb-timeout", type=seconds, metavar="TIME", help="for an answer's head (--read-timeout)")
    group.add_argument(
        "--slow-op-timeout", type=seconds, metavar="TIME", help="the same after uploads, copies, batch deletes (600s)"
    )
    group.add_argument(
        "--backend-idle", type=seconds, metavar="TIME", help="after which a node's idle connection is not used (15s)"
    )


def _add_bodies(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--replay-buffer", type=size_in_bytes, metavar="SIZE", help="largest body kept for a retry (16MiB)"
    )
    group.add_argument("--replay-memory", type=size_in_bytes, metavar="SIZE", help="for all such bodies (256MiB)")
    group.add_argument(
        "--spool-limit", type=size_in_bytes, metavar="SIZE", help="disk for all bodies that do not say how long (1GiB)"
    )
    group.add_argument("--spool-dir", metavar="DIR", help="where that is (TMPDIR)")
    group.add_argument(
        "--trailers",
        choices=("decode", "pass"),
        help="unsigned bodies with a trailer: unpack, or leave to nodes that know them (decode)",
    )
    group.add_argument(
        "--verify-body",
        action="store_true",
        default=None,
        help="compare signed hashes here, for nodes that do not",
    )


def _add_life(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--processes", type=positive_int, metavar="N", help="worker processes on the one port (1)")
    group.add_argument("--drain-delay", type=seconds, metavar="TIME", help="from SIGTERM to the end of listening (0s)")
    group.add_argument("--drain-timeout", type=seconds, metavar="TIME", help="for running requests after that (60s)")
    group.add_argument("--access-log", metavar="FILE", help="a JSON line per request; - for stdout (off)")


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Serve until SIGTERM or SIGINT; SIGHUP reads configuration, clients and certificates anew.

    The exit code is that of the signal, as for every command; FAILED when it broke requests off.
    """
    first = [ctx.config]

    def load() -> tuple[Config, ProxySettings]:
        config = first.pop() if first else ctx.reload_config()
        return config, settings_of(args, config)

    end = _serve_many(load, ctx) if settings_of(args, ctx.config).processes > 1 else _serve(load, ctx)
    return SIGNAL_BASE + end.signal if end.is_clean else exit_codes.FAILED


def _serve(load: Load, ctx: Context) -> End:
    from s3pool.proxy.run import run_proxy

    return run_proxy(load, announce=lambda proxy: _announce(ctx, proxy.settings, proxy.address, proxy.admin_address))


def _serve_many(load: Load, ctx: Context) -> End:
    from s3pool.proxy.processes import run_processes

    def announce(family: Family) -> None:
        _announce(ctx, family.settings, family.address, family.settings.admin_listen)

    return run_processes(load, announce=announce)


def settings_of(args: argparse.Namespace, config: Config) -> ProxySettings:
    """Settle the proxy's settings from flags and configuration."""
    from s3pool.config.sources import FOUND_ORIGIN, check_keys
    from s3pool.proxy.settings import read_settings

    flags = {name: getattr(args, name) for name in FLAGS}
    if not args.listen and config.credentials is not None and config.origins["env_file"] == FOUND_ORIGIN:
        check_keys(config.origins, env_path=config.env_file, config_path="", places=("proxy.listen",))
    if args.tiers:
        flags["tiers"] = [tier.split(",") for tier in args.tiers]
    return read_settings(flags, config.proxy, directory=os.path.dirname(config.config_file))


def _announce(ctx: Context, settings: ProxySettings, address: Address, admin: Address | None) -> None:
    out = ctx.out
    url = address.url(is_tls=bool(settings.tls_cert))
    admin_url = f"http://{admin}" if admin is not None else ""
    if settings.auth == "open":
        out.warn(f"whoever reaches {url} uses the pool's key: --auth open checks nobody")
    if not settings.tls_cert and not address.is_loopback:
        out.warn(f"{url} is plain HTTP; --tls-cert and --tls-key make it HTTPS")
    record = {"type": "note", "message": "listening", "url": url, "admin": admin_url or None}
    out.note(f"s3pool: listening on {url}; admin on {admin_url or 'nothing'}", record)
    out.flush()
