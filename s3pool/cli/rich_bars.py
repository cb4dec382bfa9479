"""The bars on a terminal, drawn by rich; imported only when they are drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from s3pool.cli.bars import Tally

NAME_WIDTH = 40
REFRESHES_PER_S = 5.0


class Bars(Progress):
    """rich's Progress, fed from the tally whenever it draws."""

    def __init__(self, tally: Tally, *, color: bool) -> None:
        self._tally = tally
        self._large: dict[str, TaskID] = {}
        # Adding a bar draws, and drawing leads here again; rich draws once in its own __init__, too.
        self._is_following = True
        columns = (
            _Name(),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[files]}"),
        )
        super().__init__(
            *columns,
            console=Console(stderr=True, no_color=not color, color_system="auto" if color else None),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            refresh_per_second=REFRESHES_PER_S,
        )
        self._total = self.add_task("all", total=None, files="")
        self._is_following = False

    def get_renderables(self) -> Iterable[RenderableType]:
        """Give what is drawn, after a look at the tally."""
        with self._lock:
            if not self._is_following:
                self._is_following = True
                self._follow()
                self._is_following = False
        yield from super().get_renderables()

    def _follow(self) -> None:
        tally = self._tally
        files = f"{tally.files_done}/{tally.files_found}{'' if tally.is_complete else '+'} files"
        self._set(self._total, tally.bytes_done, tally.bytes_found, files)
        under_way = {label: (done, size) for label, done, size in tally.largest()}
        for label in [label for label in self._large if label not in under_way]:
            self.remove_task(self._large.pop(label))
        for label, (done, size) in under_way.items():
            if label not in self._large:
                self._large[label] = self.add_task(label, total=size, files="")
            self._set(self._large[label], done, size, "")

    def _set(self, task_id: TaskID, done: int, size: int, files: str) -> None:
        self.update(task_id, completed=done, total=size, files=files, refresh=False)


class _Name(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(shorten(task.description))


def shorten(name: str) -> str:
    """Cut a name in the middle to the width of its column; control characters become ``?``."""
    clean = "".join(char if char.isprintable() else "?" for char in name)
    if len(clean) <= NAME_WIDTH:
        return clean
    half = (NAME_WIDTH - 1) // 2
    return f"{clean[:half]}…{clean[-half:]}"
