"""The lines of listings: time, size, class, name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from s3pool.cli.output import escape
from s3pool.model import ObjectInfo
from s3pool.units import FIRST_OF_NEXT, LAST_WITH_DECIMAL, SIZE_UNITS, STEP, format_size

HUMAN_WIDTH = 8  # of the size column: 1023.9KiB never occurs, 1023KiB does
EXACT_UNITS = 5  # B to TiB: below 1024 TiB, and so below the 8 PiB up to which floats are exact
BYTES_WIDTH = 13  # of the size column in bytes: 5 TiB, S3's largest object


def format_stamp(iso_time: str) -> str:
    """Give the first column of a line: ``[2026-01-22 20:44:33 UTC]``."""
    return f"[{iso_time[:10]} {iso_time[11:19]} UTC]"


def human_size(size: int) -> str:
    """Give the size column for people."""
    for limit, scale, template in _HUMAN_ROWS:
        if size < limit:
            return template % (size * scale)
    return f"{format_size(size):>{HUMAN_WIDTH}}"


def _human_rows() -> Iterator[tuple[int, float, str]]:
    """Yield what format_size does below a limit: the limit, a factor, a template.

    A listing formats millions of sizes, and comparing takes half as long as computing a unit.
    It ends below sizes that a float cannot hold: there a limit says nothing of what rounding does.
    """
    yield STEP, 1, f"%{HUMAN_WIDTH - 1}dB"
    for power, unit in enumerate(SIZE_UNITS[1:EXACT_UNITS], 1):
        width, whole = HUMAN_WIDTH - len(unit), STEP**power
        yield int(LAST_WITH_DECIMAL * whole) + 1, 1 / whole, f"%{width}.1f{unit}"
        yield int(FIRST_OF_NEXT * whole), 1 / whole, f"%{width}.0f{unit}"


_HUMAN_ROWS = tuple(_human_rows())


def exact_size(size: int) -> str:
    """Give the size column in bytes."""
    return f"{size:>{BYTES_WIDTH}}"


def line_formatter(*, exact: bool, etag: bool = False, versions: bool = False) -> Callable[[ObjectInfo, str], str]:
    """Give what makes a line of an object and the name it is to have.

    The order is time, size, class, ETag, version, act, name; only time, size, class and
    name are always there. The name must be escaped where that is wanted.
    """
    size_text = exact_size if exact else human_size

    def plain(info: ObjectInfo, name: str) -> str:
        stamp, storage_class = info.last_modified, info.storage_class
        shown = storage_class if storage_class.isprintable() else escape(storage_class)
        return f"[{stamp[:10]} {stamp[11:19]} UTC] {size_text(info.size)} {shown} {name}"

    def full(info: ObjectInfo, name: str) -> str:
        columns = [format_stamp(info.last_modified), size_text(info.size), escape(info.storage_class) or "-"]
        if etag:
            columns.append(escape(info.etag) or "-")
        if versions:
            columns += [escape(info.version_id) or "-", "DEL" if info.is_delete_marker else "PUT"]
        return " ".join([*columns, name])

    return full if etag or versions else plain
