"""The scheduler of a parallel listing: which range asks next, and what a page changes.

Pure: no thread, no lock, no request. One caller at a time takes requests, applies their pages
and pops what is ready. The ranges cover the keys in order: each ends where the next begins, and
a key equal to that border belongs to the left one. A range is only cut above its cursor, and a
page is trimmed by the end in force when it is applied; so one range returns each key, once.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from math import inf

from s3pool.errors import NoEndpointError, ProtocolError, S3Error, S3PoolError, ThrottledError, UnorderedError
from s3pool.location import name_bytes
from s3pool.model import ListPage, ObjectInfo
from s3pool.record import replace
from s3pool.s3.key_ranges import (
    ConcurrencyLimit,
    Counts,
    HeldPage,
    KeyRange,
    Position,
    RangeRequest,
    absorb,
    begins_well,
    first_beyond,
    link,
    widens,
)
from s3pool.s3.pages import is_in_order, keys_of
from s3pool.s3.paging import REFUSALS, LoopGuard, floor_of, is_minio_token
from s3pool.s3.split_points import SplitPoints

logger = logging.getLogger(__name__)

# The share of requests beyond the ideal number that cuts may cost. A range costs half a page on
# average: its last one reaches beyond its end.
EXTRA_SHARE = 0.12
EXTRA_PER_RANGE = 0.5
EXTRA_IN_DOUBT = 1.0  # of a range that may turn out to be empty
THRIFTY_JOBS = 8  # up to this many the share holds; with more jobs it grows with them
JOBS_PER_FREE_CUT = 8  # or a short listing would never begin to be shared
MAX_GROWTH = 4.0  # what is still to come counts up to this times what was seen,
ESTIMATED_PAGES = 14.0  # and only while fewer pages than this were seen; more with more jobs,
MOST_ESTIMATED_PAGES = 34.0  # up to this number
MIN_PAGES_TO_CUT = 2.0  # with less to come a new range would only cost a request
CUTS_PER_PAGE = 2  # cuts of one range before it has to show another page
MAX_CUTS_AT_ONCE = 8
UNDERSIZED_WEIGHT = 0.15  # share of the newest child in the moving average of poor ones
MANY_UNDERSIZED = 0.5
SHORT_PAGE = 500  # a child whose only page has fewer keys was not worth its request
RANGE_RETRIES = 2  # beside those of the transport, while other ranges get on
MINIO_JOBS = 1  # each chain of tokens is a walk of its own over all drives: a second one costs what it saves
PAGES_AHEAD = 8  # what the caller has not taken of the range in front, before that waits
PAGES_KEPT_PLAIN = 32  # held pages beyond this are packed
WINDOW_PAGES = 1024  # what is held at most in order
LEAST_AHEAD = 2.0


class RangeScheduler:
    """All ranges of one listing.

    ``window`` is the number of pages held at most while they wait for their turn in order;
    without order it is the number that wait for the caller. With ``repeats`` a key may stand
    on a page several times in a row, and on no other page.
    """

    def __init__(
        self,
        bucket: str,
        *,
        limit: ConcurrencyLimit,
        prefix: str = "",
        start_after: str = "",
        until: str | None = None,
        ordered: bool = True,
        window: int = WINDOW_PAGES,
        repeats: bool = False,
    ) -> None:
        floor = floor_of(start_after, prefix)
        self.counts = Counts()
        self._bucket, self._prefix, self._limit = bucket, prefix, limit
        self._ordered, self._window, self._repeats = ordered, window, repeats
        self._split_points = SplitPoints(prefix)
        self._live = [KeyRange(floor, until, LoopGuard(bucket))]
        self._ready = list(self._live)
        self._out: deque[ListPage] = deque()  # without order
        self._held = 0  # pages held by ranges
        self._in_flight = 0
        self._applied = 0
        self._undersized = 0.0
        self._wasted = 0.0  # pages that were asked for and not needed
        self._may_cut, self._is_minio = True, False
        self._first, self._by_tokens = "", False  # the first key of all; whether names do not lead on everywhere

    @property
    def is_finished(self) -> bool:
        """Whether every page was popped and no range is left."""
        return not self._live and not self._out

    @property
    def to_come(self) -> float:
        """The estimated number of pages not asked for yet."""
        return sum(self._estimate(r) for r in self._live if r.may_be_cut)

    # -- requests --------------------------------------------------------------------------

    def take(self) -> RangeRequest | None:
        """Return the next request, None when there is nothing to ask for now."""
        if self._in_flight >= self._limit.limit:
            return None
        if self._ordered:
            self._measure_distances()
        chosen = self._next_ready()
        if chosen is None and self._cut_somewhere():
            chosen = self._next_ready()
        return None if chosen is None else self._launch(chosen)

    def _next_ready(self) -> KeyRange | None:
        if self._ordered:
            self._ready.sort(key=lambda r: r.distance)
        for r in self._ready:
            if not self._ordered:
                may_ask = self._has_room
            elif r is self._live[0]:  # the front is exempt from the window, or all would wait for it
                may_ask = len(r.held) < PAGES_AHEAD
            else:
                may_ask = r.distance < self._window and (self._has_room or self._evict_beyond(r))
            if may_ask:
                self._ready.remove(r)
                return r
        return None

    @property
    def _has_room(self) -> bool:
        return self._held + len(self._out) + self._in_flight < self._window

    def _launch(self, r: KeyRange) -> RangeRequest:
        prefix = r.narrowest_prefix(self._prefix) if self._is_minio else self._prefix
        if r.token and self._follows(r, prefix):
            if r.is_led:
                r.guard.follow(r.token)
            request = RangeRequest(r, r.stem, "", r.token, self._applied, is_fresh=r.token_at == r.cursor)
        else:
            # Where neither a name nor a token leads on, the range is read from its beginning.
            request = RangeRequest(r, prefix, "" if r.by_token else r.cursor, "", self._applied)
        r.request = request
        self._in_flight += 1
        self.counts.requests += 1
        return request

    def _follows(self, r: KeyRange, prefix: str) -> bool:
        """Return whether a range goes on by its token; MinIO's chains end at narrower directories."""
        if not r.is_within(r.stem, self._prefix):
            return False
        if r.by_token or r.is_led or self._by_tokens:
            return True
        return self._is_minio and prefix.startswith(r.stem) and "/" not in prefix[len(r.stem) :]

    # -- cuts ------------------------------------------------------------------------------

    def _cut_somewhere(self) -> bool:
        """Cut the range with most to come, and make its new neighbours ready."""
        if not self._may_cut or self._cuts_left() < 1:
            return False
        near = self._window if self._ordered else inf
        able = [r for r in self._live if r.may_be_cut and r.cuts < CUTS_PER_PAGE and r.distance < near]
        able.sort(key=self._estimate, reverse=True)
        for r in able:
            if self._estimate(r) < MIN_PAGES_TO_CUT or not (self._has_room or self._evict_beyond(r)):
                return False
            names = self._names_to_cut(r, rivals=len(able))
            if names:
                self._cut(r, names)
                return True
        return False

    def _cuts_left(self) -> int:
        """Return how many cuts may be made now without too many requests in the end."""
        seen = self.counts.pages
        open_ends = sum(EXTRA_PER_RANGE if r.is_begun else EXTRA_IN_DOUBT for r in self._live if not r.is_done)
        # A user who asks for many jobs wants the listing fast.
        haste = max(1.0, self._limit.limit / THRIFTY_JOBS)
        trusted = min(haste * ESTIMATED_PAGES, MOST_ESTIMATED_PAGES)
        allowed = haste * EXTRA_SHARE * max(seen, min(seen + min(self.to_come, MAX_GROWTH * seen), trusted))
        allowed = max(allowed, EXTRA_PER_RANGE * (1 + self._limit.limit / JOBS_PER_FREE_CUT))
        return int((allowed - self._wasted - open_ends) / EXTRA_PER_RANGE)

    def _names_to_cut(self, r: KeyRange, *, rivals: int) -> list[str]:
        expected = self._estimate(r)
        if self._ordered:
            ahead = min(expected / 2, max(LEAST_AHEAD, (self._window - r.distance) / 2))
            return self._split_points.choose(r, 1, ahead=ahead)
        idle = self._limit.limit - self._in_flight
        count = 1
        if self._undersized <= MANY_UNDERSIZED:
            count = max(1, min(MAX_CUTS_AT_ONCE, idle // rivals, int(expected / 2), self._cuts_left()))
        return self._split_points.choose(r, count)

    def _cut(self, r: KeyRange, names: Sequence[str]) -> None:
        lineage = (r.pages + r.lineage) // 2
        left = r
        made = []
        for name, end in zip(names, [*names[1:], r.end], strict=True):
            left = KeyRange(name, end, LoopGuard(self._bucket), left=left, parent=r, lineage=lineage)
            made.append(left)
        place = self._live.index(r) + 1
        link(r, made)
        r.end, r.estimate = names[0], None
        r.cuts += 1
        self._live[place:place] = made
        self._ready += made
        self.counts.cuts += len(made)
        if self._ordered:
            self._measure_distances()

    def _estimate(self, r: KeyRange) -> float:
        if not r.may_be_cut:
            return 0.0
        if r.estimate is None:
            r.estimate = self._split_points.estimate(r)
        return r.estimate

    # -- answers ---------------------------------------------------------------------------

    def apply(self, request: RangeRequest, page: ListPage) -> HeldPage | None:
        """Apply the page of a request; one that came twice, or too late, changes nothing.

        Returns a page that the caller may pack, outside of its lock.

        Raises ProtocolError: the server does not go on, or lists without order.
        """
        r = request.range
        if not request.is_awaited:
            return None
        r.request = None
        self._in_flight -= 1
        self._applied += 1
        keys = keys_of(page.objects)
        self._check_order(request, page)
        fits = begins_well(r, keys, is_last=request.prefix == self._prefix and not page.truncated)
        self._by_tokens = self._by_tokens or page.skips_subtrees or not fits
        if not fits or request.is_ignored_by(page):
            self._recover(r)
            return None
        if page.is_minio or is_minio_token(page.next_token):
            self._is_minio = True
            self._limit.cap(MINIO_JOBS)
        objects, is_over = self._trim(r, page.objects)
        is_last = not page.truncated and r.is_within(request.prefix, self._prefix)
        self._score_child(r, len(objects), is_last=is_over or is_last)
        self._wasted += not page.objects and is_last
        held = self._advance(r, replace(page, objects=objects) if objects else None)
        # At an end that is a key itself one page more tells what the next range has to begin with.
        r.is_done = is_over or is_last or (r.is_at_end and r.right is None)
        if page.truncated and not is_over:
            # The token of a page that went beyond the end would skip keys if the end moved up.
            r.token, r.token_at, r.stem = page.next_token, keys[-1] if keys else r.token_at, request.prefix
        r.is_led = (not objects or (r.is_at_end and r.token != "")) and not r.is_done and page.truncated
        self._go_on(r)
        return held

    def _go_on(self, r: KeyRange) -> None:
        if r.is_done:
            self._drop_done()
            return
        self._ready.append(r)
        if r.is_led:
            r.guard.meet(())
            if not r.token:
                raise ProtocolError(f"the server stopped advancing while it listed s3/{self._bucket}")

    def _check_order(self, request: RangeRequest, page: ListPage) -> None:
        is_whole = request.prefix == self._prefix
        if is_whole and page.objects and not (request.start_after or request.token):
            self._first = keys_of(page.objects)[0]
        turns_back = is_whole and self._first and request.turns_back(page, self._first)
        if turns_back or not is_in_order(page, repeats=self._repeats):
            raise UnorderedError(f"s3/{self._bucket} is not listed in order; use --jobs 1")

    def _trim(self, r: KeyRange, objects: Sequence[ObjectInfo]) -> tuple[Sequence[ObjectInfo], bool]:
        """Return the objects above the cursor up to the end, and whether some lay beyond the end."""
        if not objects:
            return objects, False
        keys = keys_of(objects)
        start, stop = 0, len(keys)
        if name_bytes(keys[0]) <= name_bytes(r.cursor):
            start = bisect_right(keys, name_bytes(r.cursor), key=name_bytes)
        if r.floor:
            start = bisect_left(keys, name_bytes(r.floor), lo=start, key=name_bytes)
        while (stop := first_beyond(r, keys, start)) < len(keys) and widens(r, keys[stop]):
            logger.debug("the next range lacks keys before %r, listing on to there", r.end)
        self._wasted += (len(objects) - stop) / len(objects)
        whole = not start and stop == len(keys)
        return objects if whole else objects[start:stop], stop < len(keys)

    def _score_child(self, r: KeyRange, count: int, *, is_last: bool) -> None:
        """Learn from the first page of a new range whether the cut was a good one."""
        parent = r.parent
        if not count and not is_last:
            return
        r.is_begun = True
        r.left = r.parent = None
        if parent is None:
            return
        undersized = 1.0 if count < SHORT_PAGE and is_last else 0.0
        self._undersized += UNDERSIZED_WEIGHT * (undersized - self._undersized)
        if not parent.is_done and parent.end == r.cursor:
            parent.is_upper_empty, parent.estimate = not count, None

    def _advance(self, r: KeyRange, page: ListPage | None) -> HeldPage | None:
        r.cuts = r.failures = 0
        if page is None:
            return None
        keys = keys_of(page.objects)
        before = Position(r.cursor, r.token, r.stem)
        r.first = r.first or keys[0]
        r.page_first, r.cursor, r.estimate = keys[0], keys[-1], None
        r.pages += 1
        r.guard.restart()
        self.counts.pages += 1
        self.counts.keys += len(keys)
        if self._may_cut and self._limit.limit > 1:
            self._split_points.learn(keys)
        if not self._ordered:
            self._out.append(page)
            return None
        held = HeldPage(page, before)
        r.held.append(held)
        self._held += 1
        return held if r is not self._live[0] and self._held > PAGES_KEPT_PLAIN else None

    # -- servers that fail, or know no start-after ---------------------------------------------------------

    def fail(self, request: RangeRequest, error: S3PoolError) -> None:
        """Let a range go on from its cursor after a failure that may pass.

        Raises S3PoolError: the error, where neither a retry nor another way can help.
        """
        r = request.range
        if not request.is_awaited:
            return
        r.request = None
        self._in_flight -= 1
        is_refused = isinstance(error, S3Error) and error.status in REFUSALS
        if is_refused and request.start_after:
            self._recover(r)
            return
        if is_refused and self._by_tokens:
            self._by_tokens = False  # only its own node knows it
            self._ready.append(r)
            return
        r.failures += 1
        # When no other page came meanwhile no node answers, and the transport has tried enough.
        is_alive = isinstance(error, ThrottledError) or self._applied > request.applied
        if r.failures > RANGE_RETRIES or not is_alive or not isinstance(error, (NoEndpointError, ThrottledError)):
            raise error
        self.counts.retries += 1
        r.guard.restart()
        self._limit.note_trouble()
        self._ready.append(r)

    def _recover(self, r: KeyRange) -> None:
        """Go on without start-after, which the server ignored or refused."""
        self._may_cut = False
        if r.left is not None:
            self._give_back(r, r.left)
        else:
            r.by_token = True
            self._ready.append(r)

    def _give_back(self, r: KeyRange, left: KeyRange) -> None:
        """Undo a cut: the left neighbour takes the keys back, even when it is done with its own."""
        place = self._live.index(r)
        if left in self._live:
            del self._live[place]
        else:
            self._live[place] = left
        absorb(left, r)
        if not left.pages:
            left.opens_with = None
        if left.is_done:
            left.is_done = False
            self._ready.append(left)

    # -- pages for the caller ---------------------------------------------------------------------

    def pop(self) -> ListPage | None:
        """Return the next page for the caller; None when there is none yet, or no more."""
        if not self._ordered:
            page = self._out.popleft() if self._out else None
        elif page := self._live[0].held.popleft().open() if self._live and self._live[0].held else None:
            self._held -= 1
            self._drop_done()
        return None if page is None else replace(page, truncated=not self.is_finished, next_token="")

    def _drop_done(self) -> None:
        """Drop ranges that are done: all of them without order, else those in front."""
        if not self._ordered:
            self._live = [r for r in self._live if not r.is_done]
            return
        while self._live and self._live[0].is_done and not self._live[0].held:
            del self._live[0]

    def _measure_distances(self) -> None:
        """Estimate how many pages stand between the front and each range."""
        distance = 0.0
        for r in self._live:
            r.distance = distance
            distance += len(r.held) + (0.0 if r.is_done else max(1.0, self._estimate(r)))

    def _evict_beyond(self, r: KeyRange) -> bool:
        """Make room for a range by giving up a page that is farther from the front."""
        for other in reversed(self._live):
            if other.distance <= r.distance or other is self._live[0]:
                return False
            if other.held and other.request is None:
                if other.is_done:
                    self._ready.append(other)
                self.counts.pages -= 1
                self.counts.keys -= other.held[-1].count
                self.counts.evicted += 1
                self._wasted += 1
                other.step_back()
                self._held -= 1
                return True
        return False
