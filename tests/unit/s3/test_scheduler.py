from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from s3pool.errors import AccessDeniedError, NoEndpointError, ProtocolError, S3Error, ThrottledError, UnorderedError
from s3pool.model import ListPage, ObjectInfo
from s3pool.record import replace
from s3pool.s3.key_ranges import ConcurrencyLimit, Counts, RangeRequest
from s3pool.s3.range_scheduler import PAGES_AHEAD, RangeScheduler
from tests.support.memory_lister import MemoryLister, order

BUCKET = "b"


def scheduler_of(
    jobs: int = 4, *, ordered: bool = True, window: int = 64, prefix: str = "", after: str = ""
) -> RangeScheduler:
    """Give a scheduler for a whole bucket, unless told otherwise."""
    return RangeScheduler(
        BUCKET, prefix=prefix, limit=ConcurrencyLimit(jobs), ordered=ordered, window=window, start_after=after
    )


def ask(lister: MemoryLister, request: RangeRequest) -> ListPage:
    """Do what a worker does with a request."""
    return lister.list_objects_page(BUCKET, prefix=request.prefix, start_after=request.start_after, token=request.token)


def page_of(*keys: str, truncated: bool = False, token: str = "") -> ListPage:
    """Give a page of these keys."""
    return ListPage(tuple(ObjectInfo(key, 1, "") for key in keys), (), truncated=truncated, next_token=token)


def list_all(scheduler: RangeScheduler, lister: MemoryLister, *, seed: int = 0) -> list[str]:
    """Run a scheduler as threads would: answers come in any order, pages are taken now and then."""
    chance = random.Random(seed)
    under_way: list[tuple[RangeRequest, ListPage | S3Error]] = []
    found: list[str] = []
    while not scheduler.is_finished:
        while (request := scheduler.take()) is not None:
            try:
                under_way.append((request, ask(lister, request)))
            except S3Error as exc:
                under_way.append((request, exc))
        answered = bool(under_way)
        if under_way:
            request, answer = under_way.pop(chance.randrange(len(under_way)))
            if isinstance(answer, S3Error):
                scheduler.fail(request, answer)
            elif (held := scheduler.apply(request, answer)) is not None and chance.random() < 0.5:
                held.pack()
        is_stuck = not under_way and not answered
        if not under_way or chance.random() < 0.5:
            while (page := scheduler.pop()) is not None:
                is_stuck = False
                found += [info.key for info in page.objects]
        assert not is_stuck or scheduler.is_finished
    return found


# -- every key once ------------------------------------------------------------------------

LETTERS = st.one_of(
    st.sampled_from("ab/09~ -_.%+&'A"),
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from("\x01\ufffe\U0010ffff"),
)
NAMES = st.text(LETTERS, max_size=6)
STEMS = st.sampled_from(["", "a/", "logs/2026/01/", "x" * 40, "data/hot/", "\U0001f600/", "~", "9/9"])
FREE_KEYS = st.lists(st.tuples(STEMS, NAMES).map("".join).filter(bool), max_size=120)


@st.composite
def hot_directory(draw: st.DrawFn) -> list[str]:
    """Give one directory of numbers with nearly all keys, and a few around it."""
    count = draw(st.integers(0, 300))
    return [f"data/hot/{number:09d}" for number in range(count)] + draw(st.lists(NAMES.filter(bool), max_size=5))


@st.composite
def dated(draw: st.DrawFn) -> list[str]:
    """Give keys below years, months and days."""
    days = draw(st.integers(1, 60))
    return [
        f"logs/{2025 + day // 28:04d}/{day % 12:02d}/{day % 28:02d}/{number}"
        for day in range(days)
        for number in range(4)
    ]


KEYS = st.one_of(FREE_KEYS, hot_directory(), dated())


@settings(max_examples=150, deadline=None)
@given(
    keys=KEYS,
    page_size=st.integers(1, 9),
    jobs=st.sampled_from([2, 3, 8, 30]),
    ordered=st.booleans(),
    window=st.sampled_from([2, 5, 64]),
    short=st.sampled_from([0.0, 0.4]),
    empty=st.sampled_from([0.0, 0.3]),
    start_after=st.sampled_from(["exclusive", "inclusive", "ignored", "refused", "skips"]),
    minio=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_key_is_listed_once_and_in_order(
    keys: list[str],
    page_size: int,
    jobs: int,
    ordered: bool,
    window: int,
    short: float,
    empty: float,
    start_after: str,
    minio: bool,
    seed: int,
) -> None:
    """Whatever the names, the pages, the server and the order in which answers come."""
    if start_after == "skips":
        # An object whose name is a directory's too would be lost by the end of a page, which no range can see.
        assume(not minio)
        keys = [key for key in keys if not any(other.startswith(f"{key}/") for other in keys)]
    lister = MemoryLister(
        keys, page_size=page_size, short=short, empty=empty, start_after=start_after, minio=minio, seed=seed
    )
    scheduler = scheduler_of(jobs, ordered=ordered, window=window)

    found = list_all(scheduler, lister, seed=seed)

    assert sorted(set(keys), key=order) == (found if ordered else sorted(found, key=order))


@settings(max_examples=150, deadline=None)
@given(
    keys=KEYS,
    extra=FREE_KEYS,
    jobs=st.sampled_from([2, 8, 30]),
    ordered=st.booleans(),
    minio=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_keys_that_stay_are_listed_once_while_others_come_and_go(
    keys: list[str], extra: list[str], jobs: int, ordered: bool, minio: bool, seed: int
) -> None:
    """A listing is no snapshot, but what exists throughout is on it, and nothing twice."""
    chance = random.Random(seed)
    stable, new = set(keys), [key for key in extra if key not in set(keys)]

    def churn(lister: MemoryLister) -> None:
        if new and chance.random() < 0.6:
            key = new.pop()
            if key not in lister.keys:
                lister.add(key)
        if lister.keys and chance.random() < 0.3:
            stable.discard(lister.keys.pop(chance.randrange(len(lister.keys))))

    lister = MemoryLister(keys, page_size=5, short=0.3, minio=minio, churn=churn, seed=seed)
    found = list_all(scheduler_of(jobs, ordered=ordered, window=6), lister, seed=seed)

    assert len(found) == len(set(found))
    assert set() == stable - set(found)
    assert not ordered or sorted(found, key=order) == found


@settings(max_examples=100, deadline=None)
@given(keys=KEYS, jobs=st.sampled_from([2, 8]), seed=st.integers(0, 1000))
def test_failed_range_goes_on_from_its_cursor(keys: list[str], jobs: int, seed: int) -> None:
    """One range in trouble does not end a listing whose other ranges get on."""
    chance = random.Random(seed)
    last_failed = 0

    def fault(asked: object) -> ThrottledError | None:
        nonlocal last_failed
        number = asked.number  # type: ignore[attr-defined]
        if number > last_failed + 3 * jobs and chance.random() < 0.2:
            last_failed = number
            return ThrottledError(503, "SlowDown")
        return None

    lister = MemoryLister(keys, page_size=4, fault=fault, seed=seed)
    scheduler = scheduler_of(jobs)
    try:
        found = list_all(scheduler, lister, seed=seed)
    except ThrottledError:
        # Nothing else was on its way that could have shown that the pool is alive.
        return

    assert sorted(set(keys), key=order) == found


@settings(max_examples=60, deadline=None)
@given(
    keys=KEYS, prefix=st.sampled_from(["a/", "data/hot/", "logs/20", "x" * 40, "zz"]), after=NAMES, minio=st.booleans()
)
def test_prefix_and_start_bound_the_listing(keys: list[str], prefix: str, after: str, minio: bool) -> None:
    """No cut may lead out of what was asked for."""
    lister = MemoryLister(keys, page_size=3, minio=minio)
    scheduler = scheduler_of(4, prefix=prefix, after=prefix + after)

    found = list_all(scheduler, lister)

    expected = [key for key in set(keys) if key.startswith(prefix) and order(key) > order(prefix + after)]
    assert sorted(expected, key=order) == found
    assert all(asked.start_after.startswith(asked.prefix) for asked in lister.asked if asked.start_after)


@pytest.mark.parametrize(
    "keys",
    [
        ["a", "a/", "a/b", "a/b/c", "a0"],
        [" a", "a ", "a+b", "a%41", "a&b", "a'b", "a~", "a\nb", "a\x01", "a\ufffe", "\U0001f600", "\ufffd", "z" * 1024],
        [""],
        ["only"],
        ["a\udcff", "a\udc80", "a\ufffd", "a\U0010ffff"],
    ],
)
@pytest.mark.parametrize("page_size", [1, 2, 1000])
def test_awkward_names_are_listed_once(keys: list[str], page_size: int) -> None:
    """Keys that are beginnings of one another, that XML or URLs change, that are no UTF-8."""
    lister = MemoryLister([key for key in keys if key], page_size=page_size)

    found = list_all(scheduler_of(8), lister)

    assert lister.keys == found


# -- how many requests ---------------------------------------------------------------------


def counted(keys: Iterable[str], *, jobs: int = 8, ordered: bool = True) -> tuple[Counts, int]:
    """List keys; give what was done, and how many pages it takes at best."""
    scheduler = scheduler_of(jobs, ordered=ordered, window=1024)
    lister = MemoryLister(keys, page_size=100)
    assert sorted(lister.keys) == sorted(list_all(scheduler, lister))
    return scheduler.counts, -(-len(lister.keys) // 100)


@pytest.mark.parametrize("count", [0, 1, 10, 100])
def test_listing_of_one_page_is_one_request(count: int) -> None:
    """A small listing must not cost more because it might have been large."""
    assert 1 == counted(f"{number:03d}" for number in range(count))[0].requests


# -- single decisions ----------------------------------------------------------------------


def test_page_that_comes_twice_counts_once() -> None:
    """An answer may be had from two nodes."""
    scheduler = scheduler_of()
    request = scheduler.take()
    assert request is not None

    scheduler.apply(request, page_of("a", "b"))
    scheduler.apply(request, page_of("a", "b"))

    assert (page_of("a", "b"), None) == (scheduler.pop(), scheduler.pop())


def test_range_that_ends_in_a_key_is_over_with_it() -> None:
    """Nothing lies between a key and itself, so nothing more is asked for."""
    scheduler = scheduler_of()
    first = scheduler.take()
    assert first is not None
    scheduler.apply(first, page_of("a", "b", truncated=True))
    request = scheduler.take()
    assert request is not None
    request.range.end = "d"

    scheduler.apply(request, page_of("c", "d", truncated=True))

    assert request.range.is_done


def test_short_page_is_not_the_end() -> None:
    """RGW gives 980 of 1000 keys and says that more follow."""
    scheduler = scheduler_of()
    first = scheduler.take()
    assert first is not None

    scheduler.apply(first, page_of("a", truncated=True))

    again = scheduler.take()
    assert again is not None
    assert "a" in {again.start_after, again.range.left.cursor if again.range.left else ""}


def test_last_page_says_that_nothing_follows() -> None:
    """It is the same shape as a page of the sequential listing."""
    scheduler = scheduler_of(2)
    lister = MemoryLister("abcdef", page_size=2)
    pages = []
    while not scheduler.is_finished:
        request = scheduler.take()
        if request is not None:
            scheduler.apply(request, ask(lister, request))
        while (page := scheduler.pop()) is not None:
            pages.append(page.truncated)

    assert [True, True, False] == pages


def test_listing_without_order_is_refused() -> None:
    """Ranges mean nothing to such a server; the caller lists it one page after another."""
    scheduler = scheduler_of()
    request = scheduler.take()
    assert request is not None

    with pytest.raises(UnorderedError):
        scheduler.apply(request, page_of("b", "a", truncated=True, token="t"))


def test_truncated_page_without_keys_and_token_is_an_error() -> None:
    """The end must never come silently."""
    scheduler = scheduler_of()
    request = scheduler.take()
    assert request is not None

    with pytest.raises(ProtocolError, match="stopped advancing"):
        scheduler.apply(request, page_of(truncated=True))


def test_server_that_leads_in_a_circle_is_an_error() -> None:
    """Empty pages with the same token again and again would be followed for ever."""
    scheduler = scheduler_of()

    def follow() -> None:
        for _ in range(5):
            request = scheduler.take()
            assert request is not None
            scheduler.apply(request, page_of(truncated=True, token="again"))

    with pytest.raises(ProtocolError, match="stopped advancing"):
        follow()


@pytest.mark.parametrize("error", [AccessDeniedError(403, "AccessDenied"), S3Error(404, "NoSuchBucket")])
def test_refusal_is_raised_at_once(error: S3Error) -> None:
    """Asking again would not help."""
    scheduler = scheduler_of()
    request = scheduler.take()
    assert request is not None

    with pytest.raises(type(error)):
        scheduler.fail(request, error)


def test_dead_pool_is_reported_at_once() -> None:
    """When no page came since the request left, the transport has tried enough."""
    scheduler = scheduler_of()
    request = scheduler.take()
    assert request is not None

    with pytest.raises(NoEndpointError):
        scheduler.fail(request, NoEndpointError("nobody"))


def test_minio_is_followed_by_one_chain_of_tokens() -> None:
    """Every start-after makes it walk all drives, every chain walks once more: two cost it more than they save."""
    lister = MemoryLister([f"d{n % 5}/{n:04d}" for n in range(2000)], page_size=10, minio=True)

    found = list_all(scheduler_of(30), lister)

    assert lister.keys == found
    assert [False] + [True] * 199 == [bool(asked.token) for asked in lister.asked]


def test_server_that_says_it_is_minio_gets_one_chain_from_the_start() -> None:
    """Its tokens may look like others one day."""
    scheduler = scheduler_of(30)
    request = scheduler.take()
    assert request is not None

    scheduler.apply(request, replace(page_of("a/1", "a/2", truncated=True, token="t"), is_minio=True))

    requests = list(iter(scheduler.take, None))
    assert ["t"] == [request.token for request in requests]


def test_front_goes_on_when_the_window_is_full() -> None:
    """Pages that wait must not keep the page away that they wait for."""
    lister = MemoryLister((f"{n:04d}" for n in range(1000)), page_size=5)
    scheduler = scheduler_of(8, window=2)

    assert lister.keys == list_all(scheduler, lister)


def test_nothing_is_asked_for_while_the_caller_takes_nothing() -> None:
    """Memory is bounded by the window, whether the caller keeps up or not."""
    lister = MemoryLister((f"{n:05d}" for n in range(20000)), page_size=5)
    scheduler = scheduler_of(8, ordered=False, window=16)
    pending = []
    while (request := scheduler.take()) is not None or pending:
        if request is not None:
            pending.append(request)
        else:
            done = pending.pop(0)
            scheduler.apply(done, ask(lister, done))

    assert 16 == scheduler.counts.pages


def test_window_is_kept_by_giving_up_the_farthest_page() -> None:
    """Pages far ahead that came first make room for nearer ones, and are listed again in the end."""
    keys = [f"{number:05}" for number in range(3000)]
    lister, scheduler, window = MemoryLister(keys, page_size=10), scheduler_of(8, window=12), 12
    found: list[str] = []
    requests: list[RangeRequest] = []
    popped = most = 0
    while not scheduler.is_finished:
        while (request := scheduler.take()) is not None:
            requests.append(request)
        # The answers for what lies farthest ahead come first.
        request = max(requests, key=lambda request: request.start_after)
        requests.remove(request)
        scheduler.apply(request, ask(lister, request))
        most = max(most, scheduler.counts.pages - popped)
        while not requests and (page := scheduler.pop()) is not None:
            found += [info.key for info in page.objects]
            popped += 1

    assert keys == found
    assert scheduler.counts.evicted > 0
    assert most <= window + PAGES_AHEAD
