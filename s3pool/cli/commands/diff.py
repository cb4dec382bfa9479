"""s3pool diff: what differs between two trees, by what their listings tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3pool.cli.comparing import add_comparing_flags, compare

if TYPE_CHECKING:
    import argparse

    from s3pool.cli.context import Context

SUMMARY = "show what differs between two trees"
EXAMPLES = ("diff /var/lib/app s3/backup/app", "diff s3/photos s3/photos --source-profile old")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of diff."""
    add_comparing_flags(parser)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Compare names, sizes and ETags; no file is read."""
    return compare(args, ctx, by_content=False, downloads=False, shows_same=False)
