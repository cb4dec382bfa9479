"""Conditions that RGW 16 passes over hold through the proxy: nothing is overwritten or deleted against them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator

import pytest

from s3pool.model import Credentials
from tests.support.fake_s3 import FakeS3, Quirks, internal_error
from tests.support.proxying import LIVE_TIMEOUT_S, POOL_KEY, Answer, RunningProxy, arrived, stored
from tests.support.rgw import RgwCluster

OLD, NEW = b"old content", b"new content"
WRONG = '"00000000000000000000000000000000"'


class Place:
    """A bucket behind a proxy, with an object ``k`` that holds OLD and one ``source`` that holds NEW."""

    def __init__(self, proxy: RunningProxy, bucket: str, key: Credentials) -> None:
        self.proxy, self.bucket, self.key = proxy, bucket, key
        self.ask("PUT", "", b"")
        self.ask("PUT", "/k", OLD)
        self.ask("PUT", "/source", NEW)

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
        """Send a request for something in the bucket."""
        target = f"/{self.bucket}{path}"
        return self.proxy.ask(method, target, body=body, headers=headers or {}, key=self.key, close=True)

    def content(self) -> bytes | None:
        """Return what ``k`` holds; None when it is gone."""
        answer = self.ask("GET", "/k")
        return answer.body if answer.status == 200 else None

    def etag(self, name: str = "k") -> str:
        """Return an object's ETag."""
        return str(self.ask("HEAD", f"/{name}").headers["etag"])

    def complete(self, key: str, headers: dict[str, str]) -> Answer:
        """Upload one part and complete with conditions."""
        upload = self.ask("POST", f"/{key}?uploads").body.partition(b"<UploadId>")[2].partition(b"<")[0].decode()
        etag = self.ask("PUT", f"/{key}?partNumber=1&uploadId={upload}", NEW).headers["etag"]
        part = f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
        document = f"<CompleteMultipartUpload>{part}</CompleteMultipartUpload>".encode()
        return self.ask("POST", f"/{key}?uploadId={upload}", document, headers)

    def copy(self, key: str, headers: dict[str, str]) -> Answer:
        """Copy ``source`` with conditions."""
        return self.ask("PUT", f"/{key}", b"", {"x-amz-copy-source": f"{self.bucket}/source", **headers})


@pytest.fixture(params=["fake", pytest.param("rgw", marks=pytest.mark.live)])
def place(request: pytest.FixtureRequest, bucket_name: str) -> Iterator[Place]:
    """Give a bucket on a fake that ignores what RGW 16 ignores, or on RGW itself."""
    if request.param == "fake":
        with FakeS3(2, quirks=Quirks(server="Ceph Object Gateway")) as fake, RunningProxy(fake.endpoints) as proxy:
            yield Place(proxy, bucket_name, POOL_KEY)
        return
    cluster: RgwCluster = request.getfixturevalue("rgw")
    key = Credentials(cluster.access_key, cluster.secret_key)
    with RunningProxy(cluster.endpoints[:2], credentials=key, read_timeout_s=LIVE_TIMEOUT_S) as proxy:
        made = Place(proxy, bucket_name, key)
        yield made
        for name in ("k", "source", "free"):
            made.ask("DELETE", f"/{name}")
        made.ask("DELETE", "")


@pytest.mark.parametrize("act", [Place.complete, Place.copy])
@pytest.mark.parametrize("condition", [{"If-None-Match": "*"}, {"If-Match": WRONG}])
def test_nothing_is_overwritten_against_a_condition(place: Place, act, condition: dict[str, str]) -> None:  # type: ignore[no-untyped-def]
    """The client was told nothing, and the object was lost."""
    answer = act(place, "k", condition)

    assert (412, "PreconditionFailed", OLD) == (answer.status, answer.code, place.content())


@pytest.mark.parametrize("act", [Place.complete, Place.copy])
def test_what_the_condition_allows_is_done(place: Place, act) -> None:  # type: ignore[no-untyped-def]
    """A new key, and the object that was looked at."""
    assert 200 == act(place, "free", {"If-None-Match": "*"}).status
    assert 200 == act(place, "k", {"If-Match": place.etag()}).status
    assert NEW == place.content()


@pytest.mark.parametrize("act", [Place.complete, Place.copy])
def test_condition_on_an_absent_object_does_not_hold(place: Place, act) -> None:  # type: ignore[no-untyped-def]
    """In AWS's words."""
    answer = act(place, "free", {"If-Match": WRONG})

    assert (404, "NoSuchKey") == (answer.status, answer.code)


def test_copy_is_held_to_the_conditions_on_its_source(place: Place) -> None:
    """RGW 16 copies whatever is there."""
    etag = place.etag("source")

    for condition in ({"if-match": WRONG}, {"if-none-match": etag}):
        ((name, value),) = condition.items()
        answer = place.copy("k", {f"x-amz-copy-source-{name}": value})
        assert (412, "PreconditionFailed", OLD) == (answer.status, answer.code, place.content())
    assert 200 == place.copy("k", {"x-amz-copy-source-if-match": etag}).status
    assert NEW == place.content()


@pytest.mark.parametrize("has_match", [True, False])
def test_nothing_is_deleted_against_a_condition(place: Place, has_match: bool) -> None:
    """What was changed meanwhile is not the object that was to go."""
    answer = place.ask("DELETE", "/k", headers={"If-Match": place.etag() if has_match else WRONG})

    assert ((204, None) if has_match else (412, OLD)) == (answer.status, place.content())


@pytest.mark.parametrize("name", ["x-amz-write-offset-bytes", "x-amz-if-match-size"])
def test_what_cannot_be_looked_at_is_refused(place: Place, name: str) -> None:
    """RGW 16 takes an append for a new content."""
    method = "PUT" if name == "x-amz-write-offset-bytes" else "DELETE"

    answer = place.ask(method, "/k", NEW if method == "PUT" else b"", {name: "11"})

    assert (501, "NotImplemented", OLD) == (answer.status, answer.code, place.content())


def test_condition_that_nobody_can_check_is_an_error() -> None:
    """Never nothing: the nodes are in trouble, or the key may not look."""
    with FakeS3(2) as fake, RunningProxy(fake.endpoints, retry_budget="off") as proxy:
        fake.store.add("b", "k", OLD)
        fake.fault(internal_error(), op="HeadObject", times=0)

        answer = proxy.ask("PUT", "/b/k", headers={"x-amz-copy-source": "b/k", "If-None-Match": "*"}, close=True)

        assert (503, []) == (answer.status, [op for op in arrived(fake) if op == "CopyObject"])
        assert OLD == stored(fake, "b", "k")


@pytest.mark.parametrize("condition", ["<ETag>&quot;0&quot;</ETag>", "<Size>9</Size>", "<LastModifiedTime />"])
def test_nothing_of_a_batch_is_deleted_against_a_condition(place: Place, condition: str) -> None:
    """Every server here deletes all the same; an object without a condition goes as ever."""
    md5 = {"content-md5": ""}

    def delete(inner: str) -> Answer:
        document = f"<Delete><Object><Key>k</Key>{inner}</Object></Delete>".encode()
        md5["content-md5"] = base64.b64encode(hashlib.md5(document).digest()).decode()
        return place.ask("POST", "?delete", document, md5)

    answer = delete(condition)

    assert (501, "NotImplemented", OLD) == (answer.status, answer.code, place.content())
    assert (200, None) == (delete("").status, place.content())


@pytest.mark.parametrize(
    ("server", "act", "status"),
    [
        ("MinIO", "copy", 412),
        ("MinIO", "delete", 412),
        ("MinIO", "x-amz-if-match-size", 501),
        ("MinIO", "x-amz-rename-source", 501),
        ("VERSITYGW", "copy", 412),
        ("VERSITYGW", "x-amz-write-offset-bytes", 501),
        ("SeaweedFS 30GB 4.53", "delete", 412),
        ("SeaweedFS 30GB 4.53", "x-amz-if-match-size", 501),
        ("SeaweedFS 30GB 4.53", "x-amz-write-offset-bytes", 501),
        ("AmazonS3", "x-amz-if-match-size", 204),
    ],
)
def test_each_server_ignores_conditions_of_its_own(server: str, act: str, status: int) -> None:
    """As seen of MinIO of 2026-02 and versitygw 1.8."""
    with FakeS3(1, quirks=Quirks(server=server)) as fake, RunningProxy(fake.endpoints) as proxy:
        place = Place(proxy, "bucket", POOL_KEY)
        if act == "copy":
            answer = place.copy("k", {"If-None-Match": "*"})
        elif act == "delete":
            answer = place.ask("DELETE", "/k", headers={"If-Match": WRONG})
        elif "size" in act:
            answer = place.ask("DELETE", "/k", headers={act: "99"})
        else:
            answer = place.ask("PUT", "/k", NEW, {act: "3"} if "offset" in act else {act: "/bucket/source"})

        assert status == answer.status
        assert (OLD if status > 300 else None) == stored(fake, "bucket", "k")


def test_nodes_that_keep_conditions_are_not_asked_twice() -> None:
    """MinIO judges for itself."""
    with FakeS3(1, quirks=Quirks(server="MinIO")) as fake, RunningProxy(fake.endpoints) as proxy:
        fake.store.add("b", "k", OLD)

        proxy.ask("PUT", "/b/k2", headers={"x-amz-copy-source": "b/k", "x-amz-copy-source-if-match": "*"}, close=True)

        assert ["CopyObject"] == [op for op in arrived(fake) if op != "ListBuckets"]
