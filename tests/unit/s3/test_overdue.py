from __future__ import annotations

from s3pool.record import replace
from s3pool.s3.listing import LoopGuard
from s3pool.s3.parallel.ranges import Flight, KeyRange
from s3pool.s3.parallel.workers import PATIENCE_S, USUAL_TIMES, Overdue


def make_flight() -> Flight:
    """Give a request of a range that waits for it."""
    span = KeyRange("", None, LoopGuard("b"))
    span.flight = Flight(span, "", "", "", 0)
    return span.flight


def watch(*flights: Flight, usual_s: float) -> Overdue:
    """Give a watch that has seen one answer after so long, and has these under way since 100."""
    overdue = Overdue()
    first = make_flight()
    overdue.begin(first, 100.0 - usual_s)
    overdue.end(first, 100.0, is_answered=True)
    for flight in flights:
        overdue.begin(flight, 100.0)
    return overdue


def test_request_is_overdue_after_many_times_the_usual() -> None:
    """A store that is slow throughout is not asked for everything twice."""
    flight = make_flight()
    quick, slow = watch(flight, usual_s=0.01), watch(flight, usual_s=2.0)

    assert quick.next(100.0 + PATIENCE_S) is None
    assert flight is quick.next(100.1 + PATIENCE_S)
    assert slow.next(100.0 + USUAL_TIMES * 2.0) is None
    assert flight is slow.next(100.1 + USUAL_TIMES * 2.0)


def test_nothing_is_overdue_before_the_first_answer() -> None:
    """Nobody knows then what is usual."""
    overdue = Overdue()
    overdue.begin(make_flight(), 0.0)

    assert overdue.next(1000.0) is None


def test_request_is_made_once_more_only() -> None:
    """Even when the second one fails."""
    flight = make_flight()
    overdue = watch(flight, usual_s=0.01)
    overdue.begin(flight, 110.0)

    assert overdue.next(200.0) is None
    assert not overdue.end(flight, 200.0, is_answered=False)
    assert overdue.next(300.0) is None
    assert overdue.end(flight, 300.0, is_answered=True)


def test_request_that_follows_a_token_is_left_alone() -> None:
    """On MinIO it is a walk of its own."""
    flight = make_flight()
    by_token = replace(flight, token="t")
    flight.range.flight = by_token

    assert watch(by_token, usual_s=0.01).next(200.0) is None


def test_request_that_nobody_waits_for_is_left_alone() -> None:
    """Its page has come from elsewhere."""
    flight = make_flight()
    overdue = watch(flight, usual_s=0.01)
    flight.range.flight = None

    assert overdue.next(200.0) is None
