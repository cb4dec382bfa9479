"""How S3's answers are read, and which of them do not count."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from xml.etree import ElementTree

import pytest

from s3pool.errors import ProtocolError
from s3pool.model import BucketInfo, ObjectInfo, PartInfo, UploadInfo
from s3pool.s3 import documents, pages, responses
from s3pool.s3.responses import DeleteFailure

CONTENTS = (
    "<Contents><Key>{key}</Key><LastModified>2026-01-22T20:44:33.219Z</LastModified>"
    "<ETag>&quot;abc&quot;</ETag><Size>12</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


def list_page(inner: str, *, truncated: str = "<IsTruncated>false</IsTruncated>") -> bytes:
    """Write a page of ListObjectsV2."""
    head = '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    return f"{head}<Name>b</Name>{truncated}{inner}</ListBucketResult>".encode()


def keys_of(body: bytes) -> list[str]:
    """Read the keys of a page."""
    return [entry.key for entry in pages.parse_list_page(body).objects]


def test_a_page_gives_objects_prefixes_and_the_token() -> None:
    """The whole of ListObjectsV2's answer arrives."""
    body = list_page(
        CONTENTS.format(key="a&amp;b")
        + "<CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>"
        + "<MaxKeys>2</MaxKeys><KeyCount>2</KeyCount><NextContinuationToken>t</NextContinuationToken>",
        truncated="<IsTruncated>true</IsTruncated>",
    )

    page = pages.parse_list_page(body)

    assert (ObjectInfo("a&b", 12, "2026-01-22T20:44:33.219Z", etag="abc"),) == page.objects
    assert ("d/",) == page.prefixes
    assert (True, "t", 2, False) == (page.truncated, page.next_token, page.max_keys, page.v1)


def test_several_prefixes_in_one_group_are_all_read() -> None:
    """Some servers write one CommonPrefixes for all of them."""
    body = list_page("<CommonPrefixes><Prefix>a/</Prefix><Prefix>b/</Prefix></CommonPrefixes>")

    assert ("a/", "b/") == pages.parse_list_page(body).prefixes


@pytest.mark.parametrize(
    ("encoded", "key"),
    [
        ("a%2Fb%20c+d%2B%2541", "a/b c d+%41"),
        ("%C3%A9%F0%9F%98%80", "é\U0001f600"),
        ("%FFx", "\udcffx"),
        ("a%0Ab%01", "a\nb\x01"),
        ("100%", "100%"),
        ("&apos;%26amp%3B", "'&amp;"),
    ],
)
def test_names_are_decoded_when_the_answer_says_so(encoded: str, key: str) -> None:
    """Percent signs are decoded after XML's entities, as bytes."""
    assert [key] == keys_of(list_page(CONTENTS.format(key=encoded) + "<EncodingType>url</EncodingType>"))


def test_names_are_left_alone_when_the_answer_does_not_say_so() -> None:
    """A server that ignores encoding-type sends keys as they are, percent signs included."""
    assert ["a%41+b"] == keys_of(list_page(CONTENTS.format(key="a%41+b")))


def test_an_unknown_encoding_is_refused() -> None:
    """Guessing at names could delete the wrong ones."""
    with pytest.raises(ProtocolError, match="unknown way: rot13"):
        pages.parse_list_page(list_page("<EncodingType>rot13</EncodingType>"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>maintenance</body></html>",
        b"<ListAllMyBucketsResult><IsTruncated>false</IsTruncated></ListAllMyBucketsResult>",
        list_page("")[:-1],
        list_page("", truncated=""),
        list_page("", truncated="<IsTruncated/>"),
        list_page("", truncated="<IsTruncated> false </IsTruncated>"),
        list_page("", truncated="<IsTruncated>FALSE</IsTruncated>"),
        list_page("", truncated="<IsTruncated>false</IsTruncated>" * 2),
        list_page("<KeyCount>0</KeyCount>", truncated="<IsTruncated>true</IsTruncated>"),
        list_page(CONTENTS.format(key="a"), truncated="<IsTruncated>true</IsTruncated>"),
        list_page("<NextContinuationToken/>", truncated="<IsTruncated>true</IsTruncated>"),
        list_page(CONTENTS.format(key="")),
        list_page("<Contents/>"),
        list_page("<Contents><Key>a</Key></Contents>"),
        list_page(CONTENTS.format(key="a").replace("12", "-1")),
        list_page(CONTENTS.format(key="a").replace("12", "\u0661")),
        list_page(CONTENTS.format(key="a").replace("2026-01-22T20:44:33.219Z", "yesterday")),
        list_page("<CommonPrefixes><Prefix/></CommonPrefixes>"),
        list_page("<MaxKeys>many</MaxKeys>"),
    ],
)
def test_what_is_not_a_complete_page_does_not_count(body: bytes) -> None:
    """A page that is cut or misunderstood must never look like the end of a listing."""
    with pytest.raises(ProtocolError):
        pages.parse_list_page(body)


def test_v1_is_recognised_and_goes_on_at_its_marker() -> None:
    """Servers without V2 answer it in V1's words."""
    body = list_page(
        CONTENTS.format(key="a") + "<Marker/><NextMarker>n</NextMarker>", truncated="<IsTruncated>true</IsTruncated>"
    )

    page = pages.parse_list_page(body)

    assert (True, "n") == (page.v1, page.next_token)


@pytest.mark.parametrize(
    ("inner", "marker"),
    [
        (CONTENTS.format(key="a"), "a"),
        (CONTENTS.format(key="a") + "<CommonPrefixes><Prefix>b/</Prefix></CommonPrefixes>", "b/"),
        (CONTENTS.format(key="c") + "<CommonPrefixes><Prefix>b/</Prefix></CommonPrefixes>", "c"),
    ],
)
def test_v1_without_a_marker_goes_on_after_its_last_name(inner: str, marker: str) -> None:
    """AWS gives a NextMarker only with a delimiter."""
    page = pages.parse_list_page(list_page(inner, truncated="<IsTruncated>true</IsTruncated>"), v1=True)

    assert (True, marker) == (page.v1, page.next_token)


@pytest.mark.parametrize("marker", ["a%2520b", "a%20b"])
def test_a_marker_is_understood_encoded_and_as_it_is(marker: str) -> None:
    """AWS encodes the marker like the keys, RGW does not, and the answer does not tell."""
    body = list_page(
        CONTENTS.format(key="a%2520b") + f"<EncodingType>url</EncodingType><Marker/><NextMarker>{marker}</NextMarker>",
        truncated="<IsTruncated>true</IsTruncated>",
    )

    assert "a%20b" == pages.parse_list_page(body).next_token


def test_time_stamps_get_milliseconds() -> None:
    """Servers leave the fraction out, and the model has it always."""
    body = list_page(CONTENTS.format(key="a").replace("33.219Z", "33Z"))

    assert "2026-01-22T20:44:33.000Z" == pages.parse_list_page(body).objects[0].last_modified


def test_a_missing_storage_class_is_standard() -> None:
    """MinIO leaves it out at times, and an empty column would look like a fault."""
    body = list_page(CONTENTS.format(key="a").replace("<StorageClass>STANDARD</StorageClass>", "<StorageClass/>"))

    assert "STANDARD" == pages.parse_list_page(body).objects[0].storage_class


VERSIONS = b"""<ListVersionsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<IsTruncated>true</IsTruncated><EncodingType>url</EncodingType>
<NextKeyMarker>a%20b</NextKeyMarker><NextVersionIdMarker>null</NextVersionIdMarker>
<DeleteMarker><Key>a%20b</Key><VersionId>v2</VersionId><IsLatest>true</IsLatest>
<LastModified>2026-01-22T20:44:33.219Z</LastModified></DeleteMarker>
<Version><Key>a%20b</Key><VersionId>null</VersionId><IsLatest>false</IsLatest>
<LastModified>2026-01-21T20:44:33.219Z</LastModified><ETag>"e"</ETag><Size>3</Size></Version>
<CommonPrefixes><Prefix>p%2F</Prefix></CommonPrefixes></ListVersionsResult>"""


def test_versions_and_delete_markers_keep_their_order() -> None:
    """The order within a key is the history of the key."""
    page = pages.parse_versions_page(VERSIONS)

    marker, version = page.objects
    assert ("a b", "v2", True, True, 0) == (
        marker.key,
        marker.version_id,
        marker.is_latest,
        marker.is_delete_marker,
        marker.size,
    )
    assert ("a b", "null", False, False, 3) == (
        version.key,
        version.version_id,
        version.is_latest,
        version.is_delete_marker,
        version.size,
    )
    assert (("p/",), "a b", "null") == (page.prefixes, page.next_token, page.next_version_id)


@pytest.mark.parametrize(
    "body",
    [
        VERSIONS.replace(b"<NextKeyMarker>a%20b</NextKeyMarker>", b""),
        VERSIONS.replace(b"<IsLatest>true</IsLatest>", b"<IsLatest>maybe</IsLatest>"),
        VERSIONS.replace(b"<VersionId>v2</VersionId>", b""),
        VERSIONS.replace(b"ListVersionsResult", b"ListBucketResult"),
    ],
)
def test_an_incomplete_page_of_versions_does_not_count(body: bytes) -> None:
    """Versions are listed to be removed; a wrong page would remove the wrong ones."""
    with pytest.raises(ProtocolError):
        pages.parse_versions_page(body)


UPLOADS = (
    b"<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>"
    b"<NextUploadIdMarker>u</NextUploadIdMarker><Upload><Key>k</Key><UploadId>u</UploadId>"
    b"<Initiated>2026-01-22T20:44:33.219Z</Initiated></Upload></ListMultipartUploadsResult>"
)


def test_uploads_are_read_with_their_markers() -> None:
    """Key and id together say where the next page begins."""
    page = pages.parse_uploads_page(UPLOADS)

    assert (UploadInfo("k", "u", "2026-01-22T20:44:33.219Z"),) == page.uploads
    assert ("k", "u", True) == (page.next_key_marker, page.next_upload_id_marker, page.truncated)


@pytest.mark.parametrize("cut", [b"<NextKeyMarker>k</NextKeyMarker>", b"<UploadId>u</UploadId>"])
def test_an_incomplete_page_of_uploads_does_not_count(cut: bytes) -> None:
    """Without a marker the rest would be left behind unseen."""
    with pytest.raises(ProtocolError):
        pages.parse_uploads_page(UPLOADS.replace(cut, b""))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            b"<Error><Code>NoSuchKey</Code><Message>gone</Message><Resource>/b/k</Resource><RequestId>r1</RequestId></Error>",
            ("NoSuchKey", "gone", "/b/k", "r1"),
        ),
        (b"<Error><Code>NoSuchKey</Code></Error>", ("NoSuchKey", "", "", "")),
        (
            b"<ErrorResponse><Error><Code>Denied</Code></Error><RequestId>r2</RequestId></ErrorResponse>",
            ("Denied", "", "", "r2"),
        ),
        (b"<html/>", ("", "", "", "")),
        (b"<Error><Code>NoSuch", ("", "", "", "")),
        (b"", ("", "", "", "")),
    ],
)
def test_an_error_is_read_as_far_as_it_goes(body: bytes, expected: tuple[str, str, str, str]) -> None:
    """RGW leaves the message out, and a load balancer sends HTML."""
    assert expected == documents.parse_error(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"   \n<Error><Code>InternalError</Code></Error>", True),
        (b'\n <?xml version="1.0"?>\n<Error/>', True),
        (b"<ErrorResponse><Error/></ErrorResponse>", True),
        (b"<Error><Code>Int", False),
        (b"<DeleteResult><Error><Code>AccessDenied</Code></Error></DeleteResult>", False),
        (b"<a><b/></a>", False),
        (b"\n <?xml version='1.0'?> <List><Key>&lt;Error</Key><Error/></List>", False),
        (b"<!-- c --><Error></Error>", True),
        (b"<?xml version='1.0'?><!DOCTYPE Error><Error/>", False),
    ],
)
def test_an_error_document_is_told_from_a_result(body: bytes, expected: bool) -> None:
    """Keep-alive blanks may stand before it, and a batch delete reports errors in a result."""
    assert expected == documents.is_error(body)


SMALL_ANSWERS = [
    (
        documents.parse_parts,
        (
            b"<ListPartsResult><IsTruncated>true</IsTruncated><NextPartNumberMarker>7</NextPartNumberMarker>"
            b'<Part><PartNumber>7</PartNumber><ETag>"e"</ETag><Size>5</Size></Part></ListPartsResult>'
        ),
        ((PartInfo(7, "e", 5),), 7, True),  # resuming an upload rests on these numbers and sizes
    ),
    (
        documents.parse_buckets,
        (
            b"<ListAllMyBucketsResult><Owner><ID>o</ID></Owner><Buckets><Bucket><Name>b</Name>"
            b"<CreationDate>2026-01-22T20:44:33Z</CreationDate></Bucket></Buckets></ListAllMyBucketsResult>"
        ),
        ((BucketInfo("b", "2026-01-22T20:44:33.000Z"),), ""),
    ),
    (
        responses.parse_delete_result,
        (
            b"<DeleteResult><Deleted><Key>a</Key></Deleted><Error><Key>b</Key><VersionId>v</VersionId>"
            b"<Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
        ),
        ((DeleteFailure("b", "v", "AccessDenied", "no"),), frozenset("a")),
    ),
    (
        responses.parse_copy_result,
        b'<CopyObjectResult><ETag>"e"</ETag><LastModified>2026-01-22T20:44:33Z</LastModified></CopyObjectResult>',
        ("e", "2026-01-22T20:44:33.000Z"),
    ),
    (
        partial(responses.parse_copy_result, part=True),
        b"<CopyPartResult><ETag>&quot;p&quot;</ETag></CopyPartResult>",
        ("p", ""),
    ),
    (
        documents.parse_initiate,
        b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>",
        "u",
    ),
    # A server written in Go names the root after its type.
    (documents.parse_initiate, b"<InitiateMultipartUpload><UploadId>u</UploadId></InitiateMultipartUpload>", "u"),
    (
        documents.parse_complete,
        b'<CompleteMultipartUploadResult><ETag>"e-2"</ETag></CompleteMultipartUploadResult>',
        "e-2",
    ),
    (documents.parse_complete, b"<CompleteMultipartUploadResult><ETag/></CompleteMultipartUploadResult>", ""),
    (
        documents.parse_versioning,
        b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
        "Enabled",
    ),
    (documents.parse_versioning, b"<VersioningConfiguration/>", ""),
    (
        documents.parse_tags,
        b"<Tagging><TagSet><Tag><Key>k</Key><Value> v </Value></Tag></TagSet></Tagging>",
        {"k": " v "},
    ),
]


@pytest.mark.parametrize(("parse", "body", "expected"), SMALL_ANSWERS)
def test_small_answers_are_read(parse: Callable[[bytes], object], body: bytes, expected: object) -> None:
    """Each tells what the next request, or the user, needs of it."""
    assert expected == parse(body)


def test_tags_come_in_the_order_of_their_names() -> None:
    """A server may send them in another order each time (versitygw 1.8)."""
    tags = b"".join(b"<Tag><Key>%c</Key><Value>1</Value></Tag>" % name for name in b"cab")
    found = documents.parse_tags(b"<Tagging><TagSet>" + tags + b"</TagSet></Tagging>")

    assert ["a", "b", "c"] == list(found)


def test_an_upload_without_an_id_is_refused() -> None:
    """Parts for no upload would be lost."""
    with pytest.raises(ProtocolError, match="an entry has no UploadId"):
        documents.parse_initiate(b"<InitiateMultipartUploadResult/>")


def test_a_batch_delete_escapes_every_key() -> None:
    """Read back by another XML reader, the keys are the same, line ends included."""
    keys = [("a<b>&\"'", ""), ("\r\n\t x ", "v&1"), ("é\U0001f600", "")]

    root = ElementTree.fromstring(documents.build_delete(keys))

    name = "{http://s3.amazonaws.com/doc/2006-03-01/}"
    assert "true" == root.findtext(f"{name}Quiet")
    assert keys == [
        (entry.findtext(f"{name}Key"), entry.findtext(f"{name}VersionId", "")) for entry in root.iter(f"{name}Object")
    ]


def test_the_parts_of_an_upload_are_written_in_order() -> None:
    """S3 refuses them in another order, and wants checksums named by algorithm."""
    body = documents.build_complete([(1, "a"), (2, "b")], checksums={2: ("x-amz-checksum-sha256", "AA==")})

    root = ElementTree.fromstring(body)
    values = [[child.text for child in part] for part in root]
    assert [['"a"', "1"], ['"b"', "2", "AA=="]] == values
    assert b"<ChecksumSHA256>AA==</ChecksumSHA256>" in body


def test_a_bucket_in_the_first_region_is_created_without_a_body() -> None:
    """S3 refuses us-east-1 as a LocationConstraint."""
    assert b"" == documents.build_create_bucket("us-east-1")
    assert b"<LocationConstraint>eu-1</LocationConstraint>" in documents.build_create_bucket("eu-1")


def test_the_small_bodies_are_written() -> None:
    """Versioning and tags."""
    assert b"<Status>Enabled</Status>" in documents.build_versioning(enabled=True)
    assert b"<Status>Suspended</Status>" in documents.build_versioning(enabled=False)
    assert b"<Tag><Key>k</Key><Value>a&amp;b</Value></Tag>" in documents.build_tags({"k": "a&b"})
