"""s3pool presign: a URL that works without credentials until it expires."""

from __future__ import annotations

import argparse

from s3pool.cli.context import Context
from s3pool.cli.parser import seconds, text_flag
from s3pool.config.options import Config, Setting
from s3pool.endpoint import Endpoint
from s3pool.errors import ConfigError, UsageError
from s3pool.location import S3Path
from s3pool.model import format_iso_time

EXAMPLES = ("presign --expires 7d s3/photos/a.jpg", "presign --method PUT s3/photos/new.jpg")

MAX_EXPIRES_S = 7 * 86400  # SigV4's own ceiling (X-Amz-Expires)
MIN_EXPIRES_S = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operand and flags of presign."""
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


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Print one URL for each operand; the nodes of a pool are asked for a sign of life."""
    if not MIN_EXPIRES_S <= args.expires <= MAX_EXPIRES_S:
        raise UsageError("--expires must be between 1s and 7d: S3 accepts nothing longer")
    paths = [ctx.s3_object(text) for text in args.paths]
    if not ctx.config.sign:
        raise ConfigError("presigning needs credentials: --no-sign-request excludes it")
    given = Config.public_url.read(Setting(args.url, "--url")) if args.url is not None else None
    endpoint = given or endpoint_of_urls(ctx)
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


def endpoint_of_urls(ctx: Context) -> Endpoint:
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
