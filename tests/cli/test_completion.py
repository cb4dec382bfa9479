"""What real shells make of s3pool's completion: each is driven by its terminal, as a user does."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fake_s3 import FakeS3
from tests.support.run_cli import ROOT, CliResult, CliRunner

Call = Callable[..., CliResult]
LIMIT_S = 60.0
SHELLS = {
    "bash": ("bash", "--norc", "-i"),
    "zsh": ("zsh", "-f", "-i"),
    "fish": ("fish", "--no-config", "-i"),
    "tcsh": ("tcsh", "-f"),
}
# What is typed before the Tab key, and the whole line behind it.
LINES = {
    "presi": "presign",
    "ls --max-k": "ls --max-keys",
    "--profile sto": "--profile storage",
    "cp --links fol": "cp --links follow",
    "ls s3/bk": "ls s3/bkt/",
    "mb s3/bk": "mb s3/bkt",
    "cat s3/bkt/uni": "cat s3/bkt/unique.txt",
    "cat s3://bkt/uni": "cat s3://bkt/unique.txt",
    "--region eu-1 cat s3/bkt/lo": "--region eu-1 cat s3/bkt/logs/",
    "ls stor": "ls storage/",
    "ls storage/bk": "ls storage/bkt/",
    "cp -r localfile.bin storage/bkt/lo": "cp -r localfile.bin storage/bkt/logs/",
    "cp local": "cp localfile.bin",
    "cp -r localfile.bin s3/bkt/lo": "cp -r localfile.bin s3/bkt/logs/",
    "cat local": "cat local",
}
HOME_KEY = b"\x01"


PATIENT = {"S3POOL_COMPLETION_TIMEOUT": "50"}  # a busy machine may take longer than the second that a user waits


class Terminal:
    """A shell in a terminal of its own, with s3pool's completion loaded."""

    def __init__(self, name: str, script: Path, home: Path, environ: dict[str, str]) -> None:
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.chdir(home)
            os.execvpe(SHELLS[name][0], SHELLS[name], {**environ, "TERM": "vt100"})
        self._seen = b""
        loads = "autoload -U compinit; compinit -u; " if name == "zsh" else ""
        self.type(f"{loads}source {script}; echo READ''Y\n".encode())
        self.wait_for(b"READY")

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._fd, keys)

    def wait_for(self, text: bytes) -> bytes:
        """Return what follows a text in its line, once the line is there."""
        until = time.monotonic() + LIMIT_S
        while True:
            _, found, rest = self._seen.partition(text)
            if found and b"\n" in rest:
                line, _, self._seen = rest.partition(b"\n")
                return line.strip()
            assert time.monotonic() < until, self._seen
            if select.select([self._fd], [], [], 1.0)[0]:
                new = os.read(self._fd, 1 << 16)
                if b"\x1b[c" in new or b"\x1b[0c" in new:  # fish asks what the terminal is
                    self.type(b"\x1b[?62;c")
                self._seen += new

    def close(self) -> None:
        """End the shell."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._fd)


def profile_of(fake: FakeS3) -> str:
    """Return the pool as a profile of the configuration file; none takes keys from the environment."""
    keys = (fake.environment["AWS_ACCESS_KEY_ID"], fake.environment["AWS_SECRET_ACCESS_KEY"])
    return json.dumps({"endpoints": fake.endpoints, "access_key": keys[0], "secret_key": keys[1]})


@pytest.fixture(params=SHELLS)
def terminal(request: pytest.FixtureRequest, fake: FakeS3, run_cli: CliRunner, tmp_path: Path) -> Iterator[Terminal]:
    """Return a shell that stands in a directory with a file, beside a pool with some keys."""
    if not shutil.which(SHELLS[request.param][0]):
        pytest.skip(f"there is no {request.param} here")
    for key in ("unique.txt", "logs/a", "logs/b"):
        fake.store.add("bkt", key, b"x")
    home = run_cli.home
    (home / "localfile.bin").touch()
    (home / ".s3pool").mkdir()
    (home / ".s3pool" / "config.yaml").write_text(f"profiles:\n  storage: {profile_of(fake)}\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "s3pool").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m s3pool "$@"\n')
    (programs / "s3pool").chmod(0o755)
    script = tmp_path / "script"
    script.write_bytes(run_cli("completion", request.param).stdout)
    environ = {**run_cli.full_environ({**fake.environment, **PATIENT}), "PATH": f"{programs}:{os.environ['PATH']}"}
    shell = Terminal(request.param, script, home, environ)
    yield shell
    shell.close()


def test_tab_completes_commands_flags_values_and_paths(terminal: Terminal) -> None:
    """Local names where they can stand, keys and buckets, profiles, and what a flag may be."""
    found = {}
    for typed in LINES:
        terminal.type(f"s3pool {typed}\t".encode() + HOME_KEY + b"echo GO''T \n")
        found[typed] = terminal.wait_for(b"GOT s3pool ").decode()

    assert LINES == found


@pytest.mark.parametrize("shell", SHELLS)
def test_script_names_all_commands_and_flags(run_cli: CliRunner, shell: str) -> None:
    """They need no start of the program; global flags are offered behind a command as well."""
    result = run_cli("completion", shell)

    assert (0, b"") == (result.code, result.stderr)
    assert all(word in result.out for word in ("presign", "max-keys", "endpoints"))


def test_another_shell_is_refused(run_cli: CliRunner) -> None:
    """One line, usage."""
    result = run_cli("completion", "ksh")

    assert (2, 1) == (result.code, result.err.count("\n"))


def test_pool_that_is_silent_or_refuses_costs_a_second_and_says_nothing(fake: FakeS3, call: Call) -> None:
    """A prompt is no place for errors."""
    for node in fake.nodes:
        node.black_hole()
    begun = time.monotonic()

    result = call("completion", "zsh", "--", "ls", "s3/b")

    assert (0, b"", b"") == (result.code, result.stdout, result.stderr)
    assert time.monotonic() - begun < 20  # the documented read limit alone is 60


def test_names_are_kept_for_the_next_key(fake: FakeS3, call: Call, tmp_path: Path) -> None:
    """Two presses of Tab ask once; the names are nobody else's business."""
    fake.store.add("bkt", "key", b"x")
    environ = {**PATIENT, "XDG_CACHE_HOME": str(tmp_path)}
    asked = [call("completion", "zsh", "--", "ls", "s3/bkt/", env=environ).lines for _ in range(2)]

    (kept,) = (tmp_path / "s3pool" / "completion").iterdir()
    assert [["s3/bkt/key"]] * 2 == asked
    assert ["ListObjectsV2"] == fake.ops()
    assert (0o600, 0o700) == (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777)


def test_paths_of_profiles_are_completed_in_their_pools(fake: FakeS3, call: Call, tmp_path: Path) -> None:
    """What a name means to the command it means to the completion; a broken file takes nothing else away."""
    for bucket, key in (("bkt", "logs/a"), ("bkt", "unique.txt"), ("other", "x")):
        fake.store.add(bucket, key, b"x")
    settings = tmp_path / ".s3pool"
    settings.mkdir()
    here = profile_of(fake)
    text = f"profiles:\n  berlin: {here}\n  here: {here}\n  dead: {{endpoints: ['http://127.0.0.1:9']}}\n"
    (settings / "config.yaml").write_text(text)
    (tmp_path / "here").mkdir()
    environ = {**PATIENT, "S3_POOL": "http://127.0.0.1:9", "XDG_CACHE_HOME": "/dev/null"}

    def asked(*words: str) -> list[str]:
        return call("completion", "zsh", "--", *words, env=environ).lines

    everything = ["s3/", "berlin/", "dead/", "here/"]
    lines: dict[tuple[str, ...], list[str]] = {
        ("ls", ""): everything,
        ("cp", ""): ["+files", "s3/", "berlin/", "dead/"],
        ("rm", "-r", "be"): ["berlin/"],
        ("ls", "berlin/"): ["berlin/bkt/", "berlin/other/"],
        ("rb", "berlin/o"): ["berlin/other"],
        ("cp", "a", "berlin/bkt/"): ["+files", "berlin/bkt/logs/", "berlin/bkt/unique.txt"],
        ("ls", "here/bkt/u"): ["here/bkt/unique.txt"],
        ("cp", "here/bkt/u"): ["+files"],
        ("ls", "dead/"): [],
        ("ls", "./"): [],
    }
    assert lines == {words: asked(*words) for words in lines}
    (settings / "config.yaml").write_text("profiles: [")
    assert [["+files", "s3/"], []] == [asked("cp", ""), asked("ls", "berlin/")]


def test_names_that_would_break_a_line_are_left_out(fake: FakeS3, call: Call) -> None:
    """No key writes to a terminal."""
    for key in ("good", "bad\nname", "bad\x1b[31m"):
        fake.store.add("bkt", key, b"x")

    environ = {**PATIENT, "XDG_CACHE_HOME": "/dev/null"}
    assert ["s3/bkt/good"] == call("completion", "zsh", "--", "ls", "s3/bkt/", env=environ).lines
