"""What is wanted of a sync, and what became of that."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from s3pool.filters import ANY_FACTS, NameFilter, Names, ObjectFilter
from s3pool.record import dataclass, field
from s3pool.shard import WHOLE, Shard
from s3pool.sync.compare import COPY, Rules
from s3pool.sync.guard import HALF, MaxDelete
from s3pool.sync.plan import Tally
from s3pool.sync.state import NO_STATE, StatePaths
from s3pool.transfer.tasks import Summary
from s3pool.transfer.walk import LINKS_FILES

REPORT_COUNTS = ("in_sync", "waited", "out_of_time")
TALLY_COUNTS = ("checked", "looked_at", "unchanged", "left", "source_names", "target_names", "to_delete")
ALL_NAMES = NameFilter()


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """What the user wants of a sync. ``max_duration_s`` 0 is no limit."""

    size_only: bool = False
    checksum: bool = False
    exact_timestamps: bool = False
    update: bool = False
    no_clobber: bool = False
    at: float | None = None  # a moment: the source, in S3, is taken as it was then
    names: Names = ALL_NAMES
    facts: ObjectFilter = ANY_FACTS
    links: str = LINKS_FILES
    delete: bool = False
    delete_excluded: bool = False
    max_delete: MaxDelete = HALF
    allow_empty_source: bool = False
    max_duration_s: float = 0.0
    shard: Shard = WHOLE
    dry_run: bool = False
    resume: bool = True
    state: StatePaths = NO_STATE
    lock: str = ""  # the user's own, instead of the pair's
    takes_lock: bool = True  # not where another process has it for this one

    @property
    def deletes(self) -> bool:
        """Whether anything is to be deleted at all."""
        return self.delete or self.delete_excluded

    def rules(self, direction: str) -> Rules:
        """Return what counts as a difference."""
        return Rules(
            direction,
            size_only=self.size_only,
            # An old version is older than its target whatever is in them: times say nothing here.
            checksum=self.checksum or (self.at is not None and direction == COPY),
            exact_timestamps=self.exact_timestamps,
            update=self.update,
            no_clobber=self.no_clobber,
        )


@dataclass(slots=True)
class Report:
    """What a sync did so far; it is there for who must know it after an interrupt."""

    summary: Summary = field(default_factory=Summary)
    tally: Tally = field(default_factory=Tally)
    in_sync: int = 0  # found equal by the workers
    waited: int = 0  # for the deletes, and then had their turn
    held_back: str = ""  # why nothing was deleted, when something would have been
    out_of_time: bool = False
    unordered: list[str] = field(default_factory=list)  # sides that were sorted here
    started: float = field(default_factory=time.monotonic)

    @property
    def unchanged(self) -> int:
        """Count what needed nothing."""
        return self.tally.unchanged + self.in_sync

    @property
    def skipped(self) -> int:
        """Count what was left alone though it differs, by a rule or for safety's sake."""
        return self.tally.left + self.summary.refused + self.summary.skipped - self.in_sync - self.waited

    @property
    def counts(self) -> dict[str, Any]:
        """What was done, as plain values for another process."""
        own = {name: getattr(self, name) for name in REPORT_COUNTS}
        tally = {name: getattr(self.tally, name) for name in TALLY_COUNTS}
        return {**own, "held_back": self.held_back, "tally": tally, "summary": self.summary.counts}

    def add_counts(self, counts: Mapping[str, Any]) -> None:
        """Add what another process has done for this run."""
        for name in REPORT_COUNTS:
            setattr(self, name, type(getattr(self, name))(getattr(self, name) + counts[name]))
        for name in TALLY_COUNTS:
            setattr(self.tally, name, getattr(self.tally, name) + counts["tally"][name])
        self.held_back = self.held_back or counts["held_back"]
        self.summary.add_counts(counts["summary"])

    @property
    def seconds(self) -> float:
        """The seconds since the start."""
        return time.monotonic() - self.started
