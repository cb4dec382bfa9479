"""Pools whose nodes all have one fault, and what each command does there: seconds until it says so, and until it ends.

``python -m tests.support.silent_pools`` measures the table of the manual with the default limits; it takes minutes
of waiting, and next to no work.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.support.listening import close_listener, serve_each
from tests.support.run_cli import CliRunner

NODES = 2
TOLD = "still waiting for "
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: 1000\r\n\r\n"
BEGUN = b"<?xml version="
FILES = 40
STAGGER_S = 2.0  # between two commands that start, so that none waits for the other's start
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
AT_ONCE = 120  # commands that wait beside each other

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "ls": ("ls", "s3/b/"),
    "stat": ("stat", "s3/b/key"),
    "du": ("du", "s3/b/"),
    "find": ("find", "s3/b/"),
    "cat": ("cat", "s3/b/key"),
    "cp up": ("cp", "file", "s3/b/key"),
    "cp up, parts": ("cp", "--part-size", "5M", "large", "s3/b/key"),
    "cp down": ("cp", "s3/b/key", "down"),
    "cp -r up": ("cp", "-r", "tree", "s3/b/tree"),
    "cp -r down": ("cp", "-r", "s3/b/tree", "down"),
    "mv up": ("mv", "file", "s3/b/key"),
    "mv down": ("mv", "s3/b/key", "down"),
    "rm": ("rm", "s3/b/key"),
    "rm -r": ("rm", "-r", "--force", "s3/b/tree"),
    "sync up": ("sync", "tree", "s3/b/tree"),
    "sync down": ("sync", "s3/b/tree", "down"),
    "mb": ("mb", "s3/b"),
    "rb": ("rb", "s3/b"),
    "pipe": ("pipe", "s3/b/key"),
    "presign": ("presign", "s3/b/key"),
    "ping": ("ping",),
    "speedtest": ("speedtest", "--duration", "2s", "s3/b/"),
}


def _hold(sock: socket.socket) -> None:
    """Take all that comes and say nothing."""
    with contextlib.suppress(OSError), sock:
        while sock.recv(1 << 16):
            continue


def _hold_after(answer: bytes) -> Callable[[socket.socket], None]:
    def serve(sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            received = b""
            while b"\r\n\r\n" not in received and (piece := sock.recv(1 << 16)):
                received += piece
            sock.sendall(answer)
            _hold(sock)

    return serve


@contextlib.contextmanager
def _refusing() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # held, and nobody listens
        yield sock.getsockname()[1]


@contextlib.contextmanager
def _black_hole() -> Iterator[int]:
    """Yield a port that drops each SYN: its queue is full, and nobody accepts."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def _serving(serve: Callable[[socket.socket], None]) -> Callable[[], contextlib.AbstractContextManager[int]]:
    @contextlib.contextmanager
    def made() -> Iterator[int]:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        serve_each(listener, serve)
        yield listener.getsockname()[1]
        close_listener(listener)

    return made


FAULTS: Mapping[str, Callable[[], contextlib.AbstractContextManager[int]]] = {
    "refused": _refusing,
    "black hole": _black_hole,
    "silent": _serving(_hold),
    "silent after head": _serving(_hold_after(HEAD)),
    "silent in body": _serving(_hold_after(HEAD + BEGUN)),
}


@dataclass(frozen=True)
class Outcome:
    """What one command did: seconds until it said that it waits (None: never) and until it ended."""

    told_s: float | None
    ended_s: float
    code: int
    err: str

    @property
    def told(self) -> int:
        """Return how often it said so."""
        return self.err.count(TOLD)


def measure(
    cells: Iterable[tuple[str, str]],
    *flags: str,
    bound_s: float = 900.0,
    at_once: int = AT_ONCE,
    stagger_s: float = 0.0,
) -> dict[tuple[str, str], Outcome]:
    """Run cells (command, fault) beside each other, with further flags."""
    starting = threading.Lock()
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pools = {
            fault: ",".join(f"http://127.0.0.1:{stack.enter_context(make())}" for _ in range(NODES))
            for fault, make in FAULTS.items()
        }

        def run(number: int, command: str, fault: str) -> Outcome:
            home = _make_home(root / str(number))
            with starting:
                process, started = _start(home, (*COMMANDS[command], *flags), pools[fault])
                time.sleep(stagger_s)
            return _watch(process, started, bound_s=bound_s)

        with ThreadPoolExecutor(at_once) as pool:
            under_way = {
                (command, fault): pool.submit(run, number, command, fault)
                for number, (command, fault) in enumerate(cells)
            }
            return {cell: future.result() for cell, future in under_way.items()}


def _make_home(home: Path) -> Path:
    (home / "tree").mkdir(parents=True)
    (home / "file").write_bytes(b"content")
    (home / "large").write_bytes(bytes(12 << 20))
    for number in range(FILES):
        (home / "tree" / str(number)).write_bytes(b"content")
    return home


def _start(home: Path, words: tuple[str, ...], pool: str) -> tuple[subprocess.Popen[bytes], float]:
    runner = CliRunner(home, {**KEYS, "S3_POOL": pool})
    return runner.start(*words, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL), time.monotonic()


def _watch(process: subprocess.Popen[bytes], started: float, *, bound_s: float) -> Outcome:
    killer = threading.Timer(bound_s, process.kill)
    killer.start()
    told_s, lines = None, []
    with process:
        for line in process.stderr or ():
            text = line.decode("utf-8", "replace")
            if told_s is None and TOLD in text:
                told_s = time.monotonic() - started
            lines.append(text)
        code = process.wait()
    killer.cancel()
    return Outcome(told_s, time.monotonic() - started, code, "".join(lines))


def main(flags: list[str]) -> None:
    """Print the table; further flags go to every command."""
    cells = [(command, fault) for command in COMMANDS for fault in FAULTS]
    found = measure(cells, *flags, stagger_s=STAGGER_S)
    print("tab(|);\nl l l l l l.\ncommand|" + "|".join(FAULTS))
    for command in COMMANDS:
        print(command.replace("-", "\\-"), *(_cell(found[command, fault]) for fault in FAULTS), sep="|")
    if "-v" in flags:
        for cell, outcome in found.items():
            print(*cell, outcome.code, outcome.err, file=sys.stderr)


def _cell(outcome: Outcome) -> str:
    told = "-" if outcome.told_s is None else f"{outcome.told_s:.0f}"
    return f"{told}, {outcome.ended_s:.0f} ({outcome.code})"


if __name__ == "__main__":
    main(sys.argv[1:])
