"""Runs s3pool as a user does: another process, a clean environment, bytes in and out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Report = dict[str, Any]
TIMEOUT_S = 120.0
_KEPT = ("PATH", "COVERAGE_PROCESS_START", "TMPDIR", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class CliResult:
    """What a command left behind."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        """Give standard output as text."""
        return self.stdout.decode("utf-8", "surrogateescape")

    @property
    def err(self) -> str:
        """Give standard error as text."""
        return self.stderr.decode("utf-8", "surrogateescape")

    @property
    def lines(self) -> list[str]:
        """Give the lines of standard output."""
        return self.out.splitlines()

    @property
    def records(self) -> list[dict[str, Any]]:
        """Give standard output as JSON objects, one a line."""
        return [json.loads(line) for line in self.out.split("\n") if line]


class CliRunner:
    """Calls ``python -m s3pool`` with HOME and working directory of its own.

    ``environ`` is what every call gets on top: a server's ``environment``. No AWS_* or S3*
    variable of the caller gets through.
    """

    def __init__(self, home: Path, environ: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.environ = dict(environ or {})

    def __call__(
        self,
        *argv: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        timeout: float = TIMEOUT_S,
    ) -> CliResult:
        """Run a command to its end."""
        done = subprocess.run(
            self.command(*argv),
            input=stdin,
            capture_output=True,
            env=self.full_environ(env),
            cwd=cwd or self.home,
            timeout=timeout,
            check=False,
        )
        return CliResult(argv, done.returncode, done.stdout, done.stderr)

    def start(
        self, *argv: str, env: Mapping[str, str] | None = None, cwd: str | Path | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a command for a test that signals it, or closes its pipes; the caller ends it."""
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        arguments = {**pipes, **options}
        return subprocess.Popen(self.command(*argv), env=self.full_environ(env), cwd=cwd or self.home, **arguments)

    def command(self, *argv: str) -> list[str]:
        """Give the command line."""
        return [sys.executable, "-m", "s3pool", *argv]

    def full_environ(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Give the whole environment of the child."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        own = {"HOME": str(self.home), "LC_ALL": "C.UTF-8", "COLUMNS": "80", "TZ": "UTC", "PYTHONPATH": str(ROOT)}
        own["AWS_EC2_METADATA_DISABLED"] = "true"  # its address is not on loopback
        return {**kept, **own, **self.environ, **(extra or {})}


class SpyRunner(CliRunner):
    """Runs the command line under the spy, which tells what it loaded, started and held."""

    def command(self, *argv: str) -> list[str]:
        """Give the command line, with the spy before it."""
        return [sys.executable, str(ROOT / "tests" / "support" / "spy.py"), *argv]

    def spy(self, *argv: str, timeout: float = TIMEOUT_S) -> tuple[CliResult, Report]:
        """Run a command; give its result, and modules, threads and peak_kib."""
        report = self.home / "spy-report.json"
        result = self(*argv, env={"SPY_REPORT": str(report)}, timeout=timeout)
        return result, json.loads(report.read_text())
