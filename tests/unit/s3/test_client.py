"""What each operation sends, and what it makes of the answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from s3pool.body import BytesBody
from s3pool.errors import NotFoundError, PreconditionError, ProtocolError, S3Error, UsageError
from s3pool.model import ByteRange, Endpoint, ObjectAttributes, PartInfo, Request
from s3pool.s3.client import S3Client
from s3pool.s3.responses import DeleteFailure, PutResult
from tests.support.scripted_sender import ENDPOINT, Answer, ScriptedSender

EMPTY_PAGE = b"<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>"
EMPTY_V1_PAGE = b"<ListBucketResult><IsTruncated>false</IsTruncated><Marker/></ListBucketResult>"
HEAD_HEADERS = {"content-length": "3", "last-modified": "Thu, 22 Jan 2026 20:44:33 GMT", "etag": '"e"'}
BODY = BytesBody(b"abc")


def client_of(*answers: Answer, **options: str) -> tuple[S3Client, ScriptedSender]:
    """Build a client on scripted answers."""
    sender = ScriptedSender(answers)
    return S3Client(sender, **options), sender


def error(status: int, code: str) -> Answer:
    """Script an error."""
    return Answer(status, f"<Error><Code>{code}</Code></Error>".encode())


def sent_content(request: Request) -> bytes:
    """Give the body of a request that is held in memory."""
    assert isinstance(request.body, BytesBody)
    return request.body.content


def test_a_listing_asks_for_encoded_names_and_leaves_out_what_is_empty() -> None:
    """Control characters in keys break XML, and empty parameters are signed for nothing."""
    client, sender = client_of(Answer(body=EMPTY_PAGE))

    client.list_objects_page("bkt", prefix="p/", start_after="p/a")

    request = sender.requests[0]
    assert ("GET", "/bkt", "ListObjectsV2") == (request.method, request.path, request.op)
    assert (
        ("list-type", "2"),
        ("prefix", "p/"),
        ("max-keys", "1000"),
        ("encoding-type", "url"),
        ("start-after", "p/a"),
    ) == request.query
    assert 2.0 == request.timeout_factor


def test_a_token_goes_before_a_start() -> None:
    """Servers that get both take the token."""
    client, sender = client_of(Answer(body=EMPTY_PAGE))

    client.list_objects_page("bkt", start_after="a", token="t")

    assert "t" == dict(sender.requests[0].query)["continuation-token"]
    assert "start-after" not in dict(sender.requests[0].query)


@pytest.mark.parametrize(
    ("status", "code"),
    [(501, "NotImplemented"), (400, "InvalidArgument"), (400, "InvalidRequest"), (400, "NotImplemented")],
)
def test_a_server_that_refuses_v2_is_listed_by_v1_from_then_on(status: int, code: str) -> None:
    """Old servers know ListObjects alone."""
    client, sender = client_of(error(status, code), Answer(body=EMPTY_V1_PAGE), Answer(body=EMPTY_V1_PAGE))

    client.list_objects_page("bkt", start_after="a")
    client.list_objects_page("bkt", token="b")

    assert ["ListObjectsV2", "ListObjects", "ListObjects"] == [request.op for request in sender.requests]
    assert ["a", "b"] == [dict(request.query)["marker"] for request in sender.requests[1:]]
    assert "list-type" not in dict(sender.requests[1].query)


def test_what_v1_refuses_too_was_not_the_fault_of_v2() -> None:
    """The first error tells what is wrong, and V2 stays."""
    client, sender = client_of(error(400, "InvalidArgument"), error(403, "AccessDenied"), Answer(body=EMPTY_PAGE))

    with pytest.raises(S3Error, match="InvalidArgument"):
        client.list_objects_page("bkt")
    client.list_objects_page("bkt")

    assert "ListObjectsV2" == sender.requests[-1].op


def test_another_error_is_not_tried_with_v1() -> None:
    """A missing bucket is missing in both."""
    client, sender = client_of(error(404, "NoSuchBucket"))

    with pytest.raises(NotFoundError):
        client.list_objects_page("bkt")

    assert 1 == len(sender.requests)


def test_a_v1_answer_to_a_start_is_asked_for_again_with_a_marker() -> None:
    """A server that ignores list-type has ignored start-after as well; of a first page nothing was ignored."""
    client, sender = client_of(*[Answer(body=EMPTY_V1_PAGE)] * 2)
    first, second = client_of(*[Answer(body=EMPTY_V1_PAGE)] * 2)

    page = client.list_objects_page("bkt", start_after="a")
    for _ in range(2):
        first.list_objects_page("bkt")

    assert page.v1
    for each in (sender, second):
        assert ["ListObjectsV2", "ListObjects"] == [request.op for request in each.requests]
    assert "a" == dict(sender.requests[1].query)["marker"]


def test_a_broken_page_names_where_it_came_from() -> None:
    """One of thirty nodes may be the ill one."""
    client, _ = client_of(Answer(body=b"<html/>"))

    with pytest.raises(ProtocolError) as caught:
        client.list_objects_page("bkt")

    message = "ListObjectsV2 s3/bkt at http://node1:9000: the answer is a web page, not S3's"
    assert (message, "http://node1:9000") == (str(caught.value), caught.value.endpoint)


@pytest.mark.parametrize(
    "act",
    [
        lambda client: client.list_objects_page("bkt"),  # it must not be an empty bucket
        lambda client: client.copy_object("bkt", "k", source_bucket="src", source_key="a"),
        lambda client: client.complete_multipart_upload("bkt", "k", upload_id="u", parts=[(1, "e")]),
    ],
)
def test_error_inside_a_200_is_an_error(act: Callable[[S3Client], object]) -> None:
    """S3 sends the status before it copies, or puts parts together."""
    client, _ = client_of(Answer(200, b"  \n<Error><Code>SlowDown</Code></Error>"))

    with pytest.raises(S3Error, match="at http://node1:9000: 503 SlowDown"):
        act(client)


def test_versions_and_uploads_are_listed_from_their_markers() -> None:
    """The parameter that names the operation has no value and stays."""
    versions = b"<ListVersionsResult><IsTruncated>false</IsTruncated></ListVersionsResult>"
    uploads = b"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>"
    client, sender = client_of(Answer(body=versions), Answer(body=uploads))

    client.list_versions_page("bkt", key_marker="k", version_id_marker="v")
    client.list_uploads_page("bkt", key_marker="k", upload_id_marker="u")

    first, second = (dict(request.query) for request in sender.requests)
    assert ("", "k", "v", "url") == (
        first["versions"],
        first["key-marker"],
        first["version-id-marker"],
        first["encoding-type"],
    )
    # RGW would encode the keys of uploads and not say so.
    assert {"uploads": "", "max-uploads": "1000", "key-marker": "k", "upload-id-marker": "u"} == second


@pytest.mark.parametrize(
    ("server", "expected"), [("MinIO", True), ("MinIO/2024-01-01", True), ("Ceph", False), ("", False)]
)
def test_minio_is_known_by_its_name(server: str, expected: bool) -> None:
    """Its pages are asked for in another way than those of all other servers."""
    client, _ = client_of(Answer(200, EMPTY_PAGE, {"server": server}))

    assert expected == client.list_objects_page("b").is_minio


def test_buckets_are_listed_over_all_pages() -> None:
    """AWS cuts long lists of buckets."""
    page = b"<ListAllMyBucketsResult><Buckets><Bucket><Name>%b</Name></Bucket></Buckets>%b</ListAllMyBucketsResult>"
    client, sender = client_of(
        Answer(body=page % (b"a", b"<ContinuationToken>t</ContinuationToken>")), Answer(body=page % (b"b", b""))
    )

    buckets = client.list_buckets()

    assert ["a", "b"] == [bucket.name for bucket in buckets]
    assert [(), (("continuation-token", "t"),)] == [request.query for request in sender.requests]


def test_a_list_of_buckets_that_does_not_advance_is_an_error() -> None:
    """It would be asked for without end."""
    page = b"<ListAllMyBucketsResult><Buckets/><ContinuationToken>t</ContinuationToken></ListAllMyBucketsResult>"
    client, _ = client_of(Answer(body=page), Answer(body=page))

    with pytest.raises(ProtocolError, match="stopped advancing"):
        client.list_buckets()


def test_head_is_not_asked_for_a_body() -> None:
    """Its Content-Length is that of the object."""
    client, sender = client_of(Answer(headers=HEAD_HEADERS, body=b"not for us"))

    head = client.head_object("bkt", "k", version_id="v")

    assert 3 == head.size
    assert (("versionId", "v"),) == sender.requests[0].query
    assert sender.streams[0].closed


def test_a_get_sends_its_conditions_and_stays_open() -> None:
    """The caller reads, whatever the size."""
    client, sender = client_of(Answer(206, b"abc", headers={"etag": '"e"'}))
    node = Endpoint("http", "node2", 80)

    response = client.get_object("bkt", "k", byte_range=ByteRange(0, 2), if_match="e", version_id="v", only=node)

    assert {"range": "bytes=0-2", "if-match": '"e"'} == sender.requests[0].headers
    assert response.body is None
    assert not sender.streams[0].closed
    assert [node] == sender.only


def test_a_put_carries_attributes_and_digests() -> None:
    """All the server needs to check and store."""
    client, sender = client_of(Answer(headers={"etag": '"e"', "x-amz-version-id": "v"}))

    result = client.put_object(
        "bkt",
        "k",
        BODY,
        payload_hash="h",
        attributes=ObjectAttributes(content_type="text/plain"),
        content_md5="m",
        checksum=("x-amz-checksum-crc32c", "c"),
    )

    request = sender.requests[0]
    assert {"content-type": "text/plain", "content-md5": "m", "x-amz-checksum-crc32c": "c"} == request.headers
    assert (PutResult("e", "v"), "h", BODY, True) == (result, request.payload_hash, request.body, request.idempotent)


def test_a_put_that_must_not_replace_is_not_repeatable() -> None:
    """The second try would meet the object of the first."""
    client, sender = client_of(error(412, "PreconditionFailed"))

    with pytest.raises(PreconditionError):
        client.put_object("bkt", "k", BODY, payload_hash="h", if_none_match=True)

    assert ("*", False) == (sender.requests[0].headers["if-none-match"], sender.requests[0].idempotent)


def test_metadata_with_a_line_break_sends_nothing() -> None:
    """It would be a header of its own."""
    client, sender = client_of()

    with pytest.raises(UsageError):
        client.put_object("bkt", "k", BODY, payload_hash="h", attributes=ObjectAttributes(metadata={"a": "b\r\nc: d"}))

    assert [] == sender.requests


@pytest.mark.parametrize("code", ["NoSuchKey", "NoSuchVersion"])
def test_deleting_what_is_gone_is_done(code: str) -> None:
    """Most servers say 204 here; a repeated delete must not fail on the others."""
    client, sender = client_of(error(404, code))

    client.delete_object("bkt", "k")

    assert ("DELETE", True) == (sender.requests[0].method, sender.requests[0].idempotent)


@pytest.mark.parametrize("answer", [error(404, "NoSuchBucket"), Answer(404, b"<html/>"), error(403, "AccessDenied")])
def test_other_refusals_of_a_delete_are_errors(answer: Answer) -> None:
    """A wrong bucket, or a server that is not S3, has deleted nothing."""
    client, _ = client_of(answer)

    with pytest.raises(S3Error):
        client.delete_object("bkt", "k")


def test_a_batch_delete_is_quiet_and_gives_the_failures() -> None:
    """Only what stayed is worth a line."""
    body = b"<DeleteResult><Error><Key>b</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
    client, sender = client_of(Answer(body=body))

    failures = client.delete_objects("bkt", [("a", ""), ("b", "v")])

    request = sender.requests[0]
    assert (DeleteFailure("b", "v", "AccessDenied", "no", endpoint=str(ENDPOINT)),) == failures
    assert ("POST", (("delete", ""),), True, 10.0) == (
        request.method,
        request.query,
        request.idempotent,
        request.timeout_factor,
    )
    assert "content-md5" in request.headers
    assert b"<Object><Key>b</Key><VersionId>v</VersionId></Object>" in sent_content(request)


def test_keys_that_xml_cannot_hold_are_deleted_singly() -> None:
    """One such key would make the server refuse the whole batch."""
    client, sender = client_of(Answer(body=b"<DeleteResult/>"), Answer(204), error(403, "AccessDenied"), Answer(204))

    failures = client.delete_objects("bkt", [("a", ""), ("b\x01", ""), ("c\x02", "v"), ("\udcff", "")])

    assert ["DeleteObjects", "DeleteObject", "DeleteObject", "DeleteObject"] == [
        request.op for request in sender.requests
    ]
    assert ["/bkt", "/bkt/b%01", "/bkt/c%02", "/bkt/%FF"] == [request.path for request in sender.requests]
    assert (DeleteFailure("c\x02", "v", "AccessDenied", "", endpoint=str(ENDPOINT)),) == failures


def test_batch_has_one_to_a_thousand_keys() -> None:
    """An empty batch is an error to S3, and to cut larger ones is the caller's part."""
    client, sender = client_of(Answer(204))

    assert () == client.delete_objects("bkt", [("\x01", "")])
    assert ["DeleteObject"] == [request.op for request in sender.requests]
    with pytest.raises(ValueError, match="at most 1000 keys, not 1001"):
        client.delete_objects("bkt", [("k", "")] * 1001)


def test_a_copy_keeps_attributes_and_tags_by_default() -> None:
    """COPY is S3's word for it."""
    body = b'<CopyObjectResult><ETag>"e"</ETag></CopyObjectResult>'
    client, sender = client_of(Answer(body=body, headers={"x-amz-version-id": "v"}))

    result = client.copy_object("bkt", "k", source_bucket="src", source_key="a b", source_version="v1", if_match="e0")

    assert PutResult("e", "v") == result
    assert {
        "x-amz-copy-source": "src/a%20b?versionId=v1",
        "x-amz-copy-source-if-match": '"e0"',
        "x-amz-copy-if-match": '"e0"',
        "x-amz-metadata-directive": "COPY",
    } == sender.requests[0].headers


@pytest.mark.parametrize(
    ("replace_tags", "extra"), [(False, {}), (True, {"x-amz-tagging-directive": "REPLACE", "x-amz-tagging": "t=1"})]
)
def test_a_copy_replaces_what_it_is_told_to(replace_tags: bool, extra: dict[str, str]) -> None:
    """Attributes and tags are replaced apart from each other."""
    client, sender = client_of(Answer(body=b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>"))

    client.copy_object(
        "bkt",
        "k",
        source_bucket="src",
        source_key="a",
        attributes=ObjectAttributes(content_type="text/plain", tags={"t": "1"}),
        replace_tags=replace_tags,
    )

    expected = {"x-amz-copy-source": "src/a", "x-amz-metadata-directive": "REPLACE", "content-type": "text/plain"}
    assert expected | extra == sender.requests[0].headers


def test_an_upload_in_parts_runs_its_course() -> None:
    """Create, part, copied part, complete: with numbers, id and ETags in their places."""
    client, sender = client_of(
        Answer(body=b"<InitiateMultipartUploadResult><UploadId>u/1</UploadId></InitiateMultipartUploadResult>"),
        Answer(headers={"etag": '"p1"'}),
        Answer(body=b'<CopyPartResult><ETag>"p2"</ETag></CopyPartResult>'),
        Answer(body=b"<CompleteMultipartUploadResult/>", headers={"x-amz-version-id": "v"}),
    )

    upload_id = client.create_multipart_upload("bkt", "k", checksum_algorithm="CRC32C", checksum_type="FULL_OBJECT")
    first = client.upload_part("bkt", "k", upload_id=upload_id, number=1, body=BODY, payload_hash="h", content_md5="m")
    second = client.upload_part_copy(
        "bkt", "k", upload_id=upload_id, number=2, source_bucket="s", source_key="a", byte_range=ByteRange(0, 9)
    )
    result = client.complete_multipart_upload("bkt", "k", upload_id=upload_id, parts=[(1, first.etag), (2, second)])

    create, part, copied, complete = sender.requests
    assert PutResult("", "v") == result
    assert (False, "CRC32C", "FULL_OBJECT") == (
        create.idempotent,
        create.headers["x-amz-checksum-algorithm"],
        create.headers["x-amz-checksum-type"],
    )
    assert ((("partNumber", "1"), ("uploadId", "u/1")), True, "m") == (
        part.query,
        part.idempotent,
        part.headers["content-md5"],
    )
    assert ("bytes=0-9", "s/a") == (copied.headers["x-amz-copy-source-range"], copied.headers["x-amz-copy-source"])
    assert (False, 10.0) == (complete.idempotent, complete.timeout_factor)
    assert b"<ETag>&quot;p2&quot;</ETag><PartNumber>2</PartNumber>" in sent_content(complete)


def test_aborting_in_a_missing_bucket_is_an_error() -> None:
    """That is another mistake."""
    client, _ = client_of(error(404, "NoSuchBucket"))

    with pytest.raises(NotFoundError):
        client.abort_multipart_upload("bkt", "k", upload_id="u")


PARTS_PAGE = (
    b"<ListPartsResult><IsTruncated>%b</IsTruncated><NextPartNumberMarker>1</NextPartNumberMarker>"
    b"<Part><PartNumber>%b</PartNumber><ETag>e</ETag><Size>5</Size></Part></ListPartsResult>"
)


def test_parts_are_listed_over_all_pages() -> None:
    """10,000 parts are ten pages."""
    client, sender = client_of(Answer(body=PARTS_PAGE % (b"true", b"1")), Answer(body=PARTS_PAGE % (b"false", b"2")))

    parts = client.list_parts("bkt", "k", upload_id="u")

    assert (PartInfo(1, "e", 5), PartInfo(2, "e", 5)) == parts
    assert (("uploadId", "u"), ("part-number-marker", "1")) == sender.requests[1].query


def test_a_list_of_parts_that_does_not_advance_is_an_error() -> None:
    """It would be asked for without end."""
    page = Answer(body=PARTS_PAGE % (b"true", b"1"))
    client, _ = client_of(page, page)

    with pytest.raises(ProtocolError, match="s3/bkt/k: the server stopped advancing"):
        client.list_parts("bkt", "k", upload_id="u")


def test_only_an_object_that_is_there_may_have_no_tags() -> None:
    """Some servers call that an error."""
    client, _ = client_of(error(404, "NoSuchTagSet"), error(404, "NoSuchKey"))

    assert {} == client.get_tags("bkt", "k")
    with pytest.raises(NotFoundError):
        client.get_tags("bkt", "k")


def test_a_bucket_is_made_in_the_clients_region() -> None:
    """And only once: a repeated CreateBucket is an error to S3."""
    client, sender = client_of(Answer(), region="eu-1")

    client.create_bucket("bkt", lock=True)

    request = sender.requests[0]
    assert b"<LocationConstraint>eu-1</LocationConstraint>" in sent_content(request)
    assert ("true", False) == (request.headers["x-amz-bucket-object-lock-enabled"], request.idempotent)


def test_versioning_is_asked_for() -> None:
    """It is a parameter without a value."""
    client, sender = client_of(
        Answer(body=b"<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>"), Answer()
    )

    state = client.get_versioning("bkt")
    client.put_versioning("bkt", enabled=True)

    assert "Suspended" == state
    assert [(("versioning", ""),), (("versioning", ""),)] == [request.query for request in sender.requests]
    assert b"<Status>Enabled</Status>" in sent_content(sender.requests[1])


def test_virtual_addressing_reaches_every_request() -> None:
    """The bucket leaves the path and enters the host."""
    client, sender = client_of(Answer(headers=HEAD_HEADERS), Answer(body=EMPTY_PAGE), addressing="virtual")

    client.head_object("bkt", "k")
    client.list_objects_page("bkt")

    assert [("/k", "bkt"), ("/", "bkt")] == [(request.path, request.bucket_host) for request in sender.requests]


def test_an_answer_is_closed_when_it_was_read() -> None:
    """The connection goes back to its pool."""
    client, sender = client_of(Answer(body=EMPTY_PAGE), Answer(204))

    client.list_objects_page("bkt")
    client.delete_object("bkt", "k")

    assert [True, True] == [stream.closed for stream in sender.streams]
