"""s3pool cat and head: objects, or how they begin, to standard output, through the failure of any node."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from s3pool.cli.context import Context
from s3pool.cli.header_flags import add_request_flags
from s3pool.cli.parser import Command, natural_int, size_in_bytes, text_flag
from s3pool.cli.selection import Past, add_at_flag, add_glob_flag, iter_selected_pages, select
from s3pool.errors import NotFoundError, UsageError
from s3pool.location import S3Path, has_glob
from s3pool.model import ObjectInfo
from s3pool.s3.list_all import past_object
from s3pool.s3.responses import UNKNOWN, Known
from s3pool.transfer.object_reader import ObjectReader, Source, Span, parse_range

LINES = 10  # as head(1)
NEWLINE = b"\n"


def _add_cat_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--range", type=parse_range, metavar="RANGE", help="only some bytes: 0-99, 100- or -100 (the last hundred)"
    )
    _add_object_flags(parser)


def _add_head_flags(parser: argparse.ArgumentParser) -> None:
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("-n", "--lines", type=natural_int, default=LINES, metavar="N", help="so many lines (10)")
    amount.add_argument("-c", "--bytes", type=size_in_bytes, metavar="BYTES", help="so many bytes instead: 1K is 1024")
    _add_object_flags(parser)


def _add_object_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="s3/BUCKET/KEY or a glob")
    text_flag(parser, "--version-id", "ID", help="one version of the key")
    add_at_flag(parser)
    add_request_flags(parser)
    add_glob_flag(parser)


def _cat(args: argparse.Namespace, ctx: Context) -> int:
    """Write the objects one after another; one that is missing is reported and the rest goes on."""

    def write(block: memoryview) -> bool:
        ctx.out.raw(block)
        return True

    return read_each(ctx, lambda reader: reader.copy_to(write), span=args.range)


def _head(args: argparse.Namespace, ctx: Context) -> int:
    is_bytes = args.bytes is not None

    def show(reader: ObjectReader) -> None:
        left: int = args.bytes if is_bytes else args.lines
        pieces: list[bytes] = []

        def take(block: memoryview) -> bool:
            nonlocal left
            piece, left = _beginning(block, left, is_bytes=is_bytes)
            if ctx.out.json:
                pieces.append(bytes(piece))
            else:
                ctx.out.raw(piece)
            return left > 0

        reader.copy_to(take)
        if ctx.out.json:
            content = b"".join(pieces)
            text = content.decode("utf-8", "surrogateescape")
            ctx.out.record({"type": "head", "url": str(reader.source), "bytes": len(content), "content": text})

    return read_each(ctx, show)


def _beginning(block: memoryview, left: int, *, is_bytes: bool) -> tuple[memoryview, int]:
    """Return what is wanted of the next bytes, and how many bytes or lines are wanted after them."""
    if is_bytes:
        return block[:left], left - len(block[:left])
    content, end = bytes(block), 0
    while left and (place := content.find(NEWLINE, end)) >= 0:
        end, left = place + 1, left - 1
    return (block if left else block[:end]), left


def read_each(ctx: Context, show: Callable[[ObjectReader], object], *, span: Span | None = None) -> int:
    """Show all objects of the operands, each by a reader of its own, and return the exit code."""
    paths = [ctx.s3_object(text) for text in ctx.args.paths]
    past = Past(ctx.args, ctx)

    def show_all(path: S3Path) -> None:
        for reader in _readers_of(path, past, ctx.args, ctx, span):
            try:
                show(reader)
            finally:
                ctx.out.flush()

    return ctx.for_each(paths, show_all)


def _readers_of(
    path: S3Path, past: Past, args: argparse.Namespace, ctx: Context, span: Span | None
) -> Iterator[ObjectReader]:
    if args.version_id and past.at is not None:
        raise UsageError("--version-id and --at exclude each other: both name a version")
    at, found = past.of(path, ctx.client), False
    for info in _objects_of(path, at, args, ctx):
        found, known, source = True, UNKNOWN, Source(path.bucket, path.key, args.version_id)
        if info is not None:
            source = Source(path.bucket, info.key, args.version_id or info.version_id)
            known = Known(info.size, info.etag)
        yield ObjectReader(ctx.client, source, retries=ctx.config.retries, span=span, known=known)
    if not found:
        raise NotFoundError(404, "NoSuchKey", detail="nothing matches", resource=path.text, op="cat")


def _objects_of(path: S3Path, at: float | None, args: argparse.Namespace, ctx: Context) -> Iterator[ObjectInfo | None]:
    """Yield what a listing tells of the objects that are meant; None for one that nothing was asked of yet."""
    if has_glob(path.key) and not args.no_glob:
        for page in iter_selected_pages(ctx.client, select(path, glob=True, at=at)):
            yield from page.objects
    else:
        yield None if at is None else past_object(ctx.client, path, at)


COMMANDS = {
    "cat": Command(
        (
            "cat s3/logs/2026/01.gz | zcat",
            "cat --at 2h s3/etc/app.conf",
            "cat --range=-1000 s3/logs/app.log",
        ),
        _add_cat_flags,
        _cat,
    ),
    "head": Command(
        ("head s3/logs/app.log", "head -n 3 's3/logs/*.csv'", "head -c 1K s3/images/disk.raw | xxd"),
        _add_head_flags,
        _head,
    ),
}
