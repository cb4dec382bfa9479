"""s3pool check: prove that two trees have the same content, or that all nodes have the same keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3pool.cli.comparing import add_comparing_flags, compare
from s3pool.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from s3pool.cli.context import Context

SUMMARY = "prove that two trees, or all nodes, hold the same"
EXAMPLES = (
    "check /var/lib/app s3/backup/app",
    "check --download s3/photos s3/photos --target-profile new",
    "check --nodes s3/backup",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of check."""
    add_comparing_flags(parser, one_is_enough=True)
    parser.add_argument(
        "--download", action="store_true", help="read the bytes of both sides, whatever is told of them"
    )
    parser.add_argument(
        "--nodes", action="store_true", help="ask every node for the keys of A, and name those that disagree"
    )


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Compare the content of two trees, or the answers of all nodes."""
    if args.nodes:
        from s3pool.cli.node_check import check_nodes

        if args.second or args.download or args.source_profile:
            raise UsageError("--nodes takes one path, and neither --download nor --source-profile")
        return check_nodes(ctx.s3(args.first), ctx)
    if not args.second:
        raise UsageError("check needs two trees: check A B, or check --nodes A")
    return compare(args, ctx, by_content=True, downloads=args.download, shows_same=True)
