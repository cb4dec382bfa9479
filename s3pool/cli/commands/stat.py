"""s3pool stat: everything about the very keys, buckets and prefixes that are named."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from s3pool.cli.context import Context
from s3pool.cli.formats import Record, prefix_record, version_record
from s3pool.cli.output import escape
from s3pool.cli.parser import switch, text_flag
from s3pool.dialect import is_of_transport
from s3pool.errors import NotFoundError, S3Error, UsageError
from s3pool.location import S3Path
from s3pool.model import ObjectHead, ObjectInfo
from s3pool.units import format_size_long

EXAMPLES = ("stat s3/photos/a.jpg", "stat s3/photos")

# Headers that the labelled block shows in words of its own.
SHOWN = frozenset(("content-type", "etag", "last-modified", "x-amz-storage-class", "x-amz-version-id"))
METADATA_PREFIX = "x-amz-meta-"
CHECKSUM_PREFIX = "x-amz-checksum-"
# What these headers are to people; the record has them under the same names.
LABELS = {
    "x-amz-tagging-count": "Tags",
    "x-amz-object-lock-mode": "Retention",
    "x-amz-object-lock-retain-until-date": "Retain Until",
    "x-amz-object-lock-legal-hold": "Legal Hold",
    "x-amz-restore": "Restore",
}
FACTS = ("size", "last_modified", "etag", "storage_class", "content_type", "version_id")
PARTS = re.compile("[0-9a-f]{32}-([1-9][0-9]{0,4})")  # the ETag of an upload in parts
COUNT = re.compile("[0-9]{1,9}")  # what a server says may have any length

Block = list[tuple[str, str]]  # labels and values, in the order of the lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operands and flags of stat."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="s3/BUCKET/KEY, s3/BUCKET/PREFIX/ or s3/BUCKET")
    switch(parser, "--versions", help="every version and delete marker of the key")
    text_flag(parser, "--version-id", "ID", help="one version of the key")
    switch(parser, "--all", help="its settings too, such as tags; one more request for each")


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Show each operand; one that is missing is reported and the rest goes on."""
    paths = [ctx.s3(text) for text in args.paths]
    if any(path.is_root for path in paths):
        raise UsageError("stat needs a bucket or a key: s3/BUCKET or s3/BUCKET/KEY; s3pool ls lists the buckets")
    if args.versions and args.version_id:
        raise UsageError("--versions and --version-id exclude each other")
    if (args.versions or args.version_id) and any(path.is_bucket for path in paths):
        raise UsageError("a bucket has no versions; name a key")
    has_shown = False

    def stat(path: S3Path) -> None:
        nonlocal has_shown
        for block, record in _iter_facts(path, args, ctx):
            if args.all and not args.versions and record["type"] != "prefix":
                _add_settings(block, record, path, ctx)
            lines = [f"{escape(label)}: {escape(value)}".rstrip() for label, value in block]
            ctx.out.result("\n".join(["", *lines] if has_shown else lines), record)
            has_shown = True

    return ctx.for_each(paths, stat)


def _add_settings(block: Block, record: Record, path: S3Path, ctx: Context) -> None:
    from s3pool.cli.commands.settings import facts_of

    found = list(facts_of(path, ctx.args.version_id, ctx.args, ctx))
    block += [(f"Setting {name}", line) for name, text, _ in found for line in text.split("\n")]
    record["settings"] = {name: value for name, _, value in found}


def _iter_facts(path: S3Path, args: argparse.Namespace, ctx: Context) -> Iterator[tuple[Block, Record]]:
    if path.is_bucket:
        yield _bucket_facts(path, ctx)
    elif args.versions:
        yield from _iter_versions(path, ctx)
    else:
        yield _key_facts(path, args.version_id, ctx)


def _bucket_facts(path: S3Path, ctx: Context) -> tuple[Block, Record]:
    headers = dict(ctx.client.head_bucket(path.bucket))
    versioning = _versioning_of(path.bucket, ctx)
    block = [("Name", path.text), ("Type", "bucket"), ("Versioning", versioning)]
    if region := headers.get("x-amz-bucket-region", ""):
        block.append(("Region", region))
    record: Record = {"type": "bucket", "name": path.bucket, "url": path.text, "bucket": path.bucket}
    return block, record | {"versioning": versioning, "region": region, "headers": headers}


def _versioning_of(bucket: str, ctx: Context) -> str:
    """Return the bucket's versioning; a key that may read a bucket may be forbidden to ask for it."""
    try:
        return ctx.client.get_versioning(bucket) or "Off"
    except S3Error:
        return "unknown"


def _key_facts(path: S3Path, version_id: str, ctx: Context) -> tuple[Block, Record]:
    try:
        head = ctx.client.head_object(path.bucket, path.key, version_id=version_id, checksums=True)
    except NotFoundError:
        if path.is_prefix and not version_id and ctx.client.has_keys(path.bucket, path.key):
            return [("Name", path.text), ("Type", "prefix")], prefix_record(path.bucket, path.key)
        raise
    return _object_block(path, head), _object_record(path, head)


def _object_block(path: S3Path, head: ObjectHead) -> Block:
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
    block += [(label, str(value)) for label, value in _facts(head).items()]
    block += [
        ("-".join(map(str.capitalize, name.split("-"))), value)
        for name, value in head.headers.items()
        if not (
            name in SHOWN
            or name in LABELS
            or is_of_transport(name)
            or name.startswith((METADATA_PREFIX, CHECKSUM_PREFIX))
        )
    ]
    if head.metadata:
        block.append(("Metadata", ""))
        block += [(f"  {name}", value) for name, value in head.metadata.items()]
    return block


def _facts(head: ObjectHead) -> dict[str, str | int]:
    """Return what the answer to HEAD tells of parts, checksums, tags and locks."""
    parts = PARTS.fullmatch(head.etag)
    facts: dict[str, str | int] = {"Parts": int(parts[1])} if parts else {}
    for name, value in head.headers.items():
        if name in LABELS:
            facts[LABELS[name]] = int(value) if COUNT.fullmatch(value) else value
        elif name.startswith(CHECKSUM_PREFIX):
            facts[f"Checksum {name.removeprefix(CHECKSUM_PREFIX).upper()}"] = value
    return facts


def _object_record(path: S3Path, head: ObjectHead) -> Record:
    return {
        "type": "object",
        "url": path.text,
        "bucket": path.bucket,
        "key": path.key,
        **{name: getattr(head, name) for name in FACTS},
        **{label.lower().replace(" ", "_"): value for label, value in _facts(head).items()},
        "metadata": dict(head.metadata),
        "headers": {name: value for name, value in head.headers.items() if not is_of_transport(name)},
    }


def _iter_versions(path: S3Path, ctx: Context) -> Iterator[tuple[Block, Record]]:
    """Yield the versions that the listing knows of: delete markers cannot be asked by HEAD."""
    from s3pool.s3.list_all import list_versions

    found = False
    for info in list_versions(ctx.client, path.bucket, prefix=path.key):
        if info.key != path.key:
            break  # in the order of keys, nothing of this one follows
        found = True
        yield _version_block(path, info), version_record(path.bucket, info)
    if not found:
        raise NotFoundError(404, "NoSuchKey", resource=path.text, op="ListObjectVersions")


def _version_block(path: S3Path, info: ObjectInfo) -> Block:
    block = [
        ("Name", path.text),
        ("Type", "delete marker" if info.is_delete_marker else "object"),
        ("Version", info.version_id),
        ("Latest", "yes" if info.is_latest else "no"),
        ("Last Modified", info.last_modified),
    ]
    if not info.is_delete_marker:
        block += [("Size", format_size_long(info.size)), ("ETag", info.etag), ("Storage Class", info.storage_class)]
    return block
