"""s3pool ls: buckets, objects and prefixes, a page at a time."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import add
from typing import TYPE_CHECKING, TypeVar

from s3pool.cli import formats
from s3pool.cli.output import DONE, SUMMARY_RECORD, escape
from s3pool.cli.parser import natural_int, switch
from s3pool.cli.selection import DELIMITER, Looking, Selection, add_looking_flags, iter_selected_pages, select
from s3pool.errors import UsageError
from s3pool.location import S3Path, name_bytes, rooted
from s3pool.model import BucketInfo, ListPage, ObjectInfo, UploadInfo, format_iso_time
from s3pool.record import replace
from s3pool.s3.pages import sizes_of
from s3pool.units import format_size_long

if TYPE_CHECKING:
    from s3pool.cli.context import Context

T = TypeVar("T")
EXAMPLES = ("ls s3/photos/2026/", "ls -r -H --summarize s3/photos", "ls --versions s3/photos/a.jpg")

PREFIX_COLUMN = "prefix"  # of tables in which objects and prefixes stand together
OWN_MARKER = "./"  # how the object that has the very name of the prefix is shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of ls."""
    parser.add_argument("paths", nargs="*", metavar="PATH", help="s3/BUCKET/PREFIX or a glob; none: the buckets")
    switch(parser, "-r", "--recursive", help="all keys below, not one level")
    switch(parser, "-l", "--long", help="sizes in bytes")
    switch(parser, "-H", "--human", help="sizes for people, as without -l")
    switch(parser, "--etag", help="show ETags")
    parser.add_argument("--max-keys", type=natural_int, default=0, metavar="N", help="stop after N lines (0: all)")
    switch(parser, "--versions", help="every version and delete marker")
    switch(parser, "--incomplete", help="uploads that were neither completed nor aborted")
    switch(parser, "--summarize", help="count objects and bytes at the end, on stderr")
    switch(parser, "-0", "--print0", help="raw names, each ended by NUL (lines with -l)")
    add_looking_flags(parser)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """List each operand; one that fails is reported and the rest goes on."""
    if args.versions and args.incomplete:
        raise UsageError("--versions and --incomplete exclude each other")
    if args.at and (args.versions or args.incomplete):
        raise UsageError("--at shows one version of each key: it goes with neither --versions nor --incomplete")
    if args.print0 and ctx.out.json:
        raise UsageError("--print0 and --json exclude each other")
    formats.check_csv(args, ctx.out, others=["--print0"] if args.print0 else [])
    args.paths = list(map(rooted, args.paths))
    looking = Looking(args, ctx)
    if args.max_keys and looking.by_parts:
        raise UsageError("--max-keys and --processes exclude each other: a few lines need no processes")
    lister = _Lister(args, ctx, looking)
    code = ctx.for_each(looking.paths, lister.list_by_parts if looking.by_parts else lister.list)
    if args.summarize:
        lister.summarize()
    if ctx.part is not None:
        ctx.part.send("found", lister.has_found)
    return code


def _columns(paths: Sequence[S3Path], args: argparse.Namespace) -> tuple[str, ...]:
    """Return the columns of the one table, which flags and operands alone decide."""
    roots = sum(path.is_root for path in paths)
    if args.csv and 0 < roots < len(paths):
        raise UsageError("--csv gives one table: the buckets and what is in them do not go together")
    if roots:
        return formats.BUCKET_COLUMNS
    if args.incomplete:
        return formats.UPLOAD_COLUMNS
    columns = formats.VERSION_COLUMNS if args.versions else formats.OBJECT_COLUMNS
    return columns if args.recursive else (*columns, PREFIX_COLUMN)


class _Lister:
    """One run over all operands: what was written so far, and how an entry is written."""

    def __init__(self, args: argparse.Namespace, ctx: Context, looking: Looking) -> None:
        self.has_found = False
        self._args, self._ctx, self._out, self._looking = args, ctx, ctx.out, looking
        # With --json and --csv alike an entry is a record, and nothing stands between them.
        self._form = looking.form(_columns(looking.paths, args))
        self._headings = len(looking.paths) > 1 and self._form is None and not args.print0
        self._exact = args.long and not args.human
        self._shown = 0
        self._counts = [0, 0, 0, 0]  # objects, delete markers, prefixes, bytes
        self._sections = 0
        self._heading = ""

    def list(self, path: S3Path) -> None:
        """List one operand."""
        if self._is_full:
            return
        self._heading = path.text if self._headings else ""
        if path.is_root and not self._args.at:
            self._list_buckets()
        elif self._args.incomplete:
            self._list_uploads(path)
        else:
            self._list_keys(self._looking.select(path))

    def list_by_parts(self, path: S3Path) -> int:
        """List one operand by several processes; the buckets need none."""
        from s3pool.cli.processes import search_by_parts

        if path.is_root:
            self.list(path)
            return DONE
        self._heading = path.text if self._headings else ""
        parts = search_by_parts(self._ctx, path, before_results=self._write_heading)
        if not parts.code:
            self._write_heading()
        for counts in parts.reports("counts"):
            self._add(counts)
        if not parts.code and not any(parts.reports("found")) and not path.is_prefix:
            self._out.note(f"s3pool: nothing found: {path.text}")
        return parts.code

    def summarize(self) -> None:
        """Print the counts on stderr, or as the last object; or report them where another process adds them up.

        Delete markers are no objects, as in du.
        """
        if self._ctx.part is not None:
            self._ctx.part.send("counts", self._counts)
            return
        objects, markers, prefixes, size = self._counts
        extra = {"delete_markers": markers} if self._args.versions else {}
        if self._out.json:
            self._out.record({**SUMMARY_RECORD, "objects": objects, "prefixes": prefixes, "bytes": size, **extra})
            return
        lines = [f"Total objects: {objects}", f"Total size: {format_size_long(size)}"]
        self._out.tell("\n".join([*lines, *(f"Delete markers: {count}" for count in extra.values())]))

    def _add(self, counts: Sequence[int]) -> None:
        self._counts = list(map(add, self._counts, counts))

    def _write_heading(self) -> None:
        """Name the operand before its first entry, so that one that fails has no heading."""
        if self._heading:
            if self._sections:
                self._out.line("")
            self._out.line(f"{escape(self._heading)}:")
            self._heading = ""
            self._sections += 1

    @property
    def _is_full(self) -> bool:
        return bool(self._args.max_keys) and self._shown >= self._args.max_keys

    @property
    def _left(self) -> int:
        return self._args.max_keys - self._shown if self._args.max_keys else 0

    def _cut(self, entries: Sequence[T]) -> Sequence[T]:
        entries = entries[: self._left] if self._args.max_keys else entries
        self._shown += len(entries)
        return entries

    def _list_buckets(self) -> None:
        if self._args.versions or self._args.incomplete:
            raise UsageError("--versions and --incomplete need a bucket: s3/BUCKET")
        buckets = self._cut(self._ctx.client.list_buckets())
        if self._form is not None:
            self._write(self._form.records(map(formats.bucket_record, buckets)))
        else:
            self._write(self._ended(map(self._bucket_line, buckets)))

    def _bucket_line(self, bucket: BucketInfo) -> str:
        if self._args.print0 and not self._args.long:
            return bucket.name
        name = f"{bucket.name}/" if self._args.print0 else f"{escape(bucket.name)}/"
        return f"{formats.format_stamp(bucket.created)} {self._no_size()} {self._out.paint(name, 'prefix')}"

    def _list_uploads(self, path: S3Path) -> None:
        from s3pool.s3.list_all import list_uploads

        selection = select(path, glob=not self._args.no_glob, shard=self._looking.shard)
        # The key itself may have an upload, so the slash of its tree is left out of the request.
        asked = selection.single or selection.prefix
        for upload in list_uploads(self._ctx.client, path.bucket, prefix=asked):
            if self._is_full:
                return
            if _belongs(upload.key, selection):
                self._cut([upload])
                self._write(self._upload_lines(upload, selection))

    def _upload_lines(self, upload: UploadInfo, selection: Selection) -> bytes:
        if self._form is not None:
            return self._form.records([formats.upload_record(selection.bucket, upload)])
        name = self._name(selection.relative(upload.key))
        if self._args.print0 and not self._args.long:
            return self._ended([name])
        storage_class = escape(upload.storage_class) or "-"
        return self._ended(
            [f"{formats.format_stamp(upload.initiated)} {storage_class} {escape(upload.upload_id)} {name}"]
        )

    def _list_keys(self, selection: Selection) -> None:
        recursive = self._args.recursive or selection.admits is not None
        objects, entries = self._formatters(selection)
        found = False
        for page in self._iter_pages(selection, delimiter="" if recursive else DELIMITER):
            found = found or bool(page.objects or page.prefixes)
            if page.prefixes:
                both: list[formats.Entry] = [*page.objects, *page.prefixes]
                both.sort(key=lambda entry: name_bytes(formats.entry_name(entry)))
                self._write(entries(self._cut(both)))
            else:
                self._write(objects(self._cut(page.objects)))
            self._count(page)
            if self._is_full:
                break
        self.has_found = self.has_found or found
        if found or not selection.shard.is_whole:
            return
        if start := selection.single:  # neither a key nor a directory: what begins with the name
            base = start[: start.rfind(DELIMITER) + 1]
            self._list_keys(replace(selection, prefix=start, base=base, single=""))
        elif selection.admits or not selection.path.is_prefix:
            self._out.note(f"s3pool: nothing found: {selection.text}")

    def _iter_pages(self, selection: Selection, *, delimiter: str) -> Iterator[ListPage]:
        """Yield the pages of an operand; a prefix is of the shard of its own name."""
        shard, relative = selection.shard, selection.relative
        for page in iter_selected_pages(
            self._ctx.client,
            selection,
            delimiter=delimiter,
            versions=self._args.versions,
            max_keys=self._left,
            ahead=True,
        ):
            if shard.is_whole or not page.prefixes:
                yield page
            else:
                yield replace(page, prefixes=tuple(name for name in page.prefixes if shard.holds(relative(name))))

    def _count(self, page: ListPage) -> None:
        if self._args.summarize:
            sizes = sizes_of(page.objects)
            self._add([len(sizes), len(page.objects) - len(sizes), len(page.prefixes), sum(sizes)])

    def _formatters(
        self, selection: Selection
    ) -> tuple[Callable[[Sequence[ObjectInfo]], bytes], Callable[[Iterable[formats.Entry]], bytes]]:
        """Return what formats the objects of a page, and what formats objects and prefixes."""
        form, args = self._form, self._args
        if form is None:
            lines = self._lines(selection)
            return lines.objects, lines.entries
        bucket, versions = selection.bucket, args.versions

        def records(entries: Iterable[formats.Entry]) -> bytes:
            return form.records(formats.entry_record(bucket, entry, versions=versions) for entry in entries)

        return records if versions else partial(form.objects, bucket), records

    def _lines(self, selection: Selection) -> formats.TextLines:
        args = self._args
        return formats.TextLines(
            lambda key: self._name(selection.relative(key)),
            base=selection.base,
            long=args.long or not args.print0,
            exact=self._exact,
            etag=args.etag,
            versions=args.versions,
            raw=args.print0,
            prefix_start=f"{formats.format_stamp(format_iso_time(self._ctx.now()))} {self._no_size()} ",
            paint=lambda name: self._out.paint(name, "prefix") if args.long or not args.print0 else name,
        )

    def _name(self, relative: str) -> str:
        name = relative or OWN_MARKER
        return name if self._args.print0 else escape(name)

    def _no_size(self) -> str:
        return formats.exact_size(0) if self._exact else formats.human_size(0)

    def _ended(self, lines: Iterable[str]) -> bytes:
        end = "\0" if self._args.print0 else "\n"
        return "".join([f"{line}{end}" for line in lines]).encode("utf-8", "surrogateescape")

    def _write(self, lines: bytes) -> None:
        self._write_heading()
        self._out.block(lines)


def _belongs(key: str, selection: Selection) -> bool:
    """Return whether an upload's key is of the shard and of the tree, is the single key, or matches the glob."""
    if not selection.shard.holds(selection.relative(key)):
        return False
    if selection.admits is not None:
        return selection.admits(key)
    return key.startswith(selection.prefix) or key == selection.single
