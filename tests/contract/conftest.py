"""One suite of S3 behaviour, and the servers it runs against."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from s3pool.config.load import load_config
from s3pool.errors import S3Error
from s3pool.s3.client import S3Client
from s3pool.s3.list_all import iter_uploads
from s3pool.s3.paging import iter_pages, iter_version_pages
from s3pool.session import Session, open_session
from tests.support.contract import Backend, NewBucket, put
from tests.support.fake_s3 import ACCESS_KEY, SECRET_KEY, FakeS3, Quirks
from tests.support.hostile import HOSTILE_KEYS
from tests.support.server_faults import record

# What a server is known not to do, or to do in a way of its own.
MOTO_LACKS = frozenset(
    {
        "signatures",
        "line ends in keys",
        "copy conditions",
        "content-md5",
        "key limit",
        "all characters in tags",
        "order of versions",
        "errors for gone uploads",
    }
)
LIVE_SERVER = os.environ.get("S3POOL_LIVE_SERVER", "rgw")
LIVE_LACKS = {
    "rgw": frozenset({"order of parts"}),  # 16.2 sorts them
    "versitygw": frozenset({"keys that are no paths", "control characters in keys"}),
    "minio": frozenset({"keys that are no paths"}),
    "seaweedfs": frozenset({"keys that are no paths", "backslashes in keys"}),
    "garage": frozenset({"keys that are no paths"}),
}
BACKENDS = ["fake", "fake-aws", "moto", pytest.param("rgw", marks=pytest.mark.live)]
VISIBLE_DEADLINE_S = 10.0
_outcomes: dict[str, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how each test on the real server ended."""
    if report.when == "call" and "[rgw" in report.nodeid:
        _outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish(exitstatus: int) -> None:
    """Keep the outcomes for the table in the manual, where the whole suite went as expected."""
    if exitstatus == 0 and os.environ.get("S3POOL_WORKS_WHERE") == "1":
        record(LIVE_SERVER, _outcomes.items())


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Give each server in turn: the fake in two dialects, moto, a real RGW."""
    name = request.param
    if name.startswith("fake"):
        quirks = Quirks(style="aws", chunked=True) if name == "fake-aws" else Quirks(max_skew_s=900, silent_errors=True)
        with FakeS3(3, quirks=quirks, secrets={ACCESS_KEY: SECRET_KEY}) as fake:
            yield Backend(name, fake.environment)
    elif name == "moto":
        yield Backend(name, request.getfixturevalue("moto").environment, MOTO_LACKS)
    else:
        lacks = LIVE_LACKS.get(LIVE_SERVER, frozenset())
        yield Backend(LIVE_SERVER, request.getfixturevalue("rgw").environment, lacks)


def open_on(environment: dict[str, str]) -> Session:
    """Open a session as a command line with these variables would."""
    return open_session(load_config({}, environ=environment, cwd="/nonexistent", home="/nonexistent"))


@pytest.fixture(scope="session")
def session(backend: Backend) -> Iterator[Session]:
    """Give a session over all nodes of the server."""
    with open_on(backend.environment) as opened:
        yield opened


@pytest.fixture(scope="session")
def client(session: Session) -> S3Client:
    """Give the S3 client under test."""
    return session.client


@pytest.fixture(scope="session")
def new_bucket(client: S3Client) -> Iterator[NewBucket]:
    """Make buckets that last until the server has been tested."""
    made: list[str] = []

    def make() -> str:
        made.append(f"t{os.getpid()}-{len(made)}-{os.urandom(4).hex()}")
        client.create_bucket(made[-1])
        await_bucket(client, made[-1])
        return made[-1]

    yield make
    for name in made:
        remove_bucket(client, name)


@pytest.fixture
def bucket(client: S3Client, new_bucket: NewBucket) -> Iterator[str]:
    """Give an empty bucket, and remove it with whatever is in it."""
    name = new_bucket()
    yield name
    remove_bucket(client, name)


@pytest.fixture(scope="session")
def hostile_bucket(backend: Backend, client: S3Client, new_bucket: NewBucket) -> str:
    """Give a bucket of hostile keys, each holding its own name, for tests that only read."""
    name = new_bucket()
    for key in backend.keys(HOSTILE_KEYS):
        put(client, name, key, key.encode())
    return name


def await_bucket(client: S3Client, bucket: str) -> None:
    """Wait until every node knows a new bucket."""
    deadline = time.monotonic() + VISIBLE_DEADLINE_S
    while True:
        try:
            for _ in range(4):
                client.head_bucket(bucket)
        except S3Error:
            if time.monotonic() > deadline:
                raise
        else:
            return


def remove_bucket(client: S3Client, bucket: str) -> None:
    """Remove a bucket with its versions and unfinished uploads; one that is gone is fine.

    MinIO hides objects behind others, and SeaweedFS removes empty directories a moment later.
    """
    until = time.monotonic() + VISIBLE_DEADLINE_S
    while not _is_removed(client, bucket, is_last_try=time.monotonic() > until):
        pass


def _is_removed(client: S3Client, bucket: str, *, is_last_try: bool) -> bool:
    try:
        for upload in list(iter_uploads(client, bucket)):
            client.abort_multipart_upload(bucket, upload.key, upload_id=upload.upload_id)
        pages = iter_pages if LIVE_SERVER == "garage" else iter_version_pages  # which keeps none
        for page in pages(client, bucket):
            client.delete_objects(bucket, [(version.key, version.version_id) for version in page.objects])
        client.delete_bucket(bucket)
    except S3Error as exc:
        if exc.code == "BucketNotEmpty" and LIVE_SERVER != "rgw":
            return is_last_try  # what a server made other keys of goes with the deployment
        if exc.code != "NoSuchBucket":
            raise
    return True
