"""sync and mirror with --watch: what changes below a local directory arrives, and nothing is lost."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.fake_s3 import Answer, FakeS3
from tests.support.fake_s3.faults import Call as Hook
from tests.support.run_cli import CliResult, CliRunner

Call = Callable[..., CliResult]
WAIT_S = 60.0
pytestmark = pytest.mark.skipif(not hasattr(os, "eventfd"), reason="inotify is Linux's")


class Watched:
    """A running mirror, whose lines are read as they come."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def next(self) -> str:
        """Return the next line of standard output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().rstrip("\n")

    def lines(self, count: int) -> set[str]:
        """Return so many lines, in any order."""
        return {self.next() for _ in range(count)}

    def note(self) -> str:
        """Return the next line of standard error."""
        assert self.process.stderr is not None
        return self.process.stderr.readline().decode().rstrip("\n")

    def end(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        """Stop it; return its exit code, and what it had still to say."""
        self.process.send_signal(number)
        out, error = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, out.decode(), error.decode()


@pytest.fixture
def site(tmp_path: Path, fake: FakeS3) -> Path:
    """Make a directory with one file, and a bucket."""
    fake.store.add("b", "other")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "a").write_text("one")
    return tmp_path / "site"


@contextmanager
def watching(run_cli: CliRunner, fake: FakeS3, *words: str) -> Iterator[Watched]:
    """Run a command that watches, from the moment it does."""
    process = run_cli.start(*words, env=fake.environment)
    watched = Watched(process)
    try:
        assert watched.note() == f"s3pool: watching {words[-2]}" or "--json" in words
        yield watched
    finally:
        process.kill()
        process.communicate()


def is_like(fake: FakeS3, site: Path) -> bool:
    """Return whether the bucket has what the directory has, within some time."""
    deadline = time.monotonic() + WAIT_S
    while True:
        files = {f"p/{path.relative_to(site)}": path.read_bytes() for path in site.rglob("*") if path.is_file()}
        stored = {key: body for key, body in fake.store.bodies("b").items() if key != "other"}
        if files == stored or time.monotonic() > deadline:
            return files == stored
        os.sched_yield()


def test_what_changes_arrives_and_what_goes_is_deleted(fake: FakeS3, run_cli: CliRunner, site: Path) -> None:
    """One line for each change; new directories are watched, and those that move keep what is in them."""
    with watching(run_cli, fake, "mirror", "--overwrite", "--remove", "--watch", str(site), "s3/b/p") as mirror:
        assert f"{site}/a -> s3/b/p/a" == mirror.next()
        (site / "a").write_text("two")
        assert f"{site}/a -> s3/b/p/a" == mirror.next()
        (site / "d" / "e").mkdir(parents=True)
        (site.parent / "made elsewhere").write_text("deep")
        (site.parent / "made elsewhere").rename(site / "d" / "e" / "ü x")
        (site / "d-").write_text("before d/")
        assert {f"{site}/d/e/ü x -> s3/b/p/d/e/ü x", f"{site}/d- -> s3/b/p/d-"} == mirror.lines(2)
        (site / "d").rename(site / "moved")
        assert {f"{site}/moved/e/ü x -> s3/b/p/moved/e/ü x", "Deleted: s3/b/p/d/e/ü x"} == mirror.lines(2)
        (site / "moved" / "e" / "late").write_text("in a directory that moved")
        assert f"{site}/moved/e/late -> s3/b/p/moved/e/late" == mirror.next()
        (site / "link").hardlink_to(site / "a")
        assert f"{site}/link -> s3/b/p/link" == mirror.next()
        (site / "link").replace(site / "a2")
        (site / "moved" / "e" / "late").unlink()
        expected = {f"{site}/a2 -> s3/b/p/a2", "Deleted: s3/b/p/link", "Deleted: s3/b/p/moved/e/late"}
        assert expected == mirror.lines(3)
        assert is_like(fake, site)
        lists = [request for request in fake.requests if request.op.startswith("ListObjects")]
        assert all(request.query["prefix"] != "p/" for request in lists[1:])

        code, out, error = mirror.end()

    assert (130, "") == (code, out)
    assert "8 copied, 3 deleted, 0 skipped, 0 failed" in error


def test_every_name_of_a_file_is_brought(fake: FakeS3, run_cli: CliRunner, site: Path) -> None:
    """The system tells of the one name through which a file was written, and the others have new bytes too."""
    (site / "b").hardlink_to(site / "a")
    with watching(run_cli, fake, "sync", "--watch", str(site), "s3/b/p") as sync:
        sync.lines(2)
        (site / "a").write_text("new bytes")
        assert {f"{site}/a -> s3/b/p/a", f"{site}/b -> s3/b/p/b"} == sync.lines(2)
        assert is_like(fake, site)
        assert 130 == sync.end()[0]


def test_overflow_of_the_queue_loses_nothing(fake: FakeS3, run_cli: CliRunner, site: Path) -> None:
    """The system forgets what is too much for its queue: then everything is compared again."""
    (site / "x").write_text("x")

    def storm(_: object) -> None:
        for _ in range(12_000):  # two events each, and the queue holds 16,384
            os.rename(site / "x", site / "y")
            os.rename(site / "y", site / "x")
        (site / "new").mkdir()
        (site / "new" / "lost").write_text("no event tells of it")

    with watching(run_cli, fake, "sync", "--delete", "--watch", str(site), "s3/b/p") as sync:
        sync.lines(2)
        fake.fault(Hook(storm), op="PutObject", key="p/a")
        (site / "a").write_text("two")

        assert f"{site}/a -> s3/b/p/a" == sync.next()
        assert is_like(fake, site)

        (site / "new" / "later").write_text("its directory is watched")
        assert is_like(fake, site)
        assert 143 == sync.end(signal.SIGTERM)[0]


def test_what_failed_is_tried_again(fake: FakeS3, run_cli: CliRunner, site: Path) -> None:
    """A change must not be lost with the request that brought it; it is reported once."""
    with watching(run_cli, fake, "sync", "--retries", "0", "--watch", str(site), "s3/b/p") as sync:
        sync.next()
        fake.fault(Answer(403, "AccessDenied", "not now"), op="PutObject", key="p/a", times=2)
        (site / "a").write_text("two")

        assert f"{site}/a -> s3/b/p/a" == sync.next()
        assert is_like(fake, site)
        code, _, error = sync.end()

    assert 130 == code
    assert 1 == error.count("AccessDenied")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [(("--exclude", "a"), "the source is empty"), (("--max-delete", "2"), "3 of 4 objects would go, more than")],
)
def test_deletes_are_guarded_as_those_of_one_run(
    fake: FakeS3, run_cli: CliRunner, site: Path, flags: tuple[str, ...], reason: str
) -> None:
    """Who empties a directory by mistake must not find the copy empty."""
    (site / "d").mkdir()
    for name in "xyz":
        (site / "d" / name).write_text(name)
    with watching(run_cli, fake, "sync", "--delete", *flags, "--watch", str(site), "s3/b/p") as sync:
        sync.next()
        before = fake.store.bodies("b")
        (site / "d").rename(site.with_name("gone"))

        assert f"s3pool: error: nothing was deleted: {reason}" in sync.note()
        assert before == fake.store.bodies("b")
        assert 130 == sync.end()[0]


def test_deletes_one_after_another_are_added_up(fake: FakeS3, run_cli: CliRunner, site: Path) -> None:
    """Passes are short: a limit of one run would be none if each of them began to count anew."""
    for name in "xyz":
        (site / name).write_text(name)
    with watching(run_cli, fake, "sync", "--delete", "--max-delete", "2", "--watch", str(site), "s3/b/p") as sync:
        sync.lines(4)
        for name in "xy":
            (site / name).unlink()
            assert f"Deleted: s3/b/p/{name}" == sync.next()
        (site / "z").unlink()

        assert "3 of 4 objects would go, more than --max-delete 2 allows" in sync.note()
        assert "p/z" in fake.store.bodies("b")


def test_records_and_filters_are_those_of_sync(fake: FakeS3, run_cli: CliRunner, site: Path) -> None:
    """What reads JSON reads on, and what is excluded stays untouched."""
    words = ("sync", "--json", "--exclude", "*.tmp", "--watch", str(site), "s3/b/p")
    with watching(run_cli, fake, *words) as sync:
        assert "copy" == json.loads(sync.next())["type"]
        (site / "x.tmp").write_text("left")
        (site / "y").write_text("taken")

        record = json.loads(sync.next())
        code, out, _ = sync.end()

    assert ("copy", "s3/b/p/y") == (record["type"], record["target"])
    assert (130, 2) == (code, json.loads(out)["copied"])
    assert "p/x.tmp" not in fake.store.bodies("b")


def test_source_that_is_gone_ends_it(fake: FakeS3, run_cli: CliRunner, site: Path) -> None:
    """Nothing is left to watch, and an unmounted source must not empty the target."""
    with watching(run_cli, fake, "sync", "--delete", "--watch", str(site), "s3/b/p") as sync:
        sync.next()
        site.rename(site.with_name("elsewhere"))
        _, error = sync.process.communicate(timeout=WAIT_S)

    assert 3 == sync.process.returncode
    assert f"{site}" in error.decode()
    assert "p/a" in fake.store.bodies("b")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("s3/b/p", "copy"), "--watch is for local sources"),
        (("s3/b/p", "s3/b/q"), "--watch is for local sources"),
        (("--dry-run", "site", "s3/b/p"), "it does not go with --dry-run"),
        (("--shard", "0/2", "site", "s3/b/p"), "it does not go with --shard"),
        (("--processes", "2", "site", "s3/b/p"), "it does not go with --processes"),
    ],
)
def test_where_nothing_can_be_watched_a_line_says_so(
    call: Call, fake: FakeS3, site: Path, words: tuple[str, ...], reason: str
) -> None:
    """Before anything is copied."""
    result = call("sync", "--watch", *words)

    assert (2, "", 1) == (result.code, result.out, result.err.count("\n"))
    assert reason in result.err
    assert ["other"] == list(fake.store.bodies("b"))


def test_system_without_inotify_is_told(call: Call, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other systems have other means, which are not offered."""
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())

    result = call("sync", "--watch", "site", "s3/b/p")

    assert (2, "", 1) == (result.code, result.out, result.err.count("\n"))
    assert "--watch needs inotify, which this system does not have" in result.err
