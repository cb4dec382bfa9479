from __future__ import annotations

import math

import pytest

from s3pool.model import format_iso_time, parse_iso_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00.000Z", 0.0),
        ("1970-01-01T00:00:00Z", 0.0),
        ("2026-01-22T20:44:33.219Z", 1769114673.219),
        ("2024-02-29T23:59:59.5Z", 1709251199.5),
        ("1969-12-31T23:59:59Z", -1.0),
    ],
)
def test_times_of_listings_are_seconds(text: str, seconds: float) -> None:
    """A sync compares them with the times of files."""
    assert seconds == parse_iso_time(text)
    assert seconds == parse_iso_time(format_iso_time(seconds))


@pytest.mark.parametrize(
    "text", ["", "2026-01-22", "2026-01-22T24:00:00Z", "2026-01-22 00:00:00Z", "2026-1-22T00:00:00Z", "x"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    """A time that is misread would copy everything, or nothing."""
    with pytest.raises(ValueError, match=r"."):
        parse_iso_time(text)


def test_day_that_no_calendar_has_is_of_no_age() -> None:
    """A server that tells it does not end the listing, and no rule of ages takes the object."""
    assert math.isnan(parse_iso_time("2026-02-30T00:00:00Z"))
