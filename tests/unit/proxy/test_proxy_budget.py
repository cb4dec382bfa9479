"""Shared memory, and the share of requests that may be in a second try."""

from __future__ import annotations

import pytest

from s3pool.proxy.budget import LEAST_RETRIES, Budget, RetryBudget, Slip


def test_bytes_are_there_once() -> None:
    """Who finds them used up goes without."""
    budget = Budget(10)

    taken = [budget.take(6), budget.take(6), budget.take(4)]
    budget.give_back(6)

    assert ([True, False, True], 4) == (taken, budget.used)


@pytest.mark.parametrize(("requests", "share", "allowed"), [(1, 0.2, 3), (100, 0.2, 20), (100, 0.0, 3)])
def test_share_of_second_tries(requests: int, share: float, allowed: int) -> None:
    """A percentage of what is at work, and a few in any case."""
    budget = RetryBudget(share)
    slips = [Slip(budget).__enter__() for _ in range(requests)]

    begun = 0
    while budget.admits and begun < requests:
        slips[begun].note_retry()
        begun += 1

    assert min(allowed, requests) == begun
    assert allowed >= LEAST_RETRIES


def test_place_is_free_again_after_the_answer() -> None:
    """And a third try of the same request takes no second place."""
    budget = RetryBudget(0.2)

    with Slip(budget) as slip:
        slip.note_retry()
        slip.note_retry()
        during = budget.retrying

    assert (1, 0) == (during, budget.retrying)
