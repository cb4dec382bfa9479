"""--shard and --plan: one of N machines' part of the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3pool.errors import LocalFileError, UsageError
from s3pool.record import replace
from s3pool.shard import FLAG, Shard, choose_shard, parse_plan

if TYPE_CHECKING:
    import argparse

    from s3pool.cli.context import Context

PLAN = "--plan"
BLOCK_BYTES = 1 << 16


def add_shard_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add --shard and --plan."""
    parser.add_argument(
        FLAG,
        default="",
        metavar="I/N",
        help="only names of shard I of N; auto: the share that a Slurm array or an indexed Kubernetes job gives",
    )
    parser.add_argument(
        PLAN,
        default="",
        metavar="FILE",
        help=f"with {FLAG}: key ranges from s3pool shards, a file or s3/b/key; lists and walks nothing else",
    )


def shard_of(args: argparse.Namespace, ctx: Context) -> Shard:
    """Return the shard that this run takes; a note names the one that the environment gave.

    Raises:
        UsageError: the flags or the environment make no sense. S3PoolError: the plan cannot be read.
    """
    shard = choose_shard(args.shard, ctx.environ)
    if args.plan:
        shard = _with_range(shard, args, ctx)
    if shard.origin != FLAG and not shard.is_whole:
        text = f"shard {shard.text} by {shard.origin}; {FLAG} 0/1 takes everything"
        ctx.out.note(f"s3pool: {text}", {"type": "note", "op": ctx.out.op, "message": text})
    return shard


def _with_range(shard: Shard, args: argparse.Namespace, ctx: Context) -> Shard:
    if not args.shard:
        raise UsageError(f"{PLAN} needs {FLAG}: which of its ranges is to be done?")
    ranges = parse_plan(_read(args.plan, ctx).splitlines(), name=args.plan)
    if shard.count != len(ranges):
        raise UsageError(f"{args.plan} is a plan of {len(ranges)} shards, and {FLAG} says {shard.text}")
    return replace(shard, range=ranges[shard.index])


def _read(text: str, ctx: Context) -> str:
    from s3pool.location import LocalPath, S3Path

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
