"""s3pool cp: files and objects, to and from S3 and inside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3pool.cli.copying import add_copy_arguments, copy

if TYPE_CHECKING:
    import argparse

    from s3pool.cli.context import Context

SUMMARY = "copy files and objects, to and from S3 and inside it"
EXAMPLES = (
    "cp report.pdf s3/backup/",
    "cp -r photos s3/backup/photos",
    "cp -r --exclude '*.tmp' s3/backup/photos .",
    "cp -r --source-profile old s3/photos s3/photos",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of cp."""
    add_copy_arguments(parser)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Copy all sources; one that fails is reported and the rest goes on."""
    return copy(args, ctx)
