"""Keys that may use some buckets, or only read: whatever a node could read as something else is refused."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping

import pytest

from tests.support.fake_s3 import FakeS3
from tests.support.proxying import (
    GUEST_KEY,
    Answer,
    RunningProxy,
    arrived,
    checking_fake,
    last,
    parse_answer,
    signed_whole,
)
from tests.support.upload_form import BOUNDARY, form_body, form_request, signed_form

SECRET = b"nobody may read this"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
GUEST = {"access_key": GUEST_KEY.access_key, "secret_key": GUEST_KEY.secret_key, "backend": "pool"}


@pytest.fixture(scope="module")
def nodes() -> Iterator[FakeS3]:
    """Return a store with a bucket that the guest may use, and one that it may not."""
    with checking_fake(1) as fake:
        fake.store.add("allowed", "k", b"0123456789")
        fake.store.add("secret", "key", SECRET)
        yield fake


@pytest.fixture(scope="module")
def bound(nodes: FakeS3) -> Iterator[RunningProxy]:
    """Return a proxy whose guest may use buckets that do not begin with an s."""
    with RunningProxy(nodes.endpoints, clients=[{**GUEST, "buckets": ["[!s]*"]}]) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def reading(nodes: FakeS3) -> Iterator[RunningProxy]:
    """Return a proxy whose guest may only read."""
    with RunningProxy(nodes.endpoints, clients=[{**GUEST, "read_only": True}]) as proxy:
        yield proxy


def ask(
    nodes: FakeS3, proxy: RunningProxy, method: str, target: str, headers: Mapping[str, str] = {}, body: bytes = b""
) -> Answer:
    """Send a request with the guest's signature, and forget what was sent before."""
    nodes.forget()
    return proxy.ask(method, target, headers=headers, body=body, key=GUEST_KEY)


@pytest.mark.parametrize("query", ["", "?uploadId=u&partNumber=1"], ids=["object", "part"])
@pytest.mark.parametrize(
    "source",
    [
        *("//allowed/secret/key", "/%2Fallowed/secret/key", "allowed:/secret/key", "allowed+a.b://x/secret/key"),
        *("http://allowed/secret/key", ":secret/key", "tenant:secret/key", "allowed%3Asecret/key", "secret/key"),
        *("/secret/key", "secret%2Fkey", "%73ecret/key", "%2573ecret/key", "allowed%00/secret/key", "allowed%2F"),
        *("allowed", "allowed/", "/", "", "./secret/key", "../secret/key", "allowed?/secret/key"),
        *("allowed/k?versionId=1&versionId=2", "allowed/k?versionId=a%2Fb", "allowed/k?other=1"),
        *("allowed/k?versionId=..", "allowed/k?versionId=../../secret/key", "allowed/../secret/key", "allowed//k"),
        *("/allowed/%2Fk", "allowed/x/%2e%2e/%2e%2e/secret/key", "allowed%2F..%2Fsecret%2Fkey", "allowed/k?"),
        *("allowed/%zz", "allowed/100%", " //allowed/secret/key", "arn:aws:s3:::secret/key"),
        "arn:aws:s3:us-east-1:1:accesspoint/allowed/object/key",
    ],
)
def test_copy_source_that_names_no_allowed_bucket_is_refused(
    nodes: FakeS3, bound: RunningProxy, source: str, query: str
) -> None:
    """Nodes read such a value as a URL, decode it twice, or know tenants: only one reading may pass."""
    answer = ask(nodes, bound, "PUT", f"/allowed/new{query}", {"x-amz-copy-source": source})

    assert answer.status in (400, 403)
    assert [] == arrived(nodes)


@pytest.mark.parametrize(
    ("source", "sent"),
    [
        ("allowed/k", "allowed/k"),
        ("/allowed/k", "/allowed/k"),
        ("allowed%2Fk", "allowed/k"),
        ("%61llowed/%6b", "allowed/k"),
        ("allowed/k?versionId=null", "allowed/k?versionId=null"),
        ("allowed/a:b@c", "allowed/a%3Ab%40c"),
        ("allowed/a+b%2Bc%20d", "allowed/a+b%2Bc%20d"),
        ("allowed/a//b", "allowed/a//b"),
        ("allowed/..a/b..", "allowed/..a/b.."),
        ("allowed/k?versionId=a%2Bb", "allowed/k?versionId=a%2Bb"),
        ("allowed/%252F", "allowed/%252F"),
        ("allowed/\u00e4%C3%A4", "allowed/%C3%A4%C3%A4"),
        ("allowed/a%3FversionId=1", "allowed/a%3FversionId%3D1"),
    ],
)
def test_copy_source_is_written_anew(nodes: FakeS3, bound: RunningProxy, source: str, sent: str) -> None:
    """What was checked is what the node gets: one encoding, which every node reads alike.

    A raw + stays: Amazon and versitygw read it as a blank, for which s5cmd sends it, MinIO and RGW as itself.
    """
    ask(nodes, bound, "PUT", "/allowed/new", {"x-amz-copy-source": source})

    assert sent == last(nodes).headers["x-amz-copy-source"]


def test_copy_source_as_a_parameter_is_refused(nodes: FakeS3, proxy: RunningProxy) -> None:
    """Some presigners move headers into the query, where only some nodes look for them."""
    for name in ("x-amz-copy-source", "X-Amz-Copy-Source", "x-amz-rename-source"):
        answer = proxy.ask("PUT", f"/b/new?{name}=b%2Fthere")
        assert (501, "NotImplemented") == (answer.status, answer.code)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-amz-rename-source", "//secret/key"),
        ("x-amz-rename-source", "key?versionId=1"),
        ("x-amz-rename-source", "%zz"),
        ("x-amz-rename-source", ""),
        ("x-amz-website-redirect-location", "javascript:alert(1)"),
        ("x-amz-website-redirect-location", "secret/key"),
    ],
)
def test_other_values_that_name_something_have_one_reading(
    fake: FakeS3, proxy: RunningProxy, name: str, value: str
) -> None:
    """For every key: there is nothing that a node could take for another name."""
    fake.forget()

    answer = proxy.ask("PUT", "/b/new", headers={name: value})

    assert (400, []) == (answer.status, arrived(fake))


@pytest.mark.parametrize(
    "path",
    [
        *("/:secret/key", "/t:secret/key", "/%3Asecret/key", "/allowed:secret/key", "/allowed%3Asecret/key"),
        *(
            "/allowed%00/key",
            "/allowed%20/key",
            "/%2573ecret/key",
            "/allowed%2F..%2Fsecret/key",
            "/allowed%5Csecret/key",
        ),
        *("/allowed~/key", "/allow%C3%A9d/key", "/secret/key", "/%73ecret/key", "//secret/key", "/./secret/key"),
        *("/../secret/key", "/minio/admin/v3/info", "/admin/user", "/%61dmin/user", "/swift/v1/secret", "/auth/v1.0"),
        *("/", "/?Action=ListUsers"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
def test_bucket_that_a_node_reads_as_another_is_refused(
    nodes: FakeS3, bound: RunningProxy, method: str, path: str
) -> None:
    """RGW reads :b and tenant:b: a bucket's name is letters, digits, dots, hyphens and underscores."""
    answer = ask(nodes, bound, method, path)

    assert answer.status in (400, 403, 405)
    assert [] == arrived(nodes)


@pytest.mark.parametrize(
    ("query", "document"),
    [
        ("logging", "<TargetBucket>{}</TargetBucket>"),
        ("logging", "<x:TargetBucket xmlns:x='a'>{}</x:TargetBucket>"),
        ("logging", "<TargetBucket>al<!-- -->lowed</TargetBucket><targetbucket>{}</targetbucket>"),
        ("logging", "<TargetBucket><![CDATA[{}]]></TargetBucket>"),
        ("logging", "<TargetBucket><a/>{}</TargetBucket>"),
        ("replication", "<Rule><Destination><Bucket>arn:aws:s3:::{}</Bucket></Destination></Rule>"),
        ("inventory&id=a", "<S3BucketDestination><Bucket>arn:aws:s3:::{}</Bucket></S3BucketDestination>"),
        ("inventory&id=a", "<Destination>arn:aws:s3:::{}/key</Destination>"),
    ],
)
@pytest.mark.parametrize(("name", "passes"), [("allowed", True), ("secret", False), (":secret", False)])
def test_document_that_names_a_bucket(
    nodes: FakeS3, bound: RunningProxy, query: str, document: str, name: str, passes: bool
) -> None:
    """Logs, inventories and replicas go to buckets that the key may use as well."""
    body = f"<Configuration>{document.format(name)}</Configuration>".encode()

    answer = ask(nodes, bound, "PUT", f"/allowed?{query}", body=body)

    assert passes == bool(arrived(nodes))
    assert passes or (403, "AccessDenied") == (answer.status, answer.code)


@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE a [<!ENTITY b 'secret'>]><a><TargetBucket>&b;</TargetBucket></a>",
        b"<a><TargetBucket>sec<b/>ret</TargetBucket></a>",
        "<?xml version='1.0' encoding='utf-16'?><a/>".encode("utf-16"),
        b"<?xml version='1.0' encoding='utf-7'?><a/>",
        b"<a><?php echo?></a>",
        b"<a>",
        b"",
        b"<a>" + b"<b></b>" * 400_000 + b"</a>",
    ],
)
def test_document_with_more_than_one_reading_is_refused(nodes: FakeS3, bound: RunningProxy, body: bytes) -> None:
    """Entities, other encodings, mixed content: no node's parser may see another name."""
    assert (400, []) == (ask(nodes, bound, "PUT", "/allowed?logging", body=body).status, arrived(nodes))


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("POST", "/allowed/k?select", {"content-type": FORM}),
        ("POST", "/allowed/k?select", {}),
        ("POST", "/allowed/k?select&select-type=2", {"content-type": FORM}),
        ("POST", "/allowed/k?select&select-type=2", {"content-type": "Multipart/FORM-data;boundary=a"}),
        ("POST", "/allowed/k?select&select-type=2", {"content-type": "application/x-www-form-urlencoded"}),
        ("POST", "/allowed/k?select&select-type=2&uploads", {}),
        ("POST", "/allowed/k?uploads", {}),
        ("POST", "/allowed/k?restore", {}),
        ("POST", "/allowed?delete", {}),
        ("POST", "/allowed", {"content-type": FORM}),
        ("POST", "/allowed/k", {"content-type": FORM}),
        ("PUT", "/allowed/k", {}),
        ("PUT", "/allowed/k?select&select-type=2", {}),
        ("PUT", "/allowed?policy", {}),
        ("PUT", "/new", {}),
        ("DELETE", "/allowed/k", {}),
        ("DELETE", "/allowed?encryption", {}),
    ],
)
def test_key_that_may_read_writes_nothing(
    nodes: FakeS3, reading: RunningProxy, method: str, target: str, headers: dict[str, str]
) -> None:
    """RGW takes ?select with a form for an upload: reading is a list of what it is, not of what it is not."""
    answer = ask(nodes, reading, method, target, headers, form_body(signed_form({"key": "new"}, key=GUEST_KEY)))

    assert (403, "AccessDenied", []) == (answer.status, answer.code, arrived(nodes))


@pytest.mark.parametrize(
    "query", ["select&select-type=3", "select=&select-type=2&versionId=1", "select&select&select-type=2"]
)
def test_select_that_is_not_exact_is_refused(nodes: FakeS3, reading: RunningProxy, query: str) -> None:
    """It is the one POST that only reads, and only in the form that every node knows."""
    answer = ask(nodes, reading, "POST", f"/allowed/k?{query}")

    assert (501, "NotImplemented", []) == (answer.status, answer.code, arrived(nodes))


def test_form_of_a_key_that_may_only_read_is_refused(nodes: FakeS3, reading: RunningProxy) -> None:
    """An upload form is an upload, whoever signed it and whatever stands in its URL."""
    nodes.forget()
    body = form_body(signed_form({"key": "new"}, key=GUEST_KEY))

    for target, status in (("/b", 403), ("/b?select", 403), ("/b/k?select&select-type=2", 403), ("/b/k", 405)):
        assert status == parse_answer(reading.talk(form_request(reading, body, target=target))).status
    assert [] == arrived(nodes)


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", "/allowed?acl&policy", {}),
        ("GET", "/allowed?acl&acl", {}),
        ("GET", "/allowed?mdsearch", {}),
        ("GET", "/allowed?list-type=3", {}),
        ("GET", "/allowed?rgwx-uid=admin", {}),
        ("GET", "/allowed/k?lambdaArn=a", {}),
        ("GET", "/allowed/k?layout", {}),
        ("GET", "/allowed/k?uploads", {}),
        ("GET", "/allowed/k?versionId=1&versionId=2", {}),
        ("HEAD", "/allowed?acl", {}),
        ("PUT", "/allowed/k?policy", {}),
        ("PUT", "/allowed/k?uploadId=u", {}),
        ("PUT", "/allowed/k?uploadId=u&partNumber=1&acl", {}),
        ("PUT", "/allowed/k?partNumber=1", {}),
        ("PUT", "/allowed/k?renameObject", {"x-amz-rename-source": "a"}),
        ("PUT", "/allowed/k?acl", {"x-amz-copy-source": "allowed/k"}),
        ("PUT", "/allowed", {"x-amz-copy-source": "allowed/k"}),
        ("PUT", "/allowed/k?syncing", {}),
        ("POST", "/allowed/k?uploads&uploadId=u", {}),
        ("POST", "/allowed/k?select&uploads", {}),
        ("POST", "/allowed/k", {}),
        ("POST", "/allowed?mdsearch", {}),
        ("POST", "/allowed?delete&uploads", {}),
        ("POST", "/allowed?delete", {"content-type": FORM}),
        ("POST", "/allowed?Action=AssumeRole", {"content-type": "application/x-www-form-urlencoded"}),
        ("DELETE", "/allowed?encryption", {}),
        ("DELETE", "/allowed?anything", {}),
        ("DELETE", "/allowed/k?acl", {}),
    ],
)
def test_request_that_the_table_does_not_know_is_refused(
    nodes: FakeS3, bound: RunningProxy, method: str, target: str, headers: dict[str, str]
) -> None:
    """A node that does not know a parameter passes over it, and does something else than was checked."""
    answer = ask(nodes, bound, method, target, headers)

    assert (501, []) == (answer.status, arrived(nodes))


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/allowed/k?x-id=GetObject&response-content-type=text/plain&X-Amz-Checksum-Mode=ENABLED"),
        ("GET", "/allowed/k?partNumber=1&versionId=null"),
        ("GET", "/allowed?list-type=2&prefix=a&delimiter=/&fetch-owner=true&start-after=b&encoding-type=url"),
        ("GET", "/allowed?prefix=&max-keys=1&marker=a"),
        ("GET", "/allowed?events=a&events=b&prefix=&suffix=&ping=10"),
        ("GET", "/allowed?uploads=&max-uploads=1"),
        ("GET", "/allowed?location="),
        ("GET", "/allowed?lifecycle=&withUpdatedAt=true"),
        ("GET", "/allowed/k?tagging&versionId=null"),
        ("HEAD", "/allowed"),
        ("HEAD", "/allowed/k?versionId=null"),
        ("PUT", "/allowed/k?tagging"),
        ("PUT", "/allowed/k?partNumber=1&uploadId=u&x-id=UploadPart"),
        ("PUT", "/allowed/k?append&position=0"),
        ("POST", "/allowed?delete="),
        ("POST", "/allowed/k?uploads="),
        ("POST", "/allowed/k?uploadId=u"),
        ("POST", "/allowed/k?select&select-type=2"),
        ("DELETE", "/allowed/k?versionId=null"),
        ("DELETE", "/allowed?lifecycle"),
    ],
)
def test_daily_work_of_a_key_with_limits_passes(nodes: FakeS3, bound: RunningProxy, method: str, target: str) -> None:
    """Whatever SDKs write for what the key may do."""
    ask(nodes, bound, method, target, body=b"<Delete/>" if "delete" in target else b"")

    assert [] != nodes.ops()


@pytest.mark.parametrize("name", ["x-rgw-object-type", "x-rgw-next-append-position"])
def test_what_rgw_said_of_an_object_may_come_back(nodes: FakeS3, bound: RunningProxy, name: str) -> None:
    """The modify of s3cmd sends all that HEAD told with its copy; no node obeys these two."""
    headers = {"host": bound.host, "x-amz-copy-source": "allowed/k", "x-amz-metadata-directive": "REPLACE", name: "1"}
    nodes.store.add("allowed", "k", b"0123456789")
    nodes.forget()

    answer = parse_answer(bound.talk(signed_whole("PUT", "/allowed/k", headers=headers, key=GUEST_KEY) + b"\r\n"))

    assert (200, ["CopyObject"]) == (answer.status, arrived(nodes))


@pytest.mark.parametrize(
    "key",
    [
        *("../secret/key", "..%2Fsecret%2Fkey", "%2e%2e/secret/key", "x/../k", "./k", "k/.", "k/..", "/secret/key"),
        *("%2Fk", "__XLDIR__", "k__XLDIR__", "k%5F_XLDIR__/x"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_key_that_is_a_way_is_refused(nodes: FakeS3, bound: RunningProxy, method: str, key: str) -> None:
    """A server that keeps objects in files may go that way; the proxy cannot know where it ends."""
    nodes.store.add("allowed", "k", b"0123456789")
    assert 200 == ask(nodes, bound, "GET", "/allowed/k").status  # the key's credential is cached from here on

    answer = ask(nodes, bound, method, f"/allowed/{key}")

    assert (400, "InvalidArgument", []) == (answer.status, answer.code, arrived(nodes))


@pytest.mark.parametrize(
    "key", ["../secret/key", "x/../../secret/key", "/k", "&#46;./secret/key", "<![CDATA[..]]>/secret/key"]
)
def test_batch_delete_of_keys_that_are_ways_is_refused(nodes: FakeS3, bound: RunningProxy, key: str) -> None:
    """By it versitygw 1.8 deleted an object of another bucket."""
    body = f"<Delete><Object><Key>k</Key></Object><Object><Key>{key}</Key></Object></Delete>".encode()

    nodes.store.add("allowed", "k", b"0123456789")

    answer = ask(nodes, bound, "POST", "/allowed?delete", body=body)

    assert (400, [], b"0123456789") == (answer.status, arrived(nodes), nodes.store.bodies("allowed")["k"])


def test_batch_delete_of_a_version_that_is_a_way_is_refused(nodes: FakeS3, bound: RunningProxy) -> None:
    """As in a query: no server gives such a version, and some look for files by it."""
    body = b"<Delete><Object><Key>k</Key><VersionId>../../secret/key</VersionId></Object></Delete>"

    answer = ask(nodes, bound, "POST", "/allowed?delete", body=body)

    assert (400, "InvalidArgument", []) == (answer.status, answer.code, arrived(nodes))


def test_document_that_is_deeper_than_any_of_s3_is_refused(nodes: FakeS3, bound: RunningProxy) -> None:
    """Two megabytes of <a> took 150 for as long as they were read."""
    body = b"<Delete>" + b"<a>" * 100 + b"</a>" * 100 + b"</Delete>"

    answer = ask(nodes, bound, "POST", "/allowed?delete", body=body)

    assert (400, "MalformedXML", []) == (answer.status, answer.code, arrived(nodes))


def test_batch_delete_passes_as_it_came(nodes: FakeS3, bound: RunningProxy) -> None:
    """It is read before a node has it, and sent on byte by byte."""
    nodes.store.add("allowed", "gone", b"")
    body = "<Delete><Object><Key>gone</Key></Object><Object><Key>never/..was/\u00e4</Key></Object></Delete>".encode()

    digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()

    answer = ask(nodes, bound, "POST", "/allowed?delete", {"content-md5": digest}, body)

    assert (200, False) == (answer.status, "gone" in nodes.store.bodies("allowed"))
    assert hashlib.sha256(body).hexdigest() == last(nodes).body_sha256


@pytest.mark.parametrize("name", ["uploadId", "versionId", "upload-id-marker", "version-id-marker"])
@pytest.mark.parametrize("value", ["..", "../../../../secret", "..%2F..%2Fsecret", "a/b", "a%00", "a%20b", "%2e%2e"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_identifier_that_no_server_gave_is_refused(
    nodes: FakeS3, bound: RunningProxy, method: str, name: str, value: str
) -> None:
    """By DELETE ?uploadId=../../../../other versitygw 1.8 deletes the other bucket's objects."""
    answer = ask(nodes, bound, method, f"/allowed/k?{name}={value}&partNumber=1")

    assert (400 + 4 * (name == "uploadId"), []) == (answer.status, arrived(nodes))


def test_identifiers_are_checked_for_every_key(fake: FakeS3, proxy: RunningProxy) -> None:
    """The node would carry it out with the key that signs anew, whoever asked."""
    fake.forget()

    answer = proxy.ask("DELETE", "/b/there?uploadId=../../../../other")

    assert (404, "NoSuchUpload", []) == (answer.status, answer.code, arrived(fake))


@pytest.mark.parametrize(
    "name", ["x_amz_acl", "x-amz-acl_", "X-Amz-meta.a", "x-amz%00", "x-amz-credential", "X-AMZ-DATE"]
)
def test_parameter_that_a_node_may_take_for_a_header_is_refused(fake: FakeS3, proxy: RunningProxy, name: str) -> None:
    """Presigned URLs carry headers as parameters; their names are as strict."""
    fake.forget()

    assert (400, []) == (proxy.ask("PUT", f"/b/new?{name}=public-read").status, arrived(fake))
