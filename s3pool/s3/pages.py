"""The pages of listings: objects, versions, uploads.

A page that is cut or empty by accident must never look like the end of a listing, so only a complete document counts.
Names are decoded only when the answer itself says ``EncodingType`` ``url``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import le, lt
from typing import TypeVar
from urllib.parse import unquote_plus

from s3pool.errors import ProtocolError
from s3pool.location import name_bytes
from s3pool.model import ListPage, ObjectInfo, UploadInfo
from s3pool.record import replace
from s3pool.s3.documents import UploadPage
from s3pool.s3.page_table import names_of
from s3pool.s3.part_sizes import MAX_KEYS
from s3pool.s3.xml import Element, bare_etag, flag, iso_millis, number, read_root, required, truth

VERSION_TAGS = ("Version", "DeleteMarker")

Decode = Callable[[str], str]


def parse_list_page(body: bytes, *, v1: bool = False) -> ListPage:
    """Read a page of ListObjectsV2 or of its predecessor.

    ``v1`` says that V1 was asked for; an answer that shows V1's fields is taken for V1 in any
    case, and its ``v1`` says so. V1 without a NextMarker goes on after its last name.
    """
    root, objects = _read_rows(body, "ListBucketResult", "Contents")
    decode = _decoder(root)
    prefixes = _prefixes(root, decode)
    fields = root.fields()
    is_v1 = v1 or (
        ("Marker" in fields or "NextMarker" in fields) and not fields.keys() & {"KeyCount", "NextContinuationToken"}
    )
    truncated = flag(root, "IsTruncated")
    token = fields.get("NextContinuationToken", "")
    if is_v1:
        last = max([*(entry.key for entry in objects[-1:]), *prefixes[-1:]], default="")
        token = _decode_marker(fields.get("NextMarker", ""), (last,), decode) or last
    if truncated and not token:
        raise ProtocolError("a list page says that more follows, but not where")
    return ListPage(
        objects,
        prefixes,
        truncated,
        next_token=token if truncated else "",
        max_keys=number(fields.get("MaxKeys", "0"), "MaxKeys"),
        v1=is_v1,
    )


def _read_rows(body: bytes, name: str, *tags: str) -> tuple[Element, Sequence[ObjectInfo]]:
    """Read the objects of a list page, by the fast parser where it knows the page's shape.

    The root that goes with them may have lost its rows.
    """
    fast = _read_fast(body, name, *tags)
    if fast is not None:
        return fast
    root = read_root(body, name)
    decode = _decoder(root)
    return root, tuple(_object(entry, decode) for entry in root.children if entry.name in tags)


def _read_fast(body: bytes, name: str, *tags: str) -> tuple[Element, Sequence[ObjectInfo]] | None:
    # Its patterns take milliseconds to compile, which stat and its like need not pay.
    from s3pool.s3.page_scanner import split_page

    blocks = split_page(body, *tags)
    if blocks is None:
        return None
    root = read_root(blocks.rest, name)
    if any(child.name in tags for child in root.children):
        return None
    objects = blocks.objects(url=_decoder(root) is decode_name)
    return None if objects is None else (root, objects)


def _decode_marker(text: str, names: Iterable[str], decode: Decode) -> str:
    """Decode a marker, unless it is one of the page's last names as it stands.

    AWS and MinIO encode markers like keys, RGW does not, and nothing in the answer tells.
    """
    return text if text in names else decode(text)


def parse_versions_page(body: bytes) -> ListPage:
    """Read a page of ListObjectVersions, versions and delete markers in the server's order.

    ``next_token`` is the next key marker and ``next_version_id`` the next version id marker.
    """
    root, objects = _read_rows(body, "ListVersionsResult", "Version", "DeleteMarker")
    decode = _decoder(root)
    prefixes = _prefixes(root, decode)
    truncated = flag(root, "IsTruncated")
    last_names = (*(entry.key for entry in objects[-1:]), *prefixes[-1:])
    key_marker = _decode_marker(root.text_of("NextKeyMarker"), last_names, decode)
    if truncated and not key_marker:
        raise ProtocolError("a page of versions says that more follows, but not where")
    return ListPage(
        objects,
        prefixes,
        truncated,
        next_token=key_marker if truncated else "",
        next_version_id=root.text_of("NextVersionIdMarker") if truncated else "",
        max_keys=number(root.text_of("MaxKeys", "0"), "MaxKeys"),
    )


def parse_uploads_page(body: bytes) -> UploadPage:
    """Read a page of ListMultipartUploads; without IsTruncated, one that names no key to go on from is the last."""
    root = read_root(body, "ListMultipartUploadsResult")
    decode = _decoder(root)
    uploads = tuple(
        UploadInfo(
            decode(required(fields, "Key")),
            required(fields, "UploadId"),
            iso_millis(fields.get("Initiated", "")),
            storage_class=fields.get("StorageClass") or "STANDARD",
        )
        for fields in (entry.fields() for entry in root.all("Upload"))
    )
    truncated = flag(root, "IsTruncated") if root.text_of("IsTruncated") or root.text_of("NextKeyMarker") else False
    last_names = [entry.key for entry in uploads[-1:]]
    key_marker = _decode_marker(root.text_of("NextKeyMarker"), last_names, decode)
    if truncated and not key_marker:
        raise ProtocolError("a page of uploads says that more follows, but not where")
    return UploadPage(
        uploads,
        next_key_marker=key_marker if truncated else "",
        next_upload_id_marker=root.text_of("NextUploadIdMarker") if truncated else "",
        truncated=truncated,
        prefixes=_prefixes(root, decode),
    )


def _decoder(root: Element) -> Decode:
    encoding = root.text_of("EncodingType")
    if encoding == "url":
        return decode_name
    if encoding:
        raise ProtocolError(f"the names are encoded in an unknown way: {encoding}")
    return str


def decode_name(text: str) -> str:
    """Undo ``encoding-type=url``: ``+`` is a blank, ``%XX`` a byte."""
    return unquote_plus(text, "utf-8", "surrogateescape") if "%" in text or "+" in text else text


def _object(entry: Element, decode: Decode) -> ObjectInfo:
    fields = entry.fields()
    is_plain, is_marker = entry.name == "Contents", entry.name == "DeleteMarker"
    return ObjectInfo(
        decode(required(fields, "Key")),
        0 if is_marker else number(required(fields, "Size"), "Size"),
        iso_millis(required(fields, "LastModified")),
        etag="" if is_marker else bare_etag(fields.get("ETag", "")),
        storage_class=fields.get("StorageClass") or "STANDARD",
        version_id="" if is_plain else required(fields, "VersionId"),
        is_latest=is_plain or truth(required(fields, "IsLatest"), "IsLatest"),
        is_delete_marker=is_marker,
    )


def _prefixes(root: Element, decode: Decode) -> tuple[str, ...]:
    # Some servers put several prefixes into one CommonPrefixes.
    prefixes = tuple(decode(prefix.text) for holder in root.all("CommonPrefixes") for prefix in holder.all("Prefix"))
    if "" in prefixes:
        raise ProtocolError("an entry has no Prefix")
    return prefixes


def check_page(page: ListPage, *, prefix: str, delimiter: str = "", repeats: bool = False) -> ListPage:
    """Return the page, and whether it is in order; with ``repeats`` a key may come several times in a row."""
    names = names_of(page.objects)
    is_ordered = all(map(le if repeats else lt, names, islice(names, 1, None)))
    start = name_bytes(prefix)
    # What is between two names in order begins like both.
    check_names((names[0], names[-1]) if names and is_ordered else names, start)
    if page.prefixes:
        groups = list(map(name_bytes, page.prefixes))
        check_names(groups, start)
        is_ordered = is_ordered and all(map(lt, groups, islice(groups, 1, None)))
    if delimiter:
        _check_rolled_up(names, page.prefixes, start, delimiter.encode())
    return replace(page, is_ordered=is_ordered)


def check_uploads(page: UploadPage, *, prefix: str) -> UploadPage:
    """Return the page; raises ProtocolError for an upload to a key that is not below the prefix."""
    check_names([name_bytes(upload.key) for upload in page.uploads], name_bytes(prefix))
    return page


def check_names(names: Sequence[bytes], prefix: bytes) -> None:
    """Raise ProtocolError for a name that is not below the prefix."""
    if prefix and not all(name.startswith(prefix) for name in names):
        bad = next(name for name in names if not name.startswith(prefix))
        asked, got = (text.decode("utf-8", "backslashreplace") for text in (prefix, bad))
        raise ProtocolError(f"a listing below {asked!r} has {got!r}, so the server ignored the prefix")


def _check_rolled_up(names: Sequence[bytes], groups: Sequence[str], prefix: bytes, delimiter: bytes) -> None:
    """Raise ProtocolError for a name that the delimiter should have rolled up.

    A name may end in the delimiter: some servers list the object that stands for a directory by itself.
    """
    if not all(group.endswith(delimiter.decode()) for group in groups):
        raise ProtocolError("a common prefix of a listing does not end in the delimiter")
    if any(0 <= name.find(delimiter, len(prefix)) < len(name) - len(delimiter) for name in names):
        raise ProtocolError("a listing has names behind the delimiter, so the server ignored it")


def names_on(page: ListPage) -> int:
    """Return how many objects and prefixes a page has."""
    return len(page.objects) + len(page.prefixes)


T = TypeVar("T")


class ListingStats:
    """The listings of one client; safe in any thread.

    ``requests`` counts requests, each once however often the pool tried it; ``names`` the names
    that the listings yielded; ``needed`` the full pages that these fit on.
    """

    def __init__(self) -> None:
        # Guards all below; held for additions only.
        self._lock = threading.Lock()
        self.requests = self.names = self.needed = 0

    @property
    def extra(self) -> int:
        """Count the requests beyond those that were needed."""
        return max(0, self.requests - self.needed)

    def add(self, requests: int, names: int, needed: int) -> None:
        """Count requests that are made, and what listings took."""
        with self._lock:
            self.requests += requests
            self.names += names
            self.needed += needed

    def add_listing(self, names: int) -> None:
        """Count a listing that ended, by the names it gave; one of nothing needs a request, too."""
        self.add(0, names, -(-names // MAX_KEYS) or 1)

    def measure(self, items: Iterator[T], count: Callable[[T], int]) -> Iterator[T]:
        """Yield the items of one listing, and count their names when it ends or is left."""
        names = 0
        try:
            for item in items:
                names += count(item)
                yield item
        finally:
            self.add_listing(names)
