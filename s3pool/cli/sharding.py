"""--shard and --plan: one of N machines' part of the work, and how a plan is made."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from s3pool.cli.formats import CsvFormat, JsonFormat, RecordFormat, add_csv_flag
from s3pool.cli.parser import LISTINGS, positive_int, section
from s3pool.cli.selection import Past, Selection, add_at_flag, add_glob_flag, add_listing_flags, list_mode, select
from s3pool.errors import LocalFileError, UsageError
from s3pool.location import LocalPath, Location, S3Path
from s3pool.record import replace
from s3pool.shard import FLAG, WHOLE, NameRange, Shard, choose_shard, parse_plan, ranges_between

if TYPE_CHECKING:
    from s3pool.cli.context import Context
    from s3pool.s3.client import S3Client

PLAN = "--plan"
PROCESSES = "--processes"
BLOCK_BYTES = 1 << 16
NAMES_PER_PAGE = 1000  # of a walk, as a page of a listing has


def add_shard_flags(parser: argparse.ArgumentParser) -> None:
    """Add --shard, --plan and --processes."""
    group = section(parser, LISTINGS)
    group.add_argument(
        FLAG,
        default="",
        metavar="I/N",
        help="only names of shard I of N; auto: the share that a Slurm array or an indexed Kubernetes job gives",
    )
    group.add_argument(
        PLAN,
        default="",
        metavar="FILE",
        help=f"with {FLAG}: key ranges from s3pool shards, a file or s3/b/key; lists and walks nothing else",
    )
    group.add_argument(
        PROCESSES, type=positive_int, default=1, metavar="N", help="by N processes, each with a range of the names (1)"
    )


def add_looking_flags(parser: argparse.ArgumentParser) -> None:
    """Add what ls, du and find take alike."""
    add_at_flag(parser)
    add_csv_flag(parser)
    add_glob_flag(parser)
    add_shard_flags(parser)
    add_listing_flags(parser)


class Looking:
    """What ls, du and find look through: their operands, or all that this process is to do of them."""

    def __init__(self, args: argparse.Namespace, ctx: Context) -> None:
        self._args, self._ctx = args, ctx
        texts = args.paths if ctx.part is None or ctx.part.operand is None else [ctx.part.operand]
        self.paths = [ctx.s3(text) for text in texts] or [S3Path(ctx.config.bucket)]
        self.by_parts = by_processes(args, ctx)
        self.shard = WHOLE if self.by_parts else shard_of(args, ctx)
        self._past = Past(args, ctx)

    def select(self, path: S3Path, *, ordered: bool = False) -> Selection:
        """Return the keys of an operand that are meant; with ``ordered`` in order, whatever the flags say."""
        mode, at = list_mode(self._args, self._ctx, ordered=ordered), self._past.of(path, self._ctx.client)
        return select(path, glob=not self._args.no_glob, mode=mode, shard=self.shard, at=at)

    def form(self, columns: Sequence[str]) -> RecordFormat | None:
        """Return the form for programs that was asked for, with its header written; None for text."""
        out = self._ctx.out
        if not self._args.csv:
            return JsonFormat(out.encode) if out.json else None
        table = CsvFormat(columns)
        if self._ctx.part is None:
            out.block(table.header())
        return table


def by_processes(args: argparse.Namespace, ctx: Context) -> bool:
    """Return whether the command is to be done by several processes, and this is not one of them."""
    if args.processes == 1 or ctx.part is not None:
        return False
    if args.shard or args.plan:
        raise UsageError(f"{PROCESSES} and {FLAG} exclude each other: the one is for this machine, the other for many")
    return True


def shard_of(args: argparse.Namespace, ctx: Context) -> Shard:
    """Return the shard that this run takes; a note names the one that the environment gave."""
    if ctx.part is not None:
        return ctx.part.shard
    shard = choose_shard(args.shard, ctx.environ)
    if args.plan:
        if not args.shard:
            raise UsageError(f"{PLAN} needs {FLAG}: which of its ranges is to be done?")
        ranges = parse_plan(_read(args.plan, ctx).splitlines(), name=args.plan)
        if shard.count != len(ranges):
            raise UsageError(f"{args.plan} is a plan of {len(ranges)} shards, and {FLAG} says {shard.text}")
        shard = replace(shard, range=ranges[shard.index])
    if shard.origin != FLAG and not shard.is_whole:
        ctx.out.remark(f"shard {shard.text} by {shard.origin}; {FLAG} 0/1 takes everything")
    return shard


def _read(text: str, ctx: Context) -> str:
    place = ctx.location(text)
    if isinstance(place, S3Path):
        with ctx.client.get_object(place.bucket, place.key) as response:
            return b"".join(map(bytes, response.iter_blocks(BLOCK_BYTES))).decode("utf-8", "replace")
    if not isinstance(place, LocalPath):
        raise UsageError(f"{PLAN} is a file or an object, not a stream: every shard has to read it")
    try:
        with open(place.path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError as exc:
        raise LocalFileError(f"cannot read {place.path}: {exc.strerror}") from exc


def make_plan(ctx: Context, tree: Location, count: int, *, source: bool = False) -> list[NameRange]:
    """Return ranges of like size of a tree's names, from a few pages; ``source`` names the pool of sources."""
    from s3pool.s3.parallel.sampling import choose_borders

    if isinstance(tree, LocalPath):
        return _padded(choose_borders(_reader_of_files(tree.path), count), count)
    if not isinstance(tree, S3Path):
        return _padded([], count)
    prefix = tree.tree_prefix
    session = ctx.source_session if source else ctx.session
    keys = choose_borders(_reader_of_keys(session.client, tree.bucket, prefix), count, prefix=prefix)
    return _padded([key[len(prefix) :] for key in keys], count)


def _padded(borders: list[str], count: int) -> list[NameRange]:
    last = borders[-1] if borders else ""
    return ranges_between(borders + [last] * (count - 1 - len(borders)))


def _reader_of_keys(client: S3Client, bucket: str, prefix: str) -> Callable[[str, str | None], tuple[list[str], bool]]:
    from s3pool.s3.listing import iter_pages
    from s3pool.s3.page_table import keys_of

    def read(after: str, until: str | None) -> tuple[list[str], bool]:
        page = next(iter_pages(client, bucket, prefix=prefix, start_after=after, until=until, must_be_ordered=True))
        return list(keys_of(page.objects)), not page.truncated

    return read


def _reader_of_files(root: str) -> Callable[[str, str | None], tuple[list[str], bool]]:
    from s3pool.transfer.walk import Walk

    def read(after: str, until: str | None) -> tuple[list[str], bool]:
        walk = Walk(root, within=NameRange(after or None, until))
        names = [found.relative for found in islice(walk, NAMES_PER_PAGE)]
        return names, len(names) < NAMES_PER_PAGE

    return read
