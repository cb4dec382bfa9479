"""Let tools do the same work in turns: warm-up first, then round by round, each beginning elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.bench.figures import Round
from tests.bench.measure import Sample, WorkError

WARM_UP = 0  # the number of the round that does not count


class Contestant(NamedTuple):
    """A tool and its way to do the work once, checked; the number is the round's.

    One that is not ``main`` takes part while its rounds fit into a budget of time, and in one
    round at least.
    """

    tool: str
    measure: Callable[[int], Sample]
    main: bool = True


class Outcome(NamedTuple):
    """What all rounds gave, by tool; a tool that failed has a reason, and no rounds."""

    rounds: dict[str, list[Round]]
    errors: dict[str, str]


def contest(contestants: Sequence[Contestant], rounds: int, *, budget_s: float) -> Outcome:
    """Run all rounds. A tool that fails once is out; the others go on."""
    outcome = Outcome({}, {})
    spent = {contestant.tool: 0.0 for contestant in contestants}
    for number in range(rounds + 1):
        shift = number % max(1, len(contestants))
        for contestant in [*contestants[shift:], *contestants[:shift]]:
            if contestant.tool not in outcome.errors and _may_go_on(contestant, outcome, spent, budget_s):
                spent[contestant.tool] += _measure(contestant, number, outcome, budget_s=budget_s)
    return outcome


def _may_go_on(contestant: Contestant, outcome: Outcome, spent: dict[str, float], budget_s: float) -> bool:
    done = len(outcome.rounds.get(contestant.tool, ()))
    if contestant.main or not done:
        return True
    return spent[contestant.tool] * (done + 1) / done <= budget_s


def _measure(contestant: Contestant, number: int, outcome: Outcome, *, budget_s: float) -> float:
    """Run one round of one tool, and give how long it kept us if it counts."""
    started = time.monotonic()
    try:
        sample = contestant.measure(number)
    except WorkError as exc:
        outcome.errors[contestant.tool] = str(exc)
        outcome.rounds.pop(contestant.tool, None)
        return 0.0
    took = time.monotonic() - started
    # A warm-up that used the budget up is all that a slow tool gets.
    is_only_one = not contestant.main and took > budget_s
    if number != WARM_UP or is_only_one:
        outcome.rounds.setdefault(contestant.tool, []).append((number, sample))
        return took
    return 0.0
