"""Which names, sizes and ages take part in a copy, a removal or a search, and which of them are of one shard.

A shard is one of N parts of the names, the same on every machine: by a hash, or by the ranges of a plan.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from s3pool.errors import UsageError
from s3pool.location import compile_glob, glob_prefix, glob_regex, name_bytes
from s3pool.model import ObjectInfo
from s3pool.record import dataclass

INCLUDE = "include"
EXCLUDE = "exclude"
HASH_BYTES = 8
FLAG = "--shard"
AUTO = "auto"  # the word for the shard that the environment names
RECORD = "shard"  # the type of a plan's records


class Names(Protocol):
    """Which relative names take part."""

    def admits(self, relative: str) -> bool:
        """Return whether a name is included."""

    def may_contain(self, directory: str) -> bool:
        """Return whether a name below a directory could be included; False is certain."""


@dataclass(frozen=True, slots=True)
class _NameRule:
    """One --include or --exclude, compiled once."""

    include: bool
    matches: Callable[[str], bool]
    literal: str  # what every matching name starts with
    covers: Callable[[str], object] | None  # for patterns that end in `*`: do they match all below?

    @classmethod
    def compile(cls, kind: str, pattern: str) -> _NameRule:
        if kind not in (INCLUDE, EXCLUDE):
            raise ValueError(f"a rule is {INCLUDE} or {EXCLUDE}, not {kind!r}")
        if not pattern:
            raise UsageError(f"--{kind} needs a pattern")
        # `dir/` means what is in the directory: a name below never ends in `/` by itself.
        whole = f"{pattern}*" if pattern.endswith("/") else pattern
        covers = re.compile(glob_regex(whole.rstrip("*")), re.DOTALL).match if whole.endswith("*") else None
        return cls(kind == INCLUDE, compile_glob(whole), glob_prefix(whole), covers)


class NameFilter:
    """Ordered include and exclude globs over relative names; the last match decides.

    ``*`` crosses ``/``. A name that no rule matches takes part when the first rule is an
    exclude, or when there is none, and stays out when the first rule is an include:
    ``--include '*.log'`` alone means only the logs, for a copy and for a removal.
    """

    __slots__ = ("_default", "_rules")

    def __init__(self, rules: Iterable[tuple[str, str]] = ()) -> None:
        self._rules = tuple(_NameRule.compile(kind, pattern) for kind, pattern in rules)
        self._default = not self._rules or not self._rules[0].include

    @property
    def active(self) -> bool:
        """Return whether there is any rule."""
        return bool(self._rules)

    def admits(self, relative: str) -> bool:
        """Return whether a relative name is included."""
        for rule in reversed(self._rules):
            if rule.matches(relative):
                return rule.include
        return self._default

    def may_contain(self, directory: str) -> bool:
        """Return whether a name below a relative directory could be included.

        No is certain and lets a walk skip the directory; yes may turn out to be empty.
        """
        if not directory:
            return True
        below = directory if directory.endswith("/") else f"{directory}/"
        for rule in reversed(self._rules):
            if rule.include and (rule.literal.startswith(below) or below.startswith(rule.literal)):
                return True
            if not rule.include and rule.covers is not None and rule.covers(below):
                return False
        return self._default


def takes_all(names: Names) -> bool:
    """Return whether every name is included, so that none needs a check."""
    return isinstance(names, NameFilter) and not names.active


@dataclass(frozen=True, slots=True)
class ShardNames:
    """The names of a filter that are of one shard as well."""

    names: Names
    shard: Shard

    def admits(self, relative: str) -> bool:
        """Return whether a name is included."""
        return self.shard.holds(relative) and self.names.admits(relative)

    def may_contain(self, directory: str) -> bool:
        """Return whether a name below a directory can take part."""
        return self.names.may_contain(directory) and self.shard.may_contain(directory)


@dataclass(frozen=True, slots=True)
class ObjectFilter:
    """Tests of size (bytes) and modification time (seconds since 1970), all strict and ANDed."""

    larger: int | None = None
    smaller: int | None = None
    older_than: float | None = None  # modified before this moment
    newer_than: float | None = None  # modified after this moment

    @property
    def active(self) -> bool:
        """Return whether any test is set."""
        return any(limit is not None for limit in (self.larger, self.smaller, self.older_than, self.newer_than))

    def admits(self, size: int, mtime: float) -> bool:
        """Return whether an object passes every test that is set."""
        return (
            (self.larger is None or size > self.larger)
            and (self.smaller is None or size < self.smaller)
            and (self.older_than is None or mtime < self.older_than)
            and (self.newer_than is None or mtime > self.newer_than)
        )

    def admits_object(self, info: ObjectInfo) -> bool:
        """Return whether an object of a listing passes; its time is read only where it matters."""
        has_time = self.older_than is not None or self.newer_than is not None
        return self.admits(info.size, info.mtime if has_time else 0.0)


ANY_FACTS = ObjectFilter()


@dataclass(frozen=True, slots=True)
class NameRange:
    """The names greater than ``after``, up to ``until`` and with it, in the order of their bytes.

    None is no bound. Names are relative to the tree, so that one plan serves both sides of a sync.
    """

    after: str | None = None
    until: str | None = None

    def holds(self, name: str) -> bool:
        """Return whether a name lies in the range."""
        place = name_bytes(name)
        return (self.after is None or name_bytes(self.after) < place) and (
            self.until is None or place <= name_bytes(self.until)
        )

    def may_contain(self, directory: str) -> bool:
        """Return whether a name below a directory, which ends in a slash, can lie in the range."""
        if self.until is not None and name_bytes(directory) > name_bytes(self.until):
            return False
        return self.after is None or name_bytes(directory) > name_bytes(self.after) or self.after.startswith(directory)

    def bounds(self, base: str) -> tuple[str, str | None]:
        """Return where the listing of the keys below ``base`` starts, and the last key of it."""
        return "" if self.after is None else base + self.after, None if self.until is None else base + self.until


# Where a job manager writes an index and the count, and the first, the step and the last index.
# Source: sbatch(1), "Output environment variables"; Kubernetes, "Indexed Job for Parallel Processing".
SLURM = tuple(f"SLURM_ARRAY_TASK_{word}" for word in ("ID", "COUNT", "MIN", "STEP", "MAX"))
ENVIRONMENTS = (SLURM, ("JOB_COMPLETION_INDEX", "S3POOL_SHARD_COUNT", "", "", ""))


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard ``index`` of ``count``, counted from 0; ``origin`` is the flag or the variable it comes from.

    ``range`` is its range of a plan. Without a plan a name belongs to the shard of its hash.
    """

    index: int = 0
    count: int = 1
    origin: str = ""
    range: NameRange | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the shard is everything."""
        return self.count == 1

    @property
    def text(self) -> str:
        """The shard as it is written: ``3/8``."""
        return f"{self.index}/{self.count}"

    def holds(self, name: str) -> bool:
        """Return whether a name is of this shard; exactly one shard of a count, or of a plan, holds it."""
        if self.range is not None:
            return self.range.holds(name)
        if self.count == 1:
            return True
        digest = hashlib.blake2b(name_bytes(name), digest_size=HASH_BYTES).digest()
        return int.from_bytes(digest, "big") % self.count == self.index

    def holds_named(self, name: str) -> bool:
        """Return whether an object that was named alone is of this shard: only the flag divides those."""
        return self.origin != FLAG or self.holds(name)

    def may_contain(self, directory: str) -> bool:
        """Return whether a name below a directory, which ends in a slash, can be of this shard."""
        return self.range is None or self.range.may_contain(directory)

    def bounds(self, base: str) -> tuple[str, str | None]:
        """Return the start-after and the last key of a listing below ``base``; a hash bounds nothing."""
        return ("", None) if self.range is None else self.range.bounds(base)


WHOLE = Shard()


def parse_shard(text: str) -> Shard:
    """Parse ``I/N``; I counts from 0, and N/N means 0/N, so that counting from 1 works as well."""
    index, slash, count = text.partition("/")
    if not slash or not (_is_number(index) and _is_number(count)) or not int(count) or int(index) > int(count):
        raise UsageError(f"bad shard {text!r}: write I/N, such as 0/8 to 7/8")
    return Shard(int(index) % int(count), int(count), FLAG)


def choose_shard(text: str, environ: Mapping[str, str]) -> Shard:
    """Return the shard that the flag names; with ``auto`` the one that Slurm or Kubernetes has set."""
    if text != AUTO:
        return parse_shard(text) if text else WHOLE
    missing = "neither a Slurm array nor an indexed Kubernetes job is to be seen"
    for variables in reversed(ENVIRONMENTS):
        index, count = variables[:2]
        if environ.get(index):
            missing = f"{index} is set, {count} is not"
    for variables in ENVIRONMENTS:
        if all(map(environ.get, variables[:2])):
            return _from_environment(variables, environ)
    raise UsageError(f"{FLAG} {AUTO}: {missing}")


def _from_environment(variables: Sequence[str], environ: Mapping[str, str]) -> Shard:
    index, count, first, step, last = (_number(name, environ) for name in variables)
    step = max(1, step)
    place, rest = divmod(index - first, step)
    # Where the indices are not evenly spaced, a task of the array cannot tell its place.
    is_regular = not environ.get(variables[-1]) or last == first + (count - 1) * step
    if rest or not 0 <= place < count or not is_regular:
        what = f"{variables[0]}={index} and {variables[1]}={count}"
        raise UsageError(f"{what} make no shard; say which one with {FLAG} I/N")
    return Shard(place, count, variables[0])


def _number(name: str, environ: Mapping[str, str]) -> int:
    text = environ.get(name, "") or "0"
    if not _is_number(text):
        raise UsageError(f"{name}={text!r} is no number")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def ranges_between(borders: Sequence[str]) -> list[NameRange]:
    """Return the ranges that borders in order make: together they hold every name once."""
    return [NameRange(after, until) for after, until in zip([None, *borders], [*borders, None], strict=True)]


def plan_record(index: int, count: int, names: NameRange) -> dict[str, object]:
    """Return the JSON object of one range of a plan."""
    return {"type": RECORD, "shard": index, "of": count, "after": names.after, "until": names.until}


def parse_plan(lines: Iterable[str], *, name: str) -> list[NameRange]:
    """Parse the lines that ``s3pool shards`` printed; ``name`` says where they are from."""
    found = [_parse_line(line, name) for line in lines if line.strip()]
    numbers = [(str(record.get("shard")), str(record.get("of"))) for record in found]
    ranges = [NameRange(record.get("after"), record.get("until")) for record in found]
    bounds: list[str | None] = [border for part in ranges for border in (part.after, part.until)]
    inner = bounds[1:-1]
    is_plan = bool(found) and numbers == [(str(index), str(len(found))) for index in range(len(found))]
    if not is_plan or bounds[0] is not None or bounds[-1] is not None or inner[::2] != inner[1::2]:
        raise UsageError(f"{name} is no whole plan: make one with s3pool shards, and give every shard the same file")
    borders = [border for border in inner[::2] if isinstance(border, str)]
    if len(borders) < len(found) - 1 or sorted(borders, key=name_bytes) != borders:
        raise UsageError(f"{name} is no plan: the ranges must follow each other")
    return ranges


def _parse_line(line: str, name: str) -> dict[str, str | None]:
    import json

    try:
        record = json.loads(line)
    except ValueError as exc:
        raise UsageError(f"{name} is no plan of s3pool shards: {line[:40]!r} is no JSON object") from exc
    if not isinstance(record, dict) or record.get("type") != RECORD:
        raise UsageError(f"{name} is no plan of s3pool shards: {line[:40]!r} is no shard")
    return record
