"""When deletes are held back. Decisions only."""

from __future__ import annotations

from typing import Protocol

from s3pool.errors import UsageError
from s3pool.record import dataclass

FREE_OBJECTS = 100  # a share of so few says nothing
PERCENT = 100
NO_LIMIT = "none"


@dataclass(frozen=True, slots=True)
class MaxDelete:
    """The most that one run may delete: a count, or a share of what the target has."""

    count: int | None = None
    percent: float | None = 50.0

    def refuses(self, to_delete: int, present: int) -> bool:
        """Return whether deleting so many of the target's objects exceeds the limit."""
        if self.count is not None:
            return to_delete > self.count
        if self.percent is None or to_delete <= FREE_OBJECTS:
            return False
        return to_delete * PERCENT > self.percent * present

    @property
    def text(self) -> str:
        """The limit as the command line writes it."""
        if self.count is not None:
            return str(self.count)
        return NO_LIMIT if self.percent is None else f"{self.percent:g}%"


HALF = MaxDelete()


def parse_max_delete(text: str) -> MaxDelete:
    """Read ``N``, ``N%`` or ``none``.

    Raises:
        UsageError: it is something else.
    """
    if text == NO_LIMIT:
        return MaxDelete(percent=None)
    number = text.removesuffix("%")
    try:
        value = float(number) if text.endswith("%") else int(number)
    except ValueError:
        value = -1
    if not 0 <= value < float("inf") or (text.endswith("%") and value > PERCENT):
        raise UsageError(f"bad limit {text!r}: write a number, a percentage such as 50%, or {NO_LIMIT}")
    return MaxDelete(percent=value) if text.endswith("%") else MaxDelete(count=int(value))


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known when all transfers are over."""

    scans_ended: bool
    out_of_time: bool
    failed: int
    refused: int
    not_started: int
    source_names: int
    target_names: int
    to_delete: int


class Partners(Protocol):
    """The other shards of the same run, in processes of their own."""

    def agree(self, situation: Situation) -> Situation:
        """Wait until all have done their transfers, and return the situation of all together."""

    def wait_for_deletes(self) -> None:
        """Wait until all have done their deletes."""


def why_hold_back(situation: Situation, *, max_delete: MaxDelete, allow_empty_source: bool) -> str:
    """Return why nothing may be deleted; "" when deletes may go on."""
    if situation.out_of_time:
        return "the time was up before everything was compared"
    if not situation.scans_ended:
        return "the listings did not end cleanly"
    if trouble := _trouble(situation):
        return f"not everything went well ({trouble})"
    if not situation.source_names and not allow_empty_source:
        return "the source is empty; --allow-empty-source if that is meant"
    if max_delete.refuses(situation.to_delete, situation.target_names):
        share = f"{situation.to_delete} of {situation.target_names} objects would go"
        return f"{share}, more than --max-delete {max_delete.text} allows"
    return ""


def _trouble(situation: Situation) -> str:
    counts = ((situation.failed, "failed"), (situation.refused, "skipped"), (situation.not_started, "not finished"))
    return ", ".join(f"{count} {word}" for count, word in counts if count)
