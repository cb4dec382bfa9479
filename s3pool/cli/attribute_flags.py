"""The flags for what is stored beside an object's bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from s3pool.errors import UsageError
from s3pool.model import ObjectAttributes

if TYPE_CHECKING:
    import argparse

SSE_MODES = ("AES256", "aws:kms")


def add_attribute_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that attributes_from reads."""
    group = parser.add_argument_group("what is stored with the object")
    group.add_argument("--metadata", action="append", default=[], metavar="K=V", help="user metadata; repeatable")
    group.add_argument("--content-type", default="", metavar="TYPE", help="MIME type (by the name's extension)")
    group.add_argument("--storage-class", default="", metavar="NAME", help="storage class (the server's default)")
    group.add_argument("--acl", default="", metavar="NAME", help="canned ACL, such as public-read")
    group.add_argument("--sse", default="", metavar="MODE", help="AES256, aws:kms or aws:kms:KEYID")
    group.add_argument("--tags", action="append", default=[], metavar="K=V&...", help="object tags; repeatable")
    group.add_argument("--cache-control", default="", metavar="TEXT", help="Cache-Control of downloads")
    group.add_argument("--content-disposition", default="", metavar="TEXT", help="Content-Disposition of downloads")
    group.add_argument("--content-encoding", default="", metavar="TEXT", help="Content-Encoding of downloads")
    group.add_argument("--content-language", default="", metavar="TEXT", help="Content-Language of downloads")
    group.add_argument("--expires", default="", metavar="DATE", help="Expires of downloads, an HTTP date")


def attributes_from(args: argparse.Namespace) -> ObjectAttributes:
    """Read the attributes that were given.

    Raises:
        UsageError: a pair has no ``=`` or no name, or the encryption is none of S3's.
    """
    if args.sse and not (args.sse in SSE_MODES or args.sse.startswith("aws:kms:")):
        raise UsageError(f"bad --sse {args.sse!r}: write AES256, aws:kms or aws:kms:KEYID")
    return ObjectAttributes(
        content_type=args.content_type,
        metadata={name.lower(): value for name, value in _pairs(args.metadata, "--metadata")},
        storage_class=args.storage_class,
        acl=args.acl,
        sse=args.sse,
        tags=dict(_pairs((pair for text in args.tags for pair in text.split("&")), "--tags")),
        cache_control=args.cache_control,
        content_disposition=args.content_disposition,
        content_encoding=args.content_encoding,
        content_language=args.content_language,
        expires=args.expires,
    )


def _pairs(texts: Iterable[str], flag: str) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"bad {flag} {text!r}: write NAME=VALUE")
        pairs.append((name, value))
    return pairs
