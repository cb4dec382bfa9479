from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from s3pool.cli.parser import ALL, command_parser, top_parser
from s3pool.config.options import Config
from s3pool.proxy.clients import KEYS
from s3pool.proxy.limits import LIMIT_KEYS
from s3pool.proxy.settings import FLAG_ONLY, ProxySettings
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


@pytest.mark.parametrize("command", ["", *ALL])
def test_each_flag_stands_once_in_its_page(command: str) -> None:
    """Two places that explain a flag will differ one day; of the global ones a page has the rehearsal alone."""
    parser = command_parser(command) if command else top_parser()
    shown = {name for name, action in parser._option_string_actions.items() if action.help != argparse.SUPPRESS}
    options = section("OPTIONS", f"s3pool-{command}.{section_of(command)}" if command else "s3pool.1")
    rows = re.findall(r"^\.TP\n(.*)$", options, re.MULTILINE)
    flags = [flag for row in rows for flag in re.findall(r"\\fB(-[^\\]+)\\fR", row)]

    assert sorted(shown - {"-h", "--help"}) == sorted(flags)


def test_each_key_of_the_configuration_file_stands_once_in_its_section() -> None:
    """A key of the tables, of a client and of its limits; those of the proxy's flags stand with the flags."""
    wanted: dict[str, list[str]] = {"OPTIONS": [], "load_balancer": [], "pool": []}
    for option in Config.OPTIONS:
        table, _, key = option.key.rpartition(".")
        wanted[table or "OPTIONS"].append(key)
    assert {title: sorted(keys) for title, keys in wanted.items()} == {
        title: sorted(keys_of(title)) for title in wanted
    }

    flags = section("OPTIONS", "s3pool-proxy.8")
    of_proxy = [option for option in ProxySettings.OPTIONS if option not in FLAG_ONLY]
    by_flag = {option.name for option in of_proxy if f"\\fB--{option.name.replace('_', '-')}\\fR" in flags}
    before, members, behind = re.split(r"^\.R[SE]\n", section("proxy", "s3pool.yaml.5"), flags=re.MULTILINE)
    rows = keys_in(before + behind)
    assert sorted(set(rows)) == sorted(rows)
    assert {option.name for option in of_proxy} == {*rows, *by_flag}
    assert ["bucket_limits", "limits"] == sorted(keys_in(members))
    assert {*KEYS, *LIMIT_KEYS} <= set(re.findall(r"^\.BR? (\w+)", section("proxy", "s3pool.yaml.5"), re.MULTILINE))
    assert ["default_profile", "profiles"] == sorted(keys_of("Profiles"))


def keys_of(title: str) -> list[str]:
    """Return the keys of the configuration file that a section of its page explains."""
    return keys_in(section(title, "s3pool.yaml.5"))


def keys_in(text: str) -> list[str]:
    """Return the keys that rows of roff explain."""
    return re.findall(r"^\.TP\n\.B (\w+)$", text, re.MULTILINE)


def section(title: str, page: str) -> str:
    """Return a section of a page, or a part of one, without roff's hyphens."""
    text = (ROOT / "man" / page).read_text().replace("\\-", "-")
    end = r"^\.SH " if title == "OPTIONS" and page != "s3pool.yaml.5" else r"^\.S[HS] "
    return re.split(end, text.partition(f"\n.S{'H' if title == 'OPTIONS' else 'S'} {title}\n")[2], flags=re.MULTILINE)[
        0
    ]


def test_sections_that_the_pages_name_are_there() -> None:
    """In the page itself, or in the one that is named behind them."""
    pages = {path.name: path.read_text().replace("\\-", "-") for path in (ROOT / "man").glob("*.[1578]")}
    lost = [
        (name, title)
        for name, text in pages.items()
        for title, page, number in re.findall(r"see\s([A-Z][A-Z ]+[A-Z])\b(?:\sin\s\.BR (\S+) \((\d)\))?", text)
        if f".SH {title}\n" not in pages[f"{page}.{number}" if page else name].replace('"', "")
    ]

    assert [] == lost


@pytest.mark.skipif(not shutil.which("mandoc"), reason="there is no mandoc here")
def test_mandoc_finds_no_fault(tmp_path: Path) -> None:
    """Warnings and errors of the strictest reader; style alone may differ."""
    files = sorted((ROOT / "man").glob("*.[1578]"))

    judged = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *files], capture_output=True, text=True, check=False
    )

    assert "" == judged.stdout


@pytest.mark.skipif(not shutil.which("man") or not shutil.which("tbl"), reason="there is no man here")
def test_pages_fit_a_terminal_of_80_columns() -> None:
    """Man says so on standard error, and shows a broken table."""
    wide = {}
    for path in sorted((ROOT / "man").glob("*.[1578]")):
        shown = subprocess.run(
            ["man", "--local-file", path],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "MANWIDTH": "80"},
        )
        wide[path.name] = shown.stderr

    assert {} == {name: said for name, said in wide.items() if said}


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
