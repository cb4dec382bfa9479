"""The command line in this process: quick, and on a server that is scripted."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from s3pool.cli.main import main
from tests.support.fake_s3 import FakeS3
from tests.support.run_cli import CliResult

Call = Callable[..., CliResult]


@pytest.fixture
def fake(fake_s3: Callable[..., FakeS3]) -> FakeS3:
    """Give one store behind two addresses."""
    return fake_s3(2)


@pytest.fixture
def call(
    fake: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Call:
    """Run a command line on the fake without a process of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)

    def run(*argv: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> CliResult:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        code = main(list(argv), environ={**fake.environment, **(env or {})})
        captured = capfdbinary.readouterr()
        return CliResult(argv, code, captured.out, captured.err)

    return run
