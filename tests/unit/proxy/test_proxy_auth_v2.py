from __future__ import annotations

import time
from urllib.parse import urlsplit

import pytest

from s3pool.proxy.auth import QUERY_V2, Caller
from s3pool.proxy.auth_v2 import verify_v2
from s3pool.proxy.clients import Client
from s3pool.proxy.errors import S3ErrorResponse
from s3pool.proxy.request import parse_head, read_target

CLIENTS = {"AKEY": Client("AKEY", "hush")}


def url_by_botocore(method: str, path: str) -> str:
    """Let botocore presign in its own old manner."""
    from botocore.auth import HmacV1QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest(method=method, url=f"http://host{path}")
    HmacV1QueryAuth(Credentials("AKEY", "hush"), expires=60).add_auth(request)
    parts = urlsplit(request.url)
    return f"{parts.path}?{parts.query}"


def verify(method: str, target: str, *fields: str, now: float = 0.0) -> Caller:
    """Verify a request for a target."""
    head = parse_head("\r\n".join([f"{method} {target} HTTP/1.1", "Host: host", *fields]).encode())
    aim = read_target(head.path, head.query)
    return verify_v2(QUERY_V2, head, aim, clients=CLIENTS, bucket_host="", now=now or time.time())


@pytest.mark.parametrize("path", ["/b/k", "/b/a%20b%2Bc", "/b/k?versionId=v%2B1", "/b/k?uploads", "/b/k?prefix=x"])
def test_url_of_botocore_holds(path: str) -> None:
    """Aws and boto3 make such URLs when nobody tells them otherwise."""
    assert CLIENTS["AKEY"] == verify("GET", url_by_botocore("GET", path)).client


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda url: url.replace("/k", "/l"), "SignatureDoesNotMatch"),
        (lambda url: url.replace("versionId=1", "versionId=2"), "SignatureDoesNotMatch"),
        (lambda url: url.replace("AKEY", "BKEY"), "InvalidAccessKeyId"),
        (lambda url: url + "&acl", "SignatureDoesNotMatch"),
        (lambda url: url + "&versionId=2", "AccessDenied"),
        (lambda url: url + "&attributes", "AccessDenied"),
        (lambda url: url + "&events=a", "AccessDenied"),
        (lambda url: url + "&lambdaArn=a", "AccessDenied"),
        (lambda url: url + "&x-amz-meta-a=b", "AccessDenied"),
        (lambda url: url + "&rgwx-uid=a", "AccessDenied"),
        (lambda url: url.replace("Expires=", "Expires=9"), "SignatureDoesNotMatch"),
        (lambda url: url.replace("Expires=", "Expires=x"), "AccessDenied"),
    ],
)
def test_changed_url_is_denied(change: object, code: str) -> None:
    """Also where the old signature does not cover what was added."""
    url = change(url_by_botocore("GET", "/b/k?versionId=1"))  # type: ignore[operator]

    with pytest.raises(S3ErrorResponse) as denial:
        verify("GET", url)

    assert code == denial.value.code


def test_url_is_denied_for_another_method_header_or_time() -> None:
    """A link to read is no link to write, to copy, or for ever."""
    url = url_by_botocore("PUT", "/b/k")

    for method, fields, now in (
        ("GET", (), 0.0),
        ("PUT", ("x-amz-copy-source: /b/secret",), 0.0),
        ("PUT", (), time.time() + 100),
    ):
        with pytest.raises(S3ErrorResponse):
            verify(method, url, *fields, now=now)
