"""Bodies that count what they send and end when the run is to end."""

from __future__ import annotations

from collections.abc import Callable

from s3pool.body import READ_BLOCK_BYTES, FileSlice, Sink
from s3pool.transfer.progress import Meter


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
