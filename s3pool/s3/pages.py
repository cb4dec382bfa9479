"""The pages of listings: objects, versions, uploads; and the objects of a page as columns.

A page that is cut or empty by accident must never look like the end of a listing, so only a complete document counts.
Names are decoded only when the answer itself says ``EncodingType`` ``url``. A page of a thousand objects costs as
much to build as to read, and to print them takes no object for each: a listing to a file looks at whole columns.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, repeat
from operator import le, lt
from typing import TYPE_CHECKING, overload
from urllib.parse import unquote_plus

from s3pool.errors import ProtocolError
from s3pool.location import name_bytes
from s3pool.model import ListPage, ObjectInfo, UploadInfo
from s3pool.record import replace
from s3pool.s3.documents import Element, UploadPage, bare_etag, flag, iso_millis, number, read_root, required, truth

if TYPE_CHECKING:
    from s3pool.s3.page_scanner import Blocks

Decode = Callable[[str], str]


def parse_list_page(body: bytes, *, v1: bool = False) -> ListPage:
    """Read a page of ListObjectsV2 or of its predecessor.

    ``v1`` says that V1 was asked for; an answer that shows V1's fields is taken for V1 in any
    case, and its ``v1`` says so. V1 without a NextMarker goes on after its last name.
    """
    root, objects = _read_rows(body, "ListBucketResult", "Contents")
    decode, fields = _decoder(root), root.fields()
    prefixes = _prefixes(root, decode)
    is_v1 = v1 or (
        ("Marker" in fields or "NextMarker" in fields) and not fields.keys() & {"KeyCount", "NextContinuationToken"}
    )
    token = fields.get("NextContinuationToken", "")
    if is_v1:
        last = max([*keys_of(objects)[-1:], *prefixes[-1:]], default="")
        token = _decode_marker(fields.get("NextMarker", ""), (last,), decode) or last
    truncated = _is_truncated(root, token, what="list page")
    max_keys = number(fields.get("MaxKeys", "0"), "MaxKeys")
    return ListPage(objects, prefixes, truncated, next_token=token if truncated else "", max_keys=max_keys, v1=is_v1)


def _is_truncated(root: Element, marker: str, *, what: str) -> bool:
    truncated = flag(root, "IsTruncated")
    if truncated and not marker:
        raise ProtocolError(f"a {what} says that more follows, but not where")
    return truncated


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
    objects = _objects_of(blocks, url=_decoder(root) is decode_name)
    return None if objects is None else (root, objects)


def _objects_of(blocks: Blocks, *, url: bool) -> Sequence[ObjectInfo] | None:
    """Return the objects of a page's blocks; None when their text needs expat."""
    keys, times = blocks.keys(url=url), Times(blocks.times)
    if keys is None or not times.are_sound(len(keys)):
        return None
    sizes, etags, classes = map(blocks.column, ("Size", "ETag", "StorageClass"))
    latest = blocks.columns.get("IsLatest")
    if latest is None:
        return ObjectTable(keys, sizes, times, etags, classes)
    texts = map(texts_of, (etags, classes, blocks.column("VersionId")))
    rows = zip(
        texts_of(keys), map(int, sizes), times.all(), *texts, [text == b"true" for text in latest], blocks.is_marker,
        strict=False,
    )  # fmt: skip
    return build_objects(rows)


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
    last_names = (*(entry.key for entry in objects[-1:]), *prefixes[-1:])
    key_marker = _decode_marker(root.text_of("NextKeyMarker"), last_names, decode)
    truncated = _is_truncated(root, key_marker, what="page of versions")
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
    key_marker = _decode_marker(root.text_of("NextKeyMarker"), [entry.key for entry in uploads[-1:]], decode)
    is_told = bool(root.text_of("IsTruncated") or key_marker)
    truncated = is_told and _is_truncated(root, key_marker, what="page of uploads")
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
    is_ordered = _increases(names, le if repeats else lt)
    start = name_bytes(prefix)
    # What is between two names in order begins like both.
    check_names((names[0], names[-1]) if names and is_ordered else names, start)
    if page.prefixes:
        groups = list(map(name_bytes, page.prefixes))
        check_names(groups, start)
        is_ordered = is_ordered and _increases(groups)
    if delimiter:
        _check_rolled_up(names, page.prefixes, start, delimiter.encode())
    return replace(page, is_ordered=is_ordered)


def is_in_order(page: ListPage, *, repeats: bool = False) -> bool:
    """Return whether a page is in S3's order; with ``repeats`` a key may come several times in a row."""
    if page.is_ordered is not None:
        return page.is_ordered
    return _increases(names_of(page.objects), le if repeats else lt) and _increases(
        list(map(name_bytes, page.prefixes))
    )


def _increases(names: Sequence[bytes], before: Callable[[bytes, bytes], bool] = lt) -> bool:
    return all(map(before, names, islice(names, 1, None)))


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


def versions_of(objects: Sequence[ObjectInfo]) -> Sequence[str]:
    """Return the version ids, none where the server told none, without making an object for each."""
    is_told = not isinstance(objects, ObjectTable) and objects[0].version_id
    return [info.version_id for info in objects] if is_told else ()


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
