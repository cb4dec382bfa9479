from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from s3pool.cli.parser import ALL
from tests.support.option_rows import documents

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("setup.cfg", "setup.py", "README.md", "LICENSE")


def test_manual_is_what_the_command_line_says(tmp_path: Path) -> None:
    """The page is committed; it must not fall behind the flags."""
    pytest.importorskip("build_manpages")
    for name in SOURCES:
        shutil.copy(ROOT / name, tmp_path)
    for name in ("s3pool", "man"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))

    built = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_manpages"],
        cwd=tmp_path,
        env={**os.environ, "SOURCE_DATE_EPOCH": _epoch()},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "") == (built.returncode, built.stderr if built.returncode else "")
    assert (ROOT / "man" / "s3pool.1").read_text() == (tmp_path / "man" / "s3pool.1").read_text(), "run make man"


def test_rows_of_options_are_those_of_the_tables() -> None:
    """README and manual are read by people who have no other way to learn an option's names."""
    stale = [path.name for path, text in documents() if path.read_text() != text]

    assert [] == stale, "run make man"


def _epoch() -> str:
    found = re.search(r"SOURCE_DATE_EPOCH \?= (\d+)", (ROOT / "Makefile").read_text())
    assert found is not None
    return found[1]


@pytest.mark.parametrize("command", ALL)
def test_manual_explains_every_command(command: str) -> None:
    """With its synopsis."""
    page = (ROOT / "man" / "s3pool.1").read_text().replace("\\-", "-").replace("\\fI", "").replace("\\fB", "")

    assert re.search(rf"s3pool(\\fR)? {command}\b", page)


def test_manual_has_the_sections_of_a_manual() -> None:
    """The hand-written ones among them."""
    page = (ROOT / "man" / "s3pool.1").read_text()
    sections = {title.strip('"') for title in re.findall(r"^\.SH (.+)$", page, re.MULTILINE)}

    wanted = {"NAME", "SYNOPSIS", "EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES"}
    assert set() == wanted - sections


def test_tests_that_the_manual_names_are_there() -> None:
    """What is said to be protected is said with its proof."""
    page = (ROOT / "man" / "s3pool-proxy.8").read_text()
    readme = (ROOT / "README.md").read_text().partition("### What it protects")[2].partition("\n## ")[0]

    named = set(re.findall(r"test_\w+\.py", page.replace("\\", "")))

    assert named == set(re.findall(r"test_\w+\.py", readme))
    assert named <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}
