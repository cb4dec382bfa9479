from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3pool.errors import LocalFileError, NoEndpointError, RefusedError, S3Error, signals_raise
from s3pool.transfer.flow import SMALL_ITEMS_PER_WORKER
from s3pool.transfer.runner import perform, run, run_deletes
from s3pool.transfer.tasks import (
    DONE,
    FAILED,
    NOT_STARTED,
    REFUSED,
    DeleteTask,
    DownloadTask,
    Item,
    Outcome,
    Problem,
    RemoveTask,
    Summary,
    UploadTask,
)
from tests.support.fake_s3 import Answer, FakeS3
from tests.unit.transfer.conftest import Make


@pytest.fixture
def files(tmp_path: Path) -> list[UploadTask]:
    """Give twenty files to send."""
    tasks = []
    for number in range(20):
        path = tmp_path / f"f{number:02}"
        path.write_bytes(b"%d" % number)
        tasks.append(UploadTask(str(path), "b", path.name, 2))
    return tasks


@pytest.mark.parametrize("workers", [0, 4])
def test_outcomes_come_home_for_every_task(
    fake: FakeS3, make_context: Make, files: list[UploadTask], workers: int
) -> None:
    """Who writes the journal must hear of every one."""
    outcomes: list[Outcome] = []

    summary = run(files, make_context(workers=workers), on_outcome=outcomes.append)

    assert [task.key for task in files] == sorted(outcome.task.key for outcome in outcomes)  # type: ignore[union-attr]
    assert (20, 20, 30, 0) == (summary.checked, summary.copied, summary.bytes, summary.failed)


def test_one_failure_does_not_stop_the_others(fake: FakeS3, make_context: Make, files: list[UploadTask]) -> None:
    """A backup of a million files has one that is forbidden."""
    fake.fault(Answer(403, "AccessDenied"), op="PutObject", key="f07")

    summary = run(files, make_context(workers=4), on_outcome=lambda _: None)

    assert (19, 1) == (summary.copied, summary.failed)
    assert ["AccessDenied"] == [error.code for error in summary.errors if isinstance(error, S3Error)]


def test_failure_that_meets_all_stops_the_run(fake: FakeS3, make_context: Make, files: list[UploadTask]) -> None:
    """A missing bucket need not be asked a million times."""
    tasks = [UploadTask(task.path, "missing", task.key, 2) for task in files]

    summary = run(tasks, make_context(), on_outcome=lambda _: None)

    assert 1 == summary.failed
    assert isinstance(summary.stopped_by, S3Error)


def test_problems_take_their_place_in_the_stream(make_context: Make) -> None:
    """A source that cannot be read is told among the others."""
    outcomes: list[Outcome] = []
    items: list[Item] = [Problem("a", LocalFileError("bad")), Problem("b", RefusedError("no"))]

    summary = run(items, make_context(), on_outcome=outcomes.append)

    assert [FAILED, REFUSED] == [outcome.state for outcome in outcomes]
    assert (1, 1, 2) == (summary.failed, summary.refused, len(summary.source_errors))


def test_listing_that_fails_ends_the_stream_but_not_what_had_begun(
    fake: FakeS3, make_context: Make, files: list[UploadTask]
) -> None:
    """The summary tells that it is not the whole."""

    def broken() -> Iterator[Item]:
        yield from files[:3]
        raise NoEndpointError("listing failed")

    summary = run(broken(), make_context(workers=2), on_outcome=lambda _: None)

    assert 3 == summary.copied
    assert isinstance(summary.stopped_by, NoEndpointError)


def test_interrupt_stops_the_work_and_goes_on(fake: FakeS3, make_context: Make, files: list[UploadTask]) -> None:
    """What had begun ends; what had not is not begun."""
    context = make_context(workers=2)
    summary = Summary()
    many = files * SMALL_ITEMS_PER_WORKER  # more than are taken before the first is done

    def interrupt(_: Outcome) -> None:
        if not context.stop.is_set():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(many, context, on_outcome=interrupt, summary=summary)

    assert summary.interrupted
    assert context.stop.is_set()
    assert summary.copied < len(many)
    assert {} == fake.store.bucket("b").uploads


def test_task_after_the_word_to_stop_is_not_begun(make_context: Make, files: list[UploadTask]) -> None:
    """It is neither done nor failed."""
    context = make_context()
    context.stop.set()

    outcome = perform(files[0], context)

    assert NOT_STARTED == outcome.state


def test_rehearsal_changes_nothing(fake: FakeS3, make_context: Make, files: list[UploadTask]) -> None:
    """--dry-run tells what would be done."""
    outcomes: list[Outcome] = []

    summary = run(files, make_context(), on_outcome=outcomes.append, rehearse=True)

    assert {} == fake.store.bodies("b")
    assert (20, {DONE}) == (summary.copied, {outcome.state for outcome in outcomes})


def test_move_that_fails_keeps_the_source(fake: FakeS3, make_context: Make, files: list[UploadTask]) -> None:
    """Nothing is lost."""
    fake.fault(Answer(403, "AccessDenied"), op="PutObject", times=0)

    run(files[:1], make_context(remove_source=True), on_outcome=lambda _: None)

    assert Path(files[0].path).exists()


def test_moves_from_s3_keep_the_source_when_the_download_fails(
    fake: FakeS3, make_context: Make, tmp_path: Path
) -> None:
    """The local rename comes first."""
    fake.store.add("b", "k", b"1")
    (tmp_path / "k").mkdir()

    task = DownloadTask("b", "k", str(tmp_path), "k")
    summary = run([task], make_context(remove_source=True), on_outcome=lambda _: None)

    assert 1 == summary.failed
    assert {"k": b"1"} == fake.store.bodies("b")


def test_deletes_go_in_batches_of_a_thousand(fake: FakeS3, make_context: Make) -> None:
    """One request for a thousand keys, several at a time."""
    for number in range(2500):
        fake.store.add("b", f"k{number:04}")
    outcomes: list[Outcome] = []
    tasks = (DeleteTask("b", f"k{number:04}") for number in range(2500))

    summary = run_deletes(tasks, make_context(workers=4), on_outcome=outcomes.append)

    assert {} == fake.store.bodies("b")
    assert (3, 2500, 2500) == (len(fake.ops(op="DeleteObjects")), summary.deleted, len(outcomes))


def test_keys_that_could_not_be_deleted_are_told_one_by_one(fake: FakeS3, make_context: Make) -> None:
    """The answer to a batch is 200 whatever became of its keys."""
    xml = (
        b'<?xml version="1.0"?><DeleteResult><Error><Key>b</Key><Code>AccessDenied</Code><Message>no</Message></Error>'
        b"</DeleteResult>"
    )
    from tests.support.fake_s3 import Reply, Rewrite

    fake.fault(Rewrite(lambda _: Reply(200, body=xml)), op="DeleteObjects")
    outcomes: list[Outcome] = []

    summary = run_deletes([DeleteTask("b", key) for key in "abc"], make_context(), on_outcome=outcomes.append)

    assert [DONE, FAILED, DONE] == [outcome.state for outcome in outcomes]
    assert (2, 1) == (summary.deleted, summary.failed)


def test_batch_that_fails_fails_all_its_keys(fake: FakeS3, make_context: Make) -> None:
    """None of them is known to be gone."""
    fake.fault(Answer(403, "AccessDenied"), op="DeleteObjects")

    summary = run_deletes([DeleteTask("b", key) for key in "abc"], make_context(), on_outcome=lambda _: None)

    assert (0, 3) == (summary.deleted, summary.failed)


def test_versions_uploads_and_files_are_removed_too(fake: FakeS3, make_context: Make, tmp_path: Path) -> None:
    """One stream holds whatever a target has too much of."""
    context = make_context()
    upload_id = context.client.create_multipart_upload("b", "u")
    version = fake.store.add("b", "v")
    (tmp_path / "f").write_bytes(b"")
    tasks: list[DeleteTask | RemoveTask] = [
        DeleteTask("b", "v", version.version_id),
        DeleteTask("b", "u", upload_id=upload_id),
        RemoveTask(str(tmp_path), "f"),
    ]

    summary = run_deletes(tasks, context, on_outcome=lambda _: None)

    assert 3 == summary.deleted
    assert ({}, {}, False) == (fake.store.bodies("b"), fake.store.bucket("b").uploads, (tmp_path / "f").exists())


def test_signal_between_the_count_and_its_line_loses_no_line(make_context: Make, files: list[UploadTask]) -> None:
    """The summary would count an object that no line tells of."""
    told: list[Outcome] = []

    class Signalled(Summary):
        __slots__ = ()

        def add(self, outcome: Outcome) -> None:
            super().add(outcome)
            if self.copied == 1:
                os.kill(os.getpid(), signal.SIGHUP)
                os.sched_yield()

    summary = Signalled()
    with signals_raise([(signal.SIGHUP, KeyboardInterrupt)]), pytest.raises(KeyboardInterrupt):
        run(files, make_context(workers=2), on_outcome=told.append, summary=summary)

    assert summary.copied == len([outcome for outcome in told if outcome.state == DONE])
    assert summary.interrupted
