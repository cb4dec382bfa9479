"""Listings of the fake: V1, V2, versions and uploads, in RGW's manner or in AWS's."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

from tests.support.fake_s3.store import Bucket, S3Fault, Upload, Version

XMLNS = "http://s3.amazonaws.com/doc/2006-03-01/"
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0d\x0e-\x1f\ufffe\uffff]")


@dataclass
class Query:
    """What a listing is asked for, after the query string was read."""

    prefix: str = ""
    delimiter: str = ""
    after: str = ""
    inclusive: bool = False
    from_page: bool = False  # the cursor is where a page ended: a token, or V1's marker
    max_keys: int = 1000
    encoded: bool = False
    skips_subtrees: bool = False
    hides_below: bool = False


@dataclass
class Page:
    """One page: keys and groups in one order, and where the next page begins."""

    keys: list[str]
    groups: list[str]
    truncated: bool = False
    last: str = ""


def escape(text: str) -> str:
    """Escape for XML; characters that XML forbids become references, as RGW writes them."""
    text = (
        text.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace('"', "&quot;")
        .replace("'", "&apos;")
    )
    return _ILLEGAL.sub(lambda match: f"&#x{ord(match.group()):02x};", text)


def element(name: str, text: object) -> str:
    """Give ``<name>text</name>``, escaped."""
    return f"<{name}>{escape(str(text))}</{name}>"


def document(root: str, *children: str) -> bytes:
    """Give a whole XML document."""
    return f'<?xml version="1.0" encoding="UTF-8"?><{root} xmlns="{XMLNS}">{"".join(children)}</{root}>'.encode()


def iso_time(seconds: float) -> str:
    """Give ``YYYY-MM-DDTHH:MM:SS.mmmZ``."""
    millis = round(seconds * 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(millis // 1000))}.{millis % 1000:03d}Z"


def read_number(text: str, name: str, default: int) -> int:
    """Read a page limit, clamped to 1000 as every server does."""
    if not text:
        return default
    if not re.fullmatch(r"-?\d+", text):
        raise S3Fault(400, "InvalidArgument", f"bad {name}")
    return max(0, min(int(text), 1000))


def cut_page(keys: Iterable[str], query: Query, *, rolled_style: str = "rgw") -> Page:
    """Take one page of sorted keys, rolling up groups.

    RGW's style steps over a group when the cursor is the group or within it; AWS's shows the
    group again while a key after the cursor is in it, unless a page ended with the group.
    """
    page = Page([], [])
    if query.max_keys == 0:
        return page
    for key, group in _iter_names(keys, query, rolled_style):
        if group and page.groups and page.groups[-1] == group:
            continue
        if len(page.keys) + len(page.groups) == query.max_keys:
            page.truncated = True
            return page
        (page.groups if group else page.keys).append(group or key)
        page.last = group or key
    return page


def _iter_names(keys: Iterable[str], query: Query, rolled_style: str) -> Iterator[tuple[str, str]]:
    skip = group_of(query.after, query) if query.after.startswith(query.prefix) else ""
    for key in keys:
        if not key.startswith(query.prefix):
            if key > query.prefix:
                return
            continue
        if query.skips_subtrees and not query.from_page and key.startswith(f"{query.after}/"):
            continue
        group = group_of(key, query)
        if group and group == skip and (rolled_style == "rgw" or (query.from_page and query.after == skip)):
            continue
        yield key, group


def group_of(key: str, query: Query) -> str:
    """Give the common prefix that a key is rolled up into, or nothing."""
    if not query.delimiter:
        return ""
    end = key.find(query.delimiter, len(query.prefix))
    return "" if end < 0 else key[: end + len(query.delimiter)]


@dataclass
class Scribe:
    """Writes names into pages: percent-encoded or not, each server in its own way."""

    encoded: bool
    style: str = "rgw"

    def name(self, text: str) -> str:
        """Write a Key or a Prefix of CommonPrefixes."""
        if not self.encoded:
            return text
        if self.style == "rgw":
            return quote(text, safe="-._~'")
        return quote(text, safe="/*-._").replace("%20", "+")

    def echo(self, text: str) -> str:
        """Write what the client sent; RGW leaves it raw whatever was asked."""
        return text if self.style == "rgw" else self.name(text)

    def groups(self, groups: Iterable[str]) -> str:
        """Write the common prefixes."""
        return "".join(f"<CommonPrefixes>{element('Prefix', self.name(group))}</CommonPrefixes>" for group in groups)

    def contents(self, version: Version, *, owner: bool) -> str:
        """Write one object of V1 or V2."""
        return (
            f"<Contents>{element('Key', self.name(version.key))}{element('LastModified', iso_time(version.mtime))}"
            f"<ETag>&quot;{version.etag}&quot;</ETag>{element('Size', len(version.body))}"
            f"{element('StorageClass', version.storage_class)}{OWNER if owner else ''}</Contents>"
        )

    def version(self, version: Version, *, latest: bool) -> str:
        """Write one version or delete marker."""
        tag = "DeleteMarker" if version.marker else "Version"
        rest = (
            ""
            if version.marker
            else f"<ETag>&quot;{version.etag}&quot;</ETag>{element('Size', len(version.body))}"
            f"{element('StorageClass', version.storage_class)}"
        )
        return (
            f"<{tag}>{element('Key', self.name(version.key))}{element('VersionId', version.version_id)}"
            f"{element('IsLatest', str(latest).lower())}"
            f"{element('LastModified', iso_time(version.mtime))}{rest}{OWNER}</{tag}>"
        )

    def upload(self, upload: Upload) -> str:
        """Write one unfinished upload."""
        return (
            f"<Upload>{element('Key', self.name(upload.key))}{element('UploadId', upload.upload_id)}{OWNER}"
            f"{element('StorageClass', upload.storage_class)}"
            f"{element('Initiated', iso_time(upload.initiated))}</Upload>"
        )


OWNER = "<Owner><ID>fake</ID><DisplayName>fake</DisplayName></Owner>"


def visible_keys(bucket: Bucket, query: Query, *, tree_order: bool = False) -> list[str]:
    """Give the keys with a current version, from the cursor or the prefix on."""
    if tree_order:
        keys = sorted((key for key in bucket.versions if bucket.current(key)), key=lambda key: key.split("/"))
        below = [key for key in keys if key.startswith(query.prefix)]
        return [key for key in below if not query.after or key.split("/") > query.after.split("/")]
    start, inclusive = query.after, query.inclusive
    if query.prefix > start:
        start, inclusive = query.prefix, True
    keys = [key for key in bucket.keys_from(start, inclusive=inclusive) if bucket.current(key)]
    return [key for key in keys if not (query.hides_below and _is_below_an_object(bucket, key))]


def _is_below_an_object(bucket: Bucket, key: str) -> bool:
    return any(bucket.current(key[:end]) for end, letter in enumerate(key) if letter == "/")
