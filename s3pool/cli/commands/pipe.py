"""s3pool pipe: standard input, of any length, becomes an object."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from s3pool.cli.attribute_flags import add_attribute_flags, attributes_from
from s3pool.cli.parser import positive_int, size_in_bytes

if TYPE_CHECKING:
    import argparse

    from s3pool.cli.context import Context
    from s3pool.location import S3Path
    from s3pool.transfer.engine import Engine, TransferOptions
    from s3pool.transfer.tasks import Done

SUMMARY = "store standard input as an object"

STREAM = "-"  # the source in reports
STREAM_WORKERS = 4  # parts in flight; each is held in memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operand and flags of pipe."""
    parser.add_argument("target", metavar="DST", help="s3/BUCKET/KEY")
    parser.add_argument("-n", "--no-clobber", action="store_true", help="keep an object that exists")
    parser.add_argument(
        "--part-size", type=size_in_bytes, default=0, metavar="SIZE", help="of a large input (grows from 8M)"
    )
    parser.add_argument("--part-workers", type=positive_int, default=0, metavar="N", help="parts in flight (4)")
    add_attribute_flags(parser)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Read standard input to its end and store it; nothing is stored when that fails."""
    target = ctx.s3_object(args.target)
    options = _options(args, ctx)
    source = ctx.stdin
    if ctx.dry_run:
        _report(target, size=0, started=time.monotonic(), ctx=ctx)
        return 0
    engine = _engine(options, args, ctx)
    started = time.monotonic()
    try:
        done = _store(source.read, target, engine)
    finally:
        engine.abandon()
        engine.executor.close()
    if done.skipped:
        ctx.out.note(f"s3pool: {target.text} was not written: {done.skipped}")
    else:
        _report(target, size=done.size, started=started, ctx=ctx)
    return 0


def _options(args: argparse.Namespace, ctx: Context) -> TransferOptions:
    from s3pool.s3.multipart import choose_part_size
    from s3pool.transfer.engine import TransferOptions

    if args.part_size:
        choose_part_size(0, args.part_size)  # refuses what no server takes, before anything is read
    return TransferOptions(
        attributes=attributes_from(args),
        part_size=args.part_size,
        part_workers=args.part_workers,
        no_clobber=args.no_clobber,
        sign_payload=not ctx.session.all_tls,
    )


def _engine(options: TransferOptions, args: argparse.Namespace, ctx: Context) -> Engine:
    from s3pool.transfer.engine import Engine
    from s3pool.transfer.executor import BoundedExecutor

    workers = args.part_workers or ctx.config.workers or STREAM_WORKERS
    # The calling thread works, too; with one worker there is no other.
    return Engine(ctx.client, options=options, executor=BoundedExecutor(workers - 1))


def _store(read: Callable[[int], bytes], target: S3Path, engine: Engine) -> Done:
    from s3pool.transfer.upload import upload_stream

    return upload_stream(read, target.bucket, key=target.key, engine=engine)


def _report(target: S3Path, *, size: int, started: float, ctx: Context) -> None:
    seconds = round(time.monotonic() - started, 3)
    fields = {"type": "copy", "source": STREAM, "target": target.text, "size": size, "seconds": seconds}
    ctx.out.act(f"{STREAM} -> {ctx.out.escape(target.text)}", fields)
