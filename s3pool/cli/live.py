"""Lines that are drawn anew in their place, on a terminal; rich comes in when they are opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

Line = tuple[str, str]  # a text and its colour, "" for the terminal's own
Draw = Callable[[Sequence[Line]], None]


@contextmanager
def live_lines(*, color: bool) -> Iterator[Draw]:
    """Give what draws lines over those it drew before.

    A line is cut at the terminal's width, whatever that is by then. What was drawn last
    stays when the context ends.
    """
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    console = Console(no_color=not color)
    # Drawn by whoever has news: no thread of its own.
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:

        def draw(lines: Sequence[Line]) -> None:
            texts = [Text(text, style=style, no_wrap=True, overflow="ellipsis") for text, style in lines]
            live.update(Group(*texts), refresh=True)

        yield draw
