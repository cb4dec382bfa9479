"""The key that SigV4 signs with: requests_aws4auth's derivation, and no more of it than that."""

from __future__ import annotations

import os
from functools import cache
from typing import Any, Protocol

KEY_MODULE = "aws4signingkey"  # of requests_aws4auth


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
    """Give requests_aws4auth's AWS4SigningKey.

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
