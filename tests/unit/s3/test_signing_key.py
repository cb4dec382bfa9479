"""The signing key is requests_aws4auth's own, however its module is found."""

from __future__ import annotations

from importlib.machinery import PathFinder

import pytest
from requests_aws4auth import AWS4SigningKey

from s3pool.s3 import signing
from s3pool.s3.signing import make_signing_key


@pytest.mark.parametrize("is_plain_file", [True, False])
def test_key_is_the_librarys(monkeypatch: pytest.MonkeyPatch, is_plain_file: bool) -> None:
    """Loaded alone or with its package, it derives the same bytes."""
    if not is_plain_file:
        monkeypatch.setattr(PathFinder, "find_spec", lambda _name: None)
    signing._key_class.cache_clear()

    key = make_signing_key("secret", "20260122", region="us-east-1", service="s3")

    library = AWS4SigningKey("secret", "us-east-1", "s3", "20260122")
    assert (library.key, library.scope) == (key.key, key.scope)
    assert is_plain_file != isinstance(key, AWS4SigningKey)
    signing._key_class.cache_clear()
