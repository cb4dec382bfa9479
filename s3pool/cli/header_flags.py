"""Flags of what is stored with an object and sent with requests: values, refusals, hints when a server refuses one."""

from __future__ import annotations

import argparse
import os
import re
from base64 import b64decode
from binascii import Error, unhexlify
from collections.abc import Callable, Iterable
from typing import Any

from s3pool.cli.parser import STORED, section, switch, text_flag
from s3pool.config.options import Config
from s3pool.errors import STORING_OPS, S3Error, UsageError, describe_os_error
from s3pool.location import Location, S3Path
from s3pool.model import ObjectAttributes
from s3pool.s3.requests import FORBIDDEN_IN_VALUE, METADATA_PREFIX, TOKEN, ExtraHeaders
from s3pool.units import parse_http_date, parse_time_or_age, word_set

# Source: Amazon S3 API Reference, "Canned ACL" and "PutObject".
CANNED_ACLS = (
    *("private", "public-read", "public-read-write", "authenticated-read", "aws-exec-read"),
    *("bucket-owner-read", "bucket-owner-full-control", "log-delivery-write"),
)
ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
KMS_KEY = "aws:kms:"
# Codes with which servers refuse a storage class, an encryption or an ACL that they do not know.
REFUSALS_OF_VALUES = frozenset(("InvalidArgument", "InvalidRequest", "InvalidStorageClass", "NotImplemented"))
# Headers that have a flag: --metadata with one of these names would not set the header.
_ALIKE = ("content-type", "cache-control", "content-encoding", "content-disposition", "content-language", "expires")
SYSTEM_HEADERS = {
    **{name: f"--{name}" for name in _ALIKE},
    "x-amz-website-redirect-location": "--website-redirect",
    "x-amz-storage-class": "--storage-class",
    "x-amz-acl": "--acl",
    "x-amz-tagging": "--tags",
    "x-amz-server-side-encryption": "--sse",
    "x-amz-server-side-encryption-aws-kms-key-id": "--sse",
}
SERVERS_HEADERS = ("content-length", "content-md5", "content-range", "date", "etag", "last-modified")
SYSTEM_PREFIX = "x-amz-"
MAX_REDIRECT_CHARS = 2048
REDIRECTS = ("/", "http://", "https://")
NEVER_FRESH = "0"  # RFC 9111, section 5.3: in the past


def add_attribute_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the attributes that are stored with an object."""
    group = section(parser, STORED)
    group.add_argument(
        "--metadata", type=_metadata, action="append", default=[], metavar="K=V", help="store metadata; repeatable"
    )
    text_flag(group, "--content-type", "TYPE", help="instead of the one by the name")
    for flag, meaning in (
        ("--cache-control", "for browsers and caches, such as max-age=3600"),
        ("--content-encoding", "such as gzip"),
        ("--content-disposition", "such as attachment"),
        ("--content-language", "such as de"),
    ):
        text_flag(group, flag, "VALUE", help=meaning)
    group.add_argument("--expires", type=_expires, default="", metavar="TIME", help="a date; caches ask again then")
    group.add_argument(
        "--website-redirect", type=_redirect, default="", metavar="URL", help="where a website sends its visitors"
    )
    text_flag(group, "--storage-class", "CLASS", help="such as STANDARD_IA")
    group.add_argument("--acl", type=_acl, default="", metavar="ACL", help="a canned one, such as public-read")
    group.add_argument("--sse", type=_sse, default="", metavar="HOW", help="AES256, aws:kms or aws:kms:KEYID")
    group.add_argument("--tags", type=_pairs, action="append", default=[], metavar="K=V&...", help="repeatable")


def _expires(text: str) -> str:
    if text in ("", NEVER_FRESH) or parse_http_date(text) is not None:
        return text
    try:
        seconds = parse_time_or_age(text, 0.0)
    except UsageError:
        seconds = -1.0
    if seconds < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no date; write 2026-12-31, or as HTTP has them")
    from email.utils import formatdate

    return formatdate(seconds, usegmt=True)


def _redirect(text: str) -> str:
    if text and not (text.startswith(REDIRECTS) and len(text) <= MAX_REDIRECT_CHARS):
        raise argparse.ArgumentTypeError(f"{text!r} does not begin with /, http:// or https://, or is too long")
    return text


def _acl(text: str) -> str:
    if text and text not in CANNED_ACLS:
        raise argparse.ArgumentTypeError(f"{text!r} is no canned ACL; there are {', '.join(CANNED_ACLS)}")
    return text


def _sse(text: str) -> str:
    if text and text not in ENCRYPTIONS and not (text.startswith(KMS_KEY) and text != KMS_KEY):
        raise argparse.ArgumentTypeError(f"{text!r} is unknown; there are {', '.join(ENCRYPTIONS)} and {KMS_KEY}KEYID")
    return text


def add_hint(error: Exception, args: argparse.Namespace) -> None:
    """Add the flags that a server may have refused to its error: most servers do not name them."""
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


def _metadata(text: str) -> tuple[str, str]:
    name, value = _pair(text)
    plain = name.lower()
    if plain in SYSTEM_HEADERS:
        raise argparse.ArgumentTypeError(f"{name} is no metadata of your own: {SYSTEM_HEADERS[plain]} sets it")
    if plain.startswith(METADATA_PREFIX):
        raise argparse.ArgumentTypeError(
            f"{name} has the prefix already: write {plain[len(METADATA_PREFIX) :]}={value}"
        )
    if plain in SERVERS_HEADERS or plain.startswith(SYSTEM_PREFIX):
        raise argparse.ArgumentTypeError(f"{name} is no metadata of your own, but a header of S3's")
    return name, value


def _pairs(text: str) -> list[tuple[str, str]]:
    return [_pair(piece) for piece in text.split("&")]


def warn_of_attributes(target: Location, args: argparse.Namespace, warn: Callable[[str], None]) -> None:
    """Warn about attribute flags where the target is a file, which cannot store them."""
    flags = dict.fromkeys(("--metadata", *SYSTEM_HEADERS.values()))
    given = [flag for flag in flags if getattr(args, flag[2:].replace("-", "_"))]
    if given and not isinstance(target, S3Path):
        warn(f"{', '.join(given)}: without effect, because {target.text} is not in S3")


def attributes_of(args: argparse.Namespace) -> ObjectAttributes:
    """Return the attributes that the flags set."""
    metadata = {name.lower(): value for name, value in args.metadata}
    tags = dict(pair for pairs in args.tags for pair in pairs)
    return ObjectAttributes(**{**given_for(ObjectAttributes, args), "metadata": metadata, "tags": tags})


def given_for(record: type[Any], args: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the flags that have the names of a record's fields."""
    return {name: value for name, value in vars(args).items() if name in record.__match_args__}


REQUEST_PAYER = {"x-amz-request-payer": "requester"}
# What makes a request one, and what is signed: no header of the user's.
OWN_HEADERS = word_set(
    "authorization connection content-length content-md5 expect host transfer-encoding x-amz-content-sha256 "
    "x-amz-copy-source x-amz-date x-amz-security-token"
)
CUSTOMER_MARK = "server-side-encryption-customer"
KEY_BYTES = 32
NO_KEY = "none"  # in place of the file of a key
MOST_KEY_FILE_BYTES = 128
READABLE_BY_OTHERS = 0o077
HERE = ("localhost", "127.", "::1", "[::1]")


def add_request_flags(parser: argparse.ArgumentParser) -> None:
    """Add --header, --request-payer and --sse-c."""
    group = section(parser, STORED)
    group.add_argument(
        "--header", type=_header, action="append", default=[], metavar="'N: V'", help="send it, signed; repeatable"
    )
    switch(group, "--request-payer", help="agree to pay for the requests")
    text_flag(group, "--sse-c", "KEYFILE", help="store and read with the key in it: 32 bytes, or hex or base64")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    plain, value = name.strip().lower(), value.strip()
    if not colon or not TOKEN.fullmatch(plain) or FORBIDDEN_IN_VALUE.search(value) or not value.isascii():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME: VALUE")
    if plain in SYSTEM_HEADERS:
        raise argparse.ArgumentTypeError(f"{name} has a flag of its own: {SYSTEM_HEADERS[plain]}")
    if CUSTOMER_MARK in plain:
        raise argparse.ArgumentTypeError(f"{name} would show the key to everybody here: --sse-c reads it from a file")
    if plain in OWN_HEADERS:
        raise argparse.ArgumentTypeError(f"{name} is set by s3pool itself")
    return plain, value


def headers_of(args: argparse.Namespace, config: Config, *, is_source: bool) -> ExtraHeaders | None:
    """Return what the flags add to the requests to a target, or to a copy's source; None where there is nothing."""
    plain = dict(getattr(args, "header", ())) | (REQUEST_PAYER if getattr(args, "request_payer", False) else {})
    path, of_source = getattr(args, "sse_c", ""), getattr(args, "sse_c_source", "")
    if not (path or of_source):
        return ExtraHeaders(plain) if plain else None
    if path and getattr(args, "sse", ""):
        raise UsageError("--sse and --sse-c exclude each other: the storage has the key, or you have")
    for endpoint in config.endpoints:
        if endpoint.scheme != "https" and not endpoint.host.startswith(HERE):
            raise UsageError(f"--sse-c: {endpoint} is not https, and the key would be read on the way")
    # One key for both sides, if no other is given: what was stored with it stays stored with it.
    key, source_key = _read_key(path), b"" if of_source == NO_KEY else _read_key(of_source or path)
    return ExtraHeaders(plain, source_key if is_source else key, source_key=source_key)


def _read_key(path: str) -> bytes:
    if not path:
        return b""
    try:
        with open(path, "rb") as stream:
            mode, text = os.fstat(stream.fileno()).st_mode, stream.read(MOST_KEY_FILE_BYTES)
    except OSError as exc:
        raise UsageError(f"--sse-c: cannot read {path}: {describe_os_error(exc)}") from exc
    if mode & READABLE_BY_OTHERS:
        raise UsageError(f"--sse-c: others may read {path}; chmod 600 {path}")
    key = _decoded(text)
    if len(key) != KEY_BYTES:
        raise UsageError(f"--sse-c: {path} holds no key of {KEY_BYTES} bytes, raw, in hex or in base64")
    return key


def _decoded(text: bytes) -> bytes:
    word = text.strip()
    try:
        if re.fullmatch(rb"[0-9A-Fa-f]{64}", word):
            return unhexlify(word)
        return text if len(text) == KEY_BYTES else b64decode(word, validate=True)
    except (Error, ValueError):
        return b""


def check_ends(sources: Iterable[Location], target: Location, args: argparse.Namespace) -> None:
    """Refuse flags that are of copies inside S3, or of downloads, for anything else."""
    other = next((end for end in (*sources, target) if not isinstance(end, S3Path)), None)
    for flag, value, what, hint in (
        ("--source-profile", args.source_profile, "copies from one pool to another", "with one pool use --profile"),
        ("--sse-c-source", args.sse_c_source, "is the key of a copy's source", "with one key use --sse-c"),
    ):
        if value and other is not None:
            raise UsageError(f"{flag} {value} {what}, and {other.text} is not in S3; {hint}")
    if args.no_verify and isinstance(target, S3Path):
        raise UsageError(f"--no-verify is for downloads, and {target.text} is in S3")
