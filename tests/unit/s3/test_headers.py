"""What goes into headers, and what HEAD's answer says."""

from __future__ import annotations

import pytest

from s3pool.errors import ProtocolError, UsageError
from s3pool.model import ObjectAttributes
from s3pool.s3.requests import attribute_headers, copy_headers, quote_etag
from s3pool.s3.responses import head_of


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
