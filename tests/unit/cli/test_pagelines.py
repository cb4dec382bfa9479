from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pool.cli.lines import human_size, line_formatter
from s3pool.cli.pagelines import WORTH_A_TABLE, human_sizes, page_formatter
from s3pool.model import ObjectInfo
from s3pool.s3.page_table import ObjectTable, Times
from s3pool.units import SIZE_UNITS, STEP

BORDERS = [
    int(value * STEP**power) + near
    for power in range(len(SIZE_UNITS))
    for value in (1, 9.95, 1023.5)
    for near in (-1, 0, 1)
]


@given(st.lists(st.one_of(st.integers(0, 1 << 21), st.integers(0, 1 << 63), st.sampled_from(BORDERS)), max_size=20))
def test_many_sizes_are_formatted_like_each(sizes: list[int]) -> None:
    """A table is only faster."""
    many = [*sizes, *range(WORTH_A_TABLE)]

    assert list(map(human_size, sizes)) == human_sizes(sizes)
    assert list(map(human_size, many)) == human_sizes(many)


def test_each_half_of_a_unit_is_formatted_like_alone() -> None:
    """Where sizes are rounded to the even neighbour, all depends on a single byte."""
    halves = [at + near for at in range(256, 1 << 20, 256) for near in (-1, 0, 1)]

    assert list(map(human_size, halves)) == human_sizes(halves)


def info_of(key: str) -> ObjectInfo:
    """Give an object with a key."""
    return ObjectInfo(key, 1536, "2026-01-22T20:44:33.219Z", "abc", "COLD" if "a" in key else "STANDARD")


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("base", ["", "logs/"])
def test_page_has_the_lines_of_its_objects(exact: bool, base: str) -> None:
    """A page at once is only faster."""
    objects = [info_of(f"logs/{name}") for name in ("a", "b c", "写真", "x/y")]
    line = line_formatter(exact=exact)

    expected = "".join(f"{line(info, info.key[len(base) :])}\n" for info in objects).encode()

    assert expected == page_formatter(base, exact=exact)(objects)
    assert expected == page_formatter(base, exact=exact)(table_of(objects))


def table_of(objects: list[ObjectInfo]) -> ObjectTable:
    """Give the same objects as a page's parser gives them."""
    keys, sizes, stamps, etags, classes = (
        [str(value).encode() for value in column] for column in list(zip(*objects, strict=True))[:5]
    )
    return ObjectTable(keys, sizes=sizes, times=Times(b"".join(stamps)), etags=etags, classes=classes)


@pytest.mark.parametrize("key", ["logs/", "logs/a\nb", "logs/a\u202eb", "logs/a\udcff", "logs", "other"])
def test_page_with_an_odd_name_is_left_alone(key: str) -> None:
    """Names that are escaped, empty or elsewhere need more care than a page gets."""
    assert page_formatter("logs/", exact=False)([info_of("logs/a"), info_of(key)]) is None


def test_page_with_an_odd_time_is_left_alone() -> None:
    """A server may leave it out."""
    odd = info_of("logs/b")._replace(last_modified="")

    assert page_formatter("logs/", exact=False)([info_of("logs/a"), odd]) is None
