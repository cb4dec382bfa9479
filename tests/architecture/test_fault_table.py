from __future__ import annotations

from tests.support.destructive import MANUAL, render, table_in


def test_manual_has_the_table_of_the_tests() -> None:
    """What it says of faults is what the tests' own cases say."""
    assert render() == table_in(MANUAL.read_text()), "run make man"
