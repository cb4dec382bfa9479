"""s3pool mirror: sync, with mc's flags."""

from __future__ import annotations

import argparse

from s3pool.cli.commands import sync
from s3pool.cli.context import Context
from s3pool.errors import UsageError

EXAMPLES = ("mirror --overwrite --remove site s3/b/site",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add mc's flags, and those of sync."""
    parser.add_argument("--overwrite", action="store_true", help="copy what differs too, not only what is new")
    parser.add_argument("--remove", action="store_true", help="delete what SRC does not have: as --delete")
    sync.add_arguments(parser)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Sync: without --overwrite only what is new, with --remove also what is gone."""
    args.delete = args.delete or args.remove
    if args.overwrite and args.no_clobber:
        raise UsageError("--overwrite and --no-clobber exclude each other")
    args.no_clobber = not args.overwrite
    return sync.run_checked(args, ctx)
