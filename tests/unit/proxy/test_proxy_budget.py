"""Shared memory, and the share of requests that may be in a second try."""

from __future__ import annotations

import io

import pytest

from s3pool.proxy.bodies import Buffers, ByteBudget, ClientBody
from s3pool.proxy.forward import LEAST_RETRIES, FairSlots, RetryBudget, RetryToken


def test_bytes_are_there_once() -> None:
    """Who finds them used up goes without."""
    budget = ByteBudget(10)

    taken = [budget.take(6), budget.take(6), budget.take(4)]
    budget.give_back(6)

    assert ([True, False, True], 4) == (taken, budget.used)


@pytest.mark.parametrize(("requests", "share", "allowed"), [(1, 0.2, 3), (100, 0.2, 20), (100, 0.0, 3)])
def test_share_of_second_tries(requests: int, share: float, allowed: int) -> None:
    """A percentage of what is at work, and a few in any case."""
    slots = FairSlots(1000)
    budget = RetryBudget(share, slots)
    for _ in range(requests):
        slots.claim("client")
    slips = [RetryToken(budget) for _ in range(requests)]

    begun = 0
    while budget.admits and begun < requests:
        slips[begun].note_retry()
        begun += 1

    assert min(allowed, requests) == begun
    assert allowed >= LEAST_RETRIES


def test_place_is_free_again_after_the_answer() -> None:
    """And a third try of the same request takes no second place."""
    budget = RetryBudget(0.2, FairSlots(10))

    slip = RetryToken(budget)
    slip.note_retry()
    slip.note_retry()
    during = budget.retrying
    slip.end()

    assert (1, 0) == (during, budget.retrying)


def test_large_buffers_are_used_again() -> None:
    """Fresh memory costs as much as filling it; a much larger one would be a waste."""
    buffers = Buffers(4 << 20)
    first = buffers.take(1 << 20)

    buffers.give_back(first)

    assert buffers.take(100) is not first
    assert buffers.take((1 << 20) - 5) is first
    assert buffers.take(1 << 20) is not first


def test_spare_buffers_have_a_bound() -> None:
    """What was lent in a rush is not kept for ever."""
    buffers = Buffers(1 << 20)
    lent = [buffers.take(1 << 20) for _ in range(2)]

    for buffer in lent:
        buffers.give_back(buffer)

    again = [buffers.take(1 << 20) for _ in range(2)]
    assert (True, False) == (again[0] is lent[0], again[1] is lent[1])


def test_body_lets_go_of_what_it_kept() -> None:
    """Somebody may still hold the request when its memory is needed elsewhere."""
    buffers = Buffers(4 << 20)
    body = ClientBody(
        io.BytesIO(bytes(1 << 20)).readinto,  # type: ignore[arg-type]
        length=1 << 20,
        keeps=True,
        before_read=lambda: None,
        buffers=buffers,
    )
    body.prefetch()

    body.drop()

    assert body.rewindable is False
    assert len(buffers.take(400_000)) == 1 << 19
