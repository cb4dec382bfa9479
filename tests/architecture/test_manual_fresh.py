from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from s3pool.cli.catalog import ALL
from tests.support.manual import SOURCE, given_away, pages, read_sections, section_of, stale
from tests.support.option_rows import documents
from tests.support.server_faults import manual_lines

ROOT = Path(__file__).resolve().parents[2]


def test_manual_is_what_the_command_line_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages are committed; they must not fall behind the flags."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", _epoch())

    assert [] == stale(pages()), "run make man"


def test_every_hand_written_section_is_in_a_page() -> None:
    """One that no page has is read by nobody."""
    assert set() == set(read_sections(SOURCE.read_text())) - given_away() - {"SYNOPSIS", "DESCRIPTION", "EXAMPLES"}


def test_rows_of_options_are_those_of_the_tables() -> None:
    """README and manual are read by people who have no other way to learn an option's names."""
    stale = [path.name for path, text in documents() if path.read_text() != text]

    assert [] == stale, "run make man"


def test_the_table_of_servers_is_what_the_suites_saw() -> None:
    """What works where is measured, and never written by hand."""
    assert manual_lines() in (ROOT / "man" / "s3pool.1.inc").read_text(), "run make man"


def _epoch() -> str:
    found = re.search(r"SOURCE_DATE_EPOCH \?= (\d+)", (ROOT / "Makefile").read_text())
    assert found is not None
    return found[1]


@pytest.mark.parametrize("command", ALL)
def test_every_command_has_a_page(command: str) -> None:
    """With its flags, its examples before them, and a line in the overview."""
    name = f"s3pool-{command}.{section_of(command)}"
    page = (ROOT / "man" / name).read_text().replace("\\-", "-")
    sections = re.findall(r"^\.SH (.+)$", page, re.MULTILINE)
    wanted = ["NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES", "OPTIONS"]

    assert wanted == [title for title in sections if title in wanted]
    assert f".BR s3pool-{command} ({section_of(command)})" in (ROOT / "man" / "s3pool.1").read_text().replace(
        "\\-", "-"
    )


@pytest.mark.skipif(not shutil.which("mandoc"), reason="there is no mandoc here")
def test_mandoc_finds_no_fault(tmp_path: Path) -> None:
    """Warnings and errors of the strictest reader; style alone may differ."""
    files = sorted((ROOT / "man").glob("*.[1578]"))

    judged = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *files], capture_output=True, text=True, check=False
    )

    assert "" == judged.stdout


def test_manual_has_the_sections_of_a_manual() -> None:
    """The hand-written ones among them."""
    page = (ROOT / "man" / "s3pool.1").read_text()
    sections = {title.strip('"') for title in re.findall(r"^\.SH (.+)$", page, re.MULTILINE)}

    wanted = {"NAME", "SYNOPSIS", "EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES"}
    assert set() == wanted - sections


def test_tests_that_the_manual_names_are_there() -> None:
    """What is said to be protected is said with its proof."""
    page = (ROOT / "man" / "s3pool-proxy.8").read_text()
    named = set(re.findall(r"test_\w+\.py", page.replace("\\", "")))

    assert named
    assert named <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}
