"""A listing by many requests at once: threads around a scheduler of key ranges.

The threads start when a listing has more than one page, never earlier, and end with the
generator. They are daemons of this module and not of a ThreadPoolExecutor: a command must not
wait at its end for a node that is silent. All decisions are the scheduler's; here is only the
lock around it. A node that is silent is the pool's business, which asks another one as well.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from s3pool.errors import S3Error, S3PoolError, UnorderedError
from s3pool.model import ListPage, ObjectInfo
from s3pool.record import replace
from s3pool.s3.key_ranges import AUTO_JOBS, CAUTIOUS_JOBS, MOST_AUTO_JOBS, ConcurrencyLimit, Counts, RangeRequest
from s3pool.s3.pages import keys_of
from s3pool.s3.paging import MINIO_TAG, KeyBounds, LoopGuard, iter_pages, iter_version_pages
from s3pool.s3.range_scheduler import WINDOW_PAGES, RangeScheduler
from s3pool.s3.requests import MAX_KEYS

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from s3pool.s3.client import S3Client

logger = logging.getLogger(__name__)


Fetch = Callable[[RangeRequest], ListPage]
JOIN_S = 0.5  # how long the end waits for requests under way; their threads are daemons
SPARE_JOIN_S = 0.05  # the same when no page is missing: what is under way is of no use
WAKE_S = 0.5  # a wait looks around after so long, whatever happens
UNORDERED_PAGES_PER_JOB = 4  # pages that may wait for the caller
UNORDERED_PAGES = 16
VERSIONS_WINDOW_PAGES = 256  # pages of versions may be longer than others
SEPARATOR = "\0"  # between the markers of a token; XML holds it in neither


def iter_pages_parallel(
    client: S3Client,
    bucket: str,
    *,
    jobs: int = AUTO_JOBS,
    ordered: bool = True,
    most: int = CAUTIOUS_JOBS,
    window: int = WINDOW_PAGES,
    counts: Counts | None = None,
    must_be_ordered: bool = False,
    now: Callable[[], float] = time.monotonic,
    **bounds: Unpack[KeyBounds],
) -> Iterator[ListPage]:
    """Yield the pages of a listing without delimiter, fetched by up to ``jobs`` threads.

    They are those of ``iter_pages``, each key once; without ``ordered`` the pages come as they are ready, in any order.
    With ``jobs`` of 0 the listing finds out how many help, up to ``most``. ``window`` bounds the pages that wait for
    their turn. ``counts`` is filled with what was done. Servers that cannot list from a name on are followed by their
    tokens, or listed by one request after another.

    Raises S3PoolError: a page could not be fetched; what came before it was yielded.
    """
    in_turn = partial(iter_pages, client, bucket, must_be_ordered=must_be_ordered, **bounds)
    if jobs == 1:
        return in_turn()
    if not ordered:
        window = min(window, max(UNORDERED_PAGES, UNORDERED_PAGES_PER_JOB * (jobs or most)))
    limit = ConcurrencyLimit(jobs, most=min(most, MOST_AUTO_JOBS))
    scheduler = RangeScheduler(bucket, limit=limit, ordered=ordered, window=window, **bounds)
    workers = _Workers(scheduler, limit, _fetcher(client, bucket), counts=counts, now=now)
    if not ordered or must_be_ordered:
        return _iter_pages(workers, in_turn)
    return _iter_pages(workers, in_turn, go_on=partial(in_turn, until=None, has_own_order=True))


def iter_version_pages_parallel(
    client: S3Client,
    bucket: str,
    *,
    jobs: int = AUTO_JOBS,
    ordered: bool = True,
    most: int = CAUTIOUS_JOBS,
    counts: Counts | None = None,
    **bounds: Unpack[KeyBounds],
) -> Iterator[ListPage]:
    """Yield the pages of ``iter_version_pages``, fetched by up to ``jobs`` threads.

    All versions of a key stand on one page, newest first. The other parameters are those of ``iter_pages_parallel``.
    MinIO, which is followed by its markers, is listed by one request after another.

    Raises S3PoolError: a page could not be fetched; what came before it was yielded.
    """
    in_turn = partial(iter_version_pages, client, bucket, **bounds)
    if jobs == 1:
        return in_turn()
    limit = ConcurrencyLimit(jobs, most=min(most, MOST_AUTO_JOBS))
    scheduler = RangeScheduler(
        bucket, limit=limit, ordered=ordered, window=VERSIONS_WINDOW_PAGES, repeats=True, **bounds
    )
    workers = _Workers(scheduler, limit, _fetcher(VersionLister(client), bucket), counts=counts, now=time.monotonic)
    return _iter_pages(workers, in_turn)


def _iter_pages(
    workers: _Workers,
    in_turn: Callable[[], Iterator[ListPage]],
    *,
    go_on: Callable[..., Iterator[ListPage]] | None = None,
) -> Iterator[ListPage]:
    """Yield the pages that the workers fetch.

    Where the first page shows a server without order, ``in_turn`` lists; where a later one does,
    ``go_on`` lists after the last key that was yielded.
    """
    try:
        workers.fetch_first()
    except (UnorderedError, MarkedWalkError):
        yield from in_turn()
        return
    last = ""
    try:
        for page in workers.pages():
            last = keys_of(page.objects)[-1] if page.objects else last
            yield page
    except UnorderedError:
        if go_on is None:
            raise
        yield from go_on(start_after=last) if last else go_on()


def _fetcher(client: S3Client | VersionLister, bucket: str) -> Fetch:
    return lambda request: client.list_objects_page(
        bucket, prefix=request.prefix, start_after=request.start_after, token=request.token
    )


class _Workers:
    def __init__(
        self,
        scheduler: RangeScheduler,
        limit: ConcurrencyLimit,
        fetch: Fetch,
        *,
        counts: Counts | None,
        now: Callable[[], float],
    ) -> None:
        self._scheduler, self._limit, self._fetch, self._now = scheduler, limit, fetch, now
        if counts is not None:
            scheduler.counts = counts
        # Guards the scheduler and all below; no request is made and no page packed under it.
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._is_over = False
        self._error: BaseException | None = None

    def fetch_first(self) -> None:
        """Ask for the first page in the caller's thread; most listings are over with it."""
        request = self._scheduler.take()
        if request is None:
            return
        try:
            page = self._fetch(request)
        except S3Error as exc:
            self._scheduler.fail(request, exc)
        else:
            self._scheduler.apply(request, page)

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
                page = self._scheduler.pop()
                if page is not None:
                    self._start_if_useful()
                    self._changed.notify_all()
                    return page
                if self._error is not None:
                    raise self._error
                if self._scheduler.is_finished:
                    return None
                self._start_if_useful()
                self._changed.wait(WAKE_S)

    # -- threads ---------------------------------------------------------------------------

    def _start_if_useful(self) -> None:
        """Start one more thread unless one waits; a thread that finds work starts the next one."""
        if self._idle or self._is_over or self._scheduler.is_finished or len(self._threads) >= self._limit.limit:
            return
        thread = threading.Thread(target=self._work, name=f"s3pool-list-{len(self._threads) + 1}", daemon=True)
        self._threads.append(thread)
        self._idle += 1
        thread.start()

    def _work(self) -> None:
        try:
            while (request := self._take()) is not None:
                self._serve(request)
        except Exception as exc:
            # Whatever it is, the caller has to know: it waits for this thread's page.
            logger.debug("a listing thread failed", exc_info=True)
            with self._changed:
                self._error = self._error or exc
                self._is_over = True
                self._changed.notify_all()

    def _take(self) -> RangeRequest | None:
        """Wait for a request to make; None at the end of the listing."""
        with self._changed:
            while not self._is_over:
                request = self._scheduler.take()
                if request is not None:
                    self._idle -= 1
                    self._start_if_useful()
                    return request
                self._changed.wait(WAKE_S)
            return None

    def _serve(self, request: RangeRequest) -> None:
        page, error, held = None, None, None
        try:
            page = self._fetch(request)
        except S3PoolError as exc:
            error = exc
        with self._changed:
            self._idle += 1
            if self._is_over:
                return
            if page is not None:
                held = self._scheduler.apply(request, page)
                self._limit.note_page(self._now(), to_come=self._scheduler.to_come)
            elif error is not None:
                self._scheduler.fail(request, error)
            self._changed.notify_all()
        if held is not None:
            held.pack()

    def _end(self) -> None:
        """End the threads; one that waits for a server is not waited for long."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        deadline = time.monotonic() + (SPARE_JOIN_S if self._scheduler.is_finished else JOIN_S)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        counts = self._scheduler.counts
        ideal = -(-counts.keys // MAX_KEYS) or 1
        logger.debug("listed %d keys by %d requests, at best %d: %s", counts.keys, counts.requests, ideal, counts)


class MarkedWalkError(Exception):
    """The server's markers say more than a name, so that the listing must follow them page by page."""


class VersionLister:
    """Lists versions as pages of whole keys, so that a listing can be cut between keys.

    S3 goes on behind a version by two markers, and behind all versions of a key by the key alone.
    A page that breaks off inside a key's history therefore gives up this key: the next request
    starts behind the key before, and reads it from its newest version.
    """

    def __init__(self, client: S3Client) -> None:
        self._client = client

    def list_objects_page(self, bucket: str, *, prefix: str = "", start_after: str = "", token: str = "") -> ListPage:
        """List the versions of the keys behind ``start_after``, or behind those of a token.

        Raises MarkedWalkError: the server is MinIO, whose markers hold more than a name.
        """
        key, _, version = token.rpartition(SEPARATOR) if token else (start_after, "", "")
        guard = LoopGuard(bucket)
        found: list[ObjectInfo] = []
        while True:
            page = self._client.list_versions_page(bucket, prefix=prefix, key_marker=key, version_id_marker=version)
            if page.is_minio or MINIO_TAG.decode() in page.next_token:
                raise MarkedWalkError
            found += page.objects
            key, version = page.next_token, page.next_version_id
            if page.truncated and found:
                last = found[-1].key
                whole = next((place for place in range(len(found), 0, -1) if found[place - 1].key != last), 0)
                if not whole:  # one key fills the page, and its history must stay in one piece
                    guard.follow((key, version))
                    continue
                del found[whole:]
                key, version = found[-1].key, found[-1].version_id
            next_token = f"{key}{SEPARATOR}{version}" if key else ""
            return replace(page, objects=tuple(found), is_ordered=None, next_token=next_token)
