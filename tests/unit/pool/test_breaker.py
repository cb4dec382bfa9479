"""The circuit breaker: what opens it, what it lets through, what closes it."""

from __future__ import annotations

from s3pool.pool.node import CONNECT_FAILURE_WEIGHT, OPEN_BASE_S, SUSPECT_S, TRIAL_LEASE_S, CircuitBreaker


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _make() -> tuple[CircuitBreaker, Clock]:
    clock = Clock()
    return CircuitBreaker(now=clock, random=lambda: 0.5), clock


def _opened() -> tuple[CircuitBreaker, Clock]:
    breaker, clock = _make()
    for _ in range(5):
        breaker.report_failure()
    return breaker, clock


def test_opens_after_five_failures_in_a_row() -> None:
    """Four failures may be bad luck; the fifth takes the node out."""
    breaker, _ = _make()

    for _ in range(4):
        breaker.report_failure()
    before = breaker.state
    breaker.report_failure()

    assert (before, breaker.state) == ("closed", "open")


def test_a_success_in_between_starts_the_count_again() -> None:
    """Only failures in a row count."""
    breaker, _ = _make()

    for _ in range(4):
        breaker.report_failure()
    breaker.report_success()
    breaker.report_failure()

    assert breaker.state == "closed"


def test_two_connect_failures_open_the_circuit() -> None:
    """A node that does not accept connections counts three per attempt."""
    breaker, _ = _make()

    breaker.report_failure(CONNECT_FAILURE_WEIGHT)
    breaker.report_failure(CONNECT_FAILURE_WEIGHT)

    assert breaker.state == "open"


def test_one_failure_makes_a_closed_circuit_suspect_for_a_while() -> None:
    """A black-holed node must not cost a second connect timeout while others are clean."""
    breaker, clock = _make()

    breaker.report_failure(CONNECT_FAILURE_WEIGHT)
    shaken = breaker.is_clean
    clock.now += SUSPECT_S

    assert (shaken, breaker.is_clean) == (False, True)
    assert breaker.claim()


def test_open_circuit_refuses_until_its_time_is_over() -> None:
    """An open circuit costs nothing: no request is sent."""
    breaker, clock = _opened()

    clock.now += OPEN_BASE_S - 1

    assert not breaker.claim()


def test_half_open_breaker_admits_one_probe() -> None:
    """One trial decides; a crowd would pay for a node that is still ill."""
    breaker, clock = _opened()
    clock.now += OPEN_BASE_S

    claims = [breaker.claim() for _ in range(3)]

    assert claims == [True, False, False]
    assert breaker.state == "half-open"


def test_a_successful_trial_closes_and_forgets() -> None:
    """After recovery the next opening lasts the base time again."""
    breaker, clock = _opened()
    clock.now += OPEN_BASE_S
    breaker.claim()

    breaker.report_success()

    assert (breaker.state, breaker.openings) == ("closed", 0)


def test_each_failed_trial_makes_the_next_opening_longer() -> None:
    """The n-th opening in a row lasts n times the base."""
    breaker, clock = _opened()
    clock.now += OPEN_BASE_S
    breaker.claim()

    breaker.report_failure()

    assert clock.now + 2 * OPEN_BASE_S == breaker.open_until


def test_a_trial_nobody_reported_on_is_given_up() -> None:
    """A caller that vanished must not lock a node out for ever."""
    breaker, clock = _opened()
    clock.now += OPEN_BASE_S
    breaker.claim()

    clock.now += TRIAL_LEASE_S

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

    assert early.open_until < clock.now + OPEN_BASE_S < late.open_until


def test_trial_that_showed_nothing_is_put_off() -> None:
    """The circuit is neither closed nor opened once more for it."""
    breaker, clock = _opened()
    clock.now = breaker.open_until
    granted = breaker.claim()

    breaker.put_off_trial(5.0)

    assert (True, "open", 1, clock.now + 5.0) == (granted, breaker.state, breaker.openings, breaker.open_until)


def test_only_a_trial_is_put_off() -> None:
    """A closed circuit stays closed."""
    breaker, _ = _make()

    breaker.put_off_trial(5.0)

    assert "closed" == breaker.state
