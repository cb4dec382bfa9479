from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from s3pool.errors import IntegrityError, RefusedError, S3Error, StoppedError, TransportError
from s3pool.model import ObjectAttributes
from s3pool.transfer.context import TransferContext, UploadRegistry
from s3pool.transfer.tasks import Done, UploadTask
from s3pool.transfer.upload import ChangedError, upload_stream
from tests.support.fake_s3 import (
    MIB,
    Answer,
    Call,
    FakeS3,
    Fault,
    FlipByte,
    HeldUpload,
    Reset,
    Rewrite,
    Vanish,
    WrongETag,
    error_in_200,
    internal_error,
)
from tests.support.fake_s3.wire import Reply
from tests.support.transfers import upload
from tests.unit.transfer.conftest import Make

PART = 5 * MIB
Source = Callable[[bytes], Path]


def content_of(size: int) -> bytes:
    """Give bytes that are nowhere else."""
    return os.urandom(size)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Write the source file."""

    def write(content: bytes) -> Path:
        path = tmp_path / "source.txt"
        path.write_bytes(content)
        return path

    return write


def send(path: Path, context: TransferContext) -> Done:
    """Store the file."""
    return upload(UploadTask(str(path), "b", "k", path.stat().st_size), context)


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, PART, PART + 1, 2 * PART, 3 * PART + 17])
@pytest.mark.parametrize("sign_payload", [True, False])
def test_stored_bytes_are_the_files(
    fake: FakeS3, make_context: Make, source: Source, size: int, sign_payload: bool
) -> None:
    """Around every threshold, with either protection."""
    content = content_of(size)

    done = send(source(content), make_context(workers=3, part_size=PART, sign_payload=sign_payload))

    stored = fake.store.bucket("b").current("k")
    assert stored is not None
    assert content == stored.body
    assert (size, stored.etag.strip('"')) == (done.size, done.etag)


def test_time_and_type_are_stored(fake: FakeS3, make_context: Make, source: Source) -> None:
    """A round trip keeps the modification time to the nanosecond."""
    path = source(b"text")
    os.utime(path, ns=(0, 1_500_000_000_123_456_789))

    send(path, make_context())

    head = make_context().client.head_object("b", "k")
    assert ("text/plain", "1500000000.123456789") == (head.content_type, head.metadata["mtime"])


def test_lost_part_is_sent_again_alone(fake: FakeS3, make_context: Make, source: Source) -> None:
    """A connection that dies in one part costs that part."""
    content = content_of(3 * PART)
    fake.fault(Reset(after=MIB), op="UploadPart", nth=2)

    send(source(content), make_context(workers=2, part_size=PART))

    assert {"k": content} == fake.store.bodies("b")
    assert 4 == len(fake.ops(op="UploadPart"))


def test_parts_go_over_all_endpoints(fake: FakeS3, make_context: Make, source: Source) -> None:
    """One large file has the bandwidth of the whole pool."""
    send(source(content_of(6 * PART)), make_context(workers=2, part_size=PART))

    used = {request.endpoint for request in fake.requests if request.op == "UploadPart"}
    assert {0, 1} == used


NOT_DONE = [Reset(), internal_error(), error_in_200()]
DONE_UNHEARD = [Vanish(), internal_error(acted=True), error_in_200(acted=True)]
CREATES = [Vanish(), Reset(), internal_error(acted=True), internal_error()]


@pytest.mark.parametrize(
    ("op", "fault", "times"),
    [
        *(("CreateMultipartUpload", fault, 2) for fault in CREATES),
        *(("CompleteMultipartUpload", fault, 1) for fault in DONE_UNHEARD),
        *(("CompleteMultipartUpload", fault, 2) for fault in NOT_DONE),
    ],
    ids=str,
)
def test_request_without_clear_answer_is_looked_after(
    fake: FakeS3, make_context: Make, source: Source, op: str, fault: Fault, times: int
) -> None:
    """Create is repeated and leaves no orphan; Complete is asked for again only where nothing was done yet."""
    content = content_of(2 * PART)
    fake.fault(fault, op=op)

    send(source(content), make_context(part_size=PART))

    assert ({"k": content}, {}) == (fake.store.bodies("b"), fake.store.bucket("b").uploads)
    assert times == len(fake.ops(op=op))


@pytest.mark.parametrize(
    ("op", "fault", "error", "times"),
    [
        ("CreateMultipartUpload", Vanish(), TransportError, 4),  # each of which may have begun an upload
        ("CreateMultipartUpload", Answer(403, "AccessDenied"), S3Error, 1),  # the answer is clear
        ("UploadPart", internal_error(), S3Error, None),
        ("CompleteMultipartUpload", internal_error(), S3Error, None),
    ],
)
def test_upload_that_fails_leaves_nothing(
    fake: FakeS3,
    make_context: Make,
    source: Source,
    op: str,
    fault: Fault,
    error: type[Exception],
    times: int | None,
) -> None:
    """Parts that nobody sees would be paid for for ever."""
    fake.fault(fault, op=op, times=0)

    with pytest.raises(error):
        send(source(content_of(2 * PART)), make_context(workers=2, part_size=PART))

    assert ({}, {}) == (fake.store.bodies("b"), fake.store.bucket("b").uploads)
    assert times in (None, len(fake.ops(op=op)))


def test_upload_that_a_dead_node_holds_is_made_anew_and_aborted_when_the_object_is_there(
    fake: FakeS3, make_context: Make, source: Source
) -> None:
    """RGW keeps the lock of such a node for ten minutes; a completion that comes late and an abort must not meet."""
    content = content_of(2 * PART)
    fake.fault(HeldUpload(), op="CompleteMultipartUpload", times=0)

    send(source(content), make_context(part_size=PART))

    assert ({"k": content}, {}) == (fake.store.bodies("b"), fake.store.bucket("b").uploads)
    assert 2 == len(fake.ops(op="CreateMultipartUpload"))
    ends = [op for op in fake.ops() if op in {"AbortMultipartUpload", "CompleteMultipartUpload"}]
    assert ["CompleteMultipartUpload", "AbortMultipartUpload"] == ends[-2:]
    assert 1 == ends.count("AbortMultipartUpload")


def test_held_upload_is_left_alone_at_an_interrupt(fake: FakeS3, make_context: Make, source: Source) -> None:
    """It may yet be completed, by the node that holds it; what is open otherwise is aborted."""
    held = HeldUpload()
    fake.fault(held, op="CompleteMultipartUpload", times=0)
    fake.fault(internal_error(), op="UploadPart", nth=3, times=0)
    context = make_context(part_size=PART)

    with pytest.raises(S3Error, match="InternalError"):
        send(source(content_of(2 * PART)), context)
    context.uploads.abort_all(within_s=30)

    assert 2 == len(fake.ops(op="CreateMultipartUpload"))
    assert [held.upload_id] == list(fake.store.bucket("b").uploads)


def test_upload_that_ends_while_all_are_aborted_is_passed_over() -> None:
    """Its worker completes it at the moment of an interrupt, and forgets it; the others are aborted all the same."""
    uploads = UploadRegistry()
    aborted: list[str] = []

    class EndsTheOther(str):
        """The id of an upload; while it is looked up another upload ends."""

        def __hash__(self) -> int:
            uploads.pop("other", None)
            return super().__hash__()

    uploads[EndsTheOther("first")] = lambda: aborted.append("first")
    uploads["other"] = lambda: aborted.append("other")
    uploads["last"] = lambda: aborted.append("last")
    uploads.abort_all(within_s=30)

    assert (["first", "last"], {}) == (aborted, uploads)


def test_old_object_is_not_taken_for_the_new_one(fake: FakeS3, make_context: Make, source: Source) -> None:
    """An object of that name and size proves nothing."""
    fake.store.add("b", "k", b"x" * (2 * PART))
    fake.fault(internal_error(), op="CompleteMultipartUpload", times=0)

    with pytest.raises(S3Error):
        send(source(content_of(2 * PART)), make_context(part_size=PART))


def test_empty_etag_of_complete_is_asked_for(quirky: Callable[..., FakeS3], make_context: Make, source: Source) -> None:
    """RGW 16 leaves it out."""
    server = quirky(empty_complete_etag=True)
    content = content_of(2 * PART)

    done = send(source(content), make_context(server=server, part_size=PART))

    stored = server.store.bucket("b").current("k")
    assert stored is not None
    assert stored.etag.strip('"') == done.etag


def test_composite_etag_that_differs_fails(fake: FakeS3, make_context: Make, source: Source) -> None:
    """The object is not made of the parts that were sent."""
    fake.fault(WrongETag("0" * 32 + "-2"), op="CompleteMultipartUpload")
    fake.fault(FlipByte(), op="GetObject")  # what the object is, when it is looked at

    with pytest.raises(IntegrityError, match="its parts make"):
        send(source(content_of(2 * PART)), make_context(part_size=PART))


@pytest.mark.parametrize(("size", "op"), [(10, "PutObject"), (PART + 1, "UploadPart")])
@pytest.mark.parametrize(
    "header",
    [("x-amz-server-side-encryption", "aws:kms"), ("x-amz-server-side-encryption-customer-algorithm", "AES256")],
)
def test_etag_that_hides_the_digest_is_not_compared(
    fake: FakeS3,
    make_context: Make,
    source: Source,
    size: int,
    op: str,
    header: tuple[str, str],
) -> None:
    """A bucket may encrypt by default: its ETags look like MD5s, and are none."""

    def encrypt(reply: Reply) -> Reply:
        return replace(reply, headers={**reply.headers, "ETag": f'"{"0" * 32}"', header[0]: header[1]})

    fake.fault(Rewrite(encrypt), op=op, times=0)
    path = source(content_of(size))
    context = make_context(part_size=PART, sign_payload=False)
    if op == "PutObject":
        assert size == send(path, context).size
        return
    with pytest.raises(S3Error, match="InvalidPart"):  # by Complete: this server's ETags are MD5s after all
        send(path, context)


def grow(path: Path) -> Callable[[object], None]:
    """Give a hook that appends to the file."""

    def append(_: object) -> None:
        with path.open("ab") as stream:
            stream.write(b"more")

    return append


def test_source_that_changes_once_is_sent_as_it_is_then(fake: FakeS3, make_context: Make, source: Source) -> None:
    """A log that was appended to is taken whole at the second try."""
    path = source(content_of(2 * PART))
    fake.fault(Call(grow(path)), op="CreateMultipartUpload")

    send(path, make_context(part_size=PART))

    assert {"k": path.read_bytes()} == fake.store.bodies("b")
    assert {} == fake.store.bucket("b").uploads


def test_source_that_keeps_changing_fails_and_stores_nothing(fake: FakeS3, make_context: Make, source: Source) -> None:
    """A mixture of two states is worse than an error."""
    path = source(content_of(2 * PART))
    fake.fault(Call(grow(path)), op="UploadPart", times=0)

    with pytest.raises(ChangedError, match="changed while it was read"):
        send(path, make_context(part_size=PART))

    assert ({}, {}) == (fake.store.bodies("b"), fake.store.bucket("b").uploads)


def test_small_source_that_shrinks_is_noticed(
    fake: FakeS3, make_context: Make, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less than its size was read: it is not the file that was looked at."""
    path = source(b"content")
    monkeypatch.setattr(os, "read", lambda fd, count: b"")

    with pytest.raises(ChangedError):
        send(path, make_context())

    assert {} == fake.store.bodies("b")


def test_stop_ends_an_upload_and_aborts_it(fake: FakeS3, make_context: Make, source: Source) -> None:
    """An interrupt must not wait for a terabyte."""
    context = make_context(part_size=PART)
    fake.fault(Call(lambda _: context.stop.set()), op="UploadPart")

    with pytest.raises(StoppedError):
        send(source(content_of(3 * PART)), context)

    assert {} == fake.store.bucket("b").uploads


def test_pipe_is_refused_without_blocking(make_context: Make, tmp_path: Path) -> None:
    """It became a pipe after the walk saw a file."""
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(RefusedError, match="no regular file"):
        upload(UploadTask(str(tmp_path / "pipe"), "b", "k"), make_context())


def test_no_clobber_leaves_what_is_there(fake: FakeS3, make_context: Make, source: Source) -> None:
    """Also when it came between the look and the write."""
    path = source(b"new")
    fake.fault(Call(lambda _: fake.store.add("b", "k", b"old")), op="PutObject")

    first = send(path, make_context(no_clobber=True))
    second = send(path, make_context(no_clobber=True))

    assert ("it exists", "it exists") == (first.skipped, second.skipped)
    assert {"k": b"old"} == fake.store.bodies("b")


def test_update_sends_only_what_is_newer(fake: FakeS3, make_context: Make, source: Source) -> None:
    """The stored time counts, not when it was stored."""
    path = source(b"one")
    os.utime(path, (0, 1_500_000_000))
    context = make_context(update=True)

    first = send(path, context)
    again = send(path, context)
    os.utime(path, (0, 1_500_000_001))
    newer = send(path, context)

    assert ("", "the source is not newer", "") == (first.skipped, again.skipped, newer.skipped)


def test_attributes_of_the_user_are_stored_with_parts(fake: FakeS3, make_context: Make, source: Source) -> None:
    """Create carries what PutObject would have carried."""
    attributes = ObjectAttributes(content_type="x/y", metadata={"k": "v"}, tags={"t": "1"})

    send(source(content_of(2 * PART)), make_context(part_size=PART, attributes=attributes))

    context = make_context()
    head = context.client.head_object("b", "k")
    assert ("x/y", "v", str(PART)) == (head.content_type, head.metadata["k"], head.metadata["s3pool-part-size"])


def test_stream_that_breaks_stores_nothing(fake: FakeS3, make_context: Make) -> None:
    """Half a dump must not look like a whole one."""
    blocks = [b"x" * PART, b"y" * PART]

    def read(_: int) -> bytes:
        if not blocks:
            raise OSError(5, "Input/output error")
        return blocks.pop()

    with pytest.raises(Exception, match="cannot read the stream"):
        upload_stream(read, "b", key="k", context=make_context(part_size=PART))

    assert ({}, {}) == (fake.store.bodies("b"), fake.store.bucket("b").uploads)
