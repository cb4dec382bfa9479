"""Where packages with machine code are missing, as in the one file that runs with Python alone."""

from __future__ import annotations

from pathlib import Path

from tests.support.fake_s3 import FakeS3
from tests.support.run_cli import ROOT, CliRunner


def test_checksum_that_needs_machine_code_is_one_clear_line(fake: FakeS3, run_cli: CliRunner, tmp_path: Path) -> None:
    """Everything else works without anycrc."""
    (tmp_path / "anycrc.py").write_text("raise ImportError('no machine code')\n")
    environ = {**fake.environment, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    fake.store.add("b", "k", b"x")

    refused = run_cli("pipe", "s3/b/new", "--checksum", "crc32c", stdin=b"x", env=environ)

    assert 0 == run_cli("cat", "s3/b/k", env=environ).code
    told = "crc32c needs the package anycrc, which is not here: pip install anycrc"
    assert (2, f"s3pool: error: {told}\n") == (refused.code, refused.err)
    assert ["k"] == sorted(fake.store.bodies("b"))
