from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from s3pool.errors import AccessDeniedError, NoEndpointError, ProtocolError, ThrottledError
from s3pool.model import ListMode, ListPage
from s3pool.s3.key_ranges import Counts
from s3pool.s3.list_all import list_pages
from s3pool.s3.parallel import iter_pages_parallel
from tests.support.memory_lister import Asked, MemoryLister

BUCKET = "b"
KEYS = [f"logs/2026/{n // 100 + 1:02d}/{n % 100:04d}" for n in range(900)]


def names(pages: Iterator[ListPage]) -> list[str]:
    """Give the keys of all pages."""
    return [info.key for page in pages for info in page.objects]


def list_threads() -> list[str]:
    """Give the names of the listing's threads that live."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("s3pool-list-")]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Whatever a listing went through, its threads end."""
    yield
    assert [] == list_threads()


@pytest.mark.parametrize("jobs", [0, 2, 8, 30])
def test_pages_are_those_of_the_sequential_listing(jobs: int) -> None:
    """The same keys in the same order, whoever fetched them."""
    lister = MemoryLister(KEYS, page_size=10)

    assert KEYS == names(iter_pages_parallel(lister, BUCKET, jobs=jobs))


def test_without_order_no_key_is_missing() -> None:
    """Only the order is given up."""
    lister = MemoryLister(KEYS, page_size=10, short=0.3)

    found = names(iter_pages_parallel(lister, BUCKET, jobs=8, ordered=False))

    assert KEYS == sorted(found)


def test_one_job_starts_no_thread() -> None:
    """A listing inside cron must be as light as it can be."""
    lister = MemoryLister(KEYS, page_size=100)

    for _ in list_pages(lister, BUCKET, mode=ListMode(jobs=1)):
        assert [] == list_threads()


def test_small_listing_starts_no_thread_and_is_one_request() -> None:
    """Most prefixes hold one page."""
    lister = MemoryLister(KEYS, page_size=1000)

    for page in list_pages(lister, BUCKET, mode=ListMode(jobs=8)):
        assert [] == list_threads()
        assert not page.truncated
    assert 1 == len(lister.asked)


def test_empty_bucket_gives_one_empty_page() -> None:
    """As the sequential listing does."""
    assert [ListPage((), (), truncated=False)] == list(iter_pages_parallel(MemoryLister([]), BUCKET, jobs=4))


def test_delimiter_and_bound_are_listed_one_after_another() -> None:
    """Ranges know of keys alone, and a few keys are had by one request."""
    lister = MemoryLister(KEYS, page_size=10)

    pages = list(list_pages(lister, BUCKET, max_keys=10, mode=ListMode(jobs=8)))

    assert (1, 1) == (len(pages), len(lister.asked))


def test_only_the_last_page_says_that_nothing_follows() -> None:
    """Consumers may rely on it in either mode."""
    lister = MemoryLister(KEYS, page_size=50)

    pages = list(iter_pages_parallel(lister, BUCKET, jobs=4))

    assert [True] * (len(pages) - 1) + [False] == [page.truncated for page in pages]


def test_error_of_a_worker_is_raised_to_the_caller() -> None:
    """And what came before it was given out."""

    def fault(asked: Asked) -> AccessDeniedError | None:
        return AccessDeniedError(403, "AccessDenied") if asked.number > 5 else None

    pages = iter_pages_parallel(MemoryLister(KEYS, page_size=10, fault=fault), BUCKET, jobs=4)
    seen: list[ListPage] = []

    with pytest.raises(AccessDeniedError):
        seen.extend(pages)
    assert KEYS[:10] == [info.key for info in seen[0].objects]


def test_bug_in_a_worker_is_raised_to_the_caller() -> None:
    """A thread that dies silently would leave the caller waiting for ever."""

    def fault(asked: Asked) -> None:
        if asked.number == 4:
            raise ZeroDivisionError

    pages = iter_pages_parallel(MemoryLister(KEYS, page_size=10, fault=fault), BUCKET, jobs=4)

    with pytest.raises(ZeroDivisionError):
        list(pages)


def test_missing_bucket_is_raised_from_the_first_request() -> None:
    """Nothing is started before it is known that there is something."""
    lister = MemoryLister(KEYS, fault=lambda asked: AccessDeniedError(403, "AccessDenied"))

    with pytest.raises(AccessDeniedError):
        next(iter_pages_parallel(lister, BUCKET, jobs=8))
    assert 1 == len(lister.asked)


def test_dead_pool_ends_the_listing() -> None:
    """Each range tries as long as others get on, and no longer."""

    def fault(asked: Asked) -> NoEndpointError | None:
        return NoEndpointError("nobody answers") if asked.number > 8 else None

    with pytest.raises(NoEndpointError):
        list(iter_pages_parallel(MemoryLister(KEYS, page_size=10, fault=fault), BUCKET, jobs=4))


def test_throttled_range_is_asked_again_and_nothing_is_lost() -> None:
    """Servers under load refuse single requests."""
    counts = Counts()
    refused: list[int] = []

    def fault(asked: Asked) -> ThrottledError | None:
        if asked.number in (20, 40, 60):
            refused.append(asked.number)
            return ThrottledError(503, "SlowDown")
        return None

    lister = MemoryLister(KEYS, page_size=10, fault=fault)
    found = names(iter_pages_parallel(lister, BUCKET, jobs=4, counts=counts))

    assert (KEYS, 3, 3) == (found, len(refused), counts.retries)


def test_closed_generator_ends_its_threads() -> None:
    """A reader that has seen enough must not leave requests behind."""
    pages = iter_pages_parallel(MemoryLister(KEYS, page_size=2), BUCKET, jobs=8)
    next(pages)
    next(pages)

    pages.close()  # type: ignore[attr-defined]

    assert [] == list_threads()


def test_end_does_not_wait_for_a_server_that_hangs() -> None:
    """Cancelling takes a second at most; a LIST may take minutes."""
    hangs, release = threading.Event(), threading.Event()

    class Hanging(MemoryLister):
        def list_objects_page(self, bucket: str, **words: object) -> ListPage:  # type: ignore[override]
            if len(self.asked) >= 3:
                hangs.set()
                release.wait()
            return super().list_objects_page(bucket, **words)  # type: ignore[arg-type]

    pages = iter_pages_parallel(Hanging(KEYS, page_size=10), BUCKET, jobs=4)
    next(pages)
    next(pages)
    hangs.wait()
    pages.close()  # type: ignore[attr-defined]
    left = list_threads()
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("s3pool-list-"):
            thread.join()

    assert left


def test_server_without_order_is_listed_one_page_after_another() -> None:
    """Its keys are all reported; ranges would lose some."""

    class Backwards(MemoryLister):
        def list_objects_page(self, bucket: str, **words: object) -> ListPage:  # type: ignore[override]
            page = super().list_objects_page(bucket, **words)  # type: ignore[arg-type]
            return ListPage(page.objects[::-1], (), truncated=page.truncated, next_token=page.next_token)

    found = names(iter_pages_parallel(Backwards(KEYS, page_size=10), BUCKET, jobs=8))

    assert (len(KEYS), set(KEYS)) == (len(found), set(found))


@pytest.mark.parametrize("manner", ["inclusive", "ignored", "refused", "skips"])
def test_server_with_a_start_after_of_its_own_loses_nothing(manner: str) -> None:
    """Such servers are followed by their tokens."""
    lister = MemoryLister(KEYS, page_size=10, start_after=manner)

    assert KEYS == names(iter_pages_parallel(lister, BUCKET, jobs=8))


def test_server_that_ignores_start_after_and_has_no_token_is_an_error() -> None:
    """There is no way on, and the end must not come silently."""
    lister = MemoryLister(KEYS, page_size=10, start_after="ignored", tokens=False)

    with pytest.raises(ProtocolError):
        list(iter_pages_parallel(lister, BUCKET, jobs=4))
