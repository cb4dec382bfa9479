"""Tables for people: columns aligned, and what --stats says at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from s3pool.cli.output import Output

COLUMN_GAP = "  "


class EndpointStats(Protocol):
    """What the pool counted for one endpoint; bytes and seconds are sums."""

    @property
    def endpoint(self) -> object:
        """Give the node."""

    @property
    def requests(self) -> int:
        """Count attempts."""

    @property
    def failures(self) -> int:
        """Count attempts without an answer, or with a server's error."""

    @property
    def throttled(self) -> int:
        """Count answers that asked for fewer requests."""

    @property
    def retries(self) -> int:
        """Count attempts that repeated one made before."""

    @property
    def timed(self) -> int:
        """Count answers whose time is part of the seconds."""

    @property
    def bytes_sent(self) -> int:
        """Count body bytes sent."""

    @property
    def bytes_received(self) -> int:
        """Count body bytes received."""

    @property
    def seconds(self) -> float:
        """Sum up the time until the answers' heads."""

    @property
    def state(self) -> str:
        """Name the circuit's state."""

    @property
    def last_error(self) -> str:
        """Give the last failure's text."""

    @property
    def failure_kinds(self) -> Mapping[str, int]:
        """Count failures by kind: connect, timeout, http 500."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> list[str]:
    """Lay out columns; those in ``right`` are aligned to the right, the last one is never padded."""
    grid = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in grid) for column in range(len(header))]
    return [
        COLUMN_GAP.join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in grid
    ]


def mean_ms(row: EndpointStats) -> float:
    """Give the mean time to an answer in milliseconds, 0 when none was timed."""
    return round(row.seconds / row.timed * 1000, 1) if row.timed else 0.0


def stats_record(row: EndpointStats) -> dict[str, object]:
    """Give the JSON object of one endpoint's counts."""
    return {
        "type": "stats",
        "endpoint": str(row.endpoint),
        "requests": row.requests,
        "failures": row.failures,
        "throttled": row.throttled,
        "retries": row.retries,
        "bytes_sent": row.bytes_sent,
        "bytes_received": row.bytes_received,
        "mean_ms": mean_ms(row),
        "state": row.state,
        "failure_kinds": dict(row.failure_kinds),
        "last_error": row.last_error,
    }


class ListCounts(Protocol):
    """What the listings of one client took."""

    @property
    def requests(self) -> int:
        """Count requests."""

    @property
    def names(self) -> int:
        """Count the names that came of them."""

    @property
    def extra(self) -> int:
        """Count requests beyond the full pages that the names fit on."""


STATS_HEADER = ("endpoint", "tries", "failed", "slow", "again", "sent", "got", "ms", "circuit")
STATS_NUMBERS = frozenset(range(1, 8))


def stats_row(row: EndpointStats) -> tuple[str, ...]:
    """Give the cells of one endpoint's line: it fits 80 columns beside usual URLs."""
    from s3pool.units import format_size

    counts = (row.requests, row.failures, row.throttled, row.retries)
    sizes = (format_size(row.bytes_sent), format_size(row.bytes_received))
    return (str(row.endpoint), *map(str, counts), *sizes, f"{mean_ms(row):.1f}", row.state)


def failure_line(row: EndpointStats) -> str:
    """Say how often an endpoint failed, in which ways, and the last time in its own words."""
    kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(row.failure_kinds.items()))
    return f"{row.endpoint} failed: {kinds}; last: {row.last_error}"


def print_stats(rows: Sequence[EndpointStats], out: Output) -> None:
    """Write what every endpoint did to stderr: a table and its failures, or JSON lines."""
    if out.json:
        for row in rows:
            out.tell(out.encode(stats_record(row)))
        return
    for line in table(STATS_HEADER, map(stats_row, rows), right=STATS_NUMBERS):
        out.tell(out.escape(line))
    for row in rows:
        if row.failure_kinds:
            out.tell(out.escape(failure_line(row)))


def print_list_stats(counts: Sequence[ListCounts], out: Output) -> None:
    """Write what the listings took to stderr, nothing when there were none."""
    requests = sum(count.requests for count in counts)
    names, extra = sum(count.names for count in counts), sum(count.extra for count in counts)
    if not requests:
        return
    if out.json:
        fields = {"type": "list_stats", "names": names, "requests": requests, "extra_requests": extra}
        out.tell(out.encode(fields))
        return
    out.tell(f"listings: names {names}, requests {requests}, extra requests {extra}")
