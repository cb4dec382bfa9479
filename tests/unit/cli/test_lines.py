from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pool.cli.lines import HUMAN_WIDTH, human_size, line_formatter, page_formatter
from s3pool.model import ObjectInfo
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


def info_of(key: str) -> ObjectInfo:
    """Give an object with a key."""
    return ObjectInfo(key, 1536, "2026-01-22T20:44:33.219Z", "abc", "COLD")


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("base", ["", "logs/"])
def test_page_has_the_lines_of_its_objects(exact: bool, base: str) -> None:
    """A page at once is only faster."""
    objects = [info_of(f"logs/{name}") for name in ("a", "b c", "写真", "x/y")]
    line = line_formatter(exact=exact)

    expected = [line(info, info.key[len(base) :]) for info in objects]

    assert expected == page_formatter(base, exact=exact)(objects)


@pytest.mark.parametrize("key", ["logs/", "logs/a\nb", "logs/a\u202eb", "logs/a\udcff", "logs", "other"])
def test_page_with_an_odd_name_is_left_alone(key: str) -> None:
    """Names that are escaped, empty or elsewhere need more care than a page gets."""
    assert page_formatter("logs/", exact=False)([info_of("logs/a"), info_of(key)]) is None
