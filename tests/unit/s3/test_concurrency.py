from __future__ import annotations

import pytest

from s3pool.s3.key_ranges import AUTO_JOBS, CAUTIOUS_JOBS, WINDOW_PAGES, ConcurrencyLimit

PLENTY = 10_000.0


def run_window(limit: ConcurrencyLimit, start: float, *, pages_per_s: float, to_come: float = PLENTY) -> float:
    """Let pages of one measurement come at a rate; give the time after them."""
    for _ in range(max(WINDOW_PAGES, 2 * limit.limit) + 1):
        start += 1 / pages_per_s
        limit.note_page(start, to_come=to_come)
    return start


@pytest.mark.parametrize(
    ("rates", "to_come", "cap", "limits"),
    [
        ((10,), 5, 32, [CAUTIOUS_JOBS]),  # a listing that may end soon gains nothing from more
        ((10, 20, 40, 80), PLENTY, 32, [16, 32, 32, 32]),  # up to what was allowed, and not beyond
        ((10, 10, 10, 10), PLENTY, 32, [16, 16, CAUTIOUS_JOBS, CAUTIOUS_JOBS]),  # more would only load the servers
        ((10,), PLENTY, 4, [4]),  # MinIO walks its drives once more for every chain
    ],
)
def test_auto_doubles_while_pages_come_faster(
    rates: tuple[int, ...], to_come: float, cap: int, limits: list[int]
) -> None:
    """It begins with care, and goes back when more jobs bring nothing."""
    limit, now, seen = ConcurrencyLimit(AUTO_JOBS, most=32), 0.0, []
    if cap < CAUTIOUS_JOBS:
        limit.cap(cap)

    for rate in rates:
        now = run_window(limit, now, pages_per_s=rate, to_come=to_come)
        seen.append(limit.limit)

    assert limits == seen


def test_trouble_halves_and_clean_pages_bring_it_back() -> None:
    """A server that throttles is asked less, and more again bit by bit; one request is always allowed."""
    limit, small = ConcurrencyLimit(8), ConcurrencyLimit(2)

    limit.note_trouble()
    after_trouble = limit.limit
    for _ in range(WINDOW_PAGES):
        limit.note_page(0.0, to_come=PLENTY)
        small.note_trouble()

    assert (4, 5, 1, 30) == (after_trouble, limit.limit, small.limit, ConcurrencyLimit(30).limit)
