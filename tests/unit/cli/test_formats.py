"""The forms of results: a page at once is only faster than each object by itself."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pool.cli.formats import (
    HUMAN_WIDTH,
    OBJECT_COLUMNS,
    WORTH_A_TABLE,
    CsvFormat,
    JsonFormat,
    TextLines,
    human_size,
    human_sizes,
    object_record,
)
from s3pool.cli.output import Output, escape
from s3pool.model import ObjectInfo
from s3pool.s3.pages import ObjectTable, Times
from s3pool.units import SIZE_UNITS, STEP, format_size

TIME = "2026-01-22T20:44:33.219Z"
BYTES = st.binary(min_size=1).map(lambda name: name.decode("utf-8", "surrogateescape"))
KEYS = BYTES | st.text(st.characters(codec="utf-8"), min_size=1)
CLASSES = st.sampled_from(["STANDARD", "", 'odd"class', "a\\b"])
ETAGS = st.sampled_from(["e", 'a"b', "a,b", ""])
TIMES = st.sampled_from([TIME, "", "2026"])
OBJECTS = st.lists(st.builds(ObjectInfo, KEYS, st.integers(0, 1 << 50), TIMES, ETAGS, CLASSES), max_size=4)
BORDERS = [
    int(value * STEP**power) + near
    for power in range(len(SIZE_UNITS))
    for value in (1, 9.95, 10, 1023.5, 1024)
    for near in (-1, 0, 1, 2)
]


def out() -> Output:
    """Return an output into nowhere."""
    return Output(stdout=io.BytesIO(), stderr=io.StringIO())


def table_of(objects: list[ObjectInfo]) -> ObjectTable:
    """Return the same objects as a page's parser gives them."""
    keys, sizes, stamps, etags, classes = (
        [str(value).encode("utf-8", "surrogateescape") for value in column]
        for column in list(zip(*objects, strict=True))[:5]
    )
    return ObjectTable(keys, sizes=sizes, times=Times(b"".join(stamps)), etags=etags, classes=classes)


def info_of(key: str) -> ObjectInfo:
    """Return an object with a key."""
    return ObjectInfo(key, 1536, TIME, "abc", "COLD" if "a" in key else "STANDARD")


@given(st.one_of(st.integers(0, 1 << 63), st.sampled_from(BORDERS)))
def test_size_column_is_what_sizes_are_everywhere(size: int) -> None:
    """The column has a faster way to the same text."""
    assert f"{format_size(size):>{HUMAN_WIDTH}}" == human_size(size)


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


@given(OBJECTS, st.text("abz019.-", min_size=3))
def test_json_of_a_page_is_that_of_its_records(objects: list[ObjectInfo], bucket: str) -> None:
    """Whatever stands in a key, an ETag or a class."""
    form = JsonFormat(out().encode)

    lines = form.objects(bucket, objects)

    assert form.records(object_record(bucket, info) for info in objects) == lines
    assert [object_record(bucket, info) for info in objects] == list(map(json.loads, lines.splitlines()))


@given(OBJECTS)
def test_csv_of_a_page_is_that_of_its_records(objects: list[ObjectInfo]) -> None:
    """Also where the table has one column more than an object."""
    for columns in (OBJECT_COLUMNS, (*OBJECT_COLUMNS, "prefix")):
        form = CsvFormat(columns)

        assert form.records(object_record("b", info) for info in objects) == form.objects("b", objects)


@given(KEYS.filter(lambda key: key.isprintable()))
def test_csv_is_read_back(key: str) -> None:
    """Each value is what it was."""
    line = CsvFormat(OBJECT_COLUMNS).objects("b", table_of([info_of(key)]))

    assert line.endswith(b"\r\n")
    assert [[str(value) for value in object_record("b", info_of(key)).values()]] == list(
        csv.reader(io.StringIO(line.decode(), newline=""))
    )


def test_a_size_with_leading_zeroes_is_a_number_in_json() -> None:
    """JSON has no such numbers, and a server may send one."""
    table = table_of([info_of("k")])
    table.sizes = [b"007"]

    assert 7 == json.loads(JsonFormat(out().encode).objects("b", table))["size"]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("long", [True, False])
@pytest.mark.parametrize("base", ["", "logs/"])
@pytest.mark.parametrize(
    "odd", ["logs/d", "logs/", "logs/a\tb", "logs/a\u202eb", "logs/a\udcff", "logs", "other", "logs/x"]
)
def test_page_has_the_lines_of_its_objects(exact: bool, long: bool, base: str, odd: str) -> None:
    """Also where a name has to be escaped, is empty, or is not below the base."""
    objects = [info_of(key) for key in ("logs/a", "logs/b c", "logs/写真", "logs/x/y", odd)]

    def name_of(key: str) -> str:
        return escape(key[len(base) :] if key.startswith(base) else key) or "./"

    lines = TextLines(name_of, base=base, long=long, exact=exact)

    assert lines.entries(objects) == lines.objects(objects) == lines.objects(table_of(objects))


def test_page_with_an_odd_time_has_the_lines_of_its_objects() -> None:
    """A server may leave it out."""
    lines, objects = TextLines(str), [info_of("a"), info_of("b")._replace(last_modified="")]

    assert lines.entries(objects) == lines.objects(objects)
    assert [b"[2026-01-22 20:44:33 UTC]   1.5KiB COLD a", b"[  UTC]   1.5KiB STANDARD b"] == (
        lines.objects(objects).splitlines()
    )


def test_columns_of_a_line() -> None:
    """Each column in its place, whatever is asked for."""
    info = ObjectInfo("k", 1536, TIME, "e" * 32, "GLACIER", "v1", False, True)

    plain = TextLines(str).objects([info])
    full = TextLines(str, exact=True, etag=True, versions=True).objects([info])

    assert b"[2026-01-22 20:44:33 UTC]   1.5KiB GLACIER k\n" == plain
    assert f"[2026-01-22 20:44:33 UTC]          1536 GLACIER {'e' * 32} v1 DEL k\n".encode() == full


def test_raw_names_are_ended_by_nul() -> None:
    """Nothing of them is escaped, and a prefix has no time."""
    lines = TextLines(str, long=False, raw=True, prefix_start="[time] ")

    assert b"a\nb\0" == lines.objects([info_of("a\nb")])
    assert b"a\0p/\0" == lines.entries([info_of("a"), "p/"])
