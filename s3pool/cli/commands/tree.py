"""s3pool tree: the directories that keys make, drawn while they are listed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, groupby
from typing import NamedTuple

from s3pool.cli.context import Context
from s3pool.cli.formats import Entry, entry_name, entry_record, human_size
from s3pool.cli.output import escape
from s3pool.cli.parser import positive_int
from s3pool.cli.selection import DELIMITER
from s3pool.errors import NotFoundError, UsageError
from s3pool.location import S3Path, name_bytes
from s3pool.model import ObjectInfo

EXAMPLES = ("tree s3/backup", "tree -f -s -d 2 s3/backup/app/")

BRANCH, LAST_BRANCH = "├─ ", "└─ "
TRUNK, NO_TRUNK = "│  ", "   "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of tree."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="s3/BUCKET or s3/BUCKET/PREFIX")
    parser.add_argument(
        "-d", "--depth", type=positive_int, default=0, metavar="N", help="at most N levels; deeper is not listed"
    )
    parser.add_argument("-f", "--files", action="store_true", help="objects as well, not directories alone")
    parser.add_argument("-s", "--sizes", action="store_true", help="objects with their sizes")


def run(args: argparse.Namespace, ctx: Context) -> int:
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
