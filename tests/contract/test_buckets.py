from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from urllib.error import HTTPError
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import pytest

from s3pool.config.load import load_config
from s3pool.errors import AccessDeniedError, NotFoundError, S3Error
from s3pool.s3.client import S3Client
from s3pool.session import Session, open_session
from tests.support.contract import Backend, get, put

Deny = Callable[..., Session]


@pytest.fixture
def reopen(backend: Backend) -> Iterator[Deny]:
    """Open a second session with other words: ``reopen(AWS_SECRET_ACCESS_KEY="wrong")``."""
    opened: list[Session] = []

    def build(**changes: str) -> Session:
        environment = {**backend.environment, **changes}
        opened.append(open_session(load_config({}, environ=environment, cwd="/nonexistent", home="/nonexistent")))
        return opened[-1]

    yield build
    for session in opened:
        session.close()


def test_created_bucket_is_there(client: S3Client, bucket: str) -> None:
    """HEAD is how stat asks for a bucket."""
    assert client.head_bucket(bucket)


def test_creating_an_own_bucket_again_harms_nothing(client: S3Client, bucket: str) -> None:
    """Servers agree with it or say 409; the content stays."""
    put(client, bucket, "k", b"content")

    refused = None
    try:
        client.create_bucket(bucket)
    except S3Error as exc:
        refused = exc.status

    assert refused in (None, 409)
    assert b"content" == get(client, bucket, "k")


def test_missing_bucket_is_not_found(client: S3Client, bucket_name: str) -> None:
    """HEAD has no body: the code is made from the status."""
    with pytest.raises(NotFoundError) as caught:
        client.head_bucket(bucket_name)

    assert (404, "NoSuchBucket") == (caught.value.status, caught.value.code)


def test_full_bucket_is_not_deleted(client: S3Client, bucket: str) -> None:
    """The command rb needs --force for that."""
    put(client, bucket, "k", b"content")

    with pytest.raises(S3Error) as caught:
        client.delete_bucket(bucket)

    assert (409, "BucketNotEmpty") == (caught.value.status, caught.value.code)
    assert b"content" == get(client, bucket, "k")


def test_deleted_bucket_is_gone(client: S3Client, bucket: str) -> None:
    """And is missing from then on."""
    client.delete_bucket(bucket)

    with pytest.raises(NotFoundError):
        client.delete_bucket(bucket)


def test_bad_bucket_name_is_refused(client: S3Client) -> None:
    """The server's refusal arrives as an error, and makes no bucket."""
    with pytest.raises(S3Error) as caught:
        client.create_bucket("no")

    assert 400 == caught.value.status


def test_missing_key_names_the_key(client: S3Client, bucket: str) -> None:
    """The message is for a person: operation, what, where, why."""
    with pytest.raises(NotFoundError) as caught:
        client.get_object(bucket, "no/such key")

    error = caught.value
    assert ("NoSuchKey", f"s3/{bucket}/no/such key", "GetObject") == (error.code, error.resource, error.op)
    assert error.endpoint in error.message
    assert "\n" not in error.message


def test_put_into_a_missing_bucket_is_not_found(client: S3Client, bucket_name: str) -> None:
    """Exit code 3, not a transport failure."""
    with pytest.raises(NotFoundError) as caught:
        put(client, bucket_name, "k", b"x" * 100_000)

    assert "NoSuchBucket" == caught.value.code


def test_wrong_secret_is_denied(backend: Backend, reopen: Deny, bucket: str) -> None:
    """The signature is checked by the server, and its refusal has a name."""
    backend.need("signatures")

    with pytest.raises(AccessDeniedError) as caught:
        reopen(AWS_SECRET_ACCESS_KEY="wrong").client.list_objects_page(bucket)

    assert (403, "SignatureDoesNotMatch") == (caught.value.status, caught.value.code)


def test_unknown_key_is_denied(backend: Backend, reopen: Deny, bucket: str) -> None:
    """The advice for it is another one."""
    backend.need("signatures")

    with pytest.raises(AccessDeniedError) as caught:
        reopen(AWS_ACCESS_KEY_ID="NOBODY").client.list_objects_page(bucket)

    assert "InvalidAccessKeyId" == caught.value.code


def test_any_region_is_accepted(reopen: Deny, bucket: str) -> None:
    """Clusters have no region; the client's default must not matter."""
    other = reopen(AWS_REGION="eu-somewhere-9").client

    put(other, bucket, "k", b"x")

    assert b"x" == get(other, bucket, "k")


@pytest.mark.parametrize("key", ["plain", "a b+c%2F;é/../x//y?&=#", "\U0001f600"])
def test_presigned_url_opens_an_object(session: Session, client: S3Client, bucket: str, key: str) -> None:
    """Anybody with the URL may read, without a key of his own."""
    put(client, bucket, key, b"content")

    url = _presign(session, "GET", bucket, key)
    with urlopen(url) as answer:
        found = answer.read()

    assert b"content" == found


def test_presigned_url_takes_an_upload(session: Session, client: S3Client, bucket: str) -> None:
    """And the same for writing."""
    url = _presign(session, "PUT", bucket, "up")

    with urlopen(HttpRequest(url, data=b"content", method="PUT", headers={"Content-Type": "text/plain"})):
        pass

    assert b"content" == get(client, bucket, "up")


def test_presigned_url_of_one_method_is_no_key_to_another(
    backend: Backend, session: Session, client: S3Client, bucket: str
) -> None:
    """The method is signed."""
    backend.need("signatures")
    put(client, bucket, "k", b"content")
    url = _presign(session, "GET", bucket, "k")

    with pytest.raises(HTTPError) as caught, urlopen(HttpRequest(url, method="DELETE")):
        pass

    assert 403 == caught.value.code
    caught.value.close()
    assert b"content" == get(client, bucket, "k")


def _presign(session: Session, method: str, bucket: str, key: str) -> str:
    request = session.client.request_for_presign(method, bucket, key)
    return session.signer.presign(request, session.nodes[0].endpoint, time.time(), expires_s=60)
