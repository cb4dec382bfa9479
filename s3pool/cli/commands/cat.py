"""s3pool cat: objects to standard output, through the failure of any node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from s3pool.cli.selection import add_glob_flag, iter_selected_pages, select
from s3pool.errors import NotFoundError
from s3pool.location import S3Path, has_glob
from s3pool.s3.responses import UNKNOWN, Known
from s3pool.transfer.object_reader import ObjectReader, parse_range

if TYPE_CHECKING:
    import argparse

    from s3pool.cli.context import Context

SUMMARY = "write objects to standard output"
EXAMPLES = ("cat s3/logs/2026/01.gz | zcat", "cat --range=-1000 s3/logs/app.log")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of cat."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="s3/BUCKET/KEY or a glob")
    parser.add_argument(
        "--range", type=parse_range, metavar="RANGE", help="only some bytes: 0-99, 100- or -100 (the last hundred)"
    )
    parser.add_argument("--version-id", default="", metavar="ID", help="one version of the key")
    add_glob_flag(parser)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Write the objects one after another; one that is missing is reported and the rest goes on."""
    paths = [ctx.s3_object(text) for text in args.paths]
    return ctx.for_each(paths, lambda path: _cat_all(path, args, ctx))


def _cat_all(path: S3Path, args: argparse.Namespace, ctx: Context) -> None:
    def write(block: memoryview) -> bool:
        ctx.out.raw(block)
        return True

    for found, known in expand(path, ctx, glob=not args.no_glob):
        reader = ObjectReader(
            ctx.client, found, retries=ctx.config.retries, span=args.range, version_id=args.version_id, known=known
        )
        try:
            reader.copy_to(write)
        finally:
            ctx.out.flush()


def expand(path: S3Path, ctx: Context, *, glob: bool) -> Iterator[tuple[S3Path, Known]]:
    """Yield the object of a path, or those that match it, with what the listing tells of them.

    Raises:
        NotFoundError: nothing matches.
    """
    if not (glob and has_glob(path.key)):
        yield path, UNKNOWN
        return
    found = False
    for page in iter_selected_pages(ctx.client, select(path, glob=True)):
        for info in page.objects:
            found = True
            yield S3Path(path.bucket, info.key), Known(info.size, info.etag)
    if not found:
        raise NotFoundError(404, "NoSuchKey", detail="nothing matches", resource=path.text, op="cat")
