"""Words of other tools: what means the same runs, and the rest is answered in one line."""

from __future__ import annotations

import pytest

from s3pool.cli.foreign import COMMANDS, FLAGS, SAME
from s3pool.cli.parser import SUMMARIES, command_parser, parse, top_parser
from s3pool.errors import UsageError


@pytest.mark.parametrize("word", COMMANDS)
def test_command_of_another_tool_is_answered(word: str) -> None:
    """With a command that there is."""
    with pytest.raises(UsageError) as caught:
        parse([word, "a", "s3/b/k", "--recursive"])

    start = f"{word} is no command of s3pool; write s3pool "
    assert str(caught.value).startswith(start)
    assert str(caught.value)[len(start) :].split()[0].rstrip(",;") in SUMMARIES


@pytest.mark.parametrize("flag", FLAGS)
def test_flag_of_another_tool_is_answered(flag: str) -> None:
    """By every command that has ours, and before the command too where it is one of all."""
    ours = FLAGS[flag].split()[0]
    commands = [name for name in SUMMARIES if ours in command_parser(name)._option_string_actions]
    assert commands

    for name in commands[:3]:
        with pytest.raises(UsageError) as caught:
            parse([name, f"{flag}=x", "a", "s3/b"])
        assert str(caught.value) == f"{flag} is no flag of s3pool; write {FLAGS[flag]}; see s3pool {name} --help"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--endpoint-url", "http://a", "ls"], "--endpoint-url is no flag of s3pool; write --endpoints URL,..."),
        (["cp", "-r", "--dryrun", "a", "s3/b"], "--dryrun is no flag of s3pool; write --dry-run"),
        (["cp", "--recursve", "a", "s3/b"], "unrecognized arguments: --recursve; did you mean --recursive?"),
        (["ls", "--dryrun=1"], "--dryrun is no flag of s3pool; write --dry-run"),
        (["ls", "--size-onyl"], "unrecognized arguments: --size-onyl; see s3pool ls --help"),
        (["version"], "version is of buckets: s3pool version show s3/BUCKET; that of the program: s3pool --version"),
        (["lst"], "unknown command 'lst'; did you mean ls?"),
        (["pressign"], "unknown command 'pressign'; did you mean presign?"),
    ],
)
def test_unknown_words_are_answered(words: list[str], message: str) -> None:
    """One line, which says what to write."""
    with pytest.raises(UsageError) as caught:
        parse(words)

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("command", "flag"), [(name, flag) for name, flags in SAME.items() for flag in flags])
def test_words_of_mc_run_as_ours(command: str, flag: str) -> None:
    """What they stand for is there; nothing of ours is hidden by them."""
    ours = SAME[command][flag]
    if command == "commands":
        assert ours.split()[0] in SUMMARIES
    elif ours:
        options = (command_parser(command) if command else top_parser())._option_string_actions
        assert ours.split()[0] in options or ours == "--at"
        assert flag not in options


def test_words_behind_the_end_of_flags_stay() -> None:
    """They are names."""
    assert ["--dangerous"] == parse(["rm", "-I", "--dangerous", "--", "--dangerous"]).paths
