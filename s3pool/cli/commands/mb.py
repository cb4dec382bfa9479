"""s3pool mb and rb: make and remove buckets; rb --force removes everything in them first."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from s3pool.cli.context import Context
from s3pool.cli.output import DONE
from s3pool.cli.parser import Command, switch
from s3pool.cli.selection import AUTO, add_listing_flags, list_mode
from s3pool.errors import NotFoundError, S3Error, S3PoolError, may_have_acted
from s3pool.location import S3Path
from s3pool.model import ListMode

if TYPE_CHECKING:
    from s3pool.transfer.tasks import DeleteTask, Summary

OWNED_CODE = "BucketAlreadyOwnedByYou"
OWNED_CODES = frozenset((OWNED_CODE, "BucketAlreadyExists"))  # the second is another's bucket, or one's own on RGW
NO_VERSIONS_STATUSES = (400, 405, 501)  # from servers that do not support versions


def _add_making_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("buckets", nargs="+", metavar="BUCKET", help="s3/BUCKET")
    switch(parser, "-p", "--ignore-existing", help="a bucket of yours that exists is fine")
    switch(parser, "--versioning", help="keep the versions of its objects")
    switch(parser, "--lock", help="allow object locks, which keep versions, too")


def _add_removing_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("buckets", nargs="+", metavar="BUCKET", help="s3/BUCKET")
    switch(parser, "-f", "--force", help="empty it first, without asking: its objects, versions and uploads")
    switch(parser, "-y", "--yes", help="for older scripts: nothing is asked any more")
    add_listing_flags(parser, jobs=AUTO)


def _run(args: argparse.Namespace, ctx: Context) -> int:
    """Make or remove each bucket; a failure is printed, and the rest goes on."""
    buckets = [S3Path(ctx.s3_bucket(text)) for text in args.buckets]
    act = _make if args.command == "mb" else _remove
    return ctx.for_each(buckets, lambda path: act(path, args, ctx))


def _tell(path: S3Path, act: str, ctx: Context) -> int:
    fields = {"type": f"bucket_{act}", "url": path.text, "bucket": path.bucket}
    ctx.out.act(f"Bucket {act}: {ctx.out.escape(path.text)}", fields)
    return DONE


def _make(path: S3Path, args: argparse.Namespace, ctx: Context) -> int:
    if args.ignore_existing and _exists(path.bucket, ctx):
        _prepare(path.bucket, args, ctx)
        ctx.out.note(f"s3pool: {path.text} exists")
        return DONE
    if not ctx.dry_run:
        _create(path.bucket, args, ctx)
        _prepare(path.bucket, args, ctx)
    return _tell(path, "created", ctx)


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


def _remove(path: S3Path, args: argparse.Namespace, ctx: Context) -> int:
    if args.force:
        ctx.client.head_bucket(path.bucket)
        if code := _empty_and_delete(path.bucket, list_mode(args, ctx), ctx):
            return code
    else:
        _check_empty(path, ctx)
        if not ctx.dry_run:
            _delete(path.bucket, ctx)
    return _tell(path, "deleted", ctx)


def _empty_and_delete(bucket: str, mode: ListMode, ctx: Context) -> int:
    """Empty a bucket and delete it; return the exit code.

    It is listed again as long as something was deleted: on MinIO an object hides those below its name.
    """
    from s3pool.cli.transfers import exit_code_of

    while True:
        summary = _empty(bucket, mode, ctx)
        if (code := exit_code_of(summary)) or ctx.dry_run:
            return code
        try:
            _delete(bucket, ctx)
        except S3Error as exc:
            if exc.code != "BucketNotEmpty" or not summary.deleted:
                raise
        else:
            return DONE


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
    from s3pool.cli.transfers import remove
    from s3pool.s3.list_all import list_uploads
    from s3pool.transfer.tasks import Summary

    summary = Summary()
    remove(_tasks(bucket, mode, ctx), ctx, summary=summary, tells_deletes=False)
    if summary.stopped_by is not None and summary.stopped_by not in summary.errors:
        raise summary.stopped_by
    for upload in list_uploads(ctx.client, bucket):
        if not ctx.dry_run:
            ctx.client.abort_multipart_upload(bucket, upload.key, upload_id=upload.upload_id)
    if summary.deleted:
        dry_run = "dry run: " if ctx.dry_run else ""
        ctx.out.note(f"s3pool: {dry_run}{summary.deleted} objects and versions of s3/{bucket} deleted")
    return summary


def _tasks(bucket: str, mode: ListMode, ctx: Context) -> Iterator[DeleteTask]:
    """Yield the versions of a bucket, or the objects of one that has none: they are listed in parallel."""
    from s3pool.s3.list_all import list_objects, list_version_pages
    from s3pool.transfer.tasks import DeleteTask

    if mode.jobs == 1 or _may_have_versions(bucket, ctx):
        try:
            for page in list_version_pages(ctx.client, bucket, mode=mode):
                for info in page.objects:
                    # A bucket without versioning lists versions named "null"; a plain delete removes them.
                    yield DeleteTask(bucket, info.key, info.version_id, size=info.size)
            return
        except S3Error as exc:
            if exc.status not in NO_VERSIONS_STATUSES:
                raise
    for info in list_objects(ctx.client, bucket, mode=mode):
        yield DeleteTask(bucket, info.key, size=info.size)


def _may_have_versions(bucket: str, ctx: Context) -> bool:
    try:
        return bool(ctx.client.get_versioning(bucket))
    except S3Error:
        return True


COMMANDS = {
    "mb": Command(("mb s3/photos", "mb -p --versioning s3/photos"), _add_making_flags, _run),
    "rb": Command(("rb s3/photos", "rb --force s3/photos"), _add_removing_flags, _run),
}
