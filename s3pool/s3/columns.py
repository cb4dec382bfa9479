"""The objects of a page as columns: who makes lines of them needs no object for each.

A page of a thousand objects costs as much to build as to read, and a listing to a file looks
at nothing but whole columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import repeat
from typing import NamedTuple, overload

from s3pool.model import ObjectInfo

DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
TIME_OF_ZEROES = b"0000-00-00T00:00:00.000Z"
TIME_LENGTH = len(TIME_OF_ZEROES)

Columns = tuple[Sequence[str], Sequence[str], tuple[bytes, bytes], Sequence[str], Sequence[str]]


class Times(NamedTuple):
    """Times of one shape, each behind the same ``lead``, in one text without gaps."""

    text: bytes
    lead: bytes = b""

    @property
    def width(self) -> int:
        """Give the length of one, its lead included."""
        return len(self.lead) + TIME_LENGTH

    def are_sound(self, count: int) -> bool:
        """Say whether it is exactly so many leads and times."""
        # A digit of the lead would stand for any digit.
        plain_lead = not any(map(self.lead.__contains__, b"0123456789"))
        return plain_lead and self.text.translate(DIGITS_TO_ZERO) == (self.lead + TIME_OF_ZEROES) * count

    def all(self) -> list[str]:
        """Give each of them, without the lead."""
        text = self.text.decode()
        return [text[start : start + TIME_LENGTH] for start in range(len(self.lead), len(text), self.width)]


class ObjectTable(Sequence[ObjectInfo]):
    """Objects of which the columns are known; their rows are made when one is asked for.

    It is equal to any sequence of the same objects. ``sizes`` are decimal digits.
    """

    __slots__ = ("_rows", "classes", "etags", "keys", "sizes", "times")

    def __init__(
        self,
        keys: Sequence[str],
        *,
        sizes: Sequence[str],
        times: Times,
        etags: Sequence[str],
        classes: Sequence[str],
    ) -> None:
        self.keys = keys
        self.sizes = sizes
        self.times = times
        self.etags = etags
        self.classes = classes  # of storage
        self._rows: tuple[ObjectInfo, ...] | None = None

    @property
    def columns(self) -> Columns:
        """Give what the table is made of, as plain values."""
        return self.keys, self.sizes, (self.times.text, self.times.lead), self.etags, self.classes

    @classmethod
    def of_columns(cls, columns: Columns) -> ObjectTable:
        """Make a table of the columns of another one."""
        keys, sizes, times, etags, classes = columns
        return cls(keys, sizes=sizes, times=Times(*times), etags=etags, classes=classes)

    @property
    def rows(self) -> tuple[ObjectInfo, ...]:
        """Give the objects."""
        if self._rows is None:
            self._rows = build_objects(
                zip(
                    self.keys,
                    map(int, self.sizes),
                    self.times.all(),
                    self.etags,
                    self.classes,
                    repeat(""),
                    repeat(True),
                    repeat(False),
                    strict=False,
                )
            )
        return self._rows

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, place: int) -> ObjectInfo: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[ObjectInfo, ...]: ...
    def __getitem__(self, place: int | slice) -> ObjectInfo | tuple[ObjectInfo, ...]:
        return self.rows[place]

    def __eq__(self, other: object) -> bool:
        return self.rows == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.rows)

    def __repr__(self) -> str:
        return repr(self.rows)


def build_objects(rows: Iterable[tuple[object, ...]]) -> tuple[ObjectInfo, ...]:
    """Make objects of rows with their eight fields."""
    # Of the ways to build a named tuple this one stays in C for the whole page.
    return tuple(map(partial(tuple.__new__, ObjectInfo), rows))


def columns_of(
    objects: Sequence[ObjectInfo],
) -> tuple[Sequence[str], Sequence[str | int], Times, Sequence[str]] | None:
    """Give keys, sizes, times and storage classes; None when a time has another shape."""
    if isinstance(objects, ObjectTable):
        return objects.keys, objects.sizes, objects.times, objects.classes
    keys, sizes, stamps, _, classes, *_ = zip(*objects, strict=True) if objects else [()] * len(ObjectInfo._fields)
    times = Times("".join(stamps).encode())
    return (keys, sizes, times, classes) if times.are_sound(len(keys)) else None


def keys_of(objects: Sequence[ObjectInfo]) -> Sequence[str]:
    """Give the keys, without making objects where there are none."""
    return objects.keys if isinstance(objects, ObjectTable) else [info.key for info in objects]
