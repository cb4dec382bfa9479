"""s3pool du and tree: the directories that keys make, counted or drawn, without ever holding the listing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, groupby, takewhile
from typing import NamedTuple

from s3pool.cli.context import Context
from s3pool.cli.formats import USAGE_COLUMNS, Entry, check_csv, entry_name, entry_record, human_size
from s3pool.cli.output import DONE, escape
from s3pool.cli.parser import Command, natural_int, positive_int, switch
from s3pool.cli.selection import DELIMITER, Looking, Selection, add_looking_flags, iter_selected_pages
from s3pool.errors import NotFoundError, UsageError
from s3pool.location import S3Path, name_bytes
from s3pool.model import ListPage, ObjectInfo
from s3pool.s3.pages import sizes_of
from s3pool.units import format_size, format_size_long

SIZE_WIDTH = 13
COUNT_WIDTH = 10
BRANCH, LAST_BRANCH = "├─ ", "└─ "
TRUNK, NO_TRUNK = "│  ", "   "


def _add_counting_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", metavar="PATH", help="s3/BUCKET/PREFIX or a glob; none: all buckets")
    parser.add_argument("-d", "--depth", type=natural_int, metavar="N", help="a line per prefix down to N levels")
    switch(parser, "-H", "--human", help="sizes for people, without the bytes")
    switch(parser, "--versions", help="count every version; delete markers are none")
    add_looking_flags(parser)


def _count_all(args: argparse.Namespace, ctx: Context) -> int:
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


def _add_drawing_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="s3/BUCKET or s3/BUCKET/PREFIX")
    parser.add_argument(
        "-d", "--depth", type=positive_int, default=0, metavar="N", help="at most N levels; deeper is not listed"
    )
    switch(parser, "-f", "--files", help="objects as well, not directories alone")
    switch(parser, "-s", "--sizes", help="objects with their sizes")


def _draw_all(args: argparse.Namespace, ctx: Context) -> int:
    """Draw each operand; one that fails is reported and the rest goes on."""
    paths = [ctx.s3(text) for text in args.paths]
    if any(path.is_root for path in paths):
        raise UsageError("tree needs a bucket: s3/BUCKET or s3/BUCKET/PREFIX")
    return ctx.for_each(paths, lambda path: _Tree(path, args, ctx).draw())


class _Node(NamedTuple):
    """An object, or a prefix with what begins to list what is directly in it."""

    entry: Entry
    children: Callable[[], Iterator[_Node]] | None = None


class _Tree:
    """One tree on its way to the output: at no time more of it is held than a page for each level."""

    def __init__(self, path: S3Path, args: argparse.Namespace, ctx: Context) -> None:
        self._path, self._args, self._client, self._out = path, args, ctx.client, ctx.out

    def draw(self) -> None:
        """Draw what is directly in the tree, and below each prefix what is in that."""
        nodes = self._children(self._path.tree_prefix)
        first = next(nodes, None)
        if first is None and self._path.key:
            detail = "nothing lies below it"
            raise NotFoundError(404, "NoSuchKey", detail=detail, resource=self._path.text, op="ListObjects")
        if not self._out.json:
            self._out.line(self._out.paint(escape(self._path.text), "prefix"))
        # No recursion: a key may have a thousand slashes.
        open_levels = [(self._shown(chain([first] if first else [], nodes)), "")]
        while open_levels:
            level, before = open_levels[-1]
            node, is_last = next(level, (None, False))
            if node is None:
                open_levels.pop()
                continue
            self._show(node, before + (LAST_BRANCH if is_last else BRANCH), len(open_levels))
            if node.children is not None and len(open_levels) != self._args.depth:
                open_levels.append((self._shown(node.children()), before + (NO_TRUNK if is_last else TRUNK)))

    def _shown(self, nodes: Iterator[_Node]) -> Iterator[tuple[_Node, bool]]:
        with_files = self._args.files or self._args.sizes
        return _with_last(node for node in nodes if node.children is not None or with_files)

    def _show(self, node: _Node, before: str, level: int) -> None:
        if self._out.json:
            self._out.record({**entry_record(self._path.bucket, node.entry), "depth": level})
            return
        name = entry_name(node.entry)
        if isinstance(node.entry, str):
            self._out.line(before + self._out.paint(escape(S3Path("", name).base_name), "prefix"))
            return
        size = f"{human_size(node.entry.size).strip()}  " if self._args.sizes else ""
        self._out.line(f"{before}{size}{escape(name[name.rfind(DELIMITER) + 1 :]) or './'}")

    def _children(self, prefix: str) -> Iterator[_Node]:
        """Yield what is directly in a prefix, in key order.

        A small tree comes with one request, whatever directories it has; one that does not fit
        into a page is listed level by level, and so is one of which a few levels are wanted.
        """
        if not self._args.depth:
            page = self._client.list_objects_page(self._path.bucket, prefix=prefix)
            if not page.truncated:
                objects = sorted(page.objects, key=lambda info: name_bytes(info.key))
                yield from _grouped(objects, len(prefix))
                return
        from s3pool.s3.list_all import list_pages

        for level in list_pages(self._client, self._path.bucket, prefix=prefix, delimiter=DELIMITER):
            entries: list[Entry] = [*level.objects, *level.prefixes]
            for entry in sorted(entries, key=lambda entry: name_bytes(entry_name(entry))):
                yield _Node(entry, partial(self._children, entry) if isinstance(entry, str) else None)


def _grouped(objects: Sequence[ObjectInfo], start: int) -> Iterator[_Node]:
    """Make nodes of the keys of a whole tree; the part of a key before ``start`` is its prefix."""

    def prefix_of(info: ObjectInfo) -> str:
        slash = info.key.find(DELIMITER, start)
        return info.key[: slash + 1]

    for prefix, group in groupby(objects, prefix_of):
        below = list(group)
        if len(prefix) <= start:
            yield from map(_Node, below)
        else:
            yield _Node(prefix, partial(_grouped, below, len(prefix)))


def _with_last(nodes: Iterable[_Node]) -> Iterator[tuple[_Node, bool]]:
    waiting: _Node | None = None
    for node in nodes:
        if waiting is not None:
            yield waiting, False
        waiting = node
    if waiting is not None:
        yield waiting, True


COMMANDS = {
    "du": Command(("du -H s3/photos", "du -d 1 s3/photos"), _add_counting_flags, _count_all),
    "tree": Command(("tree s3/backup", "tree -f -s -d 2 s3/backup/app/"), _add_drawing_flags, _draw_all),
}
