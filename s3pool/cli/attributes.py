"""What is stored beside the bytes: the flags of it, their values, and what servers say to these."""

from __future__ import annotations

import argparse

from s3pool.errors import S3Error
from s3pool.model import ObjectAttributes

# Source: Amazon S3 API Reference, "Canned ACL" and "PutObject".
CANNED_ACLS = (
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
    "log-delivery-write",
)
ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
KMS_KEY = "aws:kms:"
# What servers answer to a storage class, an encryption or an ACL that they do not have.
REFUSALS_OF_VALUES = frozenset(("InvalidArgument", "InvalidRequest", "InvalidStorageClass", "NotImplemented"))
STORING_OPS = frozenset(("PutObject", "CopyObject", "CreateMultipartUpload"))


def add_attribute_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of what is stored beside the bytes."""
    parser.add_argument(
        "--metadata", type=_pair, action="append", default=[], metavar="K=V", help="store metadata; repeatable"
    )
    parser.add_argument("--content-type", default="", metavar="TYPE", help="instead of the one by the name")
    parser.add_argument("--storage-class", default="", metavar="CLASS", help="such as STANDARD_IA")
    parser.add_argument("--acl", type=_acl, default="", metavar="ACL", help="a canned one, such as public-read")
    parser.add_argument("--sse", type=_sse, default="", metavar="HOW", help="AES256, aws:kms or aws:kms:KEYID")
    parser.add_argument("--tags", type=_pairs, action="append", default=[], metavar="K=V&...", help="repeatable")


def _acl(text: str) -> str:
    if text and text not in CANNED_ACLS:
        raise argparse.ArgumentTypeError(f"{text!r} is no canned ACL; there are {', '.join(CANNED_ACLS)}")
    return text


def _sse(text: str) -> str:
    if text and text not in ENCRYPTIONS and not (text.startswith(KMS_KEY) and text != KMS_KEY):
        raise argparse.ArgumentTypeError(f"{text!r} is unknown; there are {', '.join(ENCRYPTIONS)} and {KMS_KEY}KEYID")
    return text


def add_hint(error: Exception, args: argparse.Namespace) -> None:
    """Let a refusal that may be about a flag's value name the flag: most servers do not."""
    if not (isinstance(error, S3Error) and error.code in REFUSALS_OF_VALUES and error.op in STORING_OPS):
        return
    given = [
        f"{flag} {value}"
        for flag, value in (("--storage-class", args.storage_class), ("--sse", args.sse), ("--acl", args.acl))
        if value
    ]
    if given:
        error.hint = f"the server may not know {' or '.join(given)}"


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not K=V")
    return name, value


def _pairs(text: str) -> list[tuple[str, str]]:
    return [_pair(piece) for piece in text.split("&")]


def attributes_of(args: argparse.Namespace) -> ObjectAttributes:
    """Give what the flags want stored."""
    return ObjectAttributes(
        content_type=args.content_type,
        metadata={name.lower(): value for name, value in args.metadata},
        storage_class=args.storage_class,
        acl=args.acl,
        sse=args.sse,
        tags=dict(pair for pairs in args.tags for pair in pairs),
    )
