"""Tables that fit, bars, and --stats."""

from __future__ import annotations

import io
import json

import pytest

from s3pool.cli.commands.speedtest import (
    Bar,
    bar_lines,
    fit_names,
    fitted_table,
    format_count,
    format_ms,
    format_throughput,
)
from s3pool.cli.formats import table
from s3pool.cli.main import print_stats
from s3pool.cli.output import Output
from s3pool.pool.node import EndpointStats

LONG = "https://gateway-17.storage.example.com:7480"
OTHER = "https://gateway-18.storage.example.com:7480"
RIGHT = frozenset((1,))


def test_table_aligns_columns() -> None:
    """Numbers to the right, no blanks at the end of a line."""
    lines = table(("name", "n", "note"), [("a", "1", ""), ("long name", "100", "x")], right=frozenset((1,)))

    assert ["name         n  note", "a            1", "long name  100  x"] == lines


def test_table_that_fits_stays() -> None:
    """Names are shortened only where they must be."""
    assert ["node      n", "http://a  1"] == fitted_table(("node", "n"), [("http://a", "1")], right=RIGHT, width=80)


def test_table_gives_way_in_the_first_column() -> None:
    """Numbers are what it is for."""
    lines = fitted_table(("node", "number"), [(LONG, "123456"), (OTHER, "7")], right=RIGHT, width=40)

    assert {40} == {len(line) for line in lines}
    assert ["123456", "7"] == [line.split()[-1] for line in lines[1:]]
    assert lines[1].split()[0] != lines[2].split()[0]


def test_table_without_a_width_is_whole() -> None:
    """A pipe has no edge."""
    assert LONG in fitted_table(("node", "n"), [(LONG, "1")], right=RIGHT)[1]


def test_scheme_goes_first() -> None:
    """It is the same for all nodes, as a rule."""
    assert ["gateway-17.storage.example.com:7480"] == fit_names([LONG], len(LONG) - 1)
    assert "gateway-1…com:7480" == fit_names([LONG], 18)[0]


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        (0.04, "0.0ms"),
        (9.94, "9.9ms"),
        (9.96, "10ms"),
        (999.4, "999ms"),
        (999.6, "1.0s"),
        (9960, "10s"),
        (61000, "61s"),
    ],
)
def test_times_take_five_characters(milliseconds: float, expected: str) -> None:
    """So that four of them fit a line."""
    assert expected == format_ms(milliseconds)


@pytest.mark.parametrize(("number", "expected"), [(0.0, "0.0"), (9.94, "9.9"), (9.96, "10"), (4400.4, "4400")])
def test_counts_have_a_decimal_while_small(number: float, expected: str) -> None:
    """Half a request a second is not none."""
    assert expected == format_count(number)


def test_throughput_is_in_words() -> None:
    """As everywhere."""
    assert "1.5MiB/s" == format_throughput(1.5 * (1 << 20))


def test_bars_are_as_long_as_their_values() -> None:
    """The longest fills its column."""
    lines = bar_lines([Bar("http://a", 10.0, "10"), Bar("http://b", 5.0, "5.0")], width=80, color=False)

    assert [40, 20] == [line.count("█") for line in lines]
    assert ["10", "5.0"] == [line.split()[-1] for line in lines]
    assert all(len(line) <= 80 for line in lines)


def test_slow_bar_is_red() -> None:
    """It is what the eye should find."""
    good, bad = bar_lines([Bar("a", 1.0, "1"), Bar("b", 2.0, "2", bad=True)], width=60, color=True)

    assert ("\x1b[32;" in good, "\x1b[31;" in bad) == (True, True)


@pytest.mark.parametrize("bars", [[], [Bar("a", 0.0, "0")]])
def test_nothing_has_no_bars(bars: list[Bar]) -> None:
    """There is no longest one."""
    assert [] == bar_lines(bars, width=80, color=False)


def test_bars_fit_a_narrow_terminal() -> None:
    """Long names give way."""
    lines = bar_lines([Bar(LONG, 1.0, "1.0MiB/s"), Bar(OTHER, 2.0, "2.0MiB/s")], width=60, color=False)

    assert all(len(line) <= 60 for line in lines)
    assert all(line.endswith("MiB/s") for line in lines)


def test_stats_for_people_and_machines() -> None:
    """Kinds of failure and the last one are named."""
    row = EndpointStats("http://n:1", "open", 4, 2, 1, 1, 2048, 10, 0.5, "it refused", {"connect": 2}, 4)
    text, records = io.StringIO(), io.StringIO()

    print_stats([row], Output(stdout=io.BytesIO(), stderr=text))
    print_stats([row], Output(stdout=io.BytesIO(), stderr=records, json=True))

    assert [
        "endpoint    tries  failed  slow  again    sent  got     ms  circuit",
        "http://n:1      4       2     1      1  2.0KiB  10B  125.0  open",
        "http://n:1 failed: 2 x connect; last: it refused",
    ] == text.getvalue().splitlines()
    assert {"type": "stats", "endpoint": "http://n:1", "mean_ms": 125.0, "failure_kinds": {"connect": 2}}.items() <= (
        json.loads(records.getvalue()).items()
    )
