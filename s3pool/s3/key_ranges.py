"""One range of keys of a parallel listing: its requests, the pages it holds, and its border to the next.

What a range has read beyond its end, the next one must begin with. Some servers skip a subtree
when start-after names its directory exactly (SeaweedFS 4.44), and a cut may well be such a name.
Nothing else would show that keys are missing.
"""

from __future__ import annotations

import marshal
import zlib
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from s3pool.location import name_bytes
from s3pool.model import ListPage
from s3pool.record import dataclass, field
from s3pool.s3.pages import ObjectTable, Times, build_objects, keys_of
from s3pool.s3.paging import LoopGuard
from s3pool.s3.split_points import shared_length

AUTO_JOBS = 0  # as many as help
CAUTIOUS_JOBS = 8  # while the size of the listing is unknown
MOST_AUTO_JOBS = 32  # beyond, one process only waits for itself
WINDOW_PAGES = 16  # a rate is measured over this many pages, or two for each job
PAGES_PER_JOB = 8  # a listing with less to come gains nothing from more jobs
LEAST_GAIN = 1.1
PACK_LEVEL = 1  # zlib's fastest; names in order shrink to a tenth all the same
STRIKES = 2  # windows without gain before the limit is halved for good


class ConcurrencyLimit:
    """The bound on requests under way; pure, the time comes with the pages.

    A fixed number only goes down when servers throttle, and up again page by page. The
    automatic one doubles while much is to come and the pages come faster for it.
    """

    def __init__(self, jobs: int, *, most: int = CAUTIOUS_JOBS) -> None:
        self._is_auto = jobs == AUTO_JOBS
        self._most = max(1, most) if self._is_auto else jobs
        self.limit = min(CAUTIOUS_JOBS, self._most) if self._is_auto else jobs
        self._goal = self.limit  # what the limit returns to after trouble
        self._clean = 0  # pages since the last trouble
        self._window = 0
        self._since: float | None = None
        self._rate_before = 0.0  # pages a second with half as many jobs, 0 when not known
        self._strikes = 0

    def cap(self, most: int) -> None:
        """Never go above a number from now on."""
        self._most = min(self._most, most)
        self._goal = min(self._goal, most)
        self.limit = min(self.limit, most)
        self._is_auto = False

    def note_trouble(self) -> None:
        """Halve: a range failed although its request went to several nodes."""
        self.limit = max(1, self.limit // 2)
        self._restart()

    def note_page(self, now: float, *, to_come: float) -> None:
        """Note that a page came, and how many are still expected."""
        self._clean += 1
        if self.limit < self._goal:
            if self._clean >= WINDOW_PAGES:
                self.limit += 1
                self._restart()
            return
        if self._is_auto:
            self._measure(now, to_come)

    def _measure(self, now: float, to_come: float) -> None:
        if self._since is None:
            self._since = now
            return
        self._window += 1
        if self._window < max(WINDOW_PAGES, 2 * self.limit):
            return
        rate = self._window / max(now - self._since, 1e-9)
        self._window, self._since = 0, now
        if self._rate_before and rate < LEAST_GAIN * self._rate_before:
            self._strikes += 1
            if self._strikes >= STRIKES:
                self._goal = self.limit = max(1, self.limit // 2)
                self._is_auto = False
            return
        self._strikes = 0
        doubled = self.limit * 2
        if doubled <= self._most and to_come >= PAGES_PER_JOB * doubled:
            self._rate_before = rate
            self._goal = self.limit = doubled

    def _restart(self) -> None:
        self._clean = self._window = 0
        self._since = None


@dataclass(slots=True)
class Counts:
    """What a listing did, for tuning."""

    requests: int = 0
    pages: int = 0  # with something new on them
    keys: int = 0
    cuts: int = 0
    evicted: int = 0
    retries: int = 0


class Position(NamedTuple):
    """Where a range goes on: behind a key, and by a token where keys do not serve."""

    cursor: str
    token: str = ""
    stem: str = ""  # the prefix that the token belongs to


@dataclass(frozen=True, slots=True, eq=False)
class RangeRequest:
    """One request of a range, under way; its page may be applied once."""

    range: KeyRange
    prefix: str
    start_after: str
    token: str
    applied: int  # pages that the whole listing had when the request was made
    is_fresh: bool = False  # its token is that of the page that ended at the cursor

    @property
    def is_awaited(self) -> bool:
        """Whether its page still counts."""
        return self.range.request is self

    def turns_back(self, page: ListPage, first: str) -> bool:
        """Whether the page has names from before the cursor, and is not the listing's ``first`` page once more."""
        if not page.objects or not (self.is_fresh or self.start_after):
            return False
        name = name_bytes(keys_of(page.objects)[0])
        return name < name_bytes(self.range.cursor) and name != name_bytes(first)

    def is_ignored_by(self, page: ListPage) -> bool:
        """Return whether the server ignored the start-after; a first key equal to it is fine."""
        if not self.start_after or not page.objects:
            return False
        return name_bytes(keys_of(page.objects)[0]) < name_bytes(self.start_after)


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
        """Compress the page; safe beside a thread that opens it."""
        page = self._page
        if page is None:
            return
        objects = page.objects
        if isinstance(objects, ObjectTable):  # only plain values can be packed
            names, sizes, times, *others = objects.columns
            plain: Any = (names, sizes, bytes(times), *others)
        else:
            plain = [tuple(info) for info in objects]
        self._packed = zlib.compress(marshal.dumps(plain), PACK_LEVEL)
        self._page = None

    def open(self) -> ListPage:
        """Return the page."""
        page = self._page
        if page is not None:
            return page
        plain = marshal.loads(zlib.decompress(self._packed))
        if isinstance(plain, list):
            return ListPage(build_objects(plain), (), truncated=True)
        names, sizes, times, *others = plain
        return ListPage(ObjectTable(names, sizes, Times(times), *others), (), truncated=True)


@dataclass(slots=True, eq=False)
class KeyRange:
    """The keys greater than ``cursor``, up to ``end`` and with it; an ``end`` of None is no bound.

    All keys up to the cursor were yielded or are held. ``left`` is the neighbour that takes
    the keys back as long as no page has shown that the server can start here.
    """

    cursor: str
    end: str | None
    guard: LoopGuard
    left: KeyRange | None = None
    parent: KeyRange | None = None  # the range from which this one was cut
    right: KeyRange | None = None  # the neighbour that begins where this one ends
    expected: str = ""  # the first key beyond the end of the range before, as that one has read it
    opens_with: str | None = None  # the first key of the first page, "" for none; None before it came
    excludes_end: bool = False
    floor: str = ""  # names below it are the left neighbour's, which ends there
    lineage: int = 0  # pages of the ranges from which this one was cut
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
    request: RangeRequest | None = None
    held: deque[HeldPage] = field(default_factory=deque)

    @property
    def position(self) -> Position:
        """The position at which the range goes on."""
        return Position(self.cursor, self.token, self.stem)

    @property
    def is_at_end(self) -> bool:
        """Whether the cursor has reached an end that is a key itself."""
        return self.end is not None and name_bytes(self.cursor) >= name_bytes(self.end)

    @property
    def may_be_cut(self) -> bool:
        """Whether there is a page to judge by, and something left to cut."""
        return bool(self.first) and not self.is_done

    def step_back(self) -> None:
        """Drop the last page held; it is asked for again when its turn is near."""
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
        """Return the longest prefix that all its keys have."""
        return prefix if self.end is None else self.end[: max(len(prefix), shared_length(self.cursor, self.end))]

    def is_within(self, prefix: str, outer: str) -> bool:
        """Return whether all its keys start with a prefix, given that they do with the outer one."""
        return len(prefix) <= len(outer) or (self.end is not None and self.end.startswith(prefix))


def link(r: KeyRange, made: Sequence[KeyRange]) -> None:
    """Put new ranges between a range and its right neighbour."""
    made[-1].right, made[-1].excludes_end = r.right, r.excludes_end
    r.excludes_end = False
    for left, right in pairwise([r, *made]):
        left.right = right
    _tell_right(made[-1])


def absorb(left: KeyRange, r: KeyRange) -> None:
    """Let a range end where its right neighbour does."""
    left.end, left.excludes_end, left.right = r.end, r.excludes_end, r.right
    left.estimate, left.is_upper_empty = None, False
    _tell_right(left)


def _tell_right(left: KeyRange) -> None:
    """Let the right neighbour give its keys back to this range, as long as it may have to."""
    if left.right is not None and not left.right.is_begun:
        left.right.left = left


def begins_well(r: KeyRange, keys: Sequence[str], *, is_last: bool) -> bool:
    """Note the first key of a range; False when it leaves out what the range before has read.

    ``is_last`` says that there is nothing behind the keys of this page.
    """
    if r.opens_with is not None:
        return True
    place = bisect_right(keys, name_bytes(r.cursor), key=name_bytes) if keys else 0
    if place == len(keys) and not is_last:
        return True  # nothing is known yet
    first = keys[place] if place < len(keys) else ""
    if r.expected and (not first or name_bytes(first) > name_bytes(r.expected)):
        r.expected = r.token = ""  # the range that takes the keys back begins anew, and may find others
        r.is_led = False
        return False
    r.opens_with = first
    return True


def widens(r: KeyRange, beyond: str) -> bool:
    """Compare the first key beyond a range's end with what the next ones began with; close a gap between them.

    True when there was one: the range then ends later, where the gap ends.
    """
    right = r.right
    if right is None:
        return False
    if right.opens_with is None:
        right.expected = beyond
        return False
    opens_with = right.opens_with
    if opens_with and name_bytes(opens_with) <= name_bytes(beyond):
        return False
    if opens_with and (right.end is None or name_bytes(opens_with) <= name_bytes(right.end)):
        r.end = right.floor = opens_with
        r.excludes_end, r.estimate = True, None
    else:
        absorb(r, right)  # which is empty by its first page
    return True


def first_beyond(r: KeyRange, keys: Sequence[str], start: int) -> int:
    """Return the place of the first key beyond the end of a range, the number of keys for none."""
    if r.end is None or name_bytes(keys[-1]) < name_bytes(r.end):
        return len(keys)
    return (bisect_left if r.excludes_end else bisect_right)(keys, name_bytes(r.end), lo=start, key=name_bytes)
