"""s3pool shards: a plan of key ranges, by which many machines divide a tree."""

from __future__ import annotations

import argparse

from s3pool.cli.context import Context
from s3pool.cli.parser import positive_int
from s3pool.cli.sharding import make_plan
from s3pool.errors import UsageError
from s3pool.location import LocalPath, S3Path
from s3pool.shard import plan_record

EXAMPLES = ("shards s3/photos --into 8 > plan", "shards s3/photos --into 8 --local photos")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of shards."""
    parser.add_argument("path", metavar="PATH", help="the tree to divide: s3/BUCKET/PREFIX")
    parser.add_argument("--into", type=positive_int, required=True, metavar="N", help="so many shards of like size")
    parser.add_argument(
        "--local", default="", metavar="DIR", help="divide by the files below DIR: for a target that is empty"
    )


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Sample the tree and print one JSON object for each range."""
    path = ctx.s3(args.path)
    if not path.bucket:
        raise UsageError("shards needs a bucket: s3/BUCKET or s3/BUCKET/PREFIX")
    tree: S3Path | LocalPath = path
    if args.local:
        place = ctx.location(args.local)
        if not isinstance(place, LocalPath):
            raise UsageError(f"--local {args.local}: a directory of this machine is needed")
        tree = place
    plan = make_plan(ctx, tree, args.into)
    if args.into > 1 and plan[-1].after == "":
        what = f"nothing was found below {tree.text}, so that one shard has everything"
        advice = "" if args.local else "; --local DIR divides by a directory that is to be copied there"
        ctx.out.warn(f"{what}{advice}")
    for index, names in enumerate(plan):
        ctx.out.record(plan_record(index, len(plan), names))
    return 0
