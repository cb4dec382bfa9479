"""Headers that every request of a command has: those of the user's, of who pays, and of a key of the customer's."""

from __future__ import annotations

import argparse
import os
import re
from base64 import b64decode
from binascii import Error, unhexlify
from typing import TYPE_CHECKING

from s3pool.cli.attributes import SYSTEM_HEADERS
from s3pool.errors import UsageError, describe_os_error
from s3pool.s3.requests import FORBIDDEN_IN_VALUE, TOKEN, ExtraHeaders

if TYPE_CHECKING:
    from s3pool.config.options import Config

REQUEST_PAYER = {"x-amz-request-payer": "requester"}
# What makes a request one, and what is signed: no header of the user's.
OWN_HEADERS = frozenset(
    (
        *("authorization", "connection", "content-length", "content-md5", "expect", "host", "transfer-encoding"),
        *("x-amz-content-sha256", "x-amz-copy-source", "x-amz-date", "x-amz-security-token"),
    )
)
CUSTOMER_MARK = "server-side-encryption-customer"
KEY_BYTES = 32
MOST_KEY_FILE_BYTES = 128
READABLE_BY_OTHERS = 0o077
HERE = ("localhost", "127.", "::1", "[::1]")


def add_request_flags(parser: argparse.ArgumentParser) -> None:
    """Add --header, --request-payer and --sse-c."""
    parser.add_argument(
        "--header", type=_header, action="append", default=[], metavar="'N: V'", help="send it, signed; repeatable"
    )
    parser.add_argument("--request-payer", action="store_true", help="agree to pay for the requests")
    parser.add_argument(
        "--sse-c", default="", metavar="KEYFILE", help="store and read with the key in it: 32 bytes, or hex or base64"
    )


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


def headers_of(args: argparse.Namespace, config: Config) -> ExtraHeaders | None:
    """Return what the flags add to the requests; None where there is nothing.

    Raises:
        UsageError: the key cannot be read, or would be sent for all to read.
    """
    plain = dict(getattr(args, "header", ())) | (REQUEST_PAYER if getattr(args, "request_payer", False) else {})
    path = getattr(args, "sse_c", "")
    if not path:
        return ExtraHeaders(plain) if plain else None
    if getattr(args, "sse", ""):
        raise UsageError("--sse and --sse-c exclude each other: the storage has the key, or you have")
    for endpoint in config.endpoints:
        if endpoint.scheme != "https" and not endpoint.host.startswith(HERE):
            raise UsageError(f"--sse-c: {endpoint} is not https, and the key would be read on the way")
    return ExtraHeaders(plain, _read_key(path))


def _read_key(path: str) -> bytes:
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
