"""The command line in this process: quick, and on a server that is scripted."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from s3pool.cli.main import main
from tests.support.fake_s3 import FakeS3
from tests.support.run_cli import TIMEOUT_S, CliResult, CliRunner

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


class HereRunner(CliRunner):
    """Runs commands in this process, which takes a tenth of the time; ``start`` makes processes as ever."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, output: pytest.CaptureFixture[bytes]) -> None:
        super().__init__(home)
        self._monkeypatch, self._output = monkeypatch, output

    def __call__(
        self,
        *argv: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        timeout: float = TIMEOUT_S,
    ) -> CliResult:
        """Run a command to its end; how long that may take is left to it."""
        environ = self.full_environ(env)
        with self._monkeypatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            patch.chdir(cwd or self.home)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            self._output.readouterr()
            code = main(list(argv), environ=environ)
            captured = self._output.readouterr()
        return CliResult(argv, code, captured.out, captured.err)


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> HereRunner:
    """Run s3pool as run_cli does, without a process for each command: for tests that need none."""
    home = tmp_path / "home"
    home.mkdir()
    return HereRunner(home, monkeypatch, capfdbinary)


def boto_of(environment: Mapping[str, str]) -> Any:
    """Give boto3's client of the first node of a pool."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=environment["S3_POOL"].split(",")[0],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )


def put_version(fake: FakeS3, bucket: str, key: str, body: bytes | None, minute: int) -> str:
    """Store a version, or with None a delete marker, at a minute of 1970."""
    version = fake.store.add(bucket, key, body or b"", mtime=minute * 60)
    version.marker = body is None
    return version.version_id
