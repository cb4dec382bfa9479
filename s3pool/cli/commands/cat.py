"""s3pool cat: objects to standard output, through the failure of any node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from s3pool.cli.attributes import add_request_flags
from s3pool.cli.selection import Past, add_at_flag, add_glob_flag, iter_selected_pages, select
from s3pool.errors import NotFoundError, UsageError
from s3pool.location import S3Path, has_glob
from s3pool.s3.list_all import past_object
from s3pool.s3.responses import UNKNOWN, Known
from s3pool.transfer.object_reader import ObjectReader, Span, parse_range

if TYPE_CHECKING:
    import argparse

    from s3pool.cli.context import Context

SUMMARY = "write objects to standard output"
EXAMPLES = ("cat s3/logs/2026/01.gz | zcat", "cat --at 2h s3/etc/app.conf", "cat --range=-1000 s3/logs/app.log")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of cat."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="s3/BUCKET/KEY or a glob")
    parser.add_argument(
        "--range", type=parse_range, metavar="RANGE", help="only some bytes: 0-99, 100- or -100 (the last hundred)"
    )
    parser.add_argument("--version-id", default="", metavar="ID", help="one version of the key")
    add_at_flag(parser)
    add_request_flags(parser)
    add_glob_flag(parser)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Write the objects one after another; one that is missing is reported and the rest goes on."""
    paths = [ctx.s3_object(text) for text in args.paths]
    past = Past(args, ctx)
    return ctx.for_each(paths, lambda path: _cat_all(path, past, args, ctx))


def _cat_all(path: S3Path, past: Past, args: argparse.Namespace, ctx: Context) -> None:
    def write(block: memoryview) -> bool:
        ctx.out.raw(block)
        return True

    for reader in readers_of(path, past, args, ctx, span=args.range):
        try:
            reader.copy_to(write)
        finally:
            ctx.out.flush()


def readers_of(
    path: S3Path, past: Past, args: argparse.Namespace, ctx: Context, *, span: Span | None = None
) -> Iterator[ObjectReader]:
    """Yield a reader for the object of a path, or for each that matches it.

    Raises:
        NotFoundError: nothing matches. UsageError: flags name two versions of one key.
    """
    if args.version_id and past.at is not None:
        raise UsageError("--version-id and --at exclude each other: both name a version")
    if not (has_glob(path.key) and not args.no_glob):
        yield _reader(path, past, args, ctx, span)
        return
    found = False
    for page in iter_selected_pages(ctx.client, select(path, glob=True, at=past.of(path, ctx.client))):
        for info in page.objects:
            found = True
            one = S3Path(path.bucket, info.key)
            known = Known(info.size, info.etag)
            version_id = args.version_id or info.version_id
            retries = ctx.config.retries
            yield ObjectReader(ctx.client, one, retries=retries, span=span, version_id=version_id, known=known)
    if not found:
        raise NotFoundError(404, "NoSuchKey", detail="nothing matches", resource=path.text, op="cat")


def _reader(path: S3Path, past: Past, args: argparse.Namespace, ctx: Context, span: Span | None) -> ObjectReader:
    version_id, known = args.version_id, UNKNOWN
    at = past.of(path, ctx.client)
    if at is not None:
        info = past_object(ctx.client, path, at)
        version_id, known = info.version_id, Known(info.size, info.etag)
    return ObjectReader(ctx.client, path, retries=ctx.config.retries, span=span, version_id=version_id, known=known)
