"""One sync as a job: what is wanted of it, which names, what became of that, and what it tells Prometheus."""

from __future__ import annotations

import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Protocol

from s3pool import __version__
from s3pool.endpoint import ENDPOINT_COUNTERS, FAILURES_METRIC
from s3pool.errors import LocalFileError, UsageError
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
        tally = {name: getattr(self.tally, name) for name in Tally.__match_args__}
        return {**own, "held_back": self.held_back, "tally": tally, "summary": self.summary.counts}

    def add_counts(self, counts: Mapping[str, Any]) -> None:
        """Add what another process has done for this run."""
        for name in REPORT_COUNTS:
            setattr(self, name, type(getattr(self, name))(getattr(self, name) + counts[name]))
        for name in Tally.__match_args__:
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


# -- what a run leaves for Prometheus ---------------------------------------------------------

LAST_SUCCESS = "s3pool_sync_last_success_timestamp_seconds"
FILE_MODE = 0o644  # the collector is another user
RANDOM_BYTES = 6
OWN_START = b"# HELP s3pool_sync_"
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{(.*)\} (\S+)")
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Gauge:
    """One metric with its samples."""

    name: str
    meaning: str
    samples: Sequence[tuple[Labels, float]]


def iter_gauges(
    report: Report, labels: Labels, *, exit_code: int, now: float, success: float | None, endpoints: Iterable[Any]
) -> Iterator[Gauge]:
    """Yield the metrics of a run; all are of this run alone, but for the last success."""

    def gauge(name: str, meaning: str, value: float) -> Gauge:
        return Gauge(f"s3pool_sync_{name}", meaning, ((labels, value),))

    summary = report.summary
    yield gauge("last_run_timestamp_seconds", "When the last run ended.", now)
    if success is not None:
        yield Gauge(LAST_SUCCESS, "When the last run with exit code 0 ended.", ((labels, success),))
    import platform

    info = {**labels, "version": __version__, "python": platform.python_version()}
    yield Gauge("s3pool_sync_build_info", "1, with the versions of s3pool and Python.", ((info, 1.0),))
    yield gauge("exit_code", "The exit code of the last run.", exit_code)
    yield gauge("duration_seconds", "How long the last run took.", report.seconds)
    yield gauge("objects_checked", "Names of the source that were compared.", report.tally.checked)
    yield gauge("objects_unchanged", "Names that needed nothing.", report.unchanged)
    yield gauge("objects_copied", "Objects that were copied.", summary.copied)
    yield gauge("objects_deleted", "Objects that were deleted from the target.", summary.deleted)
    yield gauge("objects_skipped", "Objects that were left alone though they differ.", report.skipped)
    yield gauge("objects_failed", "Objects that failed.", summary.failed)
    yield gauge("copied_bytes", "Bytes of the objects that were copied.", summary.bytes)
    yield gauge("deletes_held_back", "1 when a guard held deletes back.", float(bool(report.held_back)))
    yield from _endpoint_gauges(tuple(endpoints), labels)


def _endpoint_gauges(endpoints: tuple[Any, ...], labels: Labels) -> Iterator[Gauge]:
    for name, member, meaning in ENDPOINT_COUNTERS:
        samples = [({**labels, "endpoint": str(row.endpoint)}, float(getattr(row, member))) for row in endpoints]
        yield Gauge(f"s3pool_sync_{name}", f"{meaning}, in the last run.", samples)
    name, meaning = FAILURES_METRIC
    rows = [(str(row.endpoint), kind, count) for row in endpoints for kind, count in row.failure_kinds.items()]
    failures = [({**labels, "endpoint": url, "kind": kind}, float(count)) for url, kind, count in rows]
    yield Gauge(f"s3pool_sync_{name}", f"{meaning}, in the last run.", failures)


def format_metrics(gauges: Iterable[Gauge]) -> str:
    """Return the text of a metrics file.

    Source: Prometheus, "Exposition formats", text-based format.
    """
    lines = []
    for gauge in gauges:
        if gauge.samples:
            lines += [f"# HELP {gauge.name} {gauge.meaning}", f"# TYPE {gauge.name} gauge"]
            lines += [f"{gauge.name}{_format_labels(labels)} {_format_value(value)}" for labels, value in gauge.samples]
    return "\n".join(lines) + "\n"


def _format_labels(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}" if labels else ""


def _escape(value: str) -> str:
    text = value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _format_value(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.3f}"


def last_success(path: str, labels: Labels) -> float | None:
    """Return the time of the last success that the file holds; None without one."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            lines = stream.read().splitlines()
    except OSError:
        return None
    wanted = _format_labels(labels)[1:-1]
    for line in lines:
        match = SAMPLE.fullmatch(line)
        if match and match[1] == LAST_SUCCESS and match[2] == wanted:
            with suppress(ValueError):
                return float(match[3])
    return None


def check_replaceable(path: str) -> None:
    """See to it that a metrics file replaces nothing but an earlier one, or an empty file.

    Raises UsageError: it would. LocalFileError: that cannot be told.
    """
    try:
        facts = os.lstat(path)
        if not stat.S_ISREG(facts.st_mode):
            raise UsageError(f"--metrics-file {path}: it is no regular file, and would be replaced; name another one")
        with open(path, "rb") as stream:
            start = stream.read(len(OWN_START))
    except FileNotFoundError:
        return
    except OSError as exc:
        raise LocalFileError(f"cannot replace {path}: {exc.strerror}") from exc
    if facts.st_size and start != OWN_START:
        raise UsageError(f"--metrics-file {path}: it holds no metrics of sync's, and would be replaced")


def write_atomically(path: str, text: str) -> None:
    """Replace a file as a whole: a collector never reads half of it. Raises LocalFileError: it cannot be written."""
    check_replaceable(path)
    # The collector takes *.prom, so the temporary name must end otherwise.
    part = f"{path}.{secrets.token_hex(RANDOM_BYTES)}.tmp"
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            with open(fd, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(part, path)
        except OSError:
            os.unlink(part)
            raise
    except OSError as exc:
        raise LocalFileError(f"cannot write {path}: {exc.strerror}") from exc
