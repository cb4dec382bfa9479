"""s3pool rb: remove buckets; --force removes everything in them first."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator

from s3pool.cli import exit_codes
from s3pool.cli.context import Context
from s3pool.cli.outcomes import exit_code_of
from s3pool.cli.selection import AUTO, add_listing_flags, list_mode
from s3pool.cli.transfers import remove
from s3pool.errors import NotFoundError, S3Error, S3PoolError, may_have_acted
from s3pool.location import S3Path
from s3pool.model import ListMode
from s3pool.s3.list_all import list_objects, list_uploads, list_version_pages
from s3pool.transfer.tasks import DeleteTask, Summary

EXAMPLES = ("rb s3/photos", "rb --force s3/photos")

NO_VERSIONS_STATUSES = (400, 405, 501)  # from servers that do not support versions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of rb."""
    parser.add_argument("buckets", nargs="+", metavar="BUCKET", help="s3/BUCKET")
    parser.add_argument(
        "-f", "--force", action="store_true", help="empty it first, without asking: its objects, versions and uploads"
    )
    parser.add_argument("-y", "--yes", action="store_true", help="for older scripts: nothing is asked any more")
    add_listing_flags(parser, jobs=AUTO)


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Remove each bucket; a failure is printed, and the rest goes on."""
    buckets = [S3Path(ctx.s3_bucket(text)) for text in args.buckets]
    return ctx.for_each(buckets, lambda path: _remove(path, args, ctx))


def _remove(path: S3Path, args: argparse.Namespace, ctx: Context) -> int:
    if args.force:
        ctx.client.head_bucket(path.bucket)
        code = _empty_and_delete(path.bucket, list_mode(args, ctx), ctx)
        if code:
            return code
    else:
        _check_empty(path, ctx)
        if not ctx.dry_run:
            _delete(path.bucket, ctx)
    fields = {"type": "bucket_deleted", "url": path.text, "bucket": path.bucket}
    ctx.out.act(f"Bucket deleted: {ctx.out.escape(path.text)}", fields)
    return 0


def _empty_and_delete(bucket: str, mode: ListMode, ctx: Context) -> int:
    """Empty a bucket and delete it; return the exit code.

    It is listed again as long as something was deleted: on MinIO an object hides those below its name.
    """
    while True:
        summary = _empty(bucket, mode, ctx)
        if exit_code_of(summary) or ctx.dry_run:
            return exit_code_of(summary)
        try:
            _delete(bucket, ctx)
        except S3Error as exc:
            if exc.code != "BucketNotEmpty" or not summary.deleted:
                raise
        else:
            return exit_codes.DONE


def _delete(bucket: str, ctx: Context) -> None:
    try:
        ctx.client.delete_bucket(bucket)
    except S3PoolError as exc:
        if not may_have_acted(exc):
            raise
        with contextlib.suppress(NotFoundError):  # then the first request deleted it
            ctx.client.delete_bucket(bucket)


def _check_empty(path: S3Path, ctx: Context) -> None:
    """Fail as DeleteBucket should: some servers delete full buckets."""
    if ctx.client.has_keys(path.bucket, "") or _has_versions(path.bucket, ctx):
        raise S3Error(409, "BucketNotEmpty", resource=path.text, op="DeleteBucket")


def _has_versions(bucket: str, ctx: Context) -> bool:
    try:
        return bool(ctx.client.list_versions_page(bucket, max_keys=1).objects)
    except S3Error as exc:
        if exc.status not in NO_VERSIONS_STATUSES:
            raise
        return False


def _empty(bucket: str, mode: ListMode, ctx: Context) -> Summary:
    """Delete all versions, markers and objects that are listed, and abort all uploads."""
    summary = Summary()
    if mode.jobs != 1 and _never_kept_versions(bucket, ctx):
        tasks = _objects(bucket, mode, ctx)
    else:
        tasks = _versions_or_objects(bucket, mode, ctx)
    remove(tasks, ctx, summary=summary, tells_deletes=False)
    if summary.stopped_by is not None and summary.stopped_by not in summary.errors:
        raise summary.stopped_by
    for upload in list_uploads(ctx.client, bucket):
        if not ctx.dry_run:
            ctx.client.abort_multipart_upload(bucket, upload.key, upload_id=upload.upload_id)
    if summary.deleted:
        dry_run = "dry run: " if ctx.dry_run else ""
        ctx.out.note(f"s3pool: {dry_run}{summary.deleted} objects and versions of s3/{bucket} deleted")
    return summary


def _never_kept_versions(bucket: str, ctx: Context) -> bool:
    """Return whether the bucket never had versioning: then a parallel listing of objects is enough."""
    try:
        return not ctx.client.get_versioning(bucket)
    except S3Error:
        return False


def _versions_or_objects(bucket: str, mode: ListMode, ctx: Context) -> Iterator[DeleteTask]:
    try:
        for page in list_version_pages(ctx.client, bucket, mode=mode):
            for info in page.objects:
                # A bucket without versioning lists versions named "null"; a plain delete removes them.
                yield DeleteTask(bucket, info.key, info.version_id, size=info.size)
    except S3Error as exc:
        if exc.status not in NO_VERSIONS_STATUSES:
            raise
        yield from _objects(bucket, mode, ctx)


def _objects(bucket: str, mode: ListMode, ctx: Context) -> Iterator[DeleteTask]:
    for info in list_objects(ctx.client, bucket, mode=mode):
        yield DeleteTask(bucket, info.key, size=info.size)
