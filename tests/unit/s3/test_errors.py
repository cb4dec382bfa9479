"""Which answers are errors, and of which class."""

from __future__ import annotations

import pytest

from s3pool.errors import AccessDeniedError, NotFoundError, PreconditionError, ProtocolError, S3Error, ThrottledError
from s3pool.model import Response
from s3pool.s3.responses import check_content, error_from
from tests.support.scripted_sender import ENDPOINT, MemoryStream


def answer(status: int, body: bytes = b"", **headers: str) -> Response:
    """Build an answer; underscores in header names are dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, named, MemoryStream(body), endpoint=ENDPOINT)


def xml_error(code: str, message: str = "") -> bytes:
    """Write S3's error document."""
    return f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>r</RequestId></Error>".encode()


@pytest.mark.parametrize("status", [200, 204, 206])
def test_a_success_passes_with_its_body_unread(status: int) -> None:
    """A GET's body is for the caller, and may be large."""
    response = answer(status, b"body", etag='"e"')

    check_content("GetObject", "s3/b/k")(response)

    assert response.body is None


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "NoSuchKey", NotFoundError),
        (404, "NoSuchBucket", NotFoundError),
        (404, "NoSuchUpload", NotFoundError),
        (403, "AccessDenied", AccessDeniedError),
        (403, "SignatureDoesNotMatch", AccessDeniedError),
        (401, "Unauthorized", AccessDeniedError),
        (503, "SlowDown", ThrottledError),
        (503, "SlowDownRead", ThrottledError),
        (429, "TooManyRequests", ThrottledError),
        (503, "RequestLimitExceeded", ThrottledError),
        (412, "PreconditionFailed", PreconditionError),
        (409, "ConditionalRequestConflict", PreconditionError),
        (304, "NotModified", PreconditionError),
        (409, "BucketNotEmpty", S3Error),
        (500, "InternalError", S3Error),
        (503, "ServiceUnavailable", S3Error),
        (301, "PermanentRedirect", S3Error),
    ],
)
def test_status_and_code_choose_the_class(status: int, code: str, kind: type[S3Error]) -> None:
    """Exit codes and retries hang on the class."""
    with pytest.raises(S3Error) as caught:
        check_content("GetObject", "s3/b/k")(answer(status, xml_error(code)))

    assert kind is type(caught.value)
    assert (status, code) == (caught.value.status, caught.value.code)


LATER = "the storage is at its limit: run it again later, or with fewer --workers"


def test_an_error_tells_everything_it_knows() -> None:
    """A message without the node and the request id helps nobody."""
    response = answer(503, xml_error("SlowDown", "wait\na bit"), date="Sun, 06 Nov 1994 08:49:37 GMT", retry_after="7")

    error = error_from(response, op="PutObject", resource="s3/b/k")

    assert "PutObject s3/b/k at http://node1:9000: 503 SlowDown: wait a bit (request r); " + LATER == error.message
    assert (7.0, 784111777.0) == (error.retry_after_s, error.server_time)


@pytest.mark.parametrize(
    ("op", "resource", "status", "code"),
    [
        ("HeadObject", "s3/b/k", 404, "NoSuchKey"),
        ("HeadBucket", "s3/b", 404, "NoSuchBucket"),
        ("HeadObject", "s3/b/k", 403, "AccessDenied"),
        ("HeadObject", "s3/b/k", 412, "PreconditionFailed"),
        ("HeadObject", "s3/b/k", 418, "HTTP418"),
        ("GetObject", "s3/b/k", 404, "NotFound"),
    ],
)
def test_an_error_without_a_body_gets_its_code_from_the_status(op: str, resource: str, status: int, code: str) -> None:
    """HEAD has no body; a 404 to anything else may come from something that is not S3."""
    error = error_from(answer(status), op=op, resource=resource)

    assert code == error.code


@pytest.mark.parametrize(
    ("op", "body"),
    [("GetObject", xml_error("ServiceUnavailable", "Please reduce your request rate.")), ("HeadObject", b"")],
)
def test_unavailable_service_that_may_mean_load_is_throttling(op: str, body: bytes) -> None:
    """AWS words it so, and HEAD cannot say SlowDown: a busy node must not be pushed out of the pool."""
    assert ThrottledError is type(error_from(answer(503, body), op=op, resource="s3/b/k"))


def test_the_request_id_may_come_from_a_header() -> None:
    """HEAD has nothing else."""
    error = error_from(answer(404, x_amz_request_id="tx1"), op="HeadObject", resource="s3/b/k")

    assert "tx1" == error.request_id


def test_an_html_page_is_an_error_by_its_status() -> None:
    """A load balancer in front answers in its own words."""
    error = error_from(answer(502, b"<html>Bad <br> Gateway</html>"), op="GetObject", resource="s3/b/k")

    assert ("BadGateway", "") == (error.code, error.detail)


def test_a_cut_error_body_leaves_the_status() -> None:
    """A 403 whose text did not arrive is still a 403, and the connection is dropped."""
    stream = MemoryStream(b"<Error>", failure=ProtocolError("cut"))
    response = Response(403, {}, stream, endpoint=ENDPOINT, length=100)

    error = error_from(response, op="GetObject", resource="s3/b/k")

    assert AccessDeniedError is type(error)
    assert stream.closed


@pytest.mark.parametrize(("code", "status"), [("InternalError", 500), ("SlowDown", 503), ("NoSuchUpload", 200)])
def test_an_error_inside_a_success_gets_the_status_it_should_have_had(code: str, status: int) -> None:
    """Copy and Complete send their status before they know how they end."""
    assert status == error_from(answer(200, xml_error(code)), op="CopyObject", resource="s3/b/k").status


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "3"}, 3.0),
        ({"x_amz_retry_after": "1500", "retry_after": "2"}, 1.5),
        ({"retry_after": "Sun, 06 Nov 1994 08:49:47 GMT", "date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 10.0),
        ({"retry_after": "Sun, 06 Nov 1994 08:49:27 GMT", "date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0.0),
        ({"retry_after": "Sun, 06 Nov 1994 08:49:47 GMT"}, None),
        ({"retry_after": "soon"}, None),
        ({}, None),
    ],
)
def test_the_time_to_wait_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds or a date by the server's own clock."""
    error = error_from(answer(503, **headers), op="GetObject", resource="s3/b/k")

    assert seconds == error.retry_after_s


def test_a_redirect_names_the_region() -> None:
    """The one thing that helps."""
    error = error_from(answer(301, x_amz_bucket_region="eu-1"), op="ListObjectsV2", resource="s3/b")

    assert "(the bucket is in region eu-1)" == error.detail


def test_a_detail_is_one_printable_line() -> None:
    """What a server writes must not steer the terminal."""
    response = answer(
        400, b"<Error><Code>Bad</Code><Message>a&#x1b;[31m\n b\xc2\x9b " + b"x" * 600 + b"</Message></Error>"
    )

    error = error_from(response, op="GetObject", resource="s3/b/k")

    assert ("a [31m b x" + "x" * 490) == error.detail
