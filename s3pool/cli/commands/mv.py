"""s3pool mv: as cp; each source goes when its target is there and was checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3pool.cli.copying import add_copy_arguments, copy

if TYPE_CHECKING:
    import argparse

    from s3pool.cli.context import Context

SUMMARY = "move files and objects: copy, verify, then delete"
EXAMPLES = ("mv -r spool s3/backup/spool", "mv s3/backup/a s3/backup/b")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of mv."""
    add_copy_arguments(parser)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Move all sources; one that fails stays, is reported, and the rest goes on."""
    return copy(args, ctx, move=True)
