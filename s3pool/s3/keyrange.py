"""One range of keys of a parallel listing, the requests made for it, and the pages it holds."""

from __future__ import annotations

import marshal
import zlib
from collections import deque
from typing import Any, NamedTuple

from s3pool.model import ListPage
from s3pool.record import dataclass, field
from s3pool.s3.alphabet import shared_length
from s3pool.s3.columns import ObjectTable, build_objects, keys_of
from s3pool.s3.listing import LoopGuard, name_order

PACK_LEVEL = 1  # zlib's fastest; names in order shrink to a tenth all the same


@dataclass(slots=True)
class Counts:
    """What a listing did, for people who tune it."""

    requests: int = 0
    pages: int = 0  # with something new on them
    keys: int = 0
    empty: int = 0  # first pages that proved a range empty
    cuts: int = 0
    surplus: int = 0  # keys read beyond the end of their range
    evicted: int = 0
    retries: int = 0


class Position(NamedTuple):
    """Where a range goes on: behind a key, and by a token where keys do not serve."""

    cursor: str
    token: str = ""
    stem: str = ""  # the prefix that the token belongs to


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """One request of a range, on its way; it may be committed once."""

    range: KeyRange
    prefix: str
    start_after: str
    token: str
    commits: int  # how many pages the whole listing had when it left
    is_fresh: bool = False  # its token is that of the page that ended at the cursor

    @property
    def is_awaited(self) -> bool:
        """Say whether its page still counts."""
        return self.range.flight is self

    def turns_back(self, page: ListPage, first: str) -> bool:
        """Whether the page has names from before the cursor, and is not the listing's ``first`` page once more."""
        if not page.objects or not (self.is_fresh or self.start_after):
            return False
        name = name_order(keys_of(page.objects)[0])
        return name < name_order(self.range.cursor) and name != name_order(first)

    def is_ignored_by(self, page: ListPage) -> bool:
        """Say whether the server answered as if no start-after had been sent; an equal key is fine."""
        if not self.start_after or not page.objects:
            return False
        return name_order(keys_of(page.objects)[0]) < name_order(self.start_after)


class HeldPage:
    """A page that waits for its turn; it can be packed to a tenth of its size by any thread."""

    __slots__ = ("_packed", "_page", "before", "count", "first")

    def __init__(self, page: ListPage, before: Position) -> None:
        self.before = before  # where the range stood before this page
        self.first = keys_of(page.objects)[0]
        self.count = len(page.objects)
        self._page: ListPage | None = page
        self._packed = b""

    def pack(self) -> None:
        """Shrink it; harmless beside a thread that opens it."""
        page = self._page
        if page is None:
            return
        objects = page.objects
        # Only plain values can be packed.
        plain: Any = objects.columns if isinstance(objects, ObjectTable) else [tuple(info) for info in objects]
        self._packed = zlib.compress(marshal.dumps(plain), PACK_LEVEL)
        self._page = None

    def open(self) -> ListPage:
        """Give the page."""
        page = self._page
        if page is not None:
            return page
        plain = marshal.loads(zlib.decompress(self._packed))
        objects = ObjectTable.of_columns(plain) if isinstance(plain, tuple) else build_objects(plain)
        return ListPage(objects, (), truncated=True)


@dataclass(slots=True, eq=False)
class KeyRange:
    """The keys greater than ``cursor``, up to ``end`` and with it; an ``end`` of None is no bound.

    All keys up to the cursor were given out or are held. ``left`` is the neighbour that takes
    the keys back as long as no page has shown that the server can start here.
    """

    cursor: str
    end: str | None
    guard: LoopGuard
    left: KeyRange | None = None
    parent: KeyRange | None = None  # it is told what the first page shows
    right: KeyRange | None = None  # the neighbour that begins where this one ends
    expected: str = ""  # what the range before has read as the first key beyond its end
    opens_with: str | None = None  # the first key of the first page, "" for none; None before it came
    excludes_end: bool = False
    floor: str = ""  # names below it are the left neighbour's, which ends there
    lineage: int = 0  # pages that the ranges gave from which this one was cut
    token: str = ""  # of the last page
    token_at: str | None = None  # the cursor that it belongs to
    stem: str = ""  # the prefix under which that page was asked for
    by_token: bool = False  # this server has to be followed by its tokens here
    is_led: bool = False  # the last page was empty: only its token leads on
    first: str = ""
    page_first: str = ""
    pages: int = 0
    cuts: int = 0  # since the last page
    failures: int = 0  # since the last page
    is_begun: bool = False  # it has shown that the server can start here
    is_done: bool = False
    is_open_tried: bool = False
    is_upper_empty: bool = False
    estimate: float | None = None
    distance: float = 0.0
    flight: Flight | None = None
    held: deque[HeldPage] = field(default_factory=deque)

    @property
    def position(self) -> Position:
        """Give where it stands."""
        return Position(self.cursor, self.token, self.stem)

    @property
    def is_at_end(self) -> bool:
        """Whether the cursor has reached an end that is a key itself."""
        return self.end is not None and name_order(self.cursor) >= name_order(self.end)

    @property
    def may_be_cut(self) -> bool:
        """Say whether there is a page to judge by and something left to judge."""
        return bool(self.first) and not self.is_done

    def step_back(self) -> None:
        """Forget the last page it holds; it is asked for again when its turn is near."""
        self.cursor, self.token, self.stem = self.held.pop().before
        self.token_at = None
        self.pages -= 1
        self.is_done = self.is_led = False
        self.estimate = None
        self.guard.restart()
        if self.held:
            self.page_first = self.held[-1].first
        else:
            self.first = self.page_first = ""
            self.opens_with = self.floor or None  # what was written meanwhile is found when it is listed again

    def narrowest_prefix(self, prefix: str) -> str:
        """Give the longest prefix that all its keys have."""
        return prefix if self.end is None else self.end[: max(len(prefix), shared_length(self.cursor, self.end))]

    def is_within(self, prefix: str, outer: str) -> bool:
        """Say whether all its keys start with a prefix, given that they do with the outer one."""
        return len(prefix) <= len(outer) or (self.end is not None and self.end.startswith(prefix))
