"""Whatever goes wrong on this side of the wire is told as what it is, at once and with its code."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_s3 import MIB, Answer, FakeS3
from tests.support.fake_s3 import Call as Calling
from tests.support.run_cli import CliResult, CliRunner

Call = Callable[..., CliResult]


@pytest.fixture
def bucket(fake: FakeS3) -> FakeS3:
    """Return the store with an empty bucket."""
    fake.store.add("b", "x")
    fake.store.bucket("b").remove("x", "null")
    return fake


class BadDisk:
    """Reads what is asked for once, and from the second time on, or in sendfile, not beyond a place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, bad_from: int, code: int = errno.EIO) -> None:
        self._bad_from = bad_from
        self._code = code
        self._read, self._send = os.pread, os.sendfile
        monkeypatch.setattr(os, "pread", self.pread)
        monkeypatch.setattr(os, "sendfile", self.sendfile)

    def _check(self, offset: int) -> None:
        if offset >= self._bad_from:
            raise OSError(self._code, os.strerror(self._code))

    def pread(self, fd: int, count: int, offset: int) -> bytes:
        """Read a block."""
        self._check(offset)
        return self._read(fd, count, offset)

    def sendfile(self, out: int, fd: int, offset: int, count: int) -> int:
        """Send a block."""
        self._check(offset)
        return self._send(out, fd, offset, min(count, self._bad_from - offset))


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("words", [("cp", "-r"), ("mv", "-r"), ("sync",)], ids=" ".join)
@pytest.mark.parametrize("size", [2 * MIB, 24 * MIB], ids=["one piece", "parts"])
def test_a_disk_that_cannot_be_read_is_told_at_once(
    bucket: FakeS3,
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    size: int,
    code: int,
) -> None:
    """No node is to blame: nothing is tried again, and the files beside it are sent."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "bad").write_bytes(os.urandom(size))
    (tmp_path / "src" / "good").write_bytes(b"good")
    BadDisk(monkeypatch, bad_from=MIB, code=code)
    done = call(*words, "src", "s3/b")
    (line,) = [line for line in done.err.splitlines() if "error" in line]
    assert (
        line == f"s3pool: error: cannot read src/bad: {os.strerror(code)}; the disk or its connection fails: see dmesg"
    )
    assert done.code == 1
    assert bucket.store.bodies("b") == {"good": b"good"}
    assert bucket.store.bucket("b").uploads == {}
    assert bucket.ops(op="PutObject").count("PutObject") <= 2
    assert (tmp_path / "src" / "bad").stat().st_size == size


def test_a_file_system_without_sendfile_is_read_from(
    bucket: FakeS3, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some in user space have none."""
    (tmp_path / "f").write_bytes(os.urandom(2 * MIB))

    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", refuse)
    assert call("cp", "f", "s3/b/f").code == 0
    assert bucket.store.bodies("b") == {"f": (tmp_path / "f").read_bytes()}


# -- uploads that somebody else aborts -----------------------------------------------------


@pytest.mark.parametrize("op", ["UploadPart", "CompleteMultipartUpload", "ListParts"])
@pytest.mark.parametrize(
    "words", [("cp", "-r", "src", "s3/b"), ("sync", "src", "s3/b"), ("pipe", "s3/b/big")], ids=" ".join
)
def test_an_upload_that_somebody_else_aborts_ends_in_order(
    bucket: FakeS3, run_cli: CliRunner, op: str, words: tuple[str, ...]
) -> None:
    """A lifecycle rule or an rm --incomplete may do so; the next run begins anew."""
    run_cli.environ.update(bucket.environment)
    content = os.urandom(12 * MIB)
    (run_cli.home / "src").mkdir()
    (run_cli.home / "src" / "big").write_bytes(content)
    flags = ("--part-size", "5M")
    stdin = content if words[0] == "pipe" else b""
    bucket.fault(Calling(lambda _: bucket.store.bucket("b").uploads.clear()), op=op, nth=2 if op == "UploadPart" else 1)
    done = run_cli(*words, *flags, stdin=stdin)
    if op != "ListParts":
        assert (done.code, "Traceback" in done.err, "somebody else has ended this upload" in done.err) == (
            1,
            False,
            True,
        ), done.err
        assert bucket.store.bodies("b") == {}
    bucket.script.clear()
    assert run_cli(*words, *flags, stdin=stdin).code == 0
    assert bucket.store.bodies("b") == {"big": content}
    assert bucket.store.bucket("b").uploads == {}


# -- interrupts ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
@pytest.mark.parametrize("words", [("ls", "s3/b"), ("cp", "-r", "src", "s3/b"), ("sync", "src", "s3/b")], ids=" ".join)
def test_an_interrupt_at_the_very_start_ends_in_order(
    bucket: FakeS3, run_cli: CliRunner, words: tuple[str, ...], number: signal.Signals
) -> None:
    """Modules are loaded in the first moments, and nobody wants to read of them."""
    run_cli.environ.update(bucket.environment)
    (run_cli.home / "src").mkdir()
    (run_cli.home / "src" / "f").write_bytes(b"x")
    bucket.fault(Answer(503, "SlowDown", "slow", {"Retry-After": "1"}), op="*", times=0)
    for wait_ms in range(10, 250, 20):
        process = run_cli.start(*words)
        begun = time.monotonic()
        while time.monotonic() - begun < wait_ms / 1000:
            os.sched_yield()
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        # What the interpreter does before it comes to the program is its own.
        assert b"s3pool/" not in err, (wait_ms, err)
        assert process.returncode in (128 + number, -number) or b"Traceback" in err, (wait_ms, process.returncode, err)


# -- children that stand still -------------------------------------------------------------


def test_a_child_that_stands_still_does_not_hold_an_interrupt_back(bucket: FakeS3, run_cli: CliRunner) -> None:
    """A child that was stopped never ends by itself."""
    run_cli.environ.update(bucket.environment)
    bucket.store.add("b", "k", b"x")
    process = run_cli.start("find", "s3/b", "--exec", "sh -c 'echo begun; kill -STOP $$; echo went on'")
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, b"Traceback" in err, out) == (130, False, b"")


def test_a_run_whose_output_nobody_reads_ends_by_a_signal(bucket: FakeS3, run_cli: CliRunner) -> None:
    """A pager that was stopped takes no lines."""
    run_cli.environ.update(bucket.environment)
    for number in range(3000):
        bucket.store.add("b", f"{'k' * 60}{number}", b"x")
    process = run_cli.start("ls", "-r", "s3/b", stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) in (141, 143)
    process.communicate()
