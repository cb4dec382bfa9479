"""The forms of results: lines of text, JSON lines, CSV, tables.

A listing spends most of its time here, so the objects of a page are formatted column by
column: no step is done for one object that can be done for all of them at once. A page with
a name that must be escaped, or with a time of another shape, is formatted object by object.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from s3pool.cli.output import Output, escape
from s3pool.cli.parser import switch
from s3pool.errors import UsageError
from s3pool.location import S3Path
from s3pool.model import NO_TIME, BucketInfo, ObjectInfo, UploadInfo
from s3pool.units import FIRST_OF_NEXT, LAST_WITH_DECIMAL, SIZE_UNITS, STEP, STEP_BITS, format_size

if TYPE_CHECKING:
    from s3pool.s3.pages import ObjectTable, Times

Record = dict[str, object]
Entry = ObjectInfo | str  # an object, or a prefix

# The columns of CSV are the members of the JSON records, in their order.
OBJECT_COLUMNS = ("type", "url", "bucket", "key", "size", "last_modified", "etag", "storage_class")
VERSION_COLUMNS = (*OBJECT_COLUMNS, "version_id", "is_latest", "is_delete_marker")
PREFIX_COLUMNS = ("type", "url", "prefix", "bucket")
BUCKET_COLUMNS = ("type", "name", "created", "url", "bucket")
UPLOAD_COLUMNS = ("type", "url", "bucket", "key", "upload_id", "initiated", "storage_class")
USAGE_COLUMNS = ("type", "url", "objects", "bytes")

HUMAN_WIDTH = 8  # of the size column: 1023.9KiB never occurs, 1023KiB does
EXACT_UNITS = 5  # B to TiB: below 1024 TiB, and so below the 8 PiB up to which floats are exact
BYTES_WIDTH = 13  # of the size column in bytes: 5 TiB, S3's largest object
HALF = STEP // 2
TENTHS_END = int(LAST_WITH_DECIMAL * STEP) + 1  # sizes from here on have no decimal
WHOLES_END = int(FIRST_OF_NEXT * STEP)  # and from here on another unit
WORTH_A_TABLE = 200  # sizes; fewer are formatted before the table is made
STAMP = b"\n[YYYY-MM-DD hh:mm:ss UTC] \0"  # with the line break before it, and a NUL at which a column is split
STAMP_START = len("\n[")
STAMP_DIGITS = tuple(place for place, sign in enumerate(STAMP) if sign in b"YMDhms")
TABLE_GAP = "  "
PRINTABLE = bytes(range(ord(" "), 0x7F))
JSON_SPECIAL = b'"\\'  # what JSON escapes of printable text
CSV_SPECIAL = b',"\r\n'  # what CSV puts in quotes


def object_record(bucket: str, info: ObjectInfo) -> Record:
    """Describe an object of a listing."""
    url = S3Path(bucket, info.key).text
    return dict(zip(OBJECT_COLUMNS, ("object", url, bucket, *info[:5]), strict=True))


def version_record(bucket: str, info: ObjectInfo) -> Record:
    """Describe one version of an object: the object's fields and three more."""
    return {
        **object_record(bucket, info),
        "version_id": info.version_id,
        "is_latest": info.is_latest,
        "is_delete_marker": info.is_delete_marker,
    }


def prefix_record(bucket: str, prefix: str) -> Record:
    """Describe a directory of keys."""
    return {"type": "prefix", "url": S3Path(bucket, prefix).text, "prefix": prefix, "bucket": bucket}


def entry_name(entry: Entry) -> str:
    """Return the key of an object, or a prefix."""
    return entry if isinstance(entry, str) else entry.key


def entry_record(bucket: str, entry: Entry, *, versions: bool = False) -> Record:
    """Describe an object, or a version of one, or a prefix."""
    if isinstance(entry, str):
        return prefix_record(bucket, entry)
    return version_record(bucket, entry) if versions else object_record(bucket, entry)


def bucket_record(bucket: BucketInfo) -> Record:
    """Describe a bucket of a listing."""
    name = bucket.name  # the older name of the member that all records call bucket
    return {"type": "bucket", "name": name, "created": bucket.created, "url": S3Path(name).text, "bucket": name}


def upload_record(bucket: str, upload: UploadInfo) -> Record:
    """Describe an upload that was neither completed nor aborted."""
    url = S3Path(bucket, upload.key).text
    values = ("upload", url, bucket, upload.key, upload.upload_id, upload.initiated, upload.storage_class)
    return dict(zip(UPLOAD_COLUMNS, values, strict=True))


class RecordFormat:
    """A form of results for programs."""

    def records(self, records: Iterable[Record]) -> bytes:
        """Return the lines of some records."""
        raise NotImplementedError

    def objects(self, bucket: str, objects: Sequence[ObjectInfo]) -> bytes:
        """Return the lines of the objects of a page."""
        from s3pool.s3.pages import table_of  # --help needs no pages

        table = table_of(objects) if objects and bucket.isascii() else None
        if table is None or not self._are_plain(bucket.encode() + _distinct_text(table)):
            return self.records(object_record(bucket, info) for info in objects)
        columns = (table.names, table.names, table.numbers, table.times.texts, table.etags, table.classes)
        start, *others = self._texts(bucket.encode())
        parts: list[bytes | Iterable[bytes]] = [start]
        for column, text in zip(columns, others, strict=True):
            parts += [column, text]
        return _join_columns(len(table), *parts)

    def _are_plain(self, text: bytes) -> bool:
        """Return whether a text stands in results as it is."""
        raise NotImplementedError

    def _texts(self, bucket: bytes) -> Sequence[bytes]:
        """Return what stands before, between and behind the columns of an object."""
        raise NotImplementedError


class JsonFormat(RecordFormat):
    """One JSON object a line."""

    def __init__(self, encode: Callable[[Record], str]) -> None:
        self._encode = encode

    def records(self, records: Iterable[Record]) -> bytes:
        """Return the lines of some records."""
        return "".join([f"{self._encode(record)}\n" for record in records]).encode("utf-8", "surrogateescape")

    def _are_plain(self, text: bytes) -> bool:
        return not _has_any(text, JSON_SPECIAL) and _is_printable(text)

    def _texts(self, bucket: bytes) -> Sequence[bytes]:
        start, key = b'{"type":"object","url":"s3/%b/' % bucket, b'","bucket":"%b","key":"' % bucket
        return start, key, b'","size":', b',"last_modified":"', b'","etag":"', b'","storage_class":"', b'"}\n'


class CsvFormat(RecordFormat):
    """A table by RFC 4180: rows that end in CRLF, quotes where a value needs them."""

    def __init__(self, columns: Sequence[str]) -> None:
        import csv
        import io

        self._columns = columns
        self._buffer = io.StringIO(newline="")
        self._writer = csv.writer(self._buffer)

    def header(self) -> bytes:
        """Return the first line."""
        return self._rows([self._columns])

    def records(self, records: Iterable[Record]) -> bytes:
        """Return the rows of some records; what a record does not have is empty."""
        return self._rows([_csv_value(record.get(name, "")) for name in self._columns] for record in records)

    def _are_plain(self, text: bytes) -> bool:
        return not _has_any(text, CSV_SPECIAL)

    def _texts(self, bucket: bytes) -> Sequence[bytes]:
        end = b"," * (len(self._columns) - len(OBJECT_COLUMNS)) + b"\r\n"
        return b"object,s3/%b/" % bucket, b",%b," % bucket, b",", b",", b",", b",", end

    def _rows(self, rows: Iterable[Iterable[object]]) -> bytes:
        self._writer.writerows(rows)
        text = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return text.encode("utf-8", "surrogateescape")


def _csv_value(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def add_csv_flag(parser: argparse.ArgumentParser) -> None:
    """Add --csv, for commands whose results are one table."""
    switch(parser, "--csv", help="a table with a header line, by RFC 4180; names exactly as they are")


def check_csv(args: argparse.Namespace, out: Output, *, others: Sequence[str] = ()) -> None:
    """Refuse --csv beside what asks for another form of output; ``others`` are such flags as given."""
    given = [*others, *(["--json"] if out.json else [])]
    if args.csv and given:
        raise UsageError(f"--csv and {given[0]} exclude each other")


class TextLines:
    """Lines for people: time, size, class and name, or with ``long`` unset the name alone.

    A name is ``start`` and the key without ``base``; ``name_of`` makes it where it is not that
    simple, and escapes it. ``prefix_start`` stands before the name of a prefix, which
    ``paint`` may colour. The order of all columns is time, size, class, ETag, version, act, name.
    """

    def __init__(
        self,
        name_of: Callable[[str], str],
        *,
        base: str = "",
        start: str = "",
        long: bool = True,
        exact: bool = False,
        etag: bool = False,
        versions: bool = False,
        raw: bool = False,
        prefix_start: str = "",
        paint: Callable[[str], str] = str,
    ) -> None:
        self._name_of, self._base, self._start, self._long = name_of, base, start, long
        self._is_simple = start.isprintable() and not (raw or (long and (etag or versions)))
        self._exact, self._etag, self._versions = exact, etag, versions
        self._end = "\0" if raw else "\n"
        self._prefix_start = prefix_start if long else ""
        self._paint = paint

    def objects(self, objects: Sequence[ObjectInfo]) -> bytes:
        """Return the lines of the objects of a page."""
        return self._whole_page(objects) or self.entries(objects)

    def entries(self, entries: Iterable[Entry]) -> bytes:
        """Return the lines of objects and prefixes."""
        return "".join([self._line(entry) for entry in entries]).encode("utf-8", "surrogateescape")

    def _line(self, entry: Entry) -> str:
        if isinstance(entry, str):
            return f"{self._prefix_start}{self._paint(self._name_of(entry))}{self._end}"
        name = self._name_of(entry.key)
        if not self._long:
            return f"{name}{self._end}"
        size = (exact_size if self._exact else human_size)(entry.size)
        columns = [format_stamp(entry.last_modified), size, escape(entry.storage_class) or "-"]
        if self._etag:
            columns.append(escape(entry.etag) or "-")
        if self._versions:
            columns += [escape(entry.version_id) or "-", "DEL" if entry.is_delete_marker else "PUT"]
        return f"{' '.join(columns)} {name}{self._end}"

    def _whole_page(self, objects: Sequence[ObjectInfo]) -> bytes | None:
        """Format a page by columns; None where a line is not that simple."""
        if not (objects and self._is_simple):
            return None
        from s3pool.s3.pages import keys_of, table_of  # --help needs no pages

        if not self._long:
            return self._names(keys_of(objects))
        table = table_of(objects)
        if table is None:
            return None
        above = self._base.encode("utf-8", "surrogateescape")
        names = [key[len(above) :] for key in table.names] if above else table.names
        is_below = not above or all(key.startswith(above) for key in table.names)
        if not (is_below and all(names) and _is_printable(b"".join([*names, *set(table.classes)]))):
            return None
        stamps, sizes = stamp_column(table.times), size_column(table.sizes, exact=self._exact)
        between = _between(table.classes, self._start.encode())
        # The break stands before each line, and belongs behind it.
        return _join_columns(len(names), stamps, sizes, between, names)[1:] + b"\n"

    def _names(self, keys: Sequence[str]) -> bytes | None:
        if self._base or not (all(keys) and "".join(keys).isprintable()):
            return None
        between = f"\n{self._start}"
        return f"{between[1:]}{between.join(keys)}\n".encode()


def format_stamp(iso_time: str) -> str:
    """Return the first column of a line: ``[2026-01-22 20:44:33 UTC]``."""
    return f"[{iso_time[:10]} {iso_time[11:19]} UTC]"


def human_size(size: int) -> str:
    """Return the size column for people."""
    for limit, scale, template in _HUMAN_ROWS:
        if size < limit:
            return template % (size * scale)
    return f"{format_size(size):>{HUMAN_WIDTH}}"


def _human_rows() -> Iterator[tuple[int, float, str]]:
    """Yield what format_size does below a limit: the limit, a factor, a template.

    A listing formats millions of sizes, and comparing takes half as long as computing a unit.
    The rows end below sizes that a float cannot hold: there a limit says nothing of rounding.
    """
    yield STEP, 1, f"%{HUMAN_WIDTH - 1}dB"
    for power, unit in enumerate(SIZE_UNITS[1:EXACT_UNITS], 1):
        width, whole = HUMAN_WIDTH - len(unit), STEP**power
        yield int(LAST_WITH_DECIMAL * whole) + 1, 1 / whole, f"%{width}.1f{unit}"
        yield int(FIRST_OF_NEXT * whole), 1 / whole, f"%{width}.0f{unit}"


_HUMAN_ROWS = tuple(_human_rows())


def exact_size(size: int) -> str:
    """Return the size column in bytes."""
    return f"{size:>{BYTES_WIDTH}}"


def _join_columns(count: int, *columns: bytes | Iterable[bytes]) -> bytes:
    """Join ``count`` rows; a column of bytes is the same text in all of them."""
    cells = [b""] * (len(columns) * count)
    for place, column in enumerate(columns):
        cells[place :: len(columns)] = [column] * count if isinstance(column, bytes) else column
    return b"".join(cells)


def _distinct_text(table: ObjectTable) -> bytes:
    """Return all text of a table; of equal ETags and classes it has one."""
    return b"".join([*table.names, *set(table.etags), *set(table.classes)])


def _has_any(text: bytes, special: bytes) -> bool:
    return len(text.translate(None, special)) < len(text)


def _is_printable(text: bytes) -> bool:
    if text.isascii():
        return not text.translate(None, PRINTABLE)
    try:
        return text.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _between(classes: Sequence[bytes], start: bytes) -> bytes | list[bytes]:
    """Return what stands between size and name: the class, nearly always the same, and how names begin."""
    if classes.count(classes[0]) == len(classes):
        return b" %b %b" % (classes[0], start)
    return [b" %b %b" % (name, start) for name in classes]


def size_column(sizes: Sequence[bytes], *, exact: bool) -> Iterator[bytes]:
    """Return the text of each size; many objects have the same one, of parts and blocks."""
    different = set(sizes)
    numbers = list(map(int, different))
    texts = map(exact_size, numbers) if exact else human_sizes(numbers)
    return map(dict(zip(different, map(str.encode, texts), strict=True)).__getitem__, sizes)


def stamp_column(times: Times) -> list[bytes]:
    """Return the stamp of each time, with a line break before it and a blank behind it.

    The digits at one place are put into all stamps at once.
    """
    column = bytearray(STAMP * (len(times) // len(NO_TIME)))
    for place in STAMP_DIGITS:
        column[place :: len(STAMP)] = times[place - STAMP_START :: len(NO_TIME)]
    return bytes(column).split(b"\0")[:-1]


def human_sizes(sizes: Sequence[int]) -> list[str]:
    """Return human_size of each size.

    What is below a MiB, as most objects are, is rounded to a number whose text is looked up.
    A half goes to the even neighbour, as it does in formatting.
    """
    if len(sizes) < WORTH_A_TABLE:
        return list(map(human_size, sizes))
    tenths, wholes = _kib_texts()
    return [
        f"{size:{HUMAN_WIDTH - 1}}B"
        if size < STEP
        else tenths[(size * 10 + HALF - 1 + (size >> STEP_BITS - 1 & 1)) >> STEP_BITS]
        if size < TENTHS_END
        else wholes[(size + HALF - 1 + (size >> STEP_BITS & 1)) >> STEP_BITS]
        if size < WHOLES_END
        else human_size(size)
        for size in sizes
    ]


@cache
def _kib_texts() -> tuple[list[str], list[str]]:
    """Return the columns of all tenths of a KiB that have a decimal, and of whole ones."""
    tenths = [human_size(-(-tenth * STEP // 10)) for tenth in range(100)]
    wholes = [human_size(whole * STEP) for whole in range(STEP)]
    return tenths, wholes


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> list[str]:
    """Return the lines of a table; columns in ``right`` are right-aligned, the last one is not padded."""
    grid = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in grid) for column in range(len(header))]
    return [
        TABLE_GAP.join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in grid
    ]
