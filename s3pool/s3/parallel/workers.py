"""A listing by many requests at once: threads around a board of key ranges.

The threads start when a listing has more than one page, never earlier, and end with the
generator. All decisions are the board's; here is only the lock around it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from s3pool.errors import S3Error, S3PoolError, UnorderedError
from s3pool.model import ListPage, ObjectInfo
from s3pool.record import replace
from s3pool.s3.listing import MINIO_TAG, Lister, LoopGuard, iter_pages, iter_version_pages
from s3pool.s3.page_table import keys_of
from s3pool.s3.parallel.concurrency import AUTO_JOBS, CAUTIOUS_JOBS, MOST_AUTO_JOBS, Width
from s3pool.s3.parallel.ranges import Counts, Flight
from s3pool.s3.parallel.scheduler import WINDOW_PAGES, RangeBoard

logger = logging.getLogger(__name__)

Fetch = Callable[[Flight], ListPage]
JOIN_S = 0.5  # how long the end waits for requests in flight; their threads are daemons
SPARE_JOIN_S = 0.05  # the same when no page is missing: what is in flight is of no use
WAKE_S = 0.5  # a wait looks around after so long, whatever happens
UNORDERED_PAGES_PER_JOB = 4  # pages that may wait for the caller
UNORDERED_PAGES = 16
VERSIONS_WINDOW_PAGES = 256  # pages of versions may be longer than others
PAGE_KEYS = 1000

SEPARATOR = "\0"  # between the markers of a token; XML holds it in neither

PATIENCE_S = 0.5  # nothing is overdue before
USUAL_TIMES = 5.0  # nor before so many times what requests usually take
NEWEST_WEIGHT = 0.2  # share of the newest answer in what is usual


def iter_pages_parallel(
    client: Lister,
    bucket: str,
    *,
    prefix: str = "",
    start_after: str = "",
    until: str | None = None,
    jobs: int = AUTO_JOBS,
    ordered: bool = True,
    most: int = CAUTIOUS_JOBS,
    window: int = WINDOW_PAGES,
    counts: Counts | None = None,
    must_be_ordered: bool = False,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[ListPage]:
    """Yield the pages of a listing without delimiter, fetched by up to ``jobs`` threads.

    They are those of ``iter_pages``, each key once; without ``ordered`` the pages come as
    they are ready, in any order. ``jobs`` of 0 lets the listing itself find out how many
    help, up to ``most``. ``window`` bounds the pages that wait for their turn. ``counts`` is
    filled with what was done. Servers that cannot list from a name on are followed by their
    tokens, or listed by one request after another.

    Raises:
        S3PoolError: a page could not be had; what came before it was yielded.
    """
    if jobs == 1:
        yield from iter_pages(
            client, bucket, prefix=prefix, start_after=start_after, until=until, must_be_ordered=must_be_ordered
        )
        return
    width = Width(jobs, most=min(most, MOST_AUTO_JOBS))
    if not ordered:
        window = min(window, max(UNORDERED_PAGES, UNORDERED_PAGES_PER_JOB * (jobs or most)))
    board = RangeBoard(
        bucket, prefix=prefix, width=width, start_after=start_after, until=until, ordered=ordered, window=window
    )
    if counts is not None:
        board.counts = counts
    crew = _Crew(board, width, _fetcher(client, bucket), now=now)
    try:
        crew.fetch_first()
    except UnorderedError:
        yield from iter_pages(
            client, bucket, prefix=prefix, start_after=start_after, until=until, must_be_ordered=must_be_ordered
        )
        return
    last = ""
    try:
        for page in crew.pages():
            last = keys_of(page.objects)[-1] if page.objects else last
            yield page
    except UnorderedError:
        if not ordered or must_be_ordered:
            raise
        # All up to the last key was given out, and the server goes on from there in its own order.
        yield from iter_pages(client, bucket, prefix=prefix, start_after=last or start_after, has_own_order=True)


def iter_version_pages_parallel(
    client: Lister,
    bucket: str,
    *,
    prefix: str = "",
    start_after: str = "",
    until: str | None = None,
    jobs: int = AUTO_JOBS,
    ordered: bool = True,
    most: int = CAUTIOUS_JOBS,
    counts: Counts | None = None,
) -> Iterator[ListPage]:
    """Yield the pages of ``iter_version_pages``, fetched by up to ``jobs`` threads.

    All versions of a key stand on one page, newest first. The other words are those of
    ``iter_pages_parallel``. MinIO, whose walks are followed by their markers, is listed by
    one request after another.

    Raises:
        S3PoolError: a page could not be had; what came before it was yielded.
    """
    if jobs == 1:
        yield from iter_version_pages(client, bucket, prefix=prefix, start_after=start_after, until=until)
        return
    width = Width(jobs, most=min(most, MOST_AUTO_JOBS))
    board = RangeBoard(
        bucket,
        prefix=prefix,
        width=width,
        start_after=start_after,
        until=until,
        ordered=ordered,
        window=VERSIONS_WINDOW_PAGES,
        repeats=True,
    )
    if counts is not None:
        board.counts = counts
    crew = _Crew(board, width, _fetcher(VersionLister(client), bucket), now=time.monotonic)
    try:
        crew.fetch_first()
    except (UnorderedError, MarkedWalkError):
        yield from iter_version_pages(client, bucket, prefix=prefix, start_after=start_after, until=until)
        return
    yield from crew.pages()


class _PageLister(Protocol):
    """The one operation that a listing of ranges needs."""

    def list_objects_page(self, bucket: str, *, prefix: str = "", start_after: str = "", token: str = "") -> ListPage:
        """List one page."""


def _fetcher(client: _PageLister, bucket: str) -> Fetch:
    def fetch(flight: Flight) -> ListPage:
        return client.list_objects_page(
            bucket, prefix=flight.prefix, start_after=flight.start_after, token=flight.token
        )

    return fetch


class _Crew:
    """The threads of one listing, and the caller who takes their pages."""

    def __init__(self, board: RangeBoard, width: Width, fetch: Fetch, *, now: Callable[[], float]) -> None:
        self._board = board
        self._width = width
        self._fetch = fetch
        self._now = now
        # Guards the board and all below; no request is made and no page packed under it.
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._overdue = Overdue()
        self._is_over = False
        self._error: BaseException | None = None

    def fetch_first(self) -> None:
        """Ask for the first page in the caller's thread; most listings are over with it."""
        flight = self._board.take()
        if flight is not None:
            self._overdue.begin(flight, self._now())
            try:
                page = self._fetch(flight)
            except S3Error as exc:
                self._overdue.end(flight, self._now(), is_answered=False)
                self._board.fail(flight, exc)
                return
            self._overdue.end(flight, self._now(), is_answered=True)
            self._board.commit(flight, page)

    def pages(self) -> Iterator[ListPage]:
        """Yield pages as they are ready; ends the threads whatever happens."""
        truncated = True
        try:
            while (page := self._next()) is not None:
                truncated = page.truncated
                yield page
        finally:
            self._end()
        if truncated:
            yield ListPage((), (), truncated=False)

    def _next(self) -> ListPage | None:
        with self._changed:
            while True:
                page = self._board.pop()
                if page is not None:
                    self._start_if_useful()
                    self._changed.notify_all()
                    return page
                if self._error is not None:
                    raise self._error
                if self._board.is_finished:
                    return None
                self._start_if_useful()
                self._changed.wait(WAKE_S)

    # -- threads ---------------------------------------------------------------------------

    def _start_if_useful(self) -> None:
        """Start one more thread unless one waits; it starts the next when it finds work."""
        if self._idle or self._is_over or self._board.is_finished or len(self._threads) >= self._width.limit:
            return
        thread = threading.Thread(target=self._work, name=f"s3pool-list-{len(self._threads) + 1}", daemon=True)
        self._threads.append(thread)
        self._idle += 1
        thread.start()

    def _work(self) -> None:
        try:
            while (flight := self._take()) is not None:
                self._fly(flight)
        except Exception as exc:
            # Whatever it is, the caller has to know: it waits for this thread's page.
            logger.debug("a listing thread failed", exc_info=True)
            self._fail(exc)

    def _take(self) -> Flight | None:
        with self._changed:
            while not self._is_over:
                flight = self._board.take() or self._take_overdue()
                if flight is not None:
                    self._overdue.begin(flight, self._now())
                    self._idle -= 1
                    self._start_if_useful()
                    return flight
                self._changed.wait(WAKE_S)
            return None

    def _take_overdue(self) -> Flight | None:
        flight = self._overdue.next(self._now())
        if flight is not None:
            self._board.counts.requests += 1
            logger.debug("a page is overdue, asking for it once more")
        return flight

    def _fly(self, flight: Flight) -> None:
        try:
            page = self._fetch(flight)
        except S3PoolError as exc:
            with self._changed:
                self._idle += 1
                is_last = self._overdue.end(flight, self._now(), is_answered=False)
                if is_last and not self._is_over:
                    self._board.fail(flight, exc)
                    self._changed.notify_all()
            return
        with self._changed:
            self._idle += 1
            self._overdue.end(flight, self._now(), is_answered=True)
            if self._is_over or not flight.is_awaited:
                return
            held = self._board.commit(flight, page)
            self._width.note_page(self._now(), to_come=self._board.to_come)
            self._changed.notify_all()
        if held is not None:
            held.pack()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._error is None:
                self._error = error
            self._is_over = True
            self._changed.notify_all()

    def _end(self) -> None:
        """Let the threads go; one that waits for a server is not waited for long."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        deadline = time.monotonic() + (SPARE_JOIN_S if self._board.is_finished else JOIN_S)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        counts = self._board.counts
        ideal = -(-counts.keys // PAGE_KEYS) or 1
        logger.debug("listed %d keys by %d requests, at best %d: %s", counts.keys, counts.requests, ideal, counts)


class MarkedWalkError(Exception):
    """The server's markers lead on by more than the names in them: it has to be followed page by page."""


class VersionLister:
    """Gives versions where objects are asked for; every page holds all versions of its keys."""

    def __init__(self, client: Lister) -> None:
        self._client = client

    def list_objects_page(self, bucket: str, *, prefix: str = "", start_after: str = "", token: str = "") -> ListPage:
        """List the versions of the keys behind ``start_after``, or behind those of a token.

        Raises:
            MarkedWalkError: the server is MinIO, whose markers hold more than a name.
        """
        key, _, version = token.rpartition(SEPARATOR) if token else (start_after, "", "")
        guard = LoopGuard(bucket)
        found: list[ObjectInfo] = []
        while True:
            page = self._client.list_versions_page(bucket, prefix=prefix, key_marker=key, version_id_marker=version)
            if page.is_minio or MINIO_TAG.decode() in page.next_token:
                raise MarkedWalkError
            found += page.objects
            if not page.truncated or not found:
                return replace(
                    page,
                    objects=tuple(found),
                    is_ordered=None,
                    next_token=_token(page.next_token, page.next_version_id),
                )
            whole = _count_whole(found)
            if whole:
                last = found[whole - 1]
                return replace(
                    page, objects=tuple(found[:whole]), is_ordered=None, next_token=_token(last.key, last.version_id)
                )
            # One key fills the page, and its history must stay in one piece.
            key, version = page.next_token, page.next_version_id
            guard.follow((key, version))


def _token(key: str, version: str) -> str:
    return f"{key}{SEPARATOR}{version}" if key else ""


def _count_whole(found: list[ObjectInfo]) -> int:
    """Count the versions before those of the last key."""
    last = found[-1].key
    return next((index for index in range(len(found), 0, -1) if found[index - 1].key != last), 0)


class Overdue:
    """What is under way, since when, and how often.

    A listing waits for its last page, and one node that swallows a request would hold it up.
    So a request that is overdue is made once more, and the first answer counts; but not one
    that follows a token, which on some servers is a walk of its own.
    """

    def __init__(self) -> None:
        self._since: dict[Flight, float] = {}
        self._copies: dict[Flight, int] = {}
        self._repeated: set[Flight] = set()
        self._usual_s: float | None = None

    def begin(self, flight: Flight, now: float) -> None:
        """Note that a request is made, perhaps once more."""
        if flight in self._since:
            self._repeated.add(flight)
        self._since.setdefault(flight, now)
        self._copies[flight] = self._copies.get(flight, 0) + 1

    def end(self, flight: Flight, now: float, *, is_answered: bool) -> bool:
        """Note that it came back; say whether nothing is left of it under way."""
        if is_answered:
            seconds = now - self._since[flight]
            usual_s = seconds if self._usual_s is None else self._usual_s
            self._usual_s = usual_s + NEWEST_WEIGHT * (seconds - usual_s)
        self._copies[flight] -= 1
        is_last = not self._copies[flight]
        if is_last:
            del self._copies[flight], self._since[flight]
            self._repeated.discard(flight)
        return is_last

    def next(self, now: float) -> Flight | None:
        """Give a request to be made once more."""
        if self._usual_s is None:
            return None
        limit_s = max(PATIENCE_S, USUAL_TIMES * self._usual_s)
        return next(
            (
                flight
                for flight, since in self._since.items()
                if now - since > limit_s and flight not in self._repeated and not flight.token and flight.is_awaited
            ),
            None,
        )
