from __future__ import annotations

import pytest

from s3pool.proxy.operations import classify


@pytest.mark.parametrize(
    ("method", "query", "bucket", "key", "headers", "name"),
    [
        ("GET", (), "", "", (), "ListBuckets"),
        ("GET", (), "b", "", (), "ListObjects"),
        ("GET", ("list-type", "prefix"), "b", "", (), "ListObjectsV2"),
        ("GET", ("versions",), "b", "", (), "ListObjectVersions"),
        ("GET", ("uploads",), "b", "", (), "ListMultipartUploads"),
        ("GET", ("acl",), "b", "", (), "GetBucketAcl"),
        ("PUT", (), "b", "", (), "CreateBucket"),
        ("PUT", ("policy",), "b", "", (), "PutBucketPolicy"),
        ("POST", ("delete",), "b", "", (), "DeleteObjects"),
        ("POST", (), "b", "", (), "PostObject"),
        ("GET", ("x-id",), "b", "k", (), "GetObject"),
        ("GET", ("uploadId",), "b", "k", (), "ListParts"),
        ("PUT", (), "b", "k", (), "PutObject"),
        ("PUT", (), "b", "k", ("x-amz-copy-source",), "CopyObject"),
        ("PUT", ("uploadId", "partNumber"), "b", "k", (), "UploadPart"),
        ("PUT", ("uploadId", "partNumber"), "b", "k", ("x-amz-copy-source",), "UploadPartCopy"),
        ("PUT", (), "b", "k", ("x-amz-write-offset-bytes",), "AppendObject"),
        ("PUT", ("tagging",), "b", "k", (), "PutObjectTagging"),
        ("POST", ("uploads",), "b", "k", (), "CreateMultipartUpload"),
        ("POST", ("uploadId",), "b", "k", (), "CompleteMultipartUpload"),
        ("POST", ("select", "select-type"), "b", "k", (), "SelectObjectContent"),
        ("DELETE", ("uploadId",), "b", "k", (), "AbortMultipartUpload"),
        ("DELETE", (), "b", "k", (), "DeleteObject"),
        ("OPTIONS", (), "b", "k", (), "OptionsObject"),
    ],
)
def test_operation_has_its_name(
    method: str, query: tuple[str, ...], bucket: str, key: str, headers: tuple[str, ...], name: str
) -> None:
    """Logs, metrics and the rules of repetition go by it."""
    assert name == classify(method, query, bucket=bucket, key=key, headers=headers).name


@pytest.mark.parametrize(
    ("method", "query", "rules"),
    [
        ("GET", (), (True, True, True, True)),
        ("PUT", (), (False, False, True, True)),
        ("PUT", ("uploadId",), (True, True, True, True)),
        ("POST", ("uploads",), (False, False, True, True)),
        ("POST", ("uploadId",), (False, False, False, True)),
        ("DELETE", ("uploadId",), (True, False, True, True)),
        ("DELETE", ("versionId",), (True, False, True, True)),
        ("DELETE", (), (False, False, True, True)),
        ("PUT", ("append",), (False, False, False, False)),
    ],
)
def test_what_may_be_repeated(method: str, query: tuple[str, ...], rules: tuple[bool, ...]) -> None:
    """In doubt, after a 500, after a 503, after half a body: the table of what harms nobody."""
    found = classify(method, query, bucket="b", key="k", headers=())

    assert rules == (found.ambiguous, found.after_500, found.after_503, found.partial)


@pytest.mark.parametrize(
    ("method", "query", "key", "expected"),
    [
        ("GET", (), "k", False),
        ("GET", ("partNumber",), "k", False),
        ("HEAD", (), "k", False),
        ("OPTIONS", (), "k", False),
        ("POST", ("select", "select-type"), "k", False),
        ("GET", ("acl",), "k", True),
        ("GET", ("uploadId",), "k", True),
        ("GET", ("list-type",), "", True),
        ("GET", (), "", True),
        ("GET", ("events", "prefix", "suffix"), "", False),
    ],
)
def test_answers_that_are_documents(method: str, query: tuple[str, ...], key: str, expected: bool) -> None:
    """Those are small; what an object holds may be of any size, and what MinIO tells of changes never ends."""
    found = classify(method, query, bucket="b", key=key, headers=())

    assert expected is found.brings_document
