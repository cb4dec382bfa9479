"""s3pool mb: make buckets."""

from __future__ import annotations

import argparse

from s3pool.cli.context import Context
from s3pool.errors import NotFoundError, S3Error, S3PoolError, may_have_acted
from s3pool.location import S3Path

EXAMPLES = ("mb s3/photos", "mb -p --versioning s3/photos")

OWNED_CODE = "BucketAlreadyOwnedByYou"
OWNED_CODES = frozenset((OWNED_CODE, "BucketAlreadyExists"))  # the second is another's bucket, or one's own on RGW


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of mb."""
    parser.add_argument("buckets", nargs="+", metavar="BUCKET", help="s3/BUCKET")
    parser.add_argument("-p", "--ignore-existing", action="store_true", help="a bucket of yours that exists is fine")
    parser.add_argument("--versioning", action="store_true", help="keep the versions of its objects")
    parser.add_argument("--lock", action="store_true", help="allow object locks, which keep versions, too")


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Make each bucket; a failure is printed, and the rest goes on."""
    buckets = [S3Path(ctx.s3_bucket(text)) for text in args.buckets]
    return ctx.for_each(buckets, lambda path: _make(path, args, ctx))


def _make(path: S3Path, args: argparse.Namespace, ctx: Context) -> None:
    if args.ignore_existing and _exists(path.bucket, ctx):
        _prepare(path.bucket, args, ctx)
        ctx.out.note(f"s3pool: {path.text} exists")
        return
    if not ctx.dry_run:
        _create(path.bucket, args, ctx)
        _prepare(path.bucket, args, ctx)
    fields = {"type": "bucket_created", "url": path.text, "bucket": path.bucket}
    ctx.out.act(f"Bucket created: {ctx.out.escape(path.text)}", fields)


def _create(bucket: str, args: argparse.Namespace, ctx: Context) -> None:
    try:
        ctx.client.create_bucket(bucket, lock=args.lock)
    except S3PoolError as exc:
        if may_have_acted(exc):
            try:
                ctx.client.create_bucket(bucket, lock=args.lock)
            except S3Error as again:
                if again.code != OWNED_CODE:  # then the first request made it
                    raise
        # Somebody may have made the bucket since the check; HeadBucket succeeds only for one's own.
        elif not (args.ignore_existing and getattr(exc, "code", "") in OWNED_CODES and _exists(bucket, ctx)):
            raise


def _prepare(bucket: str, args: argparse.Namespace, ctx: Context) -> None:
    if args.versioning and not ctx.dry_run:
        ctx.client.put_versioning(bucket, enabled=True)


def _exists(bucket: str, ctx: Context) -> bool:
    try:
        ctx.client.head_bucket(bucket)
    except NotFoundError:
        return False
    return True
