"""Heads of many requests: byte for byte those that are built one by one."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pool.body import EMPTY_BODY, EMPTY_SHA256, BytesBody
from s3pool.errors import UsageError
from s3pool.model import Credentials, Endpoint, Request
from s3pool.pool.transport import DEFAULT_HEADERS, build_head
from s3pool.s3.signedhead import SignedHeads
from s3pool.s3.sigv4 import Signer

NOW = 1_700_000_000.0
NODE = Endpoint("http", "node", 9000)
IDENTITIES = [Credentials("AK%ID", "secret"), Credentials("AKID", "secret", "tok%en=="), None]
NAMES = [
    *("accept-encoding", "cache-control", "content-md5", "content-type", "host", "if-match", "range", "user-agent"),
    *("x-amz-acl", "x-amz-content-sha256", "x-amz-date", "x-amz-meta-mtime", "x-amz-meta-zz"),
]
VALUES = ["", "a", " a", "a b", "a  b", "a\tb", "%s", "\u00e4", "\udcff"]
REQUESTS = st.builds(
    Request,
    st.sampled_from(["GET", "PUT", "HEAD", "DELETE", "POST"]),
    st.sampled_from(["/b/k", "/b/%25x", "/b/a%20b"]),
    st.just("Op"),
    query=st.sampled_from([(), (), (("a", "b c"),)]),
    headers=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES), max_size=4),
    body=st.sampled_from([EMPTY_BODY, BytesBody(b"xyz")]),
    payload_hash=st.sampled_from(["UNSIGNED-PAYLOAD", EMPTY_SHA256]),
    bucket_host=st.sampled_from(["", "bucket"]),
)


def heads(signer: Signer) -> SignedHeads:
    """Give what builds the heads of many requests."""
    return SignedHeads(signer, build_head, DEFAULT_HEADERS)


@given(st.sampled_from(IDENTITIES), st.lists(st.tuples(REQUESTS, st.integers(0, 2)), min_size=1, max_size=6))
def test_heads_are_those_that_are_built_one_by_one(
    credentials: Credentials | None, requests: list[tuple[Request, int]]
) -> None:
    """Whatever the request, and whatever went before it."""
    signer = Signer(credentials, region="us-east-1")
    many = heads(signer)

    built = [many(request, NODE, NOW + second) for request, second in requests]

    assert built == [build_head(request, signer.sign(request, NODE, NOW + second)) for request, second in requests]


@pytest.mark.parametrize("value", ["a\rb", "a\nb", "a\r\nb", "a\0b"])
def test_line_break_in_a_value_is_refused(value: str) -> None:
    """It would end the header early."""
    many = heads(Signer(IDENTITIES[0], region="us-east-1"))
    request = Request("PUT", "/b/k", "PutObject", headers={"x-amz-meta-a": value})

    with pytest.raises(UsageError, match="line break"):
        many(request, NODE, NOW)


def test_everyday_request_is_not_built_one_by_one() -> None:
    """That is what it is for."""
    build = Mock()
    many = SignedHeads(Signer(IDENTITIES[0], region="us-east-1"), build, DEFAULT_HEADERS)

    many(Request("PUT", "/b/k", "PutObject", headers={"content-type": "text/plain"}), NODE, NOW)

    build.assert_not_called()
