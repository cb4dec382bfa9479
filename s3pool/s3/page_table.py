"""The objects of a page as columns: to print them takes no object for each.

A page of a thousand objects costs as much to build as to read, and a listing to a file looks
at nothing but whole columns.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import overload

from s3pool.location import name_bytes
from s3pool.model import ListPage, ObjectInfo
from s3pool.record import replace

DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
TIME_OF_ZEROES = b"0000-00-00T00:00:00.000Z"
TIME_LENGTH = len(TIME_OF_ZEROES)


class Times(bytes):
    """Times of one shape in one text without gaps."""

    def are_sound(self, count: int) -> bool:
        """Return whether the text is exactly ``count`` times."""
        return self.translate(DIGITS_TO_ZERO) == TIME_OF_ZEROES * count

    @property
    def texts(self) -> list[bytes]:
        """Each of them."""
        return [self[start : start + TIME_LENGTH] for start in range(0, len(self), TIME_LENGTH)]

    def all(self) -> list[str]:
        """Return each of them."""
        text = self.decode()
        return [text[start : start + TIME_LENGTH] for start in range(0, len(text), TIME_LENGTH)]


Columns = tuple[Sequence[bytes], Sequence[bytes], Times, Sequence[bytes], Sequence[bytes]]


class ObjectTable(Sequence[ObjectInfo]):
    """Objects of which the columns are known; their rows are made when one is asked for.

    It is equal to any sequence of the same objects. Texts are as they came, in bytes; no
    column holds a line break. ``sizes`` are decimal digits.
    """

    __slots__ = ("_keys", "_rows", "classes", "etags", "names", "sizes", "times")

    def __init__(
        self,
        names: Sequence[bytes],
        sizes: Sequence[bytes],
        times: Times,
        etags: Sequence[bytes],
        classes: Sequence[bytes],
    ) -> None:
        self.names, self.sizes, self.times, self.etags = names, sizes, times, etags
        self.classes = classes  # of storage
        self._keys: list[str] | None = None
        self._rows: tuple[ObjectInfo, ...] | None = None

    @property
    def keys(self) -> Sequence[str]:
        """The names as text."""
        if self._keys is None:
            self._keys = texts_of(self.names)
        return self._keys

    @property
    def numbers(self) -> Iterator[bytes]:
        """The sizes without leading zeroes, which a server may send."""
        return map(b"%d".__mod__, map(int, self.sizes))

    @property
    def columns(self) -> Columns:
        """The columns as plain values, of which a like table can be made."""
        return self.names, self.sizes, self.times, self.etags, self.classes

    @property
    def rows(self) -> tuple[ObjectInfo, ...]:
        """The objects."""
        if self._rows is None:
            texts = self.keys, map(int, self.sizes), self.times.all(), texts_of(self.etags), texts_of(self.classes)
            self._rows = build_objects(zip(*texts, repeat(""), repeat(True), repeat(False), strict=False))
        return self._rows

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[ObjectInfo]:
        return iter(self.rows)

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


def texts_of(column: Sequence[bytes]) -> list[str]:
    """Decode a column without line breaks at once."""
    return b"\n".join(column).decode("utf-8", "surrogateescape").split("\n") if column else []


def table_of(objects: Sequence[ObjectInfo]) -> ObjectTable | None:
    """Return the objects as columns; None when a time has another shape, or a text a line break."""
    if isinstance(objects, ObjectTable):
        return objects
    keys, sizes, stamps, etags, classes, *_ = zip(*objects, strict=True) if objects else [()] * len(ObjectInfo._fields)
    times = Times("".join(stamps).encode("utf-8", "surrogateescape"))
    if not times.are_sound(len(keys)) or "\n" in "".join((*keys, *etags, *classes)):
        return None
    names, tags, kinds = (list(map(name_bytes, column)) for column in (keys, etags, classes))
    return ObjectTable(names, list(map(b"%d".__mod__, sizes)), times, tags, kinds)


def values_of(objects: Sequence[ObjectInfo]) -> tuple[list[str], list[int], list[str], list[str]]:
    """Return keys, sizes, times and ETags of some objects."""
    if isinstance(objects, ObjectTable):
        return list(objects.keys), list(map(int, objects.sizes)), objects.times.all(), texts_of(objects.etags)
    keys, sizes, stamps, etags, *_ = zip(*objects, strict=True)
    return list(keys), list(sizes), list(stamps), list(etags)


def sizes_of(objects: Sequence[ObjectInfo]) -> list[int]:
    """Return the sizes of all but delete markers, without making an object for each."""
    if isinstance(objects, ObjectTable):
        return list(map(int, objects.sizes))
    return [info.size for info in objects if not info.is_delete_marker]


def keys_of(objects: Sequence[ObjectInfo]) -> Sequence[str]:
    """Return the keys, without making an object for each."""
    return objects.keys if isinstance(objects, ObjectTable) else [info.key for info in objects]


def names_of(objects: Sequence[ObjectInfo]) -> Sequence[bytes]:
    """Return the keys as the bytes that S3 sorts by."""
    return objects.names if isinstance(objects, ObjectTable) else [name_bytes(info.key) for info in objects]


def cut_page(page: ListPage, until: str) -> ListPage:
    """Leave out the names of an ordered page beyond ``until``; a page that reaches it is the last one."""
    limit = name_bytes(until)
    lasts = [*names_of(page.objects)[-1:], *map(name_bytes, page.prefixes[-1:])]
    if max(lasts, default=b"") < limit:
        return page
    objects = page.objects[: bisect_right(names_of(page.objects), limit)]
    prefixes = tuple(name for name in page.prefixes if name_bytes(name) <= limit)
    return replace(page, objects=objects, prefixes=prefixes, truncated=False)
