"""s3pool stat: everything about the very keys, buckets and prefixes that are named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3pool.cli.records import Record, prefix_record
from s3pool.errors import NotFoundError, UsageError
from s3pool.location import S3Path
from s3pool.model import ObjectHead

if TYPE_CHECKING:
    import argparse

    from s3pool.cli.context import Context

SUMMARY = "show everything about objects, buckets and prefixes"

# Headers that the labelled block shows in words of its own, or that tell nothing of the object.
SHOWN_OR_IDLE = frozenset(
    (
        *("accept-ranges", "connection", "content-length", "content-type", "date", "etag", "keep-alive"),
        *("last-modified", "server", "transfer-encoding", "x-amz-id-2", "x-amz-request-id", "x-amz-storage-class"),
        *("x-amz-version-id", "x-rgw-object-type", "vary"),
    )
)
METADATA_PREFIX = "x-amz-meta-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of stat."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="s3/BUCKET/KEY, s3/BUCKET/PREFIX/ or s3/BUCKET")
    parser.add_argument("--versions", action="store_true", help="every version and delete marker of the key")
    parser.add_argument("--version-id", default="", metavar="ID", help="one version of the key")


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Show each operand; one that is missing is reported and the rest goes on."""
    paths = [ctx.s3(text) for text in args.paths]
    if any(path.is_root for path in paths):
        raise UsageError("stat needs a bucket or a key: s3/BUCKET or s3/BUCKET/KEY; s3pool ls lists the buckets")
    if args.versions and args.version_id:
        raise UsageError("--versions and --version-id exclude each other")
    if (args.versions or args.version_id) and any(path.is_bucket for path in paths):
        raise UsageError("a bucket has no versions; name a key")
    shown = [0]

    def show(path: S3Path) -> None:
        if shown[0] and not ctx.out.json:
            ctx.out.line("")
        shown[0] += 1
        _stat(path, args, ctx)

    return ctx.for_each(paths, show)


def _stat(path: S3Path, args: argparse.Namespace, ctx: Context) -> None:
    if path.is_bucket:
        _stat_bucket(path, ctx)
    elif args.versions:
        _stat_versions(path, ctx)
    else:
        _stat_key(path, args.version_id, ctx)


def _stat_bucket(path: S3Path, ctx: Context) -> None:
    headers = dict(ctx.client.head_bucket(path.bucket))
    versioning = ctx.client.get_versioning(path.bucket) or "Off"
    block = [("Name", path.text), ("Type", "bucket"), ("Versioning", versioning)]
    region = headers.get("x-amz-bucket-region", "")
    if region:
        block.append(("Region", region))
    record: Record = {
        "type": "bucket",
        "name": path.bucket,
        "url": path.text,
        "versioning": versioning,
        "region": region,
        "headers": headers,
    }
    _show(ctx, block, record)


def _stat_key(path: S3Path, version_id: str, ctx: Context) -> None:
    try:
        head = ctx.client.head_object(path.bucket, path.key, version_id=version_id)
    except NotFoundError:
        if path.is_prefix and not version_id and _has_keys(path, ctx):
            _show(ctx, [("Name", path.text), ("Type", "prefix")], prefix_record(path.bucket, path.key))
            return
        raise
    _show_object(path, head, ctx)


def _has_keys(path: S3Path, ctx: Context) -> bool:
    return bool(ctx.client.list_objects_page(path.bucket, prefix=path.key, max_keys=1).objects)


def _show_object(path: S3Path, head: ObjectHead, ctx: Context) -> None:
    from s3pool.units import format_size_long

    block = [
        ("Name", path.text),
        ("Type", "object"),
        ("Size", format_size_long(head.size)),
        ("Last Modified", head.last_modified),
        ("ETag", head.etag),
        ("Content-Type", head.content_type),
        ("Storage Class", head.storage_class),
    ]
    if head.version_id:
        block.append(("Version", head.version_id))
    block += [
        (_title(name), value)
        for name, value in head.headers.items()
        if name not in SHOWN_OR_IDLE and not name.startswith(METADATA_PREFIX)
    ]
    if head.metadata:
        block.append(("Metadata", ""))
        block += [(f"  {name}", value) for name, value in head.metadata.items()]
    _show(ctx, block, _object_record(path, head))


def _object_record(path: S3Path, head: ObjectHead) -> Record:
    return {
        "type": "object",
        "url": path.text,
        "bucket": path.bucket,
        "key": path.key,
        "size": head.size,
        "last_modified": head.last_modified,
        "etag": head.etag,
        "storage_class": head.storage_class,
        "content_type": head.content_type,
        "version_id": head.version_id,
        "metadata": dict(head.metadata),
        "headers": dict(head.headers),
    }


def _stat_versions(path: S3Path, ctx: Context) -> None:
    """Show the versions that the listing knows of: delete markers cannot be asked by HEAD."""
    from s3pool.cli.records import version_record
    from s3pool.s3.listing import iter_version_pages
    from s3pool.units import format_size_long

    found = False
    for page in iter_version_pages(ctx.client, path.bucket, prefix=path.key):
        mine = [info for info in page.objects if info.key == path.key]
        for info in mine:
            if found and not ctx.out.json:
                ctx.out.line("")
            found = True
            kind = "delete marker" if info.is_delete_marker else "object"
            block = [("Name", path.text), ("Type", kind), ("Version", info.version_id)]
            block.append(("Latest", "yes" if info.is_latest else "no"))
            if not info.is_delete_marker:
                block += [("Size", format_size_long(info.size)), ("ETag", info.etag)]
            block.append(("Last Modified", info.last_modified))
            _show(ctx, block, version_record(path.bucket, info))
        if len(mine) < len(page.objects):
            break
    if not found:
        raise NotFoundError(404, "NoSuchKey", resource=path.text, op="ListObjectVersions")


def _show(ctx: Context, block: list[tuple[str, str]], record: Record) -> None:
    if ctx.out.json:
        ctx.out.record(record)
        return
    for label, value in block:
        ctx.out.line(f"{ctx.out.escape(label)}: {ctx.out.escape(value)}".rstrip())


def _title(header: str) -> str:
    return "-".join(word.capitalize() for word in header.split("-"))
