"""Nothing that a server stores ends a run: numbers, dates and names from outside are anybody's."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fake_s3 import MIB, FakeS3, Reply, Rewrite
from tests.support.run_cli import CliResult

Call = Callable[..., CliResult]
OLD = 1_500_000_000
BEFORE_CLOCKS = "Sat, 00 Jan 0000 00:00:00 GMT"
TIMES = ["9" * 30, "9" * 4400, "-" + "9" * 30, "1e999", "inf", "nan", "\u00b2", "", "--5", "9999999999999", "-9" * 18]
NUMBERS = ["9" * 30, "9" * 4400, "-1", "4294967295", "\u00b2", "inf", ""]


def with_header(name: str, value: str) -> Rewrite:
    """Give the fault that a server tells another value."""

    def change(reply: Reply) -> Reply:
        return replace(reply, headers={**reply.headers, name: value})

    return Rewrite(change)


def files_below(root: Path) -> dict[str, bytes]:
    """Give every file below a directory, hidden ones too."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("flags", [(), ("--preserve",)], ids=["plain", "preserve"])
@pytest.mark.parametrize("value", TIMES, ids=range(len(TIMES)))
def test_a_stored_time_that_is_none_keeps_nobody_from_the_object(
    fake: FakeS3, call: Call, tmp_path: Path, value: str, flags: tuple[str, ...]
) -> None:
    """The time that rclone stores is anybody's metadata: an overflow is no reason to lose the bytes."""
    for key, size in (("p/large", 70_000), ("p/small", 3)):
        fake.store.add("b", key, b"x" * size, mtime=OLD, x_amz_meta_mtime=value)
    done = call("cp", "-r", *flags, "s3/b/p", "got")
    assert (done.code, "Traceback" in done.err) == (0, False), done.err
    assert files_below(tmp_path / "got") == {"large": b"x" * 70_000, "small": b"xxx"}


@pytest.mark.parametrize("name", ["mode", "uid", "gid"])
@pytest.mark.parametrize("value", NUMBERS, ids=range(len(NUMBERS)))
def test_stored_owners_and_modes_that_are_none_are_passed_over(
    fake: FakeS3, call: Call, tmp_path: Path, name: str, value: str
) -> None:
    """An owner of thirty digits is no owner."""
    words = {"x_amz_meta_uid": str(os.getuid()), "x_amz_meta_gid": str(os.getgid()), "x_amz_meta_mode": "100644"}
    fake.store.add("b", "p/k", b"kept", mtime=OLD, **{**words, f"x_amz_meta_{name}": value})
    done = call("cp", "-r", "--preserve", "s3/b/p", "got")
    assert (done.code, "Traceback" in done.err) == (0, False), done.err
    assert files_below(tmp_path / "got") == {"k": b"kept"}


@pytest.mark.parametrize("size", [3, 70_000, 40 * MIB], ids=["small", "whole", "ranges"])
@pytest.mark.parametrize("date", [BEFORE_CLOCKS, "Fri, 99 Dec 9999 99:99:99 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", "?"])
def test_a_last_modified_that_is_no_time_keeps_nobody_from_the_object(
    fake: FakeS3, call: Call, tmp_path: Path, date: str, size: int
) -> None:
    """Year 0 is what a server writes that never knew: the object comes, with the time of its coming."""
    fake.store.add("b", "p/k", b"x" * size, mtime=OLD)
    for op in ("GetObject", "HeadObject"):
        fake.fault(with_header("Last-Modified", date), op=op, times=0)
    done = call("sync", "s3/b/p", "got")
    assert (done.code, "Traceback" in done.err) == (0, False), done.err
    assert files_below(tmp_path / "got") == {"k": b"x" * size}
    assert (call("stat", "s3/b/p/k").code, call("cp", "-u", "s3/b/p/k", "other").code) == (0, 0)


@pytest.mark.parametrize("date", ["0000-00-00T00:00:00.000Z", "0000-00-00T00:00:00Z", "0001-01-01T00:00:00Z"])
def test_a_listed_date_that_is_none_matches_no_age_and_ends_nothing(
    fake: FakeS3, call: Call, tmp_path: Path, date: str
) -> None:
    """An age that nobody knows is neither old nor new, so nothing is deleted for it."""
    fake.store.add("b", "p/k", b"kept", mtime=OLD)
    shown = b"<LastModified>%s</LastModified>" % date.encode()
    stamp = b"<LastModified>2017-07-14T02:40:00.000Z</LastModified>"
    fake.fault(
        Rewrite(lambda reply: replace(reply, body=reply.body.replace(stamp, shown))), op="ListObjectsV2", times=0
    )
    if date.startswith("0000"):
        for age in ("--older-than", "--newer-than"):
            assert call("rm", "-r", "--force", age, "1h", "s3/b/p").code == 0
    assert fake.store.bodies("b")["p/k"] == b"kept"
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "k").write_bytes(b"kept")
    for words in (["ls", "s3/b/p/"], ["ls", "-l", "s3/b/p/"], ["ls", "--json", "s3/b/p/"], ["find", "s3/b/p", "-l"]):
        done = call(*words)
        assert (done.code, "Traceback" in done.err) == (0, False), done.err
    for words in (["sync", "s3/b/p", "got"], ["sync", "up", "s3/b/p"], ["sync", "s3/b/p", "s3/b/q"]):
        for flags in ([], ["-u"], ["--dry-run"]):
            done = call(*words, *flags)
            assert (done.code, "Traceback" in done.err) == (0, False), done.err
    assert files_below(tmp_path / "got") == {"k": b"kept"}


def test_a_time_beyond_every_clock_is_in_sync_once_it_was_set(fake: FakeS3, call: Call, tmp_path: Path) -> None:
    """A file system clamps what it cannot hold: the second run compares with what it made of it."""
    for number, told in enumerate(("9999999999", "253402300799", "-99999999999", "5.123456789")):
        fake.store.add("b", f"p/{number}", b"kept", mtime=OLD, x_amz_meta_mtime=told)
    for flags in ((), ("--exact-timestamps",), ("--checksum",)):
        call("sync", *flags, "s3/b/p", "got")
        again = call("sync", *flags, "s3/b/p", "got")
        assert (again.code, " 0 copied" in again.err) == (0, True), (flags, again.err)
    assert files_below(tmp_path / "got") == dict.fromkeys("0123", b"kept")


@pytest.mark.parametrize("words", [["cp", "s3/b/k", "got"], ["sync", "--checksum", "s3/b/", "dir"], ["cat", "s3/b/k"]])
def test_a_part_size_that_is_none_is_passed_over(fake: FakeS3, call: Call, tmp_path: Path, words: list[str]) -> None:
    """What an uploader says of its parts is a help to check them, and no more."""
    version = fake.store.add("b", "k", b"x" * 70_000, mtime=OLD, x_amz_meta_s3pool_part_size="9" * 4400)
    version.etag = "0123456789abcdef0123456789abcdef-" + "9" * 4400
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "k").write_bytes(b"y" * 70_000)
    done = call(*words)
    assert (done.code, "Traceback" in done.err) == (0, False), done.err


@pytest.mark.parametrize("name", ["Retry-After", "x-amz-retry-after"])
@pytest.mark.parametrize("value", ["9" * 400, "9" * 4400, "-1", "inf", "\u00b2", BEFORE_CLOCKS])
def test_a_pause_that_nobody_can_wait_for_is_not_waited_for(fake: FakeS3, call: Call, name: str, value: str) -> None:
    """A busy server may ask for a pause; what is no time asks for none."""
    from tests.support.fake_s3 import Answer

    fake.store.add("b", "k", b"kept", mtime=OLD)
    fake.fault(Answer(503, "SlowDown", "slow", {name: value, "Date": BEFORE_CLOCKS}), op="GetObject")
    done = call("cat", "s3/b/k")
    assert (done.code, done.stdout) == (0, b"kept"), done.err
