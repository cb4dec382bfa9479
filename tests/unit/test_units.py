"""Sizes, rates, durations, points in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pool.errors import UsageError
from s3pool.units import (
    GIB,
    KIB,
    MAX_SIZE_BYTES,
    MIB,
    format_duration,
    format_size,
    format_size_long,
    parse_duration,
    parse_http_date,
    parse_rate,
    parse_size,
    parse_time_or_age,
)

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (0, "0"),
        (123, "123"),
        (123, "123B"),
        (10 * MIB, "10M"),
        (10 * MIB, "10MB"),
        (10 * MIB, "10MiB"),
        (10 * MIB, " 10 mib "),
        (GIB + GIB // 2, "1.5g"),
        (64 * KIB, "64k"),
        (1, "1.9"),
        (5 << 40, "5T"),
        (2 << 50, "2PiB"),
        (7 << 60, "7E"),
    ],
)
def test_sizes_count_in_1024(expected: int, text: str) -> None:
    """10M, 10MB and 10MiB are one size, whatever the case."""
    assert expected == parse_size(text)


@pytest.mark.parametrize(
    "text", ["", "M", "-1", "+1", "1.5.5M", "1,5M", "10X", "10Mbit", "1e3", "0x10", ".5M", "5.", "٣", "9E"]
)
def test_bad_size_is_named(text: str) -> None:
    """The user has to see which of many flags was wrong."""
    with pytest.raises(UsageError, match="bad size") as caught:
        parse_size(text)

    assert repr(text) in caught.value.message


@given(st.integers(0, MAX_SIZE_BYTES))
def test_exact_bytes_come_back(size: int) -> None:
    """No float may touch a size: the last bytes of large ones would be lost."""
    assert size == parse_size(str(size))
    assert size == parse_size(f"{size}B")


@given(st.integers(0, MAX_SIZE_BYTES // 2))
def test_formatted_size_reads_back_within_its_rounding(size: int) -> None:
    """What s3pool prints, its flags accept."""
    text = format_size(size)

    assert size == pytest.approx(parse_size(text), rel=0.051)
    assert not text.startswith("1024")


@pytest.mark.parametrize(
    ("expected", "size"),
    [
        ("0B", 0),
        ("1B", 1),
        ("1023B", 1023),
        ("1.0KiB", 1024),
        ("1.5KiB", 1536),
        ("9.9KiB", 10188),
        ("10KiB", 10230),
        ("15KiB", 15 * KIB),
        ("1023KiB", 1023 * KIB),
        ("1.0MiB", MIB - 1),
        ("1.0MiB", MIB),
        ("50MiB", 50 * MIB),
        ("1.0GiB", GIB),
        ("8.0EiB", MAX_SIZE_BYTES),
    ],
)
def test_short_size_is_mcs(expected: str, size: int) -> None:
    """One decimal below ten, none above, and never 1024 of a unit."""
    assert expected == format_size(size)


@pytest.mark.parametrize(
    ("expected", "size"),
    [
        ("0 B (0)", 0),
        ("512 B (512)", 512),
        ("1.50 KiB (1536)", 1536),
        ("1.00 GiB (1073741824)", GIB),
        ("1.00 MiB (1048575)", MIB - 1),
    ],
)
def test_long_size_holds_the_bytes(expected: str, size: int) -> None:
    """Du's total serves people and scripts."""
    assert expected == format_size_long(size)


@pytest.mark.parametrize(
    ("expected", "text"), [(10 * MIB, "10M"), (10 * MIB, "10MiB/s"), (512, "512/s"), (GIB * 3 // 2, "1.5g/S"), (0, "0")]
)
def test_rates_are_sizes_a_second(expected: int, text: str) -> None:
    """The unit of time may be left out."""
    assert expected == parse_rate(text)


@pytest.mark.parametrize("text", ["", "fast", "10Mbps", "10Mbit/s", "10M/h", "-1"])
def test_bad_rate_is_named(text: str) -> None:
    """Bits are refused: read as bytes they would be eight times too fast."""
    with pytest.raises(UsageError, match="bad rate") as caught:
        parse_rate(text)

    assert repr(text) in caught.value.message


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (0, "0"),
        (90, "90"),
        (90, "90s"),
        (900, "15m"),
        (642600, "7d10h30m"),
        (5400, "1.5h"),
        (0.5, "500ms"),
        (1209600, "2w"),
        (61, "1s1m"),
    ],
)
def test_durations_add_their_terms(expected: float, text: str) -> None:
    """The form of mc, and plain seconds as AWS has them."""
    assert expected == pytest.approx(parse_duration(text))


@pytest.mark.parametrize("text", ["", "d", "7x", "7d10", "-5s", "1h1h", "1..5h", "7D", "nan", "inf", "1e5"])
def test_bad_duration_is_named(text: str) -> None:
    """A unit twice is a slip, and a number that trails is ambiguous."""
    with pytest.raises(UsageError, match="bad duration") as caught:
        parse_duration(text)

    assert repr(text) in caught.value.message


@pytest.mark.parametrize(
    ("expected", "seconds"),
    [
        ("0s", 0),
        ("20ms", 0.02),
        ("1s", 0.9999),
        ("1.5s", 1.5),
        ("59.999s", 59.999),
        ("1m", 59.9999),
        ("1m30s", 90),
        ("7d10h30m", 642600),
        ("1d", 86400),
    ],
)
def test_duration_text_is_short(expected: str, seconds: float) -> None:
    """Zero terms are left out."""
    assert expected == format_duration(seconds)


@given(st.floats(0, 10**9))
def test_formatted_duration_reads_back(seconds: float) -> None:
    """Seconds below a minute keep milliseconds, longer ones are whole."""
    tolerance = 0.0006 if seconds < 60 else 0.51

    assert seconds == pytest.approx(parse_duration(format_duration(seconds)), abs=tolerance)


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (NOW - 3600, "1h"),
        (NOW - 642600, "7d10h30m"),
        (1769040000.0, "2026-01-22"),
        (1769114640.0, "2026-01-22 20:44"),
        (1769114673.0, "2026-01-22T20:44:33"),
        (1769114673.0, "2026-01-22T20:44:33Z"),
        (1769114673.0, "2026-01-22 20:44:33 UTC"),
        (1769114673.219, "2026-01-22T20:44:33.219Z"),
        (1769107473.0, "2026-01-22T20:44:33+02:00"),
    ],
)
def test_moment_is_an_age_or_a_date(expected: float, text: str) -> None:
    """What ls and stat print can be given back."""
    assert expected == pytest.approx(parse_time_or_age(text, NOW))


@pytest.mark.parametrize("text", ["", "30", "20260122", "yesterday", "2026-1-2", "2026-02-30", "2026-01-22T25:00"])
def test_bad_moment_is_named(text: str) -> None:
    """A bare number must not delete everything older than so many seconds."""
    with pytest.raises(UsageError, match="bad time") as caught:
        parse_time_or_age(text, NOW)

    assert repr(text) in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 09:49:37 +0100",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
def test_dates_of_headers_are_read_in_every_form(text: str) -> None:
    """Those that RFC 9110 names, and those of SigV2's clients, whatever the machine's zone."""
    assert 784111777.0 == parse_http_date(text)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "Sun, 06 Xyz 1994 08:49:37 GMT", "1994-11-06T08:49:37Z", "Sun, 32 Nov 1994 08:49:37 GMT"]
)
def test_what_is_no_date_of_a_header_has_no_time(text: str) -> None:
    """A strange Date header must not break an error."""
    assert parse_http_date(text) is None
