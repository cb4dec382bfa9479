"""s3pool presign: a URL that works without credentials until it expires."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s3pool.cli.parser import seconds
from s3pool.errors import ConfigError, UsageError
from s3pool.model import format_iso_time

if TYPE_CHECKING:
    import argparse

    from s3pool.cli.context import Context
    from s3pool.location import S3Path

SUMMARY = "make a URL that works without credentials for a while"

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
    parser.add_argument("--version-id", default="", metavar="ID", help="one version of the key")


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Print one URL for each operand; no request is sent."""
    if not MIN_EXPIRES_S <= args.expires <= MAX_EXPIRES_S:
        raise UsageError("--expires must be between 1s and 7d: S3 accepts nothing longer")
    paths = [ctx.s3_object(text) for text in args.paths]
    if not ctx.config.sign:
        raise ConfigError("presigning needs credentials: --no-sign-request excludes it")
    for path in paths:
        now = ctx.now()
        url = presigned(path, ctx, method=args.method, expires_s=int(args.expires), now=now, version_id=args.version_id)
        expires = format_iso_time(int(now) + int(args.expires))
        ctx.out.result(url, {"type": "presigned", "url": url, "expires": expires})
    return 0


def presigned(
    path: S3Path, ctx: Context, *, method: str = "GET", expires_s: int = MAX_EXPIRES_S, now: float, version_id: str = ""
) -> str:
    """Return the presigned URL of an object on the first endpoint of the pool."""
    session = ctx.session
    request = ctx.client.request_for_presign(method, path.bucket, path.key, version_id=version_id)
    endpoint = session.transport.endpoints[0]
    if not ctx.config.sign:
        return f"{endpoint.scheme}://{request.host_header(endpoint)}{request.target}"
    return session.signer.presign(request, endpoint, now, expires_s=expires_s)
