"""The key that SigV4 signs with: requests_aws4auth's derivation, no more of it than that, and its HMAC."""

from __future__ import annotations

import os
from functools import cache
from hashlib import sha256
from typing import Any, Protocol

KEY_MODULE = "aws4signingkey"  # of requests_aws4auth
SHA256_BLOCK_BYTES = 64
INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))  # HMAC's two masks, as tables for translate()
OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))


class SigningKey(Protocol):
    """What is used of requests_aws4auth's AWS4SigningKey: a key and what it is good for."""

    date: str
    scope: str
    key: bytes
    secret_key: str


def make_signing_key(secret: str, date: str, *, region: str, service: str) -> SigningKey:
    """Derive the key of one day (``YYYYMMDD``), region and service."""
    key: SigningKey = _key_class()(secret, region, service, date)
    return key


@cache
def _key_class() -> Any:
    """Return requests_aws4auth's AWS4SigningKey.

    The package itself imports requests, for auth objects that nobody here hands to it, and
    that takes longer than the whole rest of a short command. So the one module with the key
    is loaded by itself, where it is a plain file.
    """
    from importlib.machinery import PathFinder, SourceFileLoader
    from types import ModuleType

    package = PathFinder.find_spec("requests_aws4auth")
    for directory in (package.submodule_search_locations or ()) if package is not None else ():
        path = f"{directory}/{KEY_MODULE}.py"
        if os.path.isfile(path):
            module = ModuleType(f"s3pool.s3.{KEY_MODULE}")
            SourceFileLoader(module.__name__, path).exec_module(module)
            return module.AWS4SigningKey
    from requests_aws4auth import AWS4SigningKey

    return AWS4SigningKey


class Mac:
    """HMAC-SHA256 under one key, for many texts.

    The key is held as the two hash states that every HMAC under it begins with (RFC 2104,
    section 4): OpenSSL 3 takes longer to set up one HMAC than to copy both. What all texts
    begin with is in the inner one already.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes, *, begins_with: bytes = b"") -> None:
        block = key.ljust(SHA256_BLOCK_BYTES, b"\0")
        self._inner = sha256(block.translate(INNER_PAD) + begins_with)
        self._outer = sha256(block.translate(OUTER_PAD))

    def sign(self, text: bytes) -> str:
        """Return the hex HMAC of a text; it goes on from what all texts begin with."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text)
        outer.update(inner.digest())
        return outer.hexdigest()
