"""Parse and format sizes, rates, durations and times.

Sizes count in 1024: ``10M``, ``10MB`` and ``10MiB`` are the same. What cannot be parsed is a
UsageError that shows the text.
"""

from __future__ import annotations

import calendar
import re

from s3pool.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
NANO = 10**9  # nanoseconds in a second
MAX_SIZE_BYTES = (1 << 63) - 1  # what off_t, and so every file and object, can hold

SIZE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
SIZE_LETTERS = "bkmgtpe"
# Compiled where they are used: most commands get no such text.
SIZE_PATTERN = r"(?i:([0-9]{1,20})(?:\.([0-9]{1,20}))?\s*(?:([kmgtpe])(?:i?b)?|b)?)"
RATE_SUFFIX = r"/[sS]\Z"  # not "ps": Mbps are bits
STEP = 1024
STEP_BITS = 10  # 1024 is 1 << 10
LAST_UNIT = len(SIZE_UNITS) - 1
UNIT_BYTES = tuple(1 << STEP_BITS * unit for unit in range(len(SIZE_UNITS)))
LAST_WITH_DECIMAL = 9.95  # mc's habit: 1.5KiB, but 15KiB; the greatest number that rounds to 9.9
FIRST_OF_NEXT = STEP - 0.5  # what rounds to 1024 is one of the next unit

SECONDS_PER = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
DURATION_PATTERN = r"(?:[0-9]{1,15}(?:\.[0-9]{1,15})?(?:ms|[wdhms]))+"
DURATION_TERM = r"([0-9.]+)(ms|[wdhms])"
BARE_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,15})?"
MILLIS = 1000

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
HTTP_DATE = r"\w{3}, (\d\d) (\w{3}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT"
LONGEST_MONTH, HOURS, MINUTES = 31, 24, 60
END_OF_TIME = 253_402_300_800  # the year 10000, which no form of a date has room for
MAX_HTTP_DATE_CHARS = 64  # of the forms of older programs

DATE_PATTERN = (
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{3}(?:[0-9]{3})?)?)?)\s*(Z|UTC|[+-][0-9]{2}:[0-9]{2})?)?"
)


def parse_size(text: str) -> int:
    """Parse ``123``, ``10M``, ``10MiB`` or ``1.5g`` into bytes, rounded down."""
    match = re.fullmatch(SIZE_PATTERN, text.strip())
    if match is None:
        raise UsageError(f"bad size {text!r}: write a number of bytes or one like 10M, 1.5GiB")
    whole, fraction, letter = match[1], match[2] or "", (match[3] or "b").lower()
    # Integers only: floats would lose the last bytes of sizes above 8 PiB.
    scale: int = 10 ** len(fraction)
    size = (int(whole + fraction) << STEP_BITS * SIZE_LETTERS.index(letter)) // scale
    if size > MAX_SIZE_BYTES:
        raise UsageError(f"bad size {text!r}: more than 8 EiB")
    return size


def format_size(size: int) -> str:
    """Format a size as mc does: ``0B``, ``1.5KiB``, ``15MiB``."""
    if size < STEP:
        return f"{size}B"
    unit = (size.bit_length() - 1) // STEP_BITS
    unit = min(unit, LAST_UNIT)
    value = size / UNIT_BYTES[unit]
    if value >= FIRST_OF_NEXT and unit < LAST_UNIT:
        unit += 1
        value /= STEP
    if value <= LAST_WITH_DECIMAL:
        return f"{value:.1f}{SIZE_UNITS[unit]}"
    return f"{value:.0f}{SIZE_UNITS[unit]}"


def format_size_long(size: int) -> str:
    """Format a size for people and scripts: ``1.00 GiB (1073741824)``."""
    value, unit = float(size), 0
    while round(value, 2) >= STEP and unit < len(SIZE_UNITS) - 1:
        value, unit = value / STEP, unit + 1
    short = f"{value:.2f}" if unit else str(size)
    return f"{short} {SIZE_UNITS[unit]} ({size})"


def parse_rate(text: str) -> int:
    """Parse ``10M``, ``10MiB/s`` or ``1.5g`` into bytes a second. Raises UsageError: the text is not a rate."""
    try:
        return parse_size(re.sub(RATE_SUFFIX, "", text.strip()))
    except UsageError as exc:
        raise UsageError(f"bad rate {text!r}: write bytes a second, such as 10M or 1.5GiB/s") from exc


def parse_duration(text: str) -> float:
    """Parse ``7d10h30m``, ``90s``, ``1.5h``, ``500ms`` or a bare number into seconds."""
    stripped = text.strip()
    if re.fullmatch(BARE_NUMBER, stripped):
        return float(stripped)
    terms = re.findall(DURATION_TERM, stripped) if re.fullmatch(DURATION_PATTERN, stripped) else []
    if not terms or len({unit for _, unit in terms}) < len(terms):
        raise UsageError(f"bad duration {text!r}: write it like 7d10h30m, 90s or 500ms")
    return sum(float(count) * SECONDS_PER[unit] for count, unit in terms)


def format_duration(seconds: float) -> str:
    """Format seconds for parse_duration: ``7d10h30m``, ``1.5s``, ``20ms``, ``0s``.

    Rounded to whole seconds from a minute on, below that to milliseconds.
    """
    if seconds < 1:
        millis = round(seconds * MILLIS)
        return f"{millis}ms" if 0 < millis < MILLIS else f"{millis // MILLIS}s"
    if round(seconds, 3) < SECONDS_PER["m"]:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    parts, left = [], round(seconds)
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, int(SECONDS_PER[unit]))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def parse_time_or_age(text: str, now: float) -> float:
    """Parse a date, or an age before ``now``, into seconds since 1970.

    A date without a zone is UTC, as in listings. A bare number is refused: whether it means
    seconds or days must not be guessed where objects are deleted by age.
    """
    stripped = text.strip()
    match = re.fullmatch(DATE_PATTERN, stripped)
    if match is not None:
        return _parse_date(text, match)
    if re.fullmatch(BARE_NUMBER, stripped) or not re.fullmatch(DURATION_PATTERN, stripped):
        raise UsageError(f"bad time {text!r}: write an age like 7d10h, or a date like 2026-01-22T20:44:33Z or its day")
    return now - parse_duration(stripped)


def _parse_date(text: str, match: re.Match[str]) -> float:
    # Imported late: no listing needs it, and it costs a millisecond at start-up.
    from datetime import datetime

    zone = match[3] if match[3] not in (None, "Z", "UTC") else "+00:00"
    try:
        return datetime.fromisoformat(f"{match[1]}T{match[2] or '00:00'}{zone}").timestamp()
    except (ValueError, OverflowError) as exc:
        raise UsageError(f"bad time {text!r}: there is no such date") from exc


def parse_http_date(text: str) -> float | None:
    """Return the seconds since 1970 of a date in a header; None when it is not one.

    ``Sun, 06 Nov 1994 08:49:37 GMT`` is parsed here, without regard to the locale; the forms of
    older programs, with a zone or two digits of a year, by the standard library.

    Source: RFC 9110, section 5.6.7.
    """
    match = re.fullmatch(HTTP_DATE, text.strip())
    if match is None or match[2] not in MONTHS:
        return _parse_old_http_date(text)
    day, year, hour, minute, second = (int(match[index]) for index in (1, 3, 4, 5, 6))
    if not (year and 0 < day <= LONGEST_MONTH and hour < HOURS and minute < MINUTES and second <= MINUTES):
        return None
    seconds = calendar.timegm((year, MONTHS.index(match[2]) + 1, day, hour, minute, second))
    return float(seconds) if seconds < END_OF_TIME else None


def _parse_old_http_date(text: str) -> float | None:
    # Imported late: servers of today send the other form.
    from email.utils import parsedate_tz

    fields = parsedate_tz(text) if len(text) <= MAX_HTTP_DATE_CHARS else None
    try:
        return None if fields is None else float(calendar.timegm(fields[:6]) - (fields[9] or 0))
    except (ValueError, OverflowError):
        return None


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text, which blanks separate."""
    return frozenset(text.split())
