from __future__ import annotations

from s3pool.s3.key_ranges import AUTO_JOBS, CAUTIOUS_JOBS, WINDOW_PAGES, ConcurrencyLimit

PLENTY = 10_000.0


def run_window(limit: ConcurrencyLimit, start: float, *, pages_per_s: float, to_come: float = PLENTY) -> float:
    """Let pages of one measurement come at a rate; give the time after them."""
    for _ in range(max(WINDOW_PAGES, 2 * limit.limit) + 1):
        start += 1 / pages_per_s
        limit.note_page(start, to_come=to_come)
    return start


def test_a_number_is_taken_at_its_word() -> None:
    """Who asks for thirty gets them at once."""
    assert 30 == ConcurrencyLimit(30).limit


def test_auto_is_cautious_while_the_size_is_unknown() -> None:
    """A listing that may end soon gains nothing from more."""
    limit = ConcurrencyLimit(AUTO_JOBS, most=32)

    run_window(limit, 0.0, pages_per_s=10, to_come=5)

    assert CAUTIOUS_JOBS == limit.limit


def test_auto_doubles_while_pages_come_faster() -> None:
    """Up to what was allowed, and not beyond."""
    limit = ConcurrencyLimit(AUTO_JOBS, most=32)
    now = 0.0
    seen = []
    for rate in (10, 20, 40, 80):
        now = run_window(limit, now, pages_per_s=rate)
        seen.append(limit.limit)

    assert [16, 32, 32, 32] == seen


def test_auto_goes_back_when_more_jobs_bring_nothing() -> None:
    """More requests would only load the servers."""
    limit = ConcurrencyLimit(AUTO_JOBS, most=32)
    now = 0.0
    for _ in range(4):
        now = run_window(limit, now, pages_per_s=10)

    assert CAUTIOUS_JOBS == limit.limit


def test_trouble_halves_and_clean_pages_bring_it_back() -> None:
    """A server that throttles is asked less, and more again bit by bit."""
    limit = ConcurrencyLimit(8)

    limit.note_trouble()
    after_trouble = limit.limit
    for _ in range(WINDOW_PAGES):
        limit.note_page(0.0, to_come=PLENTY)

    assert (4, 5) == (after_trouble, limit.limit)


def test_one_request_is_always_allowed() -> None:
    """Without any the listing would stand still."""
    limit = ConcurrencyLimit(2)

    for _ in range(5):
        limit.note_trouble()

    assert 1 == limit.limit


def test_cap_holds_for_good() -> None:
    """MinIO walks its drives once more for every chain."""
    limit = ConcurrencyLimit(AUTO_JOBS, most=32)
    limit.cap(4)

    run_window(limit, 0.0, pages_per_s=10)

    assert 4 == limit.limit
