"""How far a run has come: bars on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from s3pool.units import format_duration, format_size

if TYPE_CHECKING:
    from s3pool.transfer.progress import Meter

PLAIN_INTERVAL_S = 10.0
LARGE_BYTES = 16 << 20  # smaller transfers are over before a bar for them can be read
MAX_LARGE_BARS = 4
MODES = ("bar", "plain", "none")


class _TallyMeter:
    """The progress of one transfer; belongs to the tally."""

    __slots__ = ("_tally", "counted", "label", "size")

    def __init__(self, tally: Tally, label: str, size: int) -> None:
        self._tally = tally
        self.label = label
        self.size = size
        self.counted = 0

    def advance(self, count: int) -> None:
        """Count bytes, or take them back."""
        self._tally.advance(self, count)

    def end(self, *, ok: bool) -> None:
        """Finish, or take all back."""
        self._tally.end(self, ok=ok)


class Tally:
    """What all transfers of a run have done together."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        # Guards all counts below; nothing is drawn under it.
        self._lock = threading.Lock()
        self._now = now
        self.started = now()
        self.files_found = 0
        self.bytes_found = 0
        self.files_done = 0
        self.bytes_done = 0
        self.is_complete = False
        self._active: dict[int, _TallyMeter] = {}

    def found(self, size: int) -> None:
        """Count one more transfer to make."""
        with self._lock:
            self.files_found += 1
            self.bytes_found += size

    def all_found(self) -> None:
        """Say that the totals are final."""
        self.is_complete = True

    def begin(self, label: str, size: int) -> Meter:
        """Start one transfer."""
        meter = _TallyMeter(self, label, size)
        if size >= LARGE_BYTES:
            with self._lock:
                self._active[id(meter)] = meter
        return meter

    def advance(self, meter: _TallyMeter, count: int) -> None:
        """Count bytes of a transfer."""
        with self._lock:
            meter.counted += count
            self.bytes_done += count
        self.tick()

    def end(self, meter: _TallyMeter, *, ok: bool) -> None:
        """Finish a transfer."""
        with self._lock:
            self._active.pop(id(meter), None)
            if ok:
                self.files_done += 1
            else:
                self.bytes_done -= meter.counted
                meter.counted = 0
        self.tick()

    def whole(self, size: int) -> None:
        """Count one transfer that was made in one go."""
        with self._lock:
            self.files_done += 1
            self.bytes_done += size
        self.tick()

    def tick(self) -> None:
        """Take notice of a change; for who draws without a thread."""

    def largest(self) -> list[tuple[str, int, int]]:
        """Give label, bytes done and size of the largest transfers under way."""
        with self._lock:
            meters = sorted(self._active.values(), key=lambda meter: -meter.size)[:MAX_LARGE_BARS]
            return [(meter.label, meter.counted, meter.size) for meter in meters]

    @property
    def speed(self) -> float:
        """Give bytes a second since the start."""
        return max(0, self.bytes_done) / max(self._now() - self.started, 1e-9)

    @property
    def eta_s(self) -> float | None:
        """Give the seconds that are left, None while they cannot be known."""
        left = self.bytes_found - self.bytes_done
        if not self.is_complete or not self.speed or left < 0:
            return None
        return left / self.speed

    def text(self) -> str:
        """Give all in one line."""
        more = "" if self.is_complete else "+"
        eta = "" if self.eta_s is None else f", {format_duration(round(self.eta_s))} left"
        return (
            f"{format_size(self.bytes_done)} of {format_size(self.bytes_found)}{more}, "
            f"{self.files_done} of {self.files_found}{more} files, {format_size(round(self.speed))}/s{eta}"
        )


class PlainProgress(Tally):
    """Writes a line when ten seconds have gone by; needs no thread of its own."""

    def __init__(self, write: Callable[[str], object], now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(now)
        self._write = write
        self._next = self.started + PLAIN_INTERVAL_S
        # Guards the time of the next line: one thread writes it.
        self._line_lock = threading.Lock()

    def tick(self) -> None:
        """Write a line when it is time."""
        if self._now() < self._next:
            return
        with self._line_lock:
            if self._now() < self._next:
                return
            self._next = self._now() + PLAIN_INTERVAL_S
        self._write(f"s3pool: {self.text()}\n")


class BarProgress(Tally):
    """Draws bars with rich, from rich's own thread, while the context is open."""

    def __init__(self, *, color: bool = True) -> None:
        super().__init__()
        from s3pool.cli.rich_bars import Bars  # rich takes longer to import than many a transfer

        self._bars = Bars(self, color=color)

    def start(self) -> None:
        """Begin to draw."""
        self._bars.start()

    def stop(self) -> None:
        """Remove the bars."""
        self._bars.stop()

    @contextmanager
    def out_of_the_way(self) -> Iterator[None]:
        """Remove the bars while something else is written."""
        self.stop()
        try:
            yield
        finally:
            self.start()


def choose_mode(wanted: str, *, quiet: bool, json: bool, stderr_is_tty: bool, stdout_is_busy: bool) -> str:
    """Choose between "bar", "plain" and "none".

    ``stdout_is_busy`` says that results go to something else than the terminal: then a bar
    would take the place of the lines that are wanted there.
    """
    if wanted in MODES:
        return wanted
    if quiet or json:
        return "none"
    return "bar" if stderr_is_tty and not stdout_is_busy else "plain"


def write_stderr(text: str) -> None:
    """Write to stderr from whatever thread; a closed one is no reason to end a transfer."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass
