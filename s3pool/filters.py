"""Which names, sizes and ages take part in a copy, a removal or a search."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Protocol

from s3pool.errors import UsageError
from s3pool.location import compile_glob, glob_prefix, glob_regex
from s3pool.model import ObjectInfo
from s3pool.record import dataclass
from s3pool.shard import Shard

INCLUDE = "include"
EXCLUDE = "exclude"


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
