"""Streams of unknown length: the sizes of their parts up to the limits of S3, and how many are held at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from s3pool.errors import RefusedError, StoppedError
from s3pool.s3.requests import MAX_OBJECT_BYTES, MAX_PART_BYTES, MAX_PARTS, MIB, MIN_PART_BYTES
from s3pool.transfer import upload
from s3pool.transfer.executor import BoundedExecutor
from s3pool.transfer.upload import StreamUpload, part_size_at, upload_stream
from tests.support.fake_s3 import Call, FakeS3
from tests.unit.transfer.conftest import Make

PATIENCE_S = 10.0


@pytest.mark.parametrize("first_size", [0, MIN_PART_BYTES, MAX_PART_BYTES])
def test_ten_thousand_parts_hold_the_largest_object(first_size: int) -> None:
    """Nobody knows at the start how long a stream will be."""
    sizes = [part_size_at(number, first_size) for number in range(MAX_PARTS)]

    assert sum(sizes) >= MAX_OBJECT_BYTES
    assert sizes == sorted(sizes)
    assert (first_size or 8 * MIB) == sizes[0]


def test_largest_part_is_bounded() -> None:
    """It is what a stream of terabytes takes of the memory."""
    assert 648 * MIB == part_size_at(MAX_PARTS - 1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all limits small."""
    monkeypatch.setattr(upload, "STREAM_PART_BYTES", 4)
    monkeypatch.setattr(upload, "LARGER_PARTS", ((3, 16),))
    monkeypatch.setattr(upload, "STREAM_MEMORY_BYTES", 8)


class IdleExecutor(BoundedExecutor):
    """Workers that are busy elsewhere: no job of a stream begins."""

    def submit(self, job: object, *, first: bool = False, bulky: bool = False) -> None:
        """Forget the job."""


@pytest.fixture
def store(quirky: Callable[..., FakeS3]) -> FakeS3:
    """Return a store that takes parts of any size."""
    return quirky(min_part_bytes=1)


@pytest.fixture
def stream(store: FakeS3, make_context: Make) -> StreamUpload:
    """Return an upload whose parts no worker takes."""
    context = make_context(server=store)
    context.executor = IdleExecutor(1)
    return StreamUpload(context, "b", "k", limit=4)


@pytest.mark.usefixtures("small")
def test_no_more_is_held_than_there_is_memory_for(store: FakeS3, stream: StreamUpload) -> None:
    """Four workers with parts of hundreds of MiB each would end in the swap."""
    stored = []
    for content in (b"1111", b"2222", b"3333"):
        stream.send(content)
        stream.await_room()
        stored.append(len(store.ops(op="UploadPart")))

    done = stream.complete(b"44")

    assert ([0, 1, 3], 14) == (stored, done.size)
    assert {"k": b"11112222333344"} == store.store.bodies("b")


@pytest.mark.usefixtures("small")
def test_part_that_is_larger_than_the_memory_goes_alone(store: FakeS3, stream: StreamUpload) -> None:
    """It waits for all others, not for ever."""
    sizes = []
    for _ in range(5):
        sizes.append(stream.part_size)
        stream.send(b"x" * stream.part_size)
        stream.await_room()

    stream.complete(b"")

    assert [4, 4, 4, 16, 16] == sizes
    assert {"k": b"x" * 44} == store.store.bodies("b")


@pytest.mark.usefixtures("small")
def test_wait_for_memory_ends_with_the_run(store: FakeS3, make_context: Make) -> None:
    """Nobody gives back what a worker that was told to stop has."""
    arrived, over = threading.Event(), threading.Event()
    store.fault(Call(lambda _: (arrived.set(), over.wait(PATIENCE_S))), op="UploadPart")
    context = make_context(server=store, workers=1)
    stream = StreamUpload(context, "b", "k", limit=1)
    stream.send(b"1111")
    arrived.wait(PATIENCE_S)
    context.stop.set()

    with pytest.raises(StoppedError):
        stream.await_room()
    over.set()


@pytest.mark.usefixtures("small")
def test_stopped_run_aborts_the_stream(store: FakeS3, stream: StreamUpload) -> None:
    """Nobody stores what a run that was told to stop still has."""
    stream.send(b"1111")
    stream.abort(StoppedError("stopped"))

    with pytest.raises(StoppedError):
        stream.await_room()
    assert ({}, {}) == (store.store.bodies("b"), store.store.bucket("b").uploads)


def test_stream_beyond_the_largest_object_is_refused(
    monkeypatch: pytest.MonkeyPatch, fake: FakeS3, make_context: Make
) -> None:
    """Better said here than by a server after terabytes more."""
    monkeypatch.setattr(upload, "STREAM_PART_BYTES", 4)
    monkeypatch.setattr(upload, "MAX_OBJECT_BYTES", 10)

    with pytest.raises(RefusedError, match="longer than 5 TiB"):
        upload_stream(bytes, "b", key="k", context=make_context())
    assert ({}, {}) == (fake.store.bodies("b"), fake.store.bucket("b").uploads)
