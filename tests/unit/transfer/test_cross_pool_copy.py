"""Copies between two pools: what arrives, what is checked, and what a failure leaves."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from s3pool.errors import IntegrityError, NoEndpointError, S3Error
from s3pool.model import ObjectAttributes
from s3pool.transfer.copy import IN_MEMORY_BYTES
from s3pool.transfer.tasks import CopyTask
from tests.support.fake_s3 import (
    MIB,
    Call,
    CutBody,
    Die,
    DieReceiving,
    Exchange,
    FakeS3,
    Fault,
    FlipByte,
    FlipStored,
    HeldUpload,
    IgnoreHeader,
    Reset,
    Rewrite,
    slow_down,
)
from tests.support.fake_s3.wire import flip
from tests.support.parts import parts_etag
from tests.support.transfers import copy
from tests.unit.transfer.conftest import Make

PART = 5 * MIB
TASK = CopyTask("src", "k", "b", "copy")
SECRETS = {"SOURCEKEY": "source-secret"}


@pytest.fixture
def there() -> Iterator[FakeS3]:
    """Give the source's pool: other addresses, another key pair, and nobody else let in."""
    with FakeS3(2, secrets=SECRETS) as server:
        yield server


def put(there: FakeS3, content: bytes, *, part_size: int = 0, key: str = "k", **headers: str) -> None:
    """Store a source; with a part size as an upload in parts would have."""
    told = {"x-amz-meta-s3pool-part-size": str(part_size)} if part_size else {}
    version = there.store.add("src", key, content, **told, **headers)
    if part_size:
        version.etag = parts_etag(content, part_size)


def flip_received(at: int) -> Call:
    """Turn over one bit of a request's body on its way."""

    def hook(exchange: Exchange) -> None:
        exchange.body()
        exchange.received = flip(exchange.received, at)

    return Call(hook)


@pytest.mark.parametrize("size", [0, 1, IN_MEMORY_BYTES, IN_MEMORY_BYTES + 1])
def test_small_objects_are_one_get_and_one_put(fake: FakeS3, there: FakeS3, make_context: Make, size: int) -> None:
    """Every further request would cost more than the bytes."""
    content = os.urandom(size)
    put(there, content)

    done = copy(CopyTask("src", "k", "b", "copy", size), make_context(source=there))

    heads = [] if size <= IN_MEMORY_BYTES else ["HeadObject"]
    assert content == fake.store.bodies("b")["copy"]
    assert (size, hashlib.md5(content, usedforsecurity=False).hexdigest()) == (done.size, done.etag)
    assert ([*heads, "GetObject"], ["PutObject"]) == (there.ops(), [op for op in fake.ops() if op != "ListBuckets"])


def test_what_is_stored_beside_the_bytes_comes_along(fake: FakeS3, there: FakeS3, make_context: Make) -> None:
    """Nobody looks at it again when the old pool is gone."""
    beside = {
        "content-type": "x/y",
        "cache-control": "no-store",
        "content-encoding": "gzip",
        "x-amz-meta-mtime": "1234.5",
        "x-amz-meta-a": "1",
    }
    for key, size in (("small", 3), ("middle", 2 * MIB), ("large", 2 * PART)):
        put(there, bytes(size), key=key, part_size=PART if key == "large" else 0, **beside)
        there.store.bucket("src").current(key).tags = {"t": "v w"}  # type: ignore[union-attr]
        copy(CopyTask("src", key, "b", key), make_context(source=there))

    for key in ("small", "middle", "large"):
        found = fake.store.bucket("b").current(key)
        assert found is not None
        assert {"t": "v w"} == found.tags
        assert beside == {name: value for name, value in found.headers.items() if name in beside}


def test_tags_are_set_where_an_upload_in_parts_forgets_them(fake: FakeS3, there: FakeS3, make_context: Make) -> None:
    """RGW 16 does, without a word."""
    put(there, os.urandom(2 * PART), part_size=PART)
    there.store.bucket("src").current("k").tags = {"a": "1"}  # type: ignore[union-attr]
    fake.fault(IgnoreHeader("x-amz-tagging"), op="CreateMultipartUpload")

    copy(TASK, make_context(source=there))

    assert {"a": "1"} == make_context().client.get_tags("b", "copy")


def test_what_the_user_gives_replaces_the_rest_stays(fake: FakeS3, there: FakeS3, make_context: Make) -> None:
    """As a copy inside a pool does it."""
    put(there, b"content", **{"content-type": "x/y", "x-amz-meta-a": "1"})
    given = ObjectAttributes(content_type="new/type", tags={"n": "1"})

    copy(TASK, make_context(source=there, attributes=given))

    head = make_context().client.head_object("b", "copy")
    assert ("new/type", {"a": "1"}) == (head.content_type, head.metadata)
    assert {"n": "1"} == make_context().client.get_tags("b", "copy")


def test_parts_of_the_source_stay_its_parts(fake: FakeS3, there: FakeS3, make_context: Make) -> None:
    """Only then can the ETags be compared, now and in every later sync."""
    content = os.urandom(3 * PART + 7)
    put(there, content, part_size=PART)

    done = copy(TASK, make_context(workers=3, source=there))

    assert content == fake.store.bodies("b")["copy"]
    assert parts_etag(content, PART) == done.etag
    assert (4, 4) == (len(there.ops(op="GetObject")), len(fake.ops(op="UploadPart")))
    assert {0, 1} == {request.endpoint for request in there.requests if request.op == "GetObject"}
    assert {0, 1} == {request.endpoint for request in fake.requests if request.op == "UploadPart"}
    assert all("if-match" in request.headers for request in there.requests if request.op == "GetObject")


def test_copy_whose_upload_a_dead_node_holds_is_made_anew(fake: FakeS3, there: FakeS3, make_context: Make) -> None:
    """RGW keeps the lock of a node that died in Complete for ten minutes."""
    content = os.urandom(2 * PART)
    put(there, content, part_size=PART)
    fake.fault(HeldUpload(), op="CompleteMultipartUpload", times=0)

    copy(TASK, make_context(source=there))

    assert content == fake.store.bodies("b")["copy"]
    assert {} == fake.store.bucket("b").uploads


def test_large_object_with_a_plain_md5_goes_in_order(fake: FakeS3, there: FakeS3, make_context: Make) -> None:
    """Its ETag is of the bytes in their order; that order is kept to check them."""
    content = os.urandom(2 * PART + 7)
    put(there, content)

    copy(TASK, make_context(workers=3, source=there, part_size=PART))

    assert content == fake.store.bodies("b")["copy"]
    numbers = [request.query["partNumber"] for request in fake.requests if request.op == "UploadPart"]
    assert ["1", "2", "3"] == numbers


@pytest.mark.parametrize("part_size", [0, PART])
def test_source_node_that_dies_in_the_middle_is_gone_on_without(
    fake: FakeS3, there: FakeS3, make_context: Make, part_size: int
) -> None:
    """The target need not notice: its request goes on with the rest from another node."""
    content = os.urandom(2 * PART)
    put(there, content, part_size=part_size)
    there.fault(Die(after=MIB), op="GetObject")

    copy(TASK, make_context(workers=2, source=there))

    assert content == fake.store.bodies("b")["copy"]
    assert 0 == sum(request.status == 0 for request in fake.requests)


@pytest.mark.parametrize("part_size", [0, PART])
@pytest.mark.parametrize("fault", [slow_down(), Reset(after=MIB), DieReceiving(after=MIB)], ids=repr)
def test_target_node_that_refuses_is_replaced(
    fake: FakeS3, there: FakeS3, make_context: Make, part_size: int, fault: object
) -> None:
    """The range is read again for the other node."""
    content = os.urandom(2 * PART)
    put(there, content, part_size=part_size)
    fake.fault(fault, op="UploadPart" if part_size else "PutObject")  # type: ignore[arg-type]

    copy(TASK, make_context(workers=2, source=there))

    assert content == fake.store.bodies("b")["copy"]
    assert (3 if part_size else 2) == len(there.ops(op="GetObject"))


def test_trouble_of_the_source_is_not_held_against_the_target(fake: FakeS3, there: FakeS3, make_context: Make) -> None:
    """A healthy node must not leave the pool because another pool is ill."""
    put(there, os.urandom(2 * PART))
    context = make_context(source=there)
    context.source.client.head_object("src", "k")
    there.fault(Call(lambda _: [node.kill() for node in there.nodes]), op="GetObject")

    with pytest.raises(NoEndpointError):
        copy(TASK, context)

    assert 0 == sum(row.failures for row in context.client.sender.stats())  # type: ignore[attr-defined]
    assert {} == fake.store.bodies("b")


@pytest.mark.parametrize("part_size", [0, PART])
def test_source_that_is_replaced_between_ranges_is_tried_again(
    fake: FakeS3, there: FakeS3, make_context: Make, part_size: int
) -> None:
    """Half of the one and half of the other is what nobody ever stored."""
    put(there, os.urandom(3 * PART), part_size=part_size)
    new = os.urandom(3 * PART)
    nth = 2 if part_size else 1
    there.fault(Call(lambda _: put(there, new, part_size=part_size)), op="GetObject", nth=nth)

    copy(TASK, make_context(source=there))

    assert {"copy": new} == fake.store.bodies("b")
    assert {} == fake.store.bucket("b").uploads


@pytest.mark.parametrize(("size", "part_size"), [(9, 0), (2 * MIB, 0), (2 * PART, PART)])
def test_flipped_byte_from_the_source_is_never_stored(
    fake: FakeS3, there: FakeS3, make_context: Make, size: int, part_size: int
) -> None:
    """The ETag of the source tells, before the target has the last byte."""
    put(there, os.urandom(size), part_size=part_size)
    fake.store.add("b", "copy", b"old")
    there.fault(FlipByte(at=5), op="GetObject")

    with pytest.raises(IntegrityError, match="the bytes that arrived"):
        copy(CopyTask("src", "k", "b", "copy", size), make_context(source=there))

    assert {"copy": b"old"} == fake.store.bodies("b")
    assert {} == fake.store.bucket("b").uploads


def test_flipped_byte_in_a_later_part_of_an_md5_is_found(fake: FakeS3, there: FakeS3, make_context: Make) -> None:
    """The running digest goes over the borders of the parts."""
    put(there, os.urandom(2 * PART))
    there.fault(FlipByte(at=5), op="GetObject", nth=2)

    with pytest.raises(IntegrityError, match="do not make its ETag"):
        copy(TASK, make_context(source=there, part_size=PART))

    assert {} == fake.store.bodies("b")


@pytest.mark.parametrize("size", [9, 2 * MIB])
def test_flipped_byte_to_the_target_is_never_stored(fake: FakeS3, there: FakeS3, make_context: Make, size: int) -> None:
    """The target compares a digest that went ahead of the bytes."""
    fake.secrets.update({"FAKEACCESSKEY0000000": "fake/secret+key=0123456789abcdefghijklmn"})
    put(there, os.urandom(size))
    fake.fault(flip_received(5), op="PutObject", times=0)

    with pytest.raises(S3Error):
        copy(CopyTask("src", "k", "b", "copy", size), make_context(source=there))

    assert {} == fake.store.bodies("b")


def test_flipped_byte_in_a_part_to_the_target_is_sent_again(fake: FakeS3, there: FakeS3, make_context: Make) -> None:
    """The part's ETag gives it away, and the upload is still open."""
    content = os.urandom(2 * PART)
    put(there, content, part_size=PART)
    fake.fault(flip_received(5), op="UploadPart")

    copy(TASK, make_context(source=there))

    assert content == fake.store.bodies("b")["copy"]
    assert 3 == len(fake.ops(op="UploadPart"))


@pytest.mark.parametrize(
    ("at_source", "fault", "op", "error"),
    [
        (False, flip_received(5), "UploadPart", "BadDigest"),  # the second time a digest goes ahead, and it is refused
        (False, FlipStored(at=5), "UploadPart", "part 1, has the ETag"),  # it says itself that it has other bytes
        (True, IgnoreHeader("range"), "GetObject", "ignores Range"),  # whole objects in place of parts
    ],
)
def test_parts_that_are_wrong_each_time_fail(
    fake: FakeS3, there: FakeS3, make_context: Make, at_source: bool, fault: Fault, op: str, error: str
) -> None:
    """They would make another object."""
    put(there, os.urandom(2 * PART), part_size=PART)
    (there if at_source else fake).fault(fault, op=op, times=0)

    with pytest.raises((S3Error, IntegrityError), match=error):
        copy(TASK, make_context(source=there))

    assert ({}, {}) == (fake.store.bodies("b"), fake.store.bucket("b").uploads)


def test_etags_that_are_no_digests_are_coped_with(fake: FakeS3, there: FakeS3, make_context: Make) -> None:
    """A bucket that encrypts with KMS gives such; the server compares Content-MD5 then."""
    content = os.urandom(3 * PART)
    put(there, content, part_size=PART)
    headers = {"ETag": f'"{"f" * 32}"', "x-amz-server-side-encryption": "aws:kms"}
    fake.fault(Rewrite(lambda reply: replace(reply, headers=headers)), op="UploadPart", times=0)
    context = make_context(source=there)
    stored = fake.store.bucket("b").uploads

    with pytest.raises(S3Error, match="InvalidPart"):  # this fake knows the parts by their MD5 alone
        copy(TASK, context)

    digests = ["content-md5" in request.headers for request in fake.requests if request.op == "UploadPart"]
    assert [False, True, True, True] == digests
    assert {} == stored


def test_checksum_is_sent_ahead(fake: FakeS3, there: FakeS3, make_context: Make) -> None:
    """It is a header, so the source is read twice; the server holds the bytes against it."""
    for key, size, part_size in (("small", 9, 0), ("middle", 2 * MIB, 0), ("large", 2 * PART, PART)):
        put(there, os.urandom(size), key=key, part_size=part_size)
        copy(CopyTask("src", key, "b", key), make_context(source=there, checksum="sha256"))

    sent = [request for request in fake.requests if request.op in ("PutObject", "UploadPart")]
    assert there.store.bodies("src") == fake.store.bodies("b")
    assert 4 == len(sent)
    assert all("x-amz-checksum-sha256" in request.headers for request in sent)


def test_object_that_outgrew_memory_since_the_listing_is_streamed(
    fake: FakeS3, there: FakeS3, make_context: Make
) -> None:
    """A listing may be hours old."""
    content = os.urandom(IN_MEMORY_BYTES + 5)
    put(there, content)

    copy(CopyTask("src", "k", "b", "copy", 7), make_context(source=there))

    assert content == fake.store.bodies("b")["copy"]


def test_cut_answer_for_a_small_object_goes_on(fake: FakeS3, there: FakeS3, make_context: Make) -> None:
    """The rest comes from another node."""
    content = os.urandom(MIB)
    put(there, content)
    there.fault(CutBody(after=1000), op="GetObject")

    copy(CopyTask("src", "k", "b", "copy", MIB), make_context(source=there))

    assert content == fake.store.bodies("b")["copy"]


def test_update_and_no_clobber_hold_between_pools(fake: FakeS3, there: FakeS3, make_context: Make) -> None:
    """The source's time is asked for at the source."""
    there.store.add("src", "k", b"new", mtime=1_000)
    fake.store.add("b", "copy", b"old", mtime=2_000)

    kept = copy(TASK, make_context(source=there, no_clobber=True))
    not_newer = copy(TASK, make_context(source=there, update=True))
    there.store.add("src", "k", b"new", mtime=3_000)
    newer = copy(TASK, make_context(source=there, update=True))

    assert ("it exists", "the source is not newer", "") == (kept.skipped, not_newer.skipped, newer.skipped)


def test_no_clobber_holds_against_who_comes_in_between(fake: FakeS3, there: FakeS3, make_context: Make) -> None:
    """The target is asked once more, by the condition on the request itself."""
    put(there, os.urandom(2 * MIB))
    there.fault(Call(lambda _: fake.store.add("b", "copy", b"theirs")), op="GetObject")

    done = copy(TASK, make_context(source=there, no_clobber=True))

    assert ("it exists", {"copy": b"theirs"}) == (done.skipped, fake.store.bodies("b"))
