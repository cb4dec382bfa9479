"""--shard: one of N machines' share of the work, by the flag or by what starts the machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3pool.shard import FLAG, Shard, choose_shard

if TYPE_CHECKING:
    import argparse

    from s3pool.cli.context import Context


def add_shard_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add --shard, which every command means alike."""
    parser.add_argument(
        FLAG,
        default="",
        metavar="I/N",
        help="only names of shard I of N; auto: the share that a Slurm array or an indexed Kubernetes job gives",
    )


def shard_of(args: argparse.Namespace, ctx: Context) -> Shard:
    """Return the share that this run takes, and tell the one that the environment gave.

    Raises:
        UsageError: the flag or the environment makes no sense, or the environment was to tell and does not.
    """
    shard = choose_shard(args.shard, ctx.environ)
    if shard.origin != FLAG and not shard.is_whole:
        text = f"shard {shard.text} by {shard.origin}; {FLAG} 0/1 takes everything"
        ctx.out.note(f"s3pool: {text}", {"type": "note", "op": ctx.out.op, "message": text})
    return shard
