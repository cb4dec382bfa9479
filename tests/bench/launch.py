"""Run one command and print what it took. Started as a program of its own, as small as can be.

``python -I -S launch.py LIMIT_S OUTPUT ERRORS DIRECTORY WORD...`` prints one line: status,
whether it ended in time, seconds, processor seconds, bytes. A new process counts the memory
of the one that it was forked from as its own peak, so that one must not be the benchmark.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator

LOOK_S = 0.1  # between two looks at the children of a command
KIB = 1024
FAILED_TO_START = 127


def main(words: list[str]) -> None:
    """Run the command; its output and errors go into files."""
    limit_s, output, errors, directory, *command = words
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    stdin, stdout, stderr = os.open(os.devnull, os.O_RDONLY), os.open(output, flags), os.open(errors, flags)
    started = time.perf_counter()
    # A plain fork: vfork would hand on all of our memory, not what was written to.
    pid = os.fork()
    if not pid:
        become(command, (stdin, stdout, stderr), directory)
    together, in_time = 0, False
    try:
        together, in_time = watch(pid, started + float(limit_s))
    finally:
        # Also when we are interrupted: the command does not hear of that.
        if not in_time:
            kill_group(pid)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - started
    peak = max(usage.ru_maxrss * KIB, together)
    print(os.waitstatus_to_exitcode(status), int(in_time), seconds, usage.ru_utime + usage.ru_stime, peak)


def become(command: list[str], descriptors: tuple[int, ...], directory: str) -> None:
    """Turn the forked process into the command; a group of its own can be killed as a whole."""
    try:
        os.setsid()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.chdir(directory)
        os.execv(command[0], command)
    except OSError as exc:
        os.write(2, f"{command[0]}: {exc}\n".encode())
    finally:
        os._exit(FAILED_TO_START)


def watch(pid: int, deadline: float) -> tuple[int, bool]:
    """Wait for a process; give the most its tree held together, and whether it ended in time."""
    most = 0
    descriptor = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    while not poller.poll(LOOK_S * 1000):
        if time.perf_counter() > deadline:
            return most, False
        family = list(iter_family(pid))
        if len(family) > 1:
            most = max(most, sum(map(own_bytes, family)))
    return most, True


def iter_family(pid: int) -> Iterator[int]:
    """Give a process, its children, their children and so on, as far as they live."""
    yield pid
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for task in tasks:
        for child in read(f"/proc/{pid}/task/{task}/children").split():
            yield from iter_family(int(child))


def own_bytes(pid: int) -> int:
    """Give the memory of one process, of shared pages its share."""
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * KIB
    return 0


def read(path: str) -> str:
    """Give a file's text; nothing when the process has ended."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def kill_group(pid: int) -> None:
    """End a command and its children."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
