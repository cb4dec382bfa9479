"""Tables for people: aligned columns, bars to compare nodes, lines drawn in place, and --stats.

Tables are plain text on a terminal, too: rich, which draws the bars and the lines of --watch,
takes 60 ms to load, and a ping of a healthy pool takes less.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from s3pool.record import dataclass
from s3pool.units import format_size

if TYPE_CHECKING:
    from s3pool.cli.output import Output
    from s3pool.pool.node import EndpointStats
    from s3pool.s3.buckets import ListingStats

COLUMN_GAP = "  "
ELLIPSIS = "…"
LEAST_NAME = 12  # a shorter piece of a URL names no node
MOST_BAR = 40
TEN, THOUSAND = 10, 1000
STATS_HEADER = ("endpoint", "tries", "failed", "slow", "again", "sent", "got", "ms", "circuit")
STATS_COUNTS = ["requests", "failures", "throttled", "retries", "hedges", "ejections", "bytes_sent", "bytes_received"]
STATS_NUMBERS = frozenset(range(1, 8))

Line = tuple[str, str]  # a text and its colour, "" for the terminal's own
Draw = Callable[[Sequence[Line]], None]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> list[str]:
    """Return the lines of a table; columns in ``right`` are right-aligned, the last one is not padded."""
    grid = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in grid) for column in range(len(header))]
    return [
        COLUMN_GAP.join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in grid
    ]


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; a ``bad`` one is red."""

    name: str
    value: float
    text: str
    bad: bool = False


def terminal_width() -> int:
    """Return the width of the terminal in columns; the variable COLUMNS overrides it."""
    return shutil.get_terminal_size().columns


def fitted_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int], width: int = 0
) -> list[str]:
    """Return the lines of a table, with the first column shortened to fit ``width``; 0 is no limit."""
    lines = table(header, rows, right=right)
    excess = max(map(len, lines)) - width if width else 0
    if excess <= 0:
        return lines
    names = [row[0] for row in rows]
    room = max(LEAST_NAME, max(map(len, (header[0], *names))) - excess)
    short = fit_names(names, room)
    return table(header, [(name, *row[1:]) for name, row in zip(short, rows, strict=True)], right=right)


def fit_names(names: Sequence[str], room: int) -> list[str]:
    """Shorten URLs to ``room`` characters: drop the scheme, then cut out the middle."""
    if max(map(len, names), default=0) <= room:
        return list(names)
    return [_shorten(name.partition("://")[2] or name, room) for name in names]


def _shorten(name: str, room: int) -> str:
    if len(name) <= room:
        return name
    tail = (room - 1) // 2
    return f"{name[: room - 1 - tail]}{ELLIPSIS}{name[len(name) - tail :]}"


def format_ms(milliseconds: float) -> str:
    """Format a time in five characters: ``0.8ms``, ``12ms``, ``1.2s``."""
    if round(milliseconds, 1) < TEN:
        return f"{milliseconds:.1f}ms"
    if round(milliseconds) < THOUSAND:
        return f"{milliseconds:.0f}ms"
    seconds = milliseconds / THOUSAND
    return f"{seconds:.1f}s" if round(seconds, 1) < TEN else f"{seconds:.0f}s"


def format_count(number: float) -> str:
    """Format a rate without a unit: one decimal below 10."""
    return f"{number:.1f}" if round(number, 1) < TEN else f"{number:.0f}"


def format_throughput(bytes_per_s: float) -> str:
    """Format bytes a second in nine characters: ``51MiB/s``."""
    return f"{format_size(round(bytes_per_s))}/s"


def bar_lines(bars: Sequence[Bar], *, width: int, color: bool) -> list[str]:
    """Return bars as lines of at most ``width`` columns; the longest bar fills its column."""
    from rich.bar import Bar as RichBar
    from rich.console import Console
    from rich.table import Table

    most = max((bar.value for bar in bars), default=0.0)
    if not most:
        return []
    texts = max(len(bar.text) for bar in bars)
    names = fit_names([bar.name for bar in bars], max(LEAST_NAME, (width - texts) // 2))
    room = max(1, min(MOST_BAR, width - texts - max(map(len, names)) - 2 * len("  ")))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(width=room)
    grid.add_column(justify="right", no_wrap=True)
    for name, bar in zip(names, bars, strict=True):
        style = "red" if bar.bad else "green"
        grid.add_row(name, RichBar(most, 0, bar.value, width=room, color=style), bar.text)
    console = Console(width=width, force_terminal=color, no_color=not color, color_system="standard" if color else None)
    with console.capture() as captured:
        console.print(grid, markup=False, highlight=False)
    return [line.rstrip() for line in captured.get().splitlines()]


@contextmanager
def live_lines(*, color: bool) -> Iterator[Draw]:
    """Yield a function that draws lines over the lines that it drew before.

    Lines are cut at the terminal's width at that moment. The last lines stay when the context ends.
    """
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    console = Console(no_color=not color)
    # The caller draws: no refresh thread.
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:

        def draw(lines: Sequence[Line]) -> None:
            texts = [Text(text, style=style, no_wrap=True, overflow="ellipsis") for text, style in lines]
            live.update(Group(*texts), refresh=True)

        yield draw


def mean_ms(row: EndpointStats) -> float:
    """Return the mean time to an answer in milliseconds, 0 when none was timed."""
    return round(row.seconds / row.timed * 1000, 1) if row.timed else 0.0


def stats_record(row: EndpointStats) -> dict[str, object]:
    """Return the JSON object of one endpoint's counts."""
    return {
        "type": "stats",
        "endpoint": str(row.endpoint),
        **{name: getattr(row, name) for name in STATS_COUNTS},
        "mean_ms": mean_ms(row),
        "state": row.state,
        "failure_kinds": dict(row.failure_kinds),
        "last_error": row.last_error,
    }


def print_stats(rows: Sequence[EndpointStats], out: Output) -> None:
    """Write the counts of all endpoints to stderr: a table and the failures, or JSON lines."""
    if out.json:
        for row in rows:
            out.tell(out.encode(stats_record(row)))
        return
    cells = []
    for row in rows:  # a line fits 80 columns with usual URLs
        counts = map(str, (row.requests, row.failures, row.throttled, row.retries))
        sizes = (format_size(row.bytes_sent), format_size(row.bytes_received))
        cells.append((str(row.endpoint), *counts, *sizes, f"{mean_ms(row):.1f}", row.state))
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
