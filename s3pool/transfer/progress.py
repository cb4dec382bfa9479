"""What a run tells while it works, and the bodies that tell of it. Meters are called from worker threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from s3pool.body import READ_BLOCK_BYTES, FileSlice, Sink


class Meter(Protocol):
    """The progress of one transfer."""

    def advance(self, count: int) -> None:
        """Count bytes; a negative count takes back what must be sent again."""

    def end(self, *, ok: bool) -> None:
        """Finish; a transfer that failed takes its bytes back."""


class Progress(Protocol):
    """The progress of a run."""

    def found(self, size: int) -> None:
        """Count one more transfer that the run will make."""

    def begin(self, label: str, size: int) -> Meter:
        """Start one transfer of size bytes."""

    def whole(self, size: int) -> None:
        """Count one transfer that was made in one go."""

    def all_found(self) -> None:
        """Note that the totals will not grow any more."""


class NullMeter:
    """Count nothing."""

    def advance(self, count: int) -> None:
        """Ignore the bytes."""

    def end(self, *, ok: bool) -> None:
        """Ignore the end."""


class NullProgress:
    """Show nothing."""

    def found(self, size: int) -> None:
        """Ignore the transfer."""

    def begin(self, label: str, size: int) -> Meter:  # noqa: ARG002 - the protocol's names
        """Return a meter that counts nothing."""
        return NULL_METER

    def whole(self, size: int) -> None:
        """Ignore the transfer."""

    def all_found(self) -> None:
        """Ignore the end of the listing."""


NULL_METER = NullMeter()


class MeteredSlice:
    """A part of an open file, sent a block at a time.

    What was counted is taken back when the body is rewound for another attempt.
    """

    __slots__ = ("_check_stop", "_meter", "_sent", "_slice", "length")

    rewindable = True

    def __init__(self, part: FileSlice, meter: Meter, check_stop: Callable[[], None]) -> None:
        self._slice = part
        self._meter = meter
        self._check_stop = check_stop
        self._sent = 0
        self.length = part.length

    def rewind(self) -> None:
        """Take back what was counted; positioned reads need nothing more."""
        if self._sent:
            self._meter.advance(-self._sent)
            self._sent = 0

    def send(self, sink: Sink) -> None:
        """Send the range in blocks."""
        self.rewind()
        while self._sent < self.length:
            self._check_stop()
            count = min(READ_BLOCK_BYTES, self.length - self._sent)
            sink.send_file(self._slice.fd, self._slice.offset + self._sent, count)
            self._sent += count
            self._meter.advance(count)
