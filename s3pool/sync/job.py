"""One sync as a job: what is wanted of it, which names, and what became of that."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Protocol

from s3pool.errors import UsageError
from s3pool.filters import ANY_FACTS, WHOLE, NameFilter, Names, ObjectFilter, Shard
from s3pool.location import name_bytes
from s3pool.model import ListPage
from s3pool.record import dataclass, field, replace
from s3pool.sync.compare import COPY, Rules
from s3pool.sync.pair import NO_STATE, StatePaths
from s3pool.transfer.tasks import Summary
from s3pool.transfer.walk import LINKS_FILES

if TYPE_CHECKING:
    from s3pool.location import S3Path
    from s3pool.s3.client import S3Client
    from s3pool.transfer.executor import BoundedExecutor

ASKED_AT_ONCE = 8  # changed names, each with a request of its own
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
    """Read ``N``, ``N%`` or ``none``. Raises UsageError: it is something else."""
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
    counts = ((situation.failed, "failed"), (situation.refused, "skipped"), (situation.not_started, "not finished"))
    if trouble := ", ".join(f"{count} {word}" for count, word in counts if count):
        return f"not everything went well ({trouble})"
    if not situation.source_names and not allow_empty_source:
        return "the source is empty; --allow-empty-source if that is meant"
    if max_delete.refuses(situation.to_delete, situation.target_names):
        share = f"{situation.to_delete} of {situation.target_names} objects would go"
        return f"{share}, more than --max-delete {max_delete.text} allows"
    return ""


REPORT_COUNTS = ("in_sync", "waited", "out_of_time")
TALLY_COUNTS = ("checked", "looked_at", "unchanged", "left", "source_names", "target_names", "to_delete")
ALL_NAMES = NameFilter()


@dataclass(frozen=True, slots=True)
class SyncOptions(Rules):
    """What the user wants of a sync. ``max_duration_s`` 0 is no limit."""

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
        # An old version is older than its target whatever is in them: times say nothing here.
        checksum = self.checksum or (self.at is not None and direction == COPY)
        return replace(self, direction=direction, checksum=checksum)


@dataclass(slots=True)
class Tally:
    """What the comparison found; of this shard alone, but for ``source_names``.

    ``left`` is what a rule of the user's kept from being copied, ``looked_at`` what times and sizes could not decide.
    """

    checked: int = 0
    looked_at: int = 0
    unchanged: int = 0
    left: int = 0
    source_names: int = 0
    target_names: int = 0
    to_delete: int = 0


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


# -- some names instead of all -------------------------------------------------------------


class ListedNames:
    """The names of a list that a filter admits; ``wanted`` are those not seen at the source yet."""

    def __init__(self, listed: Iterable[str], names: Names) -> None:
        self._listed = frozenset(name for name in listed if names.admits(name))
        self._directories = frozenset(parent for name in self._listed for parent in _parents(name))
        self.wanted = set(self._listed)

    def admits(self, relative: str) -> bool:
        """Return whether a name is on the list."""
        return relative in self._listed

    def may_contain(self, directory: str) -> bool:
        """Return whether a listed name lies below a directory."""
        return not directory or directory.rstrip("/") in self._directories


class ChangedNames:
    """The names that have changed, as far as a filter admits them; one with a slash at its end is a whole tree."""

    def __init__(self, changed: Iterable[str], names: Names) -> None:
        self._names = names
        self._trees = frozenset(name for name in changed if name.endswith("/"))
        # One that lies in a tree of the others is asked about with that.
        self._changed = sorted((name for name in changed if not self._is_below(name)), key=name_bytes)
        self._files = frozenset(self._changed)
        self._directories = frozenset(parent for name in self._changed for parent in _parents(name))

    def admits(self, relative: str) -> bool:
        """Return whether a name has changed, and the filter admits it."""
        return (relative in self._files or self._is_below(relative)) and self._names.admits(relative)

    def may_contain(self, directory: str) -> bool:
        """Return whether a changed name can lie below a directory."""
        below = f"{directory.rstrip('/')}/"
        is_on_way = not directory or below[:-1] in self._directories or below in self._trees or self._is_below(below)
        return is_on_way and self._names.may_contain(directory)

    def list_pages(self, client: S3Client, tree: S3Path, executor: BoundedExecutor) -> Iterator[ListPage]:
        """Yield what a tree in S3 has of the changed names, in order, without listing the rest."""
        from s3pool.s3.list_all import list_pages

        found: dict[str, Iterable[ListPage]] = {}

        def ask(name: str) -> None:
            prefix = tree.tree_prefix + name
            if name.endswith("/"):
                pages = list_pages(client, tree.bucket, prefix=prefix)
                found[name] = chain(tuple(islice(pages, 1)), pages)  # the first one is asked for here
                return
            page = client.list_objects_page(tree.bucket, prefix=prefix, max_keys=1)
            found[name] = [replace(page, objects=[info for info in page.objects if info.key == prefix])]

        names = [name for name in self._changed if not is_foreign(name)]
        executor.share(ask, names, limit=ASKED_AT_ONCE)
        for name in names:
            yield from found[name]

    def _is_below(self, name: str) -> bool:
        return not self._trees.isdisjoint(f"{parent}/" for parent in _parents(name.rstrip("/")))


def _parents(name: str) -> list[str]:
    return [name[:place] for place, character in enumerate(name) if character == "/"]


def is_foreign(name: str) -> bool:
    """Return whether a name has bytes that are not UTF-8: no key has that name."""
    return any("\udc80" <= character <= "\udcff" for character in name)
