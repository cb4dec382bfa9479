"""Whole listings, page after page, on a pool where every page may come from another node.

The cursor is the last name seen, as ``start-after``: any node can go on from there, whereas a continuation token is
the private word of one server. Tokens are followed only where names do not serve: on MinIO, where ``start-after``
makes it walk all drives again; on servers that refuse or ignore it; on servers that do not list in order; and past
pages without a name. The end of a listing is ``IsTruncated`` alone, never a short page.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypedDict

from s3pool.errors import ProtocolError, S3Error, UnorderedError
from s3pool.location import name_bytes
from s3pool.model import ListPage
from s3pool.record import replace
from s3pool.s3.pages import cut_page, is_in_order, keys_of, names_of
from s3pool.s3.requests import MAX_KEYS

if TYPE_CHECKING:
    from s3pool.s3.client import S3Client
    from s3pool.s3.operation import Pending

LAST_CHARACTER = "\U0010ffff"  # no group of keys reaches beyond its prefix and this
# So many pages in a row may have nothing new: servers list past what was deleted.
MAX_EMPTY_PAGES = 1000
MINIO_TAG = b"[minio_cache:"  # stands in every token of MinIO, after the key
# How servers refuse a start-after that they do not like: characters XML cannot hold (AWS),
# a name outside the prefix (NooBaa), one that is too long.
REFUSALS = (400, 500, 501)


class KeyBounds(TypedDict, total=False):
    """Which keys of a bucket are listed: below ``prefix``, behind ``start_after``, up to ``until`` and with it."""

    prefix: str
    start_after: str
    until: str | None


# Asks for a page without waiting for it, where that is possible now.
AskAhead = Callable[..., "Pending[ListPage] | None"]


def iter_pages(
    client: S3Client,
    bucket: str,
    *,
    prefix: str = "",
    delimiter: str = "",
    start_after: str = "",
    until: str | None = None,
    max_keys: int = 0,
    ahead: AskAhead | None = None,
    has_own_order: bool = False,
    must_be_ordered: bool = False,
) -> Iterator[ListPage]:
    """Yield the pages of a listing, at least one; only the first or the last may be empty.

    Names are in the order of their UTF-8 bytes, each once and within the KeyBounds, unless the server lists without
    order: with ``has_own_order`` it decides what comes after ``start_after``, with ``must_be_ordered`` that is an
    error. ``max_keys`` other than 0 bounds the objects and prefixes. A page is asked for when it is needed, or with
    ``ahead`` before the one in front of it is yielded.

    Raises ProtocolError: the server says that more follows, and does not go on. UnorderedError: it must list in order.
    """
    cursor, left = _Cursor(client, bucket, prefix=prefix, delimiter=delimiter, start_after=start_after), max_keys
    cursor.must_be_ordered, cursor.until = must_be_ordered, until
    if has_own_order:  # names below the start count as well
        cursor.floor, cursor.has_order = "", False
    try:
        while True:
            page = cursor.next_page(min(left, MAX_KEYS) if max_keys else MAX_KEYS)
            if max_keys:
                page = _shorten(page, left)
                left -= len(page.objects) + len(page.prefixes)
            elif ahead is not None and page.truncated and not cursor.by_token:
                cursor.pending = ahead(bucket, prefix=prefix, delimiter=delimiter, start_after=cursor.cursor)
            yield page
            if not page.truncated or (max_keys and not left):
                return
    finally:
        cursor.close()


def iter_version_pages(
    client: S3Client,
    bucket: str,
    *,
    prefix: str = "",
    delimiter: str = "",
    start_after: str = "",
    until: str | None = None,
) -> Iterator[ListPage]:
    """Yield the pages of versions, newest first within a key, of the keys from ``start_after`` up to ``until``.

    Raises ProtocolError: the server says that more follows, and does not go on.
    """
    guard = LoopGuard(bucket)
    floor = floor_of(start_after, prefix)
    marker = (floor, "")
    while True:
        page = client.list_versions_page(
            bucket, prefix=prefix, delimiter=delimiter, key_marker=marker[0], version_id_marker=marker[1]
        )
        guard.meet([*((info.key, info.version_id) for info in page.objects), *page.prefixes])
        if floor:
            page = _drop_through(page, floor)
        if until is not None and name_bytes(_last_name(page)) > name_bytes(until):
            page = cut_page(page, until)  # a page that ends with this key may not have all its versions
        yield page
        if not page.truncated:
            return
        marker = (page.next_token, page.next_version_id)
        guard.follow(marker)


class _Cursor:
    def __init__(self, client: S3Client, bucket: str, *, prefix: str, delimiter: str, start_after: str) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._delimiter = delimiter
        self._fetch = partial(client.list_objects_page, bucket, prefix=prefix, delimiter=delimiter)
        self._guard = LoopGuard(bucket)
        self.floor = floor_of(start_after, prefix)
        self.cursor = self.floor  # the start-after that leaves out every name yielded
        self._last = ""  # the last of these names
        self._first = b""  # the first name of all
        self._token = ""  # of the page before, "" before the first
        self.by_token = False
        self.has_order = True
        self.must_be_ordered = False
        self.until: str | None = None
        self.pending: Pending[ListPage] | None = None  # what goes on at the cursor

    def close(self) -> None:
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.abandon()

    def _follow_token(self, max_keys: int) -> ListPage:
        self._guard.follow(self._token)
        return self._fetch(token=self._token, max_keys=max_keys)

    def next_page(self, max_keys: int) -> ListPage:
        page = self._accept(self._ask(max_keys))
        while page.truncated and not (page.objects or page.prefixes):
            # An empty page proves nothing, and only its token leads on.
            page = self._accept(self._follow_token(max_keys))
        if self.must_be_ordered and not self.has_order:
            raise UnorderedError(f"s3/{self._bucket} is not listed in order: no range of its keys can be listed alone")
        return page if self.until is None else cut_page(page, self.until)

    def _ask(self, max_keys: int) -> ListPage:
        if self.by_token:
            return self._follow_token(max_keys)
        try:
            page = self._asked_before() or self._fetch(start_after=self.cursor, max_keys=max_keys)
        except S3Error as exc:
            if exc.status not in REFUSALS or not (self._token or self.cursor):
                raise
            if not self._token:
                return self._fetch(max_keys=max_keys)  # from the beginning, up to where it was to start
        else:
            last = _last_name(page)
            # Whether the answer to a start-after is in order and goes beyond it.
            serves = is_in_order(page) and (not last or name_bytes(last) > name_bytes(self.cursor))
            if not self._token or serves:
                return page
        self.by_token = True
        return self._follow_token(max_keys)

    def _asked_before(self) -> ListPage | None:
        """Return the page that was asked for ahead; None without one, or when V1 misunderstood where to start."""
        pending, self.pending = self.pending, None
        page = pending.finish() if pending is not None else None
        return None if page is None or page.v1 else page

    def _turns_back(self, page: ListPage) -> bool:
        """Return whether a page has names before the cursor that are none of a start-after misunderstood.

        Such a start-after gives the cursor once more, or everything from the first name on.
        """
        first = min([*names_of(page.objects)[:1], *map(name_bytes, page.prefixes[:1])], default=b"")
        if not self._first:
            self._first = first
        return b"" != first < name_bytes(self._last) and first != self._first

    def _accept(self, page: ListPage) -> ListPage:
        """Keep what is new on a page, and take the step to the next one."""
        self.has_order = self.has_order and is_in_order(page) and not self._turns_back(page)
        self._token = page.next_token
        by_token = page.is_minio or page.skips_subtrees or is_minio_token(page.next_token)
        self.by_token = self.by_token or by_token or not self.has_order
        # Without order every page has to be taken as it is, and the guard finds loops.
        floor = self.cursor if self.has_order else self.floor
        firsts = [*names_of(page.objects)[:1], *map(name_bytes, page.prefixes[:1])]
        if not self.has_order or any(name <= name_bytes(floor) for name in firsts):
            page = _drop_through(page, floor)
        last = _last_name(page)
        if last:
            self._last = last
            # After a common prefix it is a name behind all keys of the group: servers differ on
            # whether a name at the group's beginning, or inside it, lists the group once more.
            self.cursor = last + LAST_CHARACTER if page.prefixes and page.prefixes[-1] == last else last
            if not self.by_token:
                self._guard.restart()
        self._guard.meet([*names_of(page.objects)[:1], *names_of(page.objects)[-1:], *page.prefixes])
        return page


class LoopGuard:
    """Finds a server that leads in a circle, or to nothing new, in constant memory (Brent's algorithm)."""

    __slots__ = ("_anchor", "_bucket", "_contents", "_empty_pages", "_power", "_steps")

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket
        self._contents: LoopGuard | None = None
        self.restart()

    def restart(self) -> None:
        """Forget the way so far: the listing has advanced by itself."""
        self._anchor: Hashable = None
        self._power = 1
        self._steps = 0
        self._empty_pages = 0  # pages in a row without anything new

    def follow(self, position: Hashable) -> None:
        """Note where the server sends us. Raises ProtocolError: it has sent us there before."""
        if position == self._anchor:
            self._give_up()
        self._steps += 1
        if self._steps == self._power:
            self._anchor, self._power, self._steps = position, self._power * 2, 0

    def meet(self, names: Sequence[Hashable]) -> None:
        """Note what stands on a page, as far as it is new.

        Raises ProtocolError: pages come again behind new tokens, or too many have had nothing new.
        """
        if names:
            self._empty_pages = 0
            self._contents = self._contents or LoopGuard(self._bucket)
            self._contents.follow((names[0], names[-1], len(names)))
            return
        self._empty_pages += 1
        if self._empty_pages > MAX_EMPTY_PAGES:
            self._give_up()

    def _give_up(self) -> NoReturn:
        raise ProtocolError(f"the server stopped advancing while it listed s3/{self._bucket}")


def _last_name(page: ListPage) -> str:
    """Return the greatest name of an ordered page, "" for an empty one."""
    names = [*names_of(page.objects)[-1:], *map(name_bytes, page.prefixes[-1:])]
    return max(names, default=b"").decode("utf-8", "surrogateescape")


def _drop_through(page: ListPage, cursor: str) -> ListPage:
    """Leave out names up to the cursor: some servers take start-after as included, or not at all."""
    floor = name_bytes(cursor)
    return _filtered(page, lambda name: name_bytes(name) > floor, truncated=page.truncated)


def _filtered(page: ListPage, admits: Callable[[str], bool], *, truncated: bool) -> ListPage:
    objects = tuple(entry for entry in page.objects if admits(entry.key))
    return replace(page, objects=objects, prefixes=tuple(filter(admits, page.prefixes)), truncated=truncated)


def floor_of(start_after: str, prefix: str) -> str:
    """Return where to start; some servers fail on a name before the prefix, where it says nothing anyway."""
    return "" if name_bytes(start_after) < name_bytes(prefix) else start_after


def is_minio_token(token: str) -> bool:
    """Return whether a continuation token is one of MinIO."""
    try:
        return MINIO_TAG in binascii.a2b_base64(token)
    except ValueError:
        return False


def _shorten(page: ListPage, count: int) -> ListPage:
    """Return the page with its first ``count`` names, objects and prefixes together."""
    if len(page.objects) + len(page.prefixes) <= count:
        return page
    names = sorted([*keys_of(page.objects), *page.prefixes], key=name_bytes)
    limit = name_bytes(names[count])
    return _filtered(page, lambda name: name_bytes(name) < limit, truncated=True)
