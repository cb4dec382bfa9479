"""Many small transfers in one thread: the same results as one by one, whatever goes wrong."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from s3pool.config.load import load_config
from s3pool.pool import window as pool_window
from s3pool.record import replace
from s3pool.s3.signing import Signer
from s3pool.session import open_session
from s3pool.transfer import flow, runner
from s3pool.transfer.context import TransferContext
from s3pool.transfer.digests import composite_etag
from s3pool.transfer.executor import BoundedExecutor
from s3pool.transfer.flow import MOST_THREADS, TransferWindow
from s3pool.transfer.runner import run
from s3pool.transfer.tasks import (
    DONE,
    FAILED,
    IN_WINDOW_BYTES,
    NOT_STARTED,
    SKIPPED,
    CopyTask,
    DownloadTask,
    Item,
    Outcome,
    UploadTask,
)
from tests.support.fake_s3 import CutBody, FakeS3, FlipByte, Reset, internal_error
from tests.unit.transfer.conftest import Make

COUNT = 60
PATIENCE_S = 10.0
START_LIMIT_S = 20.0  # of a thread on a loaded machine
MTIME_NS = 1_600_000_000_123_456_789


class Site:
    """A store, and small files of many sizes: in ``src`` for uploads, ``out`` is where downloads go."""

    def __init__(self, fake: FakeS3, make_context: Make, path: Path) -> None:
        self.fake, self.make_context, self.path = fake, make_context, path
        (path / "src").mkdir()
        sizes = [0, 1, 4096, IN_WINDOW_BYTES, *(7 * number for number in range(COUNT - 4))]
        self.files = {f"f{number:03}": os.urandom(size) for number, size in enumerate(sizes)}
        for name, content in self.files.items():
            (path / "src" / name).write_bytes(content)
            os.utime(path / "src" / name, ns=(MTIME_NS, MTIME_NS))

    def tasks(self, *, is_up: bool = True) -> list[Any]:
        """Give a task for each file; of downloads the objects are stored."""
        if is_up:
            paths = {name: str(self.path / "src" / name) for name in self.files}
            return [UploadTask(paths[name], "b", name, len(content)) for name, content in self.files.items()]
        for name, content in self.files.items():
            self.fake.store.add("b", name, content, mtime=1_600_000_000)
        out = str(self.path / "out")
        return [DownloadTask("b", name, out, name, len(content)) for name, content in self.files.items()]

    def run(self, tasks: list[Any], **options: object) -> dict[str, Outcome]:
        """Run tasks by eight workers and give the outcome of each key."""
        return outcomes_of(tasks, self.make_context(workers=8, **options))

    def found(self, where: str = "b") -> dict[str, bytes]:
        """Give all objects of the bucket, or all files of a directory, hidden ones as well."""
        if where == "b":
            return self.fake.store.bodies("b")
        return {path.name: path.read_bytes() for path in (self.path / where).iterdir()}


@pytest.fixture
def site(fake: FakeS3, make_context: Make, tmp_path: Path) -> Site:
    """Give a store and small files."""
    return Site(fake, make_context, tmp_path)


@pytest.fixture(autouse=True)
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record what is done in a window, so that no test passes by workers alone."""
    names: list[str] = []
    take = TransferWindow.take

    def recorded(self: TransferWindow) -> Item | None:
        task = take(self)
        if isinstance(task, (UploadTask, DownloadTask)):
            names.append(task.key)
        return task

    monkeypatch.setattr(TransferWindow, "take", recorded)
    return names


def outcomes_of(tasks: list[Any], context: TransferContext) -> dict[str, Outcome]:
    """Run the tasks and give the outcome of each key."""
    outcomes: list[Outcome] = []
    run(tasks, context, on_outcome=outcomes.append)
    assert len(tasks) == len(outcomes)
    return {outcome.task.key: outcome for outcome in outcomes}  # type: ignore[union-attr]


UP_AND_DOWN = pytest.mark.parametrize("is_up", [True, False], ids=["up", "down"])


def test_uploads_store_every_byte_and_the_time(site: Site, taken: list[str]) -> None:
    """A window is only faster."""
    outcomes = site.run(site.tasks())

    assert site.files == site.found()
    assert {DONE} == {outcome.state for outcome in outcomes.values()}
    assert sorted(site.files) == sorted(taken)
    versions = [site.fake.store.bucket("b").current(name) for name in site.files]
    assert {"1600000000.123456789"} == {found.headers["x-amz-meta-mtime"] for found in versions if found is not None}


def test_downloads_write_every_byte_and_the_time(site: Site, taken: list[str]) -> None:
    """And leave no temporary file."""
    outcomes = site.run(site.tasks(is_up=False))

    assert site.files == site.found("out")
    assert {DONE} == {outcome.state for outcome in outcomes.values()}
    assert sorted(site.files) == sorted(taken)
    assert {1_600_000_000} == {path.stat().st_mtime for path in (site.path / "out").iterdir()}


def test_server_error_at_first_is_tried_again(site: Site) -> None:
    """The first attempt is not the last one."""
    site.fake.fault(internal_error(), op="PutObject", nth=3, times=5)
    site.fake.fault(Reset(after=1), op="PutObject", nth=20, times=3)

    outcomes = site.run(site.tasks())

    assert site.files == site.found()
    assert {DONE} == {outcome.state for outcome in outcomes.values()}


def test_body_cut_on_the_way_is_fetched_again(site: Site) -> None:
    """Half an object never gets the target's name."""
    tasks = site.tasks(is_up=False)
    site.fake.fault(CutBody(after=3), op="GetObject", nth=10, times=4)

    site.run(tasks)

    assert site.files == site.found("out")


def test_flipped_byte_fails_that_file_alone(site: Site) -> None:
    """The old target stays, and the rest is done."""
    (site.path / "out").mkdir()
    (site.path / "out" / "f002").write_bytes(b"old")
    tasks = site.tasks(is_up=False)
    site.fake.fault(FlipByte(at=50), op="GetObject", key="f002", times=0)

    outcomes = site.run(tasks)

    assert site.files | {"f002": b"old"} == site.found("out")
    assert ["f002"] == [key for key, outcome in outcomes.items() if outcome.state == FAILED]


def test_file_that_is_missing_fails_alone(site: Site) -> None:
    """It went away after the walk saw it."""
    tasks = site.tasks()
    (site.path / "src" / "f007").unlink()

    outcomes = site.run(tasks)

    assert ["f007"] == [key for key, outcome in outcomes.items() if outcome.state == FAILED]
    assert f"cannot read {site.path}/src/f007: No such file or directory" == str(outcomes["f007"].error)
    assert COUNT - 1 == len(site.found())


@UP_AND_DOWN
def test_what_grew_is_taken_as_it_is_now(site: Site, is_up: bool) -> None:
    """The size at the time of the walk, or in the listing, is only a hint."""
    tasks = site.tasks(is_up=is_up)
    grown = os.urandom(IN_WINDOW_BYTES + 1)
    (site.path / "src" / "f004").write_bytes(grown)
    if not is_up:
        site.fake.store.add("b", "f004", grown)

    site.run(tasks)

    assert site.files | {"f004": grown} == site.found("b" if is_up else "out")


def test_missing_object_fails_alone(site: Site) -> None:
    """It was removed after the listing saw it."""
    tasks = site.tasks(is_up=False)
    site.fake.store.bucket("b").remove("f009", "null")

    outcomes = site.run(tasks)

    assert ["f009"] == [key for key, outcome in outcomes.items() if outcome.state == FAILED]
    assert COUNT - 1 == len(site.found("out"))


def test_link_in_the_way_is_refused_as_ever(site: Site) -> None:
    """Nothing may be written outside the target, whoever writes it."""
    (site.path / "out").mkdir()
    (site.path / "elsewhere").mkdir()
    (site.path / "out" / "d").symlink_to(site.path / "elsewhere")
    site.fake.store.add("b", "d/x", b"1")
    task = DownloadTask("b", "d/x", str(site.path / "out"), "d/x", 1)

    outcomes = site.run([task])

    assert "refused" == outcomes["d/x"].state
    assert [] == os.listdir(site.path / "elsewhere")


def test_run_that_was_told_to_stop_begins_nothing(site: Site) -> None:
    """What waits for a window is not started any more."""
    context = site.make_context(workers=8)
    tasks = site.tasks()

    def stopping() -> object:
        yield from tasks[:-1]
        context.stop.set()
        yield tasks[-1]

    outcomes: list[Outcome] = []
    run(stopping(), context, on_outcome=outcomes.append)

    assert NOT_STARTED == next(outcome.state for outcome in outcomes if outcome.task is tasks[-1])


def test_first_small_task_waits_for_no_other(site: Site) -> None:
    """A sync may look at a million names before it finds another one to copy."""
    first, *others = site.tasks()
    done_before: list[bool] = []

    def slow_stream() -> object:
        yield first
        deadline = time.monotonic() + PATIENCE_S
        while "PutObject" not in site.fake.ops() and time.monotonic() < deadline:
            time.sleep(0.001)
        done_before.append("PutObject" in site.fake.ops())
        yield from others

    run(slow_stream(), site.make_context(workers=8), on_outcome=lambda _: None)

    assert [True] == done_before


def test_pool_that_is_dead_is_found_out_once(site: Site) -> None:
    """With retries it takes ten seconds, and was found out sixty times."""
    config = load_config({"retries": 0}, environ=site.fake.environment, cwd=str(site.path), home=str(site.path))
    site.fake.stop()
    workers = 16
    executor = BoundedExecutor(workers)
    with open_session(config) as session:
        outcomes: list[Outcome] = []
        run(site.tasks(), TransferContext(session.client, executor=executor), on_outcome=outcomes.append)
    executor.close()

    states = [outcome.state for outcome in outcomes]
    assert 1 <= states.count(FAILED) <= workers  # a loaded machine lets all of them begin before the first fails
    # What was not taken from the stream when the first one failed has no outcome.
    assert len(states) == states.count(FAILED) + states.count(NOT_STARTED)


@UP_AND_DOWN
def test_everything_arrives_without_epoll(site: Site, monkeypatch: pytest.MonkeyPatch, is_up: bool) -> None:
    """Systems other than Linux wait for the answers in turn."""
    monkeypatch.setattr(pool_window, "IS_POSSIBLE", False)
    tasks = site.tasks(is_up=is_up)

    outcomes = site.run(tasks)

    assert site.files == site.found("b" if is_up else "out")
    assert {DONE} == {outcome.state for outcome in outcomes.values()}


@UP_AND_DOWN
def test_thread_that_is_held_up_gets_others_beside_it(site: Site, monkeypatch: pytest.MonkeyPatch, is_up: bool) -> None:
    """Slow disks are read and written by several threads; here every file counts as slow."""
    monkeypatch.setattr(flow, "LOOK_S", 0.0)
    monkeypatch.setattr(flow, "SLOW_TASK_S", -1.0)
    monkeypatch.setattr(flow, "GATHERED", 1)
    threads_seen: set[int] = set()
    are_two = threading.Event()
    take, taken = TransferWindow.take, itertools.count()

    def recorded(self: TransferWindow) -> Item | None:
        threads_seen.add(threading.get_ident())
        if len(threads_seen) > 1:
            are_two.set()
        elif next(taken) == len(site.files) // 2:  # by then it has asked for others, who may start late
            are_two.wait(START_LIMIT_S)
        return take(self)

    monkeypatch.setattr(TransferWindow, "take", recorded)
    tasks = site.tasks(is_up=is_up)

    outcomes = site.run(tasks)

    assert site.files == site.found("b" if is_up else "out")
    assert {DONE} == {outcome.state for outcome in outcomes.values()}
    assert 1 < len(threads_seen) <= MOST_THREADS


def test_thread_whose_files_are_at_hand_stays_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for answers gains nothing by more threads."""
    monkeypatch.setattr(flow, "LOOK_S", 0.0)
    monkeypatch.setattr(flow, "SLOW_TASK_S", PATIENCE_S)
    widened: list[bool] = []
    monkeypatch.setattr(TransferWindow, "widen", lambda _: widened.append(True))

    site.run(site.tasks())

    assert site.files == site.found()
    assert [] == widened


def test_one_connection_is_enough(site: Site, taken: list[str]) -> None:
    """A thread that holds all connections gives them back before it wants more."""
    config = load_config({"max_connections": 1}, environ=site.fake.environment, cwd=str(site.path), home=str(site.path))
    executor = BoundedExecutor(16)
    with open_session(config) as session:
        outcomes_of(site.tasks(), TransferContext(session.client, executor=executor))
    executor.close()

    assert site.files == site.found()
    assert sorted(site.files) == sorted(taken)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"no_clobber": True},
        {"update": True},
        {"checksum": "sha256"},
        {"remove_source": True},
        {"preserve": True},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
@UP_AND_DOWN
def test_every_option_is_for_the_window_too(
    site: Site, taken: list[str], options: dict[str, object], is_up: bool
) -> None:
    """What takes several requests has them one after the other, among those of others."""
    tasks = site.tasks(is_up=is_up)

    outcomes = site.run(tasks, **options)

    assert {DONE} == {outcome.state for outcome in outcomes.values()}
    assert site.files == site.found("b" if is_up else "out")
    assert sorted(site.files) == sorted(taken)
    is_moved = "remove_source" in options
    assert is_moved == (not site.found("src" if is_up else "b"))


@pytest.mark.parametrize("options", [{}, {"remove_source": True}], ids=["cp", "mv"])
def test_copies_are_for_the_window(site: Site, options: dict[str, object]) -> None:
    """HEAD, CopyObject, and what a move has to prove."""
    for name, content in site.files.items():
        site.fake.store.add("b", f"old/{name}", content)
    tasks = [CopyTask("b", f"old/{name}", "b", f"new/{name}", len(content)) for name, content in site.files.items()]

    outcomes: list[Outcome] = []
    run(tasks, site.make_context(workers=8, **options), on_outcome=outcomes.append)

    assert {DONE} == {outcome.state for outcome in outcomes}
    kept = {} if options else {f"old/{name}": content for name, content in site.files.items()}
    assert {f"new/{name}": content for name, content in site.files.items()} | kept == site.found()


def test_what_exists_stays_when_it_is_not_to_be_replaced(site: Site) -> None:
    """HEAD finds it, and no file is sent for nothing."""
    site.fake.store.add("b", "f003", b"old")

    outcomes = site.run(site.tasks(), no_clobber=True)

    assert site.files | {"f003": b"old"} == site.found()
    assert ["f003"] == [key for key, outcome in outcomes.items() if outcome.state == SKIPPED]


def test_size_decides_what_is_short(make_context: Make) -> None:
    """An unknown size may be any."""
    task = UploadTask("f", "b", "k", IN_WINDOW_BYTES)
    suits = TransferWindow(make_context(workers=8), runner.transfer).suits

    verdicts = [suits(replace(task, size=size)) for size in (-1, 0, IN_WINDOW_BYTES, IN_WINDOW_BYTES + 1)]

    assert [False, True, True, False] == verdicts


def test_task_in_question_is_for_a_worker(make_context: Make) -> None:
    """Whether it is needed takes requests, or the reading of files."""
    context = make_context(workers=8)
    task = UploadTask("f", "b", "k", 1)
    context.in_question = lambda asked: asked is task
    suits = TransferWindow(context, runner.transfer).suits

    assert not suits(task)
    assert suits(replace(task, key="other"))


@pytest.mark.parametrize(("owner", "name"), [(runner, "upload"), (Signer, "sign")], ids=["task", "request"])
def test_fault_of_our_own_fails_one_task(site: Site, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """A window that dies would leave the run waiting for its results for ever."""
    act = getattr(owner, name)

    def broken(*words: object) -> object:
        if any(str(getattr(word, "resource", getattr(word, "path", ""))).endswith("/f005") for word in words):
            raise ZeroDivisionError("ours")
        return act(*words)

    monkeypatch.setattr(owner, name, broken)

    outcomes = site.run(site.tasks())

    assert ["f005"] == [key for key, outcome in outcomes.items() if outcome.state == FAILED]
    assert COUNT - 1 == len(site.found())


@pytest.mark.parametrize(("part_size", "state"), [(6, DONE), (0, FAILED)], ids=["right", "wrong"])
def test_etag_of_parts_is_checked(site: Site, part_size: int, state: str) -> None:
    """Which parts it was made of is told, or must be found out."""
    content = b"x" * 10
    made = composite_etag(md5(part).hexdigest() for part in (content[:6], content[6:]))
    found = site.fake.store.add("b", "k", content)
    found.etag = made if part_size else f"{'0' * 32}-2"
    found.headers["x-amz-meta-s3pool-part-size"] = "6"
    task = DownloadTask("b", "k", str(site.path / "out"), "k", 10)

    outcomes = site.run([task])

    assert state == outcomes["k"].state


def test_what_failed_at_first_is_done_before_the_stream_ends(site: Site) -> None:
    """A long run would leave no time for a second attempt."""
    site.fake.fault(internal_error(), op="PutObject", key="f003")
    tasks = site.tasks()
    is_stored: list[bool] = []

    def stream() -> Iterator[UploadTask]:
        yield from tasks[:-1]
        deadline = time.monotonic() + PATIENCE_S
        while "f003" not in site.found() and time.monotonic() < deadline:
            os.sched_yield()
        is_stored.append("f003" in site.found())
        yield tasks[-1]

    told: list[Outcome] = []
    run(stream(), site.make_context(workers=16), on_outcome=told.append)

    assert [True] == is_stored
    assert [DONE] * len(tasks) == [outcome.state for outcome in told]
