"""Shared memory, and the share of requests that may be in a second try."""

from __future__ import annotations

import io
import queue
import threading
import time

import pytest

from s3pool.proxy import limits
from s3pool.proxy.bodies import ClientBody
from s3pool.proxy.errors import ClientGoneError
from s3pool.proxy.forward import ProxyRequest
from s3pool.proxy.limits import LEAST_RETRIES, Buffers, ByteBudget, FairSlots, RetryBudget


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
    budget = RetryBudget(share, lambda: slots.taken)
    for _ in range(requests):
        slots.claim("client")
    waiting = [ProxyRequest("GET", "/b/k", "GetObject", budget=budget) for _ in range(requests)]

    begun = 0
    while begun < requests and waiting[begun].may_retry():
        waiting[begun].note_retry()
        begun += 1

    assert min(allowed, requests) == begun
    assert allowed >= LEAST_RETRIES


def test_place_is_free_again_after_the_answer() -> None:
    """And a third try of the same request takes no second place."""
    budget = RetryBudget(0.2, lambda: 0)
    request = ProxyRequest("GET", "/b/k", "GetObject", budget=budget)

    request.note_retry()
    request.note_retry()
    during = budget.retrying
    request.end()

    assert (1, 0) == (during, budget.retrying)


def await_waiting(slots: FairSlots, count: int) -> None:
    """Wait until so many threads stand in line."""
    deadline = time.monotonic() + 20
    while slots.waiting < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_place_goes_to_one_of_those_who_wait_and_owners_take_turns() -> None:
    """All were woken for each place: hundreds of threads, for one of which there was work."""
    slots, served = FairSlots(1), queue.SimpleQueue[str]()

    def work(owner: str) -> None:
        served.put(slots.claim(owner, 20.0))

    slots.claim("first")
    threads = [threading.Thread(target=work, args=(owner,)) for owner in ("a", "a", "b")]
    for number, thread in enumerate(threads):
        thread.start()
        await_waiting(slots, number + 1)

    slots.give_back("first")
    order = []
    for left in (2, 1, 0):
        order.append(served.get(timeout=20))
        assert (left, 1) == (slots.waiting, slots.taken)
        slots.give_back(order[-1])
    for thread in threads:
        thread.join()
    assert ["a", "b", "a"] == order
    assert (0, 0) == (slots.waiting, slots.taken)


def test_place_that_waiting_alone_makes_free_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """No place is given back when the time after another owner is over: nothing wakes who waits."""
    monkeypatch.setattr(limits, "MIXED_S", 0.05)
    slots = FairSlots(4)
    for owner in ("b", "a", "a"):
        slots.claim(owner)
    slots.give_back("b")

    assert not slots.try_acquire("a")
    assert "a" == slots.claim("a", 0.2)


def test_client_that_leaves_the_line_keeps_no_place() -> None:
    """It was noticed only while its thread waited."""
    slots = FairSlots(1)
    slots.claim("first")

    def gone() -> None:
        raise ClientGoneError("the client hung up")

    with pytest.raises(ClientGoneError):
        slots.claim("second", 20.0, look=gone)
    slots.give_back("first")

    assert (0, 0) == (slots.waiting, slots.taken)


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
        buffers=buffers,
        memory=ByteBudget(4 << 20),
    )
    body.prefetch()

    body.drop()

    assert body.rewindable is False
    assert len(buffers.take(400_000)) == 1 << 19
