"""Names from a list, instead of all that a source has."""

from __future__ import annotations

from collections.abc import Iterable

from s3pool.filters import Names


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


def _parents(name: str) -> list[str]:
    return [name[:place] for place, character in enumerate(name) if character == "/"]
