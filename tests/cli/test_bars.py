"""Bars on a real terminal: what is written beside them stays readable."""

from __future__ import annotations

import fcntl
import itertools
import os
import pty
import re
import select
import struct
import termios
import time
import unicodedata

import pytest

from tests.support.fake_s3 import MIB, Answer, Call, FakeS3
from tests.support.run_cli import CliRunner

LIMIT_S = 60.0
UP = b"\x1b[1A"


def run_in_terminal(
    run_cli: CliRunner, fake: FakeS3, *words: str, columns: int = 80, then: tuple[tuple[bytes, int], ...] = ()
) -> bytes:
    """Return all that a command writes to a terminal, which gets each further width once some bytes have come."""
    changes, begin = list(then), 0
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.chdir(run_cli.home)
        argv = run_cli.command(*words)
        environ = {**run_cli.full_environ(fake.environment), "TERM": "xterm-256color"}
        os.execvpe(argv[0], argv, {name: value for name, value in environ.items() if name != "COLUMNS"})
    seen, until = b"", time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        if select.select([terminal], [], [], 1.0)[0]:
            try:
                seen += os.read(terminal, 1 << 16)
            except OSError:
                break
        if changes and changes[0][0] in seen[begin:]:
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, changes.pop(0)[1], 0, 0))
            begin = len(seen)
    os.close(terminal)
    os.waitpid(pid, 0)
    return seen


def test_lines_written_beside_bars_are_not_drawn_over(fake: FakeS3, run_cli: CliRunner) -> None:
    """An error and a line of the log, from two threads: nothing goes up over them afterwards."""
    fake.store.add("b", "x", b"")
    (run_cli.home / "tree").mkdir()
    for number in range(4):
        (run_cli.home / "tree" / f"large{number}").write_bytes(b"x" * (17 * MIB))
    (run_cli.home / "tree" / "a").write_bytes(b"x")
    fake.fault(Answer(403, "AccessDenied", "no"), op="PutObject", key="t/a", times=0)
    fake.fault(Call(lambda _exchange: fake.nodes[1].kill()), op="UploadPart", endpoint=1)

    seen = run_in_terminal(
        run_cli, fake, "--progress", "bar", "--health-interval", "0.2", "--bwlimit", "20M", "cp", "-r", "tree", "s3/b/t"
    )

    for line in (rb"s3pool: error: [^\r\n]*AccessDenied", rb"s3pool: warning: [^\r\n]*leaves the pool"):
        found = re.search(line, re.sub(rb"\x1b\[[0-9;]*m", b"", seen))
        assert found, seen
        behind = re.sub(rb"\x1b\[[0-9;]*m", b"", seen)[found.end() :].partition("━".encode())[0]
        assert UP not in behind


def test_sizes_and_speeds_have_one_base(fake: FakeS3, run_cli: CliRunner) -> None:
    """1024, as in all tables; names are cut in front, where those of a tree are alike."""
    fake.store.add("b", "x", b"")
    name = f"{'directory-' * 6}end.bin"
    (run_cli.home / name).write_bytes(b"x" * (20 * MIB))

    seen = run_in_terminal(run_cli, fake, "--progress", "bar", "--bwlimit", "15M", "cp", name, "s3/b/")

    text = re.sub(rb"\x1b\[[0-9;]*m", b"", seen).decode()
    assert re.search(r"MiB of 20MiB +[0-9.]+MiB/s", text)
    assert "end.bin" in text
    assert "directory-directory-directory" not in re.sub(r"s3pool:.*", "", text)


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_bars_fit_every_width(fake: FakeS3, run_cli: CliRunner, columns: int) -> None:
    """A bar, the speed and the time left are there; wide and combining letters push nothing out of its column."""
    fake.store.add("b", "x", b"")
    (run_cli.home / "tree").mkdir()
    for name in ("x" * 90 + "-1", "\u5199\u771f" * 30 + "-2", "e\u0301" * 60 + "-3"):
        (run_cli.home / "tree" / name).write_bytes(b"x" * (17 * MIB))

    words = ("--progress", "bar", "--bwlimit", "30M", "cp", "-r", "tree", "s3/b/")
    seen = run_in_terminal(run_cli, fake, *words, columns=columns)

    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", seen).decode()
    lines = [line for line in re.split(r"[\r\n]+", text) if "MiB of " in line and "files in" not in line]
    assert {columns} == {cells(line) for line in lines}
    assert {"all", "-1", "-2", "-3"} == {
        re.split(r" +[\u2501\u2578\u257a]", line)[0][-3:].lstrip("x\u771f\u0301") for line in lines
    }
    assert any(re.search(r"\d[KMG]iB/s \d+s left", line) for line in lines)
    assert not any(unicodedata.combining(line[1]) for line in lines)


def test_bars_follow_a_terminal_that_is_resized(fake: FakeS3, run_cli: CliRunner) -> None:
    """Each frame is as wide as the terminal was when it was drawn, and SIGWINCH ends nothing."""
    fake.store.add("b", "x", b"")
    (run_cli.home / "large").write_bytes(b"x" * (40 * MIB))

    words = ("--progress", "bar", "--bwlimit", "10M", "cp", "large", "s3/b/")
    shown = b"MiB of "
    seen = run_in_terminal(run_cli, fake, *words, columns=60, then=((shown, 200), (shown, 60), (shown, 120)))

    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", seen).decode()
    widths = [cells(line) for line in re.split(r"[\r\n]+", text) if "MiB of " in line and "files in" not in line]
    assert [60, 200, 60, 120] == [width for width, _ in itertools.groupby(widths)]
    assert bytes(40 * MIB).replace(b"\0", b"x") == fake.store.bodies("b")["large"]


def cells(text: str) -> int:
    """Return the columns that a text takes: wide letters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )
