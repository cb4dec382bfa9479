"""Progress on stderr, as bars or as a line every ten seconds; or told to the process that runs this one as a shard."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from s3pool.filters import FLAG, NameRange, Shard
from s3pool.transfer.context import Meter, Progress
from s3pool.units import format_duration, format_size

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import TaskID


PLAIN_INTERVAL_S = 10.0
LARGE_BYTES = 16 << 20  # smaller transfers are over before a bar for them can be read
MAX_LARGE_BARS = 4
NAME_WIDTH = 40  # cells of a name at most
LEAST_NAME_WIDTH = 12
BESIDE_NAME = 60  # cells of bar and figures that a name leaves, where the line is long enough
BESIDE_REST = LEAST_NAME_WIDTH + 12  # cells of name, bar and blanks that the figures leave
REFRESHES_PER_S = 5.0
REPORT_INTERVAL_S = 0.2  # of a shard's process
HELD_BY_PARTS = (signal.SIGINT, signal.SIGTERM)  # until they can tell of a signal: a parent passes these on
MODES = ("bar", "plain", "none")


class _TransferMeter(Meter):
    def __init__(self, run: RunProgress, label: str, size: int) -> None:
        self._run, self.label, self.size, self.counted = run, label, size, 0

    def advance(self, count: int) -> None:
        """Count bytes; a negative number takes bytes back."""
        with self._run.lock:
            self.counted += count
            self._run.bytes_done += count
        self._run.tick()

    def end(self, *, ok: bool) -> None:
        """Finish; bytes of a transfer that failed do not count."""
        run = self._run
        with run.lock:
            run.active.pop(id(self), None)
            if ok:
                run.files_done += 1
            else:
                run.bytes_done -= self.counted
                self.counted = 0
        run.tick()


class RunProgress(Progress):
    """The progress of all transfers of a run together; methods may be called from any thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        # Guards all counts below; nothing is drawn under it.
        self.lock = threading.Lock()
        self._now, self.started = now, now()
        self.files_found = self.bytes_found = self.files_done = self.bytes_done = 0
        self.is_complete = False
        self.active: dict[int, _TransferMeter] = {}

    def found(self, size: int) -> None:
        """Count one more transfer to make."""
        with self.lock:
            self.files_found += 1
            self.bytes_found += size

    def all_found(self) -> None:
        """Mark the totals as final."""
        self.is_complete = True

    def begin(self, label: str, size: int) -> Meter:
        """Start one transfer."""
        meter = _TransferMeter(self, label, size)
        if size >= LARGE_BYTES:
            with self.lock:
                self.active[id(meter)] = meter
        return meter

    def whole(self, size: int) -> None:
        """Count one transfer that was made at once."""
        with self.lock:
            self.files_done += 1
            self.bytes_done += size
        self.tick()

    def tick(self) -> None:
        """React to a change; overridden where progress is written without a thread."""

    def largest(self) -> list[tuple[str, int, int]]:
        """Return label, bytes done and size of the largest transfers under way."""
        with self.lock:
            meters = sorted(self.active.values(), key=lambda meter: -meter.size)[:MAX_LARGE_BARS]
            return [(meter.label, meter.counted, meter.size) for meter in meters]

    @property
    def speed(self) -> float:
        """Return bytes a second since the start."""
        return max(0, self.bytes_done) / max(self._now() - self.started, 1e-9)

    @property
    def eta_s(self) -> float | None:
        """Return the seconds left, or None while they cannot be known."""
        left = self.bytes_found - self.bytes_done
        if not self.is_complete or not self.speed or left < 0:
            return None
        return left / self.speed

    def text(self) -> str:
        """Return the progress in one line."""
        more = "" if self.is_complete else "+"
        eta = "" if self.eta_s is None else f", {format_duration(round(self.eta_s))} left"
        return (
            f"{format_size(self.bytes_done)} of {format_size(self.bytes_found)}{more}, "
            f"{self.files_done} of {self.files_found}{more} files, {format_size(round(self.speed))}/s{eta}"
        )


class PlainProgress(RunProgress):
    """Writes a line every ten seconds, from the thread that reports a change."""

    def __init__(self, write: Callable[[str], object], now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(now)
        self._write = write
        self._next = self.started + PLAIN_INTERVAL_S
        # Guards the time of the next line, so that one thread writes it.
        self._line_lock = threading.Lock()

    def tick(self) -> None:
        """Write a line when it is due."""
        if self._now() < self._next:
            return
        with self._line_lock:
            if self._now() < self._next:
                return
            self._next = self._now() + PLAIN_INTERVAL_S
        self._write(f"s3pool: {self.text()}\n")


class BarProgress(RunProgress):
    """Draws bars with rich between start() and stop(), from rich's own thread."""

    def __init__(self, *, color: bool = True) -> None:
        super().__init__()
        # Imported late: rich takes longer to load than many a transfer takes.
        from rich import progress as rich
        from rich.console import Console
        from rich.live import Live

        # Guards start and stop: lines of the log come from other threads than results.
        self._pause_lock = threading.RLock()
        console = Console(stderr=True, no_color=not color, color_system="auto" if color else None)
        self._console = console
        self._bars = rich.Progress(
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(bar_width=None),
            rich.TextColumn("{task.fields[amount]}", justify="right"),
            rich.TextColumn("{task.fields[rest]}"),
            console=console,
            auto_refresh=False,
            expand=True,
        )
        self._total = self._bars.add_task("all", total=None, amount="", rest="")
        self._large: dict[str, TaskID] = {}
        self._new_live = partial(
            Live,
            console=console,
            get_renderable=self._draw,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            refresh_per_second=REFRESHES_PER_S,
        )
        self._live = self._new_live()

    def start(self) -> None:
        """Begin to draw; rich's own restart would go up over the lines written meanwhile."""
        self._live = self._new_live()
        self._live.start(refresh=True)

    def stop(self) -> None:
        """Remove the bars."""
        self._live.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Remove the bars while something else is written to the terminal, by any thread."""
        with self._pause_lock:
            was_shown = self._live.is_started
            self.stop()
            try:
                yield
            finally:
                if was_shown:
                    self.start()

    def _draw(self) -> RenderableType:
        amount = _amount(self.bytes_done, self.bytes_found)
        rest = f"{format_size(round(self.speed))}/s"
        if self.eta_s is not None:
            rest = f"{rest} {format_duration(round(self.eta_s))} left"
        # A + marks a total that still grows.
        files = f"{self.files_done}/{self.files_found}{'' if self.is_complete else '+'} files"
        if len(amount) + len(rest) + len(files) < self._console.width - BESIDE_REST:
            rest = f"{rest} {files}"
        self._bars.update(self._total, completed=self.bytes_done, total=self.bytes_found, amount=amount, rest=rest)
        under_way = {label: (done, size) for label, done, size in self.largest()}
        for label in [label for label in self._large if label not in under_way]:
            self._bars.remove_task(self._large.pop(label))
        for label, (done, size) in under_way.items():
            if label not in self._large:
                self._large[label] = self._bars.add_task("", total=size, amount="", rest="")
            name = shorten(label, min(max(self._console.width - BESIDE_NAME, LEAST_NAME_WIDTH), NAME_WIDTH))
            self._bars.update(self._large[label], description=name, completed=done, amount=_amount(done, size))
        return self._bars.get_renderable()


def _amount(done: int, size: int) -> str:
    return f"{format_size(done)} of {format_size(size)}"


def shorten(name: str, width: int = NAME_WIDTH) -> str:
    """Cut a name in front, where names of one tree are alike; control characters become ``?``.

    ``width`` is in cells of a terminal: a wide character takes two, a combining one none. Joined emoji stand side by
    side, since terminals differ on how wide they are otherwise.
    """
    from rich.cells import cell_len

    clean = "".join(char if char.isprintable() else "?" for char in name.replace("\u200d", ""))
    if cell_len(clean) <= width:
        return clean
    start, room = len(clean), width - 1
    while (room := room - cell_len(clean[start - 1])) >= 0:
        start -= 1
    while not cell_len(clean[start]):  # its letter is cut off
        start += 1
    return f"…{clean[start:]}"


def choose_mode(wanted: str, *, quiet: bool, json: bool, stderr_is_tty: bool, stdout_is_busy: bool) -> str:
    """Choose between "bar", "plain" and "none".

    ``stdout_is_busy``: results go to a pipe or file, where a line for each result is wanted instead of a bar.
    """
    if wanted in MODES:
        return wanted
    if quiet or json:
        return "none"
    return "bar" if stderr_is_tty and not stdout_is_busy else "plain"


def write_stderr(text: str) -> None:
    """Write to stderr from any thread; a closed stream must not end a transfer."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass


class Part:
    """The end of the two pipes in a process of --processes: reports go out, orders come in.

    When the orders end, the parent is gone, and this process is ended as by SIGTERM.
    """

    def __init__(self, reports: int, orders: int) -> None:
        import queue

        self._reports = reports
        # Guards the pipe; held while one line is written.
        self._lock = threading.Lock()
        self._orders: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, args=(orders,), name="s3pool-orders", daemon=True).start()
        self.shard = Shard()
        self.shows_lines = True
        self.operand: str | None = None  # the one of several that is to be done

    def wait_for_start(self) -> list[str]:
        """Wait for the range of this shard, and return the words of the command; none if it is not needed."""
        order = self._orders.get()
        if "words" not in order:
            return []
        names = NameRange(*order["bounds"]) if order["bounds"] else None
        self.shard = Shard(order["shard"], order["of"], FLAG, names)
        self.shows_lines = order["lines"]
        self.operand = order["operand"]
        return list(order["words"])

    def send(self, kind: str, fields: Mapping[str, Any] | list[Any] | bool) -> None:
        """Report one thing."""
        import json

        line = memoryview(f"{json.dumps([kind, fields])}\n".encode())
        with self._lock:
            while line:
                line = line[os.write(self._reports, line) :]

    def meet(self, point: str, counts: Mapping[str, Any]) -> dict[str, Any]:
        """Wait until all shards have come to a point, and return the sums of their counts."""
        self.send("meet", {"point": point, "counts": dict(counts)})
        return self._orders.get()

    def _read(self, orders: int) -> None:
        import json

        with open(orders, encoding="utf-8") as lines:
            for line in lines:
                self._orders.put(json.loads(line))
        os.kill(os.getpid(), signal.SIGTERM)


class PartProgress(RunProgress):
    """The progress of one shard, as the parent's bar wants it."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self._part = part
        self._next = 0.0

    def tick(self) -> None:
        """Report when it is time."""
        if (now := time.monotonic()) >= self._next:
            self._next = now + REPORT_INTERVAL_S
            self.report()

    def report(self) -> None:
        """Report the counts as they are."""
        counts = [self.files_found, self.bytes_found, self.files_done, self.bytes_done, int(self.is_complete)]
        self._part.send("progress", counts)
