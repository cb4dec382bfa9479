"""Results as CSV by RFC 4180: a header, rows that end in CRLF, quotes where a value needs them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from s3pool.errors import UsageError
from s3pool.model import ObjectInfo

if TYPE_CHECKING:
    import argparse

    from s3pool.cli.output import Output

# The columns are the members of the JSON records, in their order.
OBJECT_COLUMNS = ("type", "url", "bucket", "key", "size", "last_modified", "etag", "storage_class")
VERSION_COLUMNS = (*OBJECT_COLUMNS, "version_id", "is_latest", "is_delete_marker")
PREFIX_COLUMNS = ("type", "url", "prefix")
BUCKET_COLUMNS = ("type", "name", "created")
UPLOAD_COLUMNS = ("type", "url", "bucket", "key", "upload_id", "initiated", "storage_class")
USAGE_COLUMNS = ("type", "url", "objects", "bytes")

ROW_END = "\r"  # with the line feed that every line of output gets, this is CRLF
NEEDS_QUOTES = '[",\r\n]'  # compiled where it is used: most commands print no table


def add_csv_flag(parser: argparse.ArgumentParser) -> None:
    """Add --csv, for commands whose results are one table."""
    parser.add_argument(
        "--csv", action="store_true", help="a table with a header line, by RFC 4180; names exactly as they are"
    )


def check_csv(args: argparse.Namespace, out: Output, *, others: Sequence[str] = ()) -> None:
    """Refuse --csv beside what gives another form of output; ``others`` are such flags as given.

    Raises:
        UsageError: there is one.
    """
    given = [*others, *(["--json"] if out.json else [])]
    if args.csv and given:
        raise UsageError(f"--csv and {given[0]} exclude each other")


def header_row(columns: Iterable[str]) -> str:
    """Give the header line."""
    return f"{','.join(columns)}{ROW_END}"


def row_encoder(columns: Sequence[str]) -> Callable[[Mapping[str, object]], str]:
    """Give what makes a row of a JSON record; what the record does not have is empty."""

    def encode(fields: Mapping[str, object]) -> str:
        return ",".join([_value(fields.get(column, "")) for column in columns]) + ROW_END

    return encode


def object_row_encoder(bucket: str, columns: Sequence[str]) -> Callable[[ObjectInfo], str]:
    """Give what makes a row of an object: as row_encoder does of its record, several times as fast."""
    from s3pool.cli.records import object_record

    slow = row_encoder(columns)
    head, middle = f"object,s3/{bucket}/", f",{bucket},"
    commas = len(columns) - 1
    end = "," * (len(columns) - len(OBJECT_COLUMNS))

    def encode(info: ObjectInfo) -> str:
        key = info.key
        row = f"{head}{key}{middle}{key},{info.size},{info.last_modified},{info.etag},{info.storage_class}{end}"
        # A comma more than there are columns stands in a value.
        if row.count(",") != commas or '"' in row or "\n" in row or "\r" in row:
            return slow(object_record(bucket, info))
        return row + ROW_END

    return encode


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if re.search(NEEDS_QUOTES, text) else text
