"""s3pool proxy: the pool behind one address, for every S3 client."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, NoReturn

from s3pool.cli.output import DONE, FAILED, SIGNAL_BASE
from s3pool.cli.parser import argparse_settings, switch
from s3pool.config.options import Config
from s3pool.errors import UsageError
from s3pool.proxy.settings import Address, ProxySettings, read_settings

if TYPE_CHECKING:
    from s3pool.cli.context import Context
    from s3pool.proxy.run import LoadConfig
    from s3pool.proxy.supervisor import End, Supervisor

EXAMPLES = ("proxy --listen 0.0.0.0:8000", "proxy --clients clients.yaml --processes 2")
REPLACEMENTS = {
    "sticky": "set load_balancer.sticky in the configuration file",
    "tries": "use --retries, or set proxy.tries in the configuration file",
}


class _RemovedFlag(argparse.Action):
    """Refuse a flag that is gone; ``const`` says what to do instead."""

    def __call__(self, *_rest: object, **_named: object) -> NoReturn:
        raise UsageError(f"{self.option_strings[0]} is no flag any more: {self.const}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each option of the proxy that has one; a flag overrides the option's key."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in ProxySettings.OPTIONS:
        if option.flag:
            group = groups.get(option.group) or groups.setdefault(option.group, parser.add_argument_group(option.group))
            help_text = option.flag_help.replace("%", "%%")
            group.add_argument(option.flag, default=None, help=help_text, **argparse_settings(option))
        elif option.moved:
            advice = REPLACEMENTS.get(option.name, f"set proxy.{option.key} in the configuration file")
            flag = f"--{option.name.replace('_', '-')}"
            parser.add_argument(flag, action=_RemovedFlag, nargs="?", const=advice, help=argparse.SUPPRESS)
    switch(parser, "--print-unit", help="print a systemd unit, as s3pool print systemd does")


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads configuration, clients and certificates.

    The exit code is that of the signal, as for every command, or FAILED when requests were cut off.
    """
    if args.print_unit:
        from s3pool.cli.commands.print import page

        ctx.out.line(page("systemd").rstrip("\n"))
        return DONE
    first = [ctx.config]

    def load() -> tuple[Config, ProxySettings]:
        config = first.pop() if first else ctx.reload_config()
        return config, settings_of(args, config)

    end = _serve_many(load, ctx) if settings_of(args, ctx.config).processes > 1 else _serve(load, ctx)
    return SIGNAL_BASE + end.signal if end.is_clean else FAILED


def _serve(load: LoadConfig, ctx: Context) -> End:
    from s3pool.proxy.supervisor import run_proxy

    return run_proxy(load, announce=lambda proxy: _announce(ctx, proxy.settings, proxy.address, proxy.admin_address))


def _serve_many(load: LoadConfig, ctx: Context) -> End:
    from s3pool.proxy.supervisor import run_processes

    def announce(family: Supervisor) -> None:
        _announce(ctx, family.settings, family.address, family.settings.admin_listen)

    return run_processes(load, announce=announce)


def settings_of(args: argparse.Namespace, config: Config) -> ProxySettings:
    """Return the proxy's settings from flags and configuration."""
    from s3pool.config.files import FOUND_ORIGIN, check_keys

    flags = {option.name: getattr(args, option.dest) for option in ProxySettings.OPTIONS if option.flag}
    if not args.listen and config.credentials is not None and config.origins["env_file"] == FOUND_ORIGIN:
        check_keys(config.origins, env_path=config.env_file, config_path="", places=("proxy.listen",))
    if args.tier:
        flags["tiers"] = [tier.split(",") for tier in args.tier]
    section = {"tracing": config.tracing, **config.proxy}
    return read_settings(flags, section, directory=os.path.dirname(config.config_file))


def _announce(ctx: Context, settings: ProxySettings, address: Address, admin: Address | None) -> None:
    out = ctx.out
    url = address.url(is_tls=bool(settings.tls_cert))
    admin_url = f"http://{admin}" if admin is not None else ""
    if settings.auth == "open":
        out.warn(f"whoever reaches {url} uses the pool's key: --auth open checks nobody")
    if not settings.tls_cert and not address.is_loopback:
        out.warn(f"{url} is plain HTTP; --tls-cert and --tls-key make it HTTPS")
    record = {"type": "note", "op": out.op, "message": "listening", "url": url, "admin": admin_url}
    out.note(f"s3pool: listening on {url}; admin on {admin_url or 'nothing'}", record)
    out.flush()
