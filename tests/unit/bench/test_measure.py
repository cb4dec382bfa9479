from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.bench.measure import Command, WorkError, cpu_seconds, held_bytes, run

MIB = 1 << 20
LIMIT_S = 60.0


def shell(text: str, output: Path | None = None) -> Command:
    """Give a command of the shell."""
    return Command(["/bin/sh", "-c", text], {"PATH": os.environ["PATH"]}, str(output) if output else os.devnull)


def test_output_goes_to_its_file(tmp_path: Path) -> None:
    """Listings are checked there."""
    run(shell("pwd; echo done", tmp_path / "out"), errors=str(tmp_path / "err"), limit_s=LIMIT_S)

    assert "/\ndone\n" == (tmp_path / "out").read_text()


def test_memory_is_the_command_s_own(tmp_path: Path) -> None:
    """A process inherits its parent's peak, and this one's is large."""
    ballast = bytearray(os.urandom(64 * MIB))

    small = run(Command(["/bin/true"], {}), errors=str(tmp_path / "err"), limit_s=LIMIT_S)
    words = [sys.executable, "-S", "-c", f"bytearray(b'x' * {96 * MIB})"]
    large = run(Command(words, {}), errors=str(tmp_path / "err"), limit_s=LIMIT_S)

    assert 64 * MIB == len(ballast)
    assert small.peak_bytes < 32 * MIB
    assert large.peak_bytes > 96 * MIB


def test_children_s_processor_time_counts(tmp_path: Path) -> None:
    """Some tools work in processes of their own."""
    loop = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"

    sample = run(shell(f"({loop}) & wait"), errors=str(tmp_path / "err"), limit_s=LIMIT_S)

    assert sample.cpu_s > 0.01


def test_failure_tells_what_the_command_said(tmp_path: Path) -> None:
    """Its name and its last words are what one needs to repair it."""
    with pytest.raises(WorkError, match=r"/bin/sh -c .* ended with 3: no such bucket"):
        run(shell("echo no such bucket >&2; exit 3"), errors=str(tmp_path / "err"), limit_s=LIMIT_S)


def test_command_that_does_not_exist_is_a_failure(tmp_path: Path) -> None:
    """It must not look like a very fast one."""
    with pytest.raises(WorkError, match="ended with 127: /nonexistent"):
        run(Command(["/nonexistent"], {}), errors=str(tmp_path / "err"), limit_s=LIMIT_S)


def test_time_limit_ends_the_command_and_its_children(tmp_path: Path) -> None:
    """A client that retries for minutes would spoil the run; a child would hold this file open."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    with pytest.raises(WorkError, match=r"did not end within 0\.3 s"):
        run(shell(f"(sleep 100 > {fifo}) & wait"), errors=str(tmp_path / "err"), limit_s=0.3)

    os.set_blocking(reader, True)
    assert b"" == os.read(reader, 1)
    os.close(reader)


def test_running_process_tells_what_it_has_used() -> None:
    """Proxies are measured while they run."""
    assert cpu_seconds(os.getpid()) > 0
    assert held_bytes(os.getpid()) > MIB
