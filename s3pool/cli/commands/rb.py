"""s3pool rb: remove buckets, with everything in them when it is forced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3pool.cli.batches import BatchDeleter
from s3pool.errors import RefusedError, S3Error
from s3pool.location import S3Path

if TYPE_CHECKING:
    import argparse

    from s3pool.cli.context import Context

SUMMARY = "remove buckets"

NO_VERSIONS_STATUS = 501  # of servers that do not know versions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of rb."""
    parser.add_argument("buckets", nargs="+", metavar="BUCKET", help="s3/BUCKET")
    parser.add_argument(
        "--force", action="store_true", help="empty it first: objects, versions, uploads; asks on a terminal"
    )
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Remove each bucket; one that fails is reported and the rest goes on."""
    buckets = [S3Path(ctx.s3_bucket(text)) for text in args.buckets]
    return ctx.for_each(buckets, lambda path: _remove(path, args, ctx))


def _remove(path: S3Path, args: argparse.Namespace, ctx: Context) -> int:
    if args.force:
        ctx.client.head_bucket(path.bucket)  # a missing bucket must fail before anybody is asked
        _make_sure(path, args, ctx)
        code = _empty(path.bucket, ctx)
        if code:
            return code
    elif ctx.dry_run:
        ctx.client.head_bucket(path.bucket)
    if not ctx.dry_run:
        ctx.client.delete_bucket(path.bucket)
    fields = {"type": "bucket_deleted", "url": path.text, "bucket": path.bucket}
    ctx.out.act(f"Bucket deleted: {path.text}", fields)
    return 0


def _make_sure(path: S3Path, args: argparse.Namespace, ctx: Context) -> None:
    if args.yes or ctx.dry_run or not ctx.is_tty:
        return
    if not ctx.confirm(f"Delete {path.text} and everything in it?"):
        raise RefusedError(f"{path.text} was not deleted: the answer was no")


def _empty(bucket: str, ctx: Context) -> int:
    """Delete all versions, markers and objects, and abort all uploads; give the exit code."""
    deleter = BatchDeleter(ctx.client, bucket, ctx.out, report=False)
    try:
        _delete_versions(bucket, deleter, ctx)
    except S3Error as exc:
        if exc.status != NO_VERSIONS_STATUS:
            raise
        _delete_objects(bucket, deleter, ctx)
    deleter.flush()
    _abort_uploads(bucket, ctx)
    if deleter.deleted:
        ctx.out.note(f"s3pool: {deleter.deleted} objects and versions of s3/{bucket} deleted")
    return deleter.exit_code


def _delete_versions(bucket: str, deleter: BatchDeleter, ctx: Context) -> None:
    from s3pool.s3.listing import iter_version_pages

    for page in iter_version_pages(ctx.client, bucket):
        for info in page.objects:
            # A bucket that never kept versions lists "null" ones; a plain delete removes these.
            deleter.add(info.key, info.version_id)


def _delete_objects(bucket: str, deleter: BatchDeleter, ctx: Context) -> None:
    from s3pool.s3.listing import iter_objects

    for info in iter_objects(ctx.client, bucket):
        deleter.add(info.key)


def _abort_uploads(bucket: str, ctx: Context) -> None:
    from s3pool.s3.listing import iter_uploads

    for upload in iter_uploads(ctx.client, bucket):
        if not ctx.dry_run:
            ctx.client.abort_multipart_upload(bucket, upload.key, upload_id=upload.upload_id)
