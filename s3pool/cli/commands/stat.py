"""s3pool stat and presign: everything about the very keys, buckets and prefixes that are named, and URLs of keys."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from s3pool.body import CHECKSUM_PREFIX
from s3pool.cli.context import Context
from s3pool.cli.formats import Record, prefix_record, version_record
from s3pool.cli.output import escape
from s3pool.cli.parser import Command, seconds, switch, text_flag
from s3pool.config.options import Config, Setting
from s3pool.dialect import is_of_transport
from s3pool.endpoint import Endpoint
from s3pool.errors import ConfigError, NotFoundError, S3Error, UsageError
from s3pool.location import S3Path
from s3pool.model import ObjectHead, ObjectInfo, format_iso_time
from s3pool.s3.requests import METADATA_PREFIX
from s3pool.units import format_size_long

# Headers that the labelled block shows in words of its own.
SHOWN = frozenset(("content-type", "etag", "last-modified", "x-amz-storage-class", "x-amz-version-id"))
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

MAX_EXPIRES_S = 7 * 86400  # SigV4's own ceiling (X-Amz-Expires)
MIN_EXPIRES_S = 1

Block = list[tuple[str, str]]  # labels and values, in the order of the lines


def _add_stat_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="s3/BUCKET/KEY, s3/BUCKET/PREFIX/ or s3/BUCKET")
    switch(parser, "--versions", help="every version and delete marker of the key")
    text_flag(parser, "--version-id", "ID", help="one version of the key")
    switch(parser, "--all", help="its settings too, such as tags; one more request for each")


def _stat(args: argparse.Namespace, ctx: Context) -> int:
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


def _add_presign_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="s3/BUCKET/KEY; it need not exist")
    parser.add_argument(
        "--expires", type=seconds, default=float(MAX_EXPIRES_S), metavar="TIME", help="how long it works: 15m, 12h (7d)"
    )
    parser.add_argument(
        "--method", choices=("GET", "PUT", "HEAD", "DELETE"), default="GET", help="what it may do (GET)"
    )
    text_flag(parser, "--version-id", "ID", help="one version of the key")
    parser.add_argument(
        "--url",
        metavar="URL",
        help="scheme and host of the URL, such as a balancer's (S3POOL_PUBLIC_URL; a node that answers)",
    )


def _presign(args: argparse.Namespace, ctx: Context) -> int:
    """Print one URL for each operand; the nodes of a pool are asked for a sign of life."""
    if not MIN_EXPIRES_S <= args.expires <= MAX_EXPIRES_S:
        raise UsageError("--expires must be between 1s and 7d: S3 accepts nothing longer")
    paths = [ctx.s3_object(text) for text in args.paths]
    if not ctx.config.sign:
        raise ConfigError("presigning needs credentials: --no-sign-request excludes it")
    given = Config.public_url.read(Setting(args.url, "--url")) if args.url is not None else None
    endpoint = given or _endpoint_of_urls(ctx)
    for path in paths:
        now = ctx.now()
        request = ctx.client.request_for_presign(args.method, path.bucket, path.key, version_id=args.version_id)
        url = ctx.session.signer.presign(request, endpoint, now, expires_s=int(args.expires))
        expires = format_iso_time(int(now) + int(args.expires))
        ctx.out.result(url, {"type": "presigned", "url": url, "expires": expires})
    return 0


def presigned(path: S3Path, ctx: Context, *, now: float) -> str:
    """Return the URL of an object, presigned for the longest time; unsigned where nothing is signed."""
    request = ctx.client.request_for_presign("GET", path.bucket, path.key)
    endpoint = ctx.config.public_url or ctx.session.answering_endpoint() or ctx.session.nodes[0].endpoint
    if not ctx.config.sign:
        return f"{endpoint.scheme}://{request.host_header(endpoint)}{request.target}"
    return ctx.session.signer.presign(request, endpoint, now, expires_s=MAX_EXPIRES_S)


def _endpoint_of_urls(ctx: Context) -> Endpoint:
    """Return the public endpoint, or a node that answers, with a note that the URL depends on that node."""
    if ctx.config.public_url is not None:
        return ctx.config.public_url
    nodes = ctx.session.nodes
    names = {node.endpoint.netloc for node in nodes}
    if len(names) == 1:
        return nodes[0].endpoint
    found = ctx.session.answering_endpoint()
    if found is None:
        ctx.out.warn(f"none of the {len(nodes)} endpoints answers; the URL names the first, {nodes[0].endpoint}")
        return nodes[0].endpoint
    ctx.out.remark(f"the URL names {found}, one of {len(names)} endpoints; for a name that outlives it, give --url")
    return found


COMMANDS = {
    "stat": Command(("stat s3/photos/a.jpg", "stat s3/photos"), _add_stat_flags, _stat),
    "presign": Command(
        ("presign --expires 7d s3/photos/a.jpg", "presign --method PUT s3/photos/new.jpg"),
        _add_presign_flags,
        _presign,
    ),
}
