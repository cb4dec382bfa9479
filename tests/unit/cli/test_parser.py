"""The parsers: global flags on both sides, one command at a time."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

import s3pool.cli.commands
from s3pool.cli.parser import ALL, MODULES, help_text, load_command, parse
from s3pool.config.options import Config
from s3pool.errors import UsageError

GLOBAL_WITH_VALUE = {
    "--endpoints": "http://a:1",
    "--access-key": "k",
    "--region": "r",
    "--ca-bundle": "f",
    "--config": "f",
    "--profile": "p",
    "--env-file": "f",
    "--addressing": "virtual",
    "--strategy": "power_of_two",
    "--connect-timeout": "1",
    "--read-timeout": "2",
    "--retries": "3",
    "--health-interval": "4",
    "--max-connections": "5",
    "--workers": "6",
    "--bwlimit": "10M",
    "--tpslimit": "100",
    "--log-level": "info",
    "--log-format": "json",
    "--progress": "none",
    "--color": "never",
}
GLOBAL_SWITCHES = [
    "--no-sign-request",
    "--insecure",
    "--json",
    "-q",
    "--quiet",
    "-v",
    "--stats",
    "--dry-run",
    "--version",
]


def dest_of(flag: str) -> str:
    """Give the attribute of a flag."""
    return {"-q": "quiet", "-v": "verbose"}.get(flag, flag.lstrip("-").replace("-", "_"))


@pytest.mark.parametrize(("flag", "value"), GLOBAL_WITH_VALUE.items())
def test_flags_with_a_value_stand_before_and_after(flag: str, value: str) -> None:
    """One meaning, wherever it stands, in both spellings."""
    for words in (
        [flag, value, "ls", "s3/b"],
        ["ls", "s3/b", flag, value],
        ["ls", flag, value, "s3/b"],
        [f"{flag}={value}", "ls", "s3/b"],
    ):
        args = parse(words)

        assert ("ls", ["s3/b"]) == (args.command, args.paths)
        assert getattr(args, dest_of(flag)) in (value, [value])


@pytest.mark.parametrize("flag", GLOBAL_SWITCHES)
def test_switches_stand_before_and_after(flag: str) -> None:
    """The same without a value."""
    for words in ([flag, "ls", "s3/b"], ["ls", "s3/b", flag], ["ls", flag, "s3/b"]):
        assert getattr(parse(words), dest_of(flag)) is True


def test_flags_that_were_not_given_leave_no_trace() -> None:
    """Only so can the environment and the file speak."""
    given = vars(parse(["ls"]))
    settings = {option.dest for option in Config.OPTIONS if option.flag}

    assert not set(given) & {*settings, "json", "quiet", "verbose", "stats", "dry_run", "color", "progress"}


def test_repeated_endpoints_add_up_over_the_command() -> None:
    """None of them may get lost."""
    args = parse(["--endpoints", "http://a:1", "ls", "--endpoints", "http://b:1", "s3/b", "--endpoints", "http://c:1"])

    assert ["http://a:1", "http://b:1", "http://c:1"] == args.endpoints


def test_last_value_wins() -> None:
    """As everybody expects of an alias with flags."""
    assert "b" == parse(["--region", "a", "ls", "--region", "b"]).region


def test_operands_and_flags_may_be_mixed() -> None:
    """Flags between operands do not end them."""
    args = parse(["ls", "s3/a", "-r", "s3/b", "--max-keys", "3", "s3/c"])

    assert (["s3/a", "s3/b", "s3/c"], True, 3) == (args.paths, args.recursive, args.max_keys)


def test_double_dash_ends_flags() -> None:
    """What follows is an operand, on either side of the command's first word."""
    assert ["-r", "--json"] == parse(["ls", "--", "-r", "--json"]).paths
    assert ["s3/b", "-r", "--", "-"] == parse(["ls", "s3/b", "--", "-r", "--", "-"]).paths
    assert "ls" == parse(["--json", "--", "ls"]).command


def test_dash_is_an_operand() -> None:
    """Standard input and output."""
    assert ["-"] == parse(["ls", "-"]).paths


def test_value_that_looks_like_a_command() -> None:
    """The word behind a flag is its value."""
    args = parse(["--profile", "ls", "stat", "s3/b"])

    assert ("ls", "stat") == (args.profile, args.command)


def test_negative_numbers_are_values() -> None:
    """So that they are refused by the one who knows why."""
    assert "-1" == parse(["stat", "s3/b", "--retries", "-1"]).retries


@pytest.mark.parametrize("words", [["ls", "--rec"], ["ls", "--max", "3"], ["--end", "x", "ls"], ["ls", "--jso"]])
def test_no_abbreviations(words: list[str]) -> None:
    """A script must not break when a flag is added."""
    with pytest.raises(UsageError, match="unrecognized arguments"):
        parse(words)


def test_every_command_has_examples_of_its_own() -> None:
    """A module of several commands has those of all of them, and each begins with its command."""
    assert [] == [name for name in ALL if not load_command(name).EXAMPLES]
    assert [] == [line for name in ALL for line in load_command(name).EXAMPLES if line.split()[0] != name]


def test_every_module_is_in_the_table() -> None:
    """A command that cannot be called is no command."""
    directory = Path(s3pool.cli.commands.__file__).parent
    modules = {path.stem for path in directory.glob("*.py")} - {"__init__"}

    assert {MODULES.get(name, name) for name in ALL} == modules


@pytest.mark.parametrize("name", ALL)
def test_no_command_hides_a_global_flag(name: str) -> None:
    """A flag of its own under the same attribute would overwrite the user's."""
    own = argparse.ArgumentParser(prog=f"s3pool {name}")
    load_command(name).add_arguments(own)
    taken = {dest_of(flag) for flag in (*GLOBAL_WITH_VALUE, *GLOBAL_SWITCHES)} | {"command"}

    assert not {action.dest for action in own._actions} & taken
    assert not set(own._option_string_actions) & {*GLOBAL_WITH_VALUE, *GLOBAL_SWITCHES}


def test_help_names_all_commands_and_global_flags() -> None:
    """Without an import of any command."""
    text = help_text()

    assert all(f"  {name} " in text for name in ALL)
    assert all(flag in text for flag in (*GLOBAL_WITH_VALUE, *GLOBAL_SWITCHES))
