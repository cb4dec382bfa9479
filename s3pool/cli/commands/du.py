"""s3pool du: how many objects, how many bytes, without ever holding the listing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from itertools import takewhile

from s3pool.cli.context import Context
from s3pool.cli.exit_codes import DONE
from s3pool.cli.formats import USAGE_COLUMNS, check_csv
from s3pool.cli.output import escape
from s3pool.cli.parser import natural_int
from s3pool.cli.selection import DELIMITER, Selection, iter_selected_pages
from s3pool.cli.sharding import Looking, add_looking_flags
from s3pool.errors import UsageError
from s3pool.location import S3Path
from s3pool.model import ListPage
from s3pool.s3.page_table import sizes_of
from s3pool.units import format_size, format_size_long

EXAMPLES = ("du -H s3/photos", "du -d 1 s3/photos")

SIZE_WIDTH = 13
COUNT_WIDTH = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of du."""
    parser.add_argument("paths", nargs="*", metavar="PATH", help="s3/BUCKET/PREFIX or a glob; none: all buckets")
    parser.add_argument("-d", "--depth", type=natural_int, metavar="N", help="a line per prefix down to N levels")
    parser.add_argument("-H", "--human", action="store_true", help="sizes for people, without the bytes")
    parser.add_argument("--versions", action="store_true", help="count every version; delete markers are none")
    add_looking_flags(parser)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Count each operand; with several, a line for each and then the total."""
    check_csv(args, ctx.out)
    if args.at and args.versions:
        raise UsageError("--at and --versions exclude each other: at one moment each key has one version")
    looking = Looking(args, ctx)
    paths: list[S3Path] = []
    for path in looking.paths:  # s3 stands for all buckets
        paths += [S3Path(bucket.name) for bucket in ctx.client.list_buckets()] if path.is_root else [path]
    is_table = ctx.out.json or args.csv
    total = _Usage("")
    show = _shower(args, ctx, looking)

    def count(path: S3Path) -> int:
        if looking.by_parts:
            code, usage = _count_by_parts(path, ctx, show)
            if code and not usage.objects:
                return code
        else:
            # Prefixes are counted as their keys go by in order.
            usage = _count(looking.select(path, ordered=bool(args.depth)), args, ctx, show)
            code = DONE
        total.add(usage.objects, usage.bytes)
        if ctx.part is None and (is_table or len(paths) != 1 or args.depth is not None):
            show(usage, path.text)
        return code

    code = ctx.for_each(paths, count)
    if ctx.part is not None:
        ctx.part.send("total", [total.objects, total.bytes])
        return code
    # A listing that failed has counted nothing: that must not look like an empty bucket.
    if not is_table and args.depth is None and (not code or total.objects):
        size = format_size_long(total.bytes)
        ctx.out.line(f"Total objects: {total.objects}")
        ctx.out.line(f"Total size: {size.partition(' (')[0] if args.human else size}")
    return code


def _count_by_parts(path: S3Path, ctx: Context, show: Show) -> tuple[int, _Usage]:
    """Add up the counts of the shards: two of them may have keys of one prefix."""
    from s3pool.cli.processes import search_by_parts

    parts = search_by_parts(ctx, path)
    usages: dict[str, _Usage] = {}
    for url, objects, size in parts.reports("usage"):
        usage = usages.pop(url, None) or _Usage(url)  # it stands where its last keys do
        usage.add(objects, size)
        usages[url] = usage
    for url, usage in usages.items():
        show(usage, url)
    total = _Usage("")
    for objects, size in parts.reports("total"):
        total.add(objects, size)
    return parts.code, total


class _Usage:
    __slots__ = ("bytes", "name", "objects")

    def __init__(self, name: str) -> None:
        self.name = name
        self.objects = 0
        self.bytes = 0

    def add(self, objects: int, size: int) -> None:
        self.objects += objects
        self.bytes += size


Show = Callable[[_Usage, str], None]


def _count(selection: Selection, args: argparse.Namespace, ctx: Context, show: Show) -> _Usage:
    pages = iter_selected_pages(ctx.client, selection, versions=args.versions, ahead=True)
    if args.depth:
        return _count_by_prefix(selection, pages, args.depth, show)
    total = _Usage("")
    for page in pages:
        sizes = sizes_of(page.objects)
        total.add(len(sizes), sum(sizes))
    return total


def _count_by_prefix(selection: Selection, pages: Iterable[ListPage], depth: int, show: Show) -> _Usage:
    """Count while the keys go by in order; a prefix is shown as soon as its last key has gone."""
    total = _Usage("")
    open_prefixes: list[_Usage] = []
    base = selection.base

    def close_to(count: int) -> None:
        while len(open_prefixes) > count:
            done = open_prefixes.pop()
            outer = open_prefixes[-1] if open_prefixes else total
            outer.add(done.objects, done.bytes)
            show(done, S3Path(selection.bucket, done.name).text)

    for page in pages:
        for info in page.objects:
            names = _prefixes_of(info.key, base, depth)
            same = takewhile(lambda pair: pair[0].name == pair[1], zip(open_prefixes, names, strict=False))
            common = sum(1 for _ in same)
            close_to(common)
            open_prefixes.extend(_Usage(name) for name in names[common:])
            (open_prefixes[-1] if open_prefixes else total).add(*((0, 0) if info.is_delete_marker else (1, info.size)))
    close_to(0)
    return total


def _prefixes_of(key: str, base: str, depth: int) -> list[str]:
    """Return the prefixes below the base that a key is in, the outermost first."""
    names: list[str] = []
    place = len(base) if key.startswith(base) else len(key)
    while len(names) < depth and (slash := key.find(DELIMITER, place)) >= 0:
        place = slash + 1
        names.append(key[:place])
    return names


def _shower(args: argparse.Namespace, ctx: Context, looking: Looking) -> Show:
    """Return what writes the count of one prefix, or reports it where another process adds it up."""
    if (part := ctx.part) is not None:
        return lambda usage, url: part.send("usage", [url, usage.objects, usage.bytes])
    form = looking.form(USAGE_COLUMNS)

    def show(usage: _Usage, url: str) -> None:
        if form is not None:
            ctx.out.raw(form.records([{"type": "usage", "url": url, "objects": usage.objects, "bytes": usage.bytes}]))
            return
        size = format_size(usage.bytes) if args.human else str(usage.bytes)
        ctx.out.line(f"{size:>{SIZE_WIDTH}} {usage.objects:>{COUNT_WIDTH}} {escape(url)}")

    return show
