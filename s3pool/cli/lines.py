"""The lines of listings: time, size, class, name."""

from __future__ import annotations

from collections.abc import Callable

from s3pool.cli.output import escape
from s3pool.model import ObjectInfo
from s3pool.units import format_size

HUMAN_WIDTH = 8  # of the size column: 1023.9KiB never occurs, 1023KiB does
BYTES_WIDTH = 13  # of the size column in bytes: 5 TiB, S3's largest object


def format_stamp(iso_time: str) -> str:
    """Give the first column of a line: ``[2026-01-22 20:44:33 UTC]``."""
    return f"[{iso_time[:10]} {iso_time[11:19]} UTC]"


def human_size(size: int) -> str:
    """Give the size column for people."""
    return f"{format_size(size):>{HUMAN_WIDTH}}"


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
        stamp = info.last_modified
        return f"[{stamp[:10]} {stamp[11:19]} UTC] {size_text(info.size)} {info.storage_class} {name}"

    def full(info: ObjectInfo, name: str) -> str:
        columns = [format_stamp(info.last_modified), size_text(info.size), info.storage_class or "-"]
        if etag:
            columns.append(info.etag or "-")
        if versions:
            columns += [escape(info.version_id) or "-", "DEL" if info.is_delete_marker else "PUT"]
        return " ".join([*columns, name])

    return full if etag or versions else plain
