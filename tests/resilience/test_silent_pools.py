"""Pools whose nodes all have one fault: each command says what it waits for, and ends within its bound."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.support.silent_pools import COMMANDS, FAULTS, TOLD, Outcome, measure

SHORT = ("--read-timeout", "1", "--connect-timeout", "1", "--retries", "1")
TELLING = ("--read-timeout", "6", "--connect-timeout", "6", "--retries", "2")
# Two tries of a second, for a few requests one after the other, on a machine with much else to do.
BOUND_S = 90.0
AT_ONCE = 12
CELLS = [(command, fault) for command in COMMANDS for fault in FAULTS]
TOLD_CELLS = [
    (command, fault) for command in ("ls", "cp up", "cp -r up", "rm -r") for fault in ("black hole", "silent")
]
Table = Mapping[tuple[str, str], Outcome]


@pytest.fixture(scope="module")
def table() -> Table:
    """Run all cells with short limits, some at a time: they wait, and cost next to nothing."""
    return measure(CELLS, *SHORT, at_once=AT_ONCE, bound_s=BOUND_S)


@pytest.mark.parametrize(("command", "fault"), CELLS)
def test_command_ends_within_its_bound(table: Table, command: str, fault: str) -> None:
    """Its limits are the user's, and no request of it has others."""
    outcome = table[command, fault]

    assert (0 if command == "presign" else 5) == outcome.code, outcome.err
    assert outcome.ended_s < BOUND_S
    assert "Traceback" not in outcome.err


@pytest.fixture(scope="module")
def told() -> Table:
    """Run some cells whose tries take longer together than anybody should wait without a word."""
    return measure(TOLD_CELLS, *TELLING)


@pytest.mark.parametrize(("command", "fault"), TOLD_CELLS)
def test_command_says_once_what_it_waits_for(told: Table, command: str, fault: str) -> None:
    """Also where nobody sits before a terminal."""
    outcome = told[command, fault]

    assert (5, 1) == (outcome.code, outcome.told), outcome.err
    assert outcome.told_s is not None
    assert 9.5 < outcome.told_s < outcome.ended_s


def test_dead_pool_is_not_asked_for_each_file() -> None:
    """Without retries it is no less dead: forty connect timeouts one after the other would tell nothing new."""
    cells = [(command, "black hole") for command in ("cp -r up", "cp -r down", "rm -r")]
    found = measure(cells, "--retries", "0", "--connect-timeout", "2", bound_s=BOUND_S)

    assert {5} == {outcome.code for outcome in found.values()}
    assert all(outcome.ended_s < 40.0 for outcome in found.values()), found


def test_speedtest_asks_no_dead_pool_what_to_remove() -> None:
    """It would wait as long again, for the same silence."""
    cell = "speedtest", "silent in body"
    outcome = measure([cell], *SHORT, bound_s=BOUND_S)[cell]

    assert 5 == outcome.code
    assert "s3pool: nothing was removed; s3pool rm -r --force s3/b/.s3pool-speedtest-" in outcome.err


def test_quiet_command_says_nothing_of_waiting() -> None:
    """Whoever asks for quiet wants errors alone."""
    outcome = measure([("ls", "silent")], *TELLING, "-q")["ls", "silent"]

    assert (5, False) == (outcome.code, TOLD in outcome.err)
