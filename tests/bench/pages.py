"""Listings written beforehand: chains of pages that nginx gives out without thinking.

A page is a file named by the number at the end of the key before it, so that a token, a
start-after and a marker lead to the same page, whichever of them a client uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

KEYS_PER_PAGE = 1000
FIRST = "first"
ETAG = "d41d8cd98f00b204e9800998ecf8427e-2"  # of a shape that promises no MD5
STAMP = "2026-01-22T20:44:33.219Z"
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


class Listed(NamedTuple):
    """An object of a canned listing. Its key ends in a number that no other key ends in."""

    key: str
    size: int
    etag: str = ETAG


def write_pages(directory: Path, bucket: str, *, objects: Sequence[Listed]) -> int:
    """Write the whole listing of a bucket, and give the number of its pages."""
    directory.mkdir(parents=True, exist_ok=True)
    pages = [objects[start : start + KEYS_PER_PAGE] for start in range(0, len(objects), KEYS_PER_PAGE)] or [()]
    name = FIRST
    for number, page in enumerate(pages):
        is_last = number + 1 == len(pages)
        (directory / f"{name}.xml").write_text(_page(bucket, page, is_last=is_last))
        name = "" if is_last else trailing_number(page[-1].key)
    return len(pages)


def trailing_number(key: str) -> str:
    """Give the digits at a key's end."""
    return key[len(key.rstrip("0123456789")) :]


def _page(bucket: str, objects: Sequence[Listed], *, is_last: bool) -> str:
    contents = "".join(
        f"<Contents><Key>{key}</Key><LastModified>{STAMP}</LastModified><ETag>&quot;{etag}&quot;</ETag>"
        f"<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for key, size, etag in objects
    )
    truncated = "false" if is_last else "true"
    more = "" if is_last else _more(objects[-1].key)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<ListBucketResult xmlns="{NAMESPACE}"><Name>{bucket}</Name><Prefix></Prefix>'
        f"<KeyCount>{len(objects)}</KeyCount><MaxKeys>{KEYS_PER_PAGE}</MaxKeys>"
        f"<IsTruncated>{truncated}</IsTruncated>{more}{contents}</ListBucketResult>"
    )


def _more(key: str) -> str:
    return f"<NextContinuationToken>{key}</NextContinuationToken><NextMarker>{key}</NextMarker>"
