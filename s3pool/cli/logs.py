"""What is told on stderr beside results, as text or JSON: log lines, and the counts of --stats."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TextIO

from s3pool.cli.output import Output, escape
from s3pool.units import format_size

if TYPE_CHECKING:
    from s3pool.pool.node import EndpointStats
    from s3pool.s3.buckets import ListingStats

OTHER_WORDS = {"trace": "debug", "warn": "warning"}
Pause = Callable[[], AbstractContextManager[None]]
STATS_HEADER = ("endpoint", "tries", "failed", "slow", "again", "sent", "got", "ms", "circuit")
STATS_COUNTS = ["requests", "failures", "throttled", "retries", "hedges", "ejections", "bytes_sent", "bytes_received"]
STATS_NUMBERS = frozenset(range(1, 8))
ROOT = "s3pool"  # every logger of the program is below this one


class _TextFormatter(logging.Formatter):
    """``s3pool: warning: text``, control characters made visible."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"s3pool: {record.levelname.lower()}: {escape(record.getMessage())}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _JsonFormatter(logging.Formatter):
    """One object a line: type, time, level, logger, message and the traceback, if any."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        from s3pool.model import format_iso_time

        fields = {
            "type": "log",
            "time": format_iso_time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


class _StderrHandler(logging.Handler):
    """Writes lines and ignores errors of its stream: stderr may be closed."""

    def __init__(self, stream: TextIO, pause: Pause) -> None:
        super().__init__()
        self._stream, self._pause = stream, pause

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; where stderr is closed, the exit code still tells of errors."""
        with contextlib.suppress(OSError, ValueError), self._pause():
            self._stream.write(f"{self.format(record)}\n")
            self._stream.flush()


def set_up(stream: TextIO | None, *, level: str, json: bool, pause: Pause = contextlib.nullcontext) -> None:
    """Send the program's log lines to a stream, each in a pause of the bars, and to no other."""
    logger = logging.getLogger(ROOT)
    logger.propagate = False
    logger.handlers.clear()
    handler: logging.Handler = _StderrHandler(stream, pause) if stream is not None else logging.NullHandler()
    handler.setFormatter(_JsonFormatter() if json else _TextFormatter())
    logger.addHandler(handler)
    set_level(level)


def set_level(level: str) -> None:
    """Choose the least severe level that is shown: debug (or trace), info, warning (or warn), error."""
    logging.getLogger(ROOT).setLevel(OTHER_WORDS.get(level.lower(), level).upper())


def _mean_ms(row: EndpointStats) -> float:
    """Return the mean time to an answer in milliseconds, 0 when none was timed."""
    return round(row.seconds / row.timed * 1000, 1) if row.timed else 0.0


def _stats_record(row: EndpointStats) -> dict[str, object]:
    """Return the JSON object of one endpoint's counts."""
    return {
        "type": "stats",
        "endpoint": str(row.endpoint),
        **{name: getattr(row, name) for name in STATS_COUNTS},
        "mean_ms": _mean_ms(row),
        "state": row.state,
        "failure_kinds": dict(row.failure_kinds),
        "last_error": row.last_error,
    }


def print_stats(rows: Sequence[EndpointStats], out: Output) -> None:
    """Write the counts of all endpoints to stderr: a table and the failures, or JSON lines."""
    if out.json:
        for row in rows:
            out.tell(out.encode(_stats_record(row)))
        return
    from s3pool.cli.formats import table

    cells = []
    for row in rows:  # a line fits 80 columns with usual URLs
        counts = map(str, (row.requests, row.failures, row.throttled, row.retries))
        sizes = (format_size(row.bytes_sent), format_size(row.bytes_received))
        cells.append((str(row.endpoint), *counts, *sizes, f"{_mean_ms(row):.1f}", row.state))
    for line in table(STATS_HEADER, cells, right=STATS_NUMBERS):
        out.tell(out.escape(line))
    for row in rows:
        if kinds := ", ".join(f"{count} x {kind}" for kind, count in sorted(row.failure_kinds.items())):
            out.tell(out.escape(f"{row.endpoint} failed: {kinds}; last: {row.last_error}"))


def print_list_stats(counts: Sequence[ListingStats], out: Output) -> None:
    """Write the names and requests of the listings to stderr; nothing without a listing."""
    requests = sum(count.requests for count in counts)
    names, extra = sum(count.names for count in counts), sum(count.extra for count in counts)
    if not requests:
        return
    if out.json:
        fields = {"type": "list_stats", "names": names, "requests": requests, "extra_requests": extra}
        out.tell(out.encode(fields))
        return
    out.tell(f"listings: names {names}, requests {requests}, extra requests {extra}")
