"""Header names that nodes read in another way than they are written: refused on every way in."""

from __future__ import annotations

import pytest

from tests.support.chunk_signing import unsigned_stream
from tests.support.fake_s3 import FakeS3
from tests.support.proxying import RunningProxy, arrived, parse_answer, signed_request, stored
from tests.support.upload_form import form_body, form_request, post, signed_form

NAMES = [
    *("x_amz_copy_source", "x-amz_copy-source", "X_Amz_Acl", "x_amz_meta_a", "x-amz-meta-a_b", "X_Forwarded_For"),
    *("Content_Length", "Host_", "a.b", "a!", "a*", "~"),
]


@pytest.mark.parametrize("auth", ["verify", "open", "passthrough"])
@pytest.mark.parametrize("name", NAMES)
def test_header_name_that_a_node_reads_as_another_is_refused(auth: str, name: str) -> None:
    """RGW reads x_amz_copy_source as x-amz-copy-source: a presigned PUT became a copy of any object."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, auth=auth) as proxy:
        fake.store.add("b", "secret", b"x")
        target = proxy.presigned("PUT", "/b/new")
        lines = [f"PUT {target} HTTP/1.1", f"Host: {proxy.host}", f"{name}: /b/secret", "Content-Length: 0"]

        answer = parse_answer(proxy.talk(("\r\n".join(lines) + "\r\n\r\n").encode()))

        assert (400, [], None) == (answer.status, arrived(fake), stored(fake, "b", "new"))
        assert "close" == answer.headers["connection"]


@pytest.mark.parametrize("name", NAMES)
def test_everyday_request_gets_no_other_rule(fake: FakeS3, proxy: RunningProxy, name: str) -> None:
    """Cached parts of heads change nothing about that."""
    request = proxy.signed("GET", "/b/there", close=True)
    assert 200 == parse_answer(proxy.talk(request)).status
    fake.forget()

    answer = parse_answer(proxy.talk(request.replace(b"connection: close", f"{name}: 1".encode())))

    assert (400, []) == (answer.status, arrived(fake))


@pytest.mark.parametrize("prefix", ["x-goog-meta-", "x-rgw-", "x-dho-meta-", "x-object-meta-", "x-minio-"])
@pytest.mark.parametrize("is_known", [False, True], ids=["first request", "known signer"])
def test_unsigned_field_of_another_dialect_is_denied(
    fake: FakeS3, proxy: RunningProxy, prefix: str, is_known: bool
) -> None:
    """RGW reads x-goog-meta-a as x-amz-meta-a, and MinIO obeys x-minio-*: they must be signed as well."""
    if is_known:
        assert 200 == proxy.ask("GET", "/b/there").status
    fake.forget()
    request = proxy.signed("GET", "/b/there", close=True)

    answer = parse_answer(proxy.talk(request.replace(b"connection: close", f"{prefix}a: 1".encode())))

    assert (403, "AccessDenied", []) == (answer.status, answer.code, arrived(fake))


@pytest.mark.parametrize("signed", ["host;x_amz_date", "host;X-Amz-Date", "host; x-amz-date", "host;"])
def test_list_of_signed_headers_holds_names_only(fake: FakeS3, proxy: RunningProxy, signed: str) -> None:
    """A list that two parsers read in two ways covers nothing for sure."""
    fake.forget()
    request = proxy.signed("GET", "/b/there", close=True)
    at = request.index(b"SignedHeaders=") + len(b"SignedHeaders=")
    changed = request[:at] + signed.encode() + request[request.index(b",", at) :]

    answer = parse_answer(proxy.talk(changed))

    assert (400, []) == (answer.status, arrived(fake))


@pytest.mark.parametrize("line", [b"x_amz_acl: public-read", b"no colon", b" folded: 1", b"a\x00: b"])
def test_trailer_of_a_chunked_body_is_read_as_strictly(fake: FakeS3, proxy: RunningProxy, line: bytes) -> None:
    """What stands behind the last chunk are header lines as well."""
    head = proxy.signed("PUT", "/b/new", payload="UNSIGNED-PAYLOAD").replace(
        b"content-length: 0", b"transfer-encoding: chunked"
    )

    answer = parse_answer(proxy.talk(head + b"1\r\na\r\n0\r\n" + line + b"\r\n\r\n"))

    assert (400, None) == (answer.status, stored(fake, "b", "new"))


def test_trailer_of_an_aws_chunked_body_is_read_as_strictly(fake: FakeS3, proxy: RunningProxy) -> None:
    """A trailer field becomes a header of the request that goes to the node."""
    head, body = unsigned_stream(proxy.host, "/b/new", b"abc")

    answer = parse_answer(proxy.talk(head, body.replace(b"x-amz-checksum", b"x_amz-checksum")))

    assert (400, None) == (answer.status, stored(fake, "b", "new"))


@pytest.mark.parametrize("trailers", ["decode", "pass"])
@pytest.mark.parametrize(
    "name", ["x-amz-copy-source", "x-amz-acl", "x_amz_checksum_crc32", "x-amz-checksum-crc32, x-amz-acl"]
)
def test_trailer_is_a_checksum_and_no_other_header(trailers: str, name: str) -> None:
    """Also where it goes on as it came: nodes make headers of trailers."""
    with FakeS3(1) as fake, RunningProxy(fake.endpoints, trailers=trailers) as proxy:
        fake.store.add("b", "there", b"")
        _, body = unsigned_stream(proxy.host, "/b/new", b"abc")
        signed = signed_request(
            "PUT",
            "/b/new",
            host=proxy.host,
            headers={"x-amz-decoded-content-length": "3", "x-amz-trailer": name},
            payload="STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        ).replace(b"content-length: 0", b"content-length: %d" % len(body))

        answer = parse_answer(proxy.talk(signed + body))

        assert (400, None) == (answer.status, stored(fake, "b", "new"))


@pytest.mark.parametrize("name", ["x_amz_acl", "x-amz-meta-a_b", "x-amz-meta-a:b", "x-amz-meta-a b", "Content_Type"])
def test_name_of_a_form_field_is_read_as_strictly(fake: FakeS3, proxy: RunningProxy, name: str) -> None:
    """Fields of an upload form become headers of the same name."""
    fake.forget()

    answer = post(proxy, signed_form({"key": "new", name: "public-read"}))

    assert (400, []) == (answer.status, arrived(fake))


def test_fields_that_never_become_headers_keep_their_names(fake: FakeS3, proxy: RunningProxy) -> None:
    """S3's own success_action_status has underscores, and x-ignore-* may be named at will."""
    form = signed_form({"key": "new", "success_action_status": "200"}) | {"x-ignore-a_b": "1"}

    assert 200 == parse_answer(proxy.talk(form_request(proxy, form_body(form)))).status
