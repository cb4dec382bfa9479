"""Many small transfers in one thread: the same results as one by one, whatever goes wrong."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path

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

Files = dict[str, bytes]
COUNT = 60
PATIENCE_S = 10.0
START_LIMIT_S = 20.0  # of a thread on a loaded machine
MTIME_NS = 1_600_000_000_123_456_789


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """Give small files of many sizes."""
    (tmp_path / "src").mkdir()
    sizes = [0, 1, 4096, IN_WINDOW_BYTES, *(7 * number for number in range(COUNT - 4))]
    contents = {f"f{number:03}": os.urandom(size) for number, size in enumerate(sizes)}
    for name, content in contents.items():
        (tmp_path / "src" / name).write_bytes(content)
        os.utime(tmp_path / "src" / name, ns=(MTIME_NS, MTIME_NS))
    return contents


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


def uploads(tmp_path: Path, files: Files) -> list[UploadTask]:
    """Give a task for each file."""
    return [UploadTask(str(tmp_path / "src" / name), "b", name, len(content)) for name, content in files.items()]


def downloads(fake: FakeS3, tmp_path: Path, files: Files) -> list[DownloadTask]:
    """Store the files and give a task for each."""
    for name, content in files.items():
        fake.store.add("b", name, content, mtime=1_600_000_000)
    return [DownloadTask("b", name, str(tmp_path / "out"), name, len(content)) for name, content in files.items()]


def found_in(directory: Path) -> dict[str, bytes]:
    """Give all files, hidden ones as well."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def outcomes_of(tasks: list[UploadTask] | list[DownloadTask], context: TransferContext) -> dict[str, Outcome]:
    """Run the tasks and give the outcome of each key."""
    outcomes: list[Outcome] = []
    run(tasks, context, on_outcome=outcomes.append)
    assert len(tasks) == len(outcomes)
    return {outcome.task.key: outcome for outcome in outcomes}  # type: ignore[union-attr]


def test_uploads_store_every_byte_and_the_time(
    fake: FakeS3, make_context: Make, tmp_path: Path, files: Files, taken: list[str]
) -> None:
    """A window is only faster."""
    outcomes = outcomes_of(uploads(tmp_path, files), make_context(workers=8))

    assert files == fake.store.bodies("b")
    assert {DONE} == {outcome.state for outcome in outcomes.values()}
    assert sorted(files) == sorted(taken)
    versions = [fake.store.bucket("b").current(name) for name in files]
    assert {"1600000000.123456789"} == {found.headers["x-amz-meta-mtime"] for found in versions if found is not None}


def test_downloads_write_every_byte_and_the_time(
    fake: FakeS3, make_context: Make, tmp_path: Path, files: Files, taken: list[str]
) -> None:
    """And leave no temporary file."""
    outcomes = outcomes_of(downloads(fake, tmp_path, files), make_context(workers=8))

    assert files == found_in(tmp_path / "out")
    assert {DONE} == {outcome.state for outcome in outcomes.values()}
    assert sorted(files) == sorted(taken)
    assert {1_600_000_000} == {path.stat().st_mtime for path in (tmp_path / "out").iterdir()}


def test_server_error_at_first_is_tried_again(fake: FakeS3, make_context: Make, tmp_path: Path, files: Files) -> None:
    """The first attempt is not the last one."""
    fake.fault(internal_error(), op="PutObject", nth=3, times=5)
    fake.fault(Reset(after=1), op="PutObject", nth=20, times=3)

    outcomes = outcomes_of(uploads(tmp_path, files), make_context(workers=8))

    assert files == fake.store.bodies("b")
    assert {DONE} == {outcome.state for outcome in outcomes.values()}


def test_body_cut_on_the_way_is_fetched_again(fake: FakeS3, make_context: Make, tmp_path: Path, files: Files) -> None:
    """Half an object never gets the target's name."""
    tasks = downloads(fake, tmp_path, files)
    fake.fault(CutBody(after=3), op="GetObject", nth=10, times=4)

    outcomes_of(tasks, make_context(workers=8))

    assert files == found_in(tmp_path / "out")


def test_flipped_byte_fails_that_file_alone(fake: FakeS3, make_context: Make, tmp_path: Path, files: Files) -> None:
    """The old target stays, and the rest is done."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "f002").write_bytes(b"old")
    tasks = downloads(fake, tmp_path, files)
    fake.fault(FlipByte(at=50), op="GetObject", key="f002", times=0)

    outcomes = outcomes_of(tasks, make_context(workers=8))

    assert files | {"f002": b"old"} == found_in(tmp_path / "out")
    assert ["f002"] == [key for key, outcome in outcomes.items() if outcome.state == FAILED]


def test_file_that_is_missing_fails_alone(fake: FakeS3, make_context: Make, tmp_path: Path, files: Files) -> None:
    """It went away after the walk saw it."""
    tasks = uploads(tmp_path, files)
    (tmp_path / "src" / "f007").unlink()

    outcomes = outcomes_of(tasks, make_context(workers=8))

    assert ["f007"] == [key for key, outcome in outcomes.items() if outcome.state == FAILED]
    assert f"cannot read {tmp_path}/src/f007: No such file or directory" == str(outcomes["f007"].error)
    assert COUNT - 1 == len(fake.store.bodies("b"))


@pytest.mark.parametrize("is_up", [True, False], ids=["up", "down"])
def test_what_grew_is_taken_as_it_is_now(
    fake: FakeS3, make_context: Make, tmp_path: Path, files: Files, is_up: bool
) -> None:
    """The size at the time of the walk, or in the listing, is only a hint."""
    tasks = uploads(tmp_path, files) if is_up else downloads(fake, tmp_path, files)
    grown = os.urandom(IN_WINDOW_BYTES + 1)
    (tmp_path / "src" / "f004").write_bytes(grown)
    if not is_up:
        fake.store.add("b", "f004", grown)

    outcomes_of(tasks, make_context(workers=8))  # type: ignore[arg-type]

    assert files | {"f004": grown} == (fake.store.bodies("b") if is_up else found_in(tmp_path / "out"))


def test_missing_object_fails_alone(fake: FakeS3, make_context: Make, tmp_path: Path, files: Files) -> None:
    """It was removed after the listing saw it."""
    tasks = downloads(fake, tmp_path, files)
    fake.store.bucket("b").remove("f009", "null")

    outcomes = outcomes_of(tasks, make_context(workers=8))

    assert ["f009"] == [key for key, outcome in outcomes.items() if outcome.state == FAILED]
    assert COUNT - 1 == len(found_in(tmp_path / "out"))


def test_link_in_the_way_is_refused_as_ever(fake: FakeS3, make_context: Make, tmp_path: Path, files: Files) -> None:
    """Nothing may be written outside the target, whoever writes it."""
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "d").symlink_to(tmp_path / "elsewhere")
    fake.store.add("b", "d/x", b"1")
    task = DownloadTask("b", "d/x", str(tmp_path / "out"), "d/x", 1)

    outcomes = outcomes_of([task], make_context(workers=8))

    assert "refused" == outcomes["d/x"].state
    assert [] == os.listdir(tmp_path / "elsewhere")


def test_run_that_was_told_to_stop_begins_nothing(
    fake: FakeS3, make_context: Make, tmp_path: Path, files: Files
) -> None:
    """What waits for a window is not started any more."""
    context = make_context(workers=8)
    tasks = uploads(tmp_path, files)

    def stopping() -> object:
        yield from tasks[:-1]
        context.stop.set()
        yield tasks[-1]

    outcomes: list[Outcome] = []
    run(stopping(), context, on_outcome=outcomes.append)  # type: ignore[arg-type]

    assert NOT_STARTED == next(outcome.state for outcome in outcomes if outcome.task is tasks[-1])


def test_first_small_task_waits_for_no_other(fake: FakeS3, make_context: Make, tmp_path: Path, files: Files) -> None:
    """A sync may look at a million names before it finds another one to copy."""
    first, *others = uploads(tmp_path, files)
    done_before: list[bool] = []

    def slow_stream() -> object:
        yield first
        deadline = time.monotonic() + PATIENCE_S
        while "PutObject" not in fake.ops() and time.monotonic() < deadline:
            time.sleep(0.001)
        done_before.append("PutObject" in fake.ops())
        yield from others

    run(slow_stream(), make_context(workers=8), on_outcome=lambda _: None)  # type: ignore[arg-type]

    assert [True] == done_before


def test_pool_that_is_dead_is_found_out_once(tmp_path: Path, files: Files, fake: FakeS3) -> None:
    """With retries it takes ten seconds, and was found out sixty times."""
    config = load_config({"retries": 0}, environ=fake.environment, cwd=str(tmp_path), home=str(tmp_path))
    fake.stop()
    workers = 16
    executor = BoundedExecutor(workers)
    with open_session(config) as session:
        outcomes: list[Outcome] = []
        run(uploads(tmp_path, files), TransferContext(session.client, executor=executor), on_outcome=outcomes.append)
    executor.close()

    states = [outcome.state for outcome in outcomes]
    assert 1 <= states.count(FAILED) <= workers  # a loaded machine lets all of them begin before the first fails
    # What was not taken from the stream when the first one failed has no outcome.
    assert len(states) == states.count(FAILED) + states.count(NOT_STARTED)


@pytest.mark.parametrize("is_up", [True, False], ids=["up", "down"])
def test_everything_arrives_without_epoll(
    fake: FakeS3,
    make_context: Make,
    tmp_path: Path,
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    is_up: bool,
) -> None:
    """Systems other than Linux wait for the answers in turn."""
    monkeypatch.setattr(pool_window, "IS_POSSIBLE", False)
    tasks = uploads(tmp_path, files) if is_up else downloads(fake, tmp_path, files)

    outcomes = outcomes_of(tasks, make_context(workers=8))  # type: ignore[arg-type]

    assert files == (fake.store.bodies("b") if is_up else found_in(tmp_path / "out"))
    assert {DONE} == {outcome.state for outcome in outcomes.values()}


@pytest.mark.parametrize("is_up", [True, False], ids=["up", "down"])
def test_thread_that_is_held_up_gets_others_beside_it(
    fake: FakeS3,
    make_context: Make,
    tmp_path: Path,
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    is_up: bool,
) -> None:
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
        elif next(taken) == len(files) // 2:  # by then it has asked for others, who may start late
            are_two.wait(START_LIMIT_S)
        return take(self)

    monkeypatch.setattr(TransferWindow, "take", recorded)
    tasks = uploads(tmp_path, files) if is_up else downloads(fake, tmp_path, files)

    outcomes = outcomes_of(tasks, make_context(workers=8))  # type: ignore[arg-type]

    assert files == (fake.store.bodies("b") if is_up else found_in(tmp_path / "out"))
    assert {DONE} == {outcome.state for outcome in outcomes.values()}
    assert 1 < len(threads_seen) <= MOST_THREADS


def test_thread_whose_files_are_at_hand_stays_alone(
    fake: FakeS3, make_context: Make, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for answers gains nothing by more threads."""
    monkeypatch.setattr(flow, "LOOK_S", 0.0)
    monkeypatch.setattr(flow, "SLOW_TASK_S", PATIENCE_S)
    widened: list[bool] = []
    monkeypatch.setattr(TransferWindow, "widen", lambda _: widened.append(True))

    outcomes_of(uploads(tmp_path, files), make_context(workers=8))

    assert files == fake.store.bodies("b")
    assert [] == widened


def test_one_connection_is_enough(fake: FakeS3, tmp_path: Path, files: Files, taken: list[str]) -> None:
    """A thread that holds all connections gives them back before it wants more."""
    config = load_config({"max_connections": 1}, environ=fake.environment, cwd=str(tmp_path), home=str(tmp_path))
    executor = BoundedExecutor(16)
    with open_session(config) as session:
        outcomes_of(uploads(tmp_path, files), TransferContext(session.client, executor=executor))
    executor.close()

    assert files == fake.store.bodies("b")
    assert sorted(files) == sorted(taken)


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
@pytest.mark.parametrize("is_up", [True, False], ids=["up", "down"])
def test_every_option_is_for_the_window_too(
    fake: FakeS3,
    make_context: Make,
    tmp_path: Path,
    files: Files,
    taken: list[str],
    options: dict[str, object],
    is_up: bool,
) -> None:
    """What takes several requests has them one after the other, among those of others."""
    tasks = uploads(tmp_path, files) if is_up else downloads(fake, tmp_path, files)

    outcomes = outcomes_of(tasks, make_context(workers=8, **options))  # type: ignore[arg-type]

    assert {DONE} == {outcome.state for outcome in outcomes.values()}
    assert files == (fake.store.bodies("b") if is_up else found_in(tmp_path / "out"))
    assert sorted(files) == sorted(taken)
    is_moved = "remove_source" in options
    assert is_moved == (not (found_in(tmp_path / "src") if is_up else fake.store.bodies("b")))


@pytest.mark.parametrize("options", [{}, {"remove_source": True}], ids=["cp", "mv"])
def test_copies_are_for_the_window(fake: FakeS3, make_context: Make, files: Files, options: dict[str, object]) -> None:
    """HEAD, CopyObject, and what a move has to prove."""
    for name, content in files.items():
        fake.store.add("b", f"old/{name}", content)
    tasks = [CopyTask("b", f"old/{name}", "b", f"new/{name}", len(content)) for name, content in files.items()]

    outcomes: list[Outcome] = []
    run(tasks, make_context(workers=8, **options), on_outcome=outcomes.append)

    assert {DONE} == {outcome.state for outcome in outcomes}
    kept = {} if options else {f"old/{name}": content for name, content in files.items()}
    assert {f"new/{name}": content for name, content in files.items()} | kept == fake.store.bodies("b")


def test_what_exists_stays_when_it_is_not_to_be_replaced(
    fake: FakeS3, make_context: Make, tmp_path: Path, files: Files
) -> None:
    """HEAD finds it, and no file is sent for nothing."""
    fake.store.add("b", "f003", b"old")

    outcomes = outcomes_of(uploads(tmp_path, files), make_context(workers=8, no_clobber=True))

    assert files | {"f003": b"old"} == fake.store.bodies("b")
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
def test_fault_of_our_own_fails_one_task(
    fake: FakeS3,
    make_context: Make,
    tmp_path: Path,
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
) -> None:
    """A window that dies would leave the run waiting for its results for ever."""
    act = getattr(owner, name)

    def broken(*words: object) -> object:
        if any(str(getattr(word, "resource", getattr(word, "path", ""))).endswith("/f005") for word in words):
            raise ZeroDivisionError("ours")
        return act(*words)

    monkeypatch.setattr(owner, name, broken)

    outcomes = outcomes_of(uploads(tmp_path, files), make_context(workers=8))

    assert ["f005"] == [key for key, outcome in outcomes.items() if outcome.state == FAILED]
    assert COUNT - 1 == len(fake.store.bodies("b"))


@pytest.mark.parametrize(("part_size", "state"), [(6, DONE), (0, FAILED)], ids=["right", "wrong"])
def test_etag_of_parts_is_checked(fake: FakeS3, make_context: Make, tmp_path: Path, part_size: int, state: str) -> None:
    """Which parts it was made of is told, or must be found out."""
    content = b"x" * 10
    made = composite_etag(md5(part).hexdigest() for part in (content[:6], content[6:]))
    found = fake.store.add("b", "k", content)
    found.etag = made if part_size else f"{'0' * 32}-2"
    found.headers["x-amz-meta-s3pool-part-size"] = "6"
    task = DownloadTask("b", "k", str(tmp_path / "out"), "k", 10)

    outcomes = outcomes_of([task], make_context(workers=8))

    assert state == outcomes["k"].state


def test_what_failed_at_first_is_done_before_the_stream_ends(
    fake: FakeS3, make_context: Make, tmp_path: Path, files: Files
) -> None:
    """A long run would leave no time for a second attempt."""
    fake.fault(internal_error(), op="PutObject", key="f003")
    tasks = uploads(tmp_path, files)
    is_stored: list[bool] = []

    def stream() -> Iterator[UploadTask]:
        yield from tasks[:-1]
        deadline = time.monotonic() + PATIENCE_S
        while "f003" not in fake.store.bodies("b") and time.monotonic() < deadline:
            os.sched_yield()
        is_stored.append("f003" in fake.store.bodies("b"))
        yield tasks[-1]

    told: list[Outcome] = []
    run(stream(), make_context(workers=16), on_outcome=told.append)

    assert [True] == is_stored
    assert [DONE] * len(tasks) == [outcome.state for outcome in told]
