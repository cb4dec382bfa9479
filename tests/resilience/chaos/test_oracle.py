"""The oracle itself: each rule catches what breaks it, and nothing else is called broken."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.resilience.chaos import engine as engine_module
from tests.resilience.chaos.backends import FakeBackend
from tests.resilience.chaos.effects import Command
from tests.resilience.chaos.engine import Engine
from tests.resilience.chaos.faults import Rule
from tests.resilience.chaos.programs import Program, Step, make_program
from tests.resilience.chaos.worlds import LOCAL, Planted

PLANTED = Path(__file__).parent / "planted.py"
MOVE = Step(
    (Planted((LOCAL, "d1/x"), "c1", 100), Planted(("b1", "p/z"), "c2", 10)),
    Command("mv", ("d1/x",), "s3/b1/p/x", ("--json",)),
)
FLAWS = {
    "deletes-first": "mv never loses the only copy",
    "cuts": "old or new, never partial",
    "copies-nothing": "exit 0 means the promised state",
    "touches-others": "what is not meant stays",
    "leaves-temporary": "no rubbish",
    "leaves-upload": "no rubbish",
    "leaves-process": "no process stays",
    "hangs": "nothing hangs",
    "false-line": "JSON says what happened",
    "false-count": "JSON says what happened",
    "error-and-zero": "the end tells the truth",
    "traceback": "no traceback",
    "internal-error": "no internal error",
    "secret": "no secret in output",
    "odd-code": "exit code is documented",
}


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    """Return a store of its own."""
    made = FakeBackend()
    yield made
    made.stop()


def _program(*steps: Step) -> Program:
    return Program(1, {"b1": False, "b2": False}, 0, False, steps)


@pytest.mark.parametrize("flaw", FLAWS)
def test_oracle_sees_a_planted_flaw(
    backend: FakeBackend, tmp_path: Path, flaw: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule that never fires would prove nothing."""
    monkeypatch.setattr(engine_module, "BOUND_S", 5.0)
    engine = Engine(backend, tmp_path, program=[sys.executable, str(PLANTED), flaw])

    report = engine.run(_program(MOVE))

    assert FLAWS[flaw] in {violation.rule for _, _, violation in report.violations}, report.text()


def test_oracle_is_content_with_a_client_without_flaw(backend: FakeBackend, tmp_path: Path) -> None:
    """What is right must not be called wrong."""
    report = Engine(backend, tmp_path, program=[sys.executable, str(PLANTED), "none"]).run(_program(MOVE))

    assert [] == report.violations, report.text()


def test_a_file_that_was_replaced_while_it_was_sent_is_missed(backend: FakeBackend, tmp_path: Path) -> None:
    """The other client's content is the only copy, too."""
    args = {"place": [LOCAL, "d1/x"], "label": "c9", "size": 100, "keep_mtime": True, "late": True}
    step = replace(MOVE, rules=(Rule("writer", "PutObject", "p/x", args=args),))

    report = Engine(backend, tmp_path, program=[sys.executable, str(PLANTED), "none"]).run(_program(step))

    assert ["mv never loses the only copy"] == [violation.rule for _, _, violation in report.violations]


def test_a_seed_is_the_same_program_each_time() -> None:
    """A failing seed is worth nothing when it makes another program."""
    first, second = (make_program(77, ("b1", "b2")) for _ in range(2))

    assert first == second
    assert first != make_program(78, ("b1", "b2"))
