from __future__ import annotations

from collections.abc import Callable

from tests.bench.measure import Sample, WorkError
from tests.bench.rounds import Contestant, contest

SAMPLE = Sample(1.0, 1.0, 1)


def recording(calls: list[tuple[str, int]], tool: str) -> Callable[[int], Sample]:
    """Give work that writes down when it was done."""

    def measure(number: int) -> Sample:
        calls.append((tool, number))
        return SAMPLE

    return measure


def failing_in(calls: list[tuple[str, int]], tool: str, *, number: int) -> Callable[[int], Sample]:
    """Give work that goes wrong in one round."""

    def measure(current: int) -> Sample:
        calls.append((tool, current))
        if current == number:
            raise WorkError("9 files instead of 10")
        return SAMPLE

    return measure


def test_tools_take_turns_and_begin_in_turn() -> None:
    """Whoever always came second would meet the first one's heat."""
    calls: list[tuple[str, int]] = []

    contest([Contestant(tool, recording(calls, tool)) for tool in "ab"], 2, budget_s=9)

    assert [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)] == calls


def test_warm_up_does_not_count() -> None:
    """Caches are cold in it."""
    outcome = contest([Contestant("a", recording([], "a"))], 2, budget_s=9)

    assert {"a": [(1, SAMPLE), (2, SAMPLE)]} == outcome.rounds


def test_tool_that_fails_is_out_with_its_reason() -> None:
    """Figures of work that was not done mean nothing, those before included."""
    calls: list[tuple[str, int]] = []
    failing = Contestant("a", failing_in(calls, "a", number=2))

    outcome = contest([failing, Contestant("b", recording([], "b"))], 3, budget_s=9)

    assert {"a": "9 files instead of 10"} == outcome.errors
    assert ["b"] == list(outcome.rounds)
    assert [("a", 0), ("a", 1), ("a", 2)] == calls


def test_slow_peer_has_only_its_warm_up() -> None:
    """It would keep all others waiting; that round then counts."""
    outcome = contest([Contestant("a", recording([], "a"), main=False)], 5, budget_s=0)

    assert {"a": [(0, SAMPLE)]} == outcome.rounds


def test_main_tool_runs_every_round() -> None:
    """No budget limits what the targets are about."""
    outcome = contest([Contestant("a", recording([], "a"))], 5, budget_s=0)

    assert 5 == len(outcome.rounds["a"])
