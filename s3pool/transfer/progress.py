"""What a run tells while it works. Meters are called from worker threads."""

from __future__ import annotations

from typing import Protocol


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
        """Say that the totals will not grow any more."""


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
        """Give a meter that counts nothing."""
        return NULL_METER

    def whole(self, size: int) -> None:
        """Ignore the transfer."""

    def all_found(self) -> None:
        """Ignore the end of the listing."""


NULL_METER = NullMeter()
