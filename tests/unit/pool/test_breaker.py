"""The circuit breaker: what opens it, what it lets through, what closes it."""

from __future__ import annotations

import threading

import pytest

from s3pool.pool.node import CONNECT_FAILURE_WEIGHT, OPEN_BASE_S, SUSPECT_S, TRIAL_LEASE_S, CircuitBreaker
from tests.support.clock import Clock


def _make() -> tuple[CircuitBreaker, Clock]:
    clock = Clock(1000.0)
    return CircuitBreaker(now=clock, random=lambda: 0.5), clock


def _opened() -> tuple[CircuitBreaker, Clock]:
    breaker, clock = _make()
    for _ in range(5):
        breaker.report_failure()
    return breaker, clock


@pytest.mark.parametrize(
    ("reports", "state"),
    [([1] * 4, "closed"), ([1] * 5, "open"), ([1] * 4 + [0, 1], "closed"), ([CONNECT_FAILURE_WEIGHT] * 2, "open")],
)
def test_five_failures_in_a_row_open_the_circuit(reports: list[int], state: str) -> None:
    """Four may be bad luck, and a success starts the count again; a node that does not accept counts three each."""
    breaker, _ = _make()

    for weight in reports:
        breaker.report_failure(weight) if weight else breaker.report_success()

    assert state == breaker.state


def test_one_failure_makes_a_closed_circuit_suspect_for_a_while() -> None:
    """A black-holed node must not cost a second connect timeout while others are clean."""
    breaker, clock = _make()

    breaker.report_failure(CONNECT_FAILURE_WEIGHT)
    shaken = breaker.is_clean
    clock.time += SUSPECT_S

    assert (shaken, breaker.is_clean) == (False, True)
    assert breaker.claim()


def test_open_circuit_admits_one_probe_when_its_time_is_over() -> None:
    """One trial decides; a crowd would pay for a node that is still ill."""
    breaker, clock = _opened()

    clock.time += OPEN_BASE_S - 1
    early = breaker.claim()
    clock.time += 1

    assert [False, True, False, False] == [early, *(breaker.claim() for _ in range(3))]
    assert breaker.state == "half-open"


def test_a_successful_trial_closes_and_forgets() -> None:
    """After recovery the next opening lasts the base time again."""
    breaker, clock = _opened()
    clock.time += OPEN_BASE_S
    breaker.claim()

    breaker.report_success()

    assert (breaker.state, breaker.openings) == ("closed", 0)


def test_each_failed_trial_makes_the_next_opening_longer() -> None:
    """The n-th opening in a row lasts n times the base."""
    breaker, clock = _opened()
    clock.time += OPEN_BASE_S
    breaker.claim()

    breaker.report_failure()

    assert clock.time + 2 * OPEN_BASE_S == breaker.open_until


def test_a_trial_nobody_reported_on_is_given_up() -> None:
    """A caller that vanished must not lock a node out for ever."""
    breaker, clock = _opened()
    clock.time += OPEN_BASE_S
    breaker.claim()

    clock.time += TRIAL_LEASE_S

    assert breaker.claim()


def test_health_checker_opens_and_invites_but_does_not_close() -> None:
    """A probe does not touch the store, so a real request has the last word."""
    breaker, _ = _make()

    breaker.trip()
    tripped = breaker.state
    breaker.invite_trial()
    claimed = breaker.claim()

    assert (tripped, claimed, breaker.state) == ("open", True, "half-open")


def test_ejections_are_counted_for_good() -> None:
    """Who looks once a minute must see that a node was out in between."""
    breaker, _ = _make()
    for _ in range(2):
        breaker.trip()
        breaker.report_success()

    assert (2, 0) == (breaker.ejections, breaker.openings)


def test_openings_are_jittered() -> None:
    """Many clients must not come back in the same second."""
    clock = Clock()
    early = CircuitBreaker(now=clock, random=lambda: 0.0)
    late = CircuitBreaker(now=clock, random=lambda: 1.0)

    early.trip()
    late.trip()

    assert early.open_until < clock.time + OPEN_BASE_S < late.open_until


def test_trial_that_showed_nothing_is_put_off() -> None:
    """The circuit is neither closed nor opened once more for it; a closed one stays closed."""
    closed, _ = _make()
    closed.put_off_trial(5.0)
    breaker, clock = _opened()
    clock.time = breaker.open_until
    granted = breaker.claim()

    breaker.put_off_trial(5.0)

    assert (True, "open", 1, clock.time + 5.0) == (granted, breaker.state, breaker.openings, breaker.open_until)
    assert "closed" == closed.state


def test_requests_at_a_sound_node_wait_for_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """All threads pass here with each request, and nothing changes by it."""
    monkeypatch.setattr(threading, "Lock", lambda: None)  # taking it is a TypeError
    breaker, _ = _make()

    is_granted = breaker.claim()
    breaker.report_success()

    assert is_granted
