"""What s3pool says of itself: short enough for a terminal, and true."""

from __future__ import annotations

import shlex
from argparse import SUPPRESS
from collections.abc import Callable
from pathlib import Path

import pytest

from s3pool.cli.parser import (
    ALL,
    GLOBAL_SECTIONS,
    GROUPS,
    SETTINGS,
    SUMMARIES,
    command_parser,
    load_command,
    parse,
    top_parser,
)
from tests.support.run_cli import CliResult, CliRunner

Call = Callable[..., CliResult]
COLUMNS, LINES = 80, 24


def test_s3pool_alone_shows_commands_and_three_examples(run_here: CliRunner) -> None:
    """The first thing that somebody types; nothing was done, so it is a usage error."""
    result = run_here()

    lines = result.err.splitlines()
    assert (2, "") == (result.code, result.out)
    assert [] == [line for line in lines if len(line) > COLUMNS]
    assert set(ALL) <= {line.split()[0] for line in lines if line.startswith("  ")}
    assert 3 == sum(line.startswith("  s3pool ") for line in lines)
    assert "s3pool: error: no command was given; see s3pool --help" == lines[-1]


@pytest.mark.parametrize("command", ["", *ALL])
def test_help_fits_eighty_columns(run_here: CliRunner, command: str) -> None:
    """A terminal that nobody has resized, and a pipe; on two screens, with the name of every flag."""
    result = run_here(*command.split(), "--help")
    parser = command_parser(command) if command else top_parser()
    flags = [action.option_strings for action in parser._actions if action.help != SUPPRESS]
    words = result.out.replace(",", " ").split()

    assert 0 == result.code
    assert [] == [line for line in result.lines if len(line) > COLUMNS]
    assert len(result.lines) <= 2 * LINES
    assert [] == [names for names in flags if names and names[-1] not in words and (command or "-h" not in names)]


def test_help_shows_commands_and_global_flags_in_groups(run_here: CliRunner) -> None:
    """Settings, which are alike, in one row; what a global flag does is in the manual."""
    lines = run_here("--help").lines

    assert [f"{group}:" for group in GROUPS] == [line for line in lines if line.endswith(":") and line[:-1] in GROUPS]
    rows = [f"  {name:<12}{summary}" for name, summary in SUMMARIES.items() if name not in SETTINGS]
    assert [*rows, f"  {' '.join(SETTINGS)}"] == sorted(
        (line for line in lines if line in rows or line.split()[:1] == [SETTINGS[0]]), key=lambda line: line not in rows
    )
    begin = lines.index("more, which s3pool help explains:")
    assert all(any(line.startswith(f"  {title}: --") for line in lines[begin:]) for title in GLOBAL_SECTIONS.values())


def test_help_without_man_tells_everything(run_here: CliRunner, tmp_path: Path) -> None:
    """Where --help only names a flag, the other form must say what it does."""
    short, full = run_here("sync", "--help"), run_here("help", "sync", env={"PATH": str(tmp_path)})
    whole = run_here("help", env={"PATH": str(tmp_path)})

    assert "more, which s3pool help sync explains:" in short.lines
    assert not any("explains:" in line for line in (*full.lines, *whole.lines))
    assert "  --part-size SIZE        of large transfers (16M)" in full.lines
    assert [f"{title}:" for title in GLOBAL_SECTIONS.values()] == [
        line for line in whole.lines if line[:-1] in GLOBAL_SECTIONS.values()
    ]
    assert "  --read-timeout SECONDS  without a byte of an answer, after which a request has" in whole.lines
    assert [] == [line for line in whole.lines if len(line) > COLUMNS]


@pytest.mark.parametrize("command", ALL)
def test_help_begins_with_what_the_command_does_and_an_example(call: Call, command: str) -> None:
    """Flags are looked up later."""
    text = call(command, "--help").out
    begin = SUMMARIES[command]

    assert text.startswith(f"usage: s3pool {command}")
    assert f"\n{begin[0].upper()}{begin[1:]}.\n" in text
    assert f"\n  s3pool {command}" in text


@pytest.mark.parametrize("example", [line for command in ALL for line in load_command(command).EXAMPLES])
def test_examples_are_command_lines(example: str) -> None:
    """Each flag in them exists, and takes what is written there."""
    words = shlex.split(example)
    end = next((index for index, word in enumerate(words) if word in ("<", ">", "|")), len(words))

    assert parse(words[:end]).command == words[0]
