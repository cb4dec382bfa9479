"""Large transfers that are killed go on where they were, and leave nothing behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.fake_s3 import MIB, Call, FakeS3, HeldUpload, Vanish
from tests.support.run_cli import CliResult, CliRunner

SIZE = 40 * MIB + 5
PARTS = ("--part-size", "5M", "--workers", "2")
ENOUGH = 4  # parts that are there when the process dies


@pytest.fixture
def fake(fake_s3: Callable[..., FakeS3], run_cli: CliRunner) -> FakeS3:
    """Give two addresses of one store with a bucket ``b``."""
    server = fake_s3(2)
    server.store.add("b", "x")
    server.store.bucket("b").remove("x", "null")
    run_cli.environ.update(server.environment)
    return server


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a directory with one large file."""
    root = tmp_path / "source"
    (root / "d").mkdir(parents=True)
    (root / "d" / "big").write_bytes(os.urandom(SIZE))
    return root


def die_at(fake: FakeS3, run_cli: CliRunner, op: str, words: Sequence[str], *, nth: int = ENOUGH + 1) -> None:
    """Run a command that is killed when a request arrives."""
    running: list[subprocess.Popen[bytes]] = []
    rule = fake.fault(Call(lambda _: running[0].kill()), op=op, nth=nth)
    running.append(run_cli.start(*words))
    running[0].communicate()
    assert rule.used
    fake.script.clear()
    fake.forget()


def body_bytes(fake: FakeS3, op: str) -> int:
    """Give how many bytes arrived in the bodies of one operation."""
    return sum(request.body_length for request in fake.requests if request.op == op)


def between(source: str, target: str, command: Sequence[str]) -> tuple[str, str]:
    """Give the operands of a command: two directories, or for cp alone the file in them."""
    return (source, target) if command != ("cp",) else (f"{source}/d/big", f"{target}/d/big")


def parts_of(root: Path) -> list[Path]:
    """Give the temporary files below a directory."""
    return list(root.rglob(".s3pool-*"))


@pytest.mark.parametrize(
    "command",
    [("sync",), ("cp", "-r"), ("cp",), ("sync", "--upload-checksum", "crc32"), ("cp", "-r", "--checksum", "sha256")],
)
def test_a_killed_upload_goes_on_with_its_parts(
    run_cli: CliRunner, fake: FakeS3, source: Path, command: tuple[str, ...]
) -> None:
    """What the server has is not sent again, and no unfinished upload stays."""
    words = (*command, *between(str(source), "s3/b/p", command), *PARTS)
    die_at(fake, run_cli, "UploadPart", words)
    (upload,) = fake.store.bucket("b").uploads.values()
    there = sum(len(part.body) for part in upload.parts.values())

    again = run_cli(*words)

    assert 0 == again.code
    assert there >= (ENOUGH - 2) * 5 * MIB
    assert SIZE - there >= body_bytes(fake, "UploadPart")
    assert [] == fake.ops(op="CreateMultipartUpload")
    assert {} == fake.store.bucket("b").uploads
    assert {"p/d/big": (source / "d" / "big").read_bytes()} == fake.store.bodies("b")


@pytest.mark.parametrize("command", [("sync",), ("cp", "-r")], ids=["sync", "cp"])
def test_an_upload_whose_id_was_never_learned_is_aborted(
    run_cli: CliRunner, fake: FakeS3, source: Path, command: tuple[str, ...]
) -> None:
    """The server created it while its client was killed; no later run would know of it."""
    words = (*command, str(source), "s3/b/p", *PARTS)
    die_at(fake, run_cli, "CreateMultipartUpload", words, nth=1)
    left = len(fake.store.bucket("b").uploads)

    again = run_cli(*words)

    assert (1, 0) == (left, again.code)
    assert {} == fake.store.bucket("b").uploads
    assert {"p/d/big": (source / "d" / "big").read_bytes()} == fake.store.bodies("b")


@pytest.mark.parametrize("command", [("sync",), ("cp", "-r")], ids=["sync", "cp"])
def test_an_upload_whose_creation_was_not_answered_is_begun_again(
    run_cli: CliRunner, fake: FakeS3, source: Path, command: tuple[str, ...]
) -> None:
    """A node may die at that moment: the file comes through, and no upload stays behind."""
    fake.fault(Vanish(), op="CreateMultipartUpload")

    result = run_cli(*command, str(source), "s3/b/p", *PARTS)

    assert 0 == result.code
    assert 2 == len(fake.ops(op="CreateMultipartUpload"))
    assert {} == fake.store.bucket("b").uploads
    assert {"p/d/big": (source / "d" / "big").read_bytes()} == fake.store.bodies("b")


def test_an_announced_upload_that_nobody_needs_any_more_is_aborted(
    run_cli: CliRunner, fake: FakeS3, source: Path
) -> None:
    """Its source is gone, so no upload of the same key would come across it."""
    words = ("sync", str(source), "s3/b/p", *PARTS)
    die_at(fake, run_cli, "CreateMultipartUpload", words, nth=1)
    shutil.rmtree(source / "d")
    (source / "small").write_bytes(b"x")

    again = run_cli(*words)

    assert 0 == again.code
    assert {} == fake.store.bucket("b").uploads


def test_a_source_that_changed_is_sent_anew(run_cli: CliRunner, fake: FakeS3, source: Path) -> None:
    """Parts of two versions must never meet; the old upload is aborted."""
    words = ("sync", str(source), "s3/b/p", *PARTS)
    die_at(fake, run_cli, "UploadPart", words)
    (source / "d" / "big").write_bytes(os.urandom(SIZE))

    again = run_cli(*words)

    assert 0 == again.code
    assert SIZE == body_bytes(fake, "UploadPart")
    assert {} == fake.store.bucket("b").uploads
    assert {"p/d/big": (source / "d" / "big").read_bytes()} == fake.store.bodies("b")


def test_a_stored_part_with_other_bytes_is_sent_again(run_cli: CliRunner, fake: FakeS3, source: Path) -> None:
    """A file can change without a new time; its parts are compared by their MD5."""
    words = ("sync", str(source), "s3/b/p", *PARTS)
    die_at(fake, run_cli, "UploadPart", words)
    path = source / "d" / "big"
    facts = path.stat()
    with path.open("r+b") as stream:
        stream.write(b"\0" * 10)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    again = run_cli(*words)

    assert 0 == again.code
    assert {"p/d/big": path.read_bytes()} == fake.store.bodies("b")


def test_an_upload_that_is_gone_is_begun_anew(run_cli: CliRunner, fake: FakeS3, source: Path) -> None:
    """The journal is a hint; what the server says is the truth."""
    words = ("sync", str(source), "s3/b/p", *PARTS)
    die_at(fake, run_cli, "UploadPart", words)
    fake.store.bucket("b").uploads.clear()

    again = run_cli(*words)

    assert 0 == again.code
    assert {"p/d/big": (source / "d" / "big").read_bytes()} == fake.store.bodies("b")


def test_an_upload_nobody_needs_any_more_is_aborted(run_cli: CliRunner, fake: FakeS3, source: Path) -> None:
    """The source is gone; its parts must not be paid for for ever."""
    words = ("sync", str(source), "s3/b/p", *PARTS)
    die_at(fake, run_cli, "UploadPart", words)
    shutil.rmtree(source / "d")
    (source / "small").write_bytes(b"x")

    again = run_cli(*words)

    assert 0 == again.code
    assert {} == fake.store.bucket("b").uploads


def test_without_resume_it_is_begun_anew(run_cli: CliRunner, fake: FakeS3, source: Path) -> None:
    """For who does not trust it; the old upload goes all the same."""
    words = ("sync", str(source), "s3/b/p", *PARTS)
    die_at(fake, run_cli, "UploadPart", words)

    again = run_cli(*words, "--no-resume")

    assert 0 == again.code
    assert SIZE == body_bytes(fake, "UploadPart")
    assert {} == fake.store.bucket("b").uploads


def fetched(fake: FakeS3) -> int:
    """Give how many bytes the ranges asked for have in all."""
    ranges = [
        request.headers["range"].removeprefix("bytes=") for request in fake.requests if "range" in request.headers
    ]
    return sum(int(last) - int(first) + 1 for first, last in (text.split("-") for text in ranges))


@pytest.mark.parametrize("command", [("sync",), ("cp", "-r"), ("cp",)])
def test_a_killed_download_goes_on_with_its_ranges(
    run_cli: CliRunner, fake: FakeS3, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """The old file stays until the new one is whole; what is on disk is not fetched again."""
    content = os.urandom(SIZE)
    fake.store.add("b", "p/d/big", content)
    target = tmp_path / "copy"
    (target / "d").mkdir(parents=True)
    (target / "d" / "big").write_bytes(b"old")
    words = (*command, *between("s3/b/p", str(target), command), *PARTS)

    die_at(fake, run_cli, "GetObject", words)
    old = (target / "d" / "big").read_bytes()
    again = run_cli(*words)

    assert b"old" == old
    assert 0 == again.code
    assert content == (target / "d" / "big").read_bytes()
    assert SIZE - (ENOUGH - 2) * 5 * MIB >= fetched(fake)
    assert [] == parts_of(target)


def test_a_download_is_begun_anew_when_the_object_changed(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """Ranges of two objects must never meet; the old temporary file goes."""
    fake.store.add("b", "p/d/big", os.urandom(SIZE))
    words = ("sync", "s3/b/p", str(tmp_path / "copy"), *PARTS)
    die_at(fake, run_cli, "GetObject", words)
    content = os.urandom(SIZE)
    fake.store.add("b", "p/d/big", content)

    again = run_cli(*words)

    assert 0 == again.code
    assert content == (tmp_path / "copy" / "d" / "big").read_bytes()
    assert [] == parts_of(tmp_path / "copy")


def test_a_temporary_file_that_was_damaged_is_not_used(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """After a power cut the disk may hold less than was remembered."""
    content = os.urandom(SIZE)
    fake.store.add("b", "p/d/big", content)
    words = ("sync", "s3/b/p", str(tmp_path / "copy"), *PARTS)
    die_at(fake, run_cli, "GetObject", words)
    (part,) = parts_of(tmp_path / "copy")
    os.truncate(part, 0)

    again = run_cli(*words)

    assert 0 == again.code
    assert content == (tmp_path / "copy" / "d" / "big").read_bytes()
    assert [] == parts_of(tmp_path / "copy")


def test_temporary_files_of_dead_runs_are_swept(run_cli: CliRunner, fake: FakeS3, tmp_path: Path) -> None:
    """Nobody else would ever remove them; one that is in use stays."""
    fake.store.add("b", "p/a", b"A")
    target = tmp_path / "copy"
    target.mkdir()
    (target / ".s3pool-0123456789ab.part").write_bytes(b"dead")
    busy = target / ".s3pool-ba9876543210.part"

    with busy.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        result: CliResult = run_cli("sync", "s3/b/p", str(target))

    assert 0 == result.code
    assert {"a", busy.name} == {path.name for path in target.iterdir()}


@pytest.mark.parametrize("command", [("sync",), ("cp", "-r")], ids=["sync", "cp"])
def test_an_upload_that_a_dead_node_holds_is_not_taken_up_again(
    run_cli: CliRunner, fake: FakeS3, source: Path, command: tuple[str, ...]
) -> None:
    """Neither in this run nor in the next, and nothing stays behind."""
    words = (*command, str(source), "s3/b/p", *PARTS)
    fake.fault(HeldUpload(), op="CompleteMultipartUpload", times=0)

    result = run_cli(*words)

    assert 0 == result.code, result.err
    assert "This multipart completion is already in progress" in result.err
    assert {} == fake.store.bucket("b").uploads
    assert {"p/d/big": (source / "d" / "big").read_bytes()} == fake.store.bodies("b")
