"""Runs commands as a user does, through the warm process or anew, and signals them."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.run_cli import ROOT, CliRunner

GONE_WITHIN_S = 5.0  # processes of a killed command have so long to notice


@dataclass
class Run:
    """What a command left behind; ``code`` is negative for a signal, None when it had to be stopped."""

    argv: tuple[str, ...]
    code: int | None
    stdout: bytes
    stderr: bytes
    seconds: float
    orphans: list[str]

    @property
    def err(self) -> str:
        """Return standard error as text."""
        return self.stderr.decode("utf-8", "replace")


class Runner:
    """Runs one command after another. ``program`` is what is called in place of the warm process."""

    def __init__(self, home: Path, cwd: Path, environ: Mapping[str, str], *, program: Sequence[str] = ()) -> None:
        self._cli = CliRunner(home, environ)
        self._cwd = cwd
        self._scratch = home
        self._program = list(program)
        self._zygote: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._lock = threading.Lock()

    def __call__(self, argv: Sequence[str], *, stdin: bytes = b"", seed: int = 0, bound_s: float = 60.0) -> Run:
        """Run a command to its end, which comes within the bound or is forced."""
        paths = {name: self._scratch / f".{name}-{id(self):x}" for name in ("stdin", "stdout", "stderr")}
        paths["stdin"].write_bytes(stdin)
        for name in ("stdout", "stderr"):
            paths[name].write_bytes(b"")
        started = time.monotonic()
        timer = threading.Timer(bound_s, self.send, [signal.SIGKILL])
        timer.start()
        session, code = self._run(argv, paths, seed)
        in_time = timer.is_alive()
        timer.cancel()
        seconds = time.monotonic() - started
        orphans = _await_end_of(session)
        out, err = paths["stdout"].read_bytes(), paths["stderr"].read_bytes()
        return Run(tuple(argv), code if in_time else None, out, err, seconds, orphans)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command that runs."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._pid is not None:
                os.kill(self._pid, number)

    def stop(self) -> None:
        """End the warm process."""
        if self._zygote is not None:
            self._zygote.kill()
            self._zygote.wait()
            os.close(self._requests)
            self._answers.close()

    def transcript(self, argv: Sequence[str]) -> str:
        """Return a command as it is typed."""
        return shlex.join(["s3pool", *argv])

    def _run(self, argv: Sequence[str], paths: Mapping[str, Path], seed: int) -> tuple[int, int]:
        if self._program:
            return self._run_program(argv, paths)
        if self._zygote is None:
            self._start()
        request = {
            "argv": list(argv),
            "cwd": str(self._cwd),
            "env": self._cli.full_environ(),
            "seed": seed,
            **{name: str(path) for name, path in paths.items()},
        }
        os.write(self._requests, json.dumps(request).encode() + b"\n")
        pid = self._answer("pid")
        self._note(pid)
        code = self._answer("end")
        self._note(None)
        return pid, code

    def _run_program(self, argv: Sequence[str], paths: Mapping[str, Path]) -> tuple[int, int]:
        with paths["stdin"].open("rb") as source, paths["stdout"].open("wb") as out, paths["stderr"].open("wb") as err:
            command = [*self._program, *argv]
            environ = self._cli.full_environ()
            process = subprocess.Popen(
                command, stdin=source, stdout=out, stderr=err, cwd=self._cwd, env=environ, start_new_session=True
            )
            self._note(process.pid)
            code = process.wait()
            self._note(None)
        return process.pid, code

    def _note(self, pid: int | None) -> None:
        with self._lock:
            self._pid = pid

    def _answer(self, word: str) -> int:
        line = self._answers.readline().split()
        if not line or line[0] != word.encode():
            raise RuntimeError(f"the warm process answered {line} instead of {word}")
        return int(line[1])

    def _start(self) -> None:
        requests, self._requests = os.pipe()
        answers, told = os.pipe()
        plain = (
            "import os, sys; a, b = map(int, sys.argv[1:]); a, b = os.dup(a), os.dup(b); os.dup2(a, 3); os.dup2(b, 4)"
        )
        code = f"{plain}; os.closerange(5, 64); from tests.resilience.chaos.zygote import main; main()"
        self._zygote = subprocess.Popen(
            [sys.executable, "-c", code, str(requests), str(told)],
            pass_fds=(requests, told),
            env=self._cli.full_environ(),
            cwd=ROOT,
        )
        os.close(requests)
        os.close(told)
        self._answers = os.fdopen(answers, "rb")


class ProxyProcess:
    """The proxy as a process of its own, on a port that it chooses."""

    def __init__(self, home: Path, environ: Mapping[str, str]) -> None:
        home.mkdir(parents=True, exist_ok=True)
        words = ("proxy", "--listen", "127.0.0.1:0", "--admin-listen", "off", "--json")
        self._process = CliRunner(home, environ).start(*words, stdout=subprocess.DEVNULL)
        assert self._process.stderr is not None
        self.url = next(
            record["url"] for line in self._process.stderr if (record := json.loads(line)).get("message") == "listening"
        )
        self._drain = threading.Thread(target=self._process.stderr.read, daemon=True)
        self._drain.start()

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._drain.join()
        if self._process.stderr is not None:
            self._process.stderr.close()


def _await_end_of(session: int) -> list[str]:
    """Return what still runs of a session after some grace, and end it."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := _processes_of(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid, _ in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [f"{pid} {name}" for pid, name in left]


def _processes_of(session: int) -> list[tuple[int, str]]:
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):
            text = Path(f"/proc/{entry}/stat").read_text()
            name, rest = text.rsplit(")", 1)
            state, _, _, sid = rest.split()[:4]
            if int(sid) == session and state != "Z":
                found.append((int(entry), name.partition("(")[2]))
    return found
