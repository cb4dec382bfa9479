from __future__ import annotations

import pytest

from s3pool.model import ObjectInfo
from s3pool.s3.columns import ObjectTable, Times, columns_of, keys_of

FIRST = ObjectInfo("a", 7, "2026-01-22T20:44:33.219Z", "abc", "COLD")
SECOND = ObjectInfo("b", 1536, "2025-12-31T23:59:59.000Z", "", "STANDARD")


def table() -> ObjectTable:
    """Give a table of both, their times behind a lead."""
    times = Times(b"".join(b"<at>" + info.last_modified.encode() for info in (FIRST, SECOND)), b"<at>")
    return ObjectTable(["a", "b"], sizes=["7", "1536"], times=times, etags=["abc", ""], classes=["COLD", "STANDARD"])


def test_a_table_is_a_sequence_of_its_objects() -> None:
    """Who wants objects needs not know how they are kept."""
    objects = table()

    assert [FIRST, SECOND] == list(objects)
    assert (2, SECOND, (FIRST,)) == (len(objects), objects[-1], objects[:1])
    assert (FIRST, SECOND) == objects
    assert objects == table()
    assert objects != (FIRST,)
    assert objects != "ab"
    assert hash(table()) == hash(objects)
    assert repr((FIRST, SECOND)) == repr(objects)


def test_a_table_can_be_made_of_its_columns() -> None:
    """They are plain values, as what waits for its turn is packed."""
    assert (FIRST, SECOND) == ObjectTable.of_columns(table().columns)


@pytest.mark.parametrize("objects", [table(), (FIRST, SECOND), ()])
def test_keys_and_columns_are_those_of_the_objects(objects: ObjectTable | tuple[ObjectInfo, ...]) -> None:
    """With a table or without."""
    columns = columns_of(objects)

    assert columns is not None
    keys, sizes, times, classes = columns
    assert [info.key for info in objects] == list(keys) == list(keys_of(objects))
    assert [info.size for info in objects] == list(map(int, sizes))
    assert [info.last_modified for info in objects] == times.all()
    assert [info.storage_class for info in objects] == list(classes)


def test_a_time_of_another_shape_has_no_column() -> None:
    """A column is cut by lengths."""
    assert columns_of([FIRST, SECOND._replace(last_modified="")]) is None


@pytest.mark.parametrize(
    ("text", "lead", "expected"),
    [
        (b"2026-01-22T20:44:33.219Z", b"", True),
        (b"<a>2026-01-22T20:44:33.219Z<a>2025-12-31T23:59:59.000Z", b"<a>", True),
        (b"2026-01-22T20:44:33.219", b"", False),
        (b"2026-01-22 20:44:33.219Z", b"", False),
        (b"2026-01-22T20:44:33.219Z<b>2025-12-31T23:59:59.000Z", b"", False),
        (b"<a>2026-01-22T20:44:33.219Z<b>2025-12-31T23:59:59.000Z", b"<a>", False),
        (b"<7>2026-01-22T20:44:33.219Z", b"<7>", False),
        (b"", b"", False),
    ],
)
def test_times_are_sound_when_all_have_one_shape(text: bytes, lead: bytes, expected: bool) -> None:
    """A lead with a digit cannot be told from one with another digit."""
    assert expected == Times(text, lead).are_sound(text.count(b"T") or 1)
