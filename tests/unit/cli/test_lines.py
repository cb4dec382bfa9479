from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from s3pool.cli.lines import HUMAN_WIDTH, human_size
from s3pool.units import SIZE_UNITS, STEP, format_size

BORDERS = [
    int(value * STEP**power) + near
    for power in range(len(SIZE_UNITS))
    for value in (1, 9.95, 10, 1023.5, 1024)
    for near in (-1, 0, 1, 2)
]


@given(st.one_of(st.integers(0, 1 << 63), st.sampled_from(BORDERS)))
def test_size_column_is_what_sizes_are_everywhere(size: int) -> None:
    """The column has a faster way to the same text."""
    assert f"{format_size(size):>{HUMAN_WIDTH}}" == human_size(size)
