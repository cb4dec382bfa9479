from __future__ import annotations

import os

import pytest

from s3pool.errors import IntegrityError, RefusedError, S3Error
from s3pool.model import ObjectAttributes
from s3pool.transfer.tasks import CopyTask
from tests.support.fake_s3 import MIB, FakeS3, HeldUpload, Rewrite, WrongETag, internal_error
from tests.support.transfers import copy
from tests.unit.transfer.conftest import Make

PART = 5 * MIB
TASK = CopyTask("b", "k", "b", "copy")


def put(fake: FakeS3, content: bytes, **headers: str) -> None:
    """Store the source."""
    fake.store.add("b", "k", content, mtime=0.0, **headers)


def test_copy_with_a_flag_replaces_only_that(fake: FakeS3, make_context: Make) -> None:
    """S3 replaces all or nothing, so the rest is brought along."""
    put(fake, b"content", **{"x-amz-meta-a": "1", "content-type": "x/y"})

    copy(TASK, make_context(attributes=ObjectAttributes(content_type="new/type")))

    head = make_context().client.head_object("b", "copy")
    assert ("new/type", {"a": "1"}) == (head.content_type, head.metadata)


def test_large_copy_is_made_of_parts(fake: FakeS3, make_context: Make) -> None:
    """CopyObject ends at 5 GiB."""
    content = os.urandom(3 * PART + 5)
    put(fake, content, **{"x-amz-meta-a": "1"})

    copy(TASK, make_context(workers=2, part_size=PART))

    assert content == fake.store.bodies("b")["copy"]
    assert 4 == len(fake.ops(op="UploadPartCopy"))
    assert "1" == make_context().client.head_object("b", "copy").metadata["a"]


def test_copy_of_parts_promises_no_checksums(fake: FakeS3, make_context: Make) -> None:
    """The bytes never come here; an upload that was begun with one wants one of every part."""
    content = os.urandom(PART + 5)
    put(fake, content)

    copy(TASK, make_context(part_size=PART, checksum="sha256"))

    assert content == fake.store.bodies("b")["copy"]


def test_failed_copy_of_parts_leaves_no_upload(fake: FakeS3, make_context: Make) -> None:
    """Parts that nobody sees would be paid for for ever."""
    fake.store.add("b", "k", os.urandom(2 * PART))
    fake.fault(internal_error(), op="UploadPartCopy", times=0)

    with pytest.raises(S3Error):
        copy(TASK, make_context(part_size=PART))

    assert {} == fake.store.bucket("b").uploads


def test_copy_whose_upload_a_dead_node_holds_is_made_anew(fake: FakeS3, make_context: Make) -> None:
    """RGW keeps the lock of a node that died in Complete for ten minutes."""
    content = os.urandom(2 * PART)
    fake.store.add("b", "k", content)
    fake.fault(HeldUpload(), op="CompleteMultipartUpload", times=0)

    copy(TASK, make_context(part_size=PART))

    assert content == fake.store.bodies("b")["copy"]
    assert {} == fake.store.bucket("b").uploads


def test_copy_onto_itself_is_refused(fake: FakeS3, make_context: Make) -> None:
    """A move would delete what it has just not moved."""
    fake.store.add("b", "k", b"content")

    with pytest.raises(RefusedError, match="same object"):
        copy(CopyTask("b", "k", "b", "k"), make_context(remove_source=True))

    assert {"k": b"content"} == fake.store.bodies("b")


def test_copy_onto_itself_may_change_attributes(fake: FakeS3, make_context: Make) -> None:
    """It is S3's only way to change them."""
    fake.store.add("b", "k", b"content")

    copy(CopyTask("b", "k", "b", "k"), make_context(attributes=ObjectAttributes(content_type="new/type")))

    assert "new/type" == make_context().client.head_object("b", "k").content_type


def test_copy_with_another_etag_fails(fake: FakeS3, make_context: Make) -> None:
    """The server says that it stored something else."""
    fake.store.add("b", "k", b"content")
    fake.fault(WrongETag(), op="CopyObject")

    with pytest.raises(IntegrityError, match="has the ETag"):
        copy(CopyTask("b", "k", "b", "copy", 7, etag="9a0364b9e99bb480dd25e1f0284c8555"), make_context())


def test_update_and_no_clobber_hold_for_copies(fake: FakeS3, make_context: Make) -> None:
    """The target's own time decides."""
    fake.store.add("b", "k", b"new", mtime=1_000)
    fake.store.add("b", "copy", b"old", mtime=2_000)

    kept = copy(TASK, make_context(no_clobber=True))
    not_newer = copy(TASK, make_context(update=True))
    fake.store.add("b", "k", b"new", mtime=3_000)
    newer = copy(TASK, make_context(update=True))

    assert ("it exists", "the source is not newer", "") == (kept.skipped, not_newer.skipped, newer.skipped)


def test_tags_are_set_where_the_server_forgets_them(fake: FakeS3, make_context: Make) -> None:
    """RGW 16 loses them when metadata is replaced."""
    fake.store.add("b", "k", b"content")
    context = make_context(attributes=ObjectAttributes(tags={"a": "1"}))
    fake.fault(Rewrite(lambda reply: reply), op="CopyObject")

    copy(TASK, context)

    assert {"a": "1"} == context.client.get_tags("b", "copy")
