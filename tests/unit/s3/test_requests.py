"""What requests are made of: paths and hosts, headers, parts within S3's limits; and what HEAD's answer says."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pool.errors import ProtocolError, UsageError
from s3pool.model import ByteRange, ObjectAttributes
from s3pool.s3 import requests
from s3pool.s3.operation import Addressing
from s3pool.s3.requests import MIB, attribute_headers, choose_part_size, copy_headers, iter_part_ranges, quote_etag
from s3pool.s3.responses import head_of
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


def test_no_attributes_are_no_headers() -> None:
    """Empty means the server's default."""
    assert {} == attribute_headers(ObjectAttributes())


def test_every_attribute_has_its_header() -> None:
    """S3's names, all in lower case."""
    attributes = ObjectAttributes(
        content_type="text/plain",
        metadata={"Owner": "é  x"},
        storage_class="COLD",
        acl="private",
        sse="AES256",
        tags={"a b": "c&d", "e": ""},
        cache_control="no-cache",
        content_disposition="inline",
        content_encoding="gzip",
        content_language="de",
        expires="0",
    )

    headers = attribute_headers(attributes)

    assert {
        "content-type": "text/plain",
        "cache-control": "no-cache",
        "content-disposition": "inline",
        "content-encoding": "gzip",
        "content-language": "de",
        "expires": "0",
        "x-amz-storage-class": "COLD",
        "x-amz-acl": "private",
        "x-amz-tagging": "a%20b=c%26d&e=",
        "x-amz-server-side-encryption": "AES256",
        "x-amz-meta-owner": "é  x",
    } == headers


@pytest.mark.parametrize(
    ("sse", "expected"),
    [
        ("aws:kms", {"x-amz-server-side-encryption": "aws:kms"}),
        ("aws:kms:dsse", {"x-amz-server-side-encryption": "aws:kms:dsse"}),
        (
            "aws:kms:arn:x/1",
            {"x-amz-server-side-encryption": "aws:kms", "x-amz-server-side-encryption-aws-kms-key-id": "arn:x/1"},
        ),
    ],
)
def test_a_kms_key_has_its_own_header(sse: str, expected: dict[str, str]) -> None:
    """One word on the command line, two headers on the wire."""
    assert expected == attribute_headers(ObjectAttributes(sse=sse))


@pytest.mark.parametrize(
    "attributes",
    [
        ObjectAttributes(content_type="text/plain\r\nx-amz-acl: public-read"),
        ObjectAttributes(metadata={"a": "b\nc"}),
        ObjectAttributes(metadata={"a": "b\x00"}),
        ObjectAttributes(metadata={"a\r\nx": "b"}),
        ObjectAttributes(metadata={"a b": "c"}),
        ObjectAttributes(metadata={"a:": "c"}),
        ObjectAttributes(metadata={"é": "c"}),
        ObjectAttributes(metadata={"": "c"}),
        ObjectAttributes(cache_control="a\x7f"),
    ],
)
def test_what_cannot_stand_in_a_header_is_refused(attributes: ObjectAttributes) -> None:
    """A line break in a value would be a header of its own."""
    with pytest.raises(UsageError, match="cannot be stored"):
        attribute_headers(attributes)


def test_the_source_of_a_copy_is_encoded() -> None:
    """Servers decode it once; slashes stay."""
    assert (
        "b/d/a%20%2B%25%3F%C3%A9?versionId=v%2F1"
        == copy_headers("b", "d/a +%?é", version_id="v/1")["x-amz-copy-source"]
    )


@pytest.mark.parametrize(("etag", "quoted"), [("abc", '"abc"'), ('"abc"', '"abc"'), ("*", "*")])
def test_an_etag_in_a_condition_is_quoted(etag: str, quoted: str) -> None:
    """The model has no quotes, HTTP demands them."""
    assert quoted == quote_etag(etag)


def head_answer(**headers: str) -> dict[str, str]:
    """Build the headers of an answer to HEAD; underscores in names are dashes."""
    return {name.replace("_", "-"): value for name, value in headers.items()}


def test_head_gives_the_object() -> None:
    """Everything that stat prints."""
    head = head_of(
        head_answer(
            content_length="12",
            last_modified="Thu, 22 Jan 2026 20:44:33 GMT",
            etag='"abc"',
            content_type="text/plain",
            x_amz_meta_mtime="1.5",
            x_amz_version_id="v",
        )
    )

    assert (12, "2026-01-22T20:44:33.000Z", "abc", "text/plain") == (
        head.size,
        head.last_modified,
        head.etag,
        head.content_type,
    )
    assert ("STANDARD", "v", {"mtime": "1.5"}) == (head.storage_class, head.version_id, head.metadata)
    assert '"abc"' == head.headers["etag"]


@pytest.mark.parametrize(
    "headers",
    [
        {"last_modified": "Thu, 22 Jan 2026 20:44:33 GMT"},
        {"content_length": "-1", "last_modified": "Thu, 22 Jan 2026 20:44:33 GMT"},
        {"content_length": "1"},
        {"content_length": "9" * 19, "last_modified": "Thu, 22 Jan 2026 20:44:33 GMT"},
    ],
)
def test_head_without_size_or_time_is_no_answer(headers: dict[str, str]) -> None:
    """A guessed size would become a truncated download."""
    with pytest.raises(ProtocolError):
        head_of(head_answer(**headers))


def test_the_ranges_are_consecutive_and_the_last_one_is_shorter() -> None:
    """The example of the docstring."""
    ranges = list(iter_part_ranges(11 * MIB, 5 * MIB))

    assert [ByteRange(0, 5 * MIB - 1), ByteRange(5 * MIB, 10 * MIB - 1), ByteRange(10 * MIB, 11 * MIB - 1)] == ranges


def test_an_empty_object_has_no_ranges() -> None:
    """A range of no bytes cannot be written."""
    assert [] == list(iter_part_ranges(0, 5 * MIB))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        # S3 would refuse these only at the end, at Complete.
        *((partial(iter_part_ranges, 1, size), "5 MiB to 5 GiB") for size in (0, 5 * MIB - 1, (5 << 30) + 1)),
        (partial(iter_part_ranges, 10_000 * 5 * MIB + 1, 5 * MIB), "more than 10,000 parts"),  # after all others
        (partial(choose_part_size, 1, wanted=5 << 10), "5 MiB to 5 GiB"),  # such as 5K
        (partial(choose_part_size, (5 << 40) + 1), "at most 5 TiB"),  # no part size can help it
    ],
)
def test_what_is_outside_the_limits_is_refused(act: Callable[[], object], message: str) -> None:
    """It must not be rounded in silence."""
    with pytest.raises(UsageError, match=message):
        act()


def test_part_size_holds_while_it_suffices() -> None:
    """Only sizes beyond 10,000 parts need larger ones, whatever the user wanted."""
    limit = requests.DEFAULT_PART_BYTES * 10_000

    assert requests.DEFAULT_PART_BYTES == choose_part_size(limit)
    assert requests.DEFAULT_PART_BYTES + MIB == choose_part_size(limit + 1)
    assert 5 * MIB == choose_part_size(50_000 * MIB, wanted=5 * MIB)
    assert 6 * MIB == choose_part_size(50_000 * MIB + 1, wanted=5 * MIB)


@given(size=st.integers(0, 5 << 40), wanted=st.sampled_from([0, 5 * MIB, 64 * MIB, 5 << 30]))
def test_a_chosen_part_size_always_works(size: int, wanted: int) -> None:
    """Whatever the size up to 5 TiB, the parts fit S3's limits."""
    part_size = choose_part_size(size, wanted=wanted)

    assert requests.MIN_PART_BYTES <= part_size <= requests.MAX_PART_BYTES
    assert requests.count_parts(size, part_size) <= requests.MAX_PARTS


@given(size=st.integers(1, 200 * MIB), part_size=st.integers(5 * MIB, 70 * MIB))
def test_the_ranges_cover_every_byte_once(size: int, part_size: int) -> None:
    """A gap or an overlap would be a corrupt object."""
    ranges = list(iter_part_ranges(size, part_size))

    assert 0 == ranges[0].first
    assert size - 1 == ranges[-1].last
    assert all(left.last + 1 == right.first for left, right in pairwise(ranges))
    assert {part_size} >= {span.length for span in ranges[:-1]}
