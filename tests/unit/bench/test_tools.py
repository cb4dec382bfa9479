from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.bench.tools import find, find_tools


def write_program(path: Path, says: str) -> str:
    """Write a program that says this, whatever it is asked; give its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def editable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give s3pool as it stands beside the Python that runs the benchmark, and nothing else."""
    program = write_program(tmp_path / "bin" / "s3pool", "s3pool 1.2.3")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setattr("tests.bench.tools.VERSION_WORDS", {"s3pool": "--version"})
    return program


def test_s3pool_as_a_user_has_it_is_measured(editable: str, tmp_path: Path) -> None:
    """An editable install takes longer at each start, and nobody but its developers has one."""
    plain = write_program(tmp_path / "bench" / "bin" / "s3pool", "s3pool 1.2.4")

    found, _ = find_tools()

    assert (plain, "s3pool 1.2.4, plain install") == (found["s3pool"].path, found["s3pool"].version)
    assert editable != plain


def test_report_names_another_s3pool(editable: str) -> None:
    """Without make there may be only an editable one: its figures must not pass for a user's."""
    found, _ = find_tools()

    assert editable == found["s3pool"].path
    assert f"s3pool 1.2.3, {editable}, not the one that make bench installs" == found["s3pool"].version


def test_unfinished_environment_is_passed_over(editable: str, tmp_path: Path) -> None:
    """Installing was interrupted: a program that cannot be run is none."""
    plain = write_program(tmp_path / "bench" / "bin" / "s3pool", "s3pool 1.2.4")
    Path(plain).chmod(0o644)

    assert editable == find("s3pool")


def test_peers_are_not_looked_for_beside_s3pool(editable: str, tmp_path: Path) -> None:
    """Its environment has what a user's has; only its own name counts there."""
    write_program(tmp_path / "bench" / "bin" / "aws", "none")
    peer = write_program(tmp_path / "bin" / "aws", "aws-cli/2")

    assert peer == find("aws")
