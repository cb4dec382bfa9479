"""State belongs to one pool and one living owner: nobody forgets, ends or removes what is another's."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.fake_s3 import MIB, Answer, Call, FakeS3
from tests.support.run_cli import CliRunner

PARTS = ("--part-size", "5M", "--workers", "2")
SIZE = 21 * MIB
STATE = Path(".local/state/s3pool")
UPLOADS = [("cp", "src/big", "s3/b/big"), ("cp", "-r", "src", "s3/b"), ("sync", "src", "s3/b")]
DOWNLOADS = [("cp", "s3/b/big", "dst/big"), ("cp", "-r", "s3/b", "dst"), ("sync", "s3/b", "dst")]


def with_bucket(fake: FakeS3) -> FakeS3:
    """Return a store with an empty bucket."""
    fake.store.add("b", "x")
    fake.store.bucket("b").remove("x", "null")
    return fake


@pytest.fixture
def fake(fake_s3: Callable[..., FakeS3], run_cli: CliRunner) -> FakeS3:
    """Return two addresses of one store with a bucket."""
    server = with_bucket(fake_s3(2))
    run_cli.environ.update(server.environment)
    return server


@pytest.fixture
def source(run_cli: CliRunner) -> Path:
    """Return a large file below the working directory."""
    root = run_cli.home / "src"
    root.mkdir()
    (root / "big").write_bytes(os.urandom(SIZE))
    return root / "big"


def run_and_kill(fake: FakeS3, run_cli: CliRunner, op: str, words: Sequence[str], *, stdin: bytes = b"") -> None:
    """Run a command that is killed when its third request of a kind arrives."""
    running: list[subprocess.Popen[bytes]] = []
    rule = fake.fault(Call(lambda _: running[0].kill()), op=op, nth=3)
    running.append(run_cli.start(*words, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL))
    running[0].communicate(stdin or None)
    assert rule.used
    fake.script.clear()
    fake.forget()


def run_and_stop(fake: FakeS3, run_cli: CliRunner, op: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """Return a command that lives, and stands still since its third request of a kind."""
    running: list[subprocess.Popen[bytes]] = []
    stopped = threading.Event()

    def stop(_: object) -> None:
        running[0].send_signal(signal.SIGSTOP)
        stopped.set()

    fake.fault(Call(stop), op=op, nth=3)
    running.append(run_cli.start(*words))
    assert stopped.wait(30)
    fake.script.clear()
    return running[0]


def uploads(fake: FakeS3) -> list[str]:
    """Return the unfinished uploads."""
    return list(fake.store.bucket("b").uploads)


def parts_below(root: Path) -> list[str]:
    """Return the temporary files below a directory."""
    return [path.name for path in root.rglob(".s3pool-*")]


@pytest.mark.parametrize("words", UPLOADS, ids=" ".join)
def test_two_clusters_with_the_same_names_do_not_forget_each_others_uploads(
    fake: FakeS3, fake_s3: Callable[..., FakeS3], run_cli: CliRunner, source: Path, words: tuple[str, ...]
) -> None:
    """An upload that is forgotten is paid for, for ever."""
    other = with_bucket(fake_s3(2))
    run_and_kill(fake, run_cli, "UploadPart", (*words, *PARTS))
    assert run_cli(*words, *PARTS, env=other.environment).code == 0
    assert (uploads(fake) != [], uploads(other)) == (True, [])
    assert run_cli(*words, *PARTS).code == 0
    assert uploads(fake) == []
    assert "ListParts" in fake.ops()
    assert fake.store.bodies("b") == other.store.bodies("b") == {"big": source.read_bytes()}


@pytest.mark.parametrize("words", UPLOADS, ids=" ".join)
def test_the_same_cluster_by_other_nodes_goes_on(
    fake: FakeS3, run_cli: CliRunner, source: Path, words: tuple[str, ...]
) -> None:
    """One node less, or another order of them, is no other store."""
    run_and_kill(fake, run_cli, "UploadPart", (*words, *PARTS))
    assert run_cli(*words, *PARTS, env={"S3_POOL": fake.endpoints[1]}).code == 0
    assert "ListParts" in fake.ops()
    assert uploads(fake) == []
    assert fake.store.bodies("b") == {"big": source.read_bytes()}


@pytest.mark.parametrize("words", UPLOADS, ids=" ".join)
def test_a_second_run_leaves_the_upload_of_a_living_one_alone(
    fake: FakeS3, run_cli: CliRunner, source: Path, words: tuple[str, ...]
) -> None:
    """Whoever completes another's upload takes its parts away under its hands."""
    locks = ("--lock", "one"), ("--lock", "two")
    lock_flags = locks if words[0] == "sync" else ((), ())
    first = run_and_stop(fake, run_cli, "UploadPart", (*words, *PARTS, *lock_flags[0]))
    try:
        (mine,) = uploads(fake)
        assert run_cli(*words, *PARTS, *lock_flags[1]).code == 0
        assert uploads(fake) == [mine]
        assert fake.store.bodies("b") == {"big": source.read_bytes()}
    finally:
        first.kill()
        first.communicate()
    source.write_bytes(os.urandom(SIZE))
    assert run_cli(*words, *PARTS, *lock_flags[1]).code == 0
    assert uploads(fake) == []


@pytest.mark.parametrize("words", DOWNLOADS, ids=" ".join)
def test_a_second_run_leaves_the_file_of_a_living_one_alone(
    fake: FakeS3, run_cli: CliRunner, words: tuple[str, ...]
) -> None:
    """What it fetches goes into a file of its own, and the first one's stays until it ends."""
    fake.store.add("b", "big", os.urandom(SIZE), mtime=1_500_000_000)
    locks = (("--lock", "one"), ("--lock", "two")) if words[0] == "sync" else ((), ())
    first = run_and_stop(fake, run_cli, "GetObject", (*words, *PARTS, *locks[0]))
    dst = run_cli.home / "dst"
    try:
        (mine,) = parts_below(dst)
        assert run_cli(*words, *PARTS, *locks[1]).code == 0
        assert parts_below(dst) == [mine]
        assert (dst / "big").read_bytes() == fake.store.bodies("b")["big"]
    finally:
        first.kill()
        first.communicate()
    fake.store.add("b", "big", b"another", mtime=1_500_000_009)
    assert run_cli(*words, *PARTS, *locks[1]).code == 0
    assert (parts_below(dst), (dst / "big").read_bytes()) == ([], b"another")


@pytest.mark.parametrize("size", [3, SIZE], ids=["small", "large"])
@pytest.mark.parametrize("words", [*UPLOADS, ("cp", "--no-resume", "src/big", "s3/b/big")], ids=" ".join)
def test_what_was_left_of_an_upload_goes_when_its_source_has_changed(
    fake: FakeS3, run_cli: CliRunner, source: Path, words: tuple[str, ...], size: int
) -> None:
    """It cannot be gone on with, whatever is sent in its place."""
    run_and_kill(fake, run_cli, "UploadPart", (*words, *PARTS))
    source.write_bytes(os.urandom(size))
    assert run_cli(*words, *PARTS).code == 0
    assert uploads(fake) == []
    assert fake.store.bodies("b") == {"big": source.read_bytes()}


@pytest.mark.parametrize("size", [3, SIZE], ids=["small", "large"])
@pytest.mark.parametrize("words", DOWNLOADS, ids=" ".join)
def test_what_was_left_of_a_download_goes_when_its_source_has_changed(
    fake: FakeS3, run_cli: CliRunner, words: tuple[str, ...], size: int
) -> None:
    """A hidden file of 50 MB would stay for ever."""
    fake.store.add("b", "big", os.urandom(SIZE), mtime=1_500_000_000)
    run_and_kill(fake, run_cli, "GetObject", (*words, *PARTS))
    dst = run_cli.home / "dst"
    assert parts_below(dst) != []
    fake.store.add("b", "big", os.urandom(size), mtime=1_500_000_009)
    assert run_cli(*words, *PARTS).code == 0
    assert parts_below(dst) == []
    assert (dst / "big").read_bytes() == fake.store.bodies("b")["big"]


@pytest.mark.parametrize("words", [("pipe", "s3/b/big"), ("cp", "-", "s3/b/big")], ids=" ".join)
@pytest.mark.parametrize("size", [3, SIZE], ids=["small", "large"])
def test_what_was_left_of_a_stream_goes_with_the_next_one(
    fake: FakeS3, run_cli: CliRunner, words: tuple[str, ...], size: int
) -> None:
    """A stream cannot be gone on with: its parts are of no use to anybody."""
    run_and_kill(fake, run_cli, "UploadPart", (*words, "--part-size", "5M"), stdin=os.urandom(SIZE))
    assert len(uploads(fake)) == 1
    content = os.urandom(size)
    assert run_cli(*words, "--part-size", "5M", stdin=content).code == 0
    assert uploads(fake) == []
    assert fake.store.bodies("b") == {"big": content}


@pytest.mark.parametrize("process", [f"{os.getpid()}:1", f"{os.getpid()}", "", "x:1:2"], ids=range(4))
def test_what_no_process_owns_is_gone_on_with(fake: FakeS3, run_cli: CliRunner, source: Path, process: str) -> None:
    """Numbers of processes are used again, and what cannot be read is nobody's."""
    words = ("cp", "src/big", "s3/b/big", *PARTS)
    run_and_kill(fake, run_cli, "UploadPart", words)
    database = sqlite3.connect(run_cli.home / STATE / "unfinished.sqlite")
    database.execute("UPDATE pool_uploads SET owner = ?", (f"{os.uname().nodename}:{process}",))
    database.commit()
    database.close()
    assert run_cli(*words).code == 0
    assert "ListParts" in fake.ops()


def test_an_upload_that_cannot_be_aborted_now_is_tried_again(fake: FakeS3, run_cli: CliRunner, source: Path) -> None:
    """A refusal is told, and nothing is forgotten."""
    words = ("cp", "src/big", "s3/b/big", *PARTS)
    run_and_kill(fake, run_cli, "UploadPart", words)
    source.write_bytes(b"small")
    fake.fault(Answer(403, "AccessDenied"), op="AbortMultipartUpload", times=0)
    refused = run_cli(*words)
    assert (refused.code, "stays behind" in refused.err) == (0, True)
    fake.script.clear()
    assert run_cli(*words).code == 0
    assert uploads(fake) == []
