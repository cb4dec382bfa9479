"""Bars on a real terminal: what is written beside them stays readable."""

from __future__ import annotations

import os
import pty
import re
import select
import time

from tests.support.fake_s3 import MIB, Answer, Call, FakeS3
from tests.support.run_cli import CliRunner

LIMIT_S = 60.0
UP = b"\x1b[1A"


def run_in_terminal(run_cli: CliRunner, fake: FakeS3, *words: str) -> bytes:
    """Return all that a command writes to a terminal of 80 columns."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(run_cli.home)
        argv = run_cli.command(*words)
        os.execvpe(argv[0], argv, {**run_cli.full_environ(fake.environment), "TERM": "xterm-256color"})
    seen, until = b"", time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        if select.select([terminal], [], [], 1.0)[0]:
            try:
                seen += os.read(terminal, 1 << 16)
            except OSError:
                break
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
