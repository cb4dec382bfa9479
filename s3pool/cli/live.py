"""A table that is drawn anew in its place, on a terminal; rich comes in when one is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

Row = tuple[Iterable[str], bool]
Draw = Callable[[Sequence[Row], str], None]


@contextmanager
def live_table(header: Sequence[str], *, right: frozenset[int] = frozenset(), color: bool) -> Iterator[Draw]:
    """Give what draws rows and a caption over what it drew before.

    Each row is its cells and whether it is good. Cells that do not fit are cut at the
    terminal's width. What was drawn last stays when the context ends.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    def grid(rows: Sequence[Row], caption: str) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), caption=caption, caption_justify="left", header_style="")
        for column, title in enumerate(header):
            table.add_column(title, justify="right" if column in right else "left", no_wrap=True)
        for cells, is_good in rows:
            style = "green" if is_good else "red"
            table.add_row(*(Text(cell, style=style) for cell in cells))
        return table

    console = Console(no_color=not color)
    # Drawn by whoever has news: no thread of its own.
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        yield lambda rows, caption: live.update(grid(rows, caption), refresh=True)
