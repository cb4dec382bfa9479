"""s3pool pipe: standard input, of any length, becomes an object."""

from __future__ import annotations

import argparse
import time

from s3pool.cli.attributes import add_attribute_flags, add_hint, add_request_flags
from s3pool.cli.context import Context
from s3pool.cli.parser import positive_int
from s3pool.cli.transfers import add_checksum_flag, options_of, part_size, remember
from s3pool.errors import NotFoundError, S3Error, UsageError
from s3pool.location import S3Path
from s3pool.transfer.context import TransferContext
from s3pool.transfer.tasks import DONE, SKIPPED, Done, Outcome, UploadTask
from s3pool.transfer.upload import upload_stream
from s3pool.transfer.workers import BoundedExecutor

EXAMPLES = ("pipe s3/backup/app.sql < app.sql",)

STREAM = "-"  # the source in reports
STREAM_WORKERS = 4  # parts in flight; each is held in memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operand and flags of pipe."""
    parser.add_argument("target", metavar="DST", help="s3/BUCKET/KEY")
    parser.add_argument("-n", "--no-clobber", action="store_true", help="leave an object that exists")
    parser.add_argument("--part-size", type=part_size, default=0, metavar="SIZE", help="of a large input (it grows)")
    parser.add_argument("--part-workers", type=positive_int, default=0, metavar="N", help="parts in flight (4)")
    add_checksum_flag(parser)
    add_attribute_flags(parser)
    add_request_flags(parser)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Store standard input; nothing is stored when reading fails."""
    target = ctx.s3_object(args.target)
    if target.is_prefix:
        raise UsageError(f"{target.text} names a directory: a stream has no name of its own; write {target.text}NAME")
    started = time.monotonic()
    done = _store(target, args, ctx)
    if done.skipped:
        ctx.out.remark(f"{target.text} was not written: {done.skipped}", source=STREAM, target=target.text)
        return 0
    seconds = round(time.monotonic() - started, 3)
    record = {"type": "copy", "source": STREAM, "target": target.text, "size": done.size, "seconds": seconds}
    ctx.out.act(f"{STREAM} -> {ctx.out.escape(target.text)}", record)
    return 0


def _store(target: S3Path, args: argparse.Namespace, ctx: Context) -> Done:
    if args.no_clobber and _exists(target, ctx):
        # Checked before anything is read. The request has a condition as well, for an object that
        # appears meanwhile; some servers ignore it in buckets with versions.
        return Done(skipped="it exists")
    if ctx.dry_run:
        return Done()
    workers = args.part_workers or ctx.config.workers or STREAM_WORKERS
    # The calling thread is one of the workers.
    executor = BoundedExecutor(workers - 1)
    try:
        context = TransferContext(ctx.client, options=options_of(args, ctx), executor=executor)
        clear_leftovers = remember(context, ctx, sweeps=False)
        done = upload_stream(ctx.stdin.read, target.bucket, key=target.key, context=context)
        clear_leftovers(Outcome(UploadTask(STREAM, target.bucket, target.key), SKIPPED if done.skipped else DONE, done))
        return done
    except S3Error as exc:
        add_hint(exc, args)
        raise
    finally:
        executor.close()


def _exists(target: S3Path, ctx: Context) -> bool:
    try:
        ctx.client.head_object(target.bucket, target.key)
    except NotFoundError as exc:
        if exc.code == "NoSuchBucket":
            raise
        return False
    return True
