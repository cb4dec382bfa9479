"""Each destructive command in each fault: what the manual's table says is what happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.support import destructive
from tests.support.destructive import CASES, COMMANDS, FAULTS, NAMES, Case, Command
from tests.support.fake_s3 import FakeS3


@pytest.fixture
def world(fake: FakeS3, tmp_path: Path) -> FakeS3:
    """Return three objects and three files, each with its name as its content, and a directory without any."""
    for name in NAMES:
        fake.store.add("b", f"t/{name}", name.encode())
    for directory in ("d", "down", "none"):
        (tmp_path / directory).mkdir()
    for name in NAMES:
        (tmp_path / "d" / name).write_bytes(name.encode())
    return fake


def there(place: str, fake: FakeS3, tmp_path: Path) -> list[str]:
    """Return the names that are whole at a place, which ends in a slash."""
    if place.startswith("s3/b/"):
        found = {name: body for name, body in fake.store.bodies("b").items() if name.startswith(place[5:])}
        contents = {name[len(place) - 5 :]: body for name, body in found.items()}
    else:
        contents = {path.name: path.read_bytes() for path in (tmp_path / place).iterdir()}
    assert all(body == name[:1].encode() or name == "b/below" for name, body in contents.items())
    return sorted(contents)


def state_of(command: Command, fake: FakeS3, tmp_path: Path) -> tuple[list[str], list[str]]:
    """Return what is left of the sources, and what is at the target."""
    sources = "d/" if command.victims[0].startswith("d/") else "s3/b/t/"
    return there(sources, fake, tmp_path), there(command.target, fake, tmp_path) if command.target else []


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.command}: {case.fault}")
def test_fault_ends_as_the_manual_says(world: FakeS3, call: Call, tmp_path: Path, case: Case) -> None:
    """The exit code, the message, and what is there afterwards."""
    command = COMMANDS[case.command]
    lost = "t/" if case.fault == "the bucket is not there" else ""
    FAULTS[case.fault](world)
    before, _ = state_of(command, world, tmp_path)

    result = call("--retries", "1", *command.words, stdin=command.stdin)

    left, stored = state_of(command, world, tmp_path)
    assert (case.code, True) == (result.code, case.message in result.err)
    if case.state == destructive.BUT_ONE:
        assert ["b"] == left
    elif case.state == destructive.COPIED_BUT_ONE:
        assert (["b"], ["a", "c"]) == (left, stored)
    else:
        assert before == left
        assert (list(NAMES) if case.state == destructive.COPIED else []) == stored
    assert lost or left
    told = [line for line in result.lines if line.startswith(("Deleted: ", "Bucket deleted: "))]
    assert (2 if case.state == destructive.BUT_ONE and case.command != "rb --force" else 0) == len(told)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "rb"])
def test_without_a_fault_each_command_does_its_work(world: FakeS3, call: Call, tmp_path: Path, command: str) -> None:
    """Else the table would prove nothing."""
    result = call(*COMMANDS[command].words, stdin=COMMANDS[command].stdin)

    left, stored = state_of(COMMANDS[command], world, tmp_path)
    assert (0, ["a", "c"] if command == "rm KEY" else []) == (result.code, left)
    assert (list(NAMES) if COMMANDS[command].target else []) == stored


def test_every_fault_is_met() -> None:
    """A fault that no case has would be dead."""
    assert set(FAULTS) == {case.fault for case in CASES}
    assert set(COMMANDS) == {case.command for case in CASES}
