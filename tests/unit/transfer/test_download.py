from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from s3pool.errors import IntegrityError, LocalFileError, RefusedError, StoppedError
from s3pool.transfer.context import TransferContext
from s3pool.transfer.download import download_to
from s3pool.transfer.object_reader import Source
from s3pool.transfer.tasks import Done, DownloadTask
from s3pool.transfer.upload import upload_stream
from tests.support.fake_s3 import MIB, Call, CutBody, FakeS3, IgnoreHeader, Rewrite
from tests.support.transfers import download
from tests.unit.transfer.conftest import Make

PART = 5 * MIB
LARGE = 3 * PART + 17
LITTLE = 100_000  # less than is gathered


def put(fake: FakeS3, content: bytes, **headers: str) -> None:
    """Store the object in one piece."""
    fake.store.add("b", "k", content, mtime=1_600_000_000, **headers)


def put_in_parts(content: bytes, context: TransferContext) -> None:
    """Store the object as an upload of parts."""
    pieces = [content[first : first + PART] for first in range(0, len(content), PART)]
    upload_stream(lambda _: pieces.pop(0) if pieces else b"", "b", key="k", context=context)


def fetch(root: Path, context: TransferContext, *, relative: str = "f", size: int = -1) -> Done:
    """Bring the object."""
    return download(DownloadTask("b", "k", str(root), relative, size), context)


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, LARGE])
@pytest.mark.parametrize("workers", [0, 3])
def test_written_bytes_are_the_objects(
    fake: FakeS3, make_context: Make, tmp_path: Path, size: int, workers: int
) -> None:
    """In one stream or in ranges, and nothing else is left."""
    content = os.urandom(size)
    put(fake, content)

    done = fetch(tmp_path / "out", make_context(workers=workers, part_size=PART))

    assert content == (tmp_path / "out/f").read_bytes()
    assert size == done.size
    assert ["f"] == os.listdir(tmp_path / "out")


def test_object_of_parts_is_fetched_by_its_parts(fake: FakeS3, make_context: Make, tmp_path: Path) -> None:
    """Its ETag can be made of what is fetched, without reading the file again."""
    content = os.urandom(LARGE)
    put_in_parts(content, make_context(part_size=PART))

    fetch(tmp_path, make_context(workers=2, part_size=PART))

    ranges = {request.headers.get("range") for request in fake.requests if request.op == "GetObject"}
    assert content == (tmp_path / "f").read_bytes()
    assert f"bytes=0-{PART - 1}" in ranges


def test_ranges_go_over_all_endpoints(fake: FakeS3, make_context: Make, tmp_path: Path) -> None:
    """One large object has the bandwidth of the whole pool."""
    put(fake, os.urandom(LARGE))

    fetch(tmp_path, make_context(workers=2, part_size=PART))

    assert {0, 1} == {request.endpoint for request in fake.requests if request.op == "GetObject"}


def test_modification_time_is_last_modified_where_none_was_stored(
    fake: FakeS3, make_context: Make, tmp_path: Path
) -> None:
    """Sync compares with it."""
    put(fake, b"x")

    fetch(tmp_path, make_context())

    assert 1_600_000_000 == (tmp_path / "f").stat().st_mtime


@pytest.mark.parametrize("workers", [0, 2])
def test_cut_connection_goes_on_from_its_byte(fake: FakeS3, make_context: Make, tmp_path: Path, workers: int) -> None:
    """What has arrived is not fetched again, and the rest is bound to the same object."""
    content = os.urandom(LARGE)
    put(fake, content)
    fake.fault(CutBody(after=MIB), op="GetObject", times=3)

    fetch(tmp_path, make_context(workers=workers), size=LARGE)

    resumed = [request.headers for request in fake.requests if request.op == "GetObject"][1:]
    assert content == (tmp_path / "f").read_bytes()
    assert all("if-match" in headers for headers in resumed)
    assert all(not headers["range"].startswith("bytes=0-") for headers in resumed)


def test_little_that_came_before_a_cut_is_kept(fake: FakeS3, make_context: Make, tmp_path: Path) -> None:
    """What is gathered to be written at once is written, too, when there is no more of it."""
    content = os.urandom(LARGE)
    put(fake, content)
    fake.fault(CutBody(after=LITTLE), op="GetObject")

    fetch(tmp_path, make_context(workers=0), size=LARGE)

    ranges = [request.headers.get("range", "") for request in fake.requests if request.op == "GetObject"]
    assert content == (tmp_path / "f").read_bytes()
    assert 1 == sum(value.startswith(f"bytes={LITTLE}-") for value in ranges), ranges


def test_rest_that_the_server_cannot_give_is_skipped_to(fake: FakeS3, make_context: Make, tmp_path: Path) -> None:
    """A server without ranges sends all again, and only the missing part of it counts."""
    content = os.urandom(LARGE)
    put(fake, content)
    fake.fault(CutBody(after=2 * MIB), op="GetObject")
    fake.fault(IgnoreHeader("range"), op="GetObject", times=0)

    fetch(tmp_path, make_context(), size=LARGE)

    assert content == (tmp_path / "f").read_bytes()


def test_server_that_ignores_ranges_is_read_in_one_stream(fake: FakeS3, make_context: Make, tmp_path: Path) -> None:
    """The whole object in the place of a range would be written over itself."""
    content = os.urandom(LARGE)
    put(fake, content)
    fake.fault(IgnoreHeader("range"), op="GetObject", times=0)

    fetch(tmp_path, make_context(workers=2, part_size=PART))

    assert content == (tmp_path / "f").read_bytes()


def test_other_range_than_asked_for_fails(fake: FakeS3, make_context: Make, tmp_path: Path) -> None:
    """Bytes of another place have no place in the file."""
    put(fake, os.urandom(LARGE))

    def shift(reply):  # type: ignore[no-untyped-def]
        reply.headers["Content-Range"] = f"bytes 1-{PART}/{LARGE}"
        return reply

    fake.fault(Rewrite(shift), op="GetObject")

    with pytest.raises(IntegrityError, match="asked http"):
        fetch(tmp_path, make_context(part_size=PART), size=LARGE)

    assert [] == os.listdir(tmp_path)


def test_stop_ends_a_download(fake: FakeS3, make_context: Make, tmp_path: Path) -> None:
    """An interrupt leaves nothing behind."""
    put(fake, os.urandom(LARGE))
    context = make_context(part_size=PART)
    fake.fault(Call(lambda _: context.stop.set()), op="GetObject", nth=2)

    with pytest.raises(StoppedError):
        fetch(tmp_path, context)

    assert [] == os.listdir(tmp_path)


def test_key_that_ends_in_a_slash_becomes_a_directory(fake: FakeS3, make_context: Make, tmp_path: Path) -> None:
    """Other tools mark directories so."""
    put(fake, b"")

    fetch(tmp_path, make_context(), relative="d/e/")

    assert (tmp_path / "d/e").is_dir()


def test_directory_key_with_content_is_refused(fake: FakeS3, make_context: Make, tmp_path: Path) -> None:
    """No file can have that name, and its bytes must not vanish silently."""
    put(fake, b"content")

    with pytest.raises(RefusedError, match="ends in '/'"):
        fetch(tmp_path, make_context(), relative="d/")


def test_no_clobber_leaves_what_is_there(fake: FakeS3, make_context: Make, tmp_path: Path) -> None:
    """Also when it came while the bytes were on their way."""
    put(fake, b"new")
    fake.fault(Call(lambda _: (tmp_path / "f").write_bytes(b"old")), op="GetObject")

    first = fetch(tmp_path, make_context(no_clobber=True))
    second = fetch(tmp_path, make_context(no_clobber=True))

    assert ("it exists", "it exists") == (first.skipped, second.skipped)
    assert b"old" == (tmp_path / "f").read_bytes()


def test_update_fetches_only_what_is_newer(fake: FakeS3, make_context: Make, tmp_path: Path) -> None:
    """A file that came from the object is not older than it, whenever that was stored."""
    put(fake, b"x", **{"x-amz-meta-mtime": "1500000000.5"})
    context = make_context(update=True)

    first = fetch(tmp_path, context)
    again = fetch(tmp_path, context)
    os.utime(tmp_path / "f", (0, 1_400_000_000))
    older = fetch(tmp_path, context)

    assert ("", "the source is not newer", "") == (first.skipped, again.skipped, older.skipped)


def test_mode_of_a_replaced_file_stays(fake: FakeS3, make_context: Make, tmp_path: Path) -> None:
    """A private file stays private."""
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / "f").chmod(0o600)
    put(fake, b"new")

    fetch(tmp_path, make_context())

    assert 0o600 == (tmp_path / "f").stat().st_mode & 0o777


@pytest.mark.parametrize(("sweeps", "left"), [(1, ["f"]), (9, [])])
@pytest.mark.parametrize("no_clobber", [False, True])
def test_a_small_file_that_another_run_sweeps_is_written_again(
    fake: FakeS3,
    make_context: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    no_clobber: bool,
    sweeps: int,
    left: list[str],
) -> None:
    """It is not locked while it is written; one that is always swept is an error, and leaves nothing."""
    put(fake, b"new")
    utime, swept = os.utime, list[Path]()

    def after_a_sweep(fd: int, *, ns: tuple[int, int]) -> None:
        utime(fd, ns=ns)
        if len(swept) < sweeps:
            (found,) = tmp_path.iterdir()
            found.unlink()
            swept.append(found)

    monkeypatch.setattr(os, "utime", after_a_sweep)

    with nullcontext() if left else pytest.raises(LocalFileError, match="cannot write f: No such file"):
        fetch(tmp_path, make_context(no_clobber=no_clobber))

    assert left == os.listdir(tmp_path)
    assert sweeps == 1 or len(set(swept)) == 3


def test_preserve_restores_the_mode(fake: FakeS3, make_context: Make, tmp_path: Path) -> None:
    """As rclone stores it."""
    put(fake, b"#!/bin/sh", **{"x-amz-meta-mode": "0100750"})

    fetch(tmp_path, make_context(preserve=True))

    assert 0o750 == (tmp_path / "f").stat().st_mode & 0o777


def test_full_disk_is_one_clear_error(
    fake: FakeS3, make_context: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves nothing behind."""
    put(fake, b"new")

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fail)

    with pytest.raises(LocalFileError, match="No space left"):
        fetch(tmp_path, make_context())

    assert [] == os.listdir(tmp_path)


@pytest.mark.parametrize("parts", [True, False])
def test_stream_gives_the_bytes_in_order(fake: FakeS3, make_context: Make, parts: bool) -> None:
    """Standard output cannot seek, so a cut is healed in place."""
    content = os.urandom(LARGE)
    if parts:
        put_in_parts(content, make_context(part_size=PART))
    else:
        put(fake, content)
    fake.fault(CutBody(after=MIB), op="GetObject", times=2)
    out = bytearray()

    download_to(out.extend, Source("b", "k"), context=make_context())

    assert content == out
