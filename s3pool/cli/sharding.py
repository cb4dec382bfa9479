"""--shard and --plan: one of N machines' part of the work, and how a plan is made."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from s3pool.cli.parser import LISTINGS, positive_int, section
from s3pool.errors import LocalFileError, UsageError
from s3pool.location import LocalPath, Location, S3Path
from s3pool.record import replace
from s3pool.shard import FLAG, NameRange, Shard, choose_shard, parse_plan, ranges_between

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


def by_processes(args: argparse.Namespace, ctx: Context) -> bool:
    """Return whether the command is to be done by several processes, and this is not one of them."""
    if args.processes == 1 or ctx.part is not None:
        return False
    if args.shard or args.plan:
        raise UsageError(f"{PROCESSES} and {FLAG} exclude each other: the one is for this machine, the other for many")
    return True


def operands_of(args: argparse.Namespace, ctx: Context) -> list[S3Path]:
    """Return the operands of a listing, without any the default bucket; in a shard's process the one it is for."""
    texts = args.paths if ctx.part is None or ctx.part.operand is None else [ctx.part.operand]
    return [ctx.s3(text) for text in texts] or [S3Path(ctx.config.bucket)]


def shard_of(args: argparse.Namespace, ctx: Context) -> Shard:
    """Return the shard that this run takes; a note names the one that the environment gave."""
    if ctx.part is not None:
        return ctx.part.shard
    shard = choose_shard(args.shard, ctx.environ)
    if args.plan:
        shard = _with_range(shard, args, ctx)
    if shard.origin != FLAG and not shard.is_whole:
        ctx.out.remark(f"shard {shard.text} by {shard.origin}; {FLAG} 0/1 takes everything")
    return shard


def _with_range(shard: Shard, args: argparse.Namespace, ctx: Context) -> Shard:
    if not args.shard:
        raise UsageError(f"{PLAN} needs {FLAG}: which of its ranges is to be done?")
    ranges = parse_plan(_read(args.plan, ctx).splitlines(), name=args.plan)
    if shard.count != len(ranges):
        raise UsageError(f"{args.plan} is a plan of {len(ranges)} shards, and {FLAG} says {shard.text}")
    return replace(shard, range=ranges[shard.index])


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


# -- making a plan -------------------------------------------------------------------------


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
