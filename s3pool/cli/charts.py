"""Tables that fit a terminal, and bars to look at; rich comes in only where bars are drawn."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from s3pool.cli.report import table
from s3pool.record import dataclass
from s3pool.units import format_size

ELLIPSIS = "…"
LEAST_NAME = 12  # a shorter piece of a URL names no node
MOST_BAR = 40
TEN, THOUSAND = 10, 1000


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; ``bad`` paints it as something to look at."""

    name: str
    value: float
    text: str
    bad: bool = False


def terminal_width() -> int:
    """Give the columns of the terminal, or what COLUMNS says."""
    return shutil.get_terminal_size().columns


def fitted_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int], width: int = 0
) -> list[str]:
    """Lay out a table whose first column gives way where the width does not suffice; 0 is no bound."""
    lines = table(header, rows, right=right)
    excess = max(map(len, lines)) - width if width else 0
    if excess <= 0:
        return lines
    names = [row[0] for row in rows]
    room = max(LEAST_NAME, max(map(len, (header[0], *names))) - excess)
    short = fit_names(names, room)
    return table(header, [(name, *row[1:]) for name, row in zip(short, rows, strict=True)], right=right)


def fit_names(names: Sequence[str], room: int) -> list[str]:
    """Shorten URLs: first the scheme goes, then the middle."""
    if max(map(len, names), default=0) <= room:
        return list(names)
    return [_shorten(name.partition("://")[2] or name, room) for name in names]


def _shorten(name: str, room: int) -> str:
    if len(name) <= room:
        return name
    tail = (room - 1) // 2
    return f"{name[: room - 1 - tail]}{ELLIPSIS}{name[len(name) - tail :]}"


def format_ms(milliseconds: float) -> str:
    """Give a time in five characters: ``0.8ms``, ``12ms``, ``1.2s``."""
    if round(milliseconds, 1) < TEN:
        return f"{milliseconds:.1f}ms"
    if round(milliseconds) < THOUSAND:
        return f"{milliseconds:.0f}ms"
    seconds = milliseconds / THOUSAND
    return f"{seconds:.1f}s" if round(seconds, 1) < TEN else f"{seconds:.0f}s"


def format_count(number: float) -> str:
    """Give a rate without a unit: one decimal while it is small."""
    return f"{number:.1f}" if round(number, 1) < TEN else f"{number:.0f}"


def format_throughput(bytes_per_s: float) -> str:
    """Give bytes a second in nine characters: ``51MiB/s``."""
    return f"{format_size(round(bytes_per_s))}/s"


def bar_lines(bars: Sequence[Bar], *, width: int, color: bool) -> list[str]:
    """Draw bars for a terminal of this width; the longest fills its column."""
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
