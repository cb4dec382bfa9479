"""The table of outcomes is true: every destructive command in every fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.resilience.chaos.backends import FakeBackend
from tests.resilience.chaos.outcomes import FAULTS, KILLED, measure, read_table


@pytest.mark.parametrize("fault", FAULTS)
def test_table_tells_what_happens(tmp_path: Path, fault: str) -> None:
    """A table that nobody measures is soon a wish."""
    backend = FakeBackend()
    try:
        rows = list(measure(backend, tmp_path, [fault]))
    finally:
        backend.stop()

    assert [] == [str(violation) for outcome in rows for violation in outcome.violations]
    if fault != KILLED:  # how far a killed command had come is a race
        assert [row for row in read_table() if row[0] == fault] == [outcome.key for outcome in rows]
