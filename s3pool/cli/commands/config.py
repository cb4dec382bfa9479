"""s3pool config: every option's value and origin, secrets hidden."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from s3pool.cli.context import Context
from s3pool.cli.output import DONE, SKIPPED
from s3pool.cli.parser import switch
from s3pool.config.files import PROFILES
from s3pool.config.importers import ConfigPlace, FoundProfile, add_profiles, find_profiles, read_document
from s3pool.config.options import Config
from s3pool.errors import ConfigError, S3PoolError

EXAMPLES = ("config", "config --profile old", "config import mc --dry-run")
TOOLS = ("mc", "rclone", "s3cmd", "s5cmd", "aws")
UNSET = "-"  # an empty column would shift the next one for scripts that split at blanks

MAX_ALIGNED = (16, 32)  # a longer name or value, such as many endpoints, must not widen the column of all lines

Row = tuple[str, str, str]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the description, and what ``config import`` takes."""
    parser.epilog = (
        "Print each option, its value and its origin. Secrets are hidden. "
        "The origin is a flag, a variable, a file and its key, or the default. "
        "Names that stand for several nodes are looked up, and each node has a line."
    )
    parser.add_argument(
        "action", nargs="?", choices=("import",), help="write profiles from what other tools are configured for"
    )
    parser.add_argument("tool", nargs="?", choices=TOOLS, help="which tool (all that are found)")
    switch(parser, "--force", help="with import: replace profiles of the same name")


def run(args: Namespace, ctx: Context) -> int:
    """Print the configuration, or import; missing endpoints or keys are a warning and no failure."""
    if args.action:
        return import_profiles(args, ctx)
    config = ctx.config
    rows, problems = config.rows(), missing(config)
    try:
        rows += _found_nodes(config)
    except S3PoolError as exc:
        problems.append(exc.message)
    if ctx.out.json:
        for option, value, origin in rows:
            ctx.out.record({"type": "config", "option": option, "value": value, "origin": origin})
    else:
        for line in format_rows(
            [(name, ctx.out.escape(value), ctx.out.escape(origin)) for name, value, origin in rows]
        ):
            ctx.out.line(line)
    for problem in problems:
        ctx.out.warn(problem)
    return 0


def _found_nodes(config: Config) -> list[Row]:
    if config.resolve != "all" and not any(endpoint.discovery for endpoint in config.endpoints):
        return []
    from s3pool.session import open_session

    with open_session(config.replace(sign=False)) as session:
        return [("node", endpoint.spec, "name service") for endpoint in session.transport.endpoints]


def format_rows(rows: Sequence[Row]) -> list[str]:
    """Return lines of option, value and origin; what is too long to align shifts its own line only."""
    shown = [(name, value or UNSET, origin) for name, value, origin in rows]
    aligned = [row for row in shown if len(row[0]) <= MAX_ALIGNED[0]]
    widths = [max(len(row[column]) for row in aligned if len(row[column]) <= MAX_ALIGNED[column]) for column in (0, 1)]
    return [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}" for name, value, origin in shown]


def missing(config: Config) -> list[str]:
    """Return what must be set before any other command works."""
    problems = []
    for check in (config.require_endpoints, lambda: config.require_credentials(is_set=True)):
        try:
            check()
        except ConfigError as exc:
            problems.append(exc.message)
    return problems


IMPORTED, REPLACED, UNCHANGED, KEPT = "imported", "replaced", "unchanged", "kept"


def import_profiles(args: Namespace, ctx: Context) -> int:
    """Write the profiles; one that is there with other settings is kept, without --force."""
    home = os.path.expanduser("~")
    path = ctx.config.config_file or os.path.join(home, ".s3pool", "config.yaml")
    document = read_document(path)
    known: Any = document.get(PROFILES) or ({"default": {}} if document else {})
    taken = {str(name): dict(settings or {}) for name, settings in known.items()}
    states: list[tuple[FoundProfile, str]] = []
    for found in find_profiles(args.tool or "", ConfigPlace(ctx.environ, home)):
        settings, is_ours = dict(found.settings), any(found.name == other.name for other, _ in states)
        state = IMPORTED if found.name not in taken else UNCHANGED if taken[found.name] == settings else KEPT
        if state == KEPT and args.force and not is_ours:
            state = REPLACED
        if state in (IMPORTED, REPLACED):
            taken[found.name] = settings
        states.append((found, state))
    changed = {found.name: found.settings for found, state in states if state in (IMPORTED, REPLACED)}
    if changed and not ctx.dry_run:
        add_profiles(path, changed)
    for found, state in states:
        _tell(found, state, path, ctx)
    if changed:
        ctx.out.remark(f"{path}: use {next(iter(changed))}/BUCKET/KEY or --profile NAME, or set default_profile")
    return SKIPPED if any(state == KEPT for _, state in states) else DONE


def _tell(found: FoundProfile, state: str, path: str, ctx: Context) -> None:
    url = str(found.settings.get("endpoints", ""))
    record = {"type": "profile", "name": found.name, "state": state, "tool": found.tool, "endpoints": url, "file": path}
    if state == KEPT:
        ctx.out.warn(
            f"the profile {found.name} of {found.file} is left out: there is one of this name; --force replaces it"
        )
    line = f"Profile {'would be ' if ctx.dry_run and state in (IMPORTED, REPLACED) else ''}{state}: {found.name}"
    ctx.out.result(ctx.out.escape(f"{line} ({found.tool}, {url})"), record)
