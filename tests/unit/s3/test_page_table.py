from __future__ import annotations

import pytest

from s3pool.model import ObjectInfo
from s3pool.s3.pages import ObjectTable, Times, keys_of, names_of, table_of, texts_of

FIRST = ObjectInfo("a", 7, "2026-01-22T20:44:33.219Z", "abc", "COLD")
SECOND = ObjectInfo("b", 1536, "2025-12-31T23:59:59.000Z", "", "STANDARD")


def table() -> ObjectTable:
    """Give a table of both."""
    times = Times(b"".join(info.last_modified.encode() for info in (FIRST, SECOND)))
    return ObjectTable(
        [b"a", b"b"], sizes=[b"7", b"1536"], times=times, etags=[b"abc", b""], classes=[b"COLD", b"STANDARD"]
    )


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
    assert (FIRST, SECOND) == ObjectTable(*table().columns)


@pytest.mark.parametrize("objects", [table(), (FIRST, SECOND), ()])
def test_keys_and_columns_are_those_of_the_objects(objects: ObjectTable | tuple[ObjectInfo, ...]) -> None:
    """With a table or without."""
    made = table_of(objects)

    assert made is not None
    assert [info.key for info in objects] == list(keys_of(objects)) == texts_of(made.names)
    assert list(names_of(objects)) == list(made.names)
    assert tuple(objects) == made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"2026-01-22T20:44:33.219Z", True),
        (b"2026-01-22T20:44:33.219Z2025-12-31T23:59:59.000Z", True),
        (b"2026-01-22T20:44:33.219", False),
        (b"2026-01-22 20:44:33.219Z", False),
        (b"2026-01-22T20:44:33.219Z\n2025-12-31T23:59:59.000Z", False),
        (b"", False),
    ],
)
def test_times_are_sound_when_all_have_one_shape(text: bytes, expected: bool) -> None:
    """They are cut by lengths."""
    assert expected == Times(text).are_sound(text.count(b"T") or 1)


def test_keys_that_are_not_utf8_keep_their_bytes() -> None:
    """A server may have such keys, and they are to be sorted, compared and asked for as they are."""
    key = b"\xffa"
    times = Times(FIRST.last_modified.encode())
    objects = ObjectTable([key], sizes=[b"7"], times=times, etags=[b"abc"], classes=[b"COLD"])

    assert ["\udcffa"] == list(keys_of(objects)) == [info.key for info in objects]
    assert [key] == list(names_of(objects)) == list(names_of(list(objects)))
