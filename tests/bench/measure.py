"""Run one command and measure what it took: seconds, processor time, memory.

The figures are the kernel's, of the process and of the children that it waited for. Memory is
the largest of any one process; of a tool that works in several, what they held together is
looked up while they run, and counts when it is more.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench.launch import iter_family, own_bytes, read

LAUNCHER = Path(__file__).with_name("launch.py")
SHOWN_CHARACTERS = 200  # of a command
TAIL_CHARACTERS = 1500  # of what it said
OVERTIME_S = 30.0


class WorkError(RuntimeError):
    """A command failed, took too long, or did not do what it was asked for."""


class Sample(NamedTuple):
    """One measurement. ``rate`` is of servers, for which the other figures come beside it."""

    seconds: float
    cpu_s: float
    peak_bytes: int
    rate: float = 0.0


class Command(NamedTuple):
    """What to run; the first word is a path. Output goes into a file, by default nowhere."""

    words: Sequence[str]
    environ: Mapping[str, str]
    output: str = os.devnull
    directory: str = "/"


def run(command: Command, *, errors: str, limit_s: float) -> Sample:
    """Run a command to its end, and give what it took. What it says on stderr goes to a file.

    Raises:
        WorkError: it failed, or the time was up; it and its children are ended then.
    """
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER)]
    done = subprocess.run(
        [*launcher, str(limit_s), command.output, errors, command.directory, *command.words],
        env=dict(command.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit_s + OVERTIME_S,
        check=False,
    )
    if done.returncode:
        raise WorkError(f"{_name(command)} could not be measured: {done.stderr}")
    status, in_time, seconds, cpu_s, peak_bytes = done.stdout.split()
    if not int(in_time):
        raise WorkError(f"{_name(command)} did not end within {limit_s:g} s{_tail(errors)}")
    if int(status):
        raise WorkError(f"{_name(command)} ended with {status}{_tail(errors)}")
    return Sample(float(seconds), float(cpu_s), int(peak_bytes))


def cpu_seconds(pid: int) -> float:
    """Give the processor time of a running process and its living children."""
    ticks = 0
    for member in iter_family(pid):
        # The second field is the name in parentheses, and may hold anything.
        fields = read(f"/proc/{member}/stat").rpartition(")")[2].split()
        if fields:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / float(os.sysconf("SC_CLK_TCK"))


def held_bytes(pid: int) -> int:
    """Give the memory that a running process and its children hold together, shared pages once."""
    return sum(own_bytes(member) for member in iter_family(pid))


def _name(command: Command) -> str:
    text = shlex.join(command.words)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _tail(path: str) -> str:
    text = read(path).strip()[-TAIL_CHARACTERS:]
    return f": {text}" if text else ""
