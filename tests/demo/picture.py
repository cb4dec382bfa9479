"""Draw the README's picture: a sync with bars in a real terminal, while a node dies.

``python -m tests.demo.picture FILE.svg`` needs pyte (a terminal in memory) beside rich.
"""

from __future__ import annotations

import os
import pty
import select
import sys
import tempfile
import time
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tests.support.fake_s3 import Call, FakeS3

COLUMNS, LINES = 96, 10
FILES, SIZE = 24, 20 << 20
COMMAND = ("s3pool", "sync", "--health-interval", "1", "--bwlimit", "40M", "photos", "s3/backup/photos")
COLOURS = {"brown": "yellow", "default": "default"}


def record(directory: Path, fake: FakeS3, moment: float) -> pyte.Screen:
    """Run the command in a terminal, and return its screen so many seconds after a node died."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    stream.feed(f"$ {' '.join(COMMAND)}\r\n".encode())
    died: list[float] = []
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(directory)
        program = Path(sys.executable).with_name("s3pool")
        environ = {**os.environ, **fake.environment, "HOME": str(directory), "TERM": "xterm-256color"}
        environ |= {"COLUMNS": str(COLUMNS), "LINES": str(LINES)}
        os.execve(program, COMMAND, environ)

    def die(_exchange: object) -> None:
        fake.nodes[2].kill()
        died.append(time.monotonic())

    fake.fault(Call(die), op="*", endpoint=2, nth=8)
    while not died or time.monotonic() - died[0] < moment:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                stream.feed(os.read(terminal, 1 << 16))
            except OSError:
                break
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return screen


def picture(screen: pyte.Screen) -> str:
    """Return a screen as SVG."""
    console = Console(record=True, width=COLUMNS, height=LINES, file=open(os.devnull, "w"))  # noqa: SIM115
    for row in range(LINES):
        line = Text()
        for column in range(COLUMNS):
            cell = screen.buffer[row][column]
            colour = COLOURS.get(cell.fg, cell.fg)
            if len(colour) == 6 and all(digit in "0123456789abcdef" for digit in colour):
                colour = f"#{colour}"
            colour = colour.replace("bright", "bright_")
            line.append(cell.data, Style(color=colour, bold=cell.bold))
        line.rstrip()
        console.print(line)
    return console.export_svg(title="a node dies in the middle of a sync")


def main() -> int:
    """Write the picture."""
    with FakeS3(4) as fake, tempfile.TemporaryDirectory() as folder:
        fake.store.add("backup", "x", b"")
        (Path(folder) / "photos" / "2026" / "november").mkdir(parents=True)
        for number in range(FILES):
            (Path(folder) / "photos" / f"2026/november/img_{number:04}.raw").write_bytes(os.urandom(SIZE))
        screen = record(Path(folder), fake, 7.0)
    print("\n".join(screen.display))
    Path(sys.argv[1]).write_text(picture(screen), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
