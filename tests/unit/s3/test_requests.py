"""Paths and hosts of requests, and names that are refused."""

from __future__ import annotations

import base64
import hashlib

import pytest

from s3pool.errors import UsageError
from s3pool.s3.operation import Addressing
from tests.support.scripted_sender import ENDPOINT


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("a/b", "/bkt/a/b"),
        ("/a//b/../c", "/bkt//a//b/../c"),
        ("%+ é;=", "/bkt/%25%2B%20%C3%A9%3B%3D"),
        ("\udcff\n", "/bkt/%FF%0A"),
        ("..", "/bkt/.."),
    ],
)
def test_a_key_is_encoded_and_never_normalised(key: str, path: str) -> None:
    """Every key is legal, and each is another object."""
    request = Addressing().key("GET", "bkt", key, "GetObject")

    assert (path, "", f"s3/bkt/{key}") == (request.path, request.bucket_host, request.resource)


def test_virtual_addressing_moves_the_bucket_into_the_host() -> None:
    """The path then holds the key alone."""
    request = Addressing(virtual=True).key("GET", "bkt", "a b", "GetObject")

    assert ("/a%20b", "bkt.node1:9000") == (request.path, request.host_header(ENDPOINT))


@pytest.mark.parametrize(("virtual", "path", "host"), [(False, "/bkt", "node1:9000"), (True, "/", "bkt.node1:9000")])
def test_a_bucket_has_a_path_or_a_host(virtual: bool, path: str, host: str) -> None:
    """Both styles name the same bucket."""
    request = Addressing(virtual=virtual).bucket("GET", "bkt", "ListObjectsV2")

    assert (path, host, "s3/bkt") == (request.path, request.host_header(ENDPOINT), request.resource)


@pytest.mark.parametrize("bucket", ["", ".", "..", "a/b"])
def test_what_is_no_bucket_is_refused(bucket: str) -> None:
    """DELETE / or DELETE /a/b would mean something else."""
    with pytest.raises(UsageError, match="no bucket's name"):
        Addressing().bucket("DELETE", bucket, "DeleteBucket")


def test_an_empty_key_is_refused() -> None:
    """DELETE /bkt/ would delete the bucket."""
    with pytest.raises(UsageError, match="s3/bkt names a bucket"):
        Addressing().key("DELETE", "bkt", "", "DeleteObject")


def test_a_document_carries_its_digests() -> None:
    """S3 demands Content-MD5 for a batch delete, and the signature the SHA-256."""
    content = b"<Delete/>"

    request = Addressing().bucket("POST", "bkt", "DeleteObjects", content=content)

    md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
    assert {"content-type": "application/xml", "content-md5": md5} == request.headers
    assert (hashlib.sha256(content).hexdigest(), 9) == (request.payload_hash, request.body.length)
